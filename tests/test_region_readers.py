"""Boxes of Visual Genome, RefCOCO and COCO become regions of the pictures that are there."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from showtell.datasets import read_native
from showtell.datasets.native import write_line
from showtell.datasets.regions import (
    join_regions,
    read_instances,
    read_objects,
    read_refcoco,
    read_visual_genome,
)
from showtell.errors import DataError
from showtell.records import Example, Finding, Region


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def touch(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return str(path)


def vg(x: Any, y: Any, width: Any, height: Any, phrase: Any) -> dict[str, Any]:
    return {"x": x, "y": y, "width": width, "height": height, "phrase": phrase, "region_id": 1, "image_id": 1}


def test_visual_genome_gives_a_phrase_a_region(tmp_path: Path) -> None:
    content = [
        {"id": 2, "regions": [vg(0, 0, 5, 5, "a wall")]},
        {"id": 1, "regions": [vg(10, 20, 30, 40, "the clock is green"), vg(0.5, 0, 9, 9, " a man ")]},
    ]
    write(tmp_path / "region_descriptions.json", content)
    one, two = touch(tmp_path / "VG_100K" / "1.jpg"), touch(tmp_path / "VG_100K_2" / "2.jpg")
    assert read_visual_genome(tmp_path) == [
        Example(
            "1.jpg",
            one,
            (),
            None,
            (Region((10, 20, 40, 60), ("the clock is green",)), Region((0.5, 0, 9.5, 9), ("a man",))),
        ),
        Example("2.jpg", two, (), None, (Region((0, 0, 5, 5), ("a wall",)),)),
    ]


def test_regions_that_cannot_be_used_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [vg(0, 0, 0, 5, "no width"), vg(0, 0, 5, 5, " "), vg(0, None, 5, 5, "no top"), vg(1, 1, 2, 2, "fine")]
    write(tmp_path / "region_descriptions.json", [{"id": 1, "regions": rows}, {"id": "x", "regions": []}])
    touch(tmp_path / "VG_100K" / "1.jpg")
    findings: list[Finding] = []
    (example,) = read_visual_genome(tmp_path, findings.append)
    assert example.regions == (Region((1, 1, 3, 3), ("fine",)),)
    assert [found.message.partition("json, ")[2] for found in findings] == [
        "picture 1, region 1, has a box of 0 × 5 pixels; both must be above 0",
        "picture 1, region 2, has an empty caption; write one or remove the line",
        "picture 1, region 3, has the box [0, None, 5, 5]; accepted are x, y, width and height, four numbers",
        'picture 2 has no number as its "id"; it is left out',
    ]
    assert not any(found.breaks for found in findings)


def test_references_have_sentences_and_splits(tmp_path: Path) -> None:
    rows = [
        {
            "file_name": "COCO_train2014_000000000009_3.jpg",
            "bbox": [1, 2, 3, 4],
            "sentences": [{"raw": "left man", "sent": "left man"}, {"sent": "the man"}, "him"],
            "split": "testA",
        },
        {"image_id": 7, "bbox": [0, 0, 1, 1], "sentences": "a dog", "split": "val"},
    ]
    write(tmp_path / "refs.json", rows)
    nine = touch(tmp_path / "train2014" / "COCO_train2014_000000000009.jpg")
    seven = touch(tmp_path / "7.jpg")
    assert read_refcoco(tmp_path) == [
        Example("7.jpg", seven, (), "val", (Region((0, 0, 1, 1), ("a dog",)),)),
        Example(
            "COCO_train2014_000000000009.jpg",
            nine,
            (),
            "test",
            (Region((1, 2, 4, 6), ("left man", "the man", "him")),),
        ),
    ]


def test_references_beside_cocos_pictures_and_boxes(tmp_path: Path) -> None:
    content = {
        "refs": [{"image_id": 9, "ann_id": 5, "sentences": ["a cat"], "split": "train"}],
        "images": [{"id": 9, "file_name": "9.jpg"}],
        "annotations": [{"id": 5, "image_id": 9, "bbox": [1, 1, 2, 2]}],
    }
    path = write(tmp_path / "annotations" / "refcoco.json", content)
    touch(tmp_path / "images" / "9.jpg")
    expected = [Example("9.jpg", str(tmp_path / "images/9.jpg"), (), "train", (Region((1, 1, 3, 3), ("a cat",)),))]
    assert read_refcoco(tmp_path) == read_refcoco(path) == expected


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}, {"id": 3, "file_name": "c.jpg"}],
        "annotations": [
            {"image_id": 1, "bbox": [0, 0, 10, 10], "category_id": 18, "segmentation": [[1, 2]], "iscrowd": 0},
            {"image_id": 1, "bbox": [5, 5, 10, 10], "category_id": 1},
            {"image_id": 2, "bbox": [1, 1, 1, 1], "category_id": 18},
            {"image_id": 2, "bbox": [1, 1, 1, 1], "category_id": 99},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
    }
    write(tmp_path / "annotations" / "instances_val2017.json", content)
    with zipfile.ZipFile(tmp_path / "val2017.zip", "w") as archive:
        archive.writestr("val2017/a.jpg", b"")
    return tmp_path


def test_instances_name_categories_and_pictures_come_from_the_zip(coco: Path) -> None:
    findings: list[Finding] = []
    (example,) = read_instances(coco, findings.append)
    assert example == Example(
        "a.jpg",
        f"{coco}/val2017.zip!val2017/a.jpg",
        (),
        "val",
        (Region((0, 0, 10, 10), category="dog"), Region((5, 5, 15, 15), category="person")),
    )
    assert [found.kind for found in findings] == ["region", "missing-picture"]
    assert "1 of 2 pictures" in findings[1].message
    assert read_objects(coco) == {"a.jpg": {"dog", "person"}, "b.jpg": {"dog"}, "c.jpg": set()}


def test_rows_that_are_broken_do_not_lose_the_file(coco: Path) -> None:
    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["images"] += [{"id": [], "file_name": "x.jpg"}, {"id": 7}]
    content["annotations"] += [{"bbox": [0, 0, 1, 1]}, {"image_id": {}, "category_id": [], "bbox": None}]
    content["categories"] += [{"id": None, "name": 3}]
    path.write_text(json.dumps(content))
    findings: list[Finding] = []
    (example,) = read_instances(coco, findings.append)
    assert len(example.regions) == 2
    assert sum(found.kind == "region" for found in findings) == 3
    assert read_objects(coco)["a.jpg"] == {"dog", "person"}


def test_regions_are_put_beside_the_captions_of_the_same_pictures(coco: Path) -> None:
    captions = [Example("images/b.jpg", "b", ("a dog",)), Example("images/a.jpg", "a", ("a dog and a man",))]
    b, a = join_regions(captions, read_instances(coco, lambda finding: None))
    assert (b, [region.category for region in a.regions]) == (captions[0], ["dog", "person"])


def test_regions_survive_the_native_layout(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    regions = (Region((1.5, 2, 30, 40), ("a dog", "một con chó")), Region((0, 0, 1, 1), category="cat"))
    examples = [Example("a.jpg", str(tmp_path / "a.jpg"), (), "val", regions)]
    (tmp_path / "captions.jsonl").write_text(write_line(examples[0], "a.jpg"), "utf-8")
    assert read_native(tmp_path) == examples


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"should hold one file named annotations/instances_\*\.json .*, it has none"):
        read_instances(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*region_descriptions\.json \(No such file"):
        read_visual_genome(tmp_path)
    write(tmp_path / "region_descriptions.json", {"id": 1})
    with pytest.raises(DataError, match=r"does not hold Visual Genome regions .*: expected `array`, got `object`"):
        read_visual_genome(tmp_path)
    write(tmp_path / "region_descriptions.json", [{"id": 1, "regions": [vg(0, 0, 1, 1, "a")]}])
    with pytest.raises(
        DataError, match=r"1 of 1 pictures that .* names are not below .* \(1\.jpg, .*\); they are looked for in VG"
    ):
        read_visual_genome(tmp_path)
    write(tmp_path / "region_descriptions.json", [{"id": 1, "regions": []}])
    with pytest.raises(DataError, match="holds no region that can be used"):
        read_visual_genome(tmp_path)
    write(tmp_path / "refs1.json", [])
    write(tmp_path / "refs2.json", [])
    with pytest.raises(DataError, match=r"it has several \(refs1\.json, refs2\.json\); name the file"):
        read_refcoco(tmp_path)


def test_a_name_that_climbs_out_is_no_picture(tmp_path: Path) -> None:
    write(tmp_path / "refs.json", [{"file_name": "../a.jpg", "bbox": [0, 0, 1, 1], "sentences": ["a"]}])
    findings: list[Finding] = []
    with pytest.raises(DataError, match="holds no region"):
        read_refcoco(tmp_path, findings.append)
    assert "is not inside" in findings[0].message
