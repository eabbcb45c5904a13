"""What a data set holds is counted, what is odd is found, and the page shows it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from showtell.datasets import read_native
from showtell.datasets.inspection import inspect
from showtell.records import Example, Finding


def kinds(examples: list[Example], pictures: bool = False) -> dict[str, Finding]:
    return {finding.kind: finding for finding in inspect(examples, "set", pictures=pictures).findings}


@pytest.fixture
def examples(toy_data: Path) -> list[Example]:
    return read_native(toy_data)


def test_everything_is_counted(examples: list[Example]) -> None:
    found = inspect(examples, "toy", pictures=True)
    assert (found.pictures, found.captions, found.regions) == (24, 72, 0)
    assert found.splits == {"train": (18, 54), "val": (6, 18)}
    assert found.captions_a_picture == {3: 24}
    assert found.caption_lengths == {6: 48, 7: 24}
    assert found.growth[-1] == (72, len(found.words))
    assert found.coverage[0] == (1, found.growth[-1][1], 1.0)
    assert found.words[0] == ("a", 48)
    assert found.openings[0] == ("there is one", 24)
    assert found.scripts == {"latin": 72}
    assert found.sizes == [(64, 64)] * 24
    assert not found.breaks
    json.dumps(found.to_json())


def test_the_numbers_of_a_small_set_are_right() -> None:
    captions = [("a dog runs", "a dog runs", "Собака"), ("a dog runs", "一只猫", "123")]
    examples = [Example(f"{number}.jpg", None, group) for number, group in enumerate(captions)]
    found = inspect(examples, "set", pictures=False)
    assert found.caption_lengths == {1: 2, 3: 4}
    assert found.growth == [(1, 3), (2, 3), (3, 4), (4, 4), (5, 7), (6, 8)]
    assert found.coverage[:3] == [(1, 8, 1.0), (2, 3, 9 / 14), (3, 3, 9 / 14)]
    assert found.words[:3] == [("a", 3), ("dog", 3), ("runs", 3)]
    assert found.openings[0] == ("a dog runs", 3)
    assert found.identical == 3 / 6  # a caption that its own picture has twice counts each time
    assert found.scripts == {"latin": 3, "cyrillic": 1, "cjk": 1, "no letters": 1}
    assert found.duplicates is None


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("IMG_2041.JPG", "a file name"),
        ("dsc 00312", "a camera's number"),
        ("see https://example.org/a", "an address"),
        ("a <b>cat</b>", "markup"),
        ("a cat &amp; a dog", "markup"),
        ("N/A", "a placeholder"),
        ("untitled.", "a placeholder"),
        ("12 + 3", "no letters"),
        ("cat cat cat, cat", "one word again and again"),
    ],
)
def test_captions_that_no_person_wrote_are_found(caption: str, kind: str) -> None:
    finding = kinds([Example("a.jpg", None, (caption, "a cat"))])["machine-made"]
    assert f"1 captions of set look machine-made, {kind} ({caption!r} of a.jpg)" in finding.message
    assert not finding.breaks


@pytest.mark.parametrize(
    "caption",
    ["a cat .", "A photo of a dog", "he weighs < 3 kg > 2 kg", "no no, stop", "untitled art on a wall", "一只猫"],
)
def test_captions_that_people_write_are_not(caption: str) -> None:
    assert "machine-made" not in kinds([Example("a.jpg", None, (caption,))])


def test_real_captions_are_hardly_ever_suspected(shared_data: Path) -> None:
    for folder in ("coco", "rsicd", "vietnamese", "coco2k"):
        found = inspect(read_native(shared_data / folder), folder, pictures=False)
        suspected = [finding.message for finding in found.findings if finding.kind == "machine-made"]
        counts = [int(re.match(r"[\d,]+", message)[0].replace(",", "")) for message in suspected]  # type: ignore[index]
        assert sum(counts) <= 3e-4 * found.captions, suspected


def test_what_breaks_training_is_marked() -> None:
    captioned = [Example(f"{number}.jpg", None, (f"caption {number} of a dog",), "train") for number in range(5)]
    assert kinds(captioned)["split"].message == "set has no picture in the split 'val'; training needs train and val"
    assert "split" not in kinds([replace(example, split=None) for example in captioned])
    assert kinds([replace(example, references=()) for example in captioned])["caption"].breaks
    same = [replace(example, references=("a dog",)) for example in captioned]
    assert kinds(same)["repeated-caption"].breaks


def test_unreadable_and_repeated_pictures_and_leaks(tmp_path: Path, toy_data: Path) -> None:
    ours = [example for example in read_native(toy_data) if "stripes" not in example.id][:8]
    twin = tmp_path / "twin.jpg"
    Image.open(str(ours[0].image)).convert("RGB").save(twin, quality=90)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    other = "val" if ours[0].split == "train" else "train"
    examples = [
        *ours,
        replace(ours[0], id="twin.jpg", image=str(twin), split=other),
        Example("broken.jpg", str(tmp_path / "broken.jpg"), ("lost",), "train"),
        Example("gone.jpg", str(tmp_path / "gone.jpg"), ("lost",), "test"),
    ]
    inspection = inspect(examples, "set", pictures=True)
    found = {finding.kind: finding for finding in inspection.findings}
    assert inspection.duplicates == 1
    assert f"{ours[0].id} = twin.jpg" in found["duplicate"].message
    assert "in more than one split" in found["leak"].message
    unreadable = [finding for finding in inspection.findings if finding.kind == "unreadable-picture"]
    assert [finding.breaks for finding in unreadable] == [False, False, True]
    assert unreadable[0].where == str(tmp_path / "broken.jpg")
    assert "none of the 1 pictures of set in the split 'test' can be read" in unreadable[2].message
    assert len(inspection.sizes) == 9


def test_the_page_holds_everything_and_needs_nothing(examples: list[Example], tmp_path: Path) -> None:
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    from showtell.report.inspection import write_inspection

    hostile = replace(examples[0], references=("<script>alert(1)</script> $x^{ a cat",))
    shown = [hostile, *examples[1:]]
    finding = Finding("row", "a.csv:3", "a.csv:3 has <b>nothing</b>")
    found = inspect(shown, "toy & co", findings=[finding], pictures=True)
    write_inspection(found, shown, "toy & co", tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "<script" not in html
    assert "&lt;b&gt;nothing&lt;/b&gt;" in html
    assert "toy &amp; co" in html
    assert html.count("<svg") == 5
    assert html.count("data:image/jpeg;base64,") == 24
    assert "1 finding would stop or spoil training" in html
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", html)
