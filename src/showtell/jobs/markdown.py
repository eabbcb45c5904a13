"""Markdown -> the pictures that want a text.

These are `![](…)` and `![][…]` with nothing between the brackets, and `<img>` as in HTML. What is code, comment or
escaped is for a CommonMark parser to say: a name is put where every text would go, and where the parser finds a picture
of that name there is one.
"""

from __future__ import annotations

import html
import re

from showtell.errors import DataError
from showtell.jobs.html import find_at, scan
from showtell.jobs.slots import PageOptions, Slot

_EMPTY_IMAGE = re.compile(r"!\[([ \t\r\n]*)\](?=[(\[])")
_MARKED_IMAGE = re.compile(r"!\[([^\[\]]{1,500})\](?=[(\[])")
_IMG = re.compile(r"<img(?=[\s/>])", re.IGNORECASE)
_ESCAPED = re.compile(r"\\([!-/:-@\[-`{-~])")
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
    found = list(_EMPTY_IMAGE.finditer(text, start))
    if options.renew:
        marked = _MARKED_IMAGE.finditer(text, start)
        found += [place for place in marked if options.wording.has_marked(_unescape(place.group(1)))]
    stem = "zq"
    while stem in text:
        stem += "q"
    places = {f"{stem}{number}z": place for number, place in enumerate(found)}
    tags = {f"{stem}{number}z": tag for number, tag in enumerate(_IMG.finditer(text, start), len(places))}
    if not places and not tags:
        return []
    edits = [(place.start(1), place.end(1), name) for name, place in places.items()]
    edits += [(tag.end(), tag.end(), f" {name}=1") for name, tag in tags.items()]
    probe, done = [], start
    for begin, end, name in sorted(edits):
        probe += [text[done:begin], name]
        done = end
    seen, linked, markup = _parse("".join([*probe, text[done:]]), stem)
    slots = [
        Slot(place.start(1), place.end(1), (seen[name],), "markdown", linked=name in linked)
        for name, place in places.items()
        if name in seen
    ]
    at = ((tag.start(), name in linked) for name, tag in tags.items() if name in markup)
    slots += [slot for begin, is_linked in at if (slot := find_at(text, begin, options, is_linked)) is not None]
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
                for tag in scan(token.content):
                    links = max(0, links + {"a": 1, "button": 1, "/a": -1, "/button": -1}.get(tag.name, 0))
                    names = {attribute.name for attribute in tag.attributes if named.fullmatch(attribute.name)}
                    markup |= names if tag.name == "img" else set()
                    linked |= names if links else set()
    return seen, linked, markup


def _unescape(text: str) -> str:
    return _ESCAPED.sub(r"\1", html.unescape(text))
