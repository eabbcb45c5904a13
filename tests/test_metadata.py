"""Alt text in the metadata of pictures: what exiftool reads there, that no pixel changes, and whose texts stay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from showtell.errors import DataError
from showtell.images import Source
from showtell.jobs.alttext import AltText
from showtell.jobs.fields import Described
from showtell.jobs.metadata import Metadata, WriteOptions, describe_pictures, sidecar_of
from showtell.records import Failure

pytestmark = pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool")

TEXT = "A “dog” runs & -jumps= <on> the grass."
FORMATS = ("jpg", "png", "webp", "tif")


@pytest.fixture(scope="module")
def tool() -> Iterator[Metadata]:
    with Metadata() as metadata:
        yield metadata


def _noise(height: int = 40, width: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(4).integers(0, 256, (height, width, 3), np.uint8))


def _make(folder: Path, kind: str, **options: Any) -> Path:
    path = folder / f"picture.{kind}"
    _noise().save(path, **options)
    return path


def _exif(path: Path, *tags: str) -> dict[str, Any]:
    """What a fresh exiftool, without our configuration, reads."""
    link = path.with_name("plain-name")
    link.unlink(missing_ok=True)
    os.link(path, link)
    told = subprocess.run(["exiftool", "-j", "-G1", *tags, link], capture_output=True, check=True).stdout
    link.unlink()
    return {name: value for name, value in json.loads(told)[0].items() if name != "SourceFile"}


def _set(path: Path, **tags: str) -> None:
    arguments = [f"-{tag.replace('__', ':').replace('_', '-')}={value}" for tag, value in tags.items()]
    subprocess.run(["exiftool", "-q", "-overwrite_original", *arguments, path], check=True)


def _frames(path: Path) -> list[tuple[str, bytes]]:
    with Image.open(path) as picture:
        return [(frame.mode, frame.tobytes()) for frame in ImageSequence.Iterator(picture)]


@pytest.mark.parametrize("kind", FORMATS)
def test_exiftool_reads_what_was_written_and_no_pixel_changed(kind: str, tmp_path: Path, tool: Metadata) -> None:
    path = _make(tmp_path, kind)
    before = _frames(path)
    assert tool.read(path) == Described()
    assert tool.write(path, TEXT, WriteOptions(exif=kind != "webp", model="toy"))
    said = _exif(path, "-XMP:all", "-IFD0:ImageDescription")
    assert said["XMP-iptcCore:AltTextAccessibility"] == TEXT
    assert said["XMP-dc:Description"] == TEXT
    assert said.get("IFD0:ImageDescription") == (TEXT if kind != "webp" else None)
    assert sorted(value for name, value in said.items() if "showtell" in name) == [TEXT, "toy"]
    assert _frames(path) == before
    with Image.open(path) as picture:
        assert picture.format == {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    assert _exif(path, "-validate", "-Warning", "-Error").get("ExifTool:Error") is None
    content = path.read_bytes()
    assert not tool.write(path, TEXT, WriteOptions())
    assert path.read_bytes() == content
    assert tool.write(path, "Another.", WriteOptions(renew=True))
    assert _exif(path, "-XMP-dc:all") == {"XMP-dc:Description": "Another."}
    assert _frames(path) == before


def test_the_scans_of_a_jpeg_keep_their_bytes(tmp_path: Path, tool: Metadata) -> None:
    path = _make(tmp_path, "jpg", progressive=True, icc_profile=b"p" * 500, comment=b"mine")
    path.write_bytes(path.read_bytes() + b"trailer of a phone")
    before = path.read_bytes()
    tool.write(path, TEXT, WriteOptions())
    after = path.read_bytes()
    assert after[after.index(b"\xff\xdb") :].split(b"\xff\xda", 1)[1] == before.split(b"\xff\xda", 1)[1]
    assert b"mine" in after
    assert b"p" * 500 in after


@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"quality": 50}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"}, {"save_all": True}],
)
def test_webp_of_every_form_gains_the_extended_header(options: dict[str, Any], tmp_path: Path, tool: Metadata) -> None:
    path = tmp_path / "a.webp"
    base = _noise(33, 51)
    if options.get("lossless"):
        base.putalpha(120)
    more = {"append_images": [base.rotate(90)], "duration": 90} if "save_all" in options else {}
    base.save(path, **options, **more)
    before = _frames(path)
    assert tool.write(path, TEXT, WriteOptions())
    assert _frames(path) == before
    assert tool.write(path, "Another, of odd length.", WriteOptions(renew=True))
    assert _frames(path) == before
    with Image.open(path) as picture:
        assert picture.info["xmp"].count(b"Another, of odd length.") >= 2
        assert TEXT.encode() not in picture.info["xmp"]
        assert picture.size == (51, 33)
    assert _exif(path, "-ImageWidth", "-XMP-dc:all")["XMP-dc:Description"] == "Another, of odd length."


def test_other_metadata_stays(tmp_path: Path, tool: Metadata) -> None:
    path = _make(tmp_path, "jpg")
    _set(path, XMP_dc__Creator="Ana", Artist="Ana", XMP_dc__Title="Hill", IPTC__City="Lima", Orientation_n="6")
    before = _exif(path, "-XMP:all", "-IFD0:all", "-IPTC:all")
    tool.write(path, TEXT, WriteOptions())
    after = _exif(path, "-XMP:all", "-IFD0:all", "-IPTC:all")
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    "name", ["-o x.jpg", "a\nb.jpg", "#[CSTR]x.jpg", "%d.jpg", b"\xff\xfe.jpg", "@x.jpg", "ü {}.jpg"]
)
def test_names_of_pictures_mislead_nobody(name: str | bytes, tmp_path: Path, tool: Metadata) -> None:
    path = tmp_path / os.fsdecode(name)
    _noise().save(path, "JPEG")
    assert tool.write(path, TEXT, WriteOptions())
    assert tool.read(path).alt == TEXT
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208  (names that are no text)


def test_peoples_texts_stay_and_ours_are_renewed(tmp_path: Path, tool: Metadata) -> None:
    def describe(sources: Iterable[Source]) -> Iterator[AltText | Failure]:
        for source in sources:
            yield AltText(str(source), f"New text of {Path(str(source)).stem}.", 0.5)

    paths = [tmp_path / f"{name}.jpg" for name in ("free", "ours", "alt", "french", "mended", "caption", "camera")]
    for path in paths:
        _noise().save(path)
    free, ours, alt, french, mended, caption, camera = paths
    tool.write(ours, "Old.", WriteOptions())
    tool.write(mended, "Old.", WriteOptions())
    _set(mended, XMP_iptcCore__AltTextAccessibility="Ana's.")
    _set(alt, XMP_iptcCore__AltTextAccessibility="Ana's.")
    _set(french, XMP_iptcCore__AltTextAccessibility_fr="D'Ana.")
    _set(caption, IPTC__Caption_Abstract="Ana's.")
    _set(camera, ImageDescription="OLYMPUS DIGITAL CAMERA")

    def run(**options: Any) -> dict[str, str]:
        return {
            Path(outcome.image).stem: outcome.state
            for outcome in describe_pictures(paths, describe, tool, WriteOptions(**options))
        }

    def written(path: Path) -> list[str | None]:
        said = _exif(path, "-XMP-iptcCore:all", "-XMP-dc:all")
        return [said.get(f"XMP-{tag}") for tag in ("iptcCore:AltTextAccessibility", "dc:Description")]

    before = {path: path.read_bytes() for path in paths}
    dry = run(dry=True)
    assert {path: path.read_bytes() for path in paths} == before
    expected = {path.stem: "written" if path in (free, caption, camera) else "kept" for path in paths}
    assert dry == run() == expected
    assert written(free) == ["New text of free."] * 2
    assert written(camera) == ["New text of camera."] * 2
    assert written(caption) == ["New text of caption.", None]
    assert written(ours) == ["Old."] * 2
    assert set(run().values()) == {"kept"}
    renewed = run(renew=True)
    assert [stem for stem, state in renewed.items() if state == "written"] == ["ours"]
    assert written(mended) == ["Ana's.", "Old."]
    assert written(ours) == ["New text of ours."] * 2
    assert run(overwrite=True)["alt"] == "written"
    assert written(alt) == ["New text of alt."] * 2


def test_a_sidecar_is_made_kept_up_and_read(tmp_path: Path, tool: Metadata) -> None:
    path = tmp_path / "a.bmp"
    _noise().save(path)
    before = path.read_bytes()
    with pytest.raises(DataError, match="no JPEG, PNG, WebP or TIFF; --into sidecars"):
        tool.write(path, TEXT, WriteOptions())
    assert tool.write(path, TEXT, WriteOptions(sidecar=True))
    assert path.read_bytes() == before
    assert sidecar_of(path).name == "a.bmp.xmp"
    assert _exif(sidecar_of(path), "-XMP-dc:all") == {"XMP-dc:Description": TEXT}
    assert tool.read(path) == Described(TEXT, TEXT, TEXT)
    _set(sidecar_of(path), XMP_dc__Title="Hill")
    assert tool.write(path, "Another.", WriteOptions(sidecar=True, renew=True))
    assert _exif(sidecar_of(path), "-XMP-dc:all") == {"XMP-dc:Description": "Another.", "XMP-dc:Title": "Hill"}
    sidecar_of(path).write_text("no XMP")
    with pytest.raises(DataError):
        tool.write(path, TEXT, WriteOptions(sidecar=True))
    assert sidecar_of(path).read_text() == "no XMP"


def test_a_file_keeps_its_permissions_its_link_and_on_request_its_time(tmp_path: Path, tool: Metadata) -> None:
    path = _make(tmp_path, "jpg")
    path.chmod(0o640)
    link = tmp_path / "link.jpg"
    link.symlink_to(path)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    tool.write(link, TEXT, WriteOptions(keep_time=True))
    assert link.is_symlink()
    assert path.stat().st_mtime == 1_000_000_000
    assert path.stat().st_mode & 0o777 == 0o640
    tool.write(path, "Another.", WriteOptions(renew=True))
    assert path.stat().st_mtime > 1_000_000_000


def test_a_copy_that_shows_something_else_is_refused(
    tmp_path: Path, tool: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in FORMATS:
        path = _make(tmp_path, kind)
        before = path.read_bytes()
        other = tmp_path / f"other.{kind}"
        _noise().transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(other)
        content = other.read_bytes()
        monkeypatch.setattr(tool, "_edit", lambda *_, content=content: content)
        with pytest.raises(DataError, match=r"more of .* than its metadata"):
            tool.write(path, TEXT, WriteOptions())
        assert path.read_bytes() == before


def test_hostile_files_are_described_or_left_as_they_are(shared_data: Path, tmp_path: Path, tool: Metadata) -> None:
    hostile = sorted(path for path in (shared_data / "hostile").rglob("*") if path.suffix.lower() in _SUFFIXES)[::9]
    assert len(hostile) > 20
    for number, source in enumerate(hostile):
        path = tmp_path / f"{number}{source.suffix}"
        path.write_bytes(source.read_bytes())
        try:
            frames = _frames(path)
        except Exception:
            frames = None
        try:
            tool.write(path, TEXT, WriteOptions())
        except DataError:
            assert path.read_bytes() == source.read_bytes(), source
        else:
            assert frames is None or _frames(path) == frames, source


_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".bmp")
