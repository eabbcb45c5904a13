"""Karpathy's splits beside COCO's and Flickr's pictures."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from showtell.datasets.karpathy import looks_like_karpathy, read_karpathy
from showtell.errors import DataError
from showtell.records import Example, Finding


def entry(name: str, split: Any, *captions: Any, **more: Any) -> dict[str, Any]:
    sentences = [{"tokens": [], "raw": caption, "imgid": 0, "sentid": 0} for caption in captions]
    return {"filename": name, "split": split, "sentences": sentences, "imgid": 0, "sentids": [], **more}


IMAGES = [
    entry("COCO_val2014_1.jpg", "restval", "A cat.", "One cat.", filepath="val2014", cocoid=1),
    entry("COCO_val2014_2.jpg", "test", "A bus.", filepath="val2014", cocoid=2),
    entry("COCO_train2014_3.jpg", "train", "A dog.", filepath="train2014", cocoid=3),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for image in IMAGES:
        place = tmp_path / image["filepath"]
        place.mkdir(exist_ok=True)
        (place / image["filename"]).touch()
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": IMAGES, "dataset": "coco"}))
    return tmp_path


def test_restval_is_train(folder: Path) -> None:
    assert looks_like_karpathy(folder)
    expected = [
        Example("COCO_val2014_1.jpg", f"{folder}/val2014/COCO_val2014_1.jpg", ("A cat.", "One cat."), "train"),
        Example("COCO_val2014_2.jpg", f"{folder}/val2014/COCO_val2014_2.jpg", ("A bus.",), "test"),
        Example("COCO_train2014_3.jpg", f"{folder}/train2014/COCO_train2014_3.jpg", ("A dog.",), "train"),
    ]
    assert read_karpathy(folder) == expected
    assert read_karpathy(folder / "dataset_coco.json") == expected


def test_flickrs_pictures(tmp_path: Path) -> None:
    (tmp_path / "Flicker8k_Dataset").mkdir()
    (tmp_path / "Flicker8k_Dataset" / "1.jpg").touch()
    content = {"images": [entry("1.jpg", "val", "A dog.")], "dataset": "flickr8k"}
    (tmp_path / "dataset_flickr8k.json").write_text(json.dumps(content))
    assert read_karpathy(tmp_path) == [Example("1.jpg", f"{tmp_path}/Flicker8k_Dataset/1.jpg", ("A dog.",), "val")]


def test_coco_in_its_zips_below_images_or_in_a_folder_of_ones_own(folder: Path) -> None:
    expected = [(one.id, one.references, one.split) for one in read_karpathy(folder)]
    with zipfile.ZipFile(folder / "val2014.zip", "w") as archive:
        for path in sorted((folder / "val2014").iterdir()):
            archive.writestr(f"val2014/{path.name}", b"")
    shutil.rmtree(folder / "val2014")
    (folder / "images").mkdir()
    (folder / "train2014").rename(folder / "images" / "train2014")
    found = read_karpathy(folder)
    assert [(one.id, one.references, one.split) for one in found] == expected
    assert [one.image for one in found] == [
        f"{folder}/val2014.zip!val2014/COCO_val2014_1.jpg",
        f"{folder}/val2014.zip!val2014/COCO_val2014_2.jpg",
        f"{folder}/images/train2014/COCO_train2014_3.jpg",
    ]
    (folder / "images").rename(folder / "photographs")
    (folder / "val2014.zip").unlink()
    for name in ("COCO_val2014_1.jpg", "COCO_val2014_2.jpg", "COCO_train2014_3.jpg"):
        (folder / "photographs" / name).touch()
    assert [one.image for one in read_karpathy(folder)] == [f"{folder}/photographs/{row[0]}" for row in expected]


def test_a_file_name_that_two_folders_have_is_that_of_its_filepath(tmp_path: Path) -> None:
    rows = [("a", "1.jpg"), ("b", "2.jpg"), ("a", "3.jpg"), ("b", "4.jpg")]
    for place in ("a", "b", "images"):
        (tmp_path / place).mkdir()
        for _, name in rows:
            (tmp_path / place / name).touch()
    images = [entry(name, "train", "A cat.", filepath=place) for place, name in rows]
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    assert [one.image for one in read_karpathy(tmp_path)] == [f"{tmp_path}/{place}/{name}" for place, name in rows]


def test_other_sets_of_this_form_and_files_that_only_have_such_a_name(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text(json.dumps({"features": {"image": {}, "caption": {}}}))
    assert not looks_like_karpathy(tmp_path)
    (tmp_path / "RSICD_images").mkdir()
    (tmp_path / "RSICD_images" / "1.jpg").touch()
    (tmp_path / "dataset_rsicd.json").write_text(json.dumps({"images": [entry("1.jpg", "val", "A pond.")]}))
    assert looks_like_karpathy(tmp_path)
    assert looks_like_karpathy(tmp_path / "dataset_rsicd.json")
    assert [one.image for one in read_karpathy(tmp_path)] == [f"{tmp_path}/RSICD_images/1.jpg"]
    assert not looks_like_karpathy(tmp_path / "dataset_info.json")
    assert not looks_like_karpathy(tmp_path / "lost")


@pytest.mark.parametrize(
    ("more", "kind", "sentence"),
    [
        (
            entry("COCO_val2014_2.jpg", "train", "Again.", filepath="val2014"),
            "repeated-picture",
            r"image 4 \(COCO_val2014_2\.jpg\), is listed twice; file names are ids, so each has one entry",
        ),
        (
            entry("n.jpg", "fold3", "A."),
            "split",
            r"image 4 \(n\.jpg\), has split 'fold3'; accepted are train, val, test",
        ),
        (entry("n.jpg", None, "A."), "split", r"image 4 \(n\.jpg\), has split None"),
        (entry("n.jpg", "train", None), "caption", r"image 4, has a caption that is NoneType"),
        (entry("n.jpg", "train", "\0 "), "caption", r"image 4, has an empty caption"),
        (entry("n.jpg", "train", "x" * 10**6), "caption", r"has a caption of 1,000,000 characters; at most 10,000 are"),
        (entry("n.jpg", "train"), "caption", r"image 4 \(n\.jpg\), has no sentences; write one or remove the entry"),
        ({"filename": "n.jpg", "split": "val", "sentences": None}, "caption", r"image 4 \(n\.jpg\), has no sentences"),
        ({"split": "val", "sentences": []}, "path", r"image 4 \(None\), names no picture"),
        (entry("../n.jpg", "val", "A."), "path", r"image 4 \(\.\./n\.jpg\), names '\.\./n\.jpg', which is not inside"),
        (
            entry("n.jpg", "val", "A.", filepath="/etc"),
            "path",
            r"image 4 \(n\.jpg\), names '/etc', which is not inside",
        ),
        (entry("n.jpg", "val", "A.", filepath=["a"]), "path", r"image 4 \(n\.jpg\), names no picture"),
    ],
)
def test_an_entry_that_is_wrong_is_named(folder: Path, more: dict[str, Any], kind: str, sentence: str) -> None:
    (folder / "n.jpg").touch()
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [*IMAGES, more]}))
    with pytest.raises(DataError, match=sentence):
        read_karpathy(folder)
    findings: list[Finding] = []
    assert len(read_karpathy(folder, findings.append)) == 3
    assert [(finding.kind, finding.breaks) for finding in findings] == [(kind, True)]


def test_pictures_that_are_missing_are_left_out_and_counted_once(folder: Path) -> None:
    shutil.rmtree(folder / "val2014")
    findings: list[Finding] = []
    assert [one.id for one in read_karpathy(folder, findings.append)] == ["COCO_train2014_3.jpg"]
    (found,) = findings
    assert f"2 of 3 pictures that {folder}/dataset_coco.json names are not below {folder}" in found.message
    assert (found.kind, found.breaks) == ("missing-picture", False)
    shutil.rmtree(folder / "train2014")
    with pytest.raises(
        DataError, match=r"3 of 3 pictures that .*; they are looked for in train2014/, val2014/, .*: put"
    ):
        read_karpathy(folder)


def test_captions_of_any_encoding_are_read_and_told(folder: Path) -> None:
    path = folder / "dataset_coco.json"
    images = [*IMAGES[:2], {**IMAGES[2], "sentences": [{"raw": "Ein Mädchen."}]}]
    text = json.dumps({"images": images}, indent=0, ensure_ascii=False)
    for data, kinds in [
        (text.encode("utf-8-sig"), []),
        (text.replace("\n", "\r\n").encode(), []),
        (text.encode("cp1252"), ["encoding"]),
        (text.replace("ä", "ä".encode().decode("cp1252")).encode(), ["mojibake"]),
    ]:
        path.write_bytes(data)
        findings: list[Finding] = []
        (caption,) = read_karpathy(folder, findings.append)[2].references
        assert [finding.kind for finding in findings] == kinds
        assert (caption == "Ein Mädchen.") == (kinds != ["mojibake"])
    assert findings[0].where == f"{path}, image 3"
    assert f"{path} has captions that were once saved in a wrong encoding (1); the first, of" in findings[0].message
    assert "of image 3, was probably 'Ein Mädchen.': mend them" in findings[0].message


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", r"dataset_coco\.json is empty \(0 bytes or blank\); it should hold Karpathy's splits"),
        ('{"images": [{"filename": "a.jpg"', r"dataset_coco\.json:1 breaks off in the middle \(after 32 bytes\)"),
        ("[]", r"dataset_coco\.json does not hold Karpathy's splits .*: expected `object`, got `array`"),
        ('{"images": []}', r"dataset_coco\.json names no picture that can be used"),
    ],
)
def test_a_file_that_is_wrong_is_named(folder: Path, content: str, sentence: str) -> None:
    (folder / "dataset_coco.json").write_text(content)
    assert looks_like_karpathy(folder)
    with pytest.raises(DataError, match=sentence):
        read_karpathy(folder)


def test_too_many_files_or_none(folder: Path) -> None:
    (folder / "dataset_flickr8k.json").write_text("{}")
    assert looks_like_karpathy(folder)
    with pytest.raises(
        DataError, match=r"several sets of splits \(dataset_coco\.json, dataset_flickr8k\.json\); name one"
    ):
        read_karpathy(folder)
    with pytest.raises(
        DataError, match=r"has no dataset_coco\.json, dataset_flickr8k\.json or dataset_flickr30k\.json"
    ):
        read_karpathy(folder / "val2014")
