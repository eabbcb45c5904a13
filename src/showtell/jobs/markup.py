"""Pages (HTML, Markdown) whose pictures lack alt text -> the same bytes with the text put in.

`showtell.jobs.html` and `showtell.jobs.markdown` say which pictures want a text, `showtell.jobs.sources` finds the
pictures, `showtell.jobs.slots` puts the texts in. Only what lies below the site's root, or inside the page as `data:`,
is read; nothing is fetched.
"""

from __future__ import annotations

import codecs
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from showtell.errors import DataError
from showtell.images import MEBIBYTE
from showtell.jobs.alttext import AltText, Describer
from showtell.jobs.html import find_base, find_in_html
from showtell.jobs.markdown import find_in_markdown
from showtell.jobs.replacing import replace_file
from showtell.jobs.slots import PageOptions, Slot, fill
from showtell.jobs.sources import Unread, resolve
from showtell.records import Failure

MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mkdn"})
PAGE_SUFFIXES = MARKDOWN_SUFFIXES | {".html", ".htm", ".xhtml", ".xht"}

State = Literal["written", "unsure", "failed"] | Unread

_MAX_BYTES = 32 * MEBIBYTE  # of a page
_CHARSET = re.compile(rb"""<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.I)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True)
class Picture:
    """What became of a picture that wanted a text.

    Attributes:
        state: `written` (with `dry`: would be); `unsure`: the model is; `remote`, `outside` (of the root), `drawing`
            (SVG) and `template` are not read; `missing` and `failed` could not be.
    """

    source: str
    state: State
    text: str | None = None
    confidence: float | None = None
    error: str | None = None
    linked: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """What became of a page; `diff` is what changed, as a unified diff."""

    path: str
    pictures: tuple[Picture, ...] = ()
    diff: str = ""
    error: str | None = None


@dataclass(frozen=True)
class Text:
    """A file as text that gives its bytes back; where `known` is false the encoding is a guess."""

    text: str
    encoding: str
    known: bool = True


def find_pages(folder: Path) -> list[Path]:
    """The pages below a folder, sorted; hidden folders and `node_modules` are left out."""
    found = []
    for directory, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "node_modules"]
        found += [Path(directory, name) for name in names if Path(name).suffix.lower() in PAGE_SUFFIXES]
    return sorted(found)


def fill_pages(
    pages: Sequence[tuple[Path, Path]], describe: Describer, options: PageOptions | None = None
) -> Iterator[Page]:
    """Puts alt text into pages, and says of each, in order, what became of it. A picture is captioned once.

    Args:
        pages: (page, root of its site) pairs.
    """
    options = options or PageOptions()
    wanted: dict[Path | bytes, None] = {}
    for path, root in pages:
        try:
            _, slots, base = _open(path, options)
        except DataError:
            continue  # told below
        found = (resolve(slot.sources, path, root, base) for slot in slots)
        wanted |= dict.fromkeys(picture for picture in found if not isinstance(picture, str))
    said = dict(zip(wanted, describe(wanted), strict=True)) if wanted else {}
    for path, root in pages:
        yield _fill_page(path, root, said, options)


def _fill_page(path: Path, root: Path, said: Mapping[Path | bytes, AltText | Failure], options: PageOptions) -> Page:
    try:
        page, slots, base = _open(path, options)
    except DataError as error:
        return Page(str(path), error=str(error))
    pictures = tuple(_look_up(slot, resolve(slot.sources, path, root, base), said) for slot in slots)
    texts = [(slot, one.text) for slot, one in zip(slots, pictures, strict=True) if one.text is not None]
    changed = fill(page.text, texts, page.encoding if page.known else "ascii")
    if changed == page.text:
        return Page(str(path), pictures)
    if not options.dry:
        if not os.access(path, os.W_OK):
            return Page(str(path), error=f"{path} is write-protected; change its permissions")
        try:
            replace_file(Path(os.path.realpath(path)), changed.encode(page.encoding), keep_time=options.keep_time)
        except OSError as error:
            return Page(str(path), error=f"cannot write {path} ({error.strerror or error}); it is as it was")
    return Page(str(path), pictures, compare(page.text, changed, path))


def _look_up(slot: Slot, found: Path | bytes | Unread, said: Mapping[Path | bytes, AltText | Failure]) -> Picture:
    shown = slot.sources[0]
    shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
    if isinstance(found, str):
        error = f"{shown!r} does not exist" if found == "missing" else None
        return Picture(shown, found, error=error, linked=slot.linked)
    answer = said.get(found)
    if answer is None:  # the page has changed since it was first read
        return Picture(shown, "failed", error=f"{shown!r} was added meanwhile; run the command again")
    if isinstance(answer, Failure):
        return Picture(shown, "failed", error=answer.error, linked=slot.linked)
    state: State = "unsure" if answer.text is None else "written"
    return Picture(shown, state, answer.text, answer.confidence, linked=slot.linked)


def compare(before: str, after: str, path: Path) -> str:
    """The unified diff of two texts of a page."""
    lines = difflib.unified_diff(_LINE.findall(before), _LINE.findall(after), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _open(path: Path, options: PageOptions) -> tuple[Text, list[Slot], str]:
    """(the page, what wants a text, its base URL).

    Raises:
        DataError: It cannot be read, or is no text.
    """
    page = read_page(path)
    if path.suffix.lower() in MARKDOWN_SUFFIXES:
        return page, find_in_markdown(page.text, options), ""
    return page, find_in_html(page.text, options), find_base(page.text)


def read_page(path: Path) -> Text:
    """The text of a page in the encoding that its first bytes, or its `<meta>`, say; else UTF-8, else Latin-1.

    Raises:
        DataError: It cannot be read.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path} has more than {_MAX_BYTES // MEBIBYTE} MiB; split it")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check the path") from error
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            if (text := _decode(data, encoding)) is None:
                raise DataError(f"{path} begins as {encoding} but is not; save it as UTF-8")
            return Text(text, encoding)
    declared = _CHARSET.search(data[:1024])
    encodings = ["utf-8", *([declared.group(1).decode("ascii")] if declared else [])]
    if declared and not data.startswith(codecs.BOM_UTF8):
        encodings.reverse()
    for encoding in encodings:
        if (text := _decode(data, encoding)) is not None:
            return Text(text, encoding)
    # Every byte is a character of it, so nothing is lost; what is written is ASCII.
    return Text(data.decode("latin-1"), "latin-1", known=False)


def _decode(data: bytes, encoding: str) -> str | None:
    """The text, where it gives back the very bytes."""
    try:
        text = data.decode(encoding)
        return text if text.encode(encoding) == data else None
    except (UnicodeError, LookupError, AttributeError, TypeError):  # some codecs of Python are none of text
        return None
