"""Sentences or example pictures -> the nearest pictures of an index, by one exact pass over their embeddings.

An index is a directory. `showtell.indexing` writes it, what is here only reads, and the two may do so at the same time:

    index.json              `About`; its token is in the names of the other files, so that all are replaced at once
    embeddings-TOKEN.f16    rows of E float16, little-endian, with one 0 more where E is odd; appended to
    entries-TOKEN.jsonl     `Entry` lines, appended after the rows they name; of the lines of a path the last counts
    offsets-TOKEN.i64       int64, little-endian: how many bytes of the entries it is made of, then for each row the
                            byte where its entry begins, or -1 for a row of no picture. It saves reading the entries;
                            where it is missing or the entries have grown since, they are read.
    approximate-TOKEN.usearch   a graph over all rows, their numbers as keys, where one was asked for
    lock                    held by the run that writes

The score of a picture is the dot product of two vectors of unit length, -1 to 1. A search keeps no embedding in memory
beyond some blocks, whatever the number of pictures (bench/search.py measures it).
"""

from __future__ import annotations

import hashlib
import mmap
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from showtell.errors import BackendError, ConfigError, DataError
from showtell.images import Preprocessing, Source, read_pixels
from showtell.nearest import nearest_rows, rank_rows

FORMAT = 1

_PART = 16_384  # rows handled at once
_MORE = 32  # asked of the graph beyond twice those wanted: some rows are of no picture any more
_EXPANSION = 256  # candidates that the approximate search follows; more find more and take longer


class Embedder(Protocol):
    """What maps pictures and sentences into one space.

    `model` identifies the weights, `width` is E. Both methods give vectors of unit length.
    """

    @property
    def model(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def embed_pictures(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, E) of pictures as `images.read_pixels` gives them."""
        ...

    def embed_sentence(self, text: str) -> NDArray[np.float32]:
        """(E,) of a sentence.

        Raises:
            DataError: The model knows none of its words.
        """
        ...


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What index.json says; `model` identifies the weights, `source` is where they were, for those who search."""

    format: int
    token: str
    model: str
    width: int
    source: str = ""

    @property
    def stride(self) -> int:
        """Numbers in a row of the embeddings."""
        return self.width + self.width % 2


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """A line of the entries: what is known of the picture at a path.

    Attributes:
        path: With `/` and relative to the folder that holds the index, where it lies below; else absolute.
        odd: The path as bytes (base64) where it is not UTF-8; `path` is then empty.
        content: The first 64 bits of the file's BLAKE2b as 16 hexadecimal digits.
        row: Of the embeddings; -1 for a picture that could not be read, and `error` says why.
        gone: There is no such picture any more.
    """

    path: str = ""
    odd: bytes = b""
    size: int = 0
    mtime_ns: int = 0
    content: str = ""
    row: int = -1
    error: str = ""
    gone: bool = False

    @property
    def name(self) -> str:
        return os.fsdecode(self.odd) if self.odd else self.path


@dataclass(frozen=True, slots=True)
class Match:
    """A picture that was found. Its score is from -1 to 1; its row is its own until the index is made anew."""

    path: str
    score: float
    row: int = -1

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "score": round(self.score, 4)}


@dataclass(frozen=True, eq=False)
class Ledger:
    """What the entries say in the end: one element a path, without the paths, 48 bytes each.

    Shape: all (N,), in the order of `keys`. `offsets` are bytes of the file, `rows` -1 for unreadable pictures,
        `contents` 0 where they are not known.

    Attributes:
        end: How many bytes of the file are whole lines whose rows exist; what follows a killed run left behind.
        used: Rows that lines name, also those that others replaced.
        lines: Lines up to `end`.
    """

    keys: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    mtimes: NDArray[np.int64]
    contents: NDArray[np.uint64]
    end: int
    used: int
    lines: int

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The element of each key, -1 where there is none."""
        if not len(self):
            return np.full(len(keys), -1, np.int64)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def by_row(self, rows: int) -> NDArray[np.int64]:
        """Where the entry of each of the first rows begins, -1 for rows of no picture."""
        offsets = np.full(rows, -1, np.int64)
        shown = self.rows >= 0
        offsets[self.rows[shown]] = self.offsets[shown]
        return offsets


def key_of(name: str) -> int:
    """64 bits that stand for a path: two of a million are the same in one index of forty million."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def base_of(directory: Path) -> Path:
    """The folder that relative paths of an index start from: the one that holds it."""
    return Path(os.path.realpath(directory)).parent


def read_about(directory: Path) -> About | None:
    """What index.json says, or None where there is none.

    Raises:
        DataError: It cannot be read, or is of a newer format.
    """
    path = directory / "index.json"
    try:
        about = msgspec.json.decode(path.read_bytes(), type=About)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); remove the index and build it again") from error
    if about.format > FORMAT:
        raise DataError(
            f"{directory} is an index of format {about.format}, this showtell reads up to format {FORMAT}; "
            "run: pip install --upgrade showtell"
        )
    if about.width < 1 or not about.token.isalnum():
        raise DataError(f"{path} is damaged; remove the index and build it again")
    return about


def read_ledger(path: Path, rows: int) -> Ledger:
    """What the entries say.

    Args:
        rows: How many rows the embeddings have.

    Raises:
        DataError: A line other than the last is no entry.
    """
    parse = msgspec.json.Decoder(Entry).decode
    keys, contents = array("Q"), array("Q")
    offsets, places, sizes, mtimes = array("q"), array("q"), array("q"), array("q")
    gone = bytearray()
    end = used = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if not line.endswith(b"\n"):
                    break
                entry = parse(line)
                content = int(entry.content or "0", 16)
            except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
                if not file.read(1):  # the end of a run that lost its power
                    break
                raise DataError(
                    f"{path}:{len(keys) + 1} is no entry of an index ({error}); remove the index and build it again"
                ) from error
            if entry.row >= rows:
                break
            keys.append(key_of(entry.name))
            contents.append(content)
            offsets.append(end)
            places.append(entry.row)
            sizes.append(entry.size)
            mtimes.append(entry.mtime_ns)
            gone.append(entry.gone)
            used = max(used, entry.row + 1)
            end += len(line)
    marks = np.frombuffer(keys, np.uint64)
    order = np.argsort(marks, kind="stable")
    ordered = marks[order]
    last = np.ones(len(ordered), np.bool_)
    last[:-1] = ordered[1:] != ordered[:-1]
    kept = order[last]
    kept = kept[np.frombuffer(gone, np.bool_)[kept] == 0]
    return Ledger(
        keys=marks[kept],
        offsets=np.frombuffer(offsets, np.int64)[kept],
        rows=np.frombuffer(places, np.int64)[kept],
        sizes=np.frombuffer(sizes, np.int64)[kept],
        mtimes=np.frombuffer(mtimes, np.int64)[kept],
        contents=np.frombuffer(contents, np.uint64)[kept],
        end=end,
        used=used,
        lines=len(keys),
    )


def check_model(directory: Path, made_with: str, width: int, embedder: Embedder) -> None:
    """Nothing, where an index and a model belong together.

    Raises:
        ConfigError: The index was made with another model.
    """
    if (made_with, width) != (embedder.model, embedder.width):
        raise ConfigError(
            f"the index {directory} was made with another model ({made_with:.12}, width {width}) than the one given "
            f"({embedder.model:.12}, width {embedder.width}); name its model with --model, or build a new index: "
            "showtell index FOLDER --out NEW --model MODEL"
        )


class PictureIndex:
    """An index, opened to find pictures in it as it is at this moment.

    Its files are mapped into memory, not read. Any number of threads may search at once.

    Example:
        >>> index = PictureIndex("photos.index")  # doctest: +SKIP
        >>> find_sentence(index, embedder, "two dogs on a beach", top=5)  # doctest: +SKIP
    """

    def __init__(self, directory: str | Path) -> None:
        """Opens the index in a directory.

        Raises:
            DataError: There is none, or it is damaged or of a newer format.
        """
        self.directory = Path(directory)
        for attempt in range(3):
            about = read_about(self.directory)
            if about is None:
                raise DataError(
                    f"there is no index in {self.directory}; make one: showtell index FOLDER --out {self.directory}"
                )
            try:
                self._open(about)
            except FileNotFoundError as error:  # replaced by the run of another process
                if attempt < 2:
                    continue
                raise DataError(
                    f"the index {self.directory} has no {Path(error.filename).name}; remove it and build it again"
                ) from error
            break

    def _open(self, about: About) -> None:
        self.model, self.width, self.source, self._token = about.model, about.width, about.source, about.token
        path = self.directory / f"embeddings-{about.token}.f16"
        rows = path.stat().st_size // (2 * about.stride)
        self.embeddings = map_rows(path, rows, about.stride)
        entries = self.directory / f"entries-{about.token}.jsonl"
        with entries.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._entries = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        offsets = _map_offsets(self.directory / f"offsets-{about.token}.i64", size, rows)
        self.offsets = read_ledger(entries, rows).by_row(rows) if offsets is None else offsets
        base = base_of(self.directory)
        self._base = base if self.directory.is_absolute() else Path(os.path.relpath(base))

    def __len__(self) -> int:
        """Pictures that can be found."""
        return sum(
            int((self.offsets[start : start + _PART] >= 0).sum()) for start in range(0, len(self.offsets), _PART)
        )

    def search(
        self,
        queries_QE: NDArray[np.floating],
        top: int = 20,
        *,
        approximate: bool = False,
        threads: int | None = None,
    ) -> list[list[Match]]:
        """The pictures of the highest scores for each query, best first; of equal ones the earlier indexed first.

        Args:
            queries_QE: Vectors of unit length.
            top: How many to give, of so many pictures.
            approximate: Follow the graph that `build_approximate` made, which may miss some.
            threads: Of the exact search; all cores when None.

        Raises:
            ConfigError: The approximate index is missing or older than the pictures.
            BackendError: usearch, which it needs, is not installed.
        """
        queries = np.asarray(queries_QE, np.float32)
        if approximate:
            found = self._follow_graph(queries, top)
        else:
            found = nearest_rows(self.embeddings, queries, top, offsets=self.offsets, threads=threads)
        return [  # vectors that were rounded to 16 bits are a little longer or shorter than 1
            [Match(self._path(int(row)), min(1.0, float(score)), int(row)) for row, score in zip(*one, strict=True)]
            for one in found
        ]

    def path_of(self, row: int) -> str | None:
        """Where the picture of a row is, or None where the row has none."""
        return self._path(row) if 0 <= row < len(self.offsets) and self.offsets[row] >= 0 else None

    def _path(self, row: int) -> str:
        start = int(self.offsets[row])
        line = self._entries[start : self._entries.find(b"\n", start)]
        return str(self._base / msgspec.json.decode(line, type=Entry).name)

    @property
    def graph(self) -> Path:
        """The file of the approximate index, which may be missing."""
        return self.directory / f"approximate-{self._token}.usearch"

    def _follow_graph(
        self, queries: NDArray[np.float32], top: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
        graph = _import_usearch().restore(str(self.graph), view=True) if self.graph.exists() else None
        if graph is None or len(graph) != len(self.embeddings):
            state = f"is of {len(graph):,} rows, the index has {len(self.embeddings):,}" if graph else "was not built"
            raise ConfigError(
                f"the approximate index of {self.directory} {state}; build it with: showtell index FOLDER --out "
                f"{self.directory} --approximate, or search without --approximate"
            )
        graph.expansion_search = _EXPANSION
        found = []
        for query in queries:
            count = 2 * top + _MORE
            while True:
                rows = np.asarray(graph.search(query, count).keys, np.int64)
                shown = rows[np.asarray(self.offsets[rows] >= 0)]
                if len(shown) >= top or count >= len(self.embeddings):
                    break
                count *= 4
            found.append(rank_rows(self.embeddings, query, shown, top))
        return found


def find_sentence(
    index: PictureIndex, embedder: Embedder, text: str, *, top: int = 20, approximate: bool = False
) -> list[Match]:
    """The pictures that a sentence describes best.

    Raises:
        ConfigError: The index was made with another model, or as `PictureIndex.search`.
        DataError: The model knows none of the words.
    """
    check_model(index.directory, index.model, index.width, embedder)
    return index.search(embedder.embed_sentence(text)[None], top, approximate=approximate)[0]


def find_like(
    index: PictureIndex, embedder: Embedder, picture: Source, *, top: int = 20, approximate: bool = False
) -> list[Match]:
    """The pictures most like an example; the example itself is among them where it was indexed.

    Raises:
        ConfigError: As `find_sentence`.
        ImageError: The example cannot be read.
    """
    check_model(index.directory, index.model, index.width, embedder)
    pixels = read_pixels(picture, embedder.preprocessing)
    return index.search(embedder.embed_pictures(pixels[None]), top, approximate=approximate)[0]


def build_approximate(
    index: PictureIndex, *, progress: Callable[[str, int, int], None] = lambda what, done, total: None
) -> Path:
    """The file of the approximate index, made of all rows; while it is built, the graph is held in memory.

    Source: Malkov & Yashunin, "Efficient and robust approximate nearest neighbor search using Hierarchical Navigable
        Small World graphs" (2018), as usearch implements it.

    Raises:
        BackendError: usearch is not installed.
    """
    graph = _import_usearch()(ndim=index.width, metric="ip", dtype="f16")
    total = len(index.embeddings)
    for start in range(0, total, _PART):
        stop = min(start + _PART, total)
        vectors = np.ascontiguousarray(index.embeddings[start:stop, : index.width])
        threads = 0 if start else 1  # all cores; rows that threads add to a graph with few in it can be out of reach
        graph.add(np.arange(start, stop, dtype=np.uint64), vectors, threads=threads)
        progress("building the approximate index", stop, total)
    partial = index.graph.with_suffix(f".{os.getpid()}.tmp")
    try:
        graph.save(str(partial))
        partial.replace(index.graph)
    finally:
        partial.unlink(missing_ok=True)
    return index.graph


def _import_usearch() -> Any:
    import onnxruntime  # noqa: F401 - importing it after usearch 2.26 ends the process (SIGSEGV); before it, both work

    try:
        from usearch.index import Index
    except ImportError as error:
        raise BackendError("the approximate search needs usearch; run: pip install 'showtell[search]'") from error
    return Index


def map_rows(path: Path, rows: int, stride: int) -> NDArray[np.float16]:
    """The first rows of a file of embeddings, (rows, stride), mapped into memory."""
    if not rows:
        return np.empty((0, stride), "<f2")
    return np.memmap(path, "<f2", "r", shape=(rows, stride))


def _map_offsets(path: Path, size: int, rows: int) -> NDArray[np.int64] | None:
    """Where each row's entry begins, or None where that was not written of these entries."""
    try:
        if path.stat().st_size != 8 * (rows + 1):
            return None
        found = np.memmap(path, "<i8", "r")
    except FileNotFoundError:
        return None
    return found[1:] if found[0] == size else None
