"""Boxes around things in a picture: their area, how far they overlap, which of many to keep, what a grid says of each.

A box is `(x0, y0, x1, y1)` in pixels of the original picture, x to the right and y down, half-open: it covers the
pixels from x0 up to, not including, x1, so its width is x1 - x0 and neighbours that share an edge do not overlap.
Boxes come as float arrays (R, 4). Readers of data sets convert other forms on the way in, and nowhere else.

A grid of features divides the picture into rows x columns of equal cells; there, boxes are in cells: (0, 0, columns,
rows) is the whole picture, whatever its size. `to_grid` brings them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FARTHEST = 1e9  # pixels; no picture reaches it, and products of larger numbers would overflow in the end

_PIECE = 2**20  # numbers that are computed on the way, at a time


def area(boxes: ArrayLike) -> Floats:
    """The pixels that each box covers; 0 for a box turned inside out.

    Shape: `boxes` (R, 4); returns (R,).

    Raises:
        ValueError: Not boxes, or a coordinate is not a number or beyond 10⁹.
    """
    return _area(_finite(boxes, "boxes"))


def iou(left: ArrayLike, right: ArrayLike) -> Floats:
    """Intersection over union of every left box with every right box, from 0 to 1.

    A box without area has 0 with everything, itself included.

    Shape: `left` (R, 4), `right` (S, 4); returns (R, S).

    Raises:
        ValueError: Not boxes, or a coordinate is not a number or beyond 10⁹.
    """
    return _iou(_finite(left, "left"), _finite(right, "right"))


def nms(boxes: ArrayLike, scores: ArrayLike, threshold: float) -> NDArray[np.intp]:
    """The indices of the boxes to keep, best score first: none overlaps a better one by more than `threshold`.

    Greedy non-maximum suppression; of equal scores the lower index counts as better. Threshold 1 keeps every box.

    Shape: `boxes` (R, 4), `scores` (R,); returns (K,), K at most R.

    Raises:
        ValueError: Not boxes, a coordinate or score is not a number, the lengths differ, or the threshold is not
            from 0 to 1.
    """
    corners = _finite(boxes, "boxes")
    values = np.asarray(scores, np.float64)
    if values.shape != (len(corners),):
        raise ValueError(f"scores of shape {values.shape} for {len(corners)} boxes; give one score a box")
    if np.isnan(values).any():
        raise ValueError(f"score {int(np.flatnonzero(np.isnan(values))[0])} is not a number; boxes cannot be ranked")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is not from 0 to 1, as an overlap is")
    waiting = np.argsort(-values, kind="stable")
    kept: list[int] = []
    while waiting.size:
        kept.append(int(waiting[0]))
        rest = waiting[1:]
        waiting = rest[_iou(corners[waiting[:1]], corners[rest])[0] <= threshold]
    return np.array(kept, np.intp)


def from_xywh(boxes: ArrayLike) -> Floats:
    """Boxes from (left, top, width, height), the form of COCO and Visual Genome.

    Shape: (R, 4) to (R, 4). What is not a number stays so; `is_valid` finds it.
    """
    given = _boxes(boxes, "boxes")
    return np.concatenate([given[:, :2], given[:, :2] + given[:, 2:]], axis=1)


def to_xywh(boxes: ArrayLike) -> Floats:
    """(left, top, width, height) of boxes, the inverse of `from_xywh`.

    Shape: (R, 4) to (R, 4).
    """
    given = _boxes(boxes, "boxes")
    return np.concatenate([given[:, :2], given[:, 2:] - given[:, :2]], axis=1)


def clip(boxes: ArrayLike, width: float, height: float) -> Floats:
    """The part of each box that lies in a picture; a box outside of it shrinks to no area on the picture's edge.

    Shape: (R, 4) to (R, 4).
    Units: `width` and `height` in pixels of the original picture.

    Raises:
        ValueError: Not boxes, or a picture without pixels.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"a picture of {width} x {height} pixels has no boxes; give its width and height")
    return np.clip(_boxes(boxes, "boxes"), 0, np.array([width, height, width, height], np.float64))


def is_valid(boxes: ArrayLike) -> NDArray[np.bool_]:
    """Whether each box has four finite coordinates within 10⁹ and a width and height above 0.

    Shape: `boxes` (R, 4); returns (R,).
    """
    given = _boxes(boxes, "boxes")
    near = (np.abs(given) <= FARTHEST).all(axis=1)
    return np.asarray(near & (given[:, 0] < given[:, 2]) & (given[:, 1] < given[:, 3]))


def to_grid(boxes: ArrayLike, width: float, height: float, rows: int, columns: int) -> Floats:
    """The boxes in cells of a grid over the whole picture.

    What ends on the edge of a cell comes out as a whole number, so that `samples=0` below counts the same samples
    whatever the size of the picture.

    Shape: (R, 4) to (R, 4).
    Units: `width` and `height` in the boxes' own: pixels, or 1 and 1 where they are shares of the picture.

    Raises:
        ValueError: Not boxes, a picture without pixels, or a grid without cells.
    """
    if not (width > 0 and height > 0):
        raise ValueError(f"a picture of {width} x {height} pixels has no boxes; give its width and height")
    _check_count("rows", rows, 1)
    _check_count("columns", columns, 1)
    cells = np.array([columns, rows] * 2, np.float64)
    return _boxes(boxes, "boxes") * cells / np.array([width, height] * 2, np.float64)


def pool_weights(boxes: ArrayLike, rows: int, columns: int, *, samples: int = 0) -> NDArray[np.float32]:
    """What each cell of a grid counts in the features of each box: RoI-align with one bin, as a linear map.

    `weights @ features` of features (rows * columns, D) are the boxes' features (R, D), those of `roi_align` with its
    default output. The weights of a box sum to 1, unless samples of it lie outside of the grid (see `roi_align`).

    Args:
        boxes: In cells (`to_grid`).
        samples: See `roi_align`.

    Shape: `boxes` (R, 4); returns (R, rows * columns), cells row by row.

    Raises:
        ValueError: As `roi_align`.
    """
    corners = _ordered(boxes)
    _check_count("rows", rows, 1)
    _check_count("columns", columns, 1)
    weights = np.empty((len(corners), rows, columns), np.float32)
    for piece in _pieces(len(corners), rows * columns):
        down = _axis_weights(corners[piece, 1], corners[piece, 3], rows, 1, samples)
        across = _axis_weights(corners[piece, 0], corners[piece, 2], columns, 1, samples)
        np.multiply(down.transpose(0, 2, 1), across, out=weights[piece], casting="same_kind")
    return weights.reshape(len(corners), rows * columns)


def roi_align(
    grid_HWD: NDArray[Any], boxes: ArrayLike, *, output: tuple[int, int] = (1, 1), samples: int = 0
) -> NDArray[Any]:
    """The features of each box, from a grid over the picture.

    A box is divided into P x Q bins; a bin's features are the mean of samples at even distances in it, each
    interpolated from the four nearest centres of cells. A sample beyond the outermost centres takes the nearest, and
    one farther than a cell from all of them counts as zero.

    Args:
        boxes: In cells (`to_grid`).
        output: P and Q, bins down and across.
        samples: In a bin along each axis; 0 takes as many as there are cells in a bin, rounded up, and then a box
            without width or height has no sample and features of zero.

    Shape: `grid_HWD` (rows, columns, D), `boxes` (R, 4); returns (R, P, Q, D), float32, or float64 from a grid of that.

    Raises:
        ValueError: Not a grid, not boxes, a coordinate that is not a number or beyond 10⁹, a box turned inside out,
            or a count that is none.

    Source: He et al. 2017 (Mask R-CNN), sec. 3; equal to torchvision's roi_align with aligned=True.
    """
    if grid_HWD.ndim != 3 or 0 in grid_HWD.shape[:2]:
        raise ValueError(f"a grid of shape {grid_HWD.shape} has no cells; give (rows, columns, features)")
    corners = _ordered(boxes)
    rows, columns, width = grid_HWD.shape
    down, across = output
    for bins in output:
        _check_count("output", bins, 1)
    dtype = np.result_type(grid_HWD.dtype, np.float32)
    lines = grid_HWD.astype(dtype, copy=False).reshape(rows, columns * width)
    features = np.empty((len(corners), down, across, width), dtype)
    for piece in _pieces(len(corners), down * columns * width):
        weights_RPH = _axis_weights(corners[piece, 1], corners[piece, 3], rows, down, samples).astype(dtype)
        weights_RQW = _axis_weights(corners[piece, 0], corners[piece, 2], columns, across, samples).astype(dtype)
        bands = (weights_RPH.reshape(-1, rows) @ lines).reshape(-1, down, columns, width)
        np.matmul(weights_RQW[:, None], bands, out=features[piece])
    return features


def _pieces(count: int, each: int) -> Iterator[slice]:
    """Slices that cover `count` rows of `each` numbers, of about 2²⁰ numbers each."""
    step = max(1, _PIECE // max(1, each))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _axis_weights(begin: Floats, end: Floats, cells: int, bins: int, samples: int) -> Floats:
    """What each cell along one axis counts in each bin of each box; the weights of a grid are products of two such.

    Shape: `begin`, `end` (R,), in cells; returns (R, bins, cells).
    """
    _check_count("samples", samples, 0)
    begin, end = begin - 0.5, end - 0.5  # the centre of cell 0 is at 0; before the difference, as torchvision rounds
    size = (end - begin) / bins
    count = np.full_like(size, samples) if samples else np.ceil(size)
    start = begin[:, None] + np.arange(bins) * size[:, None]  # (R, bins)
    # Of a box far larger than the grid, only the samples near the grid are computed.
    step = np.maximum(size / np.maximum(count, 1), 1e-12)
    first = np.clip(np.floor((-1 - start) / step[:, None] - 0.5) - 1, 0, None)
    most = int(np.minimum(count, np.ceil((cells + 1) / step) + 4).max(initial=0))
    weights = np.zeros((len(begin), bins, cells))
    for piece in _pieces(len(begin), bins * most * cells):
        number = first[piece, :, None] + np.arange(most)  # (R, bins, most)
        of = np.maximum(count[piece], 1)[:, None, None]
        place = start[piece, :, None] + (number + 0.5) * size[piece, None, None] / of
        counts = (number < count[piece, None, None]) & (place >= -1) & (place <= cells)
        nearness = 1 - np.abs(place.clip(0, cells - 1)[..., None] - np.arange(cells))
        nearness = nearness.clip(0, None) * counts[..., None]
        weights[piece] = nearness.sum(axis=2) / of
    return weights


def _check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def _ordered(boxes: ArrayLike) -> Floats:
    found = _finite(boxes, "boxes")
    wrong = (found[:, 0] > found[:, 2]) | (found[:, 1] > found[:, 3])
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(f"box {row} is {found[row].tolist()}, turned inside out; x0 is at most x1 and y0 at most y1")
    return found


def _boxes(boxes: ArrayLike, name: str) -> Floats:
    found = np.asarray(boxes, np.float64)
    if found.size == 0:
        return np.zeros((0, 4))
    if found.ndim != 2 or found.shape[1] != 4:
        raise ValueError(f"{name} of shape {found.shape} are not boxes; give an array (R, 4) of x0, y0, x1, y1")
    return found


def _finite(boxes: ArrayLike, name: str) -> Floats:
    found = _boxes(boxes, name)
    far = ~(np.abs(found) <= FARTHEST).all(axis=1)
    if far.any():
        row = int(np.flatnonzero(far)[0])
        raise ValueError(f"box {row} of {name} is {found[row].tolist()}; coordinates are numbers within 10⁹ pixels")
    return found


def _area(boxes: Floats) -> Floats:
    return np.maximum(boxes[:, 2] - boxes[:, 0], 0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0)


def _iou(left: Floats, right: Floats) -> Floats:
    wide = np.minimum(left[:, None, 2], right[None, :, 2]) - np.maximum(left[:, None, 0], right[None, :, 0])
    high = np.minimum(left[:, None, 3], right[None, :, 3]) - np.maximum(left[:, None, 1], right[None, :, 1])
    common = np.maximum(wide, 0) * np.maximum(high, 0)
    union = _area(left)[:, None] + _area(right)[None, :] - common
    ratio = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    capped: Floats = np.minimum(ratio, 1)  # rounding can lift two boxes that nearly coincide above 1
    return capped
