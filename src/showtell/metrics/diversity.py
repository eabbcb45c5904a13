"""Tokenised candidates -> how varied they are: a captioner that says one sentence of every picture shows here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, pairwise

import numpy as np

from showtell.metrics.bleu import ORDERS, BleuStatistics, bleu, ngrams

Words = tuple[str, ...]


def diversity(candidates: Sequence[Sequence[Words]], known: Collection[Words] | None = None) -> dict[str, float]:
    """How varied captions are.

    `distinct` is the share of captions that differ from one another; `mBLEU-4` the mean likeness of a caption to the
    others (lower is more varied, see `mutual_bleu`); `vocabulary` the number of different words; `distinct-2` the
    share of different pairs of words; `mean_length` in words; `novel`, given the captions of training, the share that
    is not among them.

    Args:
        candidates: The captions of each picture, one or several.
        known: The captions that the system was trained on, tokenised alike.
    """
    captions = [caption for group in candidates for caption in group]
    words = Counter(chain.from_iterable(captions))
    pairs = Counter(pair for caption in captions for pair in pairwise(caption))
    found = {
        "distinct": len(set(captions)) / len(captions),
        "distinct-2": len(pairs) / max(1, pairs.total()),
        "mBLEU-4": mutual_bleu(candidates),
        "vocabulary": float(len(words)),
        "mean_length": words.total() / len(captions),
    }
    if known is not None:
        kept = known if isinstance(known, set | frozenset) else set(known)
        found["novel"] = sum(caption not in kept for caption in captions) / len(captions)
    return found


def mutual_bleu(candidates: Sequence[Sequence[Words]]) -> float:
    """The mean BLEU-4 of each caption against the others: of its picture where it has several (Shetty et al. 2017,
    mBLEU), else of the whole set (Zhu et al. 2018, self-BLEU). 0 where there are no others.

    Each caption's BLEU-4 is that of a single sentence, with the COCO code's constants.
    """
    if max(map(len, candidates), default=0) > 1:
        scores = [
            float(bleu([caption], [[*group[:place], *group[place + 1 :]]])[0][-1])
            for group in candidates
            if len(group) > 1
            for place, caption in enumerate(group)
        ]
        return float(np.mean(scores))
    captions = [caption for group in candidates for caption in group]
    return _self_bleu(captions) if len(captions) > 1 else 0.0


def _self_bleu(captions: Sequence[Words]) -> float:
    """The same for a whole set, without comparing each with each: an n-gram's two highest counts are enough to know
    how often the others have it, and sorted lengths to know the closest.
    """
    counts = [Counter(ngrams(caption)) for caption in captions]
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}  # the highest count, whose it is, the highest of the others
    for row, count in enumerate(counts):
        for ngram, times in count.items():
            first, owner, second = most.get(ngram, (0, -1, 0))
            if times > first:
                most[ngram] = (times, row, first)
            elif times > second:
                most[ngram] = (first, owner, times)
    statistics = BleuStatistics(*(np.zeros((len(captions), width)) for width in (ORDERS, ORDERS, 2)))
    lengths = np.array(sorted(map(len, captions)))
    for row, (caption, count) in enumerate(zip(captions, counts, strict=True)):
        for ngram, times in count.items():
            first, owner, second = most[ngram]
            statistics.matches[row, len(ngram) - 1] += min(times, second if owner == row else first)
        statistics.totals[row] = [max(0, len(caption) - order) for order in range(ORDERS)]
        statistics.lengths[row] = len(caption), _closest_other(lengths, len(caption))
    return float(BleuStatistics.combine(statistics.rows)[:, -1].mean())


def _closest_other(lengths: np.ndarray, own: int) -> int:
    """The length closest to one's own among the others (the shorter of two equally close)."""
    low, high = np.searchsorted(lengths, [own, own + 1])
    if high - low > 1:
        return own
    near = [int(lengths[place]) for place in (low - 1, high) if 0 <= place < len(lengths)]
    return min(near, key=lambda length: (abs(length - own), length))
