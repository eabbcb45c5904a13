"""Captions and their pictures -> the part of a page that shows all of them, to sort, to filter, and to look through.

The page holds one line of JSON a picture and a script that makes cards of those in view, so that a page of 5,000 opens
at once. Pictures are small WebPs; a map is a byte a cell, against its word's highest.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError, ImageError
from showtell.images import Source, read_sized
from showtell.records import Box, Caption

MOST = 5000  # pictures of a page that opens at once

_SIDE = 192  # pixels of the longer side
_QUALITY = 50
_READERS = 2
_AHEAD = 64  # pictures that are made small together
_GRID = 14  # cells of a map's side that are kept

Seen = tuple[Sequence[str], NDArray[Any], Box]  # words, their maps (T, rows, columns), what these cover of the picture


@dataclass(frozen=True)
class Shown:
    """A picture of the sheet.

    Args:
        cider: CIDEr-D of the caption, where there are references.
        references: What people wrote, each with how often.
        look: Finds where the words are, given the size of the picture as it is read; None where nothing says so.
    """

    name: str
    caption: Caption
    picture: Source
    cider: float | None = None
    references: Sequence[tuple[str, int]] = ()
    look: Callable[[int, int], Seen | None] = lambda width, height: None


def sheet_rows(shown: Iterable[Shown], progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """A line of JSON of each picture, which may stand inside an HTML `script`."""
    waiting = iter(shown)
    done = 0
    with ThreadPoolExecutor(_READERS) as readers:
        while group := list(islice(waiting, _AHEAD)):
            for row in readers.map(_row, group):
                done += 1
                progress(done)
                yield json.dumps(row, separators=(",", ":")).replace("<", "\\u003c")


def _row(one: Shown) -> dict[str, Any]:
    caption = one.caption
    row: dict[str, Any] = {"name": one.name, "said": caption.text}
    if caption.confidence is not None:
        row["sure"] = round(caption.confidence, 4)
    elif math.isfinite(caption.logprob):
        row["sure"] = round(math.exp(min(0.0, caption.logprob / (len(caption.words or caption.text.split()) + 1))), 4)
    if one.cider is not None:
        row["cider"] = round(one.cider, 4)
    if one.references:
        row["references"] = list(one.references)
    try:
        picture, (width, height) = read_sized(one.picture, draft=2 * _SIDE)
    except ImageError as error:
        return row | {"error": str(error)}
    picture.thumbnail((_SIDE, _SIDE))
    written = io.BytesIO()
    picture.save(written, "WEBP", quality=_QUALITY)
    row["picture"] = base64.b64encode(written.getvalue()).decode()
    seen = None
    with suppress(DataError):  # the model knows none of the words
        seen = one.look(width, height)
    if seen is not None and len(seen[0]):
        words, maps_TRC, (left, top, right, bottom) = seen
        small_TRC = _pooled(maps_TRC)
        row["words"] = list(words)
        row["grid"] = list(small_TRC.shape[1:])
        row["maps"] = base64.b64encode(_bytes(small_TRC)).decode()
        box = (left / width, top / height, right / width, bottom / height)
        if box != (0, 0, 1, 1):
            row["box"] = [round(edge, 4) for edge in box]
    return row


def _pooled(maps_TRC: NDArray[Any]) -> NDArray[Any]:
    """The maps with neighbours put together until a side has no more than `_GRID` cells."""
    by = [max(1, -(-side // _GRID)) for side in maps_TRC.shape[1:]]
    rows, columns = (side // step * step for side, step in zip(maps_TRC.shape[1:], by, strict=True))
    cut_TRC = maps_TRC[:, :rows, :columns]
    pooled: NDArray[Any] = cut_TRC.reshape(len(cut_TRC), rows // by[0], by[0], columns // by[1], by[1]).mean((2, 4))
    return pooled


def _bytes(maps_TRC: NDArray[Any]) -> bytes:
    kept_TRC = np.maximum(maps_TRC, 0)
    highest_T11 = kept_TRC.max((1, 2), keepdims=True)
    shares_TRC = np.divide(kept_TRC, highest_T11, out=np.zeros(kept_TRC.shape), where=highest_T11 > 0)
    return bytes(np.rint(255 * shares_TRC).astype(np.uint8).data)
