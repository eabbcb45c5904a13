"""Pictures are paired with the texts beside them, and what is left over or wrong is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from showtell.datasets import sidecars
from showtell.datasets.sidecars import PICTURE_SUFFIXES, looks_like_sidecars, read_sidecars
from showtell.errors import DataError
from showtell.images import FORMATS
from showtell.records import Example, Finding


def fill(folder: Path, *pictures: str, **texts: str | bytes) -> Path:
    """Empty pictures, and texts under their paths without the suffix `.txt`."""
    for name in pictures:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for name, text in texts.items():
        path = folder / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def findings() -> list[Finding]:
    return []


def test_every_line_beside_a_picture_is_a_caption(tmp_path: Path, findings: list[Finding]) -> None:
    fill(tmp_path, "b.PNG", "a.jpg", "deep/er/ảnh.webp", a="a cat sits\r\n\r\n two cats \r\n", b="1girl, solo, smile")
    fill(tmp_path, **{"deep/er/ảnh": "một con mèo"})
    assert read_sidecars(str(tmp_path), findings.append) == [
        Example("a.jpg", f"{tmp_path}/a.jpg", ("a cat sits", "two cats"), None),
        Example("b.PNG", f"{tmp_path}/b.PNG", ("1girl, solo, smile",), None),
        Example("deep/er/ảnh.webp", f"{tmp_path}/deep/er/ảnh.webp", ("một con mèo",), None),
    ]
    assert not findings


def test_a_text_may_be_called_caption_or_carry_the_whole_name_of_its_picture(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.v2.jpg", **{"b.jpg": "a dog", "c.v2": "a hen"})
    (tmp_path / "a.caption").write_text("a cat")
    (tmp_path / "a.TXT").write_text("cat, fur")
    assert {example.id: example.references for example in read_sidecars(tmp_path)} == {
        "a.jpg": ("cat, fur", "a cat"),
        "b.jpg": ("a dog",),
        "c.v2.jpg": ("a hen",),
    }


@given(
    names=st.dictionaries(
        st.from_regex(r"[a-z]{1,2}(/[a-z]{1,2})?", fullmatch=True),
        st.tuples(st.sets(st.sampled_from([".jpg", ".png"])), st.booleans()),
        min_size=1,
    )
)
def test_pairs_are_those_of_each_file_looked_up_alone(
    names: dict[str, tuple[set[str], bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pairs")
    for stem, (suffixes, told) in names.items():
        fill(folder, *(stem + suffix for suffix in suffixes), **({stem: stem} if told else {}))
    expected = sorted(stem + suffix for stem, (suffixes, told) in names.items() if told for suffix in suffixes)
    untold = sum(len(suffixes) for suffixes, told in names.values() if not told)
    unseen = sum(told and not suffixes for suffixes, told in names.values())
    sharing = sum(told and len(suffixes) == 2 for suffixes, told in names.values())
    assert looks_like_sidecars(folder) == bool(expected)
    found: list[Finding] = []
    if not expected:
        with pytest.raises(DataError, match=rf"\(pictures: {untold}, texts: {unseen}\)"):
            read_sidecars(folder, found.append)
        return
    assert [example.id for example in read_sidecars(folder, found.append)] == expected
    counts = {"caption": untold, "missing-picture": unseen, "repeated-picture": sharing}
    assert {finding.kind for finding in found} == {kind for kind, count in counts.items() if count}
    assert all(f": {counts[finding.kind]:,} (" in finding.message and not finding.breaks for finding in found)


def test_what_is_left_over_is_counted_and_shown(tmp_path: Path, findings: list[Finding]) -> None:
    fill(tmp_path, "a.jpg", "a.png", *(f"x{i}.jpg" for i in range(5)), a="a cat", README="read me")
    assert [example.references for example in read_sidecars(tmp_path, findings.append)] == [("a cat",)] * 2
    assert [(found.kind, found.where, found.breaks) for found in findings] == [
        ("caption", f"{tmp_path}/x0.jpg", False),
        ("missing-picture", f"{tmp_path}/README.txt", False),
        ("repeated-picture", f"{tmp_path}/a.png", False),
    ]
    assert findings[0].message == (
        f"{tmp_path} has pictures without a text beside them: 5 ('x0.jpg', 'x1.jpg', 'x2.jpg', …); they are left out: "
        "write their captions"
    )
    assert "texts without a picture of the same name: 1 ('README.txt'); they are left out" in findings[1].message
    assert "pictures of one name, which share a text: 1 ('a.png'); rename them" in findings[2].message


def test_hidden_files_and_what_servers_leave_behind_are_no_pictures(tmp_path: Path, findings: list[Finding]) -> None:
    fill(tmp_path, "a.jpg", ".thumbs/t.jpg", "._a.jpg", "@eaDir/a.jpg", "in/__MACOSX/a.jpg", a="a cat", **{"._a": "x"})
    fill(tmp_path, **{".thumbs/t": "x", "@eaDir/a": "x", "in/__MACOSX/a": "x"})
    assert [example.id for example in read_sidecars(tmp_path, findings.append)] == ["a.jpg"]
    assert not findings


def test_texts_that_hold_no_caption_are_named_and_their_pictures_left_out(
    tmp_path: Path, findings: list[Finding]
) -> None:
    fill(
        tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", a="a cat\n\x00\x1b\nfur", b="", c=" \r\n", d="a" * 10**6
    )
    fill(tmp_path, e=b"\xff\xfe")
    assert [(example.id, example.references) for example in read_sidecars(tmp_path, findings.append)] == [
        ("a.jpg", ("a cat", "fur"))
    ]
    assert [(found.kind, found.where, found.breaks) for found in findings] == [
        ("caption", f"{tmp_path}/a.txt:2", True),
        ("caption", f"{tmp_path}/b.txt", True),
        ("caption", f"{tmp_path}/c.txt", True),
        ("caption", f"{tmp_path}/d.txt:1", True),
        ("caption", f"{tmp_path}/e.txt", True),
    ]
    assert findings[0].message == f"{tmp_path}/a.txt:2 has an empty caption; write one or remove the line"
    for empty in (findings[1], findings[2], findings[4]):
        assert empty.message == f"{empty.where} is empty; write a caption in it, or remove it and its picture"
    assert "has a caption of 1,000,000 characters; at most 10,000 are accepted" in findings[3].message
    with pytest.raises(DataError, match=r"a\.txt:2 has an empty caption"):
        read_sidecars(tmp_path)


def test_texts_of_any_encoding_are_read(tmp_path: Path, findings: list[Finding]) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d.jpg", a="schön".encode("cp1252"), b="schön".encode("utf-8-sig"))
    fill(tmp_path, c="schön".encode("utf-16"), d="schÃ¶n")
    examples = read_sidecars(tmp_path, findings.append)
    assert [example.references for example in examples] == [("schön",)] * 3 + [("schÃ¶n",)]
    assert [(found.kind, found.where) for found in findings] == [
        ("encoding", f"{tmp_path}/a.txt:1"),
        ("mojibake", f"{tmp_path}/d.txt:1"),
    ]


def test_what_may_not_be_read_is_named(
    tmp_path: Path, findings: list[Finding], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "in/c.jpg", a="a cat", **{"in/c": "a hen"})
    (tmp_path / "b.txt").symlink_to("lost.txt")
    scandir = os.scandir

    def refusing(path: Any) -> Any:
        if str(path).endswith("in"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert [example.id for example in read_sidecars(tmp_path, findings.append)] == ["a.jpg"]
    assert [(found.kind, found.where, found.breaks) for found in findings] == [
        ("path", f"{tmp_path}/in", True),
        ("caption", f"{tmp_path}/b.txt", True),
    ]
    assert findings[0].message == (
        f"cannot list {tmp_path}/in (Permission denied); change its permissions or remove it"
    )
    assert findings[1].message == f"cannot read {tmp_path}/b.txt (No such file or directory); check the path"


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/a", "valid/b", "test/in/c"], ["test", "train", "val"]),
        (["train/a", "validation/b"], ["train", "val"]),
        (["train/a", "more/b"], [None, None]),
        (["train/a", "b"], [None, None]),
        (["photos/train/a"], [None]),
    ],
)
def test_splits_are_the_folders_that_all_pictures_lie_in(
    tmp_path: Path, names: list[str], splits: list[str | None]
) -> None:
    for name in names:
        fill(tmp_path, f"{name}.jpg", **{name: "a cat"})
    assert [example.split for example in read_sidecars(tmp_path)] == splits


def test_links_are_named(tmp_path: Path, findings: list[Finding]) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    fill(outside, "a.jpg", a="a cat")
    fill(folder, "b.jpg", a="a cat", b="a dog")
    (folder / "a.jpg").symlink_to(outside / "a.jpg")
    (folder / "in").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    assert [example.id for example in read_sidecars(folder, findings.append)] == ["a.jpg", "b.jpg"]
    assert {(found.kind, found.where, found.breaks) for found in findings} == {
        ("link", f"{folder}/{name}", False) for name in ("a.jpg", "in", "loop")
    }


@pytest.mark.skipif(os.name == "nt" or os.uname().sysname == "Darwin", reason="names are Unicode there")
def test_a_name_that_is_not_utf_8_is_named(tmp_path: Path, findings: list[Finding]) -> None:
    fill(tmp_path, "a.jpg", a="a cat")
    Path(os.fsdecode(bytes(tmp_path) + b"/b\xff.jpg")).touch()
    assert [example.id for example in read_sidecars(tmp_path, findings.append)] == ["a.jpg"]
    (found,) = findings
    assert (found.kind, found.breaks) == ("path", True)
    assert found.message == f"{tmp_path}/b\N{REPLACEMENT CHARACTER}.jpg has a name that is not UTF-8; rename it"


def test_a_folder_without_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*lost; give a folder of pictures with texts"):
        read_sidecars(tmp_path / "lost")
    with pytest.raises(DataError, match=r"no picture with a text .* \(pictures: 0, texts: 0\)"):
        read_sidecars(tmp_path)
    fill(tmp_path, "a.jpg", a="")
    with pytest.raises(DataError, match=r"no text beside the pictures of .* holds a caption; write one a line"):
        read_sidecars(tmp_path, lambda finding: None)


def test_looking_stops_after_so_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"a/{i}.jpg" for i in range(20)), "b/x.jpg", **{"b/x": "a cat"})
    assert looks_like_sidecars(tmp_path)
    monkeypatch.setattr(sidecars, "_GLANCE", 10)
    assert not looks_like_sidecars(tmp_path)
    assert not looks_like_sidecars(tmp_path / "lost")


def test_the_suffixes_are_those_of_the_accepted_formats() -> None:
    Image.init()
    assert {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS} == PICTURE_SUFFIXES
