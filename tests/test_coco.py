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


def test_the_annotations_of_2017_in_a_zip_with_others(tmp_path: Path) -> None:
    listing = {
        "images": [{"id": 139, "file_name": "000000000139.jpg"}],
        "annotations": [{"image_id": 139, "caption": "A room."}],
    }
    with zipfile.ZipFile(tmp_path / "annotations_trainval2017.zip", "w") as archive:
        archive.writestr("annotations/instances_val2017.json", "{}")
        archive.writestr("annotations/captions_val2017.json", json.dumps(listing))
        archive.writestr("__MACOSX/annotations/._captions_val2017.json", "Mac")
    (tmp_path / "val2017").mkdir()
    (tmp_path / "val2017" / "000000000139.jpg").touch()
    image = f"{tmp_path}/val2017/000000000139.jpg"
    assert read_coco(tmp_path) == [Example("000000000139.jpg", image, ("A room.",), "val")]


@pytest.mark.parametrize(
    "place", ["val2014", "images", "images/val2014", "elsewhere", "images/mine", "../val2014", "../images", ".."]
)
def test_pictures_are_found_where_people_keep_them(tmp_path: Path, place: str) -> None:
    root = tmp_path / "coco"
    root.mkdir()
    path = root / "captions_val2014.json"
    path.write_text(json.dumps(VAL))
    (root / place).mkdir(parents=True, exist_ok=True)
    (root / place / VAL["images"][0]["file_name"]).touch()
    for source in (root, path) if ".." not in place else (path,):
        (example,) = read_coco(source)
        assert Path(str(example.image)).resolve() == (root / place / example.id).resolve()


def test_pictures_below_images(folders: Path) -> None:
    (folders / "images").mkdir()
    (folders / "val2014").rename(folders / "images" / "val2014")
    for path in (folders / "train2014").iterdir():
        path.rename(folders / "images" / path.name)
    assert facts(read_coco(folders)) == EXPECTED


@pytest.mark.parametrize(
    ("name", "split"), [("train2017", "train"), ("val", "val"), ("test2015", "test"), ("mine", None)]
)
def test_the_name_says_the_split(tmp_path: Path, name: str, split: str | None) -> None:
    (tmp_path / f"captions_{name}.json").write_text(json.dumps(VAL))
    (tmp_path / VAL["images"][0]["file_name"]).touch()
    assert [example.split for example in read_coco(tmp_path)] == [split]


def test_a_name_alone_is_a_path_in_the_working_folder(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folders / "annotations")
    assert facts(read_coco("captions_val2014.json")) == EXPECTED[2:]


def test_the_order_is_of_ids(tmp_path: Path) -> None:
    ids: list[int | str] = [10, "b", 9, 100, "a"]
    listing = {
        "images": [{"id": key, "file_name": f"{key}.jpg"} for key in ids],
        "annotations": [{"image_id": key, "caption": "A cat."} for key in ids],
    }
    (tmp_path / "captions_train2014.json").write_text(json.dumps(listing))
    for key in ids:
        (tmp_path / f"{key}.jpg").touch()
    assert [example.id for example in read_coco(tmp_path)] == ["9.jpg", "10.jpg", "100.jpg", "a.jpg", "b.jpg"]


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
        ({"image_id": [9], "caption": "A dog."}, r"annotation 4, is of picture \[9\], which is not among its images"),
        ({"caption": "A dog."}, r"annotation 4, is of picture None, which is not among its images"),
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


@pytest.mark.parametrize(
    ("image", "kind", "sentence"),
    [
        (
            {"id": 9, "file_name": "o.jpg"},
            "repeated-picture",
            r"image 3, has the id 9 of COCO_train2014_000000000009\.",
        ),
        (
            TRAIN["images"][1],
            "repeated-picture",
            r"image 3, has the id 9 of COCO_train2014_000000000009\.jpg; each pict",
        ),
        (
            {**TRAIN["images"][1], "id": 7},
            "repeated-picture",
            r"image 3, is COCO_train2014_0+9\.jpg again under another",
        ),
        ({"id": 7}, "path", r"image 3, names no picture; give the path of a picture inside"),
        (
            {"id": 7, "file_name": "../../secret.jpg"},
            "path",
            r"image 3, names '\.\./\.\./secret\.jpg', which is not ins",
        ),
        ({"id": 7, "file_name": "/etc/passwd"}, "path", r"image 3, names '/etc/passwd', which is not inside"),
        ({"file_name": "o.jpg"}, "row", r"image 3, has the id None; give each picture a number of its own"),
    ],
)
def test_an_image_that_is_wrong_is_named(folders: Path, image: dict[str, Any], kind: str, sentence: str) -> None:
    path = folders / "annotations" / "captions_train2014.json"
    rows = [*TRAIN["annotations"], {"image_id": 7, "caption": "A dog."}] if image.get("id") == 7 else None
    path.write_text(json.dumps({"images": [*TRAIN["images"], image], "annotations": rows or TRAIN["annotations"]}))
    with pytest.raises(DataError, match=rf"captions_train2014\.json, {sentence}"):
        read_coco(path)
    findings: list[Finding] = []
    found = read_coco(path, findings.append)
    assert [example.id for example in found] == [row[0] for row in EXPECTED[:2]]
    assert [(finding.kind, finding.breaks) for finding in findings] == [(kind, True)]


def test_images_without_captions_and_without_files_are_left_out_and_counted(folders: Path) -> None:
    path = folders / "annotations" / "captions_train2014.json"
    more = [{"id": number, "file_name": f"{number}.jpg"} for number in range(20, 25)]
    row = {"image_id": 24, "caption": "A boat."}
    path.write_text(json.dumps({"images": [*TRAIN["images"], *more], "annotations": [*TRAIN["annotations"], row]}))
    findings: list[Finding] = []
    assert facts(read_coco(folders, findings.append)) == EXPECTED
    silent, lost = findings
    assert f"4 of 7 images of {path} have no caption (20.jpg, 21.jpg, 22.jpg, …); they are left out" in silent.message
    assert f"1 of 3 pictures that {path} names are not below {folders} (24.jpg, first" in lost.message
    assert not silent.breaks
    assert not lost.breaks


def test_pictures_of_two_files_of_annotations_are_told_once(folders: Path) -> None:
    (folders / "annotations" / "captions_train2014_more.json").write_text(json.dumps(TRAIN))
    findings: list[Finding] = []
    assert sorted(facts(read_coco(folders, findings.append))) == EXPECTED
    (found,) = findings
    assert (found.kind, found.breaks) == ("repeated-picture", True)
    assert (
        "captions_train2014_more.json has 2 pictures that another file of annotations has too (COCO_" in found.message
    )


def test_captions_of_any_encoding_are_read_and_told(folders: Path) -> None:
    path = folders / "annotations" / "captions_train2014.json"
    listing = {**TRAIN, "annotations": [*TRAIN["annotations"], {"image_id": 9, "caption": "Ein Mädchen."}]}
    text = json.dumps(listing, indent=0, ensure_ascii=False)
    for data, kinds in [
        (text.encode("utf-8-sig"), []),
        (text.replace("\n", "\r\n").encode(), []),
        (text.encode("cp1252"), ["encoding"]),
        (text.replace("ä", "ä".encode().decode("cp1252")).encode(), ["mojibake"]),
    ]:
        path.write_bytes(data)
        findings: list[Finding] = []
        examples = read_coco(path, findings.append)
        assert [finding.kind for finding in findings] == kinds
        assert ("Ein Mädchen." in examples[1].references) == (kinds != ["mojibake"])
    assert findings[0].where == f"{path}, annotation 4"
    assert "the first, of annotation 4, was probably 'Ein Mädchen.': mend them" in findings[0].message
    assert not findings[0].breaks


def test_a_zip_with_a_broken_entry_is_named(tmp_path: Path) -> None:
    path = tmp_path / "captions_train-val2014.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("annotations/captions_train2014.json", json.dumps(TRAIN))
    path.write_bytes(path.read_bytes().replace(b"Two dogs", b"Two cats", 1))
    sentence = r"captions_train-val2014\.zip!annotations/captions_train2014\.json is damaged \(its checksum is wrong\)"
    with pytest.raises(DataError, match=sentence):
        read_coco(tmp_path)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"captions_train-val2014\.zip is not a zip that can be read"):
        looks_like_coco(tmp_path)


def test_a_link_that_leads_out_is_told_once(folders: Path) -> None:
    picture = folders / "train2014" / "COCO_train2014_000000000005.jpg"
    picture.unlink()
    picture.symlink_to(Path(__file__))
    findings: list[Finding] = []
    assert facts(read_coco(folders, findings.append)) == EXPECTED
    assert [(finding.kind, finding.where, finding.breaks) for finding in findings] == [("link", str(picture), False)]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"captions_val2014\.json is empty \(0 bytes or blank\); it should hold COCO captions"),
        (json.dumps(VAL).encode()[:-30], r"captions_val2014\.json:1 breaks off in the middle \(after \d+ bytes\)"),
        (b"[]", r"does not hold COCO captions .*: expected `object`, got `array`"),
        (b'{"images": [7], "annotations": []}', r"does not hold COCO captions .*: expected `object`, got `int` - at"),
        (b'{"images": []}', r"does not hold COCO captions .*: object missing required field `annotations`"),
        (b'{"images": [], "annotations": []}', r"captions_val2014\.json names no picture that can be used"),
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
