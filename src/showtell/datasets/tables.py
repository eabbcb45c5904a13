"""Tables of pictures and captions, as spreadsheets and hubs of data write them -> examples.

    file,caption,split
    images/a.jpg,a river runs through a forest,train

Accepted are CSV and its relatives (`,` `;` `|` or tabs between the cells), JSONL, JSON (a list of objects) and Parquet.
A row is a caption (rows of one picture belong together) or a picture with all its captions: in several columns, or in
a list. Which columns to read is given or guessed, by their names and by what is in them.

A picture is a path below a folder; its id is the path at which it was found there. It is looked for as it is written,
then in `images/`, `Images/` and the folder named after the table (`train/` for `train.csv`); a name without a suffix
gets that of the one picture it fits.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from showtell.datasets.files import (
    MAX_CAPTION,
    Notice,
    PictureFolder,
    check_caption,
    inside,
    name_split,
    read_json,
    read_text,
    refuse,
)
from showtell.datasets.native import read_lines
from showtell.datasets.sidecars import PICTURE_SUFFIXES, split_suffix
from showtell.errors import BackendError, DataError
from showtell.records import Example, Finding, Split
from showtell.text import tokenise

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
_SAMPLE = 200  # rows that a guess looks at
_BATCH = 4096  # rows of a Parquet file that are in memory
_DELIMITERS = (",", "\t", ";", "|")
_FOLDERS = ("images", "Images")  # where tables keep their pictures without saying so

# Names of columns, the likeliest first; compared in small letters with `_` for everything else.
_IMAGE_NAMES = (
    "image", "image_path", "img", "img_path", "file", "file_name", "filename", "file_path", "path", "filepath",
    "image_name", "image_file", "image_filename", "picture", "photo", "images", "image_id", "img_id", "imgid",
)  # fmt: skip
_CAPTION_NAMES = (  # with or without a number behind them; all columns of the first line that fits are read
    r"captions?",
    r"sentences?",
    r"descriptions?",
    r"texts?",
    r"comments?",
    r"alt(_?text)?",
    r"titles?",
    r"prompts?",
    r"labels?",
)
_SPLIT_NAMES = ("split", "data_split", "set", "subset", "partition")

# A list of texts in a cell as Python writes it, or NumPy, which leaves the commas out.
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_LIST = re.compile(rf"\[\s*{_QUOTED}(?:[\s,]+{_QUOTED})*[\s,]*\]\s*", re.DOTALL)

# What else calls itself a table, by its first bytes.
_FOREIGN = {
    b"PK\x03\x04": "a spreadsheet or a zip; save its table as CSV (UTF-8)",
    b"\xd0\xcf\x11\xe0": "a spreadsheet of old Excel; save it as CSV (UTF-8)",
    b"\x1f\x8b": "packed with gzip; unpack it first",
    b"SQLite format 3": "a database; write its table as CSV (UTF-8)",
}


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what. What is not named is guessed.

    `pictures` is the folder that the paths are below: by default the one that the table is in.
    """

    image: str | None = None
    captions: tuple[str, ...] = ()
    split: str | None = None
    pictures: Path | None = None

    def __str__(self) -> str:
        captions = ", ".join(map(repr, self.captions))
        split = f", splits from {self.split!r}" if self.split else ""
        return f"pictures from {self.image!r}, captions from {captions}{split}"


GUESSED = Columns()


def read_table(path: str | Path, columns: Columns = GUESSED, notice: Notice = refuse) -> list[Example]:
    """The pictures of a table, or of the tables of a folder, in the order of their first rows.

    Splits come from a column, else from the name of the table (`val.csv`, `train/metadata.jsonl`). Pictures that are
    not there are left out with one warning.

    Raises:
        DataError: There is no table, it is no table, a column is not there or cannot be guessed, or none of the
            pictures is there. What is wrong with a row goes to `notice`, which raises it unless another is given.
        BackendError: A Parquet file, and pyarrow is not installed.
    """
    path = Path(path)
    root = columns.pictures or (path if path.is_dir() else path.parent)
    if columns.pictures and not root.is_dir():
        raise DataError(f"there is no folder {root}; give the folder that the pictures are in (--pictures DIR)")
    folder = PictureFolder(root, notice)
    gathered = _Gathered()
    for place, split in _given_tables(path):
        table = _open(place, notice)
        base = "" if columns.pictures or place.parent == root else f"{place.parent.relative_to(root).as_posix()}/"
        pictures = _Pictures(folder, (base, *(f"{base}{name}/" for name in (*_FOLDERS, place.stem))))
        _gather(table, _guess(table, columns), split, pictures, gathered, notice)
    return _finish(gathered, path, root, notice)


def guess_columns(path: str | Path, columns: Columns = GUESSED) -> Columns:
    """The columns that `read_table` reads, with those guessed that `columns` does not name; of a folder's first table.

    Raises:
        DataError, BackendError: As `read_table`, of the table and its columns.
    """
    place, _ = _given_tables(Path(path))[0]
    return _guess(_open(place, _ignore), columns)


# which tables


def find_tables(folder: str | Path) -> tuple[tuple[Path, Split | None], ...]:
    """The tables of a folder, each with the split it is named after; none where there are none or too many to choose.

    These are `metadata.*`, else `train/metadata.*` and its like, else tables named after splits, else the only table.
    """
    folder = Path(folder)
    tables = _list_tables(folder)
    below = [
        (table, split)
        for inner in sorted(path for path in _list(folder) if path.is_dir())
        if (split := _split_of(inner.name)) is not None
        for table in _list_tables(inner)
        if table.stem.lower() == "metadata"
    ]
    loosely = [(table, split) for table in tables if (split := _split_within(table.stem)) is not None]
    choices: tuple[list[tuple[Path, Split | None]], ...] = (
        [(table, None) for table in tables if table.stem.lower() == "metadata"],
        [*below],
        [(table, split) for table in tables if (split := _split_of(table.stem)) is not None],
        [*loosely] if len({split for _, split in loosely}) > 1 else [],
        [(table, None) for table in tables] if len(tables) == 1 else [],
    )
    chosen = next(filter(None, choices), [])
    twice = len({table.with_suffix("") for table, _ in chosen}) < len(chosen)  # metadata.csv and metadata.jsonl
    return () if twice else tuple(chosen)


def _given_tables(path: Path) -> Sequence[tuple[Path, Split | None]]:
    if not path.is_dir():
        return ((path, _split_of(path.stem)),)
    tables = find_tables(path)
    if not tables:
        names = ", ".join(table.name for table in _list_tables(path))
        raise DataError(
            f"{path} holds {f'several tables ({names})' if names else 'no table'}; "
            f"give the path of the one to read ({', '.join(TABLE_SUFFIXES)})"
        )
    return tables


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder} ({error.strerror}); give a folder with a table in it") from error


def _list_tables(folder: Path) -> list[Path]:
    return sorted(path for path in _list(folder) if path.suffix.lower() in TABLE_SUFFIXES and path.name[0] != ".")


def _split_of(name: str) -> Split | None:
    """The split that a whole name says: `train`, `validation-00000-of-00002`."""
    try:
        return name_split(re.sub(r"-\d+-of-\d+$", "", name), name)
    except DataError:
        return None


def _split_within(name: str) -> Split | None:
    """The one split that a name has among its words: `captions_train`."""
    found = {split for word in re.findall(r"[a-z]+", name.lower()) if (split := _split_of(word)) is not None}
    return found.pop() if len(found) == 1 else None


# rows

Row = tuple[str, Sequence[Any]]  # where it is, and its cells


@dataclass(frozen=True)
class _Table:
    """A table that is open: the names of its columns, its first rows, and how to read the cells of some columns."""

    path: Path
    names: tuple[str, ...]
    sample: Sequence[Sequence[Any]]
    rows: Callable[[Sequence[int], Notice], Iterator[Row]]
    packed: frozenset[str] = frozenset()  # columns that hold pictures themselves


def _ignore(finding: Finding) -> None:
    """For first looks at a file, which is read again."""


def _open(path: Path, notice: Notice) -> _Table:
    try:
        with path.open("rb") as file:
            head = file.read(2**16)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}); check the path") from error
    for magic, what in _FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path} is {what}")
    if head.startswith(b"PAR1"):
        return _open_parquet(path)
    if path.suffix.lower() == ".parquet":
        raise DataError(f"{path} is not Parquet (it does not begin with PAR1); get the file again")
    first = head.lstrip(b"\xef\xbb\xbf\xff\xfe\0 \t\r\n")[:1]
    if path.suffix.lower() not in (".csv", ".tsv", ".txt") and first in (b"[", b"{"):
        return _open_objects(path, first == b"[")
    return _open_delimited(path, read_text(path, notice))


def _open_delimited(path: Path, text: str) -> _Table:
    if 4 * text[:1000].count("\0") > len(text[:1000]):
        raise DataError(f"{path} is not text, or UTF-16 without a byte order mark; save it as CSV (UTF-8)")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        ends = re.search(r"[\r\n]", text)  # CR ends the lines of old Macs; elsewhere it is dirt inside a cell
        text = text.replace("\r", "\n" if ends and ends[0] == "\r" else " ")
    delimiter, text = _find_delimiter(text)
    first = next(_read_records(path, text, delimiter, _ignore), None)
    names = tuple(cell.strip() for cell in first[1]) if first else ()
    if len(names) < 2:
        raise DataError(
            f"{path} begins with one column ({text.strip()[:40]!r}); a table has one of pictures and one of captions, "
            "with commas, semicolons, bars or tabs between them"
        )
    data = next((name for name in names if _is_picture(name)), None)
    if data is not None:
        raise DataError(
            f"{path} begins with a row ({data!r}), not with the names of its columns; put a first line such as "
            f"{delimiter.join(('image', 'caption'))!r} above it"
        )

    def rows(picked: Sequence[int], notice: Notice) -> Iterator[Row]:
        records = _read_records(path, text, delimiter, notice)
        next(records)
        for where, cells in records:
            if len(cells) < len(names):
                cells += [""] * (len(names) - len(cells))
            elif any(cell.strip() for cell in cells[len(names) :]):
                message = (
                    f"{where} has {len(cells)} cells, but there are {len(names)} columns; put a cell that holds "
                    f"{delimiter!r} between double quotes"
                )
                notice(Finding("row", where, message))
                continue
            yield where, [cells[index] for index in picked]

    sample = [cells for _, cells in _first_rows(lambda notice: rows(range(len(names)), notice))]
    return _Table(path, names, sample, rows)


def _find_delimiter(text: str) -> tuple[str, str]:
    """What stands between the cells, and the text with the line blanked in which Excel says so."""
    said = re.match(r"sep=(.)[ \t]*\n", text)
    if said:
        return said[1], text[said.end() - 1 :]
    lines = list(islice((line for line in _Lines(text) if line.strip()), 2))

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            widths = [len(cells) for cells in csv.reader(lines, delimiter=delimiter, skipinitialspace=True)]
        except csv.Error:  # a cell that is too long; reading says so with its line
            return False, 0
        return len(set(widths)) == 1 < widths[0], widths[0]

    return max(_DELIMITERS, key=fit), text


class _Lines:
    """The lines of a text with their ends, as an iterator that can be set back."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0
        self.number = 0
        self.ended = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        start = self.place
        if start >= len(self.text):
            self.ended = True
            raise StopIteration
        self.place = self.text.find("\n", start) + 1 or len(self.text)
        self.number += 1
        return self.text[start : self.place]


def _read_records(path: Path, text: str, delimiter: str, notice: Notice) -> Iterator[tuple[str, list[str]]]:
    """(`path:line`, cells) of each record that is not blank; the line is its first, for cells may hold line ends.

    A quote that is never closed would make one cell of all that follows, up to the next quote: it is noticed where it
    opens, and reading goes on with the next line.
    """
    lines = _Lines(text)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    while True:
        start, number = lines.place, lines.number + 1
        lines.ended = False
        cells: list[str] | None = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            several = lines.number > number
        else:
            several = lines.ended or (lines.number > number and _swallows_rows(cells, delimiter))
        where = f"{path}:{number}"
        if several:
            message = f"{where} opens a quote that nothing closes; close it, or double each quote inside a cell"
            notice(Finding("row", where, message))
            lines.place = text.find("\n", start) + 1 or len(text)
            lines.number = number
        elif cells is None:
            message = (
                f"{where} has a cell of more than {csv.field_size_limit():,} characters; at most {MAX_CAPTION:,} are "
                "accepted of a caption: cut it, or remove its column"
            )
            notice(Finding("caption", where, message))
        elif cells and (cells[0] or any(cell and not cell.isspace() for cell in cells)):
            yield where, cells


def _swallows_rows(cells: Iterable[str], delimiter: str) -> bool:
    """Whether a cell of several lines holds what looks like rows of their own."""
    return any(
        "\n" in cell and any(_is_picture(piece) for piece in re.split(f"[\n{re.escape(delimiter)}]", cell))
        for cell in cells
    )


def _open_objects(path: Path, listed: bool) -> _Table:
    def objects(notice: Notice) -> Iterator[tuple[str, dict[str, Any]]]:
        return _read_list(path, notice) if listed else read_lines(path, notice)

    first = [row for _, row in _first_rows(objects)]
    names = tuple(dict.fromkeys(name for row in first for name in row))
    if not first:
        kind = "a list of objects" if listed else "one object a line"
        raise DataError(f"{path} holds no rows; it should hold {kind}, such as {_OBJECT}")

    def rows(picked: Sequence[int], notice: Notice) -> Iterator[Row]:
        wanted = [names[index] for index in picked]
        for where, row in objects(notice):
            yield where, [row.get(name) for name in wanted]

    return _Table(path, names, [[row.get(name) for name in names] for row in first], rows)


_OBJECT = '{"image": "a.jpg", "caption": "a cat"}'


def _read_list(path: Path, notice: Notice) -> Iterator[tuple[str, dict[str, Any]]]:
    """(entry, object) of each entry of a JSON list; entries are decoded one at a time, as objects are large."""
    for number, entry in enumerate(
        read_json(path, list[msgspec.Raw], f"a list of objects ([{_OBJECT}, …])", notice), 1
    ):
        where = f"{path}, entry {number}"
        try:
            row = _decode_entry(bytes(entry), where, notice)
        except (ValueError, RecursionError) as error:
            notice(Finding("row", where, f"{where} is not JSON ({error}); write an object such as {_OBJECT}"))
            continue
        if isinstance(row, dict):
            yield where, row
        else:
            message = f"{where} is {type(row).__name__}, not an object such as {_OBJECT}"
            notice(Finding("row", where, message))


def _decode_entry(entry: bytes, where: str, notice: Notice) -> Any:
    try:
        return msgspec.json.decode(entry)
    except UnicodeDecodeError:
        row = msgspec.json.decode(entry.decode("cp1252", "replace"))
        message = f"{where} is not UTF-8; it was read as cp1252: save the file as UTF-8"
        notice(Finding("encoding", where, message, False))
        return row


def _open_parquet(path: Path) -> _Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendError(f"{path} is Parquet, which needs pyarrow; run: pip install 'showtell[parquet]'") from error
    troubles = (OSError, ValueError, KeyError, pyarrow.ArrowException)

    def damaged(error: Exception) -> DataError:
        return DataError(f"{path} is not Parquet that can be read ({str(error).splitlines()[0]}); get the file again")

    try:
        kinds = {field.name: str(field.type) for field in parquet.read_schema(path)}
    except troubles as error:
        raise damaged(error) from error
    names = tuple(kinds)

    def rows(picked: Sequence[int], notice: Notice, batch_rows: int = _BATCH) -> Iterator[Row]:
        wanted = [names[index] for index in picked]
        number = 0
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_rows, columns=wanted):
                    for cells in zip(*(batch.column(name).to_pylist() for name in wanted), strict=True):
                        number += 1
                        yield f"{path}, row {number}", cells
        except troubles as error:
            raise damaged(error) from error

    packed = frozenset(name for name, kind in kinds.items() if "binary" in kind)
    light = [place for place, name in enumerate(names) if name not in packed]
    sample = []
    for _, cells in _first_rows(lambda notice: rows(light, notice, _SAMPLE)) if light else ():
        by_place = dict(zip(light, cells, strict=True))
        sample.append([by_place.get(place) for place in range(len(names))])
    return _Table(path, names, sample, rows, packed)


_T = TypeVar("_T")


def _first_rows(read: Callable[[Notice], Iterator[tuple[str, _T]]]) -> list[tuple[str, _T]]:
    """The first rows, to guess from.

    Raises:
        DataError: There are rows, and not one can be read.
    """
    found: list[Finding] = []
    rows = list(islice(read(found.append), _SAMPLE))
    if not rows and found:
        raise DataError(found[0].message)
    return rows


# which columns


def _guess(table: _Table, given: Columns) -> Columns:
    if not table.sample and not table.packed:
        raise DataError(f"{table.path} has no row below the names of its columns ({_shown(table.names)}); get it again")
    image = given.image and _named(table, given.image)
    captions = tuple(dict.fromkeys(_named(table, name) for name in given.captions))
    split = given.split and _named(table, given.split)
    split = split or _guess_split(table, {image, *captions})
    image = image or _guess_image(table, {split, *captions})
    if image in table.packed:
        raise DataError(
            f"{table.path} holds the pictures themselves in {image!r}, not their paths; write them to files and name a "
            "column of their paths (--columns image=NAME)"
        )
    captions = captions or _guess_captions(table, {image, split})
    if image in captions:
        raise DataError(f"the column {image!r} of {table.path} cannot hold both pictures and captions; name another")
    if image and table.names.count(image) > 1:
        raise DataError(f"{table.path} has {table.names.count(image)} columns {image!r}; give each a name of its own")
    return replace(given, image=image, captions=captions, split=split or None)


def _shown(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _named(table: _Table, wanted: str) -> str:
    if wanted in table.names:
        return wanted
    alike = [name for name in table.names if name.lower() == wanted.strip().lower()]
    if len(alike) == 1:
        return alike[0]
    close = difflib.get_close_matches(wanted, table.names, 1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise DataError(f"{table.path} has no column {wanted!r}; its columns are {_shown(table.names)}{hint}")


def _open_columns(table: _Table, taken: set[str | None]) -> Iterator[tuple[str, list[Any]]]:
    """(name, cells of the sample that are not empty) of each column that is not taken."""
    for place, name in enumerate(table.names):
        if name and name not in taken and name not in table.packed:
            yield name, [cells[place] for cells in table.sample if not _is_empty(cells[place])]


def _guess_split(table: _Table, taken: set[str | None]) -> str | None:
    """A column called `split`, or one of a vaguer name in which most cells are names of splits."""
    columns = {_plain(name): (name, cells) for name, cells in _open_columns(table, taken)}
    for wanted in _SPLIT_NAMES:
        name, cells = columns.get(wanted, ("", []))
        known = sum(_split_of(str(cell)) is not None for cell in cells)
        if name and (wanted == "split" or 2 * known > len(cells)):
            return name
    return None


def _guess_image(table: _Table, taken: set[str | None]) -> str:
    """The column that holds paths of pictures, else one that is called so."""
    ranked = []
    addresses = None
    for name, cells in _open_columns(table, taken):
        if cells and all(isinstance(cell, str) and "://" in cell for cell in cells):
            addresses = addresses or name
            continue
        paths = sum(map(_is_picture, cells))
        known = _plain(name) in _IMAGE_NAMES
        if 2 * paths > len(cells) or (known and not any(isinstance(cell, list | dict) for cell in cells)):
            rank = _IMAGE_NAMES.index(_plain(name)) if known else len(_IMAGE_NAMES)
            ranked.append((2 * paths <= len(cells), rank, -paths, name))
    if ranked:
        return min(ranked)[-1]
    if table.packed:
        return next(iter(sorted(table.packed)))
    trouble = (
        f"holds web addresses in {addresses!r}, not paths; download the pictures and name a column of their paths"
        if addresses
        else f"has no column that looks like paths of pictures; its columns are {_shown(table.names)}: name one"
    )
    raise DataError(f"{table.path} {trouble} (--columns image=NAME)")


def _guess_captions(table: _Table, taken: set[str | None]) -> tuple[str, ...]:
    """The columns that are called captions or the like, else the one with the most words in a cell."""
    counts = {name: _count_words(cells) for name, cells in _open_columns(table, taken)}
    words = {name: count for name, count in counts.items() if count}
    for pattern in _CAPTION_NAMES:
        if named := _fitting(words, pattern):
            return named
    if words:
        return (max(words, key=lambda name: words[name]),)
    if named := _fitting(counts, _CAPTION_NAMES[0]):  # its cells will be complained of, each with its line
        return named
    raise DataError(
        f"{table.path} has no column that looks like captions; its columns are {_shown(table.names)}: name one "
        "(--columns caption=NAME)"
    )


def _fitting(names: Iterable[str], pattern: str) -> tuple[str, ...]:
    return tuple(name for name in names if re.fullmatch(rf"{pattern}_?\d*", _plain(name)))


def _count_words(cells: Sequence[Any]) -> float:
    """Words in a cell on average; none for numbers, paths and addresses."""
    texts = [str(cell) for cell in cells if isinstance(cell, str | list)]
    texts = [text for text in texts if not _is_picture(text) and "://" not in text and any(map(str.isalpha, text))]
    return sum(len(tokenise(text[:MAX_CAPTION])) for text in texts) / len(cells) if texts else 0


def _is_picture(cell: Any) -> bool:
    return isinstance(cell, str) and split_suffix(cell.strip())[1] in PICTURE_SUFFIXES and "://" not in cell


def _is_empty(cell: Any) -> bool:
    return cell is None or cell != cell or (isinstance(cell, str) and (not cell or cell.isspace()))


# pictures and captions


class _Pictures:
    """The cells of one table -> the pictures of a folder, below any of some places in it."""

    def __init__(self, folder: PictureFolder, places: Sequence[str]) -> None:
        self._folder = folder
        self._places = places
        self._roots = [path.as_posix().rstrip("/") + "/" for path in (folder.root.absolute(), folder.root.resolve())]
        self._stems: dict[str, dict[str, list[str]]] = {}  # folder -> stem -> pictures

    def find(self, name: str, where: str) -> tuple[str, str] | None:
        """(id, source) of the picture that a cell names, or None where there is none.

        Raises:
            DataError: The cell is no path inside the folder, or fits two pictures.
        """
        plain = name.replace("\\", "/")
        root = next((root for root in self._roots if plain.startswith(root)), None)
        if root is None and plain.startswith("/"):
            raise DataError(
                f"{where} names {name!r}, which is not inside {self._folder.root}; name the folder that the pictures "
                "are in (--pictures DIR)"
            )
        relative = str(inside(plain[len(root) :] if root else name, where, self._folder.root))
        bare = not _is_picture(name)
        for place in ("",) if root else self._places:
            path = place + relative
            if bare:
                path = self._complete(path, where)
            source = self._folder.find(path)
            if source is not None:
                return name if name == path else path, source  # one string of the two, for memory
        return None

    def _complete(self, path: str, where: str) -> str:
        """The path with the suffix of the picture of that stem; as it is where there is none."""
        parent, slash, stem = path.rpartition("/")
        if parent not in self._stems:
            folder = self._folder.root / parent
            self._stems[parent] = {}
            for name in sorted(inner.name for inner in folder.iterdir()) if folder.is_dir() else ():
                if _is_picture(name):
                    self._stems[parent].setdefault(split_suffix(name)[0], []).append(name)
        fitting = self._stems[parent].get(stem, [])
        if len(fitting) > 1:
            raise DataError(f"{where} names {path!r}, which may be {' or '.join(fitting)}; write the suffix")
        return f"{parent}{slash}{fitting[0]}" if fitting else path


@dataclass
class _Gathered:
    """What the rows so far gave."""

    examples: dict[str, Example] = field(default_factory=dict)  # each with the captions of its first row
    more: dict[str, list[str]] = field(default_factory=dict)  # those of its other rows
    missing: dict[str, str] = field(default_factory=dict)  # pictures that are not there, and where they are first named

    def add(self, example: Example, whole: bool, where: str) -> Finding | None:
        """Adds a row, or says why it cannot be.

        Args:
            whole: The row holds all captions of its picture.
        """
        earlier = self.examples.get(example.id)
        if earlier is None:
            self.examples[example.id] = example
            return None
        if earlier.split != example.split:
            if earlier.split and example.split:
                first = f"in {example.split}, and earlier in {earlier.split}"
                return Finding("split", where, f"{where} lists {example.id!r} {first}; a picture has one split")
            self.examples[example.id] = replace(earlier, split=earlier.split or example.split)
        if whole:
            trouble = "a second time; a row with several captions holds all of its picture: make one row of the two"
            return Finding("repeated-picture", where, f"{where} lists {example.id!r} {trouble}")
        self.more.setdefault(example.id, []).extend(example.references)
        return None


def _gather(
    table: _Table, columns: Columns, split: Split | None, pictures: _Pictures, gathered: _Gathered, notice: Notice
) -> None:
    picked = [table.names.index(columns.image or "")]
    picked += [place for place, name in enumerate(table.names) if name in columns.captions]
    several = len(picked) > 2
    end = len(picked)
    if columns.split:
        picked.append(table.names.index(columns.split))
    known: dict[str, str] = {}  # the id of the picture that a cell names, once it has an example
    missing: set[str] = set()
    for where, cells in table.rows(picked, notice):
        name = _name(cells[0])
        if name in missing:
            continue
        kind = "path"
        try:
            picture = (known[name], None) if name in known else pictures.find(name, where)
            if picture is None:
                missing.add(name)
                gathered.missing.setdefault(name, where)
                continue
            kind = "caption"
            captions = _read_captions(cells[1:end], where)
            kind = "split"
            own = name_split(cells[end], where) if columns.split and not _is_empty(cells[end]) else split
        except DataError as error:
            notice(Finding(kind, where, str(error)))
            continue
        known[name], source = picture
        trouble = gathered.add(Example(picture[0], source, captions, own), several or len(captions) > 1, where)
        if trouble:
            notice(trouble)


def _name(cell: Any) -> str:
    """The picture that a cell names, empty where it is none; ids that are numbers are names without a suffix."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else ""


def _read_captions(cells: Sequence[Any], where: str) -> tuple[str, ...]:
    captions = []
    for cell in cells:
        if isinstance(cell, str) and not cell.startswith(("['", '["')):
            if cell and not cell.isspace():
                captions.append(check_caption(cell, where))
        else:
            captions += [check_caption(caption, where) for caption in _unpack(cell)]
    if not captions:
        raise DataError(f"{where} has no caption; write one, or remove the row")
    return tuple(captions)


def _unpack(cell: Any) -> Sequence[Any]:
    """The captions of a cell that is a list, or a list written as text; else the cell; nothing that is empty."""
    if isinstance(cell, str):
        cell = _unpack_text(cell)
    if isinstance(cell, list):
        return [inner for inner in cell if not _is_empty(inner)]
    return () if _is_empty(cell) else (cell,)


def _unpack_text(cell: str) -> Any:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        pass
    if not _LIST.fullmatch(cell):
        return cell
    return [
        re.sub(r"\\(.)", r"\1", quoted[1:-1].replace("\\n", " ")) for quoted in re.findall(_QUOTED, cell, re.DOTALL)
    ]


def _finish(gathered: _Gathered, path: Path, root: Path, notice: Notice) -> list[Example]:
    missing = gathered.missing
    total = len(gathered.examples) + len(missing)
    names = _shown(list(missing)[:3]) + (", …" if len(missing) > 3 else "")
    if not gathered.examples:
        if missing:
            raise DataError(
                f"none of the {total:,} pictures that {path} names is in {root} ({names}; first at "
                f"{next(iter(missing.values()))}); name the folder that they are in (--pictures DIR)"
            )
        raise DataError(f"{path} has no row that can be used; it needs a picture and a caption in each")
    if missing:
        where = next(iter(missing.values()))
        message = (
            f"{len(missing):,} of the {total:,} pictures that {path} names are not in {root} ({names}; first at "
            f"{where}); they are left out"
        )
        notice(Finding("missing-picture", where, message, False))
    for name, captions in gathered.more.items():
        example = gathered.examples[name]
        gathered.examples[name] = replace(example, references=(*example.references, *captions))
    examples = list(gathered.examples.values())
    _notice_repeated(examples, path, notice)
    return _fill_splits(examples, path, notice)


def _notice_repeated(examples: Sequence[Example], path: Path, notice: Notice) -> None:
    repeated = [example for example in examples if len(set(example.references)) < len(example.references)]
    if repeated:
        first = repeated[0]
        twice, _ = Counter(first.references).most_common(1)[0]
        message = (
            f"{path} gives {len(repeated):,} of {len(examples):,} pictures the same caption more than once "
            f"({first.id!r}: {twice[:60]!r}); remove the rows that are there twice"
        )
        notice(Finding("caption", str(path), message, False))


def _fill_splits(examples: list[Example], path: Path, notice: Notice) -> list[Example]:
    """Pictures without a split are `train` where others name theirs, as in the native layout."""
    without = [example.id for example in examples if example.split is None]
    if not without or len(without) == len(examples):
        return examples
    message = (
        f"{path} names no split for {len(without):,} of {len(examples):,} pictures ({_shown(without[:3])}); they are "
        "read as train: fill the cells"
    )
    notice(Finding("split", str(path), message, False))
    return [example if example.split else replace(example, split="train") for example in examples]
