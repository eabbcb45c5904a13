"""Tokenised candidates and references -> BLEU-1 to BLEU-4 (Papineni et al. 2002), as the COCO evaluation computes it.

The brevity penalty takes, of each picture, the reference length closest to the candidate's (the shorter of two equally
close ones). Precisions carry the COCO code's constants, so that scores of single pictures equal its scores too.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9  # keep 0/0 at 0: added to the matches and to the number of n-grams


def bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BLEU-1..4 of all pictures together, and of each one.

    Shape: `candidates` B captions of words, `references` B lists of captions; the results are (4,) and (B, 4).
        BLEU of the corpus is not the mean of the pictures' scores.
    """
    matches = np.zeros((len(candidates), ORDERS))
    totals = np.zeros((len(candidates), ORDERS))
    lengths = np.zeros((len(candidates), 2))  # the candidate's, the closest reference's
    for row, (words, captions) in enumerate(zip(candidates, references, strict=True)):
        matches[row] = _matches(words, captions)
        totals[row] = [max(0, len(words) - order) for order in range(ORDERS)]
        closest = min((abs(len(caption) - len(words)), len(caption)) for caption in captions)[1]
        lengths[row] = len(words), closest
    corpus = _combine(matches.sum(0, keepdims=True), totals.sum(0, keepdims=True), lengths.sum(0, keepdims=True))
    return corpus[0], _combine(matches, totals, lengths)


def ngrams(words: Sequence[str], orders: int = ORDERS) -> Iterator[tuple[str, ...]]:
    """Every run of 1 to `orders` words, the short ones first."""
    return chain.from_iterable(
        zip(*(words[shift:] for shift in range(order)), strict=False) for order in range(1, orders + 1)
    )


def _matches(words: Sequence[str], captions: Sequence[Sequence[str]]) -> list[int]:
    """How many 1- to 4-grams of a candidate its references have, each counted as often as one of them has it."""
    allowed: dict[tuple[str, ...], int] = {}
    for caption in captions:
        for ngram, count in Counter(ngrams(caption)).items():
            if count > allowed.get(ngram, 0):
                allowed[ngram] = count
    matches = [0] * ORDERS
    for ngram, count in Counter(ngrams(words)).items():
        matches[len(ngram) - 1] += min(count, allowed.get(ngram, 0))
    return matches


def _combine(
    matches: NDArray[np.float64], totals: NDArray[np.float64], lengths: NDArray[np.float64]
) -> NDArray[np.float64]:
    products = np.cumprod((matches + _TINY) / (totals + _SMALL), axis=1)
    scores: NDArray[np.float64] = products ** (1 / np.arange(1, ORDERS + 1))
    for row, (candidate, reference) in enumerate(lengths):
        ratio = (candidate + _TINY) / (reference + _SMALL)
        if ratio < 1:
            scores[row] *= math.exp(1 - 1 / ratio)
    return scores
