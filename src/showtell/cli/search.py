"""`showtell index` and `showtell search`: find pictures by a sentence, or by a picture like them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from showtell.cli.engines import Actors, Address, Engine, choose_cluster

if TYPE_CHECKING:
    from showtell.indexing import Indexed
    from showtell.search import About

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="An alignment model: a directory or a zip. [default: the index's]"),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def index(
    folder: Annotated[Path, typer.Argument(help="The folder of pictures, of any depth.", metavar="DIR")],
    out: Annotated[Path, typer.Option("--out", help="The index's directory; the same command brings it up to date.")],
    model: Model = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures that run together.")] = 16,
    threads: Threads = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Also build a graph for faster searches; needs 'showtell[search]'.")
    ] = False,
    engine: Engine = "local",
    address: Address = None,
    actors: Actors = None,
    as_json: Json = False,
) -> None:
    """Index the pictures of a folder, to find them with `showtell search`; only new and changed ones are encoded.

    Example: showtell index photos --out photos.index
    """
    from functools import partial

    from showtell.alignment import Aligner
    from showtell.bundle import read_bundle
    from showtell.cli.progress import reporting
    from showtell.cluster import joined
    from showtell.indexing import index_pictures
    from showtell.jobs.embedding import embed_on
    from showtell.search import PictureIndex, build_approximate, read_about

    cluster = choose_cluster(engine, address, actors)
    source = _choose_model(model, read_about(out))
    embedder = Aligner.load(source, threads=threads)
    kept = str(Path(source).resolve()) if Path(source).exists() else source
    make = partial(index_pictures, folder, out, embedder, batch=batch, threads=threads, source=kept)
    with reporting() as report:
        try:
            if cluster is None:
                found = make(progress=report)
            else:
                with joined(cluster):
                    found = make(elsewhere=embed_on(cluster, read_bundle(source), batch=batch), progress=report)
            if approximate:
                build_approximate(PictureIndex(out), progress=report)
        except KeyboardInterrupt:
            print(f"showtell: stopped; the same command goes on (index in {out})", file=sys.stderr)
            raise typer.Exit(130) from None
    print(json.dumps({"index": str(out), **found.to_json()}) if as_json else f"{out}: {_say(found)}")
    for failure in found.failures:
        print(f"showtell: not indexed: {failure.error}", file=sys.stderr)
    if found.unreadable > len(found.failures):
        print(f"showtell: … and {found.unreadable - len(found.failures):,} more", file=sys.stderr)
    if found.unreadable:
        raise typer.Exit(1)


def search(
    directory: Annotated[Path, typer.Argument(help="The directory of an index.", metavar="INDEX")],
    sentence: Annotated[str | None, typer.Argument(help="What the pictures show.", metavar="[SENTENCE]")] = None,
    like: Annotated[Path | None, typer.Option("--like", help="A picture whose like is looked for instead.")] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Pictures to give, best first.")] = 20,
    page: Annotated[
        Path | None, typer.Option("--page", "--open", help="Also write a page (HTML) with the pictures there.")
    ] = None,
    model: Model = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Use the graph of `showtell index --approximate`; may miss some.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Find the pictures that a sentence describes, or those like a picture: a line each, `score path`.

    Example: showtell search photos.index "two dogs on a beach" --top 5 --page found.html
    """
    from showtell.alignment import Aligner
    from showtell.errors import ConfigError
    from showtell.search import PictureIndex, find_like, find_sentence, read_about

    if (sentence is None) == (like is None):
        raise ConfigError("give a sentence or --like PICTURE, one of the two")
    pictures = PictureIndex(directory)
    embedder = Aligner.load(_choose_model(model, read_about(directory)), lean=True)
    if like is not None:
        matches = find_like(pictures, embedder, like, top=top, approximate=approximate)
    else:
        matches = find_sentence(pictures, embedder, sentence or "", top=top, approximate=approximate)
    for match in matches:
        print(json.dumps(match.to_json()) if as_json else f"{match.score:.4f} {match.path}")
    if page is not None:
        from showtell.report.found import write_found

        write_found(matches, page, sentence=sentence, example=str(like) if like is not None else None)
    if not matches:
        print(f"showtell: the index {directory} has no pictures", file=sys.stderr)
        raise typer.Exit(1)


def _choose_model(model: str | None, about: About | None) -> str:
    from showtell.errors import ConfigError

    if model is None and (about is None or not about.source):
        raise ConfigError("name the alignment model with --model: a bundle's directory or its zip file")
    return model or (about.source if about is not None else "")


def _say(found: Indexed) -> str:
    told = [f"{found.encoded:,} encoded", f"{found.unchanged:,} unchanged"]
    told += [f"{found.moved:,} moved or copied"] if found.moved else []
    told += [f"{found.removed:,} removed"] if found.removed else []
    told += [f"{found.unreadable:,} unreadable"] if found.unreadable else []
    return f"{found.pictures:,} pictures ({', '.join(told)})"
