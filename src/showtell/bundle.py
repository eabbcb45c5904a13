"""The bundle: everything that captions a picture, as a directory or a zip of it, without pickle.

    bundle.json           the manifest below; its `checksum` covers itself, `files` the SHA-256 of the others
    vocabulary.json       {"words": [...]}, the four special entries first
    weights.safetensors   the numbers of the three graphs, float32 or float16, each under its name in the graphs
    encoder.onnx          pixels (B, size, size, 3) uint8 RGB -> features (B, L, D)
    start.onnx            features -> the memory and the state of a caption that begins
    step.onnx             tokens (N,) int64, memory, state, best (1,) int64 -> logprobs (N, V), those of the so many
                          best tokens as best_logprobs and best_tokens (N, best), each state as NAME_next, and alpha
                          (N, L) when the manifest says that the model attends
    wide.onnx             the encoder once more, with its weights, for larger pictures: (B, wide, wide, 3) -> features
    README.md             the model card

A captioner has the first three graphs. An alignment model has the encoder and `wide`, and the weights of its spaces as
`alignment/NAME` (see `showtell.alignment`). A captioner whose confidence is calibrated has `confidence/mean` and
`confidence/directions` among its weights (see `showtell.confidence`).

The graphs name their large initialisers as external data; the weights are handed to ONNX Runtime when it loads them.
Format 1 is the first.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from showtell.errors import BundleError, ConfigError, VocabularyError
from showtell.images import Preprocessing
from showtell.text import Vocabulary

FORMAT = 1
Graph = Literal["encoder", "start", "step", "wide"]
GRAPHS: tuple[Graph, ...] = ("encoder", "start", "step")  # of a captioner
_MAX_BYTES = 2 * 1024**3  # of one file: far above any captioner, far below what a zip bomb unpacks to


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What bundle.json says.

    Attributes:
        graphs: That are there.
        wide: Pixels of the pictures that `wide` takes.
        memory, state: The names of the arrays that `start` gives and `step` takes, in order.
        search: Keywords of `SearchOptions` that suit the model.
        once: Words that a caption says once at most.
        config: The settings of the run that made it; for people, and for training it again.
        training: Data, licences, seed and the like; for people.
        scores: `Scores` as JSON, of the named split.
        confidence: How sure a caption is (see `showtell.confidence`), and how well that was calibrated; `skipped` says
            why it is not; empty where nobody tried.
    """

    name: str
    package: str  # the version of showtell that wrote it
    encoder: str
    rows: int  # of the feature grid
    columns: int
    preprocessing: Preprocessing
    memory: tuple[str, ...]
    state: tuple[str, ...]
    attends: bool
    search: dict[str, int | float] = field(default_factory=dict)
    once: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)
    confidence: dict[str, Any] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    graphs: tuple[Graph, ...] = GRAPHS
    wide: int = 0
    format: int = FORMAT


@dataclass(frozen=True)
class Bundle:
    """A bundle in memory, verified."""

    manifest: Manifest
    vocabulary: Vocabulary
    graphs: Mapping[str, bytes]
    weights: Mapping[str, NDArray[Any]]
    card: str = ""


def list_embedded() -> list[str]:
    """The names of the bundles that come with the package."""
    home = files("showtell.bundles")
    return sorted(entry.name for entry in home.iterdir() if (entry / "bundle.json").is_file())


def read_bundle(source: str | Path) -> Bundle:
    """The bundle of a directory, a zip file, or the name of one that comes with the package.

    Raises:
        BundleError: It is missing, incomplete, damaged or of a newer format; the sentence names the file.
    """
    read, where = _open(source)
    manifest = _read_manifest(read("bundle.json"), where)
    content = {}
    for name in _files_of(manifest.graphs):
        content[name] = read(name)
        if hashlib.sha256(content[name]).hexdigest() != manifest.files.get(name):
            raise BundleError(
                f"{name} in {where} is not what was written there (its SHA-256 differs from bundle.json); "
                "copy or download the bundle again"
            )
    try:
        vocabulary = Vocabulary.from_json(content["vocabulary.json"].decode(), f"{where}/vocabulary.json")
        weights = _view_weights(content["weights.safetensors"])
    except (VocabularyError, UnicodeDecodeError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BundleError(f"{where} is damaged: {error}; copy or download the bundle again") from error
    for name, array in weights.items():
        if not _is_finite(array):
            raise BundleError(f"weight {name!r} in {where} holds NaN or infinite numbers; train or export it again")
    graphs: dict[str, bytes] = {graph: content[f"{graph}.onnx"] for graph in manifest.graphs}
    return Bundle(manifest, vocabulary, graphs, weights, content["README.md"].decode("utf-8", "replace"))


def _view_weights(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file as views of its bytes: the library's own reader copies them.

    Source: the format's specification; an 8-byte length, a JSON header of types, shapes and offsets, the numbers.
    """
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    weights = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            kind = {"F32": np.float32, "F16": np.float16, "I8": np.int8}[entry["dtype"]]
            flat = np.frombuffer(memoryview(data)[8 + length + begin : 8 + length + end], kind)
            weights[name] = flat.reshape(entry["shape"])
    return weights


def _is_finite(array: NDArray[Any]) -> bool:
    if array.dtype == np.float16:  # by its exponents, which is four times as fast
        return not ((array.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(array).all())


def write_bundle(bundle: Bundle, directory: str | Path) -> None:
    """Writes a bundle as a directory; checksums and the package version are filled in."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "vocabulary.json": bundle.vocabulary.to_json().encode(),
        "weights.safetensors": save({name: np.ascontiguousarray(a) for name, a in bundle.weights.items()}),
        **{f"{graph}.onnx": bundle.graphs[graph] for graph in bundle.manifest.graphs},
        "README.md": bundle.card.encode(),
    }
    manifest = asdict(bundle.manifest)
    manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    manifest["checksum"] = _checksum(manifest)
    content["bundle.json"] = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    for name, data in content.items():
        (directory / name).write_bytes(data)


def pack_bundle(directory: str | Path, path: str | Path) -> None:
    """The bundle of a directory as one zip file, equal bytes for equal bundles."""
    graphs = _read_manifest(_read_file(Path(directory) / "bundle.json", str(directory)), str(directory)).graphs
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("bundle.json", *_files_of(graphs)):
            entry = zipfile.ZipInfo(name)  # dated 1980, so that the bytes do not depend on the day
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (Path(directory) / name).read_bytes())


def _files_of(graphs: Sequence[str]) -> tuple[str, ...]:
    return ("vocabulary.json", "weights.safetensors", *(f"{graph}.onnx" for graph in graphs), "README.md")


def _checksum(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _read_manifest(data: bytes, where: str) -> Manifest:
    try:
        content = json.loads(data)
        version = content["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"bundle.json in {where} is damaged: {error!r}; copy or download the bundle again") from error
    if not isinstance(version, int) or version > FORMAT:
        raise BundleError(
            f"{where} is a bundle of format {version}, this showtell reads up to format {FORMAT}; "
            "run: pip install --upgrade showtell"
        )
    if content.pop("checksum", None) != _checksum(content):
        raise BundleError(
            f"bundle.json in {where} is not what was written there (its checksum differs); "
            "copy or download the bundle again"
        )
    try:
        if unknown := content.keys() - {each.name for each in fields(Manifest)}:
            raise ConfigError(f"unknown entries {', '.join(sorted(unknown))}")
        return msgspec.convert(content, Manifest)
    except (msgspec.ValidationError, ConfigError) as error:
        raise BundleError(f"bundle.json in {where} is not a manifest of format {FORMAT}: {error}") from error


def _open(source: str | Path) -> tuple[Callable[[str], bytes], str]:
    """(a function that reads a file of the bundle, how messages call the bundle)."""
    path = Path(source)
    embedded = files("showtell.bundles") / str(source)
    named = str(source) in list_embedded()
    if path.is_dir() and ((path / "bundle.json").exists() or not named):  # else a folder that happens to be called so
        return lambda name: _read_file(path / name, str(path)), str(path)
    if path.is_file():
        return lambda name: _read_entry(path, name), str(path)
    if named:
        where = f"the embedded bundle {str(source)!r}"
        return lambda name: _read_file(embedded / name, where), where
    raise BundleError(
        f"there is no model {str(source)!r}; accepted are a bundle's directory, its zip file, or one of: "
        + ", ".join(list_embedded())
    )


def _read_file(path: Path | Traversable, where: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BundleError(
            f"{where} has no {path.name}, so it is no bundle or an incomplete one; it needs bundle.json, "
            + ", ".join(_files_of(GRAPHS))
        ) from error
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from error


def _read_entry(path: Path, name: str) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(name).file_size > _MAX_BYTES:
                raise BundleError(f"{name} in {path} would unpack to more than {_MAX_BYTES} bytes; it is refused")
            with archive.open(name) as entry:
                return entry.read(_MAX_BYTES)
    except BundleError:
        raise
    except KeyError as error:
        raise BundleError(f"{path} has no {name}, so it is no bundle or an incomplete one") from error
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path} is not a bundle: {error}; accepted are a bundle's directory or zip file") from error
    except Exception as error:  # zlib and friends each raise their own for damaged streams
        raise BundleError(f"{name} in {path} is damaged: {error}; copy or download the bundle again") from error
