"""Each layout is found from what a folder holds, and read by its reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from showtell.datasets import LAYOUTS, Columns, find_layout, read_all, read_data
from showtell.errors import ConfigError, DataError


def _native(root: Path) -> None:
    (root / "captions.jsonl").write_text(json.dumps({"image": "a.jpg", "captions": ["a cat"]}) + "\n")


def _karpathy(root: Path) -> None:
    image = {"filename": "a.jpg", "split": "train", "sentences": [{"raw": "a cat"}]}
    (root / "dataset_flickr8k.json").write_text(json.dumps({"images": [image]}))


def _coco(root: Path) -> None:
    (root / "annotations").mkdir()
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": "a cat"}]}
    (root / "annotations" / "captions_mine.json").write_text(json.dumps(content))


def _flickr(root: Path) -> None:
    (root / "captions.txt").write_text("image,caption\na.jpg,a cat\n")


def _visual_genome(root: Path) -> None:
    region = {"x": 0, "y": 0, "width": 2, "height": 2, "phrase": "a cat"}
    (root / "region_descriptions.json").write_text(json.dumps([{"id": 1, "regions": [region]}]))
    (root / "1.jpg").touch()


def _refcoco(root: Path) -> None:
    row = {"file_name": "a.jpg", "bbox": [0, 0, 1, 1], "sentences": ["a cat"]}
    (root / "refs.json").write_text(json.dumps([row]))


def _instances(root: Path) -> None:
    (root / "annotations").mkdir()
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    (root / "annotations" / "instances_mine.json").write_text(json.dumps(content))


def _table(root: Path) -> None:
    (root / "mine.csv").write_text("file,text\na.jpg,a cat\n")


def _sidecars(root: Path) -> None:
    (root / "a.txt").write_text("a cat\n")


MAKERS: dict[str, Callable[[Path], None]] = {
    "native": _native,
    "karpathy": _karpathy,
    "coco": _coco,
    "flickr": _flickr,
    "visual-genome": _visual_genome,
    "refcoco": _refcoco,
    "instances": _instances,
    "table": _table,
    "sidecars": _sidecars,
}


def test_every_layout_is_tried_here() -> None:
    assert list(MAKERS) == list(LAYOUTS)


@pytest.mark.parametrize("name", MAKERS)
def test_a_layout_is_found_and_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    MAKERS[name](tmp_path)
    assert find_layout(tmp_path) == name
    (example,) = read_data(tmp_path)
    assert example.image is not None
    assert Path(example.image).is_file()
    if name in ("visual-genome", "refcoco", "instances"):
        assert example.references == ()
        assert len(example.regions) == 1
    else:
        assert example.references == ("a cat",)
    assert read_data(tmp_path, layout=name) == [example]


def test_a_folder_of_two_layouts_is_read_as_the_first_unless_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    for maker in (_flickr, _native, _sidecars):
        maker(tmp_path)
    assert find_layout(tmp_path) == "native"
    assert read_data(tmp_path, layout="sidecars")[0].references == ("a cat",)


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*lost; give a folder with pictures and their captions"):
        read_data(tmp_path / "lost")
    with pytest.raises(DataError, match=r"is of no layout that is known; accepted are native \(captions\.jsonl"):
        read_data(tmp_path)
    (tmp_path / "all.zip").touch()
    with pytest.raises(DataError, match=r"all\.zip is a zip; unpack it"):
        read_data(tmp_path / "all.zip")
    with pytest.raises(ConfigError, match=r"unknown layout 'coko'; accepted are native, karpathy, coco"):
        read_data(tmp_path, layout="coko")


def test_columns_of_what_is_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    _native(tmp_path)
    with pytest.raises(ConfigError, match="is no table, so it has no columns"):
        read_data(tmp_path, columns=Columns(image="file"))


def test_several_layouts_make_one_set(tmp_path: Path) -> None:
    for name in ("native", "table"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "a.jpg").touch()
        MAKERS[name](folder)
    with pytest.raises(DataError, match=r"both .*native/a\.jpg and .*table/a\.jpg have the id 'a\.jpg'"):
        read_all([tmp_path / "native", tmp_path / "table"])
    (tmp_path / "table" / "a.jpg").rename(tmp_path / "table" / "b.jpg")
    (tmp_path / "table" / "mine.csv").write_text("file,text\nb.jpg,a dog\n")
    assert [one.references for one in read_all([tmp_path / "native", tmp_path / "table"])] == [("a cat",), ("a dog",)]
