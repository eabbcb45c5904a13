"""Text of any encoding is read or refused with its line; pictures are found inside a folder, and nowhere else."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.datasets.files import (
    MAX_CAPTION,
    PictureFolder,
    check_caption,
    inside,
    name_split,
    read_json,
    read_rows,
    read_text,
    undo_mojibake,
)
from showtell.errors import DataError
from showtell.records import Finding


@pytest.fixture
def findings() -> list[Finding]:
    return []


@pytest.mark.parametrize(
    "content",
    [
        "một con mèo\nzwei Hunde\n".encode(),
        "một con mèo\nzwei Hunde\n".encode("utf-8-sig"),
        b"\xff\xfe" + "một con mèo\nzwei Hunde\n".encode("utf-16-le"),
        b"\xfe\xff" + "một con mèo\nzwei Hunde\n".encode("utf-16-be"),
        "một con mèo\r\nzwei Hunde\r\n".encode(),
        "một con mèo\rzwei Hunde".encode(),
    ],
    ids=["utf-8", "mark", "utf-16-le", "utf-16-be", "windows", "old mac"],
)
def test_lines_are_read_whatever_the_encoding_and_the_line_end(
    tmp_path: Path, content: bytes, findings: list[Finding]
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    assert list(read_rows(path, findings.append)) == [(f"{path}:1", "một con mèo"), (f"{path}:2", "zwei Hunde")]
    assert not findings


def test_a_line_of_windows_text_among_utf_8_is_read_and_named(tmp_path: Path, findings: list[Finding]) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("ein Mädchen\n".encode() + "ein schöner Hund\n".encode("cp1252") + b"a cat\n")
    assert [line for _, line in read_rows(path, findings.append)] == ["ein Mädchen", "ein schöner Hund", "a cat"]
    (found,) = findings
    assert (found.kind, found.where, found.breaks) == ("encoding", f"{path}:2", False)
    assert "is not UTF-8; it was read as cp1252 ('ein schöner Hund')" in found.message


def test_text_that_was_saved_wrongly_is_named_with_what_it_was(tmp_path: Path, findings: list[Finding]) -> None:
    path = tmp_path / "a.txt"
    wrong = "ein schöner Hund’s Café".encode().decode("cp1252")
    path.write_text(f"ein Mädchen\n{wrong}\nÃ la carte is fine\n", "utf-8")
    read_text(path, findings.append)
    assert [(found.kind, found.where, found.breaks) for found in findings] == [("mojibake", f"{path}:2", False)]
    assert "ein schöner Hund’s Café" in findings[0].message


@given(st.text(st.characters(codec="cp1252")))
def test_only_text_that_reads_as_utf_8_is_taken_for_mojibake(text: str) -> None:
    meant = undo_mojibake(text)
    assert meant is None or meant.encode().decode("cp1252") == text
    if not text.isascii():
        try:
            twice = text.encode().decode("cp1252")
        except UnicodeDecodeError:
            return
        assert undo_mojibake(twice) == text


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "half.txt").write_bytes(b"\xff\xfea")
    for name, sentence in [
        ("lost.txt", r"cannot read .*lost\.txt \(No such file or directory\); check the path"),
        ("empty.txt", r"empty\.txt is empty; get the file again"),
        ("half.txt", r"half\.txt begins as utf-16-le but is not .*; save it as UTF-8"),
        ("a\0b", r"cannot read"),
    ]:
        with pytest.raises(DataError, match=sentence):
            read_text(tmp_path / name)


class Row(msgspec.Struct):
    caption: Any = None


def test_json_is_read_from_a_folder_or_a_zip_in_any_encoding(tmp_path: Path, findings: list[Finding]) -> None:
    content = '[{"caption": "một con mèo", "more": [1, 2]}]'
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/a.json", content)
    for name, data in [("a.json", content.encode()), ("b.json", content.encode("utf-8-sig"))]:
        (tmp_path / name).write_bytes(data)
    for source in (tmp_path / "a.json", tmp_path / "b.json", f"{tmp_path}/a.zip!annotations/a.json"):
        assert read_json(source, list[Row], "rows", findings.append) == [Row("một con mèo")]
    assert not findings
    (tmp_path / "c.json").write_bytes('[{"caption":\n "schön"}]'.encode("cp1252"))
    assert read_json(tmp_path / "c.json", list[Row], "rows", findings.append) == [Row("schön")]
    assert [found.where for found in findings] == [f"{tmp_path}/c.json:2"]
    mixed = '[{"caption": "một con mèo"}, {"caption": "'.encode() + b"sch\xf6n\x94" + b'"}]'
    (tmp_path / "d.json").write_bytes(mixed)  # one line: what is UTF-8 stays
    assert read_json(tmp_path / "d.json", list[Row], "rows", findings.append) == [Row("một con mèo"), Row("schön”")]


def test_captions_are_text_of_a_sensible_length() -> None:
    assert check_caption(" a\tcat\x00\x1b sits \r\n", "x:1") == "a cat   sits"
    assert check_caption("một con mèo", "x:1") == "một con mèo"
    for caption, sentence in [
        (None, "x:1 has a caption that is NoneType, not text; write it as text"),
        (" \t\x00", "x:1 has an empty caption; write one or remove the line"),
        ("a" * 10**6, "x:1 has a caption of 1,000,000 characters; at most 10,000 are accepted: cut it"),
    ]:
        with pytest.raises(DataError, match=sentence):
            check_caption(caption, "x:1")
    assert check_caption("a" * MAX_CAPTION, "x:1")


def test_splits_have_many_names() -> None:
    assert [name_split(name, "x") for name in ("Train", "restval", " dev ", "validation", "TEST")] == [
        "train",
        "train",
        "val",
        "val",
        "test",
    ]
    with pytest.raises(DataError, match=r"x:3 has split 'fold1'; accepted are train, val, test"):
        name_split("fold1", "x:3")


@pytest.mark.parametrize("name", ["../a.jpg", "a/../../b.jpg", "/a.jpg", "C:\\a.jpg", "\\\\host\\a.jpg", "..\\a.jpg"])
def test_a_path_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"x:1 names .*, which is not inside data; use a path below the folder"):
        inside(name, "x:1", "data")


@pytest.mark.parametrize("name", ["", " ", None, 3, "a\0.jpg"])
def test_a_name_that_is_none_is_refused(name: Any) -> None:
    with pytest.raises(DataError, match="x:1 names no picture"):
        inside(name, "x:1", "data")


def test_pictures_are_found_in_folders_and_in_zips_beside_them(tmp_path: Path, findings: list[Finding]) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").touch()
    with zipfile.ZipFile(tmp_path / "train2014.zip", "w") as archive:
        archive.writestr("train2014/b.jpg", b"b")
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("c.jpg", b"c")
    pictures = PictureFolder(tmp_path, findings.append)
    for name, found in {
        "images/a.jpg": f"{tmp_path}/images/a.jpg",
        "images/A.jpg": None,
        "train2014/b.jpg": f"{tmp_path}/train2014.zip!train2014/b.jpg",
        "flat/c.jpg": f"{tmp_path}/flat.zip!c.jpg",
        "flat/d.jpg": None,
        "c.jpg": None,
    }.items():
        assert pictures.find(PurePosixPath(name)) == found
    assert not findings


def test_a_link_that_leads_out_is_noticed_once_and_followed(tmp_path: Path, findings: list[Finding]) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside.jpg"
    folder.mkdir()
    outside.touch()
    (folder / "real.jpg").touch()
    (folder / "own.jpg").symlink_to("real.jpg")
    (folder / "out.jpg").symlink_to(outside)
    (folder / "loop.jpg").symlink_to("loop.jpg")
    pictures = PictureFolder(folder, findings.append)
    assert [pictures.find(PurePosixPath(name)) for name in ("out.jpg", "own.jpg", "real.jpg")] == [
        f"{folder}/{name}" for name in ("out.jpg", "own.jpg", "real.jpg")
    ]
    assert sorted(found.where for found in findings) == [f"{folder}/loop.jpg", f"{folder}/out.jpg"]
    assert all(found.kind == "link" and not found.breaks for found in findings)


def test_what_json_holds_is_said_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for content, sentence in [
        (b"", r"a\.json is empty \(0 bytes or blank\); it should hold rows: get the file again"),
        (json.dumps([{"caption": "a"}] * 3, indent=1).encode()[:-9], r"a\.json:9 breaks off in the middle \(after"),
        (b'[{"caption": 1}', r"a\.json:1 breaks off|is not JSON"),
        (b"{}", r"a\.json does not hold rows: expected `array`, got `object`"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=sentence):
            read_json(path, list[Row], "rows")
