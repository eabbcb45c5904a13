"""Tokenised candidates -> how varied they are: a captioner that says one sentence of every picture shows here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import chain, pairwise

import numpy as np

from showtell.metrics.bleu import ORDERS, BleuStatistics, ngrams

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

    Raises:
        ValueError: There are no captions.
    """
    captions = [caption for group in candidates for caption in group]
    if not captions:
        raise ValueError("there are no captions to measure the variety of; give at least one")
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
    """The mean BLEU-4 of each caption against the others: of its picture where pictures have several (Shetty et al.
    2017, mBLEU), else of the whole set (Zhu et al. 2018, self-BLEU). 0 where there are no others.

    Each caption's BLEU-4 is that of a single sentence, with the COCO code's constants, and each counts once. Captions
    that are alone on their picture are left out when other pictures have several. Values of sets of different sizes,
    or with different numbers of captions a picture, cannot be compared: more others are more like a caption.
    """
    groups = [group for group in candidates if len(group) > 1]
    if not groups:
        groups = [[caption for group in candidates for caption in group]]
    if len(groups[0]) < 2:
        return 0.0
    rows = np.concatenate([_against_the_others(group).rows for group in groups])
    return float(BleuStatistics.combine(rows)[:, -1].mean())


def _against_the_others(captions: Sequence[Words]) -> BleuStatistics:
    """The statistics of each of at least two captions against the others, without comparing each with each: an
    n-gram's two highest counts are enough to know how often the others have it, and sorted lengths to know the closest.
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
    lengths = sorted(map(len, captions))
    matches = []
    for row, count in enumerate(counts):
        found = [0] * ORDERS
        for ngram, times in count.items():
            first, owner, second = most[ngram]
            found[len(ngram) - 1] += min(times, second if owner == row else first)
        matches.append(found)
    totals = [[max(0, len(caption) - order) for order in range(ORDERS)] for caption in captions]
    closest = [(len(caption), _closest_other(lengths, len(caption))) for caption in captions]
    return BleuStatistics(*(np.array(part, np.float64) for part in (matches, totals, closest)))


def _closest_other(lengths: Sequence[int], own: int) -> int:
    """Of sorted lengths with one's own among them, the closest of the others (the shorter of two equally close)."""
    low, high = bisect_left(lengths, own), bisect_right(lengths, own)
    if high - low > 1:
        return own
    near = [lengths[place] for place in (low - 1, high) if 0 <= place < len(lengths)]
    return min(near, key=lambda length: (abs(length - own), length))
