"""Karpathy's splits beside COCO's and Flickr's pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from showtell.datasets.karpathy import looks_like_karpathy, read_karpathy
from showtell.errors import DataError
from showtell.records import Example, Finding


def entry(name: str, split: str, *captions: Any, **more: Any) -> dict[str, Any]:
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


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (entry("COCO_val2014_2.jpg", "train", "Again."), r"image 4 \(COCO_val2014_2\.jpg\), is listed twice"),
        (
            entry("new.jpg", "fold3", "A dog."),
            r"image 4 \(new\.jpg\), has split 'fold3'; accepted are train, val, test",
        ),
        (entry("new.jpg", "train", None), r"image 4 \(new\.jpg\), has a caption that is NoneType"),
    ],
)
def test_an_entry_that_is_wrong_is_named(folder: Path, more: dict[str, Any], sentence: str) -> None:
    (folder / "dataset_coco.json").write_text(json.dumps({"images": [*IMAGES, more]}))
    with pytest.raises(DataError, match=sentence):
        read_karpathy(folder)
    findings: list[Finding] = []
    assert len(read_karpathy(folder, findings.append)) == 3
    assert len(findings) == 1


def test_files_that_are_wrong_or_too_many(folder: Path, tmp_path: Path) -> None:
    (folder / "dataset_coco.json").write_text('{"images": [{"filename": "a.jpg"')
    with pytest.raises(DataError, match=r"dataset_coco\.json:1 breaks off in the middle"):
        read_karpathy(folder)
    (folder / "dataset_flickr8k.json").write_text("{}")
    with pytest.raises(DataError, match=r"several sets of splits \(dataset_coco\.json, dataset_flickr8k\.json\)"):
        read_karpathy(folder)
    with pytest.raises(DataError, match="has no dataset_coco"):
        read_karpathy(tmp_path / "val2014")
