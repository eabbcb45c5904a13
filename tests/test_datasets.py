"""Readers of data: what a good folder or file gives, and the sentence for each way to be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from showtell.datasets import read_all, read_captions, read_native
from showtell.errors import DataError
from showtell.records import Example

MakeFolder = Callable[..., Path]


def line(image: Any = "a.jpg", captions: Any = ("a cat",), **more: Any) -> str:
    return json.dumps({"image": image, "captions": captions, **more}, ensure_ascii=False)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a captions.jsonl beside the (empty) pictures a.jpg, images/b.jpg and images/ảnh.jpg."""

    def make(*lines: str | bytes, newline: bytes = b"\n", name: str = "data") -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        for picture in ("a.jpg", "images/b.jpg", "images/ảnh.jpg"):
            (folder / picture).touch()
        content = newline.join(row if isinstance(row, bytes) else row.encode() for row in lines)
        (folder / "captions.jsonl").write_bytes(content)
        return folder

    return make


# the native layout


def test_a_folder_gives_examples_in_the_order_of_its_lines(make_folder: MakeFolder) -> None:
    folder = make_folder(
        line("images/b.jpg", ["một con mèo", " a cat . "], split="val"),
        "",
        line("a.jpg", ["two dogs"], licence="unknown fields are nobody's business"),
        "   ",
        line("images/ảnh.jpg", ["ảnh"], split="test"),
    )
    assert read_native(folder) == [
        Example("images/b.jpg", str(folder / "images/b.jpg"), ("một con mèo", "a cat ."), "val"),
        Example("a.jpg", str(folder / "a.jpg"), ("two dogs",), "train"),
        Example("images/ảnh.jpg", str(folder / "images/ảnh.jpg"), ("ảnh",), "test"),
    ]
    assert read_native(str(folder)) == read_native(folder)


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_and_windows_lines_are_no_matter(
    make_folder: MakeFolder, newline: bytes, mark: bytes
) -> None:
    folder = make_folder(mark + line().encode(), line("images/b.jpg"), b"", newline=newline)
    assert [(example.id, example.references) for example in read_native(folder)] == [
        ("a.jpg", ("a cat",)),
        ("images/b.jpg", ("a cat",)),
    ]


def test_a_windows_separator_finds_the_picture(make_folder: MakeFolder) -> None:
    folder = make_folder(line("images\\b.jpg"))
    (example,) = read_native(folder)
    assert (example.id, example.image) == ("images/b.jpg", str(folder / "images" / "b.jpg"))


def test_two_spellings_of_a_path_are_one_picture(make_folder: MakeFolder) -> None:
    for again in ("images\\b.jpg", "./images/b.jpg", "images//b.jpg"):
        folder = make_folder(line("images/b.jpg"), line(again, split="val"), name=repr(again).replace("/", "_"))
        with pytest.raises(DataError, match=r"captions\.jsonl:2 lists .* in val, and earlier in train"):
            read_native(folder)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a cat", r"captions\.jsonl:2 is not JSON: .*; each line is one object with image and captions"),
        ('{"image": "a.jpg"', r"captions\.jsonl:2 is not JSON"),
        ("[" * 100_000, r"captions\.jsonl:2 is not JSON"),
        ('["a.jpg", "a cat"]', r"captions\.jsonl:2 is list, not an object with image and captions"),
        ('{"captions": ["a cat"]}', r'captions\.jsonl:2 has no "image", the path of a picture inside '),
        (line(7), r'captions\.jsonl:2 has no "image"'),
        (line(""), r'captions\.jsonl:2 has no "image"'),
        (line("."), r"captions\.jsonl:2 names '\.'"),
        (line("../a.jpg"), r"captions\.jsonl:2 names '\.\./a\.jpg', which is not inside .*; use a path below the fold"),
        (line("images/../../a.jpg"), r"captions\.jsonl:2 names .*, which is not inside "),
        (line("images\\..\\..\\a.jpg"), r"captions\.jsonl:2 names .*, which is not inside "),
        (line("/etc/passwd"), r"captions\.jsonl:2 names '/etc/passwd', which is not inside "),
        (line("\\\\host\\a.jpg"), r"captions\.jsonl:2 names .*, which is not inside "),
        (line("C:\\a.jpg"), r"captions\.jsonl:2 names .*, which is not inside "),
        (line("c:a.jpg"), r"captions\.jsonl:2 names 'c:a\.jpg', which is not inside "),
        (line("lost.jpg"), r"captions\.jsonl:2 names 'lost\.jpg', which is not in .*; add the picture or remove the l"),
        (line("lost/a.jpg"), r"captions\.jsonl:2 names 'lost/a\.jpg', which is not in "),
        (line("a.jpg/b.jpg"), r"captions\.jsonl:2 names 'a\.jpg/b\.jpg', which is not in "),
        (line("a\0.jpg"), r"captions\.jsonl:2 names no picture"),
        (line("a\0b/c.jpg"), r"captions\.jsonl:2 names no picture"),
        ('{"image": "a.jpg", "captions": ["a \\ud83d cat"]}', r"captions\.jsonl:2 holds half a character"),
        (line("A.jpg"), r"captions\.jsonl:2 names 'A\.jpg', which is not in "),
        ('{"image": "a.jpg"}', r'captions\.jsonl:2 has no "captions", a list of at least one caption'),
        (line(captions=[]), r'captions\.jsonl:2 has no "captions"'),
        (line(captions="a cat"), r'captions\.jsonl:2 has no "captions"'),
        (
            line(captions=["a cat", " \t"]),
            r"captions\.jsonl:2 has an empty caption \(number 2 of 2\); write one or rem",
        ),
        (line(captions=["a cat", 3]), r"captions\.jsonl:2 has an empty caption \(number 2 of 2\)"),
        (line(split="training"), r"captions\.jsonl:2 has split 'training'; accepted are train, val, test"),
        (line(split=None), r"captions\.jsonl:2 has split None"),
        (line(split=["train"]), r"captions\.jsonl:2 has split \['train'\]"),
        (line("images/b.jpg"), r"captions\.jsonl:2 lists 'images/b\.jpg' a second time; a picture has one line and on"),
        (line("images/b.jpg", split="test"), r"captions\.jsonl:2 lists 'images/b\.jpg' in test, and earlier in train"),
        (line(captions=["cat " * 3000]), r"captions\.jsonl:2 has a caption of 12,000 characters; at most 10,000"),
        (line(regions=[{"box": [1, 2, 3]}]), r'captions\.jsonl:2 has "regions" that cannot be read'),
        (line(regions=[{"box": [5, 5, 5, 9]}]), r'captions\.jsonl:2 has "regions" .*is empty'),
        (b"\xff\xfe", r"captions\.jsonl:2 is not JSON"),
    ],
)
def test_a_line_that_is_wrong_is_named(make_folder: MakeFolder, row: str | bytes, sentence: str) -> None:
    folder = make_folder(line("images/b.jpg"), row)
    with pytest.raises(DataError, match=sentence):
        read_native(folder)


def test_a_folder_that_is_none(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*lost; give a folder with captions\.jsonl"):
        read_native(tmp_path / "lost")
    with pytest.raises(DataError, match=r'has no captions\.jsonl; it needs one line a picture: \{"image"'):
        read_native(tmp_path)
    with pytest.raises(DataError, match=r"captions\.jsonl is empty; get the file again"):
        read_native(make_folder("", "  "))
    with pytest.raises(DataError, match="there is no folder"):
        read_native(make_folder(line(), name="other") / "captions.jsonl")


def test_several_folders_follow_each_other(make_folder: MakeFolder) -> None:
    one, two = make_folder(line(), name="one"), make_folder(line("images/b.jpg"), name="two")
    assert read_all([one, two]) == [*read_native(one), *read_native(two)]
    assert read_all([]) == []
    three = make_folder(line("images/b.jpg", split="val"), name="three")
    with pytest.raises(DataError, match=r"both .*two/images/b\.jpg and .*three/images/b\.jpg have the id 'images/b\."):
        read_all([one, two, three])


# captions without pictures


def as_dict(path: Path) -> dict[str, tuple[str, ...]]:
    found = read_captions(path)
    assert all(example.image is None and example.split == "train" for example in found)
    assert len({example.id for example in found}) == len(found)
    return {example.id: example.references for example in found}


def test_captions_of_the_native_layout_leave_val_and_test_out(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    rows = [
        line("images/a.jpg", ["a cat", "một con mèo"]),  # no picture is looked for
        line("b.jpg", ["a secret"], split="test"),
        line("c.jpg", ["a bus"], split="train"),
        line("d.jpg", ["another"], split="val"),
        '{"captions": ["of no picture"]}',
    ]
    path.write_text("﻿" + "\r\n".join(rows), "utf-8")
    expected = {
        "images/a.jpg": ("a cat", "một con mèo"),
        "c.jpg": ("a bus",),
        f"{path}:5": ("of no picture",),
    }
    assert as_dict(path) == expected
    assert as_dict(tmp_path) == expected  # the folder will do


def test_lines_of_one_picture_are_put_together(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text("\n".join([line("a.jpg", ["a cat"]), line("b.jpg"), line("a.jpg", ["one cat"])]))
    assert as_dict(path) == {"a.jpg": ("a cat", "one cat"), "b.jpg": ("a cat",)}


def test_captions_of_coco(tmp_path: Path) -> None:
    path = tmp_path / "captions_train2017.json"
    content = {
        "images": [{"id": 9, "file_name": "000000000009.jpg"}],
        "annotations": [
            {"image_id": 9, "caption": "A cat.", "id": 1},
            {"image_id": 30, "caption": "Two dogs."},
            {"image_id": 9, "caption": "One cat.\n"},
        ],
    }
    expected = {"000000000009.jpg": ("A cat.", "One cat."), "30": ("Two dogs.",)}
    path.write_text(json.dumps(content))
    assert as_dict(path) == expected
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert as_dict(path) == expected
    del content["images"]
    path.write_text(json.dumps(content))
    assert as_dict(path) == {"9": ("A cat.", "One cat."), "30": ("Two dogs.",)}


def test_captions_of_flickr8k_are_of_its_training_pictures(tmp_path: Path) -> None:
    path = tmp_path / "Flickr8k.token.txt"
    path.write_bytes(b"a.jpg#0\tA dog .\r\nb.jpg#0\tA secret .\r\n\r\na.jpg#1\tThe dog # 2 runs .\r\n")
    assert as_dict(path) == {"a.jpg": ("A dog .", "The dog # 2 runs ."), "b.jpg": ("A secret .",)}
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("a.jpg\nc.jpg\n")
    assert as_dict(path) == {"a.jpg": ("A dog .", "The dog # 2 runs .")}
    (tmp_path / "Flickr_8k.trainImages.txt").write_text("c.jpg\n")
    with pytest.raises(DataError, match="holds no caption of a training picture"):
        read_captions(path)


def test_a_text_file_has_a_caption_a_line(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("﻿a cat\n\n  \none of 3 # dogs\nname\twith a tab\n", "utf-8")
    assert as_dict(path) == {
        "lines.txt:1": ("a cat",),
        "lines.txt:4": ("one of 3 # dogs",),
        "lines.txt:5": ("name with a tab",),
    }


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("lost.txt", None, r"there is no file of captions at .*lost\.txt; accepted are \.jsonl, COCO \.json and \.txt"),
        ("a.csv", b"a,b", r"a\.csv has an unknown suffix; accepted are \.jsonl, \.json, \.txt"),
        ("a.txt", b" \n\n", r"a\.txt is empty; get the file again"),
        ("a.txt", b"\xff\xfe", r"a\.txt holds no caption of a training picture"),
        ("a.jsonl", line(split="val").encode(), r"a\.jsonl holds no caption of a training picture"),
        ("a.jsonl", b"a cat", r"a\.jsonl:1 is not JSON"),
        ("a.jsonl", line(captions=[""]).encode(), r"a\.jsonl:1 has an empty caption \(number 1 of 1\)"),
        ("a.jsonl", line(split="valid").encode(), r"a\.jsonl:1 has split 'valid'; accepted are train, val, test"),
        ("a.jsonl", line(captions=["😀 \\ud83d"]).replace("\\\\", "\\").encode(), r"a\.jsonl:1 holds half a character"),
        ("a.json", b"", r'a\.json is empty .*; it should hold COCO annotations \(\{"annotations": \[\.\.\.\]\}\)'),
        ("a.json", b"{", r"a\.json:1 breaks off in the middle \(after 1 bytes\)"),
        ("a.json", b'{"annotations": [\n{"image_id": 3, "cap', r"a\.json:2 breaks off in the middle"),
        ("a.json", b"\xff{}", r"a\.json is not JSON .*; it should hold COCO annotations"),
        ("a.json", b"[" * 100_000, r"a\.json does not hold COCO annotations"),
        (
            "a.json",
            b'{"annotations": [{"image_id": 3, "caption": "\\ud83d"}]}',
            r"annotation 1 \(3\), holds half a char",
        ),
        ("a.json", b"[]", r"a\.json does not hold COCO annotations .*: expected `object`, got `array`"),
        (
            "a.json",
            b'{"captions": []}',
            r"a\.json does not hold COCO annotations .*missing required field `annotations`",
        ),
        ("a.json", b'{"annotations": [3]}', r"a\.json does not hold COCO annotations .* at `\$\.annotations\[0\]`"),
        (
            "a.json",
            b'{"annotations": [{"image_id": 3}]}',
            r"annotation 1 \(3\), has a caption that is NoneType, not text",
        ),
        ("a.json", b'{"annotations": [{"image_id": [], "caption": ""}]}', r"a\.json does not hold COCO annotations"),
        ("a.json", b'{"annotations": [{"image_id": 3, "caption": " "}]}', r"annotation 1 \(3\), has an empty caption"),
        ("a.json", b'{"annotations": []}', r"a\.json holds no caption of a training picture"),
    ],
)
def test_a_file_that_is_wrong_is_named(tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        read_captions(tmp_path / name)


def test_the_given_data_can_be_read(shared_data: Path) -> None:
    for folder in ("coco", "vietnamese"):
        if not (shared_data / folder / "captions.jsonl").is_file():
            pytest.skip(f"no {folder} in {shared_data}")
        examples = read_native(shared_data / folder)
        assert {example.split for example in examples} <= {"train", "val", "test"}
        assert all(example.references for example in examples)
        train = sum(len(example.references) for example in examples if example.split == "train")
        if train:
            assert sum(len(example.references) for example in read_captions(shared_data / folder)) == train
