"""The values that travel between the rooms: frozen records, each with a plain JSON form.

Nothing here reads a file or computes; the modules that make the values document how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


Box = tuple[float, float, float, float]  # (x0, y0, x1, y1), pixels of the upright original, half-open


@dataclass(frozen=True, slots=True)
class Region:
    """A box of a picture with what people wrote of it, the name of what it holds, or both."""

    box: Box
    phrases: tuple[str, ...] = ()
    category: str | None = None


@dataclass(frozen=True, slots=True)
class RegionCaption:
    """What a captioner says of one box.

    Units: `score`, by which regions are ranked, is any number; of `showtell.regions` it is the product of the next two.
        `probability` is that of a word, the geometric mean over the caption and its end. `alignment` is how near its
        words are to the box, 0 where they have nothing in common.
    """

    box: Box
    text: str
    score: float
    probability: float | None = None
    alignment: float | None = None

    def to_json(self) -> dict[str, Any]:
        more = {"probability": self.probability, "alignment": self.alignment}
        known = {name: round(value, 4) for name, value in more.items() if value is not None}
        return {
            "box": [round(edge, 1) for edge in self.box],
            "caption": self.text,
            "score": round(self.score, 4),
            **known,
        }


@dataclass(frozen=True, slots=True)
class Grounding:
    """Where a picture shows some words of a sentence, from word `start` up to, not including, `stop`.

    Units: `score` is the sum over the words of how near each is to the box, on the model's own scale.
    """

    text: str
    start: int
    stop: int
    box: Box
    score: float

    def to_json(self) -> dict[str, Any]:
        return {
            "words": self.text,
            "start": self.start,
            "stop": self.stop,
            "box": [round(edge, 1) for edge in self.box],
            "score": round(self.score, 4),
        }


@dataclass(frozen=True, slots=True)
class Example:
    """A picture and what people wrote of it.

    `image` is a path or `archive.zip!member`, or None for captions without a picture (they can train the words of a
    captioner). `split` is None where the data set does not say (`datasets.splits` makes one).
    """

    id: str
    image: str | None
    references: tuple[str, ...]
    split: Split | None = "train"
    regions: tuple[Region, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong or odd with a data set.

    `kind` is a short name to count by (`missing-picture`), `where` a path with the line or entry, `message` the whole
    sentence. `breaks` says that training would stop or be spoiled.
    """

    kind: str
    where: str
    message: str
    breaks: bool = True

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "message": self.message, "breaks": self.breaks}


@dataclass(frozen=True, slots=True)
class Caption:
    """What a captioner says of one picture.

    Shape: `words` and `word_logprobs` have one entry a word (END is not among them, although `logprob` counts it);
        `maps` is (words, rows, columns) float32 over the picture's grid, each word's summing to 1: its attention, or
        where hiding the picture takes most from it; None where neither was asked for.
    Units: log-probabilities are natural logarithms. `confidence` is the probability that the caption is good, by
        `showtell.confidence`; None of a model that is not calibrated, and of alternatives.
    """

    image: str
    text: str
    logprob: float
    words: tuple[str, ...]
    word_logprobs: tuple[float, ...]
    maps: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    alternatives: tuple[Caption, ...] = ()
    confidence: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The caption as plain values; maps stay behind (they are arrays, not text)."""
        out: dict[str, Any] = {
            "image": self.image,
            "caption": self.text,
            "logprob": round(self.logprob, 4),
            **({} if self.confidence is None else {"confidence": round(self.confidence, 4)}),
            "words": [
                {"word": word, "logprob": round(value, 4)}
                for word, value in zip(self.words, self.word_logprobs, strict=True)
            ],
        }
        if self.alternatives:
            out["alternatives"] = [
                {"caption": other.text, "logprob": round(other.logprob, 4)} for other in self.alternatives
            ]
        return out


@dataclass(frozen=True, slots=True)
class Failure:
    """A picture that could not be captioned, and the sentence that says why."""

    image: str
    error: str

    def to_json(self) -> dict[str, Any]:
        return {"image": self.image, "error": self.error}


@dataclass(frozen=True, slots=True)
class Scores:
    """Corpus-level scores of candidates against references, with what is needed to compare them fairly.

    Units: every metric is a fraction as the COCO evaluation code prints it (CIDEr-D is on its usual scale, where
        human captions of COCO score about 0.9); `mean_length` is in PTB tokens. `intervals` are 95 % ones, of the
        metrics that have them. `missing` says, in a sentence each, what could not be computed. `words` says what the
        candidates were kept from saying, where that is known (see `showtell.safewords`).
    """

    metrics: dict[str, float]
    n: int
    tokeniser: str = "ptb"
    split: str | None = None
    beam: int | None = None
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    words: str | None = None

    def to_json(self) -> dict[str, Any]:
        more: dict[str, Any] = {} if self.words is None else {"words": self.words}
        if self.intervals:
            more["intervals"] = {name: [round(low, 6), round(high, 6)] for name, (low, high) in self.intervals.items()}
        if self.missing:
            more["missing"] = list(self.missing)
        return {
            "metrics": {name: round(value, 6) for name, value in self.metrics.items()},
            "n": self.n,
            "tokeniser": self.tokeniser,
            "split": self.split,
            "beam": self.beam,
            **more,
        }


References = dict[str, Sequence[str]]
Candidates = dict[str, Sequence[str]]
