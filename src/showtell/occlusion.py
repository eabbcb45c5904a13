"""A caption and its picture's features -> where in the picture each word comes from, for models that do not attend.

A window of the grid is hidden at every cell in turn, and the decoder is led along the caption: a word comes from where
hiding takes the most from its log-probability.

Source: Zeiler & Fergus 2014, section 4.2, on features in place of pixels, so that the encoder need not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.decoding import StepFunction
from showtell.text import START

_WINDOW = 3 / 7  # of the grid's side


def occlusion_maps(
    model: StepFunction, features_LD: NDArray[Any], tokens: Sequence[int], rows: int, columns: int
) -> NDArray[np.float32] | None:
    """(T, rows, columns) of T tokens, each map summing to 1; None where the features are no grid.

    What is hidden becomes the mean of what is not: to a model that takes the mean of the grid, it is not there.
    A map of equal values says that no part of the picture made the word more likely.
    """
    cells = rows * columns
    if not 1 < cells == len(features_LD):
        return None
    hidden_CL = _windows(rows, columns)
    kept_CL = (~hidden_CL).astype(features_LD.dtype)
    rest_CD = kept_CL @ features_LD / kept_CL.sum(1, keepdims=True)
    occluded_CLD = np.where(hidden_CL[:, :, None], rest_CD[:, None], features_LD)
    whole_T = _follow(model, features_LD[None], tokens)
    falls_TL = np.maximum(whole_T - _follow(model, occluded_CLD, tokens), 0)
    sums_T1 = falls_TL.sum(1, keepdims=True)
    shares_TL = np.divide(falls_TL, sums_T1, out=np.full_like(falls_TL, 1 / cells), where=sums_T1 > 0)
    maps_TRC: NDArray[np.float32] = shares_TL.reshape(-1, rows, columns).astype(np.float32)
    return maps_TRC


def _windows(rows: int, columns: int) -> NDArray[np.bool_]:
    """(C, L): the cells that the window hides when it lies at each cell; at the edges it reaches out of the grid."""
    row_L, column_L = np.divmod(np.arange(rows * columns), columns)
    near_rows = abs(row_L[:, None] - row_L) <= _reach(rows)
    near_columns = abs(column_L[:, None] - column_L) <= _reach(columns)
    near: NDArray[np.bool_] = near_rows & near_columns
    return near


def _reach(side: int) -> int:
    return round((_WINDOW * side - 1) / 2) if side > 1 else 0


def _follow(model: StepFunction, features_NLD: NDArray[Any], tokens: Sequence[int]) -> NDArray[np.float64]:
    """(T, N): the log-probability of each token after those before it."""
    memory, state = model.start(features_NLD)
    found = []
    for before, token in zip([START, *tokens], tokens, strict=False):
        output = model.step(np.full(len(features_NLD), before), memory, state)
        found.append(output.logprobs_NC[:, token].astype(np.float64))
        state = output.state
    return np.stack(found) if found else np.empty((0, len(features_NLD)))
