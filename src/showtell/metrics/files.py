"""Files of captions -> `{image id: caption}` to score, or `{image id: [captions]}` to score against.

Accepted, by content (ids become strings):
    [{"image_id": 42, "caption": "…"}, …]                        COCO results
    {"annotations": [{"image_id": 42, "caption": "…"}, …], …}    COCO annotations
    {"images": [{"filename": "a.jpg", "split": "test", "sentences": [{"raw": "…"}, …]}, …]}    Karpathy's splits
    {"a.jpg": "…"} or {"a.jpg": ["…", …]}                        plain
    {"image": "a.jpg", "caption": "…"} a line                    what `showtell caption --json` prints
    {"image": "a.jpg", "captions": ["…", …]} a line              the native captions.jsonl
    image,caption above lines of a.jpg,…                         CSV and TSV; Kaggle's Flickr8k and Flickr30k
    a.jpg#0<TAB>… a line                                         Flickr8k.token.txt
    Parquet with `image` and `caption` or `captions`, and folders of parts   what `showtell batch` writes
Columns of a table may have other names (`_IMAGE`, `_CAPTION`), there may be several of captions, a picture may have
several rows, and a cell may hold a list. A row with `error` in place of a caption is refused: counting it as an empty
caption would punish the captioner for a broken file, and leaving it out would score fewer pictures than the references
name without saying so.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from showtell.errors import BackendError, ConfigError, DataError
from showtell.partitions import holds_job, list_parts
from showtell.records import Split

_Rows = Iterator[tuple[str, Mapping[str, Any]]]  # (where, what it holds under the names of the JSON forms)

_ACCEPTED = (
    'accepted are COCO results or annotations, Karpathy\'s splits, {"id": "caption"}, JSONL lines with "image" and '
    '"caption" or "captions", CSV or TSV with such columns, and lines `name.jpg#0<TAB>caption`'
)
_IMAGE = ("image", "image_id", "image_name", "file_name", "filename", "path", "id")  # the first that is there
_CAPTION = ("caption", "captions", "text", "sentence", "comment")
_DELIMITERS = ",\t|;"
_PICTURE = re.compile(r"\.(?:jpe?g|png|webp|gif|bmp|tiff?)\s*$", re.IGNORECASE)
_COCO_NAME = re.compile(r"COCO_[a-z]+\d{4}_(\d+)")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST = re.compile(rf"\[[\s,]*(?:(?:{_QUOTED})[\s,]*)+\]")
_SPLITS: dict[str, Split] = {
    "train": "train", "training": "train", "restval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip


def read_candidates(path: str | Path) -> dict[str, str]:
    """One caption a picture.

    Raises:
        DataError: The file is missing, empty, broken or of another form, a picture has several captions, or a row
            carries an error instead of a caption.
    """
    found: dict[str, str] = {}
    for where, image, captions, _ in _rows(Path(path)):
        if len(captions) != 1 or image in found:
            raise DataError(
                f"{where} gives {image!r} {'no' if not captions else 'more than one'} caption; a file of candidates "
                "has one a picture"
            )
        found[image] = captions[0]
    return found


def read_references(path: str | Path, split: str | None = None) -> dict[str, list[str]]:
    """The captions that people wrote of each picture, in the order of the file.

    Args:
        split: Take only the pictures of `train`, `val` or `test`. The native layout says which is which, Karpathy's
            splits do, and a table with a column `split`. Other names of the three count too (`restval` is train, `dev`
            is val). As in the native layout, what names no split is train.

    Raises:
        DataError: The file is missing, empty, broken or of another form, a picture has an empty list, or no picture is
            of the split.
        ConfigError: There is no such split.
    """
    wanted = None if split is None else _SPLITS.get(split.strip().lower())
    if split is not None and wanted is None:
        raise ConfigError(f"unknown split {split!r}; accepted are train, val and test")
    found: dict[str, list[str]] = {}
    rows: Counter[Split | None] = Counter()
    for where, image, captions, named in _rows(Path(path)):
        if not captions:
            raise DataError(f"{where} gives {image!r} no caption; each picture needs one or more references")
        if wanted is not None:
            its = _name_split(named, where)
            rows[its] += 1
            if (its or "train") != wanted:
                continue
        found.setdefault(image, []).extend(captions)
    if found:
        return found
    if rows.keys() == {None}:
        raise DataError(f"{path} does not say which split its pictures are in; score against all, without a split")
    there = ", ".join(f"{name or 'none, as train'} ({count:,})" for name, count in rows.items())
    raise DataError(f"{path} has no picture of split {wanted!r}; its rows are of {there}: choose one of these")


def _name_split(name: object, where: str) -> Split | None:
    if name is None or name == "":
        return None
    split = _SPLITS.get(str(name).strip().lower())
    if split is None:
        raise DataError(f"{where} has split {name!r}; accepted are {', '.join(_SPLITS)}")
    return split


def match_ids(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The candidates under the references' ids.

    When not one id is on both sides, ids are matched by file stem: `photos/a.jpg` is `a.png`, and a stem of digits is
    its number, so that COCO's 139 is `000000000139.jpg` and `COCO_val2014_000000000139.jpg`.

    Raises:
        DataError: Ids would be matched by stem, but two of one side share a stem.
    """
    if not candidates.keys().isdisjoint(references):
        return dict(candidates)
    ours, theirs = _stems(candidates), _stems(references)
    if ours.keys().isdisjoint(theirs):
        return dict(candidates)
    for side, ids, stems in (("candidates", candidates, ours), ("references", references, theirs)):
        if len(stems) < len(ids):
            twice = next(image for image in ids if stems[_stem(image)] != image)
            raise DataError(
                f"{twice!r} and {stems[_stem(twice)]!r} of the {side} have one file name, so they cannot be "
                "told apart; use the same ids for candidates and references"
            )
    return {theirs.get(stem, image): candidates[image] for stem, image in ours.items()}


def _stems(ids: Mapping[str, object]) -> dict[str, str]:
    return {_stem(image): image for image in ids}


def _stem(image: str) -> str:
    stem = PurePosixPath(image.replace("\\", "/")).stem
    if named := _COCO_NAME.fullmatch(stem):
        stem = named[1]
    return stem.lstrip("0") or "0" if stem.isascii() and stem.isdigit() else stem


def _rows(path: Path) -> Iterator[tuple[str, str, list[str], object]]:
    """(where, image id, captions, split) of each entry."""
    failed: list[str] = []
    none = True
    for where, row in _objects(path):
        none = False
        image = _image(row, where)
        if "error" in row and "caption" not in row and "captions" not in row:
            failed.append(f"{image!r} at {where}")
            continue
        captions = row.get("captions", [row["caption"]] if "caption" in row else None)
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"{where} has no caption of {image!r} that is text; {_ACCEPTED}")
        yield where, image, captions, row.get("split")
    if failed:
        many = "1 picture has" if len(failed) == 1 else f"{len(failed)} pictures have"
        raise DataError(
            f"{many} an error instead of a caption ({', '.join(failed[:3])}{', …' if len(failed) > 3 else ''}); "
            "mend and caption them again, or take them out of the candidates and the references"
        )
    if none:
        raise DataError(f"{path}:1 holds no captions; {_ACCEPTED}")


def _image(row: Mapping[str, Any], where: str) -> str:
    key = next((key for key in ("image", "image_id") if key in row), None)
    if key is None:
        raise DataError(f'{where} has no "image" or "image_id"; {_ACCEPTED}')
    image = row[key]
    if not isinstance(image, str | int) or isinstance(image, bool) or image == "":
        raise DataError(f"{where} names its picture {str(image)[:40]!r}; an id is text or a whole number")
    return str(image)


def _objects(path: Path) -> _Rows:
    if holds_job(path):
        for part in list_parts(path):
            yield from _objects(part)
    elif path.suffix.lower() == ".parquet":
        yield from _parquet(path)
    else:
        yield from _text_objects(path)


def _parquet(path: Path) -> _Rows:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendError(f"{path} is Parquet, which needs pyarrow; run: pip install 'showtell[parquet]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            rows = (row for group in table.iter_batches() for row in group.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"{path}, row {number}", {name: cell for name, cell in row.items() if cell is not None}
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"cannot read {path} ({str(error).partition(chr(10))[0]}); {_ACCEPTED}") from error


def _text_objects(path: Path) -> _Rows:
    text = _read(path)
    sign = re.compile(r"\S")
    start = sign.search(text)
    if start is None:
        raise DataError(f"{path}:1 is empty; {_ACCEPTED}")
    end = text.find("\n", start.start()) + 1 or len(text)
    first = text[start.start() : end]
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        return _lines(path, text)
    if suffix == ".json" or (suffix not in (".csv", ".tsv") and first[0] in "{["):
        several = sign.search(text, end) is not None
        return _lines(path, text) if several and _looks_like_line(first) else _json(path, text)
    return _table(path, text, first) if _split_token(first) is None else _token_lines(path, text)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_ACCEPTED}") from error


# JSON


def _json(path: Path, text: str) -> _Rows:
    content = _parse(text, path, 1)
    if _names_image(content):
        yield f"{path}:1", content
        return
    if isinstance(content, dict):
        rows, pictures = content.get("annotations"), content.get("images")
        if not isinstance(rows, list):
            if isinstance(pictures, list) and pictures and isinstance(pictures[0], dict):
                yield from _karpathy(path, pictures)
            else:
                yield from _plain(path, content)
            return
        content = rows
    if not isinstance(content, list):
        raise DataError(f"{path}:1 is {type(content).__name__}, not captions; {_ACCEPTED}")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number}, is {type(row).__name__}, not an object; {_ACCEPTED}")
        yield f"{path}, entry {number},", row


def _plain(path: Path, content: Mapping[str, Any]) -> _Rows:
    for image, captions in content.items():
        yield (
            f"{path}, entry {image!r},",
            {"image": image, "captions": [captions] if isinstance(captions, str) else captions},
        )


def _karpathy(path: Path, pictures: Sequence[Any]) -> _Rows:
    for number, picture in enumerate(pictures, 1):
        where = f"{path}, image {number},"
        try:
            captions = [sentence["raw"] for sentence in picture["sentences"]]
            row = {"image": picture["filename"], "captions": captions, "split": picture.get("split")}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f'{where} has no "filename" and "sentences" with "raw" ({error!r}); {_ACCEPTED}') from error
        yield where, row


def _looks_like_line(text: str) -> bool:
    try:
        return _names_image(json.loads(text))
    except (ValueError, RecursionError):
        return False


def _names_image(content: object) -> bool:
    return isinstance(content, dict) and ("image" in content or "image_id" in content)


def _lines(path: Path, text: str) -> _Rows:
    for number, line in enumerate(io.StringIO(text), 1):
        if line.isspace():
            continue
        row = _parse(line.rstrip("\n"), path, number)
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number} is {type(row).__name__}, not an object; {_ACCEPTED}")
        yield f"{path}:{number}", row


class _TwiceError(ValueError):
    """A key that an object has twice, of which plain reading forgets the first."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise DataError(f"{path}:{at} is not JSON ({error.msg}, column {error.colno}); {_ACCEPTED}") from error
    except _TwiceError as error:
        raise DataError(
            f"{path}, from line {line} on, has {str(error)[:80]!r} twice in one object; a picture has one entry and an "
            "entry one value of each name: remove one"
        ) from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}:{line} is not JSON that can be read ({error}); {_ACCEPTED}") from error


# lines of text


def _token_lines(path: Path, text: str) -> _Rows:
    for number, line in enumerate(io.StringIO(text), 1):
        if line.isspace():
            continue
        parts = _split_token(line)
        if parts is None:
            raise DataError(f"{path}:{number} is not `name.jpg#0<TAB>caption`; mend the line or remove it")
        yield f"{path}:{number}", {"image": parts[0], "caption": parts[1]}


def _split_token(line: str) -> tuple[str, str] | None:
    key, tab, caption = line.partition("\t")
    name, _, index = key.strip().rpartition("#")
    return (name, caption.strip()) if tab and name and index.isdecimal() else None


def _table(path: Path, text: str, first: str) -> _Rows:
    delimiter, names = _read_header(path, first)
    image, split = _columns(names, _IMAGE)[0], _columns(names, ("split",))
    columns = _columns(names, _CAPTION)
    records = _records(path, text, delimiter)
    next(records)
    for number, cells, line in records:
        where = f"{path}:{number}"
        cells = _fit(cells, line, delimiter, names, where)
        captions = [caption for column in columns for caption in _captions(cells[column].strip())]
        if len(columns) > 1:  # not every picture has as many
            captions = list(filter(None, captions))
        yield (
            where,
            {"image": cells[image].strip(), "captions": captions, "split": cells[split[0]] if split else None},
        )


def _read_header(path: Path, first: str) -> tuple[str, list[str]]:
    """The delimiter, and the names of the columns in lower case."""
    headers = {}
    for delimiter in _DELIMITERS:
        with suppress(csv.Error):  # too long for a header
            cells = next(csv.reader([first], delimiter=delimiter, skipinitialspace=True))
            headers[delimiter] = [cell.strip().lower() for cell in cells]
    for delimiter, names in headers.items():
        if _columns(names, _IMAGE) and _columns(names, _CAPTION):
            return delimiter, names
    names = max(headers.values(), key=len, default=[first])
    raise DataError(
        f"{path}:1 has the columns {_shown(names)}, none of which names the "
        f"{'captions' if _columns(names, _IMAGE) else 'picture'}; call one {_either(_IMAGE)} and one "
        f"{_either(_CAPTION)}, or give another form: {_ACCEPTED}"
    )


def _shown(names: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in names[:12]) + (", …" if len(names) > 12 else "")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _columns(names: Sequence[str], accepted: Sequence[str]) -> list[int]:
    """Where the first accepted name stands, alone or with numbers: `caption_1`, `caption_2`."""
    for name in accepted:
        pattern = re.compile(rf"{name}[ _-]?\d*")
        if found := [column for column, there in enumerate(names) if pattern.fullmatch(there)]:
            return found
    return []


class _PhysicalLines:
    """The lines of a text for csv, which asks for another one within quotes or for the next record only."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.number = 0
        self.line = ""
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        for self.number, self.line in enumerate(io.StringIO(self._text), 1):  # noqa: B020
            yield self.line
        self.ended = True


def _records(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str], str]]:
    """(number of the first line, cells, last line) of each record that is not blank."""
    lines = _PhysicalLines(text)
    if delimiter == "|":  # Kaggle's Flickr30k quotes nothing
        reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, skipinitialspace=True)
    else:
        reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    while True:
        number, cells = lines.number + 1, None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if lines.number == number:
                raise DataError(
                    f"{path}:{number} has a cell that is too long ({error}); cut it, or write the captions as JSON"
                ) from error
        if cells is None or lines.ended or (lines.number > number and _swallows(cells, delimiter)):
            raise DataError(
                f"{path}:{number} opens a quote that nothing closes; close it, or double each quote inside a cell"
            )
        if any(cell and not cell.isspace() for cell in cells):
            yield number, cells, lines.line.rstrip("\n")


def _swallows(cells: Sequence[str], delimiter: str) -> bool:
    """Whether a cell of several lines holds what looks like rows of their own."""
    later = (line for cell in cells for line in cell.split("\n")[1:])
    return any(_PICTURE.search(piece) for line in later for piece in line.split(delimiter))


def _fit(cells: list[str], line: str, delimiter: str, names: Sequence[str], where: str) -> list[str]:
    """As many cells as there are columns."""
    last = len(names) - 1
    if len(cells) > len(names) and _columns(names, _CAPTION)[-1] == last:  # a caption with commas, without quotes
        pieces = line.split(delimiter, last)
        if [piece.strip() for piece in pieces[:last]] == [cell.strip() for cell in cells[:last]]:
            return pieces
    if delimiter == "|" and len(cells) == last == 2:  # a line of Flickr30k is `2199200615.jpg| 4   A dog runs …`
        number, _, caption = cells[1].strip().partition(" ")
        if number.isdecimal() and caption:
            return [cells[0], number, caption]
    if len(cells) != len(names):
        raise DataError(
            f"{where} does not have {len(names)} cells ({_shown(names)}) but {len(cells)}; put a caption that holds "
            f"{delimiter!r} between double quotes, and double the quotes inside it"
        )
    return cells


def _captions(cell: str) -> list[str]:
    """The captions of a cell, which may be a list as JSON, Python or NumPy print it."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return [cell]
    found: object = None
    with suppress(ValueError, RecursionError):
        found = json.loads(cell)
    if found is None and _LIST.fullmatch(cell):
        with suppress(ValueError, SyntaxError):
            found = [ast.literal_eval(quoted) for quoted in re.findall(_QUOTED, cell)]
    return found if isinstance(found, list) and found and all(isinstance(text, str) for text in found) else [cell]
