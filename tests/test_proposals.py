"""Boxes proposed for pictures of any shape, and the boxes of users, good and bad."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from showtell.boxes import area, iou, is_valid
from showtell.errors import BackendError, ConfigError, DataError
from showtell.proposals import MOST_BOXES, check_boxes, read_boxes, selective_search, windows

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def blank(width: int, height: int) -> NDArray[np.uint8]:
    return np.broadcast_to(np.uint8(0), (height, width, 3))


@pytest.mark.parametrize(("width", "height"), [(640, 480), (480, 640), (600, 400), (4000, 3000)])
def test_a_photograph_gets_some_dozens_of_windows(width: int, height: int) -> None:
    found = windows()(blank(width, height))
    assert 30 <= len(found) <= 60
    assert found[0].tolist() == [0, 0, width, height]
    assert (np.diff(area(found)) <= 1e-6).all()


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from([(1.0,), (0.5, 1.0, 2.0)]))
@settings(deadline=None, max_examples=40)
def test_windows_of_any_picture_lie_in_it_and_cover_it(width: int, height: int, shapes: tuple[float, ...]) -> None:
    found = windows(shapes=shapes)(blank(width, height))
    assert found[0].tolist() == [0, 0, width, height]
    assert is_valid(found).all()
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] <= np.array([width, height]) + 1e-6).all()
    among = iou(found, found)
    np.fill_diagonal(among, 0)
    assert among.max(initial=0) <= 0.9
    assert len(found) <= 700


def test_windows_of_one_size_overlap_by_half() -> None:
    found = windows(scales=[0.5], overlap=0.5)(blank(800, 450))[1:]
    side = 0.5 * math.sqrt(800 * 450)
    np.testing.assert_allclose(found[:, 2:] - found[:, :2], side)
    lefts, tops = (np.unique(found[:, axis].round(6)) for axis in (0, 1))
    assert (np.diff(lefts) <= side / 2 + 1e-6).all()
    assert (np.diff(tops) <= side / 2 + 1e-6).all()
    assert (lefts[0], tops[0]) == (0, 0)
    assert (lefts[-1] + side, tops[-1] + side) == pytest.approx((800, 450))
    assert len(found) == len(lefts) * len(tops)


def test_windows_of_a_dot_and_of_a_panorama() -> None:
    assert windows()(blank(1, 1)).tolist() == [[0, 0, 1, 1]]
    panorama = windows()(blank(2000, 100))
    assert 20 <= len(panorama) <= 80
    assert (panorama[:, 3] - panorama[:, 1] == 100).all()
    assert len(windows()(blank(100_000, 1))) <= 200


def test_windows_have_the_shapes_asked_for() -> None:
    found = windows(scales=[0.3], shapes=[0.5, 2])(blank(600, 400))[1:]
    shapes = (found[:, 2] - found[:, 0]) / (found[:, 3] - found[:, 1])
    assert sorted(set(shapes.round(6))) == [0.5, 2]
    np.testing.assert_allclose(area(found), 0.09 * 600 * 400)


def test_windows_out_of_range_are_refused() -> None:
    for scales in ([], [0.5, 0], [math.nan], [-1]):
        with pytest.raises(ConfigError, match=r"scales are \(.*\); give numbers above 0"):
            windows(scales=scales)
    with pytest.raises(ConfigError, match="shapes are"):
        windows(shapes=[math.inf])
    with pytest.raises(ConfigError, match=r"overlap is 1\.0; it must be from 0 to 0\.9"):
        windows(overlap=1.0)
    with pytest.raises(ValueError, match=r"an array \(4, 4\) of float64 is no picture"):
        windows()(np.zeros((4, 4)))  # type: ignore[arg-type]


# Selective search


@pytest.fixture(scope="module")
def opencv() -> Any:
    cv2 = pytest.importorskip("cv2", reason="needs the extra 'regions'")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("this OpenCV lacks its contributed modules")
    return cv2


def test_selective_search_finds_shapes(opencv: Any) -> None:
    picture = np.full((400, 600, 3), 60, np.uint8)
    shapes = np.array([[50, 60, 200, 180], [350, 200, 560, 380], [400, 30, 500, 100]])
    for (x0, y0, x1, y1), colour in zip(shapes, ([220, 30, 30], [30, 200, 40], [240, 220, 40]), strict=True):
        picture[y0:y1, x0:x1] = colour
    for quality in ("single", "fast"):
        found = selective_search(quality=quality)(picture)  # type: ignore[arg-type]
        assert found[0].tolist() == [0, 0, 600, 400]
        assert (iou(shapes, found).max(axis=1) > 0.85).all()


def test_selective_search_of_a_photograph_is_sound_and_repeatable(opencv: Any) -> None:
    picture = np.asarray(Image.open(EXAMPLES / "coffee.jpg").convert("RGB"))
    found = selective_search(most=40)(picture)
    assert 15 <= len(found) <= 40
    assert is_valid(found).all()
    assert (found >= 0).all()
    assert (found[:, 2:] <= [600, 400]).all()
    assert (area(found) >= 0.01 * 600 * 400).all()
    assert (np.diff(area(found)) <= 0).all()
    among = iou(found, found)
    np.fill_diagonal(among, 0)
    assert among.max() <= 0.9
    opencv.setRNGSeed(77)
    np.testing.assert_array_equal(selective_search(most=40)(picture), found)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1000, 50), (3, 700), (2, 2)])
def test_selective_search_takes_pictures_of_any_shape(opencv: Any, width: int, height: int) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)
    found = selective_search(smallest=0)(noise)
    assert found[0].tolist() == [0, 0, width, height]
    assert is_valid(found).all()
    assert (found[:, 2:] <= np.array([width, height]) + 1e-9).all()


def test_selective_search_without_opencv_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(BackendError, match=r"run: pip install 'showtell\[regions\]'"):
        selective_search()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality": "best"}, "quality is 'best'; choose single or fast"),
        ({"side": 4}, "side is 4; selective search needs at least 16 pixels"),
        ({"smallest": 1.0}, r"smallest is 1\.0; it must be from 0 to below 1"),
        ({"most": 0}, "most is 0; it must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        selective_search(**options)


# Boxes of users


def test_boxes_are_read_from_text() -> None:
    assert read_boxes("10,20,30.5,40").tolist() == [[10, 20, 30.5, 40]]
    assert read_boxes("1,2,3,4; -5,0,1e2,8").tolist() == [[1, 2, 3, 4], [-5, 0, 100, 8]]
    assert read_boxes("1,2,3,4 5,6,7,8").tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(DataError, match=r"box 2 of '1,2,3,4;5,6,7' has 3 numbers; a box is x0,y0,x1,y1 in pixels"):
        read_boxes("1,2,3,4;5,6,7")


@pytest.mark.parametrize("missing", [math.nan, None])
@pytest.mark.parametrize("form", [lambda box: box, lambda box: {"box": box, "label": "dog"}])
def test_boxes_are_read_from_json(tmp_path: Path, form: Any, missing: float | None) -> None:
    path = tmp_path / "boxes.json"
    boxes = [form([1, 2, 3.5, 4]), form([-5, 6, 7, missing])]
    path.write_text(json.dumps(boxes), "utf-8")
    for source in (path, str(path)):
        found = read_boxes(source)
        assert found[0].tolist() == [1, 2, 3.5, 4]
        assert found[1, :3].tolist() == [-5, 6, 7]
        assert math.isnan(found[1, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"cannot read boxes from '.*boxes\.json' \(Expecting value.*\); give x0,y0,x1,y1 or a JSON file of"),
        ("{}", r"boxes\.json has no list of boxes; accepted is"),
        ("[]", r"boxes\.json has no list of boxes; accepted is .* with at least one box"),
        ("[[1, 2, 3, 4], [1, 2, 3]]", r"boxes\.json, box 2 is \[1, 2, 3\]; accepted is \[x0, y0, x1, y1\] or"),
        ('[[1, 2, 3, "4"]]', r'box 1 is \[1, 2, 3, "4"\]; accepted is'),
        ("[[1, 2, 3, true]]", "box 1 is .*; accepted is"),
        ('[{"bbox": [1, 2, 3, 4]}]', "box 1 is .*; accepted is"),
        ("[1, 2, 3, 4]", "box 1 is 1; accepted is"),
        (f"[[1, 2, 3, 1{'0' * 400}]]", "box 1 has a number that is too large"),
        ("[" * 100_000, "cannot read boxes from"),
    ],
)
def test_files_without_boxes_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(content, "utf-8")
    with pytest.raises(DataError, match=message):
        read_boxes(path)


def test_what_is_neither_a_text_of_boxes_nor_a_file_is_refused(tmp_path: Path) -> None:
    for source in ("no such file.json", "a,b,c,d", "1,2,3,x", str(tmp_path), "", "\0", "1," * 5000 + "x"):
        with pytest.raises(DataError, match=r"cannot read boxes from .*; give x0,y0,x1,y1 or a JSON file"):
            read_boxes(source)
    path = tmp_path / "boxes.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read boxes from"):
        read_boxes(path)


def test_each_bad_box_is_refused_with_its_reason() -> None:
    boxes = [
        [10, 10, 50, 50],
        [90, 90, 200, 120],
        [100, 0, 150, 50],
        [5, 5, 5, 20],
        [5, 9, 20, 9],
        [30, 10, 20, 20],
        [0, math.nan, 10, 10],
        [0, 0, math.inf, 10],
        [-1e12, 0, 50, 1e12],
    ]
    kept, findings = check_boxes(boxes, 100, 100)
    assert kept.tolist() == [[10, 10, 50, 50], [90, 90, 100, 100], [0, 0, 50, 100]]
    assert [(finding.kind, finding.where, finding.breaks) for finding in findings] == [
        ("box-cut", "box 2", False),
        ("box-outside", "box 3", True),
        ("box-without-area", "box 4", True),
        ("box-without-area", "box 5", True),
        ("box-inverted", "box 6", True),
        ("box-not-a-number", "box 7", True),
        ("box-not-a-number", "box 8", True),
        ("box-cut", "box 9", False),
    ]
    picture = "the picture of 100 × 100 pixels"
    assert [finding.message for finding in findings[:6]] == [
        f"box 2 of 9, (90, 90, 200, 120), reaches out of {picture} and is cut to it",
        f"box 3 of 9, (100, 0, 150, 50), lies outside of {picture} and is refused",
        "box 4 of 9, (5, 5, 5, 20), has no width and is refused",
        "box 5 of 9, (5, 9, 20, 9), has no height and is refused",
        "box 6 of 9, (30, 10, 20, 20), is turned inside out and is refused: x0 is left of x1 and y0 above y1",
        "box 7 of 9, (0, nan, 10, 10), has a coordinate that is no number and is refused",
    ]


def test_a_hundred_thousand_boxes_are_cut_to_the_most() -> None:
    boxes = np.tile([[1.0, 1.0, 5.0, 5.0]], (100_000, 1))
    boxes[3] = [5, 5, 1, 1]
    kept, findings = check_boxes(boxes, 10, 10)
    assert len(kept) == MOST_BOXES
    assert [finding.where for finding in findings] == ["box 4", "box 1002"]
    assert findings[1].message == (
        "98,999 of 100,000 boxes are left out, from box 1,002 on: at most 1000 are used in one picture"
    )
    kept, findings = check_boxes(np.full((100_000, 4), np.nan), 10, 10)
    assert len(kept) == 0
    assert [finding.where for finding in findings] == [f"box {number}" for number in range(1, 12)]
    assert findings[-1].message == "99,990 more boxes reach out of the picture, or are refused (99,990)"


@given(st.lists(st.tuples(*[st.floats(-300, 300) | st.just(math.nan)] * 4), max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_what_is_kept_lies_in_the_picture_and_what_is_not_is_reported(
    boxes: list[tuple[float, ...]], most: int
) -> None:
    kept, findings = check_boxes(boxes, 100, 80, most=most)
    assert is_valid(kept).all()
    assert (kept >= 0).all()
    assert (kept <= [100, 80, 100, 80]).all()
    assert len(kept) <= most
    left_out = [finding for finding in findings if finding.kind in ("too-many-boxes", "more-boxes")]
    refused = [finding for finding in findings if finding.breaks and finding not in left_out]
    if not left_out:
        assert len(kept) + len(refused) == len(boxes)


def test_good_boxes_raise_no_finding() -> None:
    assert check_boxes([[0, 0, 10, 10]], 10, 10)[1] == []
    kept, findings = check_boxes([], 10, 10)
    assert (kept.shape, findings) == ((0, 4), [])
    with pytest.raises(ValueError, match=r"are not boxes; give an array \(R, 4\)"):
        check_boxes([[1, 2, 3]], 10, 10)
    with pytest.raises(ValueError, match="a picture of 0 x 10 pixels"):
        check_boxes([[1, 2, 3, 4]], 0, 10)
