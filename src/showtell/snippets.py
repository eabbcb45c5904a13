"""Scores of words against regions -> the region of each word -> the snippets of a caption that speak of one region.

Taken by itself, each word belongs to the region that scores best with it, and neighbours scatter over the picture. A
reward for neighbours that agree draws them together, so that phrases come out (Karpathy & Fei-Fei 2015, sec. 3.1.4).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Snippet(NamedTuple):
    """Words from `start` up to, not including, `stop` of a caption, and the index of the region they speak of."""

    start: int
    stop: int
    region: int


def align_words(scores: ArrayLike, beta: float) -> NDArray[np.intp]:
    """The region of each word: those of the highest sum of scores, plus `beta` for each two neighbours that agree.

    With 0 it is each word's best region; with more, snippets grow longer, up to one region for the whole caption. Where
    assignments tie, the last word takes the lowest of the best regions, and a word before takes the region of the word
    after it, or else the lowest of the best.

    Shape: `scores` (T words, R regions); returns (T,).
    Units: `beta` in those of the scores.

    Raises:
        ValueError: Scores of another shape or that are not finite, no region, or a negative `beta`.

    Source: Karpathy & Fei-Fei 2015, sec. 3.1.4: the arg min of E(a), by dynamic programming. The best word before is
        either in the same region or in the best of all, so T * R steps do instead of T * R².
    """
    values = np.asarray(scores, np.float64)
    if values.ndim != 2 or (len(values) and not values.shape[1]):
        raise ValueError(f"scores of shape {values.shape} align nothing; give (words, regions), at least one region")
    if not np.isfinite(values).all():
        word, region = (int(index) for index in np.argwhere(~np.isfinite(values))[0])
        raise ValueError(f"the score of word {word} and region {region} is {values[word, region]}; give finite scores")
    if not (beta >= 0 and math.isfinite(beta)):
        raise ValueError(f"beta is {beta}; it must be a number from 0 up")
    if not len(values):
        return np.zeros(0, np.intp)
    stays = np.zeros(values.shape, bool)  # whether the word before is best in the same region
    leaders = np.zeros(len(values), np.intp)  # the best region of all for the word before
    best = values[0]
    for word in range(1, len(values)):
        leaders[word] = best.argmax()
        behind = best - best[leaders[word]]  # 0 for the leader; the sums themselves would lose digits in long texts
        stays[word] = behind + beta >= 0
        best = values[word] + np.where(stays[word], behind + beta, 0)
    regions = np.empty(len(values), np.intp)
    regions[-1] = best.argmax()
    for word in range(len(values) - 1, 0, -1):
        after = regions[word]
        regions[word - 1] = after if stays[word, after] else leaders[word]
    return regions


def spread_of(scores_TR: NDArray[np.floating]) -> float:
    """How far a word's best region stands out, the mean over words: the unit of `beta` that suits a model's scores."""
    return max(0.0, float((scores_TR.max(1) - scores_TR.mean(1)).mean()))  # equal scores differ from their mean


def snippets(
    words: Sequence[str], assignment: ArrayLike, *, shortest: int = 1, hanging: Collection[str] = ()
) -> list[Snippet]:
    """The runs of words that speak of the same region, in their order.

    Args:
        assignment: The region of each word, from `align_words`.
        shortest: Runs of fewer words are left out.
        hanging: Words that no snippet may end with, such as "of" and "the"; they are cut from its end, before its
            words are counted.

    Raises:
        ValueError: Not one region a word, or `shortest` is less than 1.
    """
    regions = np.asarray(assignment)
    if regions.shape != (len(words),):
        raise ValueError(f"an assignment of shape {regions.shape} for {len(words)} words; give one region a word")
    if shortest < 1:
        raise ValueError(f"shortest is {shortest}; a snippet has at least 1 word")
    edges = [0, *(np.flatnonzero(np.diff(regions)) + 1).tolist(), len(words)]
    found = []
    for start, stop in pairwise(edges):
        last = stop
        while last > start and words[last - 1] in hanging:
            last -= 1
        if last - start >= shortest:
            found.append(Snippet(start, last, int(regions[start])))
    return found
