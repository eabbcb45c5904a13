"""`showtell batch`: caption pictures into a table, or a cluster into its parts, by a job that can be stopped."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from showtell.cli.engines import Actors, Address, Engine, GpusPerActor, choose_cluster
from showtell.cli.words import Deny, Neutral, read_words

if TYPE_CHECKING:
    from showtell.cli.progress import Reporter
    from showtell.cluster import Cluster
    from showtell.jobs.batch import Batched, BatchOptions
    from showtell.records import Failure
    from showtell.safewords import SafeWords

_SHOWN = 5  # failures that are told of without --failures


def batch(
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Folders, patterns in quotes, lists of paths (.txt, or - for standard input), and picture files; with "
            "--engine ray also listings (.parquet, .jsonl), tar shards and URLs.",
            metavar="DIR|GLOB|LIST...",
        ),
    ],
    out: Annotated[
        str, typer.Option("--out", help="The table: .jsonl, .csv or .parquet; the same command brings it up to date.")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Folders of folders too.")] = False,
    sidecar: Annotated[
        str | None,
        typer.Option("--sidecar", help="txt: also write NAME.txt beside each picture, but over no text of yours."),
    ] = None,
    failures: Annotated[
        bool, typer.Option("--failures", help="Print what could not be read, and why, a line each.")
    ] = False,
    model: Annotated[
        str, typer.Option("--model", "-m", help="A bundle: an embedded one's name, a directory or a zip.")
    ] = "default",
    beam: Annotated[
        int | None, typer.Option("--beam", help="Hypotheses a picture; 1 is greedy. [default: the model's]")
    ] = None,
    deny: Deny = None,
    neutral: Neutral = False,
    group: Annotated[int, typer.Option("--batch", min=1, help="Pictures that run together.")] = 16,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, help="Threads that read pictures, and of the networks. [default: all cores]"),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    gpus_per_actor: GpusPerActor = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Caption folders of pictures into a table; stopped or killed, the same command goes on where it was.

    Pictures that have not changed since an earlier run are not read again. With --engine ray, the table is a folder of
    parts that the actors of a cluster write; either engine goes on with it.

    Example: showtell batch photos --recursive --out captions.csv --sidecar txt
    """
    from showtell.cli.progress import reporting
    from showtell.jobs.batch import BatchOptions

    cluster = choose_cluster(engine, address, actors, gpus_per_actor)
    settings = BatchOptions(recursive=recursive, sidecar=cast(Literal["txt"] | None, sidecar), batch=group)
    told: list[Failure] = []
    count = 0

    def notice(failure: Failure) -> None:
        nonlocal count
        count += 1
        if failures:
            print(json.dumps(failure.to_json(), ensure_ascii=False) if as_json else f"{failure.image}: {failure.error}")
        elif count <= _SHOWN:
            told.append(failure)

    with reporting() as report:
        try:
            changes = {"beam": beam} if beam is not None else {}
            in_parts = cluster is not None or _holds_job(out)
            run = partial(_caption_parts, cluster=cluster) if in_parts else _caption_table
            words = read_words(deny, neutral)
            found = run(pictures, out, model, words, changes, settings, workers, notice, _Told(report))
        except KeyboardInterrupt:
            done = out if _holds_job(out) else f"{out}.journal"
            print(f"showtell: stopped; the same command goes on (done so far: {done})", file=sys.stderr)
            raise typer.Exit(130) from None
    print(json.dumps({"out": str(out), **found.to_json()}) if as_json else f"{out}: {_say(found)}")
    for failure in told:
        print(f"showtell: {failure.error}", file=sys.stderr)
    if told and count > len(told):
        print(f"showtell: … and {count - len(told):,} more; --failures lists them all", file=sys.stderr)
    if found.failed or found.texts_failed:
        raise typer.Exit(1)


def _holds_job(out: str) -> bool:
    from showtell.partitions import holds_job

    return holds_job(out)


def _caption_table(
    pictures: list[str],
    out: str,
    model: str,
    words: SafeWords,
    changes: dict[str, int],
    settings: BatchOptions,
    workers: int | None,
    notice: Callable[[Failure], None],
    progress: Callable[[str, int, int], None],
) -> Batched:
    from showtell.captioner import Captioner
    from showtell.jobs.batch import caption_pictures

    captioner = Captioner.load(model, threads=workers, words=words)
    options = captioner.options(**changes)
    return caption_pictures(pictures, out, captioner, options, settings=settings, notice=notice, progress=progress)


def _caption_parts(
    pictures: list[str],
    out: str,
    model: str,
    words: SafeWords,
    changes: dict[str, int],
    settings: BatchOptions,
    workers: int | None,
    notice: Callable[[Failure], None],
    progress: Callable[[str, int, int], None],
    *,
    cluster: Cluster | None,
) -> Batched:
    from contextlib import nullcontext

    from showtell.bundle import read_bundle
    from showtell.cluster import joined, spread
    from showtell.decoding import SearchOptions
    from showtell.jobs.parts import caption_parts, run_here

    bundle = read_bundle(model)
    options = SearchOptions(**{**bundle.manifest.search, **changes})  # type: ignore[arg-type]
    with nullcontext() if cluster is None else joined(cluster):
        return caption_parts(
            pictures,
            out,
            bundle,
            options,
            settings=settings,
            engine=run_here if cluster is None else partial(spread, cluster=cluster),
            threads=workers if cluster is None else cluster.cpus_per_actor,
            cuda=cluster is not None and cluster.gpus_per_actor > 0,
            words=words,
            notice=notice,
            progress=progress,
        )


class _Told:
    """A reporter that says the rate and the time left where no bar shows them."""

    def __init__(self, report: Reporter) -> None:
        self._report, self._begun = report, time.monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        if not sys.stderr.isatty() and 0 < done < total:
            rate = done / max(time.monotonic() - self._begun, 1e-9)
            what = f"{what}, {rate:,.1f}/s, {_clock((total - done) / rate)} left"
        self._report(what, done, total)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _say(found: Batched) -> str:
    told = [f"{found.captioned:,} captioned", f"{found.unchanged:,} unchanged"]
    told += [f"{found.known:,} known from another path"] if found.known else []
    told += [f"{found.failed:,} failed"] if found.failed else []
    told += [f"{found.texts:,} texts written"] if found.texts else []
    told += [f"{found.texts_left:,} texts of others left as they are"] if found.texts_left else []
    told += [f"{found.texts_failed:,} texts not written"] if found.texts_failed else []
    return f"{found.pictures:,} pictures ({', '.join(told)})"
