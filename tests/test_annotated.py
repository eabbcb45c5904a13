"""Boxes with labels and maps drawn on pictures: what is where, what stays readable, what is left alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageFont

from showtell.boxes import area
from showtell.errors import DataError
from showtell.report import annotated
from showtell.report.annotated import COLOURS, draw_boxes, draw_maps, heat, place_labels

GREY = (90, 90, 90)
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def share_of(picture: Image.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(picture) == colour).all(axis=-1).mean())


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.prod(sides.clip(0, None)))


def test_frames_and_plates_are_in_the_colours_of_their_boxes() -> None:
    picture = Image.new("RGB", (640, 480), GREY)
    drawn = draw_boxes(picture, [[100, 100, 300, 300], [400, 200, 500, 400]], ["a dog", ""])
    assert drawn.size == (640, 480)
    assert picture.getcolors() == [(640 * 480, GREY)]
    pixels = np.asarray(drawn)
    assert tuple(pixels[200, 102]) == COLOURS[0]  # the frame, left
    assert tuple(pixels[298 - 1, 200]) == COLOURS[0]  # and below
    assert tuple(pixels[300, 402]) == COLOURS[1]
    assert tuple(pixels[200, 200]) == GREY
    assert (pixels[70:99, 100:150] == COLOURS[0]).all(axis=-1).mean() > 0.3  # the plate, on top of the box
    assert (pixels[150:199, 400:500] == GREY).all()  # none over the box with an empty label


@pytest.mark.parametrize("number", range(len(COLOURS)))
def test_letters_contrast_with_their_plates(number: int) -> None:
    boxes = [[10, 60, 40, 90]] * number + [[100, 100, 200, 200]]
    labels = [""] * number + ["WWWWWW"]
    drawn = np.asarray(draw_boxes(Image.new("RGB", (400, 300), GREY), boxes, labels))
    plate = drawn[76:96, 103:160].reshape(-1, 3)

    def lightness(colour: NDArray[np.uint8]) -> float:
        return float(((colour / 255) ** 2.2) @ [0.2126, 0.7152, 0.0722])

    ground = lightness(np.array(COLOURS[number]))
    apart = max(
        (max(lightness(c), ground) + 0.05) / (min(lightness(c), ground) + 0.05) for c in np.unique(plate, axis=0)
    )
    assert apart > 4.5  # of the guidelines for readable text on the web


@given(
    st.lists(
        st.tuples(st.floats(0, 500), st.floats(0, 300), st.floats(1, 300), st.floats(1, 300), st.integers(5, 200)),
        max_size=8,
    ),
    st.integers(200, 600),
    st.integers(60, 400),
)
@settings(deadline=None, max_examples=50)
def test_plates_stay_in_the_picture(
    given_: list[tuple[float, float, float, float, int]], width: int, height: int
) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in given_]).reshape(-1, 4)
    places = place_labels(boxes, [(size, 20) for *_, size in given_], width, height)
    assert (places >= 0).all()
    assert (places <= [width, height, width, height]).all()
    assert area(places).tolist() == pytest.approx([size * 20 for *_, size in given_])


def test_plates_of_boxes_in_one_place_do_not_cover_each_other() -> None:
    places = place_labels([[100, 100, 200, 200]] * 12, [(90, 20)] * 12, 400, 300)
    assert all(overlap(one, other) == 0 for one, other in itertools.combinations(places, 2))
    assert places[0].tolist() == [100, 80, 190, 100]
    away = np.maximum(np.maximum(100 - places[:, 2], places[:, 0] - 200), 0)
    assert away.max() < 100  # none far from the box while there is room beside it


def test_plates_without_room_cover_the_least() -> None:
    places = place_labels([[0, 0, 50, 20]] * 5, [(50, 20)] * 5, 100, 40)
    assert sum(overlap(one, other) > 0 for one, other in itertools.combinations(places, 2)) <= 4
    assert place_labels([], [], 10, 10).shape == (0, 4)


def test_a_label_longer_than_the_picture_is_wrapped_and_cut() -> None:
    picture = Image.new("RGB", (640, 480), GREY)
    box = [[200, 200, 260, 260]]
    short, long, endless = (
        share_of(draw_boxes(picture, box, [text]), COLOURS[0]) for text in ("a dog", "a dog " * 12, "a dog " * 500)
    )
    assert 2 * short < long
    assert long == pytest.approx(endless, rel=0.3)
    unbroken = draw_boxes(picture, box, ["w" * 3000])
    assert share_of(unbroken, COLOURS[0]) < 0.15


@pytest.mark.parametrize("size", [(1, 1), (4000, 20), (20, 1000), (2000, 100), (30, 30)])
def test_pictures_of_any_shape_are_drawn_on(size: tuple[int, int]) -> None:
    boxes = [[0, 0, *size], [-5, -5, size[0] / 2, size[1] / 2], [size[0], 0, size[0] + 9, 5]]
    drawn = draw_boxes(Image.new("RGB", size, GREY), boxes, ["a long panorama of hills", "hills", "outside"])
    assert drawn.width * size[1] == drawn.height * size[0]
    assert max(drawn.size) >= 360
    assert share_of(drawn, COLOURS[0]) > 0
    assert share_of(drawn, COLOURS[2]) == 0


def test_broken_boxes_are_not_drawn() -> None:
    picture = Image.new("RGB", (400, 400), GREY)
    drawn = draw_boxes(picture, [[math.nan, 0, 5, 5], [50, 50, 20, 20]], ["a", "b"])
    assert share_of(drawn, GREY) == 1


def test_labels_in_other_scripts_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = Image.new("RGB", (640, 480), GREY)
    box = [[200, 200, 460, 460]]
    assert share_of(draw_boxes(picture, box, ["một con chó trên bãi biển"]), COLOURS[0]) > 0.01
    monkeypatch.setattr(annotated, "_FONTS", ("no font of this name.ttf",))
    with_accents, without = (draw_boxes(picture, box, [text]) for text in ("một con chó đỏ", "mot con cho do"))
    assert with_accents.tobytes() == without.tobytes()


def test_a_given_font_is_used(tmp_path: Path) -> None:
    path = tmp_path / "letters.ttf"
    default = ImageFont.load_default(size=20)
    assert isinstance(default, ImageFont.FreeTypeFont)
    path.write_bytes(default.font_bytes)
    picture = Image.new("RGB", (640, 480), GREY)
    box, label = [[100, 100, 300, 300]], ["a dog"]
    one, other = (share_of(draw_boxes(picture, box, label, font=font), COLOURS[0]) for font in (path, None))
    assert one == pytest.approx(other, rel=0.1)  # kerned or not, as Pillow was built
    path.write_bytes(b"no font")
    with pytest.raises(DataError, match=r"cannot read the font .*letters\.ttf .*; give a TrueType or OpenType file"):
        draw_boxes(picture, box, label, font=path)


def test_labels_that_do_not_fit_the_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="1 labels for 2 boxes; give one a box"):
        draw_boxes(Image.new("RGB", (9, 9)), [[0, 0, 1, 1]] * 2, ["a"])


def test_a_map_darkens_where_it_is_low_and_glows_where_it_is_high() -> None:
    picture = Image.new("RGB", (400, 300), (128, 128, 128))
    values = np.zeros((3, 4))
    values[1, 2] = 0.01
    shown = np.asarray(heat(picture, values)).astype(float)
    assert shown.shape == (300, 400, 3)
    lightness = shown @ [0.2126, 0.7152, 0.0722]
    assert lightness[10, 10] < 100
    assert lightness[150, 250] > 160
    assert np.unravel_index(lightness.argmax(), lightness.shape) == pytest.approx((150, 250), abs=20)
    np.testing.assert_array_equal(shown, np.asarray(heat(picture, values * 1000 - 7)))


def test_an_even_map_changes_nothing() -> None:
    picture = Image.open(EXAMPLES / "cat.jpg")
    assert np.array_equal(np.asarray(heat(picture, np.full((7, 7), 1 / 49))), np.asarray(picture))


def test_a_map_of_a_part_lies_in_it() -> None:
    picture = Image.new("RGB", (400, 200), (128, 128, 128))
    shown = np.asarray(heat(picture, [[0.0, 1.0]], box=(100, 0, 300, 200))).astype(int)
    assert (shown[:, :100] == shown[0, 0]).all()
    assert (shown[:, 300:] == shown[0, 0]).all()
    assert shown[100, 290].sum() > shown[100, 110].sum()


def test_what_is_no_map_is_refused() -> None:
    picture = Image.new("RGB", (40, 20))
    for bad in ([1.0, 2.0], np.zeros((0, 3)), [[1.0, math.nan]]):
        with pytest.raises(ValueError, match="are no map; give finite numbers"):
            heat(picture, bad)
    with pytest.raises(ValueError, match="has no area in a picture of 40 × 20 pixels"):
        heat(picture, [[0.0, 1.0]], box=(50, 0, 60, 10))


def test_a_map_may_reach_out_of_the_picture() -> None:
    picture = Image.new("RGB", (200, 100), (100, 100, 100))  # as fit "pad" shows it, on a square of 200
    shown = np.asarray(heat(picture, [[9.0, 0.0], [0.0, 0.0]], box=(0, -50, 200, 150))).astype(int).sum(2)
    assert shown[:40, :90].mean() > shown[60:, 110:].mean()
    whole = np.asarray(heat(Image.new("RGB", (200, 200), (100, 100, 100)), [[9.0, 0.0], [0.0, 0.0]])).astype(int).sum(2)
    np.testing.assert_array_equal(shown, whole[50:150])


def test_a_sheet_has_the_picture_and_a_map_for_each_word() -> None:
    picture = Image.new("RGB", (480, 240), (90, 120, 150))
    maps = np.zeros((8, 2, 2))
    maps[:, 0, 0] = 1
    sheet = np.asarray(draw_maps(picture, [f"word{number}" for number in range(8)], maps)).astype(int)
    width, height = sheet.shape[1] // 6, sheet.shape[0] // 2
    assert sheet.shape[1] == 6 * (240 + 12)
    assert (sheet[10, 10] == (90, 120, 150)).all()
    for place in range(1, 9):
        left, top = place % 6 * width, place // 6 * height
        assert sheet[top + 10, left + 10].sum() > sheet[top + 110, left + 230].sum()
        assert (sheet[top + 121 : top + height - 12, left : left + width - 12] < 128).any()  # letters
    assert (sheet[height + 2 :, 3 * width :] == 255).all()
    with pytest.raises(ValueError, match=r"maps of shape \(8, 2, 2\) for 2 words"):
        draw_maps(picture, ["one", "two"], maps)
