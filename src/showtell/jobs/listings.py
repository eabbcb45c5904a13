"""Folders, listings and tar shards, here or behind a URL -> the pictures and the shards, one by one.

A listing is a Parquet or JSONL file with a column of paths or URLs: the first that is there of `image`, `path`, `url`,
`file_name`, `filename`. A shard is a tar with a picture and what belongs to it a key, as WebDataset lays them out; of
it only the pictures are read. URLs are those of fsspec (s3://, gs://, https://, …), each protocol with the package that
speaks it; what ends with a slash is a folder.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from showtell.datasets.sidecars import PICTURE_SUFFIXES
from showtell.errors import BackendError, DataError, ImageError
from showtell.images import ImageLimits
from showtell.jobs.inputs import Inputs

COLUMNS = ("image", "path", "url", "file_name", "filename")
SHARD = ".tar"
_LISTINGS = (".parquet", ".jsonl")
_GROUP = 4096  # rows of Parquet read at once
_MAGIC = "*?["


class Listed(NamedTuple):
    """A picture, a shard, or a folder that cannot be listed, which `error` then says."""

    path: str
    is_shard: bool = False
    error: str = ""


def is_url(path: str) -> bool:
    return "://" in path


def list_given(given: Iterable[str | os.PathLike[str]], *, recursive: bool = False) -> Iterator[Listed]:
    """What arguments name, in their order: see the module, and `showtell.jobs.inputs.Inputs` for what is here.

    Raises:
        DataError: An argument is nothing that is there, or cannot be read.
        BackendError: The package that speaks a URL's protocol, or pyarrow, is missing.
    """
    for one in given:
        argument = os.fspath(one)
        suffix = PurePosixPath(argument).suffix.lower()
        if suffix in _LISTINGS and (is_url(argument) or Path(argument).is_file()):
            yield from map(Listed, _read_listing(argument, suffix))
        elif is_url(argument):
            yield from _list_url(argument, recursive)
        elif suffix == SHARD:
            yield from (Listed(path, is_shard=True) for path in _match_shards(argument))
        else:
            with closing(Inputs([argument], recursive=recursive)) as inputs:
                yield from (Listed(found.path, error=found.error) for found in inputs)


def _match_shards(pattern: str) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    found = sorted(map(str, Path(os.path.dirname(pattern) or ".").glob(os.path.basename(pattern))))  # noqa: PTH119, PTH120
    if not found:
        raise DataError(f"there is no {pattern}; give tar files, or a pattern in quotes such as 'shards/*.tar'")
    return found


def open_url(url: str) -> Any:
    """(file system, path on it) of a URL or a path.

    Raises:
        BackendError: The package that speaks its protocol is missing.
        DataError: There is no such protocol.
    """
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise BackendError(f"{url} needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise DataError(f"{url} cannot be opened ({error}); check the URL") from error


def _list_url(url: str, recursive: bool) -> Iterator[Listed]:
    system, path = open_url(url)
    try:
        if any(sign in path for sign in _MAGIC):
            found = sorted(system.glob(path))
        elif url.endswith("/") or system.isdir(path):
            found = sorted(system.find(path, maxdepth=None if recursive else 1))
        else:
            yield Listed(url, is_shard=PurePosixPath(path).suffix.lower() == SHARD)
            return
    except Exception as error:  # each file system has exceptions of its own
        raise DataError(f"{url} cannot be listed ({error or type(error).__name__}); check the URL") from error
    kinds = {*PICTURE_SUFFIXES, SHARD}
    named = [(PurePosixPath(name).suffix.lower(), name) for name in found]
    if not any(suffix in kinds for suffix, _ in named):
        raise DataError(f"there are no pictures and no tar files in {url}; check the URL")
    for suffix, name in named:
        if suffix in kinds:
            yield Listed(system.unstrip_protocol(name), is_shard=suffix == SHARD)


def _read_listing(source: str, suffix: str) -> Iterator[str]:
    system, path = open_url(source)
    accepted = f"it needs a column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]} of paths or URLs"
    try:
        with system.open(path, "rb") as file:
            for number, row in enumerate(_parquet_rows(file) if suffix == ".parquet" else map(_parse, file), 1):
                name = next((row[column] for column in COLUMNS if row.get(column)), None)
                if not isinstance(name, str):
                    raise DataError(f"{source}, row {number}, names no picture; {accepted}")
                yield name
    except (DataError, BackendError):
        raise
    except Exception as error:  # of the file system, of pyarrow, of JSON
        raise DataError(
            f"{source} cannot be read as a listing ({error or type(error).__name__}); {accepted}"
        ) from error


def _parse(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    return row if isinstance(row, dict) else {}


def _parquet_rows(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise BackendError("a Parquet listing needs pyarrow; run: pip install 'showtell[parquet]'") from error
    with parquet.ParquetFile(file) as table:
        there = [name for name in COLUMNS if name in table.schema_arrow.names]
        for group in table.iter_batches(_GROUP, columns=there):
            yield from group.to_pylist() if there else [{}]


def fetch(url: str, limits: ImageLimits) -> bytes:
    """The bytes of a picture behind a URL.

    Raises:
        ImageError: It cannot be read; the sentence says why.
    """
    try:
        system, path = open_url(url)
        with system.open(path, "rb") as file:
            data: bytes = file.read(limits.max_bytes + 1)
            return data
    except FileNotFoundError as error:
        raise ImageError(f"{url} does not exist; check the URL") from error
    except Exception as error:
        raise ImageError(f"{url} cannot be read ({error or type(error).__name__}); check the URL") from error


def read_shard(shard: str, limits: ImageLimits) -> Iterator[tuple[str, bytes | ImageError]]:
    """(`shard.tar!member`, its bytes) of the pictures in a tar, as it streams by.

    A member that is too large, and the shard itself where it ends or breaks too soon, come as the error.
    """
    try:
        system, path = open_url(shard)
        with system.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r|*") as members:
            for member in members:
                suffix = PurePosixPath(member.name).suffix.lower()
                if not member.isfile() or suffix not in PICTURE_SUFFIXES:
                    continue
                name = f"{shard}!{member.name}"
                if member.size > limits.max_bytes:
                    yield (
                        name,
                        ImageError(f"{name} has {member.size:,} bytes; at most {limits.max_bytes:,} are accepted"),
                    )
                    continue
                opened = members.extractfile(member)
                yield name, opened.read() if opened else b""
    except Exception as error:  # of the file system, of tarfile, of the packing
        yield shard, ImageError(f"{shard} cannot be read as a tar ({error or type(error).__name__}); get it again")
