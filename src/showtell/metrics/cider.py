"""Tokenised candidates and references -> CIDEr-D (Vedantam et al. 2015), as the COCO evaluation computes it.

A caption is a tf-idf vector for each n-gram length 1 to 4; a picture's score is the mean over lengths and references of
the clipped cosine, times a Gaussian of the difference in length, times 10. The COCO code calls this CIDEr.

Document frequencies come from the references of the evaluated set, or from elsewhere: self-critical training (Rennie et
al. 2017) rewards its samples with the frequencies of the training split.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.bleu import ORDERS, ngrams

SIGMA = 6.0  # words; the width of the Gaussian that punishes a difference in length
SCALE = 10.0

Ngram = tuple[str, ...]


@dataclass(frozen=True)
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

    @cached_property
    def weights(self) -> dict[Ngram, float]:
        """The inverse document frequency of each n-gram, in nats."""
        logs = {count: self.unseen - math.log(max(1, count)) for count in set(self.counts.values())}
        return {ngram: logs[count] for ngram, count in self.counts.items()}

    @cached_property
    def unseen(self) -> float:
        """The weight of an n-gram that no reference has: as if one had it."""
        return math.log(self.pictures)


@dataclass(frozen=True, slots=True)
class CiderVector:
    """A caption as CIDEr-D sees it: the tf-idf of its n-grams and their norm, by n-gram length.

    `length` is in bigrams, one less than the words: so the COCO code measures it.
    """

    weights: tuple[dict[Ngram, float], ...]
    norms: tuple[float, ...]
    length: int


def cider_vector(words: Sequence[str], frequencies: DocumentFrequencies) -> CiderVector:
    """The vector of a tokenised caption."""
    known, unseen = frequencies.weights, frequencies.unseen
    weights: tuple[dict[Ngram, float], ...] = tuple({} for _ in range(ORDERS))
    for ngram, count in Counter(ngrams(words)).items():
        weights[len(ngram) - 1][ngram] = count * known.get(ngram, unseen)
    norms = tuple(math.sqrt(sum(weight * weight for weight in order.values())) for order in weights)
    return CiderVector(weights, norms, max(0, len(words) - 1))


class Cider:
    """The references of some pictures, ready to score captions of them again and again.

    Args:
        references: For each picture, its tokenised captions.
        frequencies: Those of `references` when None, as the COCO code does.
    """

    def __init__(
        self, references: Sequence[Sequence[Sequence[str]]], frequencies: DocumentFrequencies | None = None
    ) -> None:
        self.frequencies = frequencies or DocumentFrequencies.count(references)
        self._references = [[tuple(caption) for caption in captions] for captions in references]
        self._vectors = {
            caption: cider_vector(caption, self.frequencies)
            for caption in dict.fromkeys(caption for captions in self._references for caption in captions)
        }

    def __len__(self) -> int:
        return len(self._references)

    def score_one(self, words: Sequence[str], picture: int) -> float:
        """The CIDEr-D of a tokenised caption of the picture at an index; 0 to 10, people reach about 0.9 on COCO."""
        candidate = cider_vector(words, self.frequencies)
        captions = self._references[picture]
        return SCALE * sum(_similarity(candidate, self._vectors[caption]) for caption in captions) / len(captions)

    def score(self, candidates: Sequence[Sequence[str]]) -> tuple[float, NDArray[np.float64]]:
        """The mean CIDEr-D of one tokenised caption a picture, and each picture's, (B,)."""
        if len(candidates) != len(self):
            raise ValueError(f"{len(candidates)} candidates for {len(self)} pictures; give one a picture")
        scores = np.array([self.score_one(words, picture) for picture, words in enumerate(candidates)])
        return float(scores.mean()), scores

    def score_plain(self, candidates: Sequence[Sequence[str]]) -> tuple[float, NDArray[np.float64]]:
        """The same of CIDEr as it was before its -D: the plain cosine, whatever the lengths and the repetitions.

        Source: Vedantam et al. 2015, eq. 2 and 3, times 10; without their stemming, which the COCO code leaves out too.
        """
        if len(candidates) != len(self):
            raise ValueError(f"{len(candidates)} candidates for {len(self)} pictures; give one a picture")
        scores = np.zeros(len(self))
        for picture, (words, captions) in enumerate(zip(candidates, self._references, strict=True)):
            candidate = cider_vector(words, self.frequencies)
            cosines = [_cosine(candidate, self._vectors[caption]) for caption in captions]
            scores[picture] = SCALE * sum(cosines) / len(captions)
        return float(scores.mean()), scores

    def best_constant(self) -> tuple[tuple[str, ...], float]:
        """The reference that scores the highest CIDEr-D when it is said of every picture, and that score.

        Exact over all distinct references, without comparing each with each. What an n-gram earns depends only on how
        often the constant has it and how long the constant is, so references are first summed by these: a case is an
        (n-gram, count, length), and cases of one n-gram are compared with each other. Of equals, the first wins.
        """
        captions = list(self._vectors)
        ids: dict[Ngram, int] = {}
        seen = [[ids.setdefault(ngram, len(ids)) for ngram in ngrams(caption)] for caption in captions]
        if not ids:
            return captions[0], 0.0
        owner = np.repeat(np.arange(len(captions)), [len(row) for row in seen])
        pairs, tf = np.unique(
            owner * len(ids) + np.concatenate([np.array(row, int) for row in seen]), return_counts=True
        )
        owner, gram = np.divmod(pairs, len(ids))  # one entry for each n-gram of each caption

        known, unseen = self.frequencies.weights, self.frequencies.unseen
        idf = np.array([known.get(ngram, unseen) for ngram in ids])[gram]
        order = np.array([len(ngram) - 1 for ngram in ids])[gram]
        norm = np.array([self._vectors[caption].norms for caption in captions])[owner, order]
        inverse = np.divide(1, norm, out=np.zeros_like(norm), where=norm > 0)
        length = np.array([self._vectors[caption].length for caption in captions])[owner]
        share = dict.fromkeys(captions, 0.0)
        for group in self._references:
            for caption in group:
                share[caption] += 1 / len(group)

        counts, lengths = int(tf.max()) + 1, int(length.max()) + 1
        cases, case = np.unique((gram * counts + tf) * lengths + length, return_inverse=True)
        offered = _sums(case, np.array(list(share.values()))[owner] * inverse, len(cases))
        earned = _earnings(cases // (counts * lengths), cases // lengths % counts, cases % lengths, offered)
        total = _sums(owner, earned[case] * idf**2 * inverse, len(captions))
        best = int(np.argmax(total))
        return captions[best], float(SCALE * total[best] / ORDERS / len(self))


def cider(
    candidates: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
    frequencies: DocumentFrequencies | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """The mean CIDEr-D, and each picture's.

    Shape: `candidates` B captions of words, `references` B lists of captions; the array is (B,).
    """
    return Cider(references, frequencies).score(candidates)


def _similarity(candidate: CiderVector, reference: CiderVector) -> float:
    cosines = 0.0
    for ours, theirs, our_norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        product = 0.0
        for ngram in ours.keys() & theirs.keys():
            product += min(ours[ngram], theirs[ngram]) * theirs[ngram]
        if product:
            cosines += product / (our_norm * their_norm)
    difference = candidate.length - reference.length
    return cosines / ORDERS * math.exp(-(difference**2) / (2 * SIGMA**2))


def _cosine(candidate: CiderVector, reference: CiderVector) -> float:
    cosines = 0.0
    for ours, theirs, our_norm, their_norm in zip(
        candidate.weights, reference.weights, candidate.norms, reference.norms, strict=True
    ):
        product = sum(ours[ngram] * theirs[ngram] for ngram in ours.keys() & theirs.keys())
        if product:
            cosines += product / (our_norm * their_norm)
    return cosines / ORDERS


def _sums(rows: NDArray[np.intp], values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """The sum of the values of each row, (count,)."""
    return np.asarray(np.bincount(rows, values, count), np.float64)


def _earnings(
    gram: NDArray[np.int64], tf: NDArray[np.int64], length: NDArray[np.int64], offered: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each case earns from all cases of its n-gram, before idf and the constant's norm.

    Shape: everything is (C,), sorted by n-gram; `offered` is the sum of its references' shares over their norms.
    """
    _, start, size = np.unique(gram, return_index=True, return_counts=True)
    sizes = np.repeat(size, size)  # for each case, how many cases its n-gram has
    left = np.repeat(np.arange(len(gram)), sizes)
    first = np.repeat(np.repeat(start, size), sizes)
    right = first + np.arange(len(left)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    gaussian = np.exp(-((length[left] - length[right]) ** 2) / (2 * SIGMA**2))
    earned = np.minimum(tf[left], tf[right]) * tf[right] * gaussian * offered[right]
    return _sums(left, earned, len(gram))
