"""Bundles on disk: there and back, and every way in which one can be damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import shutil
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from showtell import Caption, Captioner
from showtell import bundle as bundle_module
from showtell.bundle import FORMAT, Bundle, list_embedded, pack_bundle, read_bundle, write_bundle
from showtell.errors import BundleError

CAT = Path(__file__).parents[1] / "examples" / "cat.jpg"
FILES = (
    "bundle.json",
    "vocabulary.json",
    "weights.safetensors",
    "encoder.onnx",
    "start.onnx",
    "step.onnx",
    "README.md",
)


@pytest.fixture
def directory(toy_run: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return shutil.copytree(toy_run / "bundle", tmp_path / "model")


@pytest.fixture
def packed(directory: Path, tmp_path: Path) -> Path:
    pack_bundle(directory, tmp_path / "model.zip")
    return tmp_path / "model.zip"


def seal(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes bundle.json as somebody would who knows the format: checksums included."""
    manifest = json.loads((directory / "bundle.json").read_text("utf-8"))
    change(manifest)
    for name in manifest.get("files", {}):
        manifest["files"][name] = hashlib.sha256((directory / name).read_bytes()).hexdigest()
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    manifest["checksum"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (directory / "bundle.json").write_text(json.dumps(manifest), "utf-8")


def assert_same(one: Bundle, other: Bundle) -> None:
    assert one.manifest == other.manifest
    assert one.vocabulary == other.vocabulary
    assert one.graphs == other.graphs
    assert one.card == other.card
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        assert array.dtype == other.weights[name].dtype
        np.testing.assert_array_equal(array, other.weights[name])


# there and back


def test_the_files_are_those_of_the_format(toy_run: Path) -> None:
    assert {path.name for path in (toy_run / "bundle").iterdir()} == set(FILES)


def test_a_directory_and_its_zip_are_the_same_bundle(directory: Path, packed: Path, tmp_path: Path) -> None:
    whole = read_bundle(directory)
    assert whole.manifest.format == FORMAT
    assert_same(read_bundle(packed), whole)
    assert_same(read_bundle(str(packed)), whole)
    write_bundle(whole, tmp_path / "again")
    assert_same(read_bundle(tmp_path / "again"), whole)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes(), name


def test_a_zip_has_the_same_bytes_whenever_it_is_made(directory: Path, packed: Path, tmp_path: Path) -> None:
    for path in directory.iterdir():
        path.touch()
    other = shutil.copytree(directory, tmp_path / "elsewhere")
    pack_bundle(other, tmp_path / "other.zip")
    assert (tmp_path / "other.zip").read_bytes() == packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        assert tuple(archive.namelist()) == FILES
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_text_of_any_script_survives(directory: Path, tmp_path: Path) -> None:
    whole = read_bundle(directory)
    manifest = replace(whole.manifest, name="Ảnh 写真", training={"describe": "“ảnh”"})
    write_bundle(replace(whole, manifest=manifest, card="# 写真\r\nä"), tmp_path / "out")
    read = read_bundle(tmp_path / "out")
    assert (read.manifest.name, read.manifest.training, read.card) == ("Ảnh 写真", {"describe": "“ảnh”"}, "# 写真\r\nä")


# damage


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.999])
def test_a_flipped_byte_is_seen_in_every_file(directory: Path, name: str, place: float) -> None:
    path = directory / name
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name} in .*model (is not what was written there|is damaged)"):
        read_bundle(directory)


def test_no_flipped_bit_of_the_manifest_changes_what_is_read(directory: Path) -> None:
    path = directory / "bundle.json"
    content, whole = path.read_bytes(), read_bundle(directory).manifest
    for place in range(0, len(content), 31):
        for bit in (0, 5):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert read_bundle(directory).manifest == whole  # such as 1e-05 spelt 1E-05
            except BundleError:
                continue


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0.3, 0.7])
def test_a_flipped_byte_is_seen_inside_a_zip(packed: Path, name: str, place: float) -> None:
    content = bytearray(packed.read_bytes())
    with zipfile.ZipFile(packed) as archive:
        entry, whole = archive.getinfo(name), archive.read(name)
    begin = entry.header_offset + 30 + len(name)
    content[begin + int(place * entry.compress_size)] ^= 0x10
    packed.write_bytes(content)
    with zipfile.ZipFile(packed) as archive, contextlib.suppress(zipfile.BadZipFile, zlib.error):
        if archive.read(name) == whole:  # the compressed bytes now point elsewhere, to the same content
            assert read_bundle(packed).manifest.files
            return
    with pytest.raises(BundleError, match=name.replace(".", r"\.")):
        read_bundle(packed)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(directory: Path, packed: Path, tmp_path: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(
        BundleError, match=rf"model has no {name}, so it is no bundle or an incomplete one; it needs bu"
    ):
        read_bundle(directory)
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(tmp_path / "less.zip", "w") as less:
        for entry in source.namelist():
            if entry != name:
                less.writestr(entry, source.read(entry))
    with pytest.raises(BundleError, match=rf"less\.zip has no {name}, so it is no bundle or an incomplete one"):
        read_bundle(tmp_path / "less.zip")


@pytest.mark.parametrize("name", FILES)
def test_an_empty_or_cut_file_is_named(directory: Path, name: str) -> None:
    content = (directory / name).read_bytes()
    for rest in (b"", content[: len(content) // 2]):
        (directory / name).write_bytes(rest)
        with pytest.raises(BundleError, match=name):
            read_bundle(directory)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_no_number_is_named(directory: Path, value: float, tmp_path: Path) -> None:
    whole = read_bundle(directory)
    name = max(whole.weights, key=lambda each: whole.weights[each].size)
    array = whole.weights[name].copy()
    array.flat[7] = value
    write_bundle(replace(whole, weights={**whole.weights, name: array}), tmp_path / "nan")
    with pytest.raises(BundleError, match=rf"weight '{name}' in .*nan holds NaN or infinite numbers; train or export"):
        read_bundle(tmp_path / "nan")


@pytest.mark.parametrize("version", [FORMAT + 1, 99, "2", None, 1.5])
def test_a_newer_format_is_refused_before_anything_else(directory: Path, version: object) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest.clear()  # nothing of it need be as it is today
        manifest.update({"format": version, "novelty": [1, 2, 3]})

    seal(directory, change)
    with pytest.raises(BundleError, match=rf"is a bundle of format {version}, this showtell reads up to format 1; run"):
        read_bundle(directory)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("encoder"),
        lambda manifest: manifest.update(surprise=1),
        lambda manifest: manifest.update(rows="two"),
        lambda manifest: manifest["preprocessing"].update(size=0),
        lambda manifest: manifest["preprocessing"].update(fit="stretch"),
    ],
)
def test_a_manifest_that_is_not_of_the_format_is_refused(directory: Path, change: Any) -> None:
    seal(directory, change)
    with pytest.raises(BundleError, match=r"bundle\.json in .* is not a manifest of format 1: "):
        read_bundle(directory)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b"\xff\xfe", b'{"format": ', b"[" * 100_000])
def test_a_manifest_that_is_something_else_is_damaged(directory: Path, content: bytes) -> None:
    (directory / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json in .* is damaged"):
        read_bundle(directory)


def test_a_vocabulary_that_is_none_is_refused(directory: Path) -> None:
    (directory / "vocabulary.json").write_text('{"words": ["a", "b"]}')
    seal(directory, lambda manifest: None)
    with pytest.raises(BundleError, match="is damaged: a vocabulary begins with <pad>"):
        read_bundle(directory)


def test_weights_are_never_unpickled(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.write_text, (sprung, "x")

    for name in ("weights.safetensors", "vocabulary.json", "encoder.onnx"):
        kept = (directory / name).read_bytes()
        (directory / name).write_bytes(pickle.dumps({"a": Trap()}))
        seal(directory, lambda manifest: None)
        if name.endswith("onnx"):
            read_bundle(directory)  # the graph is opened by ONNX Runtime, later
        else:
            with pytest.raises(BundleError, match="is damaged"):
                read_bundle(directory)
        (directory / name).write_bytes(kept)
        seal(directory, lambda manifest: None)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for function in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, function, refuse)
    read_bundle(directory)
    assert not sprung.exists()


# zips


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, toy_data: Path) -> None:
    picture = next((toy_data / "images").iterdir())
    with pytest.raises(BundleError, match=r"\.png is not a bundle: .*; accepted are a bundle's directory or zip file"):
        read_bundle(picture)
    (tmp_path / "empty.zip").write_bytes(b"")
    with pytest.raises(BundleError, match=r"empty\.zip is not a bundle"):
        read_bundle(tmp_path / "empty.zip")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99, 0.9999])
def test_a_cut_zip_is_refused(packed: Path, share: float) -> None:
    content = packed.read_bytes()
    packed.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match=r"model\.zip is not a bundle"):
        read_bundle(packed)


def test_an_entry_that_unpacks_to_too_much_is_refused_unread(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle_module, "_MAX_BYTES", 10_000_000)
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry in source.namelist():
            archive.writestr(entry, bytes(10_000_001) if entry == "encoder.onnx" else source.read(entry))
    assert bomb.stat().st_size < 3_000_000
    sentence = r"^encoder\.onnx in .*bomb\.zip would unpack to more than 10000000 bytes; it is refused$"
    with pytest.raises(BundleError, match=sentence):
        read_bundle(bomb)


def test_an_entry_that_lies_about_its_size_is_refused(packed: Path) -> None:
    """The size in the directory says 10 bytes; what is there is more."""
    content = packed.read_bytes()
    with zipfile.ZipFile(packed) as archive:
        entry = archive.getinfo("weights.safetensors")
    record = content.rindex(b"PK\x01\x02", 0, content.rindex(b"weights.safetensors"))
    lie = content[: record + 24] + (10).to_bytes(4, "little") + content[record + 28 :]
    assert entry.file_size > 10
    packed.write_bytes(lie)
    with pytest.raises(BundleError, match=r"weights\.safetensors"):
        read_bundle(packed)


def test_an_encrypted_zip_is_refused(packed: Path) -> None:
    content = bytearray(packed.read_bytes())
    at = 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 8] |= 1  # the flag of encryption
        at += 4
    packed.write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.zip is not a bundle: .*encrypted"):
        read_bundle(packed)


# names


def test_an_unknown_name_lists_those_there_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bundle_module, "list_embedded", lambda: ["default", "aerial"])
    with pytest.raises(BundleError, match=r"no model 'defualt'; accepted are a bundle's dir.* or one of: default, aer"):
        read_bundle("defualt")
    with pytest.raises(BundleError, match=r"there is no model '.*nothere\.zip'"):
        read_bundle(tmp_path / "nothere.zip")


def test_an_embedded_bundle_is_read_by_its_name(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(toy_run / "bundle", tmp_path / "embedded" / "shapes")
    (tmp_path / "embedded" / "no bundle").mkdir()
    monkeypatch.setattr(bundle_module, "files", lambda package: tmp_path / "embedded")
    monkeypatch.chdir(tmp_path)
    assert list_embedded() == ["shapes"]
    assert_same(read_bundle("shapes"), read_bundle(toy_run / "bundle"))
    (tmp_path / "embedded" / "shapes" / "step.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"step\.onnx in the embedded bundle 'shapes' is not what was written there"):
        read_bundle("shapes")
    (tmp_path / "embedded" / "shapes" / "step.onnx").unlink()
    with pytest.raises(BundleError, match=r"the embedded bundle 'shapes' has no step\.onnx"):
        read_bundle("shapes")


@pytest.mark.parametrize("name", list_embedded())
def test_every_embedded_bundle_is_whole_captions_and_knows_its_limits(name: str) -> None:
    bundle = read_bundle(name)
    assert bundle.manifest.name == name
    assert {"## How to reproduce", "## Failures to look at"} <= set(bundle.card.splitlines())
    (said,) = Captioner(bundle, threads=1).caption([str(CAT)])
    assert isinstance(said, Caption)
    assert said.text
    assert said.confidence is not None


def test_embedded_bundles_are_small() -> None:
    home = Path(bundle_module.__file__).parent / "bundles"
    sizes = {name: sum(file.stat().st_size for file in (home / name).iterdir()) for name in list_embedded()}
    assert sizes.keys() == {"aerial", "default", "vietnamese"}
    assert max(sizes.values()) <= 20e6
    assert sum(sizes.values()) <= 40e6


def test_a_folder_that_is_no_bundle_does_not_hide_an_embedded_one(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert read_bundle("default").manifest.name == "default"
    directory.rename(tmp_path / "default" / "there")
    shutil.copytree(tmp_path / "default" / "there", tmp_path / "default", dirs_exist_ok=True)
    assert read_bundle("default").manifest.name != "default"
