"""A file of pretrained word vectors -> where a decoder's embedding of words starts.

Accepted forms, plain or gzipped, told apart by what the file holds and not by its name:
    GloVe text       `word v1 … vD` a line (Pennington et al. 2014)
    word2vec text    the same after a first line `count D` (Mikolov et al. 2013); fastText's .vec is this form too
    word2vec binary  the line `count D`, then `word`, a space and D little-endian float32, and perhaps a line end, each
A file is read once, from front to back, and only the vectors of the words asked for are parsed and kept: GloVe's 2.2
million words of 5.6 GB take the memory of the vocabulary. The rows of other words are not looked at, except the last,
which tells whether the file breaks off.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError
from showtell.text import PAD, Vocabulary, fold

_HEAD = 2**20  # bytes that tell a file's form; a line of text must fit
_CHUNK = 2**20  # bytes of a binary file that are in memory; a word with its vector must fit
_WIDEST = 2**15  # numbers a word; the widest vectors in use have 4,096
_LISTED = 10  # words without a vector that a report names

_FIRST = re.compile(rb"[^ \t\r\n]+")
_ANNOUNCED = re.compile(rb"([0-9]{1,15})[ \t]+([0-9]{1,9})[ \t\r]*")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_FOREIGN = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"BZh": "is compressed with bzip2; unpack it",
    b"\xfd7zXZ": "is compressed with xz; unpack it",
    b"\xba\x16\x4f\x2f": "is a fastText model; give the .vec file that belongs to it",
    **dict.fromkeys(
        (b"\x80\x02", b"\x80\x03", b"\x80\x04"), "is a pickle; write it with gensim's save_word2vec_format"
    ),
}


@dataclass(frozen=True)
class Coverage:
    """How much of the words a file of vectors knows.

    Units: `words` is a share of the words asked for, `tokens` a share of all tokens that were counted, also of those
        that are not asked for; `without` are the first words asked for that have no vector, by which the most frequent
        ones when they are a vocabulary's.
    """

    words: float
    tokens: float
    without: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"words": round(self.words, 6), "tokens": round(self.tokens, 6), "without": self.without}


@dataclass(frozen=True, eq=False)
class WordVectors:
    """The vectors of those words that a file has.

    Shape: vectors (F, D) float32, finite, row i of `found[i]`; `found` and `missing` are in the order asked for.
        `other_case` counts the found words that the file has in another case only, `undecodable` the file's words that
        are not UTF-8.
    """

    vectors_FD: NDArray[np.float32]
    found: tuple[str, ...]
    missing: tuple[str, ...] = ()
    other_case: int = 0
    undecodable: int = 0

    @property
    def width(self) -> int:
        """D, the numbers a word."""
        return int(self.vectors_FD.shape[1])

    @cached_property
    def index(self) -> dict[str, int]:
        """The row of each found word."""
        return {word: row for row, word in enumerate(self.found)}

    def digest(self) -> str:
        """A hash of the found words and their vectors: equal exactly when they are."""
        digest = hashlib.sha256(repr((self.found, self.width)).encode())
        digest.update(self.vectors_FD.astype("<f4").tobytes())
        return digest.hexdigest()

    def coverage(self, counts: Mapping[str, int]) -> Coverage:
        """How much of the words, and of the tokens of some captions (`counts` of each word), has a vector."""
        tokens = sum(counts.values())
        return Coverage(
            words=len(self.found) / (len(self.found) + len(self.missing)),
            tokens=sum(counts.get(word, 0) for word in self.found) / tokens if tokens else 0.0,
            without=self.missing[:_LISTED],
        )


def read_vectors(path: str | Path, words: Sequence[str]) -> WordVectors:
    """The vectors that a file of pretrained ones has for some words.

    A word is found as it is spelt. Where the file has no such word, it is found in another case (`Paris` for `paris`)
    or with accents as separate marks; of several, as of a word that is listed twice, the first counts, which is the
    most frequent one in the usual files.

    Args:
        words: In lower case and Unicode NFC, without white space, as `tokenise` gives them.

    Raises:
        DataError: The file cannot be read, is empty, of none of the forms named above, or breaks off; the vector of a
            word asked for has a wrong number of values, or one that is not a finite number; or no word is found.
    """
    path = Path(path)
    shelf = _Shelf(words)
    try:
        with _open(path) as file:
            form = _find_form(file, path)
            read = _read_binary if form.binary else _read_text
            read(file, path, form, shelf)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"cannot read the word vectors {path} ({reason}); check the path, or get the file again"
        ) from error
    return shelf.gather(path)


def write_vectors(path: Path, vectors: WordVectors) -> None:
    """Writes the found words in word2vec's binary form, from which `read_vectors` gives the same numbers."""
    with path.open("wb") as file:
        file.write(f"{len(vectors.found)} {vectors.width}\n".encode())
        for word, vector_D in zip(vectors.found, vectors.vectors_FD, strict=True):
            file.write(word.encode() + b" " + vector_D.astype("<f4").tobytes() + b"\n")


def describe_coverage(name: str, vectors: WordVectors, coverage: Coverage) -> str:
    """One line for whoever started the run."""
    parts = [
        f"{name}: {len(vectors.found):,} vectors of {vectors.width} numbers, for {coverage.words:.1%} of the "
        f"vocabulary and {coverage.tokens:.1%} of the training captions' tokens"
    ]
    if coverage.without:
        parts.append(f"none for {', '.join(map(repr, coverage.without))}" + ", …" * (len(vectors.missing) > _LISTED))
    if vectors.other_case:
        parts.append(f"{vectors.other_case:,} of them in another case")
    if vectors.undecodable:
        parts.append(f"{vectors.undecodable:,} words of the file are not UTF-8 and were passed over")
    return "; ".join(parts)


def initial_embedding(vocabulary: Vocabulary, vectors: WordVectors, seed: int) -> NDArray[np.float32]:
    """Where the embedding of a vocabulary starts, (V, D) float32: each word at its vector, PAD at zero.

    A word without a vector, and START, END and UNK, start from the mean of the found vectors plus Gaussian noise whose
    standard deviation in each dimension is that of the found vectors, so that they look like words and differ from each
    other. The noise depends on the seed and the word's id alone. Nothing is normalised.
    """
    found_FD = vectors.vectors_FD.astype(np.float64)
    noise_VD = np.random.default_rng(seed).standard_normal((len(vocabulary), vectors.width))
    embedding_VD = found_FD.mean(0) + found_FD.std(0) * noise_VD
    embedding_VD[PAD] = 0
    known = [(vocabulary.id_of(word), row) for row, word in enumerate(vectors.found) if word in vocabulary]
    ids, rows = np.array(known, np.int64).reshape(-1, 2).T
    embedding_VD[ids] = found_FD[rows]
    return embedding_VD.astype(np.float32)


# what is kept


class _Shelf:
    """The vectors of the words asked for, as a file brings them."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = dict.fromkeys(words)
        self.exact: dict[str, NDArray[np.float32]] = {}
        self.other: dict[str, NDArray[np.float32]] = {}  # in another case than the word asked for
        self.undecodable = 0

    def place(self, raw: bytes) -> tuple[dict[str, NDArray[np.float32]], str] | None:
        """Where the vector of a file's word belongs, or None when it is not needed."""
        try:
            word = raw.decode()
        except UnicodeDecodeError:
            self.undecodable += 1
            return None
        if word in self.words:
            return None if word in self.exact else (self.exact, word)
        folded = fold(word)
        if folded == word or folded not in self.words or folded in self.other:
            return None
        return self.other, folded

    def gather(self, path: Path) -> WordVectors:
        """Raises:
        DataError: Nothing was found.
        """
        vectors = {word: self.exact.get(word, self.other.get(word)) for word in self.words}
        found = {word: vector for word, vector in vectors.items() if vector is not None}
        if not found:
            some = ", ".join(repr(word) for word in list(self.words)[:3])
            raise DataError(
                f"{path} has no vector for any of the {len(self.words):,} words ({some}, …); "
                "give vectors of the language that the captions are in"
            )
        return WordVectors(
            np.stack(list(found.values())),
            tuple(found),
            tuple(word for word in self.words if word not in found),
            other_case=sum(word not in self.exact for word in found),
            undecodable=self.undecodable,
        )


# forms


class _Form(NamedTuple):
    """How a file is to be read."""

    width: int
    announced: int | None = None  # words, by the first line
    binary: bool = False


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """The bytes of a file after its byte order mark, gunzipped when they are gzipped."""
    with path.open("rb", buffering=_HEAD) as plain:
        zipped = plain.read(2) == b"\x1f\x8b"
        plain.seek(0)
        file = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=plain)), _HEAD) if zipped else plain
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        yield file


def _find_form(file: BinaryIO, path: Path) -> _Form:
    """The form of a file, from its first bytes; text begins at the file's position afterwards, after a first line that
    announces it.

    Raises:
        DataError: It is empty or of no form that is known.
    """
    begin = file.tell()
    head = file.read(_HEAD)
    first, _, rest = head.partition(b"\n")
    announced = _ANNOUNCED.fullmatch(first)
    if not (rest if announced else head).strip():
        raise DataError(f"{path} is empty; get the file again")
    if announced:
        count, width = int(announced[1]), int(announced[2])
        form = _Form(width, count, _is_binary(rest, width)) if 1 <= width <= _WIDEST else None
        file.seek(begin + len(first) + 1)
    else:
        form = _find_bare_form(head if len(head) < _HEAD else head[: head.rfind(b"\n") + 1])
        file.seek(begin)
    if form is None:
        hint = next((hint for magic, hint in _FOREIGN.items() if head.startswith(magic)), None)
        raise DataError(
            f"{path} {hint}"
            if hint
            else f"{path} holds no word vectors of a form that is known; accepted are GloVe text (`word v1 … vD` a "
            "line), word2vec text or binary (after a first line `count D`) and fastText's .vec, each also gzipped"
        )
    return form


def _is_binary(rest: bytes, width: int) -> bool:
    """Whether what follows the line `count D` is binary; text has its numbers as digits."""
    if _are_numbers(_fields(rest.partition(b"\n")[0], width)[1:], width):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return True
    return _CONTROLS.search(rest) is not None


def _find_bare_form(lines: bytes) -> _Form | None:
    """The form of text that announces nothing: as wide as most of its lines, since few words have spaces in them."""
    rows = [line for line in lines.split(b"\n") if line.strip()]
    widths = Counter(len(row.split()) - 1 for row in rows)
    width = max(widths, key=lambda width: (widths[width], -width), default=0)
    if not 2 <= width <= _WIDEST:  # words with one number each are a list of counts
        return None
    return _Form(width) if any(_are_numbers(row.split()[1:], width) for row in rows) else None


def _fields(line: bytes, width: int) -> list[bytes]:
    """[word, v1, …, vD] of a line, split from its end: some words of GloVe's have spaces in them (`. . .`)."""
    return line.rsplit(None, width)


def _are_numbers(fields: Sequence[bytes], count: int | None = None) -> bool:
    """Whether fields are as many numbers."""
    try:
        return len([float(field) for field in fields]) == (len(fields) if count is None else count)
    except ValueError:
        return False


# text


def _read_text(file: BinaryIO, path: Path, form: _Form, shelf: _Shelf) -> None:
    width, number = form.width, int(form.announced is not None)
    rows, last, last_number = 0, b"", 0
    for line in iter(partial(file.readline, _HEAD), b""):
        number += 1
        if len(line) == _HEAD:
            raise DataError(f"{path}:{number} is longer than {_HEAD:,} bytes, which no vector is; get the file again")
        first = _FIRST.match(line)
        if first is None:
            rows += not line.isspace()  # a word of white space alone
            continue
        rows, last, last_number = rows + 1, line, number
        place = shelf.place(first.group())
        if place is None:
            continue
        store, word = place
        vector_D = _parse(line, first.group(), width, f"{path}:{number}")
        if vector_D is not None:
            store[word] = vector_D
    if not _are_numbers(_fields(last, width)[1:], width):
        raise DataError(f"{path}:{last_number} breaks off, it has not the {width} values of a word; get the file again")
    if form.announced not in (None, rows):
        raise DataError(
            f"{path} holds {rows:,} words, and its first line announces {form.announced:,}; get the file again, or "
            "correct the number if words were taken out"
        )


def _parse(line: bytes, first: bytes, width: int, where: str) -> NDArray[np.float32] | None:
    """The vector of a line whose first word is wanted, or None when more words follow before the numbers."""
    word, *fields = _fields(line, width)
    extra = word.split()[1:]
    if extra and not _are_numbers(extra):
        return None
    if extra or len(fields) != width:
        raise DataError(
            f"{where} has {len(extra) + len(fields)} values for {first.decode()!r}, the file has {width} a word; "
            "get the file again or mend the line"
        )
    try:
        values = [float(field) for field in fields]
    except ValueError:
        wrong = next(field for field in fields if not _are_numbers([field]))
        shown = wrong[:40].decode("utf-8", "replace")
        raise DataError(f"{where} has {shown!r} for {first.decode()!r}, which is not a number; mend the line") from None
    return _finite(values, where, first)


def _finite(values: Sequence[float] | NDArray[np.float32], where: str, word: bytes) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        vector_D = np.array(values, np.float32)
    if not np.isfinite(vector_D).all():
        wrong = next(value for value, kept in zip(values, vector_D, strict=True) if not math.isfinite(kept))
        raise DataError(
            f"{where} has the value {wrong} for {word.decode()!r}; accepted are finite numbers of 32 bits: get the "
            "file again or mend the vector"
        )
    return vector_D


# binary


def _read_binary(file: BinaryIO, path: Path, form: _Form, shelf: _Shelf) -> None:
    count, size = form.announced or 0, 4 * form.width
    buffer, at = b"", 0
    for number in range(1, count + 1):
        space = buffer.find(b" ", at)
        if space < 0 or space + size >= len(buffer):
            buffer, at = buffer[at:] + file.read(_CHUNK), 0
            space = buffer.find(b" ")
            if space < 0 or space + size >= len(buffer):
                raise DataError(f"{path} breaks off in word {number:,} of {count:,}; get the file again")
        raw = buffer[at:space].lstrip(b"\n")
        at = space + 1 + size
        place = shelf.place(raw)
        if place is not None:
            store, word = place
            values_D = np.frombuffer(buffer, "<f4", form.width, space + 1)
            store[word] = _finite(values_D, f"{path}, word {number:,}", raw)
    if (buffer[at:] + file.read(_CHUNK)).strip():
        raise DataError(f"{path} goes on after the {count:,} words that its first line announces; get the file again")
