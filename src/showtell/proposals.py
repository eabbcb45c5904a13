"""A picture -> boxes around what may be worth describing, before anything is known of it.

A `Proposer` is a function from a picture to boxes, best or largest first. There are three: windows over the whole
picture (they need nothing), selective search (it follows the picture's edges; needs OpenCV), and a detector in ONNX
(`detectors`), which also says what is in its boxes. Boxes that a user gives instead are read and checked here.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from showtell.boxes import Floats, area, clip, is_valid, nms
from showtell.errors import BackendError, ConfigError, DataError
from showtell.records import Finding

Picture = NDArray[np.uint8]  # (height, width, 3), RGB, upright
Proposer = Callable[[Picture], Floats]  # to (R, 4), pixels of that picture

MOST_BOXES = 1000  # of the user's own that are described in one picture

_TOLD = 10  # boxes that a sentence is said of
_ALIKE = 0.9  # intersection over union; of two boxes closer than this, the first stands for both
_MOST_ACROSS = 64  # windows along one side, however long


def picture_size(picture: Picture) -> tuple[int, int]:
    """The height and width of a picture.

    Raises:
        ValueError: The array is none.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
        raise ValueError(f"an array {picture.shape} of {picture.dtype} is no picture; give (height, width, 3) of uint8")
    return picture.shape[0], picture.shape[1]


def resize(picture: Picture, width: int, height: int) -> Picture:
    """The picture in another size."""
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


# Windows


def windows(
    *, scales: Sequence[float] = (0.7, 0.5, 0.35), shapes: Sequence[float] = (1.0,), overlap: float = 0.5
) -> Proposer:
    """Proposes windows that cover the picture, row by row, at several sizes; the full frame first, then large to small.

    A photograph of 4:3 gets 43 with the defaults, a panorama of 20:1 gets 55.

    Args:
        scales: The side of a square window, as a share of the square root of the picture's area. Where that is longer
            than a side of the picture, the window ends with the picture.
        shapes: Width over height of windows of the same area; (0.5, 1, 2) adds tall and wide ones.
        overlap: The share of a window that its neighbour covers too, at the least; from 0 to 0.9.

    Raises:
        ConfigError: An argument out of its range.
    """
    for name, values in (("scales", scales), ("shapes", shapes)):
        if not values or not all(math.isfinite(value) and value > 0 for value in values):
            raise ConfigError(f"{name} are {tuple(values)!r}; give numbers above 0")
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"overlap is {overlap!r}; it must be from 0 to 0.9, a share of a window")

    def propose(picture: Picture) -> Floats:
        height, width = picture_size(picture)
        found = [np.array([[0.0, 0.0, width, height]])]
        for scale in sorted(scales, reverse=True):
            for shape in shapes:
                side = scale * math.sqrt(width * height)
                wide, high = min(side * math.sqrt(shape), width), min(side / math.sqrt(shape), height)
                if min(wide, high) >= 1:
                    found.append(_tiles(width, height, wide, high, overlap))
        return _distinct(np.concatenate(found))

    return propose


def _tiles(width: int, height: int, wide: float, high: float, overlap: float) -> Floats:
    """Windows of one size at even distances from edge to edge, row by row."""
    lefts = np.linspace(0, width - wide, _positions(width, wide, overlap))
    tops = np.linspace(0, height - high, _positions(height, high, overlap))
    x, y = (places.ravel() for places in np.meshgrid(lefts, tops))
    return np.stack([x, y, x + wide, y + high], axis=1)


def _positions(side: float, window: float, overlap: float) -> int:
    return min(1 + math.ceil((side - window) / (window * (1 - overlap)) - 1e-9), _MOST_ACROSS)


def _distinct(boxes: Floats) -> Floats:
    """The boxes without those that nearly repeat an earlier one."""
    return boxes[nms(boxes, -np.arange(len(boxes)), _ALIKE)]


# Selective search


def selective_search(
    *,
    quality: Literal["single", "fast"] = "fast",
    side: int = 200,
    smallest: float = 0.01,
    most: int = 100,
) -> Proposer:
    """Proposes the boxes of segments of like colour and texture as they grow together; the full frame first.

    The same picture gives the same boxes: OpenCV orders them by chance, here they go from large to small.

    Args:
        quality: "single" segments the picture once, in one colour space; "fast" six times, in two, which takes about
            eight times as long and finds about four times as many boxes.
        side: The picture is first reduced until its longer side has at most this many pixels; the time grows faster
            than their number.
        smallest: Boxes with a smaller share of the picture's area are left out.
        most: Boxes at the most, the full frame among them; the smallest are left out.

    Raises:
        BackendError: OpenCV is not installed, or lacks selective search.
        ConfigError: An argument out of its range.

    Source: Uijlings et al. 2013 (Selective Search for Object Recognition).
    """
    if quality not in ("single", "fast"):
        raise ConfigError(f"quality is {quality!r}; choose single or fast")
    if side < 16:
        raise ConfigError(f"side is {side!r}; selective search needs at least 16 pixels")
    if not 0 <= smallest < 1:
        raise ConfigError(f"smallest is {smallest!r}; it must be from 0 to below 1, a share of the picture's area")
    if most < 1:
        raise ConfigError(f"most is {most!r}; it must be at least 1")
    try:
        import cv2

        segmentation = cv2.ximgproc.segmentation
    except (ImportError, AttributeError) as error:  # AttributeError: OpenCV without its contributed modules
        raise BackendError(
            "selective search needs opencv-contrib-python-headless; run: pip install 'showtell[regions]'"
        ) from error

    def propose(picture: Picture) -> Floats:
        height, width = picture_size(picture)
        small = _reduce(picture, side)
        search = segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(small[:, :, ::-1]))  # OpenCV's colours are blue, green, red
        if quality == "single":
            search.switchToSingleStrategy()
        else:
            search.switchToSelectiveSearchFast()
        left, top, wide, high = np.asarray(search.process(), np.float64).reshape(-1, 4).T
        boxes = np.stack([left, top, left + wide, top + high], axis=1)
        boxes *= np.array([width / small.shape[1], height / small.shape[0]] * 2)
        sizes = area(boxes)
        order = np.lexsort((*boxes.T[::-1], -sizes))
        boxes = boxes[order[sizes[order] >= smallest * width * height]]
        return _distinct(np.concatenate([[[0.0, 0.0, width, height]], boxes]))[:most]

    return propose


def _reduce(picture: Picture, side: int) -> Picture:
    height, width = picture.shape[:2]
    scale = side / max(width, height)
    if scale >= 1:
        return picture
    return resize(picture, max(1, round(width * scale)), max(1, round(height * scale)))


# The user's own boxes


def read_boxes(source: str | os.PathLike[str]) -> Floats:
    """The boxes of a JSON file, or those that a text spells out.

    A text has four numbers a box, "x0,y0,x1,y1", and semicolons or blanks between boxes. A file has [[x0, y0, x1, y1],
    …] or [{"box": [x0, y0, x1, y1]}, …].

    Shape: returns (R, 4), as given: `check_boxes` says which of them a picture has.

    Raises:
        DataError: Neither a text of boxes nor a file of them, or no box.
    """
    text = str(source)
    spelt = [box.split(",") for box in text.replace(";", " ").split()]
    if isinstance(source, str) and "," in text and all(_is_number(number) for box in spelt for number in box):
        for number, box in enumerate(spelt, 1):
            if len(box) != 4:
                raise DataError(f"box {number} of {text!r} has {len(box)} numbers; a box is x0,y0,x1,y1 in pixels")
        return np.array(spelt, np.float64)
    try:
        rows = json.loads(Path(source).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        accepted = "x0,y0,x1,y1 or a JSON file of [[x0, y0, x1, y1], …]"
        raise DataError(f"cannot read boxes from {text[:200]!r} ({reason}); give {accepted}") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{text} has no list of boxes; accepted is [[x0, y0, x1, y1], …] with at least one box")
    return np.array([_four(row, f"{text}, box {number}") for number, row in enumerate(rows, 1)], np.float64)


def check_boxes(boxes: ArrayLike, width: int, height: int, *, most: int = MOST_BOXES) -> tuple[Floats, list[Finding]]:
    """The boxes that a picture has, cut to it, and what was wrong with the others, in a sentence each.

    A box partly outside is cut; one that is entirely outside, has no area, is turned inside out, or has a coordinate
    that is no number is refused. Boxes after the first `most` good ones are not looked at, and after a few sentences
    the last one counts the rest.

    Shape: `boxes` (R, 4) in pixels of the upright picture; returns (K, 4), K at most `most`.

    Raises:
        ValueError: Not an array of boxes, or a picture without pixels.
    """
    given = np.asarray(boxes, np.float64)
    given = given if given.size else given.reshape(0, 4)
    cut = clip(given, width, height)
    ordered = (given[:, 0] < given[:, 2]) & (given[:, 1] < given[:, 3])
    good = np.isfinite(given).all(axis=1) & ordered & is_valid(cut)
    kept = np.flatnonzero(good)[:most]
    end = int(kept[-1]) + 1 if len(kept) == most else len(given)
    odd = np.flatnonzero(~good[:end] | (cut[:end] != given[:end]).any(axis=1))
    findings = [_judge(given, int(row), bool(good[row]), width, height) for row in odd[:_TOLD]]
    if len(odd) > _TOLD:
        refused = int((~good[odd[_TOLD:]]).sum())
        message = f"{len(odd) - _TOLD:,} more boxes reach out of the picture, or are refused ({refused:,})"
        findings.append(Finding("more-boxes", f"box {int(odd[_TOLD]) + 1}", message, breaks=refused > 0))
    if end < len(given):
        left = f"{len(given) - end:,} of {len(given):,} boxes are left out, from box {end + 1:,} on"
        findings.append(Finding("too-many-boxes", f"box {end + 1}", f"{left}: at most {most} are used in one picture"))
    return cut[kept], findings


def _judge(boxes: Floats, row: int, good: bool, width: int, height: int) -> Finding:
    x0, y0, x1, y1 = boxes[row].tolist()
    where = f"box {row + 1}"
    called = f"{where} of {len(boxes)}, ({x0:g}, {y0:g}, {x1:g}, {y1:g}),"
    picture = f"the picture of {width} × {height} pixels"
    if good:
        return Finding("box-cut", where, f"{called} reaches out of {picture} and is cut to it", breaks=False)
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        return Finding("box-not-a-number", where, f"{called} has a coordinate that is no number and is refused")
    if x0 > x1 or y0 > y1:
        order = "x0 is left of x1 and y0 above y1"
        return Finding("box-inverted", where, f"{called} is turned inside out and is refused: {order}")
    if x0 == x1 or y0 == y1:
        return Finding("box-without-area", where, f"{called} has no {'width' if x0 == x1 else 'height'} and is refused")
    return Finding("box-outside", where, f"{called} lies outside of {picture} and is refused")


def _four(row: object, where: str) -> list[float]:
    values = row.get("box") if isinstance(row, dict) else row
    if (
        not isinstance(values, list)
        or len(values) != 4
        or any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in values)
    ):
        accepted = '[x0, y0, x1, y1] or {"box": [x0, y0, x1, y1]}'
        raise DataError(f"{where} is {json.dumps(row)[:100]}; accepted is {accepted}")
    try:
        return [math.nan if value is None else float(value) for value in values]
    except OverflowError as error:
        raise DataError(f"{where} has a number that is too large; coordinates are pixels") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
