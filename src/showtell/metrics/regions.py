"""Described boxes against the boxes and phrases of people -> the mean average precision of dense captioning.

As Johnson, Karpathy & Fei-Fei 2016 (DenseCap) define it and their code computes it: a description is right when its
box overlaps the truth enough *and* its words are near enough to the phrases written of it, averaged over five demands
on the first and six on the second. The paper's measure of words is METEOR, which runs in Java; `meteor_like` stands in
for it where none is given.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.boxes import iou, is_valid
from showtell.errors import DataError
from showtell.metrics.ptb import tokenise_ptb
from showtell.records import Box, Region, RegionCaption

Similarity = Callable[[str, Sequence[str]], float]

OVERLAPS = (0.3, 0.4, 0.5, 0.6, 0.7)
LIKENESSES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25)
SAME_THING = 0.7  # true boxes that overlap this much describe one thing
RECALLS = 100  # precision is read at recall 0, 0.01, … 0.99


@dataclass(frozen=True, slots=True)
class RegionScores:
    """How well boxes were found and described.

    Units: everything is a fraction from 0 to 1. `map` is the mean of `precisions`, whose keys are (overlap, likeness);
        `localisation` is the mean over the overlaps alone, whatever was said. `n` counts pictures, `regions` the true
        boxes after merging, `predictions` the described boxes.
    """

    map: float
    localisation: float
    precisions: dict[tuple[float, float], float]
    n: int
    regions: int
    predictions: int

    def to_json(self) -> dict[str, Any]:
        return {
            "map": round(self.map, 6),
            "localisation": round(self.localisation, 6),
            "precisions": [
                {"overlap": overlap, "likeness": likeness, "precision": round(value, 6)}
                for (overlap, likeness), value in self.precisions.items()
            ],
            "n": self.n,
            "regions": self.regions,
            "predictions": self.predictions,
        }


@dataclass(frozen=True, slots=True)
class _Match:
    """A prediction beside the true box it falls to; a later one that falls to a taken box matches nothing."""

    score: float
    overlap: float
    likeness: float


def region_map(
    predictions: Mapping[str, Sequence[RegionCaption]],
    truth: Mapping[str, Sequence[Region]],
    similarity: Similarity | None = None,
) -> RegionScores:
    """The mean average precision of described boxes.

    In each picture, true boxes that overlap by 0.7 or more become one, their mean box with all their phrases. Its
    predictions, best score first, fall each to the true box they overlap most, well or badly; only the first to fall
    to a box can be right. One is right at (overlap, likeness) when it overlaps by at least the first and its words are
    more alike than the second, so that likeness 0 still asks for some likeness. The predictions of all pictures are
    then ranked together, equal scores in the order given, and the average precision is the mean, over recall 0, 0.01,
    … 0.99, of the best precision at that recall or beyond (0 where it is never reached).

    Args:
        predictions: The described boxes of each picture; an empty sequence for a picture where nothing was found.
        truth: The regions of the same pictures, each with one or more phrases.
        similarity: How alike a caption and some references are, from 0 to 1; METEOR in the paper
            (`metrics.java.Meteor().similarity`, where Java is). `meteor_like` when not given.

    Raises:
        DataError: A picture is on one side only, there is no region, or a region or prediction has no valid box, no
            phrase, or a score that is not a number.

    Source: Johnson, Karpathy & Fei-Fei 2016, section 4.1, and the evaluation code published with it, which settles what
        the paper leaves open. Differs from that code in two things: boxes are half-open, where it counts the last pixel
        as covered, and recall is compared exactly, where it adds up 0.01 in floating point. (Its loop goes on to recall
        1 but never gets there: 0.01 added up a hundred times is just above 1. So there are 100 points, not 101.)
    """
    likeness = meteor_like if similarity is None else similarity
    _check_pictures(predictions, truth)
    matches: list[_Match] = []
    regions = 0
    for image, said in predictions.items():
        boxes, phrases = _merged(image, truth[image])
        regions += len(boxes)
        matches.extend(_matched(image, said, boxes, phrases, likeness))
    if not regions:
        raise DataError(f"none of the {len(truth)} pictures has a region to find; the truth needs at least one")
    order = np.argsort([-match.score for match in matches], kind="stable")
    overlap = np.array([match.overlap for match in matches])[order]
    alike = np.array([match.likeness for match in matches])[order]
    precisions = {
        (least, more): average_precision((overlap >= least) & (alike > more), regions)
        for least in OVERLAPS
        for more in LIKENESSES
    }
    return RegionScores(
        map=float(np.mean(list(precisions.values()))),
        localisation=float(np.mean([average_precision(overlap >= least, regions) for least in OVERLAPS])),
        precisions=precisions,
        n=len(truth),
        regions=regions,
        predictions=len(matches),
    )


def average_precision(right_R: NDArray[np.bool_], positives: int) -> float:
    """The mean, over recall 0, 0.01, … 0.99, of the best precision at that recall or beyond.

    Shape: `right_R` (R,), whether each prediction is right, the surest first; `positives` is how many could be.
    """
    hits = np.cumsum(right_R)
    if not hits.size:
        return 0.0
    precision = hits / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    needed = -(-np.arange(RECALLS) * positives // RECALLS)  # the fewest hits of each recall: exact, rounded up
    reached = np.searchsorted(hits, needed)
    return float(np.append(best_from_here, 0.0)[reached].mean())


def merge_regions(boxes_R4: NDArray[np.float64], threshold: float = SAME_THING) -> list[NDArray[np.intp]]:
    """The boxes in groups that stand for one thing each: indices, every box in exactly one group.

    The box with the most neighbours (IoU of at least `threshold`, among those not yet in a group; the first of equals)
    takes them into its group, and so on.
    """
    near = iou(boxes_R4, boxes_R4) >= threshold
    np.fill_diagonal(near, True)
    groups = []
    while near.any():
        group = np.flatnonzero(near[int(np.argmax(near.sum(axis=1)))])
        groups.append(group)
        near[group] = False
        near[:, group] = False
    return groups


def _check_pictures(predictions: Mapping[str, Sequence[RegionCaption]], truth: Mapping[str, Sequence[Region]]) -> None:
    for ours, theirs, lack, advice in (
        (truth, predictions, "predictions", "give an empty list where nothing was found"),
        (predictions, truth, "true regions", "give theirs, or leave out the predictions"),
    ):
        if missing := [image for image in ours if image not in theirs]:
            few = ", ".join(map(repr, missing[:3])) + (", …" if len(missing) > 3 else "")
            raise DataError(f"{len(missing)} of {len(ours)} pictures have no {lack} ({few}); {advice}")


def _merged(image: str, regions: Sequence[Region]) -> tuple[NDArray[np.float64], list[list[str]]]:
    boxes = _corners(image, "region", [region.box for region in regions])
    for number, region in enumerate(regions, 1):
        if not region.phrases:
            raise DataError(f"region {number} of {image!r} has no phrase; give one or more, or leave the region out")
    groups = merge_regions(boxes)
    means = np.array([boxes[group].mean(axis=0) for group in groups]).reshape(-1, 4)
    return means, [[phrase for index in group for phrase in regions[index].phrases] for group in groups]


def _matched(
    image: str,
    said: Sequence[RegionCaption],
    boxes: NDArray[np.float64],
    phrases: list[list[str]],
    similarity: Similarity,
) -> list[_Match]:
    """What each prediction of a picture is worth, in the order given."""
    found = _corners(image, "prediction", [prediction.box for prediction in said])
    for number, prediction in enumerate(said, 1):
        if math.isnan(prediction.score):
            raise DataError(f"prediction {number} of {image!r} has the score NaN; boxes are ranked by their scores")
    if not len(boxes):
        return [_Match(prediction.score, 0.0, 0.0) for prediction in said]
    overlaps = iou(found, boxes)
    worth: dict[int, _Match] = {}
    taken: set[int] = set()
    for index in sorted(range(len(said)), key=lambda index: -said[index].score):
        nearest = int(np.argmax(overlaps[index]))
        overlap = float(overlaps[index, nearest])
        alike = 0.0
        if overlap == 0 or nearest in taken:
            overlap = 0.0
        else:
            taken.add(nearest)
            if overlap >= OVERLAPS[0]:  # below, no words help
                alike = similarity(said[index].text, phrases[nearest])
                if math.isnan(alike):
                    raise ValueError(f"the similarity of {said[index].text!r} and {phrases[nearest]!r} is NaN")
        worth[index] = _Match(said[index].score, overlap, alike)
    return [worth[index] for index in range(len(said))]


def _corners(image: str, kind: str, boxes: Sequence[Box]) -> NDArray[np.float64]:
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    valid = is_valid(corners)
    if not valid.all():
        bad = int(np.flatnonzero(~valid)[0])
        raise DataError(
            f"{kind} {bad + 1} of {image!r} has the box {corners[bad].tolist()}; a box is x0, y0, x1, y1 in pixels "
            "with x0 < x1 and y0 < y1"
        )
    return corners


# METEOR 1.5's parameters for English, tuned on judgements of translations.
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_EXACT, _STEM = 1.0, 0.6
_BEAM = 40  # alignments followed at a time
_NEAR = 8  # places of a repeated word that are looked at

# Words that say little of what is in a picture; they count a third of the others (1 - _DELTA to _DELTA).
_FUNCTION_TEXT = """
a an the this that these those some any no each another other such both all
i you he she it we they me him her us them my your his its our their who which what whose there
and or but nor so if as than then because while when where
of in on at by to for from with without into onto over under up down out off about after before between through during
against near is are was were be been being am has have had having do does did will would can could may might must should
shall not 's 'll n't also very just more most one two
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_TEXT.split())


def meteor_like(candidate: str, references: Sequence[str]) -> float:
    """How alike a caption and the nearest of its references are, from 0 to 1, in the manner of METEOR, without Java.

    METEOR 1.5's formula with its parameters for English: words are matched that are the same (1) or have the same stem
    (0.6), in the way that matches the most words in the fewest unbroken runs; precision and recall count content words
    three times as much as function words; their mean is weighted towards recall (alpha 0.85) and lowered for broken
    order (gamma 0.6, beta 0.2).

    Missing of METEOR: synonyms (WordNet) and paraphrases, so it finds less alike; the stems come from stripping English
    endings, not from Snowball, and the function words are a list of our own. Of 500 captions of COCO val2017, each
    against the four others of its picture, METEOR 1.5 gives 0.242 in the mean, this 0.228, with a Pearson correlation
    of 0.92; METEOR without synonyms and paraphrases and with these function words gives the same to six digits for
    97 % (`tests/test_region_map.py` measures both). Words of other languages are matched as they are, or nearly.

    Source: Denkowski & Lavie 2014 (METEOR 1.5: score and parameters) and 2011 (METEOR 1.3: the alignment).
    """
    words = tuple(tokenise_ptb(candidate))
    return max((_meteor(words, tuple(tokenise_ptb(reference))) for reference in references), default=0.0)


def _meteor(candidate: Sequence[str], reference: Sequence[str]) -> float:
    pairs = _align(candidate, reference)
    if not pairs:
        return 0.0
    precision = sum(share * _weight(candidate[i]) for i, _, share in pairs) / sum(map(_weight, candidate))
    recall = sum(share * _weight(reference[j]) for _, j, share in pairs) / sum(map(_weight, reference))
    mean = precision * recall / (_ALPHA * precision + (1 - _ALPHA) * recall)
    chunks = 1 + sum((i + 1, j + 1) != after[:2] for (i, j, _), after in pairwise(pairs))
    if chunks == 1 and len(pairs) == len(candidate) == len(reference):
        return mean  # in full and in order: nothing is broken
    penalty: float = _GAMMA * (chunks / len(pairs)) ** _BETA
    return mean * (1 - penalty)


def _weight(word: str) -> float:
    return 1 - _DELTA if word in _FUNCTION_WORDS else _DELTA


@dataclass(frozen=True, slots=True)
class _Alignment:
    """A way to match the first words of a candidate: its last pair and what came before.

    `used` has bit j set where reference word j is matched.
    """

    before: _Alignment | None = None
    pair: tuple[int, int, float] = (-2, -2, 0.0)
    matched: int = 0
    used: int = 0
    chunks: int = 0
    distance: int = 0

    def with_pair(self, i: int, j: int, weight: float) -> _Alignment:
        starts = self.pair[:2] != (i - 1, j - 1)
        return _Alignment(
            before=self,
            pair=(i, j, weight),
            matched=self.matched + 1,
            used=self.used | 1 << j,
            chunks=self.chunks + starts,
            distance=self.distance + abs(i - j),
        )

    def rank(self) -> tuple[int, int, int]:
        return (-self.matched, self.chunks, self.distance)


def _align(candidate: Sequence[str], reference: Sequence[str]) -> list[tuple[int, int, float]]:
    """(candidate place, reference place, weight) of the words that are matched, in the candidate's order.

    Each word is matched once at most: as many as can be, then in the fewest runs, then the nearest in place. Of a word
    that the reference repeats more than eight times, only the eight nearest are looked at.
    """
    places: dict[str, list[int]] = {}
    for j, word in enumerate(reference):
        places.setdefault(_stem(word), []).append(j)
    options = [
        [(j, _EXACT if word == reference[j] else _STEM) for j in _nearest(places.get(_stem(word), []), i)]
        for i, word in enumerate(candidate)
    ]
    wanted = [0] * len(reference)
    for row in options:
        for j, _ in row:
            wanted[j] += 1
    beam = [_Alignment()]
    for i, row in enumerate(options):
        # A word that some reference word is left for alone is matched in every largest alignment.
        must = any(wanted[j] == 1 for j, _ in row)
        grown = [] if must else list(beam)
        grown += [path.with_pair(i, j, weight) for path in beam for j, weight in row if not path.used >> j & 1]
        beam = sorted(grown, key=_Alignment.rank)[:_BEAM]
    best = beam[0]
    pairs = []
    while best.before is not None:
        pairs.append(best.pair)
        best = best.before
    return pairs[::-1]


def _nearest(places: list[int], place: int) -> list[int]:
    """The places, or the eight nearest to one."""
    start = min(max(0, bisect_left(places, place) - _NEAR // 2), max(0, len(places) - _NEAR))
    return places[start : start + _NEAR]


def _stem(word: str) -> str:
    """The word without the endings of English plurals and verb forms; other words as they are."""
    if len(word) <= 3 or not word.isalpha():
        return word
    if word in _ODD:
        return _ODD[word]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-3] + "y" if word.endswith("ies") and len(word) > 4 else word[:-1]
        word = word.removesuffix("e") if word.endswith(("che", "she", "xe", "sse", "zze")) else word
    for ending in ("ing", "ed"):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) > 1 and not _VOWELS.isdisjoint(rest) and not word.endswith("eed"):
            if ending == "ed" and rest.endswith("i"):
                return rest[:-1] + "y" if len(rest) > 2 else rest + "e"  # carried, but tied
            if len(rest) > 3 and rest[-1] == rest[-2] and rest[-1] not in "aeioulrsz":
                return rest[:-1]  # sitting
            word = rest + "e" if _is_short(rest) else rest  # riding, but eating
    if word.endswith("ie") and len(word) > 4:
        return word[:-2] + "y"
    return word[:-1] if word.endswith("e") and len(word) > 3 and not _is_short(word[:-1]) else word


_ODD = {"skis": "ski", "buses": "bus"}
_VOWELS = frozenset("aeiouy")


def _is_short(stem: str) -> bool:
    """Whether a stem has one vowel before its one last consonant, so that an e behind it is sounded: rid(e), us(e)."""
    *before, vowel, last = (letter in _VOWELS for letter in stem[-3:].rjust(2))
    return vowel and not last and stem[-1] not in "wx" and not any(before) and _VOWELS.isdisjoint(stem[:-3])
