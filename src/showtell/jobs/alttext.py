"""Captions -> alt text: what a screen reader says instead of a picture.

A sentence with a capital and a full stop that does not begin with "a photo of", which the reader says by itself, of at
most 125 characters, after which JAWS makes a pause. A caption whose words are improbable gives none: a wrong text is
worse than a missing one, because nobody who needs it can see that it is wrong.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import ConfigError
from showtell.images import Source
from showtell.records import Caption, Failure

SHORTEST = 20  # characters that a text must have room for
LONGEST = 250  # characters; the most that alt text should have (IPTC photo metadata standard 2021.1)

# "a photo of a dog", "this is a black and white picture showing a dog"; not "a man takes a photo of a dog".
_OPENING = re.compile(
    r"(?:(?:this|here|it|there)\s+(?:is|are)\s+)?(?:(?:an?|the|this|some|one|two|several)\s+)?"
    r"(?:(?!(?:an?|the|of|in|on|at|to|by|with|\w+ing|\w+s)\s)[\w'-]+\s+){0,5}"
    r"(?:image|photo|photograph|picture|pic|snapshot)s?\s+(?:of|showing|that\s+shows?)\s+",
    re.IGNORECASE,
)
_ENDED = re.compile(r"[.!?…。！？।။។]['\"”’)\]]*$")
_CLAUSES = re.compile(r"[,;:.!?](?=\s|$)|[，、；：。]")
_STOPS = (
    (re.compile(r"[\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]"), "。"),  # Chinese and Japanese
    (re.compile(r"[\u0900-\u09ff]"), "।"),  # Devanagari, Bengali
    (re.compile(r"[\u1000-\u109f]"), "။"),  # Myanmar
    (re.compile(r"[\u1780-\u17ff]"), "។"),  # Khmer
    (re.compile(r"[\u0e00-\u0eff]"), ""),  # Thai and Lao have none
)


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a caption becomes alt text.

    Attributes:
        max_length: Characters, the mark among them.
        min_confidence: Below it there is no text; see `confidence`. Of the default model's captions of 176 photographs
            of COCO, calibrated, it holds 16 % back: 59 % of these are wrong (CIDEr below 0.2), against 22 % of the
            others; and 79 % of aerial photographs, of which it has seen none (`bench/confidence.py`).
        mark: What every text ends with, to say that a machine wrote it; such as "(automatic description)".

    Raises:
        ConfigError: A value is out of its range, or the mark leaves no room.
    """

    max_length: int = 125
    min_confidence: float = 0.3
    mark: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", plain(self.mark))
        if not SHORTEST <= self.max_length <= LONGEST:
            raise ConfigError(f"max_length is {self.max_length!r}; accepted are {SHORTEST} to {LONGEST} characters")
        if not 0 <= self.min_confidence <= 1:
            raise ConfigError(f"min_confidence is {self.min_confidence!r}; it is a probability, from 0 to 1")
        if self.room < SHORTEST:
            raise ConfigError(f"the mark {self.mark!r} leaves no room in {self.max_length} characters; make it shorter")

    @property
    def room(self) -> int:
        """Characters that the sentence itself may have."""
        return self.max_length - (len(self.mark) + 1 if self.mark else 0)

    def has_marked(self, text: str) -> bool:
        """Whether a text ends with the mark (False where there is none)."""
        return bool(self.mark) and plain(text).endswith(self.mark)


@dataclass(frozen=True, slots=True)
class AltText:
    """Alt text of one picture; `text` is None where the model is less sure than it has to be."""

    image: str
    text: str | None
    confidence: float


Describer = Callable[[Iterable[Source]], Iterator[AltText | Failure]]


def write_alts(
    captioner: Captioner,
    sources: Iterable[Source],
    wording: Wording | None = None,
    options: SearchOptions | None = None,
    *,
    batch: int = 16,
) -> Iterator[AltText | Failure]:
    """The alt text of each picture, or why it cannot be read, in order and in bounded memory.

    Args:
        sources, options, batch: As `Captioner.caption_stream` takes them.
    """
    wording = wording or Wording()
    for said in captioner.caption_stream(sources, options, batch=batch):
        yield said if isinstance(said, Failure) else write_alt(said, wording)


def write_alt(caption: Caption, wording: Wording) -> AltText:
    """The alt text of a caption."""
    sure = confidence(caption)
    text = word_alt(caption.text, wording) if sure >= wording.min_confidence else ""
    return AltText(caption.image, text or None, sure)


def confidence(caption: Caption) -> float:
    """How sure the model is: the probability that the caption is good, where it is calibrated (`Caption.confidence`).

    Else the geometric mean of the words' probabilities; 0 of a caption without words.
    """
    if caption.confidence is not None:
        return caption.confidence
    if not caption.word_logprobs:
        return 0.0
    return min(1.0, math.exp(sum(caption.word_logprobs) / len(caption.word_logprobs)))


def word_alt(caption: str, wording: Wording) -> str:
    """A caption as a sentence; empty where it has no letter or digit.

    What is too long ends where a part of the sentence ends or, where that would leave less than half, after the last
    word that fits and an ellipsis.
    """
    text = plain(caption)
    opening = _OPENING.match(text)
    if opening and any(char.isalnum() for char in text[opening.end() :]):
        text = text[opening.end() :]
    first = next((place for place, char in enumerate(text) if char.isalnum()), None)
    if first is None:
        return ""
    text = text[:first] + text[first].title() + text[first + 1 :]
    if not _ENDED.search(text):
        text = text.rstrip(",;:-–—，、；： ")
        text += next((stop for script, stop in _STOPS if script.match(text[-1])), ".")
    if len(text) > wording.room:
        text = _shorten(text, wording.room)
    return f"{text} {wording.mark}" if wording.mark else text


def plain(text: str) -> str:
    """The text in one line, with one space for each run of spaces, controls and half characters."""
    kept = (" " if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") else char for char in text)
    return " ".join("".join(kept).split())


def _shorten(text: str, room: int) -> str:
    ends = [found.start() for found in _CLAUSES.finditer(text, room // 2, room)]
    if ends:
        return text[: ends[-1]].rstrip() + ("." if text[ends[-1]].isascii() else "。")
    cut = text.rfind(" ", room // 2, room)
    if cut < 0:
        cut = room - 1
        while cut > 1 and unicodedata.category(text[cut])[0] == "M":  # stays with the character before it
            cut -= 1
    return text[:cut].rstrip(" ,;:-") + "…"
