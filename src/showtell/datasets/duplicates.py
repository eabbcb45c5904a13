"""Pictures -> fingerprints -> groups of pictures that are the same one, whatever their files are called.

Two pictures are identical when their decoded pixels are equal, and near-identical when one could be the other after
it was saved again, resized, made lighter or darker, made grey, slightly cropped or marked in a corner, or the next
picture of a burst. Flipped and turned copies are other pictures: their captions may say left and right.

A fingerprint is a perceptual hash, which finds, and a thumbnail and the signs of more frequencies, which confirm.
Pictures in which few frequencies stand out (sea, fog, sky, one colour) have a hash that is mostly noise: of these, only
identical ones count. What is compared is computed in whole numbers, so that machines agree bit by bit.
bench/duplicates.py measures what is found again after which change.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from showtell.errors import ImageError
from showtell.images import Source, read_sized
from showtell.records import Example

MAX_DISTANCE = 11  # bits of 64
MAX_DIFFERENCE = 0.35  # of the contrast

_SIDE = 32  # pixels of the picture that is transformed
_CELLS = 8  # pixels along a side of the thumbnail
_DRAFT = 128  # pixels that are left of a JPEG's shorter side; with 64, cropped copies are missed more often
_HASH_BITS = 64
_DETAIL_BITS = 128
_TOP = 19  # the highest frequency, rows and columns together, among as many bits
_FIXED = 2048  # the cosines as whole numbers
_LUMA = np.array([299, 587, 114])  # thousandths (ITU-R BT.601)
_UNIT = 1000 * _FIXED**2 * _SIDE / 2  # one grey level in an orthonormal transform
_QUIET = 2 * _UNIT  # what is not above it is no feature: drawings have many frequencies of nearly 0
_LOUD = 8 * _UNIT
_FEATURES = 12  # fewer loud frequencies than this, and the hash says too little
_GREY = 4.0  # levels between the greatest and the least channel, on average

# Copies that are saved again or resized differ in at most 16 % of their details and cropped ones in 30 %; pages of
# text, whose hashes and thumbnails are all alike, in 22 % and more.
_SURE_DETAILS = 20  # bits of 128
_LONE_DETAILS = 40
_SURE_DIFFERENCE = 0.5  # of the greatest
_RIVALS = 16  # near pictures of one, beyond which it is like many others

_BANDS = 4
_BAND_BITS = _HASH_BITS // _BANDS
_CHUNK = 1 << 16  # pairs of hashes that are compared at once; the arrays of more would leave the processor's cache
_PART = 1 << 12  # thumbnails that are compared at once
_CROWD = 256  # pictures with an equal band
_LEADERS = 64  # of a crowd
_EVERY = 64  # pictures between two calls of `progress`


class Fingerprint(NamedTuple):
    """What is kept of a picture to find others like it.

    Shape: `details` is (2,) uint64, the signs of the 128 frequencies that follow those of the hash; `thumbnail` is
        (8, 8, 3) uint8, RGB. `features` counts the frequencies of the hash that stand out, 0 to 64.
    """

    hash: np.uint64
    details: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]
    features: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Fingerprints:
    """The fingerprints of N pictures, in their order; about 240 bytes each.

    Shape: `hashes` (N,) uint64, `details` (N, 2) uint64, `thumbnails` (N, 8, 8, 3) uint8, `features` (N,) uint8,
        `digests` (N,) uint64 of the decoded pixels and the size, `sizes` (N, 2) int32.
    Units: `sizes` are width and height in pixels of the upright original, both 0 where no picture was read.
    `failures` has the sentence of each picture that cannot be read, by its row.
    """

    hashes: NDArray[np.uint64]
    details: NDArray[np.uint64]
    thumbnails: NDArray[np.uint8]
    features: NDArray[np.uint8]
    digests: NDArray[np.uint64]
    sizes: NDArray[np.int32]
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def readable(self) -> NDArray[np.bool_]:
        """Which pictures were read, (N,)."""
        return np.asarray(self.sizes[:, 0] > 0)


# making them


def fingerprint(image: Image.Image) -> Fingerprint:
    """The fingerprint of a picture of any size.

    Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1. Differs
        from it: 64 frequencies in the order of a zigzag instead of a square of 8 x 8, and a bit is the sign (above a
        little noise) instead of the side of the median, so that a distance may be odd.
    """
    colours = image if image.mode == "RGB" else image.convert("RGB")
    small = np.asarray(colours.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR))
    grey = (small.astype(np.int64) @ _LUMA).astype(np.float64)
    spectrum = (_COSINES @ grey @ _COSINES.T)[_ROWS, _COLUMNS]  # whole numbers below 2^53, so exact
    cell = _SIDE // _CELLS
    sums = small.reshape(_CELLS, cell, _CELLS, cell, 3).sum((1, 3), dtype=np.int64)
    signs = np.packbits(spectrum > _QUIET).view(">u8").astype(np.uint64)
    return Fingerprint(
        hash=signs[0],
        details=signs[1:],
        thumbnail=((sums + cell * cell // 2) // (cell * cell)).astype(np.uint8),
        features=int((np.abs(spectrum[:_HASH_BITS]) > _LOUD).sum()),
    )


def fingerprint_pictures(
    pictures: Sequence[Example | Source | None],
    *,
    readers: int = 2,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Fingerprints:
    """The fingerprints of many pictures, in their order; each is decoded once and forgotten.

    What has no picture (None, an example of captions alone) is neither readable nor a failure.

    Args:
        readers: Threads that decode; at most two pictures for each are under way.
    """
    total = len(pictures)
    found = Fingerprints(
        hashes=np.zeros(total, np.uint64),
        details=np.zeros((total, _DETAIL_BITS // 64), np.uint64),
        thumbnails=np.zeros((total, _CELLS, _CELLS, 3), np.uint8),
        features=np.zeros(total, np.uint8),
        digests=np.zeros(total, np.uint64),
        sizes=np.zeros((total, 2), np.int32),
        failures={},
    )
    for row, result in enumerate(_read_all(pictures, readers)):
        if isinstance(result, ImageError):
            found.failures[row] = str(result)
        elif result is not None:
            found.hashes[row] = result.print.hash
            found.details[row] = result.print.details
            found.thumbnails[row] = result.print.thumbnail
            found.features[row] = result.print.features
            found.digests[row] = result.digest
            found.sizes[row] = result.size
        if (row + 1) % _EVERY == 0 or row + 1 == total:
            progress("looking at the pictures", row + 1, total)
    return found


class _Read(NamedTuple):
    print: Fingerprint
    digest: int
    size: tuple[int, int]


def _read_all(pictures: Sequence[Example | Source | None], readers: int) -> Iterator[_Read | ImageError | None]:
    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[Future[_Read | ImageError | None]] = deque()
        try:
            for picture in pictures:
                waiting.append(pool.submit(_read, picture.image if isinstance(picture, Example) else picture))
                if len(waiting) > 2 * readers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read(source: Source | None) -> _Read | ImageError | None:
    if source is None:
        return None
    try:
        image, size = read_sized(source, draft=_DRAFT)
    except ImageError as error:
        return error
    digest = hashlib.blake2b(b"%dx%d " % size, digest_size=8)
    digest.update(image.tobytes())
    return _Read(fingerprint(image), int.from_bytes(digest.digest(), "big"), size)


def _cosines() -> NDArray[np.float64]:
    """The lowest frequencies of the cosine transform in whole numbers, (20, 32)."""
    frequency, place = np.arange(_TOP + 1)[:, None], np.arange(_SIDE)
    return np.asarray(np.rint(_FIXED * np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))))


_COSINES = _cosines()
_ROWS, _COLUMNS = np.array([(row, total - row) for total in range(1, _TOP + 1) for row in range(total + 1)])[
    : _HASH_BITS + _DETAIL_BITS
].T


# comparing them


def _count_bits(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many bits of each number are set (numpy's own function needs numpy 2)."""
    return _add_lanes(_count_lanes(values))


def _add_lanes(lanes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The sum of the four numbers of 16 bits in each number."""
    return np.asarray((lanes * np.uint64(0x0001_0001_0001_0001)) >> np.uint64(48), np.uint64)


def _count_lanes(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """How many bits are set in each 16 bits of each number, in these 16 bits."""
    pairs = values - ((values >> np.uint64(1)) & np.uint64(0x5555_5555_5555_5555))
    fours = (pairs & np.uint64(0x3333_3333_3333_3333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333_3333_3333_3333))
    eights = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F_0F0F_0F0F_0F0F)
    return np.asarray((eights + (eights >> np.uint64(8))) & np.uint64(0x00FF_00FF_00FF_00FF), np.uint64)


class Thumbnails:
    """The thumbnails of N pictures, ready to be compared in pairs.

    Shape: `pixels` (N, 8, 8, 3) uint8, RGB.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        channels = pixels.reshape(-1, _CELLS * _CELLS, 3).transpose(0, 2, 1)
        self._pixels = np.ascontiguousarray(channels)  # (N, 3, 64)
        self._colour = np.zeros(len(pixels))  # contrasts: how far from their mean, summed
        self._bright = np.zeros(len(pixels))
        self._grey = np.zeros(len(pixels), bool)
        for start in range(0, len(pixels), _PART):
            part = slice(start, start + _PART)
            values = self._pixels[part].astype(np.float32)
            self._colour[part] = _spread(values)
            self._bright[part] = _spread(_to_grey(values))
            self._grey[part] = (values.max(1) - values.min(1)).mean(1) < _GREY

    def measure(self, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.float64]:
        """How far pictures are apart: the mean absolute difference, as a share of the weaker one's contrast.

        The mean of each channel is taken away first, so that a lighter, darker or tinted copy stays near. Where one of
        the two is grey, brightness alone is compared.
        Shape: rows of P pairs (`right` may be one row), and (P,): 0 is equal, about 1 unrelated.
        """
        left, right = np.broadcast_arrays(left, right)
        found = np.zeros(len(left))
        for start in range(0, len(left), _PART):
            one, other = left[start : start + _PART], right[start : start + _PART]
            apart = self._pixels[one].astype(np.float32)
            apart -= self._pixels[other]
            contrast = np.minimum(self._colour[one], self._colour[other])
            spread = _spread(apart)
            grey = np.flatnonzero(self._grey[one] | self._grey[other])
            contrast[grey] = np.minimum(self._bright[one[grey]], self._bright[other[grey]])
            spread[grey] = _spread(_to_grey(apart[grey]))
            found[start : start + _PART] = spread / np.maximum(contrast, 1e-3)
        return found


def _spread(values: NDArray[Any]) -> NDArray[np.float64]:
    """The mean over channels of the sum of absolute deviations from a channel's mean: (P, C, 64) to (P,)."""
    deviations = values - values.mean(2, keepdims=True)
    return np.asarray(np.abs(deviations, out=deviations).sum((1, 2), dtype=np.float64) / values.shape[1])


def _to_grey(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Brightness in thousandths of a level: (P, 3, 64) to (P, 1, 64)."""
    return np.asarray(np.tensordot(values.astype(np.float64), _LUMA.astype(np.float64), (1, 0))[:, None])


# grouping


def group_identical(prints: Fingerprints) -> NDArray[np.int64]:
    """The number of each picture's group of identical ones, (N,); groups are counted in the order of the pictures.

    A picture that was not read is a group of its own.
    """
    distinct, inverse = np.unique(prints.digests, return_inverse=True)
    return _number(np.where(prints.readable, inverse, len(distinct) + np.arange(len(prints))))


def group_duplicates(
    prints: Fingerprints, *, max_distance: int = MAX_DISTANCE, max_difference: float = MAX_DIFFERENCE
) -> NDArray[np.int64]:
    """The number of each picture's group of identical and near-identical ones, (N,), in the order of the pictures.

    Two pictures are near-identical when their hashes differ in at most `max_distance` bits, their thumbnails by at most
    half of `max_difference` (see `Thumbnails.measure`) and their details in a sixth of the bits. The whole of
    `max_difference` and a third of the details are enough for two that are as near to nothing else: so cropped copies
    are found, and pages of text or X-rays of one organ, which are all a little alike, stay apart.

    Groups are chains of such pairs with a bound: a group has a representative, and what would bring in a picture that
    is more than twice `max_distance` and `max_difference` away from it is left out, so that a slow film is cut into
    scenes instead of becoming one group. The groups do not depend on the order of the pictures.

    The search is exact: of four bands of 16 bits, one differs in at most a quarter of `max_distance` bits, and all
    pictures with such a band are compared. Only where more than 256 pictures share a band (frames of one camera), those
    within half of these limits of one of them are found through that one, so that a crowd does not take the square of
    its size.

    Raises:
        ValueError: A limit is out of range.
    """
    if not 0 <= max_distance < _BAND_BITS:  # beyond it, hashes of different pictures are as near
        raise ValueError(f"max_distance is {max_distance}; it must be from 0 to {_BAND_BITS - 1} bits")
    if not 0 <= max_difference < 1:
        raise ValueError(f"max_difference is {max_difference}; it must be at least 0 and less than 1")
    identical = group_identical(prints)
    if not len(prints):
        return identical
    _, rows = np.unique(identical, return_index=True)
    rows = rows[prints.readable[rows] & (prints.features[rows] >= _FEATURES)]
    rows = rows[np.lexsort((prints.digests[rows], prints.hashes[rows]))]  # by what they show, not by where they are
    groups = _Groups(prints, rows, max_distance, max_difference)
    searched = groups.gather_crowds()
    for left, right in _near_pairs(prints.hashes[rows[searched]], max_distance):
        groups.unite(searched[left], searched[right])
    groups.unite_lone()
    owner = np.arange(identical.max() + 1)  # of each group of identical pictures, the one it joins
    owner[identical[rows]] = identical[rows[groups.of]]
    return _number(owner[identical])


def _number(owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """Group numbers 0, 1, … in the order in which groups first occur."""
    _, first, inverse = np.unique(owner, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], np.int64)


class _Groups:
    """Pictures, at first each alone, that are united pair by pair.

    `of` is each picture's group, named by its representative.
    """

    def __init__(self, prints: Fingerprints, rows: NDArray[np.intp], max_distance: int, max_difference: float) -> None:
        self.of = np.arange(len(rows))
        self._hashes = prints.hashes[rows]
        self._details = prints.details[rows]
        self._thumbnails = Thumbnails(prints.thumbnails[rows])
        self._max_distance = max_distance
        self._max_difference = max_difference
        self._sure_difference = _SURE_DIFFERENCE * max_difference
        self._members: dict[int, list[int]] = {}  # of groups of more than one
        self._rivals = np.zeros(len(rows), np.int64)
        self._loose: list[NDArray[np.intp]] = []  # pairs, (2, P), whose details agree less

    def gather_crowds(self) -> NDArray[np.intp]:
        """Unites what is nearly equal in crowds; returns what the search has to see: the rest, and their leaders."""
        searched = np.arange(len(self._hashes))
        for band in range(_BANDS):
            keys = _take_band(self._hashes[searched], band)
            counts = np.bincount(keys)
            order = np.argsort(keys, kind="stable")
            ends = np.cumsum(counts)
            gone = [
                self._gather(searched[order[ends[key] - counts[key] : ends[key]]])
                for key in np.flatnonzero(counts > _CROWD)
            ]
            searched = np.setdiff1d(searched, np.concatenate(gone)) if gone else searched
        return searched

    def _gather(self, crowd: NDArray[np.intp]) -> NDArray[np.intp]:
        """Unites pictures with the first that they are within half of the limits of; returns those."""
        gone = []
        for _ in range(_LEADERS):
            leader, rest = crowd[:1], crowd[1:]
            near = rest[_count_bits(self._hashes[rest] ^ self._hashes[leader]) <= self._max_distance // 2]
            near = near[self._differing_details(near, leader) <= _SURE_DETAILS // 2]
            near = near[self._thumbnails.measure(near, leader) <= self._sure_difference / 2]
            gone += [row for row in near.tolist() if self._merge(int(self.of[leader[0]]), int(self.of[row]))]
            crowd = np.setdiff1d(rest, near)
            if len(crowd) <= _CROWD:
                break
        return np.array(gone, np.intp)

    def unite(self, left: NDArray[np.intp], right: NDArray[np.intp]) -> None:
        """Unites the groups of pairs whose hashes are near and the rest is, the nearest first."""
        apart = self.of[left] != self.of[right]
        left, right = left[apart], right[apart]
        difference = self._thumbnails.measure(left, right)
        details = self._differing_details(left, right)
        near = (difference <= self._max_difference) & (details <= _LONE_DETAILS)
        sure = near & (details <= _SURE_DETAILS) & (difference <= self._sure_difference)
        self._remember(np.stack([left, right])[:, near & ~sure])
        left, right, difference = left[sure], right[sure], difference[sure]
        order = np.lexsort((right, left, difference, _count_bits(self._hashes[left] ^ self._hashes[right])))
        for pair in order[_first_of_each(np.stack([self.of[left], self.of[right]])[:, order])]:
            self._merge(int(self.of[left[pair]]), int(self.of[right[pair]]))

    def unite_lone(self) -> None:
        """Unites groups that are near to each other, with less agreement of details, and to no others."""
        loose = np.concatenate(self._loose, axis=1) if self._loose else np.zeros((2, 0), np.intp)
        loose = self.of[loose[:, (self._rivals[loose] <= _RIVALS).all(0)]]
        loose = loose[:, loose[0] != loose[1]]
        loose = loose[:, _first_of_each(loose)]
        partners = np.bincount(loose.ravel(), minlength=len(self.of))
        for one, other in loose[:, (partners[loose] == 1).all(0)].T.tolist():
            self._merge(one, other)

    def _remember(self, pairs: NDArray[np.intp]) -> None:
        np.add.at(self._rivals, pairs.ravel(), 1)
        kept = (self._rivals[pairs] <= _RIVALS).all(0)  # so that what is kept stays small
        self._loose.append(pairs[:, kept])

    def _differing_details(self, left: NDArray[np.intp], right: NDArray[np.intp]) -> NDArray[np.int64]:
        return np.asarray(_count_bits(self._details[left] ^ self._details[right]).sum(1).astype(np.int64))

    def _merge(self, one: int, other: int) -> bool:
        """Unites two groups under the larger one's representative, if that is near enough to all; says whether."""
        if one == other:
            return True
        ones, others = (self._members.get(group, [group]) for group in (one, other))
        if (len(others), -other) > (len(ones), -one):
            one, ones, other, others = other, others, one, ones
        joining = np.array(others)
        if (_count_bits(self._hashes[joining] ^ self._hashes[one]) > 2 * self._max_distance).any():
            return False
        if (self._thumbnails.measure(joining, np.array([one])) > 2 * self._max_difference).any():
            return False
        self.of[joining] = one
        ones.extend(others)
        self._members[one] = ones
        self._members.pop(other, None)
        return True


def _first_of_each(pairs: NDArray[np.intp]) -> NDArray[np.intp]:
    """Where each unordered pair of (2, P) first occurs, in their order."""
    low, high = np.sort(pairs, axis=0)
    return np.sort(np.unique(low * (high.max(initial=0) + 1) + high, return_index=True)[1])


def _near_pairs(hashes: NDArray[np.uint64], max_distance: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """All pairs of hashes that differ in at most `max_distance` bits, each once, some at a time.

    Source: Norouzi, Punjani and Fleet, "Fast Search in Hamming Space with Multi-Index Hashing" (2012), section 3.
    """
    values = np.arange(1 << _BAND_BITS, dtype=np.uint64)
    weights = _count_bits(values)
    for radius in range(max_distance // _BANDS + 1):  # pairs with an equal band, the nearest on the whole, come first
        masks = np.flatnonzero(weights == radius).tolist()
        for band in range(_BANDS):
            keys = _take_band(hashes, band)
            order = np.argsort(keys, kind="stable")
            keys, ordered = keys[order], hashes[order]
            places = np.searchsorted(keys, np.arange((1 << _BAND_BITS) + 1))  # where each key begins
            for mask in masks:
                for left, right in _bucket_pairs(keys, places, mask):
                    lanes = _count_lanes(ordered[left] ^ ordered[right])
                    near = np.flatnonzero(_add_lanes(lanes) <= max_distance)
                    near = near[_is_first(lanes[near], band, radius)]
                    if len(near):
                        yield order[left[near]], order[right[near]]


def _take_band(hashes: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(_BAND_BITS * band)) & np.uint64(0xFFFF)).astype(np.int64)


def _is_first(lanes: NDArray[np.uint64], band: int, radius: int) -> NDArray[np.bool_]:
    """Whether no band differs in fewer than `radius` bits, and no earlier band in as few: a pair is found once."""
    first = np.ones(len(lanes), bool)
    for other in range(_BANDS):
        differing = _take_band(lanes, other)
        first &= differing > radius if other < band else differing >= radius
    return first


def _bucket_pairs(
    keys: NDArray[np.int64], places: NDArray[np.intp], mask: int
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The pairs of places in `keys`, which are sorted, whose keys differ by `mask`, each once.

    `places` is where each key begins.
    """
    if mask == 0:
        left = np.arange(len(keys))
        start, end = left + 1, places[keys + 1]
    else:
        left = np.flatnonzero((keys & (1 << (mask.bit_length() - 1))) == 0)
        wanted = keys[left] ^ mask
        start, end = places[wanted], places[wanted + 1]
    some = end > start
    left, start, counts = left[some], start[some], (end - start)[some]
    totals = np.cumsum(counts)
    done = 0
    while done < len(left):
        before = int(totals[done - 1]) if done else 0
        upto = max(done + 1, int(np.searchsorted(totals, before + _CHUNK, side="right")))
        part = counts[done:upto]
        owner = np.repeat(np.arange(done, upto), part)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(part) - part, part)
        yield left[owner], start[owner] + within
        done = upto
