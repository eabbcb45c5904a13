"""A file of embeddings and queries -> the rows of the greatest dot products, exactly, in one pass over a memory map.

float16 rows are widened block by block in the processor's cache, multiplied, and forgotten; of a span of scores only
those that may still be among the best are sorted. Threads take a part of the rows each.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

_LEAF = 64  # rows a product: with 16 queries, and of the usual widths, too few for a BLAS to start threads of its own
_BLOCK = 512  # rows widened at once; with 256 numbers each they fit a core's second cache
_SPAN = 16_384  # rows whose scores are looked through together
_GROUP = 16  # queries of one pass
_SPARE = 32  # candidates beyond those asked for, which the exact scores put in order

# A float16 becomes a float32 of 1 / 2**112 its value by moving its exponent and mantissa: exact, subnormals included,
# and several times as fast as NumPy's conversion. The queries carry the factor.
_RESCALE = np.float32(2.0**112)
_FIELDS = np.array([0x8FFFE000], np.uint32).view(np.int32)[0]  # sign, the five bits of the exponent, mantissa


def nearest_rows(
    embeddings_NW: NDArray[np.float16],
    queries_QE: NDArray[np.float32],
    top: int,
    *,
    offsets: NDArray[np.int64] | None = None,
    threads: int | None = None,
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each query the rows of the greatest dot products, from the greatest on, and these; equal ones by row.

    Every row is looked at, in one pass for up to 16 queries. Candidates are chosen by dot products in float32, ordered
    by ones in float64; where more rows than `top` and 32 more are as good as equal, float32 decides which are given.

    Shape: `embeddings_NW` little-endian and C-contiguous, W even, E or E + 1; what is mapped into memory stays there.
        Gives (K,) int64 and (K,) float64 a query, K = min(top, rows that count).

    Args:
        offsets: (N,); rows where it is negative do not count.
        threads: All cores when None; each takes a part of the rows.
    """
    if top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    rows, stride = embeddings_NW.shape
    if queries_QE.ndim != 2 or stride != queries_QE.shape[1] + queries_QE.shape[1] % 2:
        raise ValueError(f"queries of shape {queries_QE.shape} for embeddings of shape {embeddings_NW.shape}")
    if not np.isfinite(queries_QE).all():
        raise ValueError("a query holds NaN or infinite numbers")
    threads = max(1, min(threads or os.cpu_count() or 1, -(-rows // _SPAN)))
    spans = np.array_split(np.arange(0, rows, _SPAN), threads)
    found = []
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(queries_QE), _GROUP):
            group = queries_QE[first : first + _GROUP]
            scans = [_Scan(embeddings_NW, group, top + _SPARE, offsets) for _ in range(threads)]
            list(pool.map(_Scan.look, scans, spans))
            for number, query in enumerate(group):
                candidates = np.concatenate([scan.best[number].rows for scan in scans])
                found.append(rank_rows(embeddings_NW, query, candidates, top))
    return found


def rank_rows(
    embeddings: NDArray[np.float16], query: NDArray[np.float32], rows: NDArray[np.int64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The best of some rows by the dot product in float64, which is the same wherever a row stands."""
    vectors = embeddings[rows, : len(query)].astype(np.float64)
    scores = (vectors * query).sum(axis=1)
    order = np.lexsort((rows, -scores))[:top]
    return rows[order], scores[order]


class _Best:
    """The best rows so far of one query."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self.rows = np.empty(0, np.int64)
        self._scores = np.empty(0, np.float32)
        self._least = np.float32(-np.inf)  # what a later row must surpass

    def offer(self, scores: NDArray[np.float32], start: int) -> None:
        """Looks at the scores of the rows from `start` on, which follow those of before."""
        hits = np.flatnonzero(scores > self._least)
        if len(hits) > self._keep:
            values = scores[hits]
            hits = hits[values >= np.partition(values, len(hits) - self._keep)[len(hits) - self._keep]]
        if not len(hits):
            return
        rows = np.concatenate([self.rows, hits + start])
        values = np.concatenate([self._scores, scores[hits]])
        order = np.lexsort((rows, -values))[: self._keep]
        self.rows, self._scores = rows[order], values[order]
        if len(order) == self._keep:
            self._least = self._scores[-1]


class _Scan:
    """One thread's pass: its buffers, and the best rows of each query."""

    def __init__(
        self,
        embeddings: NDArray[np.float16],
        queries: NDArray[np.float32],
        keep: int,
        offsets: NDArray[np.int64] | None,
    ) -> None:
        self._pairs = embeddings.view("<i4")  # of float16: the first of two in the lower half
        self._mapped = getattr(embeddings, "_mmap", None)
        self._offsets = offsets
        count, width = queries.shape
        padded = np.zeros((2 * self._pairs.shape[1], count), np.float32)
        padded[:width] = queries.T * _RESCALE
        self._even, self._odd = (np.ascontiguousarray(padded[start::2]) for start in (0, 1))
        self._bits = np.zeros((_BLOCK, self._pairs.shape[1]), np.int32)
        self._leaves = self._bits.view(np.float32).reshape(_BLOCK // _LEAF, _LEAF, -1)
        self._part = np.empty((_BLOCK // _LEAF, _LEAF, count), np.float32)
        self._scores = np.empty((_SPAN // _LEAF, _LEAF, count), np.float32)
        self.best = [_Best(keep) for _ in range(count)]

    def look(self, starts: Sequence[int]) -> None:
        for start in map(int, starts):
            stop = min(start + _SPAN, len(self._pairs))
            self._ask_for(start, stop)
            for block in range(start, stop, _BLOCK):
                leaf = (block - start) // _LEAF
                self._multiply(
                    self._pairs[block : min(block + _BLOCK, stop)], self._scores[leaf : leaf + _BLOCK // _LEAF]
                )
            scores = self._scores.reshape(_SPAN, -1)[: stop - start]
            if self._offsets is not None:
                scores[np.asarray(self._offsets[start:stop] < 0)] = -np.inf
            for number, best in enumerate(self.best):
                best.offer(scores[:, number], start)

    def _ask_for(self, start: int, stop: int) -> None:
        """Lets the system read a whole span from the disk at once instead of page by page."""
        if self._mapped is not None and hasattr(self._mapped, "madvise"):
            stride = self._pairs.strides[0]
            begin = start * stride // mmap.PAGESIZE * mmap.PAGESIZE
            with contextlib.suppress(OSError, ValueError):  # advice that is not taken costs nothing
                self._mapped.madvise(mmap.MADV_WILLNEED, begin, stop * stride - begin)

    def _multiply(self, pairs: NDArray[np.int32], out: NDArray[np.float32]) -> None:
        """The scores of a block of rows, (leaves, 64, queries); of rows that are not there, any numbers."""
        bits = self._bits[: len(pairs)]
        np.right_shift(pairs, 3, out=bits)
        np.bitwise_and(bits, _FIELDS, out=bits)
        np.matmul(self._leaves, self._odd, out=out)
        np.left_shift(pairs, 16, out=bits)
        np.right_shift(bits, 3, out=bits)
        np.bitwise_and(bits, _FIELDS, out=bits)
        np.matmul(self._leaves, self._even, out=self._part)
        np.add(out, self._part, out=out)
