"""A folder of pictures -> an index of their embeddings (its files: `showtell.search`), made or brought up to date.

What has the path, size and time of change of before is not opened. What is new or has changed is hashed; where the
index knows the same content from another path, its embedding is copied, and only the rest is decoded and encoded. What
cannot be read is kept with the reason and tried again when it changes. What is gone is marked as gone.

Everything is appended, rows before the entries that name them, so a run that is killed leaves at most a torn end, which
the next one cuts off before it goes on. When much of an index is of no use any more, it is written anew beside the old
one, and one `os.replace` puts it in its place.
"""

from __future__ import annotations

import os
import secrets
import stat
from array import array
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from showtell.datasets.sidecars import LEFT_BEHIND, PICTURE_SUFFIXES
from showtell.errors import ConfigError, DataError, ImageError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Source, digest_file, read_ahead
from showtell.locks import alone
from showtell.records import Failure
from showtell.search import (
    FORMAT,
    About,
    Embedder,
    Entry,
    Ledger,
    base_of,
    check_model,
    key_of,
    map_rows,
    read_about,
    read_ledger,
)

_CHUNK = 64  # pictures that are looked up, and hashed where they are new, together
_TOLD = 5  # failures whose sentences a run gives back
_USELESS = 0.25  # of the rows, from which on the index is written anew
_REPEATED = 2  # lines for each that counts, from which on too
_COPIED = 4096  # rows copied at once then
_BLOCK = 256  # pictures that are sent elsewhere together
_OURS = ("embeddings-", "entries-", "offsets-", "approximate-")


# Blocks of paths -> (the number of a block, (float16 rows of what can be read, for each picture the error or None)), as
# they are done.
Elsewhere = Callable[[Sequence[Sequence[str]]], Iterator[tuple[int, tuple[bytes, Sequence[str | None]]]]]


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """What a run did.

    Attributes:
        pictures: That the index finds now, also of other folders.
        encoded, unchanged: Pictures of the folder.
        moved: Whose content was known from another path, whether that is still there or not.
        removed: That were in the folder and are nowhere in it now.
        unreadable: Pictures of the folder that cannot be read, and folders in it that cannot be listed.
        failures: The first few of these.
    """

    pictures: int
    encoded: int
    unchanged: int
    moved: int
    removed: int
    unreadable: int
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, Any]:
        counts = ("pictures", "encoded", "unchanged", "moved", "removed", "unreadable")
        return {
            **{name: getattr(self, name) for name in counts},
            "failures": [failure.to_json() for failure in self.failures],
        }


def index_pictures(
    folder: str | Path,
    directory: str | Path,
    embedder: Embedder,
    *,
    batch: int = 16,
    threads: int | None = None,
    limits: ImageLimits = DEFAULT_LIMITS,
    source: str = "",
    elsewhere: Elsewhere | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Indexed:
    """Brings an index up to date with a folder of pictures, of any depth; a new one is made where there is none.

    Hidden files and folders are passed over, links to folders are not followed. Pictures of other folders that the
    index holds stay as they are, so that several folders can share one.

    Args:
        directory: The index's.
        batch: Pictures that are encoded together.
        threads: That read pictures; all cores when None.
        source: Where the model lies; kept, so that whoever searches need not say it.
        elsewhere: Who encodes the pictures that are new, in the place of this process.

    Raises:
        DataError: There is no such folder or no picture in it (the index is then left as it is), another run is
            writing the index, or it is damaged.
        ConfigError: The index was made with another model, or the directory is something else.
    """
    root, directory = Path(os.path.realpath(folder)), Path(directory)
    if not root.is_dir():
        raise DataError(f"there is no folder {folder}; give the one that holds the pictures")
    total = sum(1 for _ in _scan(root, lambda path, error: None))
    if not total:
        raise DataError(
            f"there are no pictures in {folder}; accepted are files named {', '.join(sorted(PICTURE_SUFFIXES))}"
        )
    directory.mkdir(parents=True, exist_ok=True)
    busy = DataError(f"another run is writing the index {directory}; wait until it is done, or give another --out")
    with alone(directory / "lock", busy):
        writer = _Writer(directory, embedder, source)
        try:
            run = _Run(writer, root, embedder, limits, threads or os.cpu_count() or 1)
            for done in run.encode(batch) if elsewhere is None else run.encode_elsewhere(elsewhere):
                progress("indexing pictures", min(done, total - 1), total)
            run.forget()
            progress("indexing pictures", total, total)
            pictures = writer.finish()
        finally:
            writer.close()
    return run.summary(pictures)


# the folder


class _Found(NamedTuple):
    """A picture of the folder; size and time are -1 where they cannot be asked for, `content` "" where unknown."""

    path: str
    name: str  # in the entries
    size: int
    mtime_ns: int
    regular: bool
    content: str = ""


def _scan(root: Path, notice: Callable[[str, OSError], None]) -> Iterator[os.DirEntry[str]]:
    """The files below a folder that are named as pictures are, one by one; what cannot be listed goes to `notice`."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in LEFT_BEHIND:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES:  # noqa: PTH122 of a million names
                        yield entry
        except OSError as error:
            notice(folder, error)


def _digest(found: _Found, limits: ImageLimits) -> str:
    """The hash of a file's content, "" where there is nothing that could be read."""
    return digest_file(found.path, found.size, limits, width=8) if found.regular else ""


# the run


class _Run:
    """One pass over a folder; it counts what it does."""

    def __init__(self, writer: _Writer, root: Path, embedder: Embedder, limits: ImageLimits, threads: int) -> None:
        self._writer, self._root, self._embedder = writer, root, embedder
        self._limits, self._threads = limits, threads
        self._ledger = writer.ledger
        self._seen = np.zeros(len(self._ledger), np.bool_)
        self._pending: deque[_Found] = deque()  # handed to the readers, in their order
        self._origins = array("q")  # elements of the ledger whose rows were copied
        self._unlisted: list[str] = []
        self._failures: list[Failure] = []
        self._encoded = self._unchanged = self._removed = self._unreadable = 0

    def encode(self, batch: int) -> Iterator[int]:
        """Goes through the folder; gives how many pictures are done, now and then."""
        with ThreadPoolExecutor(self._threads) as pool:
            pictures = read_ahead(
                self._sort_out(pool),
                self._embedder.preprocessing,
                readers=self._threads,
                ahead=2 * batch,
                limits=self._limits,
            )
            while group := list(islice(pictures, batch)):
                self._write([pixels for _, pixels in group])
                yield self._done
            yield self._done

    def encode_elsewhere(self, elsewhere: Elsewhere) -> Iterator[int]:
        """The same, by others; what is new is in memory by its path."""
        with ThreadPoolExecutor(self._threads) as pool:
            paths = [path for path, _ in self._sort_out(pool)]
        found = list(self._pending)
        self._pending.clear()
        yield self._done
        blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
        for number, (rows, errors) in elsewhere(blocks):
            vectors = np.frombuffer(rows, "<f2").reshape(-1, self._embedder.width)
            self._note(found[number * _BLOCK : (number + 1) * _BLOCK], vectors, errors)
            yield self._done

    @property
    def _done(self) -> int:
        return self._encoded + self._unchanged + len(self._origins) + self._unreadable

    def _sort_out(self, pool: ThreadPoolExecutor) -> Iterator[tuple[str, Source]]:
        """The pictures that have to be encoded; others are dealt with on the way."""
        walk = self._walk()
        while chunk := list(islice(walk, _CHUNK)):
            places = self._ledger.find(np.array([key_of(found.name) for found in chunk], np.uint64)).tolist()
            changed = []
            for found, place in zip(chunk, places, strict=True):
                if place >= 0:
                    self._seen[place] = True
                if place >= 0 and self._is_unchanged(found, place):
                    self._count_known(found, place)
                else:
                    changed.append((found, place))
            hashes = pool.map(_digest, [found for found, _ in changed], [self._limits] * len(changed))
            for (found, place), content in zip(changed, hashes, strict=True):
                found = found._replace(content=content)
                origin = self._writer.find_content(found.size, content, place)
                if origin < 0:
                    self._pending.append(found)
                    yield found.path, found.path
                elif origin == place:
                    self._writer.append([_entry(found, row=int(self._ledger.rows[place]))])
                    self._unchanged += 1
                else:
                    self._origins.append(origin)
                    (row,) = self._writer.append_rows(self._writer.read_row(int(self._ledger.rows[origin])))
                    self._writer.append([_entry(found, row=row)])

    def _walk(self) -> Iterator[_Found]:
        for entry in _scan(self._root, self._fail_folder):
            name = self._writer.name_of(entry.path)
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere: reading it says so
                yield _Found(entry.path, name, -1, -1, False)
            else:
                yield _Found(entry.path, name, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))

    def _is_unchanged(self, found: _Found, place: int) -> bool:
        return bool(self._ledger.sizes[place] == found.size and self._ledger.mtimes[place] == found.mtime_ns)

    def _count_known(self, found: _Found, place: int) -> None:
        if self._ledger.rows[place] >= 0:
            self._unchanged += 1
        else:
            self._fail(found.path, lambda: self._writer.read_entry(place).error)

    def _fail(self, path: str, sentence: Callable[[], str]) -> None:
        self._unreadable += 1
        if len(self._failures) < _TOLD:
            self._failures.append(Failure(path, sentence()))

    def _fail_folder(self, folder: str, error: OSError) -> None:
        self._unlisted.append(folder + os.sep)
        reason = error.strerror or str(error)
        self._fail(folder, lambda: f"{folder} cannot be listed ({reason}); what was indexed of it stays in the index")

    def _write(self, group: list[NDArray[np.uint8] | ImageError]) -> None:
        """Encodes pictures and writes them down."""
        vectors, errors = embed_group(self._embedder, group)
        self._note([self._pending.popleft() for _ in group], vectors, errors)

    def _note(self, group: Sequence[_Found], vectors: NDArray[np.floating], errors: Sequence[str | None]) -> None:
        """Writes down the embeddings of the pictures that could be read, and why others could not."""
        rows = iter(self._writer.append_rows(vectors) if len(vectors) else ())
        entries = []
        for found, error in zip(group, errors, strict=True):
            if error is not None:
                sentence = error.encode("utf-8", "backslashreplace").decode()
                self._fail(found.path, lambda sentence=sentence: sentence)  # type: ignore[misc]
                entries.append(_entry(found, error=sentence))
            else:
                self._encoded += 1
                entries.append(_entry(found, row=next(rows)))
        self._writer.append(entries)

    def forget(self) -> None:
        """Marks as gone what the index has of the folder and the folder has no more."""
        below = str(self._root).rstrip(os.sep) + os.sep
        moved = set(self._origins)
        for place in np.flatnonzero(~self._seen).tolist():
            name = self._writer.read_entry(place).name
            path = str(self._writer.base / name)
            if path.startswith(below) and not path.startswith(tuple(self._unlisted)):
                self._writer.append([_line(name, gone=True)])
                self._removed += place not in moved

    def summary(self, pictures: int) -> Indexed:
        return Indexed(
            pictures=pictures,
            encoded=self._encoded,
            unchanged=self._unchanged,
            moved=len(self._origins),
            removed=self._removed,
            unreadable=self._unreadable,
            failures=tuple(self._failures),
        )


def embed_group(
    embedder: Embedder, group: Sequence[NDArray[np.uint8] | ImageError]
) -> tuple[NDArray[np.floating], list[str | None]]:
    """(the embeddings of the pictures that could be read, for each picture why it could not, or None)."""
    errors = [str(pixels) if isinstance(pixels, ImageError) else None for pixels in group]
    readable = [pixels for pixels in group if not isinstance(pixels, ImageError)]
    if not readable:
        return np.zeros((0, embedder.width), np.float32), errors
    return embedder.embed_pictures(np.stack(readable)), errors


def _entry(found: _Found, *, row: int = -1, error: str = "") -> Entry:
    return _line(
        found.name, size=found.size, mtime_ns=found.mtime_ns, content=found.content, row=row, error=error, gone=False
    )


def _line(name: str, **values: Any) -> Entry:
    try:
        name.encode()
    except UnicodeEncodeError:
        return Entry(odd=os.fsencode(name), **values)
    return Entry(path=name, **values)


# the files


class _Writer:
    """The files of an index, mended and open to be appended to. Close it."""

    def __init__(self, directory: Path, embedder: Embedder, source: str) -> None:
        self.directory, self.base = directory, base_of(directory)
        about = read_about(directory)
        if about is None:
            _check_free(directory)
            about = _create(directory, embedder)
        check_model(directory, about.model, about.width, embedder)
        if source and source != about.source:
            about = msgspec.structs.replace(about, source=source)
            _replace(directory / "index.json", msgspec.json.encode(about) + b"\n")
        self._about = about
        self._base = str(self.base).rstrip(os.sep) + os.sep
        _sweep(directory, about.token)
        self._rows, self._entries = _paths(directory, about.token)
        _offsets_path(directory, about.token).unlink(missing_ok=True)  # what it says ends here
        try:
            self._stored = self._rows.stat().st_size // (2 * about.stride)
            self.ledger = read_ledger(self._entries, self._stored)
        except FileNotFoundError as error:
            raise DataError(
                f"the index {directory} has no {Path(error.filename).name}; remove it and build it again"
            ) from error
        self._stored = self.ledger.used
        os.truncate(self._entries, self.ledger.end)
        os.truncate(self._rows, 2 * about.stride * self._stored)
        self._appended_rows, self._old_rows = self._rows.open("ab"), self._rows.open("rb")
        self._appended, self._old = self._entries.open("ab"), self._entries.open("rb")
        self._by_content = np.argsort(self.ledger.contents, kind="stable")

    def close(self) -> None:
        for file in (self._appended_rows, self._old_rows, self._appended, self._old):
            file.close()

    def name_of(self, path: str) -> str:
        """How the entries call a picture."""
        if not path.startswith(self._base):
            return path
        return path[len(self._base) :].replace(os.sep, "/")

    def find_content(self, size: int, content: str, place: int) -> int:
        """The element of the ledger that has this content and a row, `place` rather than others; -1 if none has."""
        value = np.uint64(int(content or "0", 16))
        if not value:
            return -1
        contents = self.ledger.contents
        first = int(np.searchsorted(contents, value, sorter=self._by_content))
        last = int(np.searchsorted(contents, value, "right", sorter=self._by_content))
        same = self._by_content[first:last]
        same = same[(self.ledger.sizes[same] == size) & (self.ledger.rows[same] >= 0)]
        if not len(same):
            return -1
        return place if place in same else int(same[0])

    def read_entry(self, place: int) -> Entry:
        return _read_entry(self._old, int(self.ledger.offsets[place]))

    def read_row(self, row: int) -> NDArray[np.float16]:
        """The embedding of a row of before this run, (1, E)."""
        stride = self._about.stride
        self._old_rows.seek(2 * stride * row)
        return np.frombuffer(self._old_rows.read(2 * stride), "<f2")[None, : self._about.width]

    def append_rows(self, vectors: NDArray[np.floating]) -> range:
        """The numbers of new rows with these vectors, (B, E)."""
        if vectors.ndim != 2 or vectors.shape[1] != self._about.width or not np.isfinite(vectors).all():
            raise ValueError(f"embeddings of shape {vectors.shape} or not finite; the model gives {self._about.width}")
        rows = np.zeros((len(vectors), self._about.stride), "<f2")
        rows[:, : self._about.width] = vectors
        self._appended_rows.write(rows.tobytes())
        self._appended_rows.flush()  # before any entry names them
        self._stored += len(rows)
        return range(self._stored - len(rows), self._stored)

    def append(self, entries: list[Entry]) -> None:
        self._appended.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        self._appended.flush()

    def finish(self) -> int:
        """How many pictures can be found, after the last is written."""
        for file in (self._appended_rows, self._appended):
            os.fsync(file.fileno())
        token = self._about.token
        ledger = read_ledger(self._entries, self._stored)
        pictures = int((ledger.rows >= 0).sum())
        stored = self._stored
        if stored - pictures > _USELESS * stored or ledger.lines > _REPEATED * len(ledger):
            token = self._write_anew(ledger)
            stored = pictures
            ledger = read_ledger(_paths(self.directory, token)[1], stored)
        offsets = np.concatenate([[ledger.end], ledger.by_row(stored)]).astype("<i8")
        _replace(_offsets_path(self.directory, token), offsets.tobytes())
        return pictures

    def _write_anew(self, ledger: Ledger) -> str:
        """The token of a copy without what is of no use, which has taken the index's place."""
        about = msgspec.structs.replace(self._about, token=secrets.token_hex(8))
        order = np.argsort(ledger.rows, kind="stable")
        unreadable = int((ledger.rows < 0).sum())
        old = map_rows(self._rows, self._stored, about.stride)
        rows_path, entries_path = _paths(self.directory, about.token)
        with rows_path.open("wb") as rows, entries_path.open("wb") as entries:
            for place in order[:unreadable]:
                entries.write(msgspec.json.encode(_read_entry(self._old, int(ledger.offsets[place]))) + b"\n")
            shown = order[unreadable:]
            for start in range(0, len(shown), _COPIED):
                part = shown[start : start + _COPIED]
                rows.write(old[ledger.rows[part]].tobytes())
                for row, place in enumerate(part, start):
                    entry = _read_entry(self._old, int(ledger.offsets[place]))
                    entries.write(msgspec.json.encode(msgspec.structs.replace(entry, row=row)) + b"\n")
            for file in (rows, entries):
                file.flush()
                os.fsync(file.fileno())
        _replace(self.directory / "index.json", msgspec.json.encode(about) + b"\n")
        _sweep(self.directory, about.token)
        return about.token


def _paths(directory: Path, token: str) -> tuple[Path, Path]:
    return directory / f"embeddings-{token}.f16", directory / f"entries-{token}.jsonl"


def _offsets_path(directory: Path, token: str) -> Path:
    return directory / f"offsets-{token}.i64"


def _read_entry(file: IO[bytes], offset: int) -> Entry:
    file.seek(offset)
    return msgspec.json.decode(file.readline(), type=Entry)


def _check_free(directory: Path) -> None:
    others = [path.name for path in directory.iterdir() if path.name != "lock" and not _is_ours(path.name)]
    if others:
        raise ConfigError(
            f"{directory} is not an index and holds other files ({others[0]!r}); give a new folder as --out"
        )


def _create(directory: Path, embedder: Embedder) -> About:
    about = About(format=FORMAT, token=secrets.token_hex(8), model=embedder.model, width=embedder.width)
    for path in _paths(directory, about.token):
        path.touch()
    _replace(directory / "index.json", msgspec.json.encode(about) + b"\n")
    return about


def _is_ours(name: str) -> bool:
    return name.startswith(_OURS) or name == "index.json.tmp"


def _sweep(directory: Path, token: str) -> None:
    """Removes what killed runs and replaced indexes left behind."""
    for path in list(directory.iterdir()):
        if _is_ours(path.name) and (token not in path.name or path.suffix == ".tmp"):
            path.unlink(missing_ok=True)


def _replace(path: Path, data: bytes) -> None:
    """Writes a file that is there as a whole or not at all."""
    partial = path.with_name(f"{path.name}.tmp")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
