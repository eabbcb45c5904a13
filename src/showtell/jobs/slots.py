"""A place of a page that wants a text, which texts may be written there, and how they are put into the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from showtell.jobs.alttext import Wording

Syntax = Literal["html", "markdown"]

_MEANT = re.compile(r"[\\`*_\[\]<>&|~$^{}!#]")  # characters with a meaning in Markdown, tables included


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
