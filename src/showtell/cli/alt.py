"""`showtell alt`: alt text into pages, and into the metadata of pictures or files beside them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from showtell.cli.words import Deny, Neutral, read_words

if TYPE_CHECKING:
    from showtell.images import Source
    from showtell.jobs.alttext import AltText, Describer, Wording
    from showtell.jobs.markup import Page
    from showtell.jobs.metadata import Outcome, WriteOptions
    from showtell.jobs.slots import PageOptions
    from showtell.records import Failure
    from showtell.safewords import SafeWords

_INTO = ("pages", "pictures", "sidecars")
_WHY = {
    "unsure": "the model is not sure enough of",
    "remote": "on other hosts, which are not asked:",
    "outside": "outside of the root (--root DIR):",
    "drawing": "drawings (SVG):",
    "template": "named by templates:",
}


def alt(
    paths: Annotated[list[Path], typer.Argument(help="Pages, pictures, or folders of them.", metavar="PATH...")],
    into: Annotated[
        str | None,
        typer.Option("--into", help="pages, pictures or sidecars. [default: a folder's pages, else its pictures]"),
    ] = None,
    root: Annotated[
        Path | None, typer.Option("--root", help="What the site's '/' is. [default: the folder, or the page's]")
    ] = None,
    empty: Annotated[
        bool, typer.Option("--empty", help='Fill alt="" too, which says that a picture is decoration.')
    ] = False,
    exif: Annotated[bool, typer.Option("--exif", help="Into EXIF's ImageDescription too (not of WebP).")] = False,
    mark: Annotated[
        str, typer.Option("--mark", help="What every text ends with, such as '(automatic description)'.")
    ] = "",
    renew: Annotated[
        bool, typer.Option("--renew", help="Replace texts that showtell wrote; on pages, those with the --mark.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what people wrote in the metadata of pictures.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; show what would change.")] = False,
    keep_time: Annotated[bool, typer.Option("--keep-time", help="Files keep their time of change.")] = False,
    min_confidence: Annotated[
        float | None, typer.Option("--min-confidence", help="Below it nothing is written, 0 to 1. [default: 0.3]")
    ] = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Characters of a text at most. [default: 125]")
    ] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="A bundle: a name, a directory or a zip.")] = "default",
    beam: Annotated[int | None, typer.Option("--beam", help="Hypotheses a picture. [default: the model's]")] = None,
    deny: Deny = None,
    neutral: Neutral = False,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Pictures that run together.")] = 16,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Write alt text where it is missing: into HTML and Markdown, or the metadata of pictures; people's texts stay.

    Example: showtell alt site/ --dry-run
    """
    from showtell.errors import ConfigError
    from showtell.jobs.alttext import Wording
    from showtell.jobs.metadata import WriteOptions
    from showtell.jobs.slots import PageOptions

    changes = {"min_confidence": min_confidence, "max_length": max_length}
    wording = Wording(mark=mark, **{name: value for name, value in changes.items() if value is not None})  # type: ignore[arg-type]
    pages, pictures = _sort_out(paths, into, root)
    if pages and renew and not wording.mark:
        raise ConfigError(
            "--renew finds showtell's texts on pages by their --mark; give the one they were written with"
        )
    if root is not None and not pages:
        raise ConfigError("--root is of pages, and there are none")
    describe = _describer(model, read_words(deny, neutral), wording, beam, batch, threads)
    failed = False
    if pages:
        options = PageOptions(empty=empty, renew=renew, keep_time=keep_time, dry=dry_run, wording=wording)
        failed |= _do_pages(pages, describe, options, as_json)
    if pictures:
        write = WriteOptions(
            sidecar=into == "sidecars",
            exif=exif,
            renew=renew,
            overwrite=overwrite,
            keep_time=keep_time,
            dry=dry_run,
            model=model if "/" not in model and "\\" not in model else Path(model).name,
        )
        failed |= _do_pictures(pictures, describe, write, as_json)
    if not pages and not pictures:
        print("showtell: there are no pages and no pictures", file=sys.stderr)
        failed = True
    if failed:
        raise typer.Exit(1)


def _sort_out(paths: list[Path], into: str | None, root: Path | None) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """((page, root) pairs, pictures) that are meant."""
    from showtell.datasets.sidecars import PICTURE_SUFFIXES
    from showtell.errors import ConfigError, DataError
    from showtell.jobs.markup import PAGE_SUFFIXES, find_pages

    if into not in (None, *_INTO):
        raise ConfigError(f"--into is {into!r}; accepted are {', '.join(_INTO)}")
    pages: dict[Path, Path] = {}
    pictures: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found = find_pages(path) if into in (None, "pages") else []
            pages |= dict.fromkeys(found, root or path)
            if not found and into != "pages":
                pictures |= dict.fromkeys(_find_pictures(path))
        elif not path.exists():
            raise DataError(f"{path} does not exist; check the path")
        elif path.suffix.lower() in PAGE_SUFFIXES:
            if into not in (None, "pages"):
                raise ConfigError(f"{path} is a page; --into {into} is of pictures")
            pages[path] = root or path.parent
        elif into == "pages":
            raise ConfigError(f"{path} is no page; accepted are {', '.join(sorted(PAGE_SUFFIXES))}")
        elif path.suffix.lower() in PICTURE_SUFFIXES or path.is_file():
            pictures[path] = None
        else:
            raise DataError(f"{path} is neither a file nor a folder")
    return list(pages.items()), list(pictures)


def _find_pictures(folder: Path) -> Iterator[Path]:
    import os

    from showtell.datasets.sidecars import LEFT_BEHIND, PICTURE_SUFFIXES

    for directory, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in LEFT_BEHIND)
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURE_SUFFIXES:
                yield Path(directory, name)


def _describer(
    model: str, words: SafeWords, wording: Wording, beam: int | None, batch: int, threads: int | None
) -> Describer:
    """Says alt text; the model is loaded when the first picture asks for one."""

    def describe(sources: Iterable[Source]) -> Iterator[AltText | Failure]:
        from showtell.captioner import Captioner
        from showtell.jobs.alttext import write_alts

        rest = iter(sources)
        for first in rest:
            captioner = Captioner.load(model, threads=threads, words=words)
            options = captioner.options(**({} if beam is None else {"beam": beam}))
            yield from write_alts(captioner, chain([first], rest), wording, options, batch=batch)

    return describe


def _do_pages(pages: list[tuple[Path, Path]], describe: Describer, options: PageOptions, as_json: bool) -> bool:
    """Whether something failed."""
    from showtell.jobs.markup import fill_pages

    counts: Counter[str] = Counter()
    linked = 0
    for page in fill_pages(pages, describe, options):
        counts.update(picture.state for picture in page.pictures)
        counts["failed pages"] += page.error is not None
        linked += sum(picture.linked and picture.state == "written" for picture in page.pictures)
        _tell_page(page, options.dry, as_json)
    written = f"{counts['written']:,} alt texts {'to write' if options.dry else 'written'}, {len(pages):,} pages read"
    _note([written, *(f"left alone, {why} {counts[state]:,}" for state, why in _WHY.items() if counts[state])])
    if linked:
        _note([f"{linked:,} of them in links and buttons: check that the text says where these lead"])
    return bool(counts["failed"] or counts["missing"] or counts["failed pages"])


def _tell_page(page: Page, dry: bool, as_json: bool) -> None:
    if page.error is not None:
        _note([page.error])
        if as_json:
            _print_json({"page": page.path, "state": "failed", "error": page.error})
        return
    for picture in page.pictures:
        if picture.error is not None:
            _note([f"{page.path}: {picture.error}"])
        if as_json:
            row: dict[str, Any] = {"page": page.path, "image": picture.source, "state": picture.state}
            row |= {} if picture.text is None else {"alt": picture.text}
            row |= {} if picture.confidence is None else {"confidence": round(picture.confidence, 4)}
            row |= {} if picture.error is None else {"error": picture.error}
            _print_json(row)
        elif picture.state == "written" and not dry:
            print(f"{page.path}: {picture.source}: {picture.text}", flush=True)
    if dry and not as_json:
        print(page.diff, end="", flush=True)


def _do_pictures(pictures: list[Path], describe: Describer, options: WriteOptions, as_json: bool) -> bool:
    """Whether something failed."""
    from showtell.jobs.metadata import Metadata, describe_pictures

    counts: Counter[str] = Counter()
    with Metadata() as metadata:
        for outcome in describe_pictures(pictures, describe, metadata, options):
            counts[outcome.state] += 1
            _tell_picture(outcome, as_json)
    told = [f"{counts['written']:,} alt texts {'to write' if options.dry else 'written'}"]
    told += [f"{counts['kept']:,} kept"] if counts["kept"] else []
    told += [f"left alone, {_WHY['unsure']} {counts['unsure']:,}"] if counts["unsure"] else []
    told += [f"{counts['failed']:,} failed"] if counts["failed"] else []
    _note([", ".join(told)])
    return bool(counts["failed"])


def _tell_picture(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        _print_json(outcome.to_json())
    elif outcome.state == "written":
        print(f"{outcome.image}: {outcome.text}", flush=True)
    if outcome.error is not None:
        _note([outcome.error])


def _print_json(row: dict[str, Any]) -> None:
    print(json.dumps(row, ensure_ascii=False), flush=True)


def _note(lines: list[str]) -> None:
    for line in lines:
        print(f"showtell: {line}", file=sys.stderr)
