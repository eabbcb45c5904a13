"""The sheet of all pictures: what its lines hold, and that a browser sorts, filters and shows them."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from showtell.errors import DataError
from showtell.images import Preprocessing
from showtell.records import Caption
from showtell.report.gallery import look_by, write_captions
from showtell.report.sheet import Seen, Shown, sheet_rows


def rows_of(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in sheet_rows(shown)]


@pytest.fixture
def wide(tmp_path: Path) -> str:
    Image.new("RGB", (400, 200), "red").save(tmp_path / "wide.png")
    return str(tmp_path / "wide.png")


def test_a_line_holds_the_picture_and_what_is_said_of_it(wide: str) -> None:
    caption = Caption(wide, "a </script>", -3.0, ("a", "</script>"), (-1.0, -1.0))
    (line,) = sheet_rows([Shown("wide", caption, wide, 0.25, [("one", 2), ("two", 1)])])
    assert "<" not in line
    row = json.loads(line)
    assert (row["name"], row["said"], row["cider"]) == ("wide", "a </script>", 0.25)
    assert row["references"] == [["one", 2], ["two", 1]]
    assert row["sure"] == pytest.approx(np.exp(-1), abs=1e-4)  # a word's share of three: END counts
    small = Image.open(io.BytesIO(base64.b64decode(row["picture"])))
    assert (small.format, small.size) == ("WEBP", (192, 96))
    assert "maps" not in row


def test_maps_are_bytes_against_the_highest_and_say_what_they_cover(wide: str) -> None:
    maps = np.array([[[0, 0.5], [0.25, 0.25]], [[0, 0], [0, 0]], [[-1, 0.1], [0, 0.05]]], np.float32)
    caption = Caption(wide, "a red wall", -3.0, ("a", "red", "wall"), (-1.0, -1.0, -1.0), maps)
    for fit, box in (("squash", None), ("crop", [0.25, 0.0, 0.75, 1.0])):
        look = look_by(Preprocessing(size=64, fit=fit, crop_fraction=1.0))  # type: ignore[arg-type]
        (row,) = rows_of([Shown("wide", caption, wide, look=lambda w, h, look=look: look(caption, wide, w, h))])  # type: ignore[misc]
        assert row["words"] == ["a", "red", "wall"]
        assert row["grid"] == [2, 2]
        assert list(base64.b64decode(row["maps"])) == [0, 255, 128, 128, 0, 0, 0, 0, 0, 255, 0, 128]
        assert row.get("box") == box


def test_fine_maps_are_made_coarser(wide: str) -> None:
    maps = np.arange(30 * 45, dtype=np.float64).reshape(1, 30, 45)
    seen: Seen = (("a",), maps, (0.0, 0.0, 400.0, 200.0))
    (row,) = rows_of([Shown("wide", Caption(wide, "a", -1.0, ("a",), (-1.0,)), wide, look=lambda w, h: seen)])
    assert row["grid"] == [10, 11]
    pooled = maps[0, :, :44].reshape(10, 3, 11, 4).mean((1, 3))
    assert list(base64.b64decode(row["maps"])) == np.rint(255 * pooled / pooled.max()).ravel().tolist()


def test_what_cannot_be_shown_is_said_and_the_others_are_shown(wide: str, tmp_path: Path) -> None:
    def unknown(width: int, height: int) -> Seen:
        raise DataError("the model knows none of the words")

    said = Caption(wide, "", float("nan"), (), ())
    gone, blank = rows_of([Shown("gone", said, str(tmp_path / "gone.png")), Shown("wide", said, wide, look=unknown)])
    assert "does not exist" in gone["error"]
    assert "picture" not in gone
    assert "picture" in blank
    assert "sure" not in blank


def test_lines_come_in_order_while_progress_is_told(wide: str) -> None:
    told: list[int] = []
    shown = [Shown(str(number), Caption(wide, "a", -1.0, (), ()), wide) for number in range(150)]
    assert [json.loads(line)["name"] for line in sheet_rows(shown, told.append)] == [str(n) for n in range(150)]
    assert told == list(range(1, 151))


# in a browser


@pytest.fixture
def sheet(browser: Any, wide: str, tmp_path: Path) -> Any:
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    maps = np.zeros((2, 7, 7), np.float32)
    maps[0, 1, 1], maps[1, 5, 5] = 1, 1
    said = [
        Caption(
            f"{number}.png", f"{'dog' if number % 3 else 'cat'} {number:03}", -number / 10, ("the", "pet"), (0, 0), maps
        )
        for number in range(130)
    ]
    for one in said[:129]:
        (tmp_path / one.image).hardlink_to(wide)
    write_captions(
        said,
        tmp_path / "page.html",
        title="toy",
        pictures=[tmp_path],
        look=look_by(Preprocessing(size=64, fit="squash")),
    )
    page = browser.new_page(viewport={"width": 900, "height": 700})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(f"file://{tmp_path}/page.html")
    yield page
    page.close()
    assert not errors


def first(page: Any) -> str:
    return str(page.locator("#sheet .about").first.inner_text()).split(" · ")[-1]


def test_the_sheet_sorts_filters_and_goes_on(sheet: Any) -> None:
    assert sheet.inner_text("#count") == "130 of 130 pictures"
    assert 60 <= sheet.locator("#sheet li").count() < 130
    assert first(sheet) == "0.png"
    assert sheet.locator("#order option").all_inner_texts() == [
        "as captioned", "least sure first", "surest first", "by caption", "by name",
    ]  # fmt: skip
    sheet.select_option("#order", "unsure")
    assert first(sheet) == "129.png"
    assert "does not exist" in sheet.locator("#sheet .lost").first.inner_text()
    sheet.select_option("#order", "said")
    assert first(sheet) == "0.png"
    sheet.fill("#filter", "DOG 12")
    assert sheet.inner_text("#count") == "7 of 130 pictures"  # 112, 121, 122, 124 …
    sheet.fill("#filter", "")
    while sheet.locator("#more").is_visible():
        sheet.locator("#more").focus()
        sheet.keyboard.press("Enter")
    assert sheet.locator("#sheet li").count() == 130


def test_a_word_shows_where_it_comes_from(sheet: Any) -> None:
    brightest = """() => {
      const canvas = document.querySelector("#sheet canvas");
      const { data, width } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let best = -1, place = 0;
      for (let i = 3; i < data.length; i += 4) if (data[i] > best) { best = data[i]; place = (i - 3) / 4; }
      return best <= 0 ? null : [(place % width) / width, Math.floor(place / width) / canvas.height];
    }"""
    assert sheet.evaluate(brightest) is None
    found = []
    for word in (0, 1):
        sheet.locator("#sheet .said button").nth(word).focus()
        found.append(sheet.evaluate(brightest))
    assert found[0][0] < 0.4 < 0.6 < found[1][0]
    assert found[0][1] < 0.5 < found[1][1]
    sheet.focus("#filter")
    assert sheet.evaluate(brightest) is None


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [900, 360])
def test_axe_finds_no_violations_of_a_sheet(theme: str, width: int, sheet: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    sheet.set_viewport_size({"width": width, "height": 700})
    sheet.emulate_media(color_scheme=theme)
    found = axe.Axe().run(sheet, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
    assert [(one["id"], [node["target"] for node in one["nodes"]]) for one in found.response["violations"]] == []
    assert sheet.evaluate("document.documentElement.scrollWidth") <= width
