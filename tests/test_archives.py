"""Pictures and lists are read out of zips in place, by many at once, and damage is named."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from showtell.archives import join_member, list_members, read_member, split_member
from showtell.errors import DataError, ImageError
from showtell.images import Preprocessing, read_ahead, read_pixels

CONTENTS = {
    "stored.txt": b"as it is",
    "packed.txt": b"again and again " * 1000,
    "empty.txt": b"",
    "folder/ảnh.txt": "một".encode(),
}
CENTRAL = b"PK\x01\x02"  # begins an entry of the table of contents


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("data/a.zip!b/c.jpg", ("data/a.zip", "b/c.jpg")),
        ("A.ZIP!b.jpg", ("A.ZIP", "b.jpg")),
        ("a.zip!b.zip!c.jpg", ("a.zip", "b.zip!c.jpg")),
        ("İİ/a.zip!b.jpg", ("İİ/a.zip", "b.jpg")),  # whose lower case is longer
        ("a.zip", None),
        ("wow!.jpg", None),
    ],
)
def test_sources_are_taken_apart(source: str, parts: tuple[str, str] | None) -> None:
    found = split_member(source)
    assert found == (None if parts is None else (Path(parts[0]), parts[1]))
    if found is not None:
        assert join_member(*found) == source


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        for name, data in CONTENTS.items():
            opened.writestr(name, data, zipfile.ZIP_STORED if name == "stored.txt" else zipfile.ZIP_DEFLATED)
        opened.writestr("folder/", b"")
        opened.writestr("odd.txt", b"x" * 100, zipfile.ZIP_LZMA)
    return path


def entries(data: bytes) -> Iterator[tuple[str, int]]:
    """Where each entry of the table of contents begins, by its name."""
    place = data.find(CENTRAL)
    while place >= 0:
        (length,) = struct.unpack_from("<H", data, place + 28)
        yield data[place + 46 : place + 46 + length].decode(), place
        place = data.find(CENTRAL, place + 46)


def change(archive: Path, member: str, offset: int, value: bytes) -> None:
    """Overwrites bytes of a member's entry in the table of contents."""
    data = bytearray(archive.read_bytes())
    place = dict(entries(data))[member] + offset
    data[place : place + len(value)] = value
    archive.write_bytes(data)


def test_members_are_listed_in_order_and_read(archive: Path) -> None:
    sizes = {name: len(data) for name, data in CONTENTS.items()} | {"odd.txt": 100}
    assert list(list_members(archive).items()) == list(sizes.items())
    for name, data in CONTENTS.items():
        assert read_member(archive, name, 10**6) == data


def test_names_are_read_whichever_program_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("Images/xnh.jpg", b"1")
        opened.writestr("Images/b.jpg", b"2")
        opened.writestr("Images/", b"")
    data = path.read_bytes().replace(b"Images/xnh", "Images/ả".encode())  # as macOS does, without the flag of UTF-8
    data = data.replace(b"Images/b", b"Images\\b").replace(b"Images/PK", b"Images\\PK")  # as on Windows
    path.write_bytes(data)
    assert dict(list_members(path)) == {"Images/ả.jpg": 1, "Images/b.jpg": 1}
    assert read_member(path, "Images/b.jpg", 10) == b"2"
    assert read_member(path, "Images/ả.jpg", 10) == b"1"


def test_many_threads_read_one_archive(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = {f"{number}.bin": rng.bytes(5000 + number) for number in range(200)}
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in contents.items():
            opened.writestr(name, data)
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda name: read_member(tmp_path / "a.zip", name, 10**6), contents)
        assert list(found) == list(contents.values())


def test_an_archive_that_changed_is_read_anew(archive: Path) -> None:
    assert "new.txt" not in list_members(archive)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("new.txt", b"new")
    assert read_member(archive, "new.txt", 10) == b"new"


def test_a_zip_behind_another_file_is_read(archive: Path) -> None:
    archive.write_bytes(b"#!/bin/sh\n" * 100 + archive.read_bytes())
    assert read_member(archive, "stored.txt", 10) == CONTENTS["stored.txt"]


def test_what_is_wrong_is_said(archive: Path, tmp_path: Path) -> None:
    for member, limit, sentence in [
        ("lost.txt", 10**6, r"a\.zip has no member 'lost\.txt'; check the name"),
        ("packed.txt", 15_999, r"a\.zip!packed\.txt has 16,000 bytes; at most 15,999 are accepted"),
        ("odd.txt", 10**6, r"a\.zip!odd\.txt is packed by method 14; stored and deflated are read: unpack it first"),
    ]:
        with pytest.raises(DataError, match=sentence):
            read_member(archive, member, limit)
    for path, sentence in [
        (tmp_path / "gone.zip", r"cannot read .*gone\.zip \(No such file or directory\)"),
        (tmp_path / "a\0b.zip", r"cannot read .* \(embedded null byte\)"),
        (tmp_path, "is not a zip that can be read"),
    ]:
        with pytest.raises(DataError, match=sentence):
            list_members(path)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_an_archive_that_breaks_off_is_no_zip(archive: Path, share: float) -> None:
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"a\.zip is not a zip that can be read \(.*\); get it again"):
        list_members(archive)


@pytest.mark.parametrize("member", ["stored.txt", "packed.txt"])
def test_a_flipped_bit_is_noticed_and_the_other_members_are_read(archive: Path, member: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(member)
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 30 + len(member) + 3] ^= 4
    archive.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip!{member} is damaged"):
        read_member(archive, member, 10**6)
    assert read_member(archive, "folder/ảnh.txt", 10) == CONTENTS["folder/ảnh.txt"]


def test_a_member_larger_than_it_says_stops_at_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.txt", b"\0" * 10**7)
    change(path, "a.txt", 24, struct.pack("<I", 100))  # the size
    with pytest.raises(DataError, match=r"a\.txt is damaged \(its checksum is wrong\)"):
        read_member(path, "a.txt", 10**6)


def test_a_member_that_says_it_is_longer_than_the_archive_takes_no_memory(archive: Path) -> None:
    change(archive, "stored.txt", 20, struct.pack("<I", 2**32 - 2))  # packed
    with pytest.raises(DataError, match=r"stored\.txt is damaged \(it is longer than its archive\)"):
        read_member(archive, "stored.txt", 10**6)


@pytest.mark.parametrize("offset", [2**63, 2**64 - 1, 2**40])
def test_a_member_beyond_the_end_is_damaged(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as opened:
        info = zipfile.ZipInfo("a.txt")
        info.extra = struct.pack("<HHQ", 0xCAFE, 8, offset)
        opened.writestr(info, b"text")
    data = bytearray(path.read_bytes())
    place = data.index(CENTRAL)
    data[place + 42 : place + 46] = b"\xff" * 4  # the offset stands in the extra field
    extra = place + 46 + len("a.txt")
    data[extra : extra + 2] = struct.pack("<H", 1)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.zip!a\.txt is damaged \("):
        read_member(path, "a.txt", 100)


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    change(archive, "stored.txt", 8, b"\x01")
    with pytest.raises(DataError, match=r"stored\.txt is encrypted; unpack the archive with its password first"):
        read_member(archive, "stored.txt", 100)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_whatever_is_flipped_gives_the_content_or_a_sentence(archive: Path, data: st.DataObject) -> None:
    whole = archive.read_bytes()
    broken = bytearray(whole)
    first = whole.index(CENTRAL)
    for _ in range(data.draw(st.integers(1, 4))):
        broken[data.draw(st.integers(first, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path = archive.with_name("broken.zip")
    path.unlink(missing_ok=True)
    path.write_bytes(broken)
    try:
        names = list_members(path)
    except DataError:
        return
    for name in names:
        try:
            found = read_member(path, name, 10**6)
        except DataError:
            continue
        assert found in (*CONTENTS.values(), b"x" * 100)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with a.png, and b.zip with the same picture, a broken and an empty one."""
    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    written = io.BytesIO()
    picture.save(written, "PNG")
    (tmp_path / "a.png").write_bytes(written.getvalue())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as opened:
        opened.writestr("in/a.png", written.getvalue())
        opened.writestr("in/broken.png", written.getvalue()[:100])
        opened.writestr("in/flipped.png", written.getvalue())
        opened.writestr("in/empty.png", b"")
    change(tmp_path / "b.zip", "in/flipped.png", 16, b"\0\0\0\0")  # the checksum
    return tmp_path


def test_a_picture_in_a_zip_is_read_like_one_in_a_folder(pictures: Path) -> None:
    preprocessing = Preprocessing(size=32)
    packed = read_pixels(f"{pictures}/b.zip!in/a.png", preprocessing)
    np.testing.assert_array_equal(packed, read_pixels(pictures / "a.png", preprocessing))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("b.zip!in/broken.png", r"b\.zip!in/broken\.png is damaged"),
        ("b.zip!in/flipped.png", r"b\.zip!in/flipped\.png is damaged \(its checksum is wrong\); get the archive again"),
        ("b.zip!in/lost.png", r"b\.zip has no member 'in/lost\.png'; check the name"),
        ("c.zip!a.png", r"cannot read .*c\.zip \(No such file or directory\)"),
    ],
)
def test_a_picture_that_a_zip_cannot_give_is_named(pictures: Path, source: str, sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        read_pixels(f"{pictures}/{source}", Preprocessing(size=32))


def test_a_broken_entry_among_many_is_one_failure(pictures: Path) -> None:
    names = ("a", "broken", "a", "flipped", "a", "empty")
    sources = [(name, f"{pictures}/b.zip!in/{name}.png") for name in names]
    read = list(read_ahead(iter(sources), Preprocessing(size=32), readers=3, ahead=4))
    assert [(name, isinstance(pixels, ImageError)) for name, pixels in read] == [(name, name != "a") for name in names]


def test_a_file_whose_name_looks_like_a_member_is_read_itself(pictures: Path) -> None:
    odd = pictures / "odd.zip!a.png"
    (pictures / "a.png").rename(odd)
    assert read_pixels(odd, Preprocessing(size=32)).shape == (32, 32, 3)
