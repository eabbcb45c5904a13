"""CIDEr-D of thousands of sampled captions at once, as rewards of self-critical training (Rennie et al. 2017).

The values are those of `metrics.cider`, over token ids in place of words: a captioner is rewarded in its own words,
which `text.tokenise` makes, not the PTB tokeniser. Everything is arrays: an n-gram is one 64-bit number, the references
of a picture are sorted tables of them, and no step loops over captions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.bleu import ORDERS
from showtell.metrics.cider import SCALE, SIGMA
from showtell.text import END, PAD

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Keys = NDArray[np.uint64]

_BITS = 16  # of a word in an n-gram's key
_NONE = np.uint64(2**64 - 1)  # no n-gram: its words would be beyond the largest id
_CHUNK = 20_000  # references whose n-grams are found together


@dataclass(frozen=True)
class _Grams:
    """The different n-grams of some captions, an entry each.

    Shape: all (E,): the caption, the key, how often the caption has it, its length less one.
    """

    row: Ints
    key: Keys
    count: Ints
    order: Ints


class CiderReward:
    """The references of training pictures, ready to reward captions of them again and again.

    Takes 260 bytes a reference of RSICD, more where references share fewer n-grams.

    Args:
        references: For each picture, its captions as word ids, without START, END and PAD.
        documents: The references that n-grams are weighted by, in the same form; None: `references`.

    Raises:
        ValueError: An id is not from 0 to 65,534, or a picture has no reference.
    """

    def __init__(
        self,
        references: Sequence[Sequence[Sequence[int]]],
        documents: Sequence[Sequence[Sequence[int]]] | None = None,
    ) -> None:
        counts = np.array([len(group) for group in references], np.int64)
        if not len(counts) or not counts.all():
            raise ValueError("a picture has no reference; CIDEr-D compares with at least one")
        picture_R = _owners(references)
        place_R = np.arange(len(picture_R)) - np.repeat(np.cumsum(counts) - counts, counts)
        grams = _grams_of(references)
        weighing = grams if documents is None else _grams_of(documents)
        owner_R = picture_R if documents is None else _owners(documents)
        # Both tables end in an entry that nothing is equal to, so that they are never empty.
        keys = grams.key if documents is None else np.concatenate([grams.key, weighing.key])
        self._known = np.append(np.unique(keys), _NONE)
        self._unseen = math.log(len(references if documents is None else documents))
        pairs = np.unique(owner_R[weighing.row] * len(self._known) + _find(self._known, weighing.key))
        frequency = np.bincount(pairs % len(self._known), minlength=len(self._known))
        self._idf = self._unseen - np.log(np.maximum(1, frequency))
        gram_E = _find(self._known, grams.key)
        slot_E = picture_R[grams.row] * len(self._known) + gram_E
        slots, inverse_E = np.unique(slot_E, return_inverse=True)  # (picture, n-gram) pairs
        self._slots = np.append(slots, len(counts) * len(self._known))
        self._times = np.zeros((len(self._slots), int(counts.max())), np.uint8)  # in each reference of the picture
        self._times[inverse_E, place_R[grams.row]] = np.minimum(grams.count, 255)
        self._counts = counts
        squares_E = (grams.count * self._idf[gram_E]) ** 2
        norm_RO = np.sqrt(np.bincount(grams.row * ORDERS + grams.order, squares_E, len(picture_R) * ORDERS))
        self._inverse_norm = np.zeros((len(counts), int(counts.max()), ORDERS))
        norm_RO = norm_RO.reshape(-1, ORDERS)
        self._inverse_norm[picture_R, place_R] = np.divide(1, norm_RO, out=np.zeros_like(norm_RO), where=norm_RO > 0)
        self._lengths = np.zeros((len(counts), int(counts.max())))
        self._lengths[picture_R, place_R] = [max(0, len(words) - 1) for words in chain.from_iterable(references)]

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._counts)

    def score(self, tokens_NT: NDArray[np.integer], pictures_N: NDArray[np.integer]) -> Floats:
        """The CIDEr-D of each caption, 0 to 10.

        Args:
            tokens_NT: N captions of word ids, without START; what comes after END or PAD does not count.
            pictures_N: The picture of each.

        Shape: returns (N,).
        """
        ids_NT = np.asarray(tokens_NT, np.int64)
        pictures_N = np.asarray(pictures_N, np.int64)
        stops_NT = (ids_NT == END) | (ids_NT == PAD)
        lengths_N = np.where(stops_NT.any(1), stops_NT.argmax(1), ids_NT.shape[1])
        grams = _grams(ids_NT, lengths_N)
        gram_E = _find(self._known, grams.key)
        known_E = gram_E >= 0
        idf_E = np.where(known_E, self._idf[gram_E], self._unseen)
        cell_E = grams.row * ORDERS + grams.order
        norm_NO = np.sqrt(np.bincount(cell_E, (grams.count * idf_E) ** 2, len(ids_NT) * ORDERS))
        slot_E = np.where(known_E, pictures_N[grams.row] * len(self._known) + gram_E, -1)
        slot_E = _find(self._slots, slot_E)
        shared = np.flatnonzero(slot_E >= 0)
        times_SR = self._times[slot_E[shared]].astype(np.float64)
        earned_SR = np.minimum(grams.count[shared, None], times_SR) * times_SR * idf_E[shared, None] ** 2
        products = [
            np.bincount(cell_E[shared], earned_SR[:, place], len(ids_NT) * ORDERS) for place in range(times_SR.shape[1])
        ]
        product_NRO = np.stack(products).reshape(-1, len(ids_NT), ORDERS).transpose(1, 0, 2)
        inverse_NO = np.divide(1, norm_NO, out=np.zeros_like(norm_NO), where=norm_NO > 0).reshape(-1, ORDERS)
        cosine_NR = (product_NRO * self._inverse_norm[pictures_N] * inverse_NO[:, None]).sum(-1) / ORDERS
        difference_NR = np.maximum(0, lengths_N - 1)[:, None] - self._lengths[pictures_N]
        similar_NR = cosine_NR * np.exp(-(difference_NR**2) / (2 * SIGMA**2))
        return np.asarray(SCALE * similar_NR.sum(1) / self._counts[pictures_N])


def _owners(references: Sequence[Sequence[Sequence[int]]]) -> Ints:
    return np.repeat(np.arange(len(references)), [len(group) for group in references])


def _grams_of(references: Sequence[Sequence[Sequence[int]]]) -> _Grams:
    """The n-grams of all references, which are numbered through."""
    captions = list(chain.from_iterable(references))
    parts = []
    for start in range(0, len(captions), _CHUNK):
        chunk = captions[start : start + _CHUNK]
        lengths_N = np.array([len(words) for words in chunk], np.int64)
        tokens_NT = np.zeros((len(chunk), max(1, int(lengths_N.max(initial=0)))), np.int64)
        tokens_NT[np.arange(tokens_NT.shape[1]) < lengths_N[:, None]] = np.fromiter(
            chain.from_iterable(chunk), np.int64
        )
        part = _grams(tokens_NT, lengths_N)
        parts.append(_Grams(part.row + start, part.key, part.count, part.order))
    return _Grams(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def _grams(tokens_NT: Ints, lengths_N: Ints) -> _Grams:
    """The n-grams of captions of the given lengths."""
    if tokens_NT.size and not (tokens_NT.min() >= 0 and tokens_NT.max() < 2**_BITS - 1):
        raise ValueError(f"ids are from {tokens_NT.min()} to {tokens_NT.max()}; they must be from 0 to {2**_BITS - 2}")
    words_NT = (tokens_NT + 1).astype(np.uint64)  # so that a shorter n-gram has zeros in front
    key_NT = np.zeros_like(words_NT)
    columns = []
    for order in range(min(ORDERS, tokens_NT.shape[1])):
        key_NT = (key_NT[:, : key_NT.shape[1] - (order > 0)] << np.uint64(_BITS)) | words_NT[:, order:]
        width = key_NT.shape[1]
        outside_NT = np.arange(order, order + width) >= lengths_N[:, None]
        ordered_NT = np.sort(np.where(outside_NT, _NONE, key_NT), axis=1)
        begins_NT = np.ones(ordered_NT.shape, np.bool_)
        begins_NT[:, 1:] = ordered_NT[:, 1:] != ordered_NT[:, :-1]
        place = np.flatnonzero(begins_NT)
        key, count = ordered_NT.ravel()[place], np.diff(place, append=ordered_NT.size)
        real = np.flatnonzero(key != _NONE)
        columns.append((place[real] // width, key[real], count[real], np.full(len(real), order)))
    return _Grams(*(np.concatenate(parts) for parts in zip(*columns, strict=True)))


def _find(table: NDArray[Any], wanted: NDArray[Any]) -> Ints:
    """The place of each wanted number in a sorted table that is not empty, or -1.

    Sorted first, since a search that walks through the table is several times as fast as one that jumps.
    """
    order = np.argsort(wanted)
    ordered = wanted[order]
    place = np.searchsorted(table, ordered)
    place[place == len(table)] = 0
    found = np.where(table[place] == ordered, place, -1)
    out = np.empty_like(found)
    out[order] = found
    return out
