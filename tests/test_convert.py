"""Any layout becomes a native folder, which reads back the same and goes on after a stop."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from showtell.datasets import read_native
from showtell.datasets.convert import convert
from showtell.errors import DataError
from showtell.records import Example, Finding, Region


def picture(path: Path, size: tuple[int, int] = (60, 40), colour: str = "red") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return str(path)


@pytest.fixture
def examples(tmp_path: Path) -> list[Example]:
    data = tmp_path / "data"
    picture(data / "packed.jpg", colour="blue")
    with zipfile.ZipFile(data / "more.zip", "w") as archive:
        archive.write(data / "packed.jpg", "more/c.jpg")
    return [
        Example("a.jpg", picture(data / "a.jpg"), ("a red thing", "một vật đỏ"), "train"),
        Example("deep/b.png", picture(data / "deep/b.png", (300, 150)), ("a wide thing",), None),
        Example("c.jpg", f"{data}/more.zip!more/c.jpg", ("a blue thing",), "val"),
    ]


def test_pictures_are_copied_and_read_back(examples: list[Example], tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(examples, out) == 3
    again = read_native(out)
    assert [(one.id, one.references, one.split) for one in again] == [
        ("images/a.jpg", ("a red thing", "một vật đỏ"), "train"),
        ("images/deep/b.png", ("a wide thing",), "train"),  # lines without a split are train where others have one
        ("images/c.jpg", ("a blue thing",), "val"),
    ]
    assert (out / "images/a.jpg").read_bytes() == Path(str(examples[0].image)).read_bytes()
    assert (out / "images/c.jpg").read_bytes() == (tmp_path / "data/packed.jpg").read_bytes()


def test_a_set_without_splits_stays_without(examples: list[Example], tmp_path: Path) -> None:
    convert(examples[1:2], tmp_path / "out")
    assert [one.split for one in read_native(tmp_path / "out")] == [None]


def test_large_pictures_are_made_smaller_and_their_boxes_too(examples: list[Example], tmp_path: Path) -> None:
    wide = Example("w.png", examples[1].image, (), "train", (Region((30, 30, 150, 90), ("a part",)),))
    convert([examples[0], wide], tmp_path / "out", size=100)
    a, w = read_native(tmp_path / "out")
    assert (out := tmp_path / "out/images/a.jpg").read_bytes() == Path(str(examples[0].image)).read_bytes()
    assert Image.open(out).size == (60, 40)
    assert (w.id, Image.open(str(w.image)).size, Image.open(str(w.image)).format) == ("images/w.jpg", (100, 50), "JPEG")
    assert w.regions == (Region((10, 10, 50, 30), ("a part",)),)
    assert a.regions == ()


def test_names_that_would_meet_are_kept_apart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    paths = [picture(data / name) for name in ("a.png", "a.jpg", "sub/a.png", "images/a.jpg")]
    examples = [Example(str(Path(path).relative_to(data)), path, (path,)) for path in paths]
    convert(examples, tmp_path / "out", size=50)
    again = read_native(tmp_path / "out")
    assert [one.references[0] for one in again] == paths
    assert len({one.id.lower() for one in again}) == 4


def test_a_conversion_that_was_stopped_goes_on(examples: list[Example], tmp_path: Path) -> None:
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def stop(finding: Finding) -> None:
        raise Stop

    broken = Example("broken.jpg", str(tmp_path / "broken.jpg"), ("x",))
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(Stop):
        convert([*examples, broken], out, notice=stop)
    assert not (out / "captions.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "images").rglob("*.*")}
    assert len(before) == 3
    findings: list[Finding] = []
    assert convert([*examples, broken], out, notice=findings.append) == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert [found.kind for found in findings] == ["unreadable-picture"]
    assert "broken.jpg cannot be read as a picture" in findings[0].message
    assert not list(out.rglob("*.part"))


def test_folders_that_hold_something_else_are_left_alone(examples: list[Example], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").touch()
    with pytest.raises(DataError, match=r"is not empty and holds no conversion that was stopped; name a new folder"):
        convert(examples, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="is a file; name a folder"):
        convert(examples, out / "mine.txt")
    convert(examples, tmp_path / "new", size=64)
    with pytest.raises(DataError, match=r"was begun with size 64, this conversion has None; use that size or a new"):
        convert(examples, tmp_path / "new")
    assert json.loads((tmp_path / "new/conversion.json").read_text()) == {"size": 64}


def test_a_set_without_a_readable_picture(tmp_path: Path) -> None:
    lost = [Example("a.jpg", str(tmp_path / "a.jpg"), ("x",))]
    with pytest.raises(DataError, match=r"none of the 1 pictures can be read; nothing was converted"):
        convert(lost, tmp_path / "out", notice=lambda finding: None)
