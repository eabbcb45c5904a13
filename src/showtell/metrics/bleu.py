"""Tokenised candidates and references -> BLEU-1 to BLEU-4 (Papineni et al. 2002), as the COCO evaluation computes it.

The brevity penalty takes, of each picture, the reference length closest to the candidate's (the shorter of two equally
close ones). Precisions carry the COCO code's constants, so that scores of single pictures equal its scores too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9  # keep 0/0 at 0: added to the matches and to the number of n-grams


@dataclass(frozen=True)
class BleuStatistics:
    """What BLEU is computed from, a picture a row; the sums of rows are the corpus's.

    Shape: `matches` and `totals` (B, 4), the n-grams of each length that count and that there are; `lengths` (B, 2),
        the words of the candidate and of the closest reference.
    """

    matches: NDArray[np.float64]
    totals: NDArray[np.float64]
    lengths: NDArray[np.float64]

    @classmethod
    def count(
        cls, candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
    ) -> BleuStatistics:
        """The statistics of tokenised candidates against lists of tokenised references."""
        statistics = cls(*(np.zeros((len(candidates), width)) for width in (ORDERS, ORDERS, 2)))
        for row, (words, captions) in enumerate(zip(candidates, references, strict=True)):
            statistics.matches[row] = _matches(words, captions)
            statistics.totals[row] = [max(0, len(words) - order) for order in range(ORDERS)]
            closest = min((abs(len(caption) - len(words)), len(caption)) for caption in captions)[1]
            statistics.lengths[row] = len(words), closest
        return statistics

    @property
    def rows(self) -> NDArray[np.float64]:
        """(B, 10): all of them side by side."""
        return np.concatenate([self.matches, self.totals, self.lengths], 1)

    @staticmethod
    def combine(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """BLEU-1..4 (S, 4) of rows (S, 10), each of a picture or the sum of several."""
        matches, totals, lengths = rows[:, :ORDERS], rows[:, ORDERS : 2 * ORDERS], rows[:, 2 * ORDERS :]
        products = np.cumprod((matches + _TINY) / (totals + _SMALL), axis=1)
        ratio = (lengths[:, :1] + _TINY) / (lengths[:, 1:] + _SMALL)
        penalty = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1)), 1)
        return np.asarray(products ** (1 / np.arange(1, ORDERS + 1)) * penalty)


def bleu(
    candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """BLEU-1..4 of all pictures together, and of each one.

    Shape: `candidates` B captions of words, `references` B lists of captions; the results are (4,) and (B, 4).
        BLEU of the corpus is not the mean of the pictures' scores.
    """
    rows = BleuStatistics.count(candidates, references).rows
    return BleuStatistics.combine(rows.sum(0, keepdims=True))[0], BleuStatistics.combine(rows)


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
