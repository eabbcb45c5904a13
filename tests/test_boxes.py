"""Box geometry: what was computed by hand, what counting pixels says, and what suppression keeps."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from showtell.boxes import area, clip, from_xywh, iou, is_valid, nms, to_xywh

Corners = tuple[int, int, int, int]
GRID = st.tuples(*[st.integers(0, 12)] * 4)
COORDINATES = st.floats(-1e6, 1e6, allow_nan=False)
BOXES = st.lists(st.tuples(*[COORDINATES] * 4), max_size=8)


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
def test_iou_equals_counting_pixels(left: list[Corners], right: list[Corners]) -> None:
    found = iou(left, right)
    assert found.shape == (len(left), len(right))
    for row, one in enumerate(left):
        for column, other in enumerate(right):
            union = (covered(one) | covered(other)).sum()
            expected = (covered(one) & covered(other)).sum() / union if union else 0.0
            assert found[row, column] == pytest.approx(expected)


@given(BOXES, BOXES)
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
@settings(max_examples=200)
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
