"""Tokenised candidates and references -> CIDEr-D (Vedantam et al. 2015), as the COCO evaluation computes it.

A caption is a tf-idf vector for each n-gram length 1 to 4; a picture's score is the mean over lengths and references of
the clipped cosine, times a Gaussian of the difference in length, times 10. The COCO code calls this CIDEr.

Document frequencies come from the references of the evaluated set, or from elsewhere: self-critical training (Rennie et
al. 2017) rewards its samples with the frequencies of the training split.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.bleu import ORDERS, ngrams

SIGMA = 6.0  # words; the width of the Gaussian that punishes a difference in length
SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DocumentFrequencies:
    """In how many pictures' references each n-gram occurs, and how many pictures there are."""

    counts: Mapping[Ngram, int]
    pictures: int

    @classmethod
    def count(cls, references: Iterable[Sequence[Sequence[str]]]) -> DocumentFrequencies:
        """The frequencies of tokenised references, one list of captions a picture."""
        counts: Counter[Ngram] = Counter()
        pictures = 0
        for captions in references:
            counts.update({ngram for caption in captions for ngram in ngrams(caption)})
            pictures += 1
        return cls(counts, pictures)

    def weight(self, ngram: Ngram) -> float:
        """The inverse document frequency in nats; an n-gram that no reference has counts as if one had it."""
        return math.log(self.pictures) - math.log(max(1, self.counts.get(ngram, 0)))


@dataclass(frozen=True, slots=True)
class CiderVector:
    """A caption as CIDEr-D sees it: the tf-idf of its n-grams and their norm by n-gram length.

    `length` is in bigrams, one less than the words: so the COCO code measures it.
    """

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider_vector(words: Sequence[str], frequencies: DocumentFrequencies) -> CiderVector:
    """The vector of a tokenised caption; references can keep theirs from one scoring to the next."""
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(ORDERS))
    squares = [0.0] * ORDERS
    for ngram, count in Counter(ngrams(words)).items():
        weight = count * frequencies.weight(ngram)
        weights[len(ngram) - 1][ngram] = weight
        squares[len(ngram) - 1] += weight * weight
    return CiderVector(weights, tuple(math.sqrt(square) for square in squares), max(0, len(words) - 1))


def cider_score(candidate: CiderVector, references: Sequence[CiderVector]) -> float:
    """The CIDEr-D of one candidate; about 0 to 10, human captions of COCO reach 0.9 on average."""
    total = 0.0
    for reference in references:
        cosines = 0.0
        for order in range(ORDERS):
            norm = candidate.norms[order] * reference.norms[order]
            if norm:
                cosines += _clipped_product(candidate.weights[order], reference.weights[order]) / norm
        total += cosines * _gaussian(candidate.length - reference.length)
    return SCALE * total / ORDERS / len(references)


def cider(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    frequencies: DocumentFrequencies | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """The mean CIDEr-D, and each picture's.

    Shape: `candidates` B captions of words, `references` B lists of captions; the array is (B,).

    Args:
        frequencies: Those of `references` when None, as the COCO code does.
    """
    frequencies = frequencies or DocumentFrequencies.count(references)
    scores = np.array([
        cider_score(cider_vector(words, frequencies), [cider_vector(caption, frequencies) for caption in captions])
        for words, captions in zip(candidates, references, strict=True)
    ])  # fmt: skip
    return float(scores.mean()), scores


def best_constant(
    references: Sequence[Sequence[Sequence[str]]], frequencies: DocumentFrequencies | None = None
) -> tuple[tuple[str, ...], float]:
    """The reference that scores the highest CIDEr-D when it is said of every picture, and that score.

    Exact over all distinct references, without comparing each with each: what an n-gram earns depends only on how often
    the constant has it and how long the constant is, so it is summed over the references once for each such case.
    """
    frequencies = frequencies or DocumentFrequencies.count(references)
    # n-gram -> (its count in a reference, the reference's length) -> the sum of those references' 1 / norm
    earners: defaultdict[Ngram, defaultdict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    vectors: dict[tuple[str, ...], tuple[CiderVector, Counter[Ngram]]] = {}
    for captions in references:
        for caption in map(tuple, captions):
            if caption not in vectors:
                vectors[caption] = cider_vector(caption, frequencies), Counter(ngrams(caption))
            vector, counts = vectors[caption]
            for ngram, count in counts.items():
                if norm := vector.norms[len(ngram) - 1]:
                    earners[ngram][count, vector.length] += 1 / (norm * len(captions))
    earned: dict[tuple[Ngram, int, int], float] = {}
    best: tuple[float, tuple[str, ...]] = -1.0, ()
    for caption, (vector, counts) in vectors.items():
        total = 0.0
        for ngram, count in counts.items():
            norm = vector.norms[len(ngram) - 1]
            if not norm:
                continue
            case = ngram, count, vector.length
            if case not in earned:
                earned[case] = _earned(case, earners[ngram]) * frequencies.weight(ngram) ** 2
            total += earned[case] / norm
        if total > best[0]:
            best = total, caption
    return best[1], SCALE * best[0] / ORDERS / len(references)


def _earned(case: tuple[Ngram, int, int], earners: Mapping[tuple[int, int], float]) -> float:
    _, count, length = case
    return sum(
        min(count, theirs) * theirs * _gaussian(length - their_length) * share
        for (theirs, their_length), share in earners.items()
    )


def _clipped_product(candidate: Mapping[Ngram, float], reference: Mapping[Ngram, float]) -> float:
    total = 0.0
    for ngram, weight in candidate.items():
        other = reference.get(ngram)
        if other is not None:
            total += min(weight, other) * other
    return total


def _gaussian(difference: int) -> float:
    return math.exp(-(difference**2) / (2 * SIGMA**2))
