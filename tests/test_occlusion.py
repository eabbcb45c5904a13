"""Maps of captioners that do not attend: a model whose words hang on known cells must be seen through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from showtell.decoding import Arrays, StepOutput
from showtell.occlusion import occlusion_maps
from showtell.text import START


class Mean:
    """A model of the mean of its grid: word v is as likely as the mean's number v, after any words."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []  # tokens of each step

    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        return {"mean": features_BLD.mean(1)}, {"steps": np.zeros((len(features_BLD), 1))}

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        assert len(tokens_N) == len(memory["mean"]) == len(state["steps"])
        assert len(set(tokens_N.tolist())) == 1
        self.seen.append(tokens_N.tolist()[:1])
        logits_NV = memory["mean"]
        return StepOutput(logits_NV - np.log(np.exp(logits_NV).sum(1, keepdims=True)), {"steps": state["steps"] + 1})


def planted(rows: int, columns: int, width: int, places: dict[int, tuple[int, int]]) -> NDArray[np.float32]:
    """A grid in which the word `v` is said because of one cell."""
    grid = np.zeros((rows, columns, width), np.float32)
    for word, (row, column) in places.items():
        grid[row, column, word] = 9
    return grid.reshape(-1, width)


def test_the_map_of_a_word_lies_around_the_cell_it_comes_from() -> None:
    places = {5: (1, 2), 8: (5, 5), 6: (0, 0)}
    model = Mean()
    maps = occlusion_maps(model, planted(7, 7, 10, places), [5, 8, 6], 7, 7)
    assert maps is not None
    assert maps.dtype == np.float32
    assert maps.shape == (3, 7, 7)
    np.testing.assert_allclose(maps.sum((1, 2)), 1, rtol=1e-5)
    for map_RC, (row, column) in zip(maps, places.values(), strict=True):
        expected = np.zeros((7, 7), np.bool_)
        expected[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = True
        assert (map_RC[expected] > 0.5 / expected.sum()).all()  # every window that hides the cell
        assert map_RC[~expected].sum() < 0.1
    assert model.seen == [[START], [5], [8]] * 2  # the decoder is led along the caption, whole and hidden


def test_maps_are_what_hiding_takes_word_by_word() -> None:
    rng = np.random.default_rng(4)
    features = rng.normal(size=(12, 9)).astype(np.float32)
    maps = occlusion_maps(Mean(), features, [4, 7], 3, 4)
    assert maps is not None

    def logprob(grid: NDArray[np.float32], word: int) -> float:
        mean = grid.astype(np.float64).mean(0)
        return float(mean[word] - np.log(np.exp(mean).sum()))

    for number, word in enumerate((4, 7)):
        falls = np.zeros((3, 4))
        for row in range(3):
            for column in range(4):
                near = [abs(place % 4 - column) <= 0 and abs(place // 4 - row) <= 0 for place in range(12)]
                hidden = features.copy()
                hidden[near] = features[~np.array(near)].mean(0)
                falls[row, column] = max(0.0, logprob(features, word) - logprob(hidden, word))
        np.testing.assert_allclose(maps[number], falls / falls.sum(), atol=1e-4)


def test_a_word_that_no_part_made_likelier_has_a_flat_map() -> None:
    maps = occlusion_maps(Mean(), np.ones((49, 8), np.float32), [4], 7, 7)
    assert maps is not None
    np.testing.assert_allclose(maps, 1 / 49, rtol=1e-5)


def test_a_caption_without_words_has_no_maps() -> None:
    maps = occlusion_maps(Mean(), np.ones((49, 8), np.float32), [], 7, 7)
    assert maps is not None
    assert maps.shape == (0, 7, 7)


@pytest.mark.parametrize(("cells", "rows", "columns"), [(1, 1, 1), (5, 2, 2)])
def test_features_that_are_no_grid_have_no_maps(cells: int, rows: int, columns: int) -> None:
    assert occlusion_maps(Mean(), np.ones((cells, 8), np.float32), [4], rows, columns) is None
