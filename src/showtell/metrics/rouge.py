"""Tokenised candidates and references -> ROUGE-L (Lin 2004), as the COCO evaluation computes it.

Differs from the paper in taking precision and recall each from the reference where it is best; beta is 1.2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

BETA = 1.2  # how much more recall counts than precision
_NOTHING = ("",)  # the COCO code reads an empty caption as one empty word


def rouge_l(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, NDArray[np.float64]]:
    """The mean ROUGE-L, and each picture's.

    Shape: `candidates` B captions of words, `references` B lists of captions; the array is (B,).
    """
    scores = np.array([_rouge(words, captions) for words, captions in zip(candidates, references, strict=True)])
    return float(scores.mean()), scores


def _rouge(words: Sequence[str], captions: Sequence[Sequence[str]]) -> float:
    words = words or _NOTHING
    precision = recall = 0.0
    for caption in captions:
        caption = caption or _NOTHING
        common = common_length(words, caption)
        precision = max(precision, common / len(words))
        recall = max(recall, common / len(caption))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def common_length(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence of two captions.

    Source: the bit-vector recurrence of Crochemore et al. 2001; bit i of `row` is 0 where word i of `left` ends one
        more match.
    """
    places: dict[str, int] = {}
    for index, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << index
    full = (1 << len(left)) - 1
    row = full
    for word in right:
        hits = row & places.get(word, 0)
        row = (row + hits | row - hits) & full
    return len(left) - row.bit_count()
