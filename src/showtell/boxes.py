"""Boxes around things in a picture: their area, how far they overlap, which of many to keep.

A box is `(x0, y0, x1, y1)` in pixels of the original picture, x to the right and y down, half-open: it covers the
pixels from x0 up to, not including, x1, so its width is x1 - x0 and neighbours that share an edge do not overlap.
Boxes come as float arrays (R, 4). Readers of data sets convert other forms on the way in, and nowhere else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

FARTHEST = 1e9  # pixels; no picture reaches it, and products of larger numbers would overflow in the end


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
