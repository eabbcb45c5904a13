"""A picture with boxes and what was said of each, or with a map of where something was seen -> one picture.

Drawn with Pillow alone. Lines and letters grow with the picture; a plate behind the letters keeps them readable on any
ground, and the plates lie beside each other as far as there is room.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from showtell.boxes import Floats, clip, is_valid
from showtell.errors import DataError

COLOURS = (  # that stay apart for all forms of colour-blindness; Okabe & Ito 2008, without their black
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)

_SMALLEST = 360  # pixels; pictures with a shorter longer side are enlarged, or their letters could not be read
_LETTERS = 1 / 32  # their size, as a share of the square root of the picture's area
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf")
_LINES = 3  # of a label at the most; what is longer ends with an ellipsis
_WIDEST = 0.45  # of the picture, that a label may take where its box is narrower
_STEPS = 24  # places along a side of the picture that are tried where there is no room beside the box
_HEAT = (  # from little to much: dark violet, purple, red, orange, yellow; the lightness rises throughout
    (20, 11, 52),
    (101, 21, 110),
    (187, 55, 84),
    (249, 142, 9),
    (252, 255, 164),
)
_TILE, _TILES, _GAP = 240, 6, 12  # pixels of a picture's longer side in a sheet of maps, pictures in a row, between
_DIMMED, _HEATED = 0.35, 0.6  # how much of the map's colour is laid over the picture, at its least and at its most

_WHOLE = str.maketrans("đĐøØłŁ", "dDoOlL")  # letters that Unicode does not take apart

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class _Label(NamedTuple):
    lines: tuple[str, ...]
    width: int
    height: int


def draw_boxes(
    picture: Image.Image, boxes: ArrayLike, labels: Sequence[str], *, font: str | Path | None = None
) -> Image.Image:
    """A copy of the picture with the boxes and a label at each; a box with an empty label has none.

    Earlier boxes come to lie on top and their labels have the better places. Labels too long for their box are wrapped,
    those longer than three lines are cut. A picture of less than 360 pixels is enlarged.

    Args:
        boxes: In pixels of the picture; what lies outside is not drawn.
        font: A TrueType or OpenType file. By default Pillow's own font, which has the letters of ASCII alone; where
            labels have others, a common font of the system, or no accents where there is none.

    Shape: `boxes` (R, 4).

    Raises:
        ValueError: Not boxes, or not one label each.
        DataError: The font cannot be read.
    """
    corners = clip(boxes, *picture.size)
    if len(labels) != len(corners):
        raise ValueError(f"{len(labels)} labels for {len(corners)} boxes; give one a box")
    scale = max(1, math.ceil(_SMALLEST / max(picture.size)))
    canvas = picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    shown = np.flatnonzero(is_valid(corners))
    corners = corners[shown] * scale
    letters, texts = _open_font(font, [labels[int(row)] for row in shown], canvas.size)
    line = max(2, round(math.sqrt(canvas.width * canvas.height) / 180))
    laid = [_lay_out(text, letters, box, canvas.size) for text, box in zip(texts, corners, strict=True)]
    places = place_labels(corners, [(label.width, label.height) for label in laid], *canvas.size)
    pen = ImageDraw.Draw(canvas)
    colours = [COLOURS[number % len(COLOURS)] for number in range(len(corners))]
    backwards = range(len(corners) - 1, -1, -1)
    for number in backwards:
        _draw_frame(pen, corners[number], colours[number], line)
    for number in backwards:
        if laid[number].lines:
            _draw_label(pen, laid[number], places[number], corners[number], colours[number], letters, line)
    return canvas


def place_labels(boxes: ArrayLike, sizes: Sequence[tuple[int, int]], width: int, height: int) -> Floats:
    """Where the plates of labels go: boxes inside of the picture that cover each other as little as possible.

    Each takes the first free place of: above its box, in its upper left corner, in its lower left, below it, the same
    on the right, and then the nearest free one in the picture. Where none is free it covers others the least it can.

    Shape: `boxes` (R, 4), `sizes` a (width, height) each, in pixels, no larger than the picture; returns (R, 4).
    """
    found = np.zeros((len(sizes), 4))
    for number, (box, size) in enumerate(zip(np.asarray(boxes, np.float64).reshape(-1, 4), sizes, strict=True)):
        room = np.maximum(np.array([width, height], np.float64) - size, 0)
        corners = np.minimum(np.maximum(_places(box, size, room), 0), room)
        plates = np.hstack([corners, corners + size])
        covered = _common(plates, found[:number]).sum(axis=1)
        found[number] = plates[covered.argmin()]
    return found


def heat(
    picture: Image.Image, values: ArrayLike, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """A copy of the picture, dark where a map is low and glowing where it is high, as of attention or of grounding.

    The map's lowest value is the darkest and its highest the brightest, whatever they are; an even map darkens nothing
    and the picture stays as it is.

    Args:
        values: One a cell of a grid over the picture.
        box: What the map is of, in pixels; by default all of the picture. It may reach out of the picture, and what is
            outside of the box is darkest.

    Shape: `values` (rows, columns).

    Raises:
        ValueError: Not a map, a value that is not finite, or a box without area in the picture.
    """
    grid = np.asarray(values, np.float64)
    if grid.ndim != 2 or not grid.size or not np.isfinite(grid).all():
        raise ValueError(f"values of shape {grid.shape} are no map; give finite numbers (rows, columns)")
    shown = picture.convert("RGB")
    spread = grid.max() - grid.min()
    if not spread > 0:
        return shown.copy() if shown is picture else shown
    whole = (0.0, 0.0, float(shown.width), float(shown.height))
    x0, y0, x1, y1 = (round(value) for value in box or whole)
    left, top, right, bottom = (round(value) for value in clip([(x0, y0, x1, y1)], *shown.size)[0].tolist())
    if not (left < right and top < bottom):
        raise ValueError(f"the box {box} has no area in a picture of {shown.width} × {shown.height} pixels")
    small = Image.fromarray(((grid - grid.min()) / spread).astype(np.float32))
    strength = np.zeros((shown.height, shown.width), np.float32)
    part = np.asarray(small.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC))
    strength[top:bottom, left:right] = part[top - y0 : bottom - y0, left - x0 : right - x0].clip(0, 1)
    stops = np.linspace(0, 1, len(_HEAT))
    colours = np.stack([np.interp(strength, stops, channel) for channel in zip(*_HEAT, strict=True)], axis=-1)
    share = (_DIMMED + (_HEATED - _DIMMED) * strength)[..., None]
    return Image.fromarray(np.rint(np.asarray(shown) * (1 - share) + colours * share).astype(np.uint8))


def draw_maps(
    picture: Image.Image,
    words: Sequence[str],
    maps: ArrayLike,
    *,
    box: tuple[float, float, float, float] | None = None,
    font: str | Path | None = None,
) -> Image.Image:
    """A sheet with the picture and then, for each word, the picture with its map and the word beneath.

    Shape: `maps` (T, rows, columns); each is drawn on its own scale.

    Raises:
        ValueError: Not one map a word, or as `heat`.
    """
    values = np.asarray(maps, np.float64)
    if values.ndim != 3 or len(values) != len(words) or not len(words):
        raise ValueError(f"maps of shape {values.shape} for {len(words)} words; give (words, rows, columns)")
    scale = min(1.0, _TILE / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    letters, texts = _open_font(font, list(words), (_TILE, _TILE))
    seen = box and (box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale)
    across, line = min(len(words) + 1, _TILES), _line_height(letters) + 2 * _edge(letters)
    width, height = max(size[0], _TILE // 2) + _GAP, size[1] + line + _GAP
    sheet = Image.new("RGB", (across * width, -(-(len(words) + 1) // across) * height), "white")
    pen = ImageDraw.Draw(sheet)
    tiles = [small, *(heat(small, one, box=seen) for one in values)]
    for place, (tile, text) in enumerate(zip(tiles, ["", *texts], strict=True)):
        left, top = place % across * width, place // across * height
        sheet.paste(tile, (left, top))
        pen.text((left + _edge(letters), top + size[1]), _cut(text, letters, width - _GAP), "black", letters)
    return sheet


def _open_font(font: str | Path | None, texts: list[str], size: tuple[int, int]) -> tuple[Font, list[str]]:
    """The font for a picture of this size, and the texts as it can draw them."""
    letters = round(math.sqrt(size[0] * size[1]) * _LETTERS)
    letters = max(6, min(max(letters, 12), size[1] // 2))
    if font is not None:
        try:
            return ImageFont.truetype(str(font), letters), texts
        except OSError as error:
            raise DataError(f"cannot read the font {font} ({error}); give a TrueType or OpenType file") from error
    if not all(text.isascii() for text in texts):
        for name in _FONTS:
            try:
                return ImageFont.truetype(name, letters), texts
            except OSError:
                continue
        texts = [_without_accents(text) for text in texts]
    return ImageFont.load_default(size=letters), texts


def _without_accents(text: str) -> str:
    apart = unicodedata.normalize("NFKD", text.translate(_WHOLE))
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def _lay_out(text: str, font: Font, box: Floats, size: tuple[int, int]) -> _Label:
    """The label's lines and the size of its plate, no larger than the picture."""
    words = text.split()
    if not words:
        return _Label((), 0, 0)
    edge, high = _edge(font), _line_height(font)
    widest = min(max(box[2] - box[0], _WIDEST * size[0]), size[0]) - 2 * edge
    lines = _wrap(words, font, widest)
    room = max(1, min(_LINES, int((size[1] - 2 * edge) // high)))
    if len(lines) > room:
        lines = [*lines[: room - 1], _cut(f"{lines[room - 1]}…", font, widest)]
    width = math.ceil(max(font.getlength(line) for line in lines)) + 2 * edge
    return _Label(tuple(lines), min(width, size[0]), min(len(lines) * high + 2 * edge, size[1]))


def _wrap(words: Sequence[str], font: Font, widest: float) -> list[str]:
    """Lines no wider than `widest`, broken between words, or in a word that has no room by itself."""
    lines: list[str] = []
    for word in words:
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= widest:
            lines[-1] = joined
            continue
        while len(word) > 1 and font.getlength(word) > widest:
            end = next((end for end in range(2, len(word)) if font.getlength(word[:end]) > widest), len(word)) - 1
            lines.append(word[:end])
            word = word[end:]
            if len(lines) > _LINES:
                return lines
        lines.append(word)
    return lines


def _cut(line: str, font: Font, widest: float) -> str:
    while len(line) > 1 and font.getlength(line) > widest:
        line = f"{line[:-2].rstrip()}…"
    return line


def _places(box: Floats, size: tuple[int, int], room: Floats) -> Floats:
    """Upper left corners of a plate, from best to worst; some may be out of the picture."""
    wide, high = size
    rows = [box[1] - high, box[1], box[3] - high, box[3]]
    beside = [(left, top) for left in (box[0], box[2] - wide) for top in rows]
    inside = [place for place in beside if 0 <= place[1] <= room[1]]
    x, y = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, side, _STEPS) for side in room)))
    anywhere = np.stack([x, y], axis=1)
    away = np.hypot(
        np.maximum(np.maximum(box[0] - wide - x, x - box[2]), 0),
        np.maximum(np.maximum(box[1] - high - y, y - box[3]), 0),
    )
    order = np.argsort(away, kind="stable")
    return np.concatenate([np.array(inside).reshape(-1, 2), anywhere[order]])


def _common(left: Floats, right: Floats) -> NDArray[np.float64]:
    """The area that each of the left boxes has in common with each of the right."""
    wide = np.minimum(left[:, None, 2], right[None, :, 2]) - np.maximum(left[:, None, 0], right[None, :, 0])
    high = np.minimum(left[:, None, 3], right[None, :, 3]) - np.maximum(left[:, None, 1], right[None, :, 1])
    common: NDArray[np.float64] = np.maximum(wide, 0) * np.maximum(high, 0)
    return common


def _draw_frame(pen: ImageDraw.ImageDraw, box: Floats, colour: tuple[int, int, int], line: int) -> None:
    x0, y0 = math.floor(box[0]), math.floor(box[1])
    x1, y1 = max(x0, math.ceil(box[2]) - 1), max(y0, math.ceil(box[3]) - 1)  # Pillow draws the last pixel too
    pen.rectangle((x0, y0, x1, y1), outline=(0, 0, 0), width=line + 2)
    if x1 - x0 > 2 and y1 - y0 > 2:
        pen.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=colour, width=line)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    label: _Label,
    plate: Floats,
    box: Floats,
    colour: tuple[int, int, int],
    font: Font,
    line: int,
) -> None:
    left, top, right, bottom = (round(value) for value in plate.tolist())
    nearest = (min(max(left, box[0]), box[2]), min(max(top, box[1]), box[3]))
    if not (left - 1 <= nearest[0] <= right + 1 and top - 1 <= nearest[1] <= bottom + 1):
        pen.line(((left + right) / 2, (top + bottom) / 2, *nearest), fill=(0, 0, 0), width=line + 2)
        pen.line(((left + right) / 2, (top + bottom) / 2, *nearest), fill=colour, width=line)
    pen.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=(0, 0, 0))
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179  # where black letters contrast as much as white ones
    for number, text in enumerate(label.lines):
        place = (left + _edge(font), top + _edge(font) + number * _line_height(font))
        pen.text(place, text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)


def _line_height(font: Font) -> int:
    """From the top of the tallest letter to under the lowest, in pixels; the same for every text."""
    return math.ceil(font.getbbox("ÅÉghjpqyg")[3]) + 1


def _edge(font: Font) -> int:
    return max(1, round(_line_height(font) / 6))
