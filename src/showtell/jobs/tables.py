"""What was said of pictures -> a table in a file, row by row, and back: JSON lines, CSV or Parquet.

    captions.jsonl      {"image": "photos/a.jpg", "caption": "a dog", "logprob": -3.1, "words": […]} or
                        {"image": "photos/b.jpg", "error": "photos/b.jpg is empty (0 bytes); get the file again"}
    captions.csv        image, caption, logprob, error; the best caption alone
    captions.parquet    the same columns and words, word_logprobs (lists), in groups of 4,096 rows

Bytes of a name that are no UTF-8 are written as `\\udcXX`.
A table may also be a folder of parts: see `showtell.jobs.parts`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from showtell.datasets.native import read_lines
from showtell.errors import BackendError, ConfigError, DataError
from showtell.partitions import list_parts
from showtell.records import Caption, Failure

SUFFIXES = (".jsonl", ".csv", ".parquet")

Rows = Iterable[tuple[str, dict[str, Any]]]  # (image, `Caption.to_json` or `Failure.to_json` without the image)

_GROUP = 4096  # rows of Parquet written at once
_COLUMNS = ("image", "caption", "logprob", "error")


def check_table(path: Path) -> None:
    """Nothing, where a table of this name can be written as far as its suffix goes.

    Raises:
        ConfigError: It is of no known format.
        BackendError: pyarrow is missing.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"--out is {str(path)!r}; accepted are names that end in {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as error:
            raise BackendError(
                f"{path} is Parquet, which needs pyarrow; run: pip install 'showtell[parquet]'"
            ) from error


def write_table(path: Path, rows: Rows) -> None:
    """Writes a table that is there as a whole or not at all, in the format that its suffix names."""
    write = {".jsonl": _write_jsonl, ".csv": _write_csv, ".parquet": _write_parquet}[path.suffix.lower()]
    partial = path.with_name(f"{path.name}.tmp")
    try:
        write(partial, rows)
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def read_table(path: Path) -> Iterator[Caption | Failure]:
    """What a table, or a folder of parts, says of each picture; what has no probability gets NaN.

    Raises:
        ConfigError: It is of no known format.
        BackendError: pyarrow is missing.
        DataError: It is missing, broken or unfinished, or a row has neither caption nor error.
    """
    if path.is_dir():
        for part in list_parts(path):
            yield from read_table(part)
        return
    read = {".jsonl": read_lines, ".csv": _read_csv, ".parquet": _read_parquet}.get(path.suffix.lower())
    if read is None:
        raise ConfigError(f"{path} is no table of captions; accepted are names that end in {', '.join(SUFFIXES)}")
    for where, row in read(path):
        yield _result(row, where)


def plain(text: str) -> str:
    """A text that every program can read, also where it holds bytes of a name that are no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()


def _write_jsonl(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, said in rows:
            file.write(json.dumps({"image": plain(name), **said}, ensure_ascii=False) + "\n")
        _settle(file)


def _write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        for name, said in rows:
            table.writerow([plain(name), *(said.get(column, "") for column in _COLUMNS[1:])])
        _settle(file)


def _write_parquet(path: Path, rows: Rows) -> None:
    import pyarrow
    from pyarrow import parquet

    text, number = pyarrow.string(), pyarrow.float64()
    kinds = [text, text, number, text, pyarrow.list_(text), pyarrow.list_(number)]
    names = [*_COLUMNS, "words", "word_logprobs"]
    schema = pyarrow.schema(list(zip(names, kinds, strict=True)))
    with path.open("wb") as file:
        with parquet.ParquetWriter(file, schema) as table:
            for group in _groups(rows):
                columns: list[list[Any]] = [[plain(name) for name, _ in group]]
                columns += [[said.get(column) for _, said in group] for column in _COLUMNS[1:]]
                for part in ("word", "logprob"):
                    columns.append([_words(said, part) for _, said in group])
                arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
                table.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
        _settle(file)


def _groups(rows: Rows) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    remaining = iter(rows)
    while group := list(islice(remaining, _GROUP)):
        yield group


def _words(said: dict[str, Any], part: str) -> list[Any] | None:
    return [word[part] for word in said["words"]] if "words" in said else None


def _settle(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _read_csv(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            table = csv.DictReader(file)
            for row in table:
                yield f"{path}:{table.line_num}", {name: cell for name, cell in row.items() if cell and name}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _unread(path, error) from error


def _read_parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise BackendError(f"{path} is Parquet, which needs pyarrow; run: pip install 'showtell[parquet]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for group in table.iter_batches(_GROUP):
                for row in group.to_pylist():
                    number += 1
                    words, logprobs = row.pop("words", None), row.pop("word_logprobs", None)
                    if words and logprobs and len(words) == len(logprobs):
                        row["words"] = [
                            {"word": word, "logprob": value} for word, value in zip(words, logprobs, strict=True)
                        ]
                    yield f"{path}, row {number}", {name: cell for name, cell in row.items() if cell is not None}
    except (OSError, pyarrow.ArrowException) as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
    return DataError(f"cannot read {path} ({reason}); give a table that showtell batch has written")


def _result(row: dict[str, Any], where: str) -> Caption | Failure:
    image, caption, error = row.get("image"), row.get("caption"), row.get("error")
    if not isinstance(image, str) or not isinstance(caption if error is None else error, str):
        raise DataError(f'{where} lacks "image" or "caption"; give a table that showtell batch has written')
    if error is not None:
        return Failure(image, str(error))
    try:
        words = [(str(one["word"]), float(one["logprob"])) for one in row.get("words", ())]
        logprob = float(row.get("logprob", math.nan))
        sure = None if row.get("confidence") is None else float(row["confidence"])
    except (KeyError, TypeError, ValueError) as broken:
        raise DataError(
            f'{where} has "words", "logprob" or "confidence" that are no numbers; leave them out, or mend them'
        ) from broken
    said, logprobs = (tuple(column) for column in zip(*words, strict=True)) if words else ((), ())
    return Caption(image, str(caption), logprob, said, logprobs, confidence=sure)
