"""HTML -> the pictures that want a text, by a tokeniser that says where every attribute stands.

An `<img>` without `alt` wants a text. An empty `alt` is the author's word that the picture is decoration (WCAG 2.2,
H67), so it is filled only when that is asked for. Left alone are pictures with another name (`title`, `aria-label`,
`aria-labelledby`), with the role `presentation` or `none`, with `aria-hidden`, spacers of at most one pixel, and tags
that a template builds. Comments, scripts and other raw text hold no pictures.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass

from showtell.jobs.slots import PageOptions, Slot

# PHP up to its end or the file's, ASP and JSP, Jinja, Liquid, Django, Handlebars, Vue, template literals.
TEMPLATE = re.compile(
    r"<\?(?:php\b|=).*?(?:\?>|\Z)|<%.{0,2000}?%>|\{\{.{0,2000}?\}\}|\{%.{0,2000}?%\}|\{#.{0,2000}?#\}|\$\{[^}]{0,2000}\}",
    re.DOTALL | re.IGNORECASE,
)
_MARKUP = re.compile(r"<|\{\{|\{%|\{#")
_OPENING = re.compile(r"<(/?[A-Za-z][^\s/><{$]*)")
_SHORT_COMMENT = re.compile(r"<!---?>")
_COMMENT_END = re.compile(r"--!?>")
_NO_TAG = re.compile(r"<[!?]|</[^A-Za-z]")
_RAW = frozenset({"script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes", "plaintext"})
_IN_SCRIPT = re.compile(r"<!--|-->|<(/?)script(?=[\s/>])", re.IGNORECASE)
_SPACE = " \t\r\n\f"
# Attributes through which a framework, or the element around it, names a picture when the page runs.
_BOUND = re.compile(
    r"^(?:v-bind|x-bind|th:attr|\[attr\.alt\]|bind-alt|data-bind)$|[:.]alt$|^\[alt\]$|[{}]", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a tag.

    Attributes:
        name: In lower case.
        value: As written.
        start, stop: Where the value stands, without its quotes; the end of the name where there is none.
        has_value: There is a `=`.
    """

    name: str
    value: str
    start: int
    stop: int
    quote: str
    has_value: bool


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag.

    Attributes:
        name: In lower case, with a `/` before it where the tag ends an element.
        name_end, stop: Where its name and the tag itself end.
        templated: There is a template outside of the attributes' values, or the name is odd.
    """

    name: str
    name_end: int
    stop: int
    attributes: tuple[Attribute, ...]
    templated: bool
    closes_itself: bool

    def get(self, name: str) -> Attribute | None:
        return next((attribute for attribute in self.attributes if attribute.name == name), None)

    def value(self, name: str) -> str | None:
        """What an attribute says, without its references; None where it is not there."""
        found = self.get(name)
        return html.unescape(found.value) if found is not None else None


def find_in_html(text: str, options: PageOptions) -> list[Slot]:
    """The pictures of HTML that want a text, in order."""
    slots, links = [], 0
    for tag in scan(text):
        if tag.name in ("a", "button"):
            links += 1
        elif tag.name in ("/a", "/button"):
            links = max(0, links - 1)
        elif tag.name == "img" and (slot := _slot_of(tag, options, links > 0)) is not None:
            slots.append(slot)
    return slots


def find_at(text: str, start: int, options: PageOptions, linked: bool) -> Slot | None:
    """The picture whose tag begins at `start`, if it wants a text."""
    opening = _OPENING.match(text, start)
    tag = _read_tag(text, opening) if opening is not None else None
    return _slot_of(tag, options, linked) if tag is not None else None


def find_base(text: str) -> str:
    """The URL that a page's URLs start from; empty where it names none."""
    tags = (tag for tag in scan(text) if tag.name == "base")
    return next((href for tag in tags if (href := tag.value("href")) is not None), "")


def _slot_of(tag: Tag, options: PageOptions, linked: bool) -> Slot | None:
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
        return Slot(alt.start, alt.stop, named, "html", linked=linked)
    before = '"' if alt.has_value else '="'
    return Slot(alt.start, alt.stop, named, "html", before, '"', linked)


def _is_decoration(tag: Tag) -> bool:
    roles = (tag.value("role") or "").lower().split()
    if roles[:1] in (["presentation"], ["none"]) or (tag.value("aria-hidden") or "").strip().lower() == "true":
        return True
    sides = (re.match(r"\s*(\d+)\s*(?:px)?\s*$", tag.value(name) or "") for name in ("width", "height"))
    return any(side is not None and int(side.group(1)) <= 1 for side in sides)


def scan(text: str) -> Iterator[Tag]:
    """The tags of HTML, end tags with a `/` before their names; comments, raw text and templates are passed over."""
    at, foreign = 0, 0  # depth inside of <svg> and <math>, where <title/> closes itself
    while (found := _MARKUP.search(text, at)) is not None:
        at = found.start()
        if (template := TEMPLATE.match(text, at)) is not None:
            at = template.end()
        elif (passed := _pass_over(text, at)) is not None:
            at = passed
        elif (opening := _OPENING.match(text, at)) is None:
            at += 1
        elif (tag := _read_tag(text, opening)) is None:
            return  # the page ends in a tag, which is none then
        else:
            yield tag
            at = tag.stop
            if tag.name in ("svg", "math") and not tag.closes_itself:
                foreign += 1
            elif tag.name in ("/svg", "/math"):
                foreign = max(0, foreign - 1)
            if tag.name in _RAW and not (foreign and tag.closes_itself):
                at = _raw_end(text, at, tag.name)


def _pass_over(text: str, at: int) -> int | None:
    """Where a comment, a declaration or an instruction ends; None where none begins."""
    if text.startswith("<!--", at):
        if (short := _SHORT_COMMENT.match(text, at)) is not None:
            return short.end()
        end = _COMMENT_END.search(text, at + 4)
        return end.end() if end is not None else len(text)
    if text.startswith("<![CDATA[", at) and (end_at := text.find("]]>", at)) >= 0:
        return end_at + 3
    if _NO_TAG.match(text, at):
        end_at = text.find(">", at)
        return end_at + 1 if end_at >= 0 else len(text)
    return None


def _raw_end(text: str, at: int, name: str) -> int:
    """Where the raw text of an element ends: before its end tag, or with the page."""
    if name == "plaintext":
        return len(text)
    if name != "script":
        end = re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE).search(text, at)
        return end.start() if end is not None else len(text)
    # A comment in a script may hold a script ("script data double escaped" in the HTML standard).
    escaped = doubled = False
    for mark in _IN_SCRIPT.finditer(text, at):
        if mark.group() == "<!--":
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


def _read_tag(text: str, opening: re.Match[str]) -> Tag | None:
    """The tag with this beginning; None where the page ends in it."""
    name, at = opening.group(1).lower(), opening.end()
    attributes: dict[str, Attribute] = {}
    templated = text[at : at + 1] in ("<", "{", "$")  # which make part of the name
    while at < len(text):
        if text[at] in _SPACE or text[at] == "/":
            at += 1
        elif text[at] == ">":
            closes_itself = text[at - 1] == "/"
            return Tag(name, opening.end(), at + 1, tuple(attributes.values()), templated, closes_itself)
        elif (template := TEMPLATE.match(text, at)) is not None:
            at, templated = template.end(), True
        elif (attribute := _read_attribute(text, at)) is None:
            return None
        else:
            at = attribute.stop + len(attribute.quote)
            attributes.setdefault(attribute.name, attribute)  # of two with a name, the first counts
    return None


def _read_attribute(text: str, start: int) -> Attribute | None:
    """The attribute that begins here; None where the page ends in it."""
    name_end = _find(text, start + 1, f"{_SPACE}/>=")
    name = text[start:name_end].lower()
    at = _skip_space(text, name_end)
    if at >= len(text) or text[at] != "=":
        return Attribute(name, "", name_end, name_end, "", has_value=False)
    equals = at + 1
    at = _skip_space(text, equals)
    if at >= len(text):
        return None
    if text[at] == ">":  # `alt=>`: a value is missing
        return Attribute(name, "", equals, equals, "", has_value=True)
    quote = text[at] if text[at] in "\"'" else ""
    value_start = at + len(quote)
    value_end = _find(text, value_start, quote or f"{_SPACE}>")
    if value_end >= len(text):
        return None
    return Attribute(name, text[value_start:value_end], value_start, value_end, quote, has_value=True)


def _find(text: str, at: int, stops: str) -> int:
    """Where the first of these characters stands outside of templates; the end of the text without one."""
    while at < len(text) and text[at] not in stops:
        template = TEMPLATE.match(text, at) if text[at] in "<{$" else None
        at = template.end() if template is not None else at + 1
    return at


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at
