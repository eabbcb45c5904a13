"""Pages (HTML, Markdown) whose pictures lack alt text -> the same bytes with the text put in.

HTML: an `<img>` without `alt` wants a text. An empty `alt` is the author's word that the picture is decoration (WCAG
2.2, H67), so it is filled only when that is asked for. Left alone are pictures with another name (`title`,
`aria-label`, `aria-labelledby`), with the role `presentation` or `none`, with `aria-hidden`, spacers of at most one
pixel, and tags that a template builds. Comments, scripts and other raw text hold no pictures.

Markdown: `![](…)` and `![][…]` with nothing between the brackets, and `<img>` as above. What is code, comment or
escaped is for a CommonMark parser to say: a name is put where every text would go, and where the parser finds a picture
of that name there is one.

Only what lies below the site's root, or inside the page as `data:`, is read; nothing is fetched.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import difflib
import hashlib
import html
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, unquote_to_bytes, urlsplit

from showtell.errors import DataError
from showtell.images import DEFAULT_LIMITS, MEBIBYTE, Source
from showtell.jobs.alttext import AltText, Describer, Wording
from showtell.jobs.metadata import replace_file
from showtell.records import Failure

HTML_SUFFIXES = frozenset({".html", ".htm", ".xhtml", ".xht"})
MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdown", ".mkd", ".mkdn"})
PAGE_SUFFIXES = HTML_SUFFIXES | MARKDOWN_SUFFIXES

Syntax = Literal["html", "markdown"]
State = Literal["written", "unsure", "remote", "outside", "drawing", "template", "missing", "failed"]

_MAX_BYTES = 32 * MEBIBYTE  # of a page


@dataclass(frozen=True, slots=True)
class Slot:
    """A picture of a page that wants a text, and where it goes: instead of the characters `start` to `stop`.

    Attributes:
        sources: The URLs of the picture as the page means them, the most telling first.
        before, after: What is written around the text.
        linked: It is in a link or a button, whose purpose the text should say.
    """

    start: int
    stop: int
    sources: tuple[str, ...]
    syntax: Syntax
    before: str = ""
    after: str = ""
    linked: bool = False


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """Which texts of a page are written.

    Attributes:
        empty: Fill the empty `alt` of HTML too, unless the picture is decoration by another sign.
        renew: Replace the texts that end with the mark of `wording`.
        keep_time: The page keeps its time of change.
        dry: Nothing is written.
    """

    empty: bool = False
    renew: bool = False
    keep_time: bool = False
    dry: bool = False
    wording: Wording = Wording()  # noqa: RUF009  (frozen)

    def is_free(self, text: str | None) -> bool:
        """Whether a text of HTML (None: there is no `alt`) may be written."""
        if text is None:
            return True
        return (self.empty and not text.strip()) or (self.renew and self.wording.has_marked(text))


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
class _Text:
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
    wanted: dict[str, Source] = {}
    for path, root in pages:
        try:
            _, slots, base = _open(path, options)
        except DataError:
            continue  # told below
        for slot in slots:
            found = resolve(slot.sources, path, root, base)
            if not isinstance(found, str):
                wanted.setdefault(_key(found), found)
    said = dict(zip(wanted, describe(wanted.values()), strict=True)) if wanted else {}
    for path, root in pages:
        yield _fill_page(path, root, said, options)


def _fill_page(path: Path, root: Path, said: Mapping[str, AltText | Failure], options: PageOptions) -> Page:
    try:
        page, slots, base = _open(path, options)
    except DataError as error:
        return Page(str(path), error=str(error))
    pictures, texts = [], []
    for slot in slots:
        found = resolve(slot.sources, path, root, base)
        picture = _look_up(slot, found, said)
        if picture.state == "written" and picture.text is not None:
            texts.append((slot, picture.text))
        pictures.append(picture)
    changed = fill(page.text, texts, page.encoding if page.known else "ascii")
    if changed == page.text:
        return Page(str(path), tuple(pictures))
    if not options.dry:
        if not os.access(path, os.W_OK):
            return Page(str(path), error=f"{path} is write-protected; change its permissions")
        try:
            replace_file(Path(os.path.realpath(path)), changed.encode(page.encoding), keep_time=options.keep_time)
        except OSError as error:
            return Page(str(path), error=f"cannot write {path} ({error.strerror or error}); it is as it was")
    return Page(str(path), tuple(pictures), compare(page.text, changed, path))


def _look_up(slot: Slot, found: Path | bytes | State, said: Mapping[str, AltText | Failure]) -> Picture:
    shown = slot.sources[0] if slot.sources else ""
    shown = shown if len(shown) <= 100 else f"{shown[:97]}..."
    if not isinstance(found, Path | bytes):
        error = f"{shown!r} does not exist" if found == "missing" else None
        return Picture(shown, found, error=error, linked=slot.linked)
    answer = said.get(_key(found))
    if answer is None:  # the page has changed since it was first read
        return Picture(shown, "failed", error=f"{shown!r} was added meanwhile; run the command again")
    if isinstance(answer, Failure):
        return Picture(shown, "failed", error=answer.error, linked=slot.linked)
    state: State = "unsure" if answer.text is None else "written"
    return Picture(shown, state, answer.text, answer.confidence, linked=slot.linked)


def fill(text: str, texts: Iterable[tuple[Slot, str]], encoding: str = "utf-8") -> str:
    """The page with a text in each of these slots, escaped as the place asks for.

    Characters that the encoding lacks become references (`&#8230;`), which HTML and Markdown both read.
    """
    out, done = [], 0
    for slot, alt in sorted(texts, key=lambda pair: pair[0].start):
        written = html.escape(alt) if slot.syntax == "html" else _MEANT.sub(r"\\\g<0>", alt)
        written = written.encode(encoding, "xmlcharrefreplace").decode(encoding)
        out += [text[done : slot.start], slot.before, written, slot.after]
        done = slot.stop
    return "".join([*out, text[done:]])


_MEANT = re.compile(r"[\\`*_\[\]<>&|~$^{}!#]")  # characters with a meaning in Markdown, tables included


def compare(before: str, after: str, path: Path) -> str:
    """The unified diff of two texts of a page."""
    lines = difflib.unified_diff(_lines(before), _lines(after), f"a/{path}", f"b/{path}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)


def _lines(text: str) -> list[str]:
    return re.findall(r"[^\n]*\n|[^\n]+", text)


# Files


def _open(path: Path, options: PageOptions) -> tuple[_Text, list[Slot], str]:
    """(the page, what wants a text, its base URL).

    Raises:
        DataError: It cannot be read, or is no text.
    """
    page = read_page(path)
    if path.suffix.lower() in MARKDOWN_SUFFIXES:
        return page, find_in_markdown(page.text, options), ""
    return page, find_in_html(page.text, options), _base(page.text)


def read_page(path: Path) -> _Text:
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
            return _Text(text, encoding)
    declared = _CHARSET.search(data[:1024])
    encodings = ["utf-8", *([declared.group(1).decode("ascii")] if declared else [])]
    if declared and not data.startswith(codecs.BOM_UTF8):
        encodings.reverse()
    for encoding in encodings:
        if (text := _decode(data, encoding)) is not None:
            return _Text(text, encoding)
    # Every byte is a character of it, so nothing is lost; what is written is ASCII.
    return _Text(data.decode("latin-1"), "latin-1", known=False)


_CHARSET = re.compile(rb"""<(?:meta|\?xml)\b[^>]*?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.I)


def _decode(data: bytes, encoding: str) -> str | None:
    """The text, where it gives back the very bytes."""
    try:
        text = data.decode(encoding)
        return text if text.encode(encoding) == data else None
    except (UnicodeError, LookupError, AttributeError, TypeError):  # some codecs of Python are none of text
        return None


# Sources


def resolve(sources: Sequence[str], page: Path, root: Path, base: str = "") -> Path | bytes | State:
    """The first picture of a page's URLs that is there: a file below the root or the content of a `data:` URL.

    Without one, why the last of them is none: `remote`, `outside`, `drawing`, `template` or `missing`.
    """
    found: Path | bytes | State = "missing"
    for source in sources:
        found = _resolve_one(source, page, root, base)
        if isinstance(found, Path | bytes):
            break
    return found


def _resolve_one(source: str, page: Path, root: Path, base: str) -> Path | bytes | State:
    url = re.sub(r"[\t\r\n]", "", source.strip(" \t\r\n\f\0"))
    if _TEMPLATE.search(url) or "{" in url:
        return "template"
    if url[:5].lower() == "data:":
        return _read_data(url)
    try:
        parts = urlsplit(url.replace("\\", "/"))
        under = urlsplit(base.strip().replace("\\", "/"))
    except ValueError:
        return "remote"
    if parts.scheme or parts.netloc or under.scheme or under.netloc:
        return "remote"
    name = unquote(parts.path, errors="surrogateescape")
    if not name or "\0" in name:
        return "missing"
    folder = unquote(under.path, errors="surrogateescape").rpartition("/")[0] + "/" if under.path else ""
    if not name.startswith("/"):
        name = folder + name
    top = Path(os.path.realpath(root))
    start = top if name.startswith("/") else Path(os.path.realpath(page)).parent
    try:
        path = Path(os.path.realpath(start / name.lstrip("/")))
        if not path.is_relative_to(top):
            return "outside"
        if path.suffix.lower() in (".svg", ".svgz"):
            return "drawing"
        return path if path.is_file() else "missing"
    except (OSError, ValueError):
        return "missing"


def _read_data(url: str) -> bytes | State:
    head, comma, body = url[5:].partition(",")
    if "svg" in head.lower():
        return "drawing"
    if not comma or len(body) > 2 * DEFAULT_LIMITS.max_bytes:
        return "missing"
    data = unquote_to_bytes(body)
    if head.lower().rstrip().endswith(";base64"):
        try:
            data = base64.b64decode(re.sub(rb"\s", b"", data) + b"==")
        except (binascii.Error, ValueError):
            return "missing"
    return data or "missing"


def _key(source: Path | bytes) -> str:
    return f"data:{hashlib.sha256(source).hexdigest()}" if isinstance(source, bytes) else f"file:{source}"


# HTML

# PHP up to its end or the file's, ASP and JSP, Jinja, Liquid, Django, Handlebars, Vue, template literals.
_TEMPLATE = re.compile(
    r"<\?(?:php\b|=).*?(?:\?>|\Z)|<%.{0,2000}?%>|\{\{.{0,2000}?\}\}|\{%.{0,2000}?%\}|\{#.{0,2000}?#\}|\$\{[^}]{0,2000}\}",
    re.DOTALL | re.IGNORECASE,
)
_MARKUP = re.compile(r"<|\{\{|\{%|\{#")
_NAME = re.compile(r"[A-Za-z][^\s/><{$]*")
_OPENING = re.compile(r"</?[A-Za-z]")
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"})
_SPACE = " \t\r\n\f"
# Attributes through which a framework, or the element around it, names a picture when the page runs.
_BOUND = re.compile(
    r"^(?:v-bind|x-bind|th:attr|\[attr\.alt\]|bind-alt|data-bind)$|[:.]alt$|^\[alt\]$|[{}]", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class _Attribute:
    name: str  # lower case
    value: str  # as written
    start: int  # of the name
    name_end: int
    value_start: int  # of what is between the quotes; `name_end` where there is no value
    value_end: int
    quote: str
    has_value: bool


@dataclass(frozen=True, slots=True)
class _Tag:
    name: str  # lower case
    start: int
    name_end: int
    end: int
    attributes: tuple[_Attribute, ...]
    templated: bool  # outside of the attributes' values, or of an odd name
    closes_itself: bool

    def get(self, name: str) -> _Attribute | None:
        return next((attribute for attribute in self.attributes if attribute.name == name), None)

    def value(self, name: str) -> str | None:
        """What an attribute says, without its references; None where it is not there."""
        found = self.get(name)
        return html.unescape(found.value) if found is not None else None


def find_in_html(text: str, options: PageOptions) -> list[Slot]:
    """The pictures of HTML that want a text, in order."""
    slots, links = [], 0
    for tag in _scan(text):
        if tag.name in ("a", "button"):
            links += 1
        elif tag.name in ("/a", "/button"):
            links = max(0, links - 1)
        elif tag.name == "img" and (slot := _slot_of(tag, options, links > 0)) is not None:
            slots.append(slot)
    return slots


def _base(text: str) -> str:
    tags = (tag for tag in _scan(text) if tag.name == "base")
    return next((href for tag in tags if (href := tag.value("href")) is not None), "")


def _slot_of(tag: _Tag, options: PageOptions, linked: bool) -> Slot | None:
    alt = tag.get("alt")
    if tag.templated or not options.is_free(tag.value("alt")) or _is_decoration(tag):
        return None
    if not (alt and alt.value.strip()) and any(
        (tag.value(name) or "").strip() for name in ("title", "aria-label", "aria-labelledby")
    ):
        return None
    if any(_BOUND.search(attribute.name) for attribute in tag.attributes):
        return None
    sources = [tag.value(name) for name in ("data-src", "src")]
    first = re.match(r"[\s,]*([^\s,][^\s]*)", tag.value("srcset") or "")
    sources.append(first.group(1).rstrip(",") if first else None)
    named = tuple(source for source in sources if source and source.strip())
    if not named:
        return None
    if alt is None:
        return Slot(tag.name_end, tag.name_end, named, "html", ' alt="', '"', linked)
    if alt.quote:
        return Slot(alt.value_start, alt.value_end, named, "html", linked=linked)
    before = '"' if alt.has_value else '="'
    return Slot(alt.value_start, alt.value_end, named, "html", before, '"', linked)


def _is_decoration(tag: _Tag) -> bool:
    roles = (tag.value("role") or "").lower().split()
    if roles[:1] in (["presentation"], ["none"]) or (tag.value("aria-hidden") or "").strip().lower() == "true":
        return True
    sides = (re.match(r"\s*(\d+)\s*(?:px)?\s*$", tag.value(name) or "") for name in ("width", "height"))
    return any(side is not None and int(side.group(1)) <= 1 for side in sides)


def _scan(text: str) -> Iterator[_Tag]:
    """The tags of HTML, end tags with a `/` before their names; comments, raw text and templates are passed over."""
    at, foreign = 0, 0  # depth inside of <svg> and <math>, where <title/> closes itself
    while (found := _MARKUP.search(text, at)) is not None:
        at = found.start()
        if (template := _TEMPLATE.match(text, at)) is not None:
            at = template.end()
        elif text[at] != "<":
            at += 1
        elif (passed := _pass_over(text, at)) is not None:
            at = passed
        elif _OPENING.match(text, at) is None:
            at += 1
        elif (tag := _read_tag(text, at)) is None:
            return  # the page ends in a tag, which is none then
        else:
            yield tag
            at = tag.end
            if tag.name in ("svg", "math") and not tag.closes_itself:
                foreign += 1
            elif tag.name in ("/svg", "/math"):
                foreign = max(0, foreign - 1)
            if tag.name in _RAW and not (foreign and tag.closes_itself):
                at = _raw_end(text, at, tag.name)


def _pass_over(text: str, at: int) -> int | None:
    """Where a comment, a declaration or an instruction ends; None where none begins."""
    if text.startswith("<!--", at):
        if (short := re.compile(r"<!--(?:-?>)").match(text, at)) is not None:
            return short.end()
        end = re.compile(r"--!?>").search(text, at + 4)
        return end.end() if end is not None else len(text)
    if text.startswith("<![CDATA[", at) and (end_at := text.find("]]>", at)) >= 0:
        return end_at + 3
    if text.startswith(("<!", "<?"), at) or re.compile(r"</[^A-Za-z]").match(text, at):
        end_at = text.find(">", at)
        return end_at + 1 if end_at >= 0 else len(text)
    return None


def _raw_end(text: str, at: int, name: str) -> int:
    """Where the raw text of an element ends: before its end tag, or with the page."""
    if name == "plaintext":
        return len(text)
    ending = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    if name != "script":
        end = ending.search(text, at)
        return end.start() if end is not None else len(text)
    # A comment in a script may hold a script ("script data double escaped" in the HTML standard).
    escaped = doubled = False
    for mark in re.compile(r"<!--|-->|<(/?)script(?=[\s/>])", re.IGNORECASE).finditer(text, at):
        if mark.group().startswith("<!--"):
            escaped = True
        elif mark.group() == "-->":
            escaped = doubled = False
        elif not mark.group(1):
            doubled = escaped
        elif doubled:
            doubled = False
        else:
            return mark.start()
    return len(text)


def _read_tag(text: str, start: int) -> _Tag | None:
    """The tag that begins at a `<`; None where there is none, or the page ends in it."""
    slash = 1 if text.startswith("/", start + 1) else 0
    name = _NAME.match(text, start + 1 + slash)
    if name is None:
        return None
    at = name.end()
    attributes: list[_Attribute] = []
    names: set[str] = set()
    templated = text[at : at + 1] in ("<", "{", "$")  # which make part of the name
    while at < len(text):
        if text[at] in _SPACE or text[at] == "/":
            at += 1
        elif text[at] == ">":
            word = "/" * slash + name.group().lower()
            return _Tag(word, start, name.end(), at + 1, tuple(attributes), templated, text[at - 1] == "/")
        elif (template := _TEMPLATE.match(text, at)) is not None:
            at, templated = template.end(), True
        else:
            attribute = _read_attribute(text, at)
            if attribute is None:
                return None
            at = attribute.value_end + len(attribute.quote)
            if attribute.name not in names:
                names.add(attribute.name)
                attributes.append(attribute)
    return None


def _read_attribute(text: str, start: int) -> _Attribute | None:
    at = start + 1
    while at < len(text) and text[at] not in " \t\r\n\f/>=":
        template = _TEMPLATE.match(text, at)
        at = template.end() if template is not None else at + 1
    name_end = at
    name = text[start:name_end].lower()
    while at < len(text) and text[at] in _SPACE:
        at += 1
    if at >= len(text) or text[at] != "=":
        return _Attribute(name, "", start, name_end, name_end, name_end, "", False)
    at += 1
    equals = at
    while at < len(text) and text[at] in _SPACE:
        at += 1
    if at >= len(text):
        return None
    if text[at] == ">":  # `alt=>`: a value is missing
        return _Attribute(name, "", start, name_end, equals, equals, "", True)
    quote = text[at] if text[at] in "\"'" else ""
    value_start = at = at + len(quote)
    stops = quote or f"{_SPACE}>"
    while at < len(text) and text[at] not in stops:
        template = _TEMPLATE.match(text, at) if text[at] in "<{$" else None
        at = template.end() if template is not None else at + 1
    if at >= len(text):
        return None
    return _Attribute(name, text[value_start:at], start, name_end, value_start, at, quote, True)


# Markdown

_EMPTY_IMAGE = re.compile(r"!\[([ \t\r\n]*)\](?=[(\[])")
_MARKED_IMAGE = re.compile(r"!\[([^\[\]]{1,500})\](?=[(\[])")
_IMG = re.compile(r"<img(?=[\s/>])", re.IGNORECASE)
_FRONT_MATTER = re.compile(
    r"\ufeff?(?:---[ \t]*\r?\n.*?^(?:---|\.\.\.)[ \t]*$|\+\+\+[ \t]*\r?\n.*?^\+\+\+[ \t]*$)", re.S | re.M
)


def find_in_markdown(text: str, options: PageOptions) -> list[Slot]:
    """The pictures of Markdown that want a text, in order.

    Raises:
        DataError: It is too deeply nested to be read.
    """
    head = _FRONT_MATTER.match(text)
    start = head.end() if head is not None else len(text) - len(text.lstrip("\ufeff"))
    places = list(_EMPTY_IMAGE.finditer(text, start))
    if options.renew:
        marked = _MARKED_IMAGE.finditer(text, start)
        places += [place for place in marked if options.wording.has_marked(_unescape(place.group(1)))]
    tags = list(_IMG.finditer(text, start))
    if not places and not tags:
        return []
    stem = "zq"
    while stem in text:
        stem += "q"
    names = [f"{stem}{number}z" for number in range(len(places) + len(tags))]
    edits = [(place.start(1), place.end(1), name) for place, name in zip(places, names, strict=False)]
    edits += [(tag.end(), tag.end(), f" {name}=1") for tag, name in zip(tags, names[len(places) :], strict=True)]
    probe, done = [], start
    for begin, end, name in sorted(edits):
        probe += [text[done:begin], name]
        done = end
    seen, linked, markup = _parse("".join([*probe, text[done:]]), stem)
    slots = [
        Slot(place.start(1), place.end(1), (seen[name],), "markdown", linked=name in linked)
        for place, name in zip(places, names, strict=False)
        if name in seen
    ]
    for tag, name in zip(tags, names[len(places) :], strict=True):
        found = _read_tag(text, tag.start()) if name in markup else None
        slot = _slot_of(found, options, name in linked) if found is not None else None
        slots += [slot] if slot is not None else []
    return sorted(slots, key=lambda slot: slot.start)


def _parse(text: str, stem: str) -> tuple[dict[str, str], set[str], set[str]]:
    """({name: URL} of the pictures, the names that are inside of links, the names that are in tags of HTML)."""
    from markdown_it import MarkdownIt

    seen: dict[str, str] = {}
    linked, markup = set(), set()
    named = re.compile(rf"{stem}\d+z")
    try:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
    except RecursionError as error:
        raise DataError("a page is too deeply nested to be read as Markdown") from error
    for block in tokens:
        links = 0
        for token in block.children or ([block] if block.type == "html_block" else []):
            links += {"link_open": 1, "link_close": -1}.get(token.type, 0)
            if token.type == "image" and named.fullmatch(token.content):
                seen[token.content] = str(token.attrs["src"])
                linked |= {token.content} if links else set()
            elif token.type in ("html_inline", "html_block"):
                depth = links
                for tag in _scan(token.content):
                    depth += {"a": 1, "button": 1, "/a": -1, "/button": -1}.get(tag.name, 0)
                    names = {attribute.name for attribute in tag.attributes if named.fullmatch(attribute.name)}
                    markup |= names if tag.name == "img" else set()
                    linked |= names if depth > 0 else set()
                links = depth
    return seen, linked, markup


def _unescape(text: str) -> str:
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", html.unescape(text))
