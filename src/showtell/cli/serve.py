"""`showtell serve`: the page and the REST service on this machine."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from showtell.cli.words import Deny, Neutral, read_words

_KEY = "SHOWTELL_API_KEY"


def serve(
    host: Annotated[str, typer.Option("--host", help="The address to listen at; others can reach 0.0.0.0.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: any that is free.")] = 8000,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A bundle: an embedded one's name, a directory or a zip. [default: RUN/bundle or default]",
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="A training run, whose curves and scores the page shows.")
    ] = None,
    index: Annotated[
        Path | None, typer.Option("--index", help="An index of pictures to search.", metavar="DIR")
    ] = None,
    index_model: Annotated[
        str | None,
        typer.Option("--index-model", help="An alignment model: a directory or a zip. [default: the index's]"),
    ] = None,
    deny: Deny = None,
    neutral: Neutral = False,
    queue: Annotated[
        int, typer.Option("--queue", min=1, help="Pictures that may wait; others are told to return.")
    ] = 64,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")] = None,
) -> None:
    """Serve the page and the REST service (its description: /openapi.json). Needs 'showtell[web]'.

    With SHOWTELL_API_KEY in the environment, clients must send `Authorization: Bearer KEY`.

    Example: showtell serve --port 8080 --index photos.index
    """
    from showtell.errors import ConfigError
    from showtell.web import require_web_stack

    require_web_stack()
    import uvicorn

    from showtell.web.app import create_app
    from showtell.web.guard import loopback_names
    from showtell.web.protocol import HurriedProtocol
    from showtell.web.service import Service, ServiceLimits

    key = os.environ.get(_KEY)
    if key is not None and not key.strip():
        raise ConfigError(f"{_KEY} is empty, which would let everybody in; give it a key, or unset it")
    report = None if run is None else _find_report(run)
    model = model or ("default" if run is None else str(run / "bundle"))
    limits = ServiceLimits(queue=queue, files=min(queue, ServiceLimits.files))
    words = read_words(deny, neutral)
    with _listen(host, port) as listening:
        service = Service.load(
            model,
            index=index,
            index_model=index_model,
            threads=threads,
            limits=limits,
            report=report,
            words=words,
        )
        app = create_app(service, key=key, hosts=loopback_names(host))
        if key is None and loopback_names(host) is None:
            print(f"showtell: whoever reaches {host} may use this service; {_KEY} sets a key", file=sys.stderr)
        settings = uvicorn.Config(
            app,
            http=HurriedProtocol,
            ws="none",
            loop="asyncio",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=2 * round(limits.seconds),
        )
        shown = f"[{host}]" if ":" in host else host
        print(f"showtell: http://{shown}:{listening.getsockname()[1]} (Ctrl-C stops it)", file=sys.stderr, flush=True)
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:  # uvicorn raises it again when everything that was accepted is answered
            print("showtell: stopped", file=sys.stderr)


def _find_report(run: Path) -> Path:
    from showtell.errors import DataError

    report = run / "report.html"
    if not report.is_file():
        raise DataError(f"{run} has no report.html; write it first with: showtell report {run}")
    return report


def _listen(host: str, port: int) -> socket.socket:
    from showtell.errors import ConfigError

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port} ({error.strerror or error}); give another with --port or --host"
        ) from error
    return listening
