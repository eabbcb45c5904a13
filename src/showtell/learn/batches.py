"""Captions as flat arrays of ids, and seeded batches of them: what the loop of `training` runs over.

A batch is a number of pictures with all their references. References of a picture that say the same (RSICD repeats
them) are one row with a weight, which costs less than half the time there and leaves the loss as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.records import Example
from showtell.text import PAD, START, Vocabulary, tokenise

_WINDOW = 32  # batches within which pictures are put together by caption length


class Batch(NamedTuple):
    """Shape: tokens (N, T) int64 from START to END, padded with PAD; rows (N,), the picture of each caption within the
    batch; weights (N,) float32, how many references a row stands for; items (B,), the pictures' numbers in the table.
    """

    tokens_NT: Tensor
    rows_N: Tensor
    weights_N: Tensor
    items_B: NDArray[np.int64]

    def to(self, device: torch.device) -> Batch:
        """The same with its tensors on a device."""
        return Batch(self.tokens_NT.to(device), self.rows_N.to(device), self.weights_N.to(device), self.items_B)


class CaptionTable:
    """The captions of some examples as ids.

    Takes 2 bytes a word and some 12 a caption, so that a set ten times as large as RSICD stays small.
    """

    def __init__(self, examples: Sequence[Example], vocabulary: Vocabulary, max_words: int) -> None:
        words: list[NDArray[np.uint16]] = []
        lengths, weights, captions = [], [], [0]
        kind = np.uint16 if len(vocabulary) <= 2**16 else np.int32
        for example in examples:
            rows = Counter(
                tuple(vocabulary.encode(tokenise(text), max_length=max_words)) for text in example.references
            )
            for row, count in rows.items():
                words.append(np.asarray(row, kind))
                lengths.append(len(row))
                weights.append(count)
            captions.append(len(lengths))
        self._words = np.concatenate(words) if words else np.zeros(0, kind)
        self._starts = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        self._weights = np.asarray(weights, np.float32)
        self._captions = np.asarray(captions, np.int64)
        longest = [max(lengths[a:b], default=0) for a, b in pairwise(captions)]
        self._longest = np.asarray(longest, np.int64)

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._captions) - 1

    def count_words(self, words: int) -> Tensor:
        """(V,) float32: how often each id is a target; START and PAD never are."""
        weights = np.repeat(self._weights, np.diff(self._starts))
        counts_V = np.bincount(self._words, weights, minlength=words)
        counts_V[START] = 0
        return torch.from_numpy(counts_V.astype(np.float32))

    def captions_of(self, item: int) -> list[tuple[NDArray[np.int64], float]]:
        """(ids from START to END, weight) of each distinct caption of a picture."""
        rows = range(self._captions[item], self._captions[item + 1])
        return [
            (
                self._words[self._starts[row] : self._starts[row + 1]].astype(np.int64),
                float(self._weights[row]),
            )
            for row in rows
        ]

    def batch(self, items_B: NDArray[np.int64]) -> Batch:
        """All captions of some pictures."""
        found = [(row, *caption) for row, item in enumerate(items_B) for caption in self.captions_of(int(item))]
        tokens_NT = np.full((len(found), max(len(ids) for _, ids, _ in found)), PAD, np.int64)
        for number, (_, ids, _) in enumerate(found):
            tokens_NT[number, : len(ids)] = ids
        return Batch(
            torch.from_numpy(tokens_NT),
            torch.tensor([row for row, _, _ in found]),
            torch.tensor([weight for _, _, weight in found]),
            items_B,
        )

    def epoch(self, rng: np.random.Generator, pictures: int) -> list[NDArray[np.int64]]:
        """The pictures of each batch of one pass, in random order, of similar caption length within a batch."""
        order = rng.permutation(len(self))
        window = _WINDOW * pictures
        by_length = [
            chunk[np.argsort(self._longest[chunk], kind="stable")]
            for chunk in (order[i : i + window] for i in range(0, len(order), window))
        ]
        batches = [chunk[i : i + pictures] for chunk in by_length for i in range(0, len(chunk), pictures)]
        return [batches[i] for i in rng.permutation(len(batches))]

    def in_order(self, pictures: int) -> Iterator[NDArray[np.int64]]:
        """The pictures of each batch of one pass, as they come."""
        for start in range(0, len(self), pictures):
            yield np.arange(start, min(start + pictures, len(self)))
