"""Files of captions as people have them -> text, lines and JSON; names of pictures -> the pictures inside a folder.

Readers hand what is wrong to a `Notice`. The one that `read_data` uses by default (`refuse`) raises the first finding
that breaks training as a `DataError`; `showtell data inspect` collects them all, and the reader goes on without the
line.
"""

from __future__ import annotations

import codecs
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeVar

import msgspec

from showtell.archives import join_member, list_members, read_member, split_member
from showtell.errors import DataError
from showtell.records import SPLITS, Finding, Split

Notice = Callable[[Finding], None]
T = TypeVar("T")

MAX_BYTES = 4 * 2**30  # of a file of captions
_TOLD = 20  # lines of a file in a wrong encoding that are named one by one
MAX_CAPTION = 10_000  # characters; no caption that people write is as long
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "restval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_log = logging.getLogger("showtell")


def refuse(finding: Finding) -> None:
    """Raises what breaks training, and logs the rest."""
    if finding.breaks:
        raise DataError(finding.message)
    _log.warning(finding.message)


# text


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, or of a member of a zip (`archive.zip!member`).

    Raises:
        DataError: It cannot be read.
    """
    packed = split_member(str(path))
    if packed is not None and not Path(path).exists():
        return read_member(*packed, MAX_BYTES)
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} ({getattr(error, 'strerror', None) or error}); check the path") from error


def read_text(path: str | Path, notice: Notice = refuse) -> str:
    """The text of a file: UTF-8, or UTF-16 with a byte order mark; lines that are neither are read as cp1252.

    Lines that cp1252 had to read, or that were once decoded wrongly ("CafÃ©"), are noticed and do not break anything.

    Raises:
        DataError: It cannot be read, or is empty.
    """
    data = read_bytes(path)
    if not data.strip():
        raise DataError(f"{path} is empty; get the file again")
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _decode(data[len(mark) :], encoding, path, notice)
    return _decode(data, "utf-8", path, notice)


def _decode(data: bytes, encoding: str, path: str | Path, notice: Notice) -> str:
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise DataError(f"{path} begins as {encoding} but is not ({error}); save it as UTF-8") from error
        text = "\n".join(_decode_lines(data, path, notice))
    if not text.isascii():
        _notice_mojibake(text, path, notice)
    return text


# Bytes that are no UTF-8, as Python's `surrogateescape` has them, to what Windows text means by them: a line that is
# UTF-8 for the rest, such as a whole JSON file, keeps it.
_CP1252 = {0xDC00 + byte: bytes([byte]).decode("cp1252", "replace") for byte in range(128, 256)}


def _decode_lines(data: bytes, path: str | Path, notice: Notice) -> Iterator[str]:
    wrong = 0
    for number, line in enumerate(data.split(b"\n"), 1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("utf-8", "surrogateescape").translate(_CP1252)
            wrong += 1
            if wrong <= _TOLD:
                where = f"{path}:{number}"
                shown = " ".join(text.split())[:60]
                message = f"{where} is not UTF-8; it was read as cp1252 ({shown!r}): save it as UTF-8"
                notice(Finding("encoding", where, message, False))
            yield text
    if wrong > _TOLD:
        message = f"{path} has {wrong - _TOLD:,} more lines that are not UTF-8, read as cp1252 too"
        notice(Finding("encoding", str(path), message, False))


def _notice_mojibake(text: str, path: str | Path, notice: Notice) -> None:
    if "Ã" not in text and "â€" not in text and "Â" not in text:
        return
    for number, line in enumerate(text.split("\n"), 1):
        meant = undo_mojibake(line)
        if meant is not None:
            where = f"{path}:{number}"
            shown = " ".join(meant.split())[:60]
            message = f"{where} was once saved in a wrong encoding; it was probably {shown!r}: mend it in the file"
            notice(Finding("mojibake", where, message, False))


def undo_mojibake(text: str) -> str | None:
    """What UTF-8 text that was read as cp1252 said, or None where the text is no such thing."""
    if text.isascii():
        return None
    try:
        meant = text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
    return meant if meant != text else None


def read_rows(path: str | Path, notice: Notice = refuse) -> Iterator[tuple[str, str]]:
    """(`path:line`, line) of each line of a file that is not blank, without its line end (LF, CRLF or CR)."""
    text = read_text(path, notice)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    start, number = 0, 0
    while start < len(text):  # in place: a list of the lines, or a stream of the text, would be several times as large
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
        start, number = end + 1, number + 1
        if line.strip():
            yield f"{path}:{number}", line


# JSON


def read_json(path: str | Path, kind: type[T], expected: str, notice: Notice = refuse) -> T:
    """The content of a JSON file as `kind`, a `msgspec.Struct` or a type made of them; keys it lacks are skipped.

    Only what `kind` asks for is kept: 600,000 captions of COCO take 0.4 s and 150 MB beside the file.

    Args:
        expected: What the file should hold, for the sentence that says it does not.

    Raises:
        DataError: The file is missing, empty, no JSON, broken off or of another form.
    """
    data = read_bytes(path)
    if not data.strip():
        raise DataError(f"{path} is empty (0 bytes or blank); it should hold {expected}: get the file again")
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if encoding is not None:
        data = _decode(data, encoding, path, notice).removeprefix("\ufeff").encode()
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError as error:
        raise DataError(_complaint(path, error, data, expected)) from error
    except UnicodeDecodeError:
        data = _decode(data, "utf-8", path, notice).encode()
        return _decode_again(data, path, kind, expected)
    except (ValueError, RecursionError) as error:
        if not data.rstrip().endswith((b"}", b"]")):
            raise DataError(_complaint(path, error, data, expected)) from error
        return _decode_again(data, path, kind, expected)


def _decode_again(data: bytes, path: str | Path, kind: type[T], expected: str) -> T:
    """As Python reads JSON: NaN and half a character (`\\ud800`) pass, which one bad row of many may hold."""
    try:
        return msgspec.convert(json.loads(data), type=kind)
    except (ValueError, RecursionError) as error:
        raise DataError(_complaint(path, error, data, expected)) from error


def _complaint(path: str | Path, error: Exception, data: bytes, expected: str) -> str:
    if isinstance(error, msgspec.ValidationError):
        return f"{path} does not hold {expected}: {str(error)[:1].lower()}{str(error)[1:]}"
    if not data.rstrip().endswith((b"}", b"]")):
        line = data.count(b"\n") + 1
        return f"{path}:{line} breaks off in the middle (after {len(data):,} bytes); get the file again"
    return f"{path} is not JSON ({error}); it should hold {expected}"


# values


def check_caption(caption: Any, where: str) -> str:
    """A caption as text without control characters and spaces around it.

    Raises:
        DataError: It is not text, empty, or of more than `MAX_CAPTION` characters.
    """
    if not isinstance(caption, str):
        raise DataError(f"{where} has a caption that is {type(caption).__name__}, not text; write it as text")
    if len(caption) > MAX_CAPTION:
        raise DataError(
            f"{where} has a caption of {len(caption):,} characters; at most {MAX_CAPTION:,} are accepted: cut it"
        )
    if not caption.isascii() and any("\ud800" <= char <= "\udfff" for char in caption):
        raise DataError(f"{where} holds half a character (\\ud800 to \\udfff alone); write it whole")
    clean = caption if caption.isprintable() else caption.translate(_CONTROLS)
    clean = clean.strip()
    if not clean:
        raise DataError(f"{where} has an empty caption; write one or remove the line")
    return clean


# Control characters become spaces, except tab and line ends, which tokenising splits at anyway.
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160)), " ")


def name_split(name: Any, where: str) -> Split:
    """The split that a list or a column names (`dev`, `validation` and `restval` are other names of the three).

    Raises:
        DataError: It is none of them.
    """
    split = _SPLIT_NAMES.get(str(name).strip().lower())
    if split is None:
        raise DataError(
            f"{where} has split {name!r}; accepted are {', '.join(SPLITS)} (also {', '.join(_SPLIT_NAMES)})"
        )
    return split


# pictures


def inside(name: Any, where: str, folder: str | Path) -> PurePosixPath:
    """The path of a picture below a folder, plainly spelt (`images/a.jpg` for `.\\\\images\\\\a.jpg`).

    Raises:
        DataError: It is no path, absolute, or climbs out of the folder.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{where} names no picture; give the path of a picture inside {folder}")
    path = PurePosixPath(name.replace("\\", "/"))
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(f"{where} names {name!r}, which is not inside {folder}; use a path below the folder")
    return path


class _Place(NamedTuple):
    folder: str  # with a separator at its end
    names: frozenset[str]
    archives: list[tuple[Path, str, Mapping[str, int]]]  # (zip, what members' names begin with, its members)


class PictureFolder:
    """The pictures below a folder, and in zips that lie where a folder would (`train2014.zip` for `train2014/`).

    Folders are listed once, so that asking for each of 100,000 pictures does not touch the disk 100,000 times.
    """

    def __init__(self, root: str | Path, notice: Notice = refuse) -> None:
        self.root = Path(root)
        self._notice = notice
        self._places: dict[str, _Place] = {}  # by the path of the folder below the root

    def find(self, path: PurePosixPath | str) -> str | None:
        """The source of a picture (a path, or `archive.zip!member`), or None where there is none.

        Args:
            path: Below the root, as `inside` gives it.
        """
        parent, _, name = str(path).rpartition("/")
        place = self._places.get(parent)
        if place is None:
            place = self._places[parent] = self._open(parent)
        if name in place.names:
            return place.folder + name
        for archive, prefix, members in place.archives:
            if prefix + name in members:
                return join_member(archive, prefix + name)
        return None

    def _open(self, parent: str) -> _Place:
        folder = self.root / parent
        archives = []
        parts = PurePosixPath(parent).parts
        for depth, part in enumerate(parts):
            archive = self.root.joinpath(*parts[:depth], f"{part}.zip")
            if archive.is_file():
                members = list_members(archive)
                for start in (depth, depth + 1):  # with the folder's name inside the archive, as COCO's, or without
                    prefix = "".join(f"{inner}/" for inner in parts[start:])
                    archives.append((archive, prefix, members))
        return _Place(f"{folder}{os.sep}", self._list(folder), archives)

    def _list(self, folder: Path) -> frozenset[str]:
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except (OSError, ValueError):  # no such folder, or a name that none can have
            return frozenset()
        for entry in found:
            if entry.is_symlink() and not self._stays(Path(entry.path)):
                message = f"{entry.path} is a link that leads out of {self.root}; a copy of the folder would lack it"
                self._notice(Finding("link", entry.path, message, False))
        return frozenset(entry.name for entry in found)

    def _stays(self, link: Path) -> bool:
        try:
            return link.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a link to itself
            return False
