"""COCO's annotations and pictures, in folders or still zipped."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from showtell.datasets.coco import looks_like_coco, read_coco
from showtell.errors import DataError
from showtell.records import Example, Finding


def content(name: str, *captions: tuple[int, Any]) -> dict[str, Any]:
    numbers = sorted({number for number, _ in captions})
    return {
        "info": {"year": 2014},
        "images": [{"id": number, "file_name": f"COCO_{name}_{number:012d}.jpg", "height": 3} for number in numbers],
        "annotations": [{"image_id": number, "id": 7, "caption": text} for number, text in captions],
    }


TRAIN = content("train2014", (9, "A cat."), (5, "Two dogs."), (9, "One cat.\n"))
VAL = content("val2014", (2, "A bus."))
EXPECTED = [
    ("COCO_train2014_000000000005.jpg", ("Two dogs.",), "train"),
    ("COCO_train2014_000000000009.jpg", ("A cat.", "One cat."), "train"),
    ("COCO_val2014_000000000002.jpg", ("A bus.",), "val"),
]


def facts(examples: list[Example]) -> list[Any]:
    return [(example.id, example.references, example.split) for example in examples]


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for name, listing in (("train2014", TRAIN), ("val2014", VAL)):
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(listing))
        (root / name).mkdir()
        for image in listing["images"]:
            (root / name / image["file_name"]).touch()
    return root


def test_folders(folders: Path) -> None:
    assert looks_like_coco(folders)
    examples = read_coco(folders)
    assert facts(examples) == EXPECTED
    assert examples[0].image == f"{folders}/train2014/COCO_train2014_000000000005.jpg"


def test_the_zips_as_they_were_downloaded(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "captions_train-val2014.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/captions_train2014.json", json.dumps(TRAIN))
        archive.writestr("annotations/captions_val2014.json", json.dumps(VAL))
    for name, listing in (("train2014", TRAIN), ("val2014", VAL)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for image in listing["images"]:
                archive.writestr(f"{name}/{image['file_name']}", b"")
    assert looks_like_coco(tmp_path)
    examples = read_coco(tmp_path)
    assert facts(examples) == EXPECTED
    assert examples[2].image == f"{tmp_path}/val2014.zip!val2014/COCO_val2014_000000000002.jpg"


def test_one_file_of_annotations(folders: Path) -> None:
    path = folders / "annotations" / "captions_val2014.json"
    assert looks_like_coco(path)
    assert facts(read_coco(path)) == EXPECTED[2:]


def test_pictures_below_images(folders: Path) -> None:
    (folders / "images").mkdir()
    (folders / "val2014").rename(folders / "images" / "val2014")
    for path in (folders / "train2014").iterdir():
        path.rename(folders / "images" / path.name)
    assert facts(read_coco(folders)) == EXPECTED


def test_a_split_whose_pictures_are_not_there_is_left_out(folders: Path) -> None:
    for path in (folders / "train2014").iterdir():
        path.unlink()
    findings: list[Finding] = []
    assert facts(read_coco(folders, findings.append)) == EXPECTED[2:]
    (found,) = findings
    assert "2 of 2 pictures that" in found.message
    assert "captions_train2014.json names are not below" in found.message
    assert not found.breaks
    (folders / "val2014" / "COCO_val2014_000000000002.jpg").unlink()
    with pytest.raises(DataError, match=r"2 of 2 pictures that .*captions_train2014\.json names are not below"):
        read_coco(folders)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"image_id": 9, "caption": None}, r"annotation 4, has a caption that is NoneType, not text"),
        ({"image_id": 9, "caption": " \t"}, r"annotation 4, has an empty caption"),
        ({"image_id": 77, "caption": "A dog."}, r"annotation 4, is of picture 77, which is not among its images"),
        ({"image_id": 9, "caption": "x" * 10**6}, r"annotation 4, has a caption of 1,000,000 characters"),
    ],
)
def test_an_annotation_that_is_wrong_is_named(folders: Path, row: dict[str, Any], sentence: str) -> None:
    path = folders / "annotations" / "captions_train2014.json"
    path.write_text(json.dumps({**TRAIN, "annotations": [*TRAIN["annotations"], row]}))
    findings: list[Finding] = []
    assert facts(read_coco(folders, findings.append)) == EXPECTED
    with pytest.raises(DataError, match=sentence):
        read_coco(folders)
    assert [finding.breaks for finding in findings] == [True]


def test_an_image_listed_twice_and_a_name_that_climbs_out(folders: Path) -> None:
    path = folders / "annotations" / "captions_train2014.json"
    twice = [*TRAIN["images"], {"id": 9, "file_name": "other.jpg"}]
    path.write_text(json.dumps({**TRAIN, "images": twice}))
    with pytest.raises(DataError, match=r"image 3, has the id 9 of COCO_train2014_000000000009\.jpg; each picture has"):
        read_coco(path)
    climbing = [{"id": 5, "file_name": "../../secret.jpg"}, {"id": 9, "file_name": "/etc/passwd"}]
    path.write_text(json.dumps({**TRAIN, "images": climbing}))
    findings: list[Finding] = []
    with pytest.raises(DataError, match="names no picture that can be used"):
        read_coco(path, findings.append)
    assert [finding.kind for finding in findings] == ["path", "path"]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"captions_val2014\.json is empty \(0 bytes or blank\); it should hold COCO captions"),
        (json.dumps(VAL).encode()[:-30], r"captions_val2014\.json:1 breaks off in the middle \(after \d+ bytes\)"),
        (b"[]", r"does not hold COCO captions .*: expected `object`, got `array`"),
        (b'{"images": [{"id": 1}], "annotations": []}', r"missing required field `file_name` - at `\$\.images\[0\]`"),
    ],
)
def test_a_file_that_is_wrong_is_named(folders: Path, data: bytes, sentence: str) -> None:
    path = folders / "annotations" / "captions_val2014.json"
    path.write_bytes(data)
    with pytest.raises(DataError, match=sentence):
        read_coco(path)


def test_there_are_no_annotations(tmp_path: Path) -> None:
    assert not looks_like_coco(tmp_path)
    with pytest.raises(DataError, match=r"has no annotations/captions_\*\.json, nor a zip that holds one"):
        read_coco(tmp_path)


def test_the_given_annotations_fit_the_given_pictures(shared_data: Path) -> None:
    findings: list[Finding] = []
    examples = read_coco(shared_data / "coco" / "annotations" / "captions_val2017.json", findings.append)
    assert len(examples) > 100
    assert {example.split for example in examples} == {"val"}
    assert all(len(example.references) >= 5 for example in examples)
    assert not any(finding.breaks for finding in findings)
