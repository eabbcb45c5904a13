"""Encode a data set once: pictures -> a memory-mapped store that training reads at random.

The store is a directory:
    features.npy    (N, L, D) float16, one row a picture in the order of the data set; L is 1 for pooled features
    index.jsonl     a line a finished row, in order: {"image": id} or {"image": id, "error": sentence}
    store.json      {"format": 1, "fingerprint": of the encoder, "pooled": bool, "images": N}
    lock            held by the process that extracts; others wait, and find what it has made
An extraction that was stopped goes on after the last finished row. The set is never held in memory.

A store may also consist of shards, which are stores themselves and are read as one; `showtell.learn.shards` makes it:
    store.json      the same, and "shards": S
    shard-00000/ …  the rows, in order
"""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.errors import ConfigError, DataError, ImageError
from showtell.images import read_ahead
from showtell.learn.encoders import Encoder
from showtell.learn.progress import Progress, silent
from showtell.locks import in_turn
from showtell.records import Example

_FORMAT = 1
_LARGEST = float(np.finfo(np.float16).max)
_BATCH = 16  # pictures an encoder pass; larger ones are no faster on a CPU
_READERS = 2  # threads that decode pictures while the encoder runs


class FeatureStore:
    """The features of a data set, read by row numbers without being held in memory.

    Attributes:
        images: The id of the picture of each row.
        failures: The sentences of the pictures that could not be read, by id; their rows are zero.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        try:
            about = json.loads((self.directory / "store.json").read_text("utf-8"))
            parts = _parts(self.directory, about)
            self._features = [np.load(part / "features.npy", mmap_mode="r") for part in parts]
            rows = [row for part in parts for row in _read_index(part / "index.jsonl")]
        except (OSError, ValueError) as error:
            raise DataError(f"{self.directory} is not a feature store: {error}; extract the features again") from error
        self._starts = np.cumsum([0, *map(len, self._features)])
        if len(rows) != about["images"]:
            raise DataError(
                f"the feature store {self.directory} is unfinished: {len(rows)} of {about['images']} pictures; "
                "start the same command again and it goes on"
            )
        self.images = [row["image"] for row in rows]
        self.failures = {row["image"]: row["error"] for row in rows if "error" in row}

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, D) of one picture."""
        return self._features[0].shape[1], self._features[0].shape[2]

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features of some rows, (len(rows), L, D) float32; cold pages are asked for all at once first."""
        part_of = np.searchsorted(self._starts, rows, "right") - 1
        used = [(part, part_of == part) for part in np.unique(part_of)]
        for part, here in used:
            _ask_for(self._features[part], rows[here] - self._starts[part])
        features = np.empty((len(rows), *self.shape), np.float32)
        for part, here in used:
            features[here] = self._features[part][rows[here] - self._starts[part]]
        return features


def _ask_for(features: np.memmap[Any, Any], rows: NDArray[np.int64]) -> None:
    mapped: mmap.mmap = features._mmap  # type: ignore[attr-defined]
    if hasattr(mapped, "madvise"):
        size, start = features[0].nbytes, features.offset
        for row in rows:
            begin = (start + int(row) * size) // mmap.PAGESIZE * mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, begin, start + (int(row) + 1) * size - begin)


def _parts(directory: Path, about: dict[str, Any]) -> list[Path]:
    """Where the rows lie."""
    return [shard_of(directory, number) for number in range(about["shards"])] if "shards" in about else [directory]


def shard_of(directory: Path, number: int) -> Path:
    return directory / f"shard-{number:05d}"


def extract_features(
    encoder: Encoder,
    examples: Sequence[Example],
    directory: str | Path,
    *,
    pooled: bool,
    progress: Progress = silent,
) -> FeatureStore:
    """The store of the pictures of `examples`, made or completed.

    A finished one that has them all, in any order and perhaps with others, is returned as it is; whole grids do where
    pooled features are asked for.

    Args:
        pooled: Keep the mean over the grid only, (N, 1, D).

    Raises:
        ConfigError: The directory holds features of another encoder or of other pictures.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    about = describe_store(encoder.fingerprint(), pooled, len(examples))
    with in_turn(directory / "lock"):
        if not _has_all(directory, about, examples):
            _extract(encoder, examples, directory, about, progress)
    return FeatureStore(directory)


def describe_store(fingerprint: str, pooled: bool, images: int) -> dict[str, Any]:
    """What store.json says."""
    return {"format": _FORMAT, "fingerprint": fingerprint, "pooled": pooled, "images": images}


def _extract(
    encoder: Encoder, examples: Sequence[Example], directory: Path, about: dict[str, Any], progress: Progress
) -> None:
    done = _resume(directory, about, examples)
    if done < len(examples):
        path = directory / "features.npy"
        shape = (len(examples), 1 if about["pooled"] else encoder.rows * encoder.columns, encoder.width)
        if done == 0:
            _allocate(path, shape)
            (directory / "store.json").write_text(json.dumps(about), "utf-8")
        features = np.load(path, mmap_mode="r+")
        with (directory / "index.jsonl").open("a", encoding="utf-8") as index:
            for batch in _batches(_pictures(examples[done:], encoder)):
                features[done : done + len(batch)] = _encode(encoder, batch, shape[1:])
                features.flush()
                for image, pixels in batch:
                    failure = {"error": str(pixels)} if isinstance(pixels, ImageError) else {}
                    index.write(json.dumps({"image": image, **failure}, ensure_ascii=False) + "\n")
                index.flush()
                done += len(batch)
                progress("encoding pictures", done, len(examples))


def _has_all(directory: Path, about: dict[str, Any], examples: Sequence[Example]) -> bool:
    if not (directory / "store.json").exists():
        return False
    found = json.loads((directory / "store.json").read_text("utf-8"))
    parts = _parts(directory, found)
    if not all((part / "index.jsonl").exists() for part in parts):
        return False
    if any(found.get(key) != about[key] for key in ("format", "fingerprint")) or found["pooled"] > about["pooled"]:
        return False
    kept = [row["image"] for part in parts for row in _read_index(part / "index.jsonl")]
    return len(kept) == found["images"] and {example.id for example in examples} <= set(kept)


def _allocate(path: Path, shape: tuple[int, int, int]) -> None:
    """An empty array on disk; its blocks are reserved, since a full disk would kill the process at a later write."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            size = path.stat().st_size / 1e9
            path.unlink()
            raise DataError(f"the features need {size:.1f} GB at {path.parent}: {error.strerror}; make room") from error


def _resume(directory: Path, about: dict[str, Any], examples: Sequence[Example]) -> int:
    """How many rows are finished."""
    if not (directory / "store.json").exists():
        return 0
    found = json.loads((directory / "store.json").read_text("utf-8"))
    index = directory / "index.jsonl"
    rows = _read_index(index) if index.exists() else []
    same_images = all(row["image"] == example.id for row, example in zip(rows, examples, strict=False))
    if found != about or not same_images:
        raise ConfigError(
            f"{directory} holds features of {'other pictures' if found == about else 'another encoder or data set'}; "
            "give another directory, or remove this one"
        )
    index.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return len(rows)


def _read_index(path: Path) -> list[dict[str, str]]:
    """The finished rows; a last line that a kill cut short does not count."""
    lines = path.read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


_Read = tuple[str, "NDArray[np.uint8] | ImageError"]


def _pictures(examples: Sequence[Example], encoder: Encoder) -> Iterator[_Read]:
    labelled = ((example.id, str(example.image)) for example in examples)
    return read_ahead(labelled, encoder.preprocessing, readers=_READERS, ahead=4 * _BATCH)


def _batches(items: Iterator[_Read]) -> Iterator[list[_Read]]:
    while batch := list(islice(items, _BATCH)):
        yield batch


@torch.inference_mode()
def _encode(encoder: Encoder, batch: list[_Read], shape: tuple[int, int]) -> NDArray[np.float32]:
    out = np.zeros((len(batch), *shape), np.float32)
    readable = {i: pixels for i, (_, pixels) in enumerate(batch) if not isinstance(pixels, ImageError)}
    if readable:
        grid = encoder.encode(torch.from_numpy(np.stack(list(readable.values()))).to(encoder.mean.device))
        out[list(readable)] = (grid.mean(1, keepdim=True) if shape[0] == 1 else grid).cpu().numpy()
    return np.clip(out, -_LARGEST, _LARGEST)  # an encoder with random weights goes far beyond
