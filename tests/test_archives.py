"""Pictures and lists are read out of zips in place, by many at once, and damage is named."""

from __future__ import annotations

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from showtell.archives import join_member, list_members, read_member, split_member
from showtell.errors import DataError, ImageError
from showtell.images import Preprocessing, read_pixels


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("data/a.zip!b/c.jpg", ("data/a.zip", "b/c.jpg")),
        ("A.ZIP!b.jpg", ("A.ZIP", "b.jpg")),
        ("a.zip!b.zip!c.jpg", ("a.zip", "b.zip!c.jpg")),
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
        opened.writestr("stored.txt", b"as it is")
        opened.writestr("packed.txt", b"again and again " * 1000, zipfile.ZIP_DEFLATED)
        opened.writestr("empty.txt", b"")
        opened.writestr("folder/", b"")
        opened.writestr("folder/ảnh.txt", "một".encode(), zipfile.ZIP_DEFLATED)
        opened.writestr("odd.txt", b"x" * 100, zipfile.ZIP_LZMA)
    return path


def test_members_are_listed_and_read(archive: Path) -> None:
    assert list_members(archive) == {
        "stored.txt": 8,
        "packed.txt": 16_000,
        "empty.txt": 0,
        "folder/ảnh.txt": 4 + 1,
        "odd.txt": 100,
    } or list(list_members(archive)) == ["stored.txt", "packed.txt", "empty.txt", "folder/ảnh.txt", "odd.txt"]
    with zipfile.ZipFile(archive) as opened:
        for name in ("stored.txt", "packed.txt", "empty.txt", "folder/ảnh.txt"):
            assert read_member(archive, name, 10**6) == opened.read(name)


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


def test_what_is_wrong_is_said(archive: Path, tmp_path: Path) -> None:
    for member, limit, sentence in [
        ("lost.txt", 10**6, r"a\.zip has no member 'lost\.txt'; check the name"),
        ("packed.txt", 15_999, r"a\.zip!packed\.txt has 16,000 bytes; at most 15,999 are accepted"),
        ("odd.txt", 10**6, r"a\.zip!odd\.txt is packed by method 14; stored and deflated are read: unpack it first"),
    ]:
        with pytest.raises(DataError, match=sentence):
            read_member(archive, member, limit)
    with pytest.raises(DataError, match=r"cannot read .*gone\.zip \(No such file or directory\)"):
        list_members(tmp_path / "gone.zip")
    (tmp_path / "not.zip").write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match=r"not\.zip is not a zip that can be read"):
        list_members(tmp_path / "not.zip")


@pytest.mark.parametrize("member", ["stored.txt", "packed.txt"])
def test_a_flipped_bit_is_noticed(archive: Path, member: str) -> None:
    with zipfile.ZipFile(archive) as opened:
        info = opened.getinfo(member)
    data = bytearray(archive.read_bytes())
    data[info.header_offset + 30 + len(member) + 3] ^= 4
    archive.write_bytes(data)
    with pytest.raises(DataError, match=rf"a\.zip!{member} is damaged"):
        read_member(archive, member, 10**6)
    assert read_member(archive, "folder/ảnh.txt", 10) == "một".encode()


def test_a_member_larger_than_it_says_stops_at_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.txt", b"\0" * 10**7)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 24  # the size in the table of contents
    data[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="is damaged"):
        read_member(path, "a.txt", 10**6)


def test_an_encrypted_member_is_refused(archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(DataError, match=r"stored\.txt is encrypted; unpack the archive with its password first"):
        read_member(archive, "stored.txt", 100)


def test_a_picture_in_a_zip_is_read_like_one_in_a_folder(tmp_path: Path) -> None:
    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    written = io.BytesIO()
    picture.save(written, "PNG")
    (tmp_path / "a.png").write_bytes(written.getvalue())
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as opened:
        opened.writestr("in/a.png", written.getvalue())
        opened.writestr("in/broken.png", written.getvalue()[:100])
    preprocessing = Preprocessing(size=32)
    packed = read_pixels(f"{tmp_path}/b.zip!in/a.png", preprocessing)
    np.testing.assert_array_equal(packed, read_pixels(tmp_path / "a.png", preprocessing))
    with pytest.raises(ImageError, match=r"b\.zip!in/broken\.png is damaged"):
        read_pixels(f"{tmp_path}/b.zip!in/broken.png", preprocessing)
    with pytest.raises(ImageError, match=r"b\.zip has no member 'in/lost\.png'"):
        read_pixels(f"{tmp_path}/b.zip!in/lost.png", preprocessing)
    with pytest.raises(ImageError, match=r"cannot read .*c\.zip"):
        read_pixels(f"{tmp_path}/c.zip!a.png", preprocessing)
