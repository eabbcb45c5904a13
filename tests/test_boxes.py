"""Box geometry: what was computed by hand, what counting pixels says, what suppression keeps, what a grid says."""

from __future__ import annotations

import importlib
import math
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from showtell.boxes import area, clip, from_xywh, iou, is_valid, nms, pool_weights, roi_align, to_grid, to_xywh

Corners = tuple[int, int, int, int]
GRID = st.tuples(*[st.integers(0, 12)] * 4)
COORDINATES = st.floats(-1e6, 1e6, allow_nan=False)
BOXES = st.lists(st.tuples(*[COORDINATES] * 4), max_size=8)

PLACES = st.floats(-4, 12, allow_subnormal=False) | st.integers(-3, 10).map(lambda half: half / 2)
CELLS = st.tuples(*[PLACES] * 4).map(lambda box: (*map(min, box[:2], box[2:]), *map(max, box[:2], box[2:])))
SIZES = st.integers(1, 7)


def covered(box: Corners) -> NDArray[np.bool_]:
    """The pixels of a half-open box, on a small canvas."""
    canvas = np.zeros((12, 12), bool)
    canvas[box[1] : box[3], box[0] : box[2]] = True
    return canvas


def brute_nms(boxes: list[Corners], scores: list[float], threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(boxes)), key=lambda index: (-scores[index], index)):
        one = covered(boxes[index])
        overlaps = []
        for other in kept:
            union = (one | covered(boxes[other])).sum()
            overlaps.append((one & covered(boxes[other])).sum() / union if union else 0.0)
        if all(overlap <= threshold for overlap in overlaps):
            kept.append(index)
    return kept


def test_area_by_hand() -> None:
    assert area([[0, 0, 4, 3], [1.5, 2, 2, 10], [5, 5, 5, 9], [4, 4, 2, 2]]).tolist() == [12, 4, 0, 0]


def test_iou_by_hand() -> None:
    left = [[0, 0, 2, 2], [0, 0, 4, 4]]
    right = [[0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2], [0.5, 0.5, 1.5, 1.5]]
    expected = [[1, 1 / 7, 0, 1 / 4], [4 / 16, 4 / 16, 4 / 16, 1 / 16]]
    np.testing.assert_allclose(iou(left, right), expected)


def test_boxes_that_share_an_edge_do_not_overlap() -> None:
    assert iou([[0, 0, 10, 10]], [[10, 0, 20, 10], [0, 10, 10, 20], [9, 9, 20, 20]])[0] == pytest.approx(
        [0, 0, 1 / (100 + 121 - 1)]
    )


@given(st.lists(GRID, min_size=1, max_size=5), st.lists(GRID, min_size=1, max_size=5))
@settings(deadline=None)
def test_iou_equals_counting_pixels(left: list[Corners], right: list[Corners]) -> None:
    found = iou(left, right)
    assert found.shape == (len(left), len(right))
    for row, one in enumerate(left):
        for column, other in enumerate(right):
            union = (covered(one) | covered(other)).sum()
            expected = (covered(one) & covered(other)).sum() / union if union else 0.0
            assert found[row, column] == pytest.approx(expected)


@given(BOXES, BOXES)
@settings(deadline=None)
def test_iou_is_a_symmetric_share(left: list[tuple[float, ...]], right: list[tuple[float, ...]]) -> None:
    found = iou(left, right)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found, iou(right, left).T)


def test_boxes_without_area_overlap_nothing() -> None:
    flat = [[3, 3, 3, 9], [5, 5, 2, 2], [4, 4, 4, 4]]
    assert not iou(flat, [*flat, [0, 0, 10, 10]]).any()
    assert nms(flat, [1, 2, 3], 0.0).tolist() == [2, 1, 0]


def test_nms_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60], [0, 0, 10, 9]]
    # IoU of the first with the second is 90/110, with the last 0.9, of the second with the last 81/109.
    assert nms(boxes, [0.8, 0.9, 0.1, 0.7], 0.5).tolist() == [1, 2]
    assert nms(boxes, [0.8, 0.9, 0.1, 0.7], 0.8).tolist() == [1, 3, 2]
    assert nms(boxes, [0.8, 0.9, 0.1, 0.7], 0.85).tolist() == [1, 0, 2]
    assert nms(boxes, [0.8, 0.9, 0.1, 0.7], 1.0).tolist() == [1, 0, 3, 2]


def test_nms_of_equal_scores_keeps_the_first() -> None:
    assert nms([[0, 0, 4, 4]] * 3 + [[9, 9, 12, 12]], [0.5] * 4, 0.3).tolist() == [0, 3]
    assert nms([], [], 0.5).tolist() == []


@given(st.lists(st.tuples(GRID, st.sampled_from([0.1, 0.5, 0.9, 0.95])), max_size=12), st.floats(0, 1))
@settings(max_examples=200, deadline=None)
def test_nms_equals_brute_force(scored: list[tuple[Corners, float]], threshold: float) -> None:
    boxes, scores = [box for box, _ in scored], [score for _, score in scored]
    assert nms(boxes, scores, threshold).tolist() == brute_nms(boxes, scores, threshold)


def test_nms_of_many_boxes_leaves_none_that_overlap() -> None:
    rng = random.Random(3)
    corners = [(rng.uniform(0, 500), rng.uniform(0, 400)) for _ in range(2000)]
    boxes = np.array([(x, y, x + rng.uniform(5, 150), y + rng.uniform(5, 150)) for x, y in corners])
    scores = np.array([rng.random() for _ in boxes])
    kept = nms(boxes, scores, 0.4)
    assert 20 < len(kept) < 1500
    assert (np.diff(scores[kept]) <= 0).all()
    among = iou(boxes[kept], boxes[kept])
    np.fill_diagonal(among, 0)
    assert among.max() <= 0.4
    dropped = np.setdiff1d(np.arange(len(boxes)), kept)
    better = scores[kept][:, None] >= scores[dropped][None, :]
    assert ((iou(boxes[kept], boxes[dropped]) > 0.4) & better).any(axis=0).all()


def test_width_and_height_by_hand() -> None:
    assert from_xywh([[10, 20, 30, 40]]).tolist() == [[10, 20, 40, 60]]
    assert to_xywh([[10, 20, 40, 60]]).tolist() == [[10, 20, 30, 40]]
    assert from_xywh([]).shape == to_xywh([]).shape == (0, 4)


@given(st.lists(GRID, max_size=5))
@settings(deadline=None)
def test_the_forms_convert_back(boxes: list[Corners]) -> None:
    np.testing.assert_array_equal(to_xywh(from_xywh(boxes)), np.array(boxes, float).reshape(-1, 4))


def test_clip_by_hand() -> None:
    given_boxes = [[-5, -5, 20, 8], [2, 3, 4, 5], [30, 2, 40, 6]]
    assert clip(given_boxes, 10, 6).tolist() == [[0, 0, 10, 6], [2, 3, 4, 5], [10, 2, 10, 6]]
    assert is_valid(clip(given_boxes, 10, 6)).tolist() == [True, True, False]


def test_valid_boxes_have_finite_corners_in_order() -> None:
    boxes = [
        [0, 0, 1, 1],
        [-3, 0.5, 2, 0.75],
        [0, 0, 0, 1],
        [2, 0, 1, 1],
        [0, math.nan, 1, 1],
        [0, 0, math.inf, 1],
        [0, 0, 1e10, 1],
    ]
    assert is_valid(boxes).tolist() == [True, True, False, False, False, False, False]
    assert is_valid([]).tolist() == []


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_coordinates_that_are_no_pixels_are_refused(bad: float) -> None:
    boxes = [[0, 0, 1, 1], [0, 0, bad, 1]]
    for function in (area, lambda b: iou(b, [[0, 0, 1, 1]]), lambda b: iou([[0, 0, 1, 1]], b)):
        with pytest.raises(ValueError, match=r"box 1 of \w+ is \[0\.0, 0\.0, .*\]; coordinates are numbers"):
            function(boxes)
    with pytest.raises(ValueError, match="box 1 of boxes"):
        nms(boxes, [1, 2], 0.5)


def test_what_is_not_boxes_is_refused() -> None:
    for bad in ([0, 0, 1, 1], [[0, 0, 1]], np.zeros((2, 2, 4))):
        with pytest.raises(ValueError, match=r"are not boxes; give an array \(R, 4\)"):
            area(bad)
    with pytest.raises(ValueError, match=r"scores of shape \(1,\) for 2 boxes"):
        nms([[0, 0, 1, 1]] * 2, [1], 0.5)
    with pytest.raises(ValueError, match="score 1 is not a number"):
        nms([[0, 0, 1, 1]] * 2, [1, math.nan], 0.5)
    with pytest.raises(ValueError, match=r"threshold 1\.5 is not from 0 to 1"):
        nms([[0, 0, 1, 1]], [1], 1.5)
    with pytest.raises(ValueError, match="a picture of 0 x 5 pixels"):
        clip([[0, 0, 1, 1]], 0, 5)


# Boxes over a grid


def one_sample(grid: NDArray[Any], y: float, x: float) -> NDArray[Any]:
    """The definition of torchvision, a sample at a time."""
    rows, columns = grid.shape[:2]
    if y < -1 or y > rows or x < -1 or x > columns:
        return np.zeros(grid.shape[2])
    y, x = max(y, 0.0), max(x, 0.0)
    top, left = int(y), int(x)
    below, right = top + 1, left + 1
    if top >= rows - 1:
        top = below = rows - 1
        y = float(top)
    if left >= columns - 1:
        left = right = columns - 1
        x = float(left)
    down, across = y - top, x - left
    upper = (1 - across) * grid[top, left] + across * grid[top, right]
    lower = (1 - across) * grid[below, left] + across * grid[below, right]
    return np.asarray((1 - down) * upper + down * lower)


def loop_align(grid: NDArray[Any], box: tuple[float, ...], output: tuple[int, int], samples: int) -> NDArray[Any]:
    x0, y0, x1, y1 = (value - 0.5 for value in box)
    high, wide = (y1 - y0) / output[0], (x1 - x0) / output[1]
    lines, spots = samples or math.ceil(high), samples or math.ceil(wide)
    found = np.zeros((*output, grid.shape[2]))
    for p in range(output[0]):
        for q in range(output[1]):
            for line in range(lines):
                for spot in range(spots):
                    y = y0 + p * high + (line + 0.5) * high / lines
                    found[p, q] += one_sample(grid, y, x0 + q * wide + (spot + 0.5) * wide / spots)
    return found / max(lines * spots, 1)


@given(st.lists(CELLS, max_size=2), SIZES, SIZES, st.sampled_from([(1, 1), (2, 3)]), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_features_of_boxes_equal_plain_loops(
    boxes: list[tuple[float, ...]], rows: int, columns: int, output: tuple[int, int], samples: int
) -> None:
    grid = np.random.default_rng(rows * 8 + columns).normal(size=(rows, columns, 3))
    expected = np.array([loop_align(grid, box, output, samples) for box in boxes]).reshape(-1, *output, 3)
    found = roi_align(grid, boxes, output=output, samples=samples)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-10)
    single = roi_align(grid.astype(np.float32), boxes, output=output, samples=samples)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected, atol=1e-5)
    if output == (1, 1):
        weights = pool_weights(boxes, rows, columns, samples=samples)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights @ grid.reshape(-1, 3), expected[:, 0, 0], atol=1e-5)


def torchvisions_align() -> Any:
    """torchvision's roi_align(grid BCHW, rois (K, 5), output, samples), its compiled half or else its Python one."""
    torch = pytest.importorskip("torch", reason="needs the extra 'train'")
    from showtell.learn.encoders import list_encoders

    list_encoders("none")  # imports timm, and with it torchvision, whatever build that is
    module = importlib.import_module("torchvision.ops.roi_align")
    if importlib.import_module("torchvision.extension")._has_ops():
        return lambda *given_: module.roi_align(*given_[:2], given_[2], 1.0, given_[3] or -1, True)
    eager = getattr(getattr(module, "_roi_align", None), "__wrapped__", None)
    if eager is None:
        pytest.skip(f"torchvision's compiled half does not load beside torch {torch.__version__}")
    return lambda *given_: eager(*given_[:2], 1.0, *given_[2], given_[3] or -1, True)


@pytest.mark.parametrize("output", [(1, 1), (3, 2)])
@pytest.mark.parametrize("samples", [0, 2])
def test_features_of_boxes_equal_torchvisions(output: tuple[int, int], samples: int) -> None:
    align = torchvisions_align()
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    grid = rng.normal(size=(6, 9, 4))
    corners = rng.uniform(0, 1, (40, 2, 2))
    corners.sort(axis=1)
    boxes = (corners * [9, 6]).reshape(-1, 4)  # torchvision's Python half knows only boxes inside of the grid
    rois = torch.from_numpy(np.hstack([np.zeros((40, 1)), boxes]))
    expected = align(torch.from_numpy(grid.transpose(2, 0, 1)[None]), rois, output, samples).numpy()
    found = roi_align(grid, boxes, output=output, samples=samples)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-10)


def test_the_whole_picture_is_the_mean_of_its_cells() -> None:
    weights = pool_weights([[0, 0, 4, 3]], 3, 4)
    np.testing.assert_allclose(weights, np.full((1, 12), 1 / 12), atol=1e-7)
    one_cell = pool_weights([[2, 1, 3, 2]], 3, 4).reshape(3, 4)
    assert one_cell[1, 2] == 1
    assert one_cell.sum() == 1


def test_a_box_far_from_the_grid_counts_nothing_and_one_around_it_a_share() -> None:
    assert not pool_weights([[50, 50, 60, 60], [-9, 0, -3, 3]], 3, 4).any()
    around = pool_weights([[-1e8, -1e8, 1e8, 1e8]], 3, 4)
    assert 0 < around.sum() < 1e-10
    assert pool_weights([[1, 1, 1, 2]], 3, 4).sum() == 0  # no width, hence no sample
    assert pool_weights([[1, 1, 1, 2]], 3, 4, samples=40).sum() == pytest.approx(1)


def test_features_of_no_boxes_are_an_empty_array() -> None:
    assert pool_weights([], 3, 4).shape == (0, 12)
    assert roi_align(np.ones((3, 4, 5), np.float16), [], output=(2, 2)).shape == (0, 2, 2, 5)


def test_many_boxes_take_little_memory_beside_the_result() -> None:
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, 14, (40_000, 2, 2)), axis=1).reshape(-1, 4)
    grid = rng.normal(size=(14, 14, 8)).astype(np.float32)
    tracemalloc.start()
    weights = pool_weights(corners, 14, 14)
    features = roi_align(grid, corners)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert weights.shape == (40_000, 196)
    assert features.shape == (40_000, 1, 1, 8)
    assert peak - weights.nbytes - features.nbytes < 60 * 2**20


def test_boxes_in_cells_by_hand() -> None:
    assert to_grid([[0, 0, 640, 480], [320, 120, 480, 240]], 640, 480, 4, 8).tolist() == [[0, 0, 8, 4], [4, 1, 6, 2]]
    assert to_grid([[0, 0.25, 1, 1]], 1, 1, 4, 8).tolist() == [[0, 1, 8, 4]]


@given(st.integers(1, 4000), st.integers(1, 20), st.integers(0, 20), st.integers(1, 20))
@settings(deadline=None)
def test_edges_of_cells_are_whole_numbers(width: int, columns: int, left: int, cells: int) -> None:
    pixels = [left * width / columns, (left + cells) * width / columns]
    if all(value.is_integer() for value in pixels):
        found = to_grid([[pixels[0], 0, pixels[1], 1]], width, 1, 1, columns)
        assert found[0, [0, 2]].tolist() == [left, left + cells]


def test_what_is_no_grid_or_no_count_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a grid of shape \(4, 3\) has no cells"):
        roi_align(np.ones((4, 3)), [[0, 0, 1, 1]])
    with pytest.raises(ValueError, match=r"box 1 is \[2\.0, 0\.0, 1\.0, 1\.0\], turned inside out"):
        roi_align(np.ones((2, 2, 1)), [[0, 0, 1, 1], [2, 0, 1, 1]])
    with pytest.raises(ValueError, match="box 0 of boxes is"):
        pool_weights([[0, 0, math.nan, 1]], 2, 2)
    with pytest.raises(ValueError, match="rows is 0; it must be a whole number of at least 1"):
        pool_weights([[0, 0, 1, 1]], 0, 2)
    with pytest.raises(ValueError, match=r"samples is -1; it must be a whole number of at least 0"):
        pool_weights([[0, 0, 1, 1]], 2, 2, samples=-1)
    with pytest.raises(ValueError, match=r"output is 1\.5; it must be a whole number"):
        roi_align(np.ones((2, 2, 1)), [[0, 0, 1, 1]], output=(1.5, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a picture of 0 x 5 pixels"):
        to_grid([[0, 0, 1, 1]], 0, 5, 2, 2)
