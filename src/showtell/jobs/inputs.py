"""Folders, patterns, lists and pictures, as a command names them -> the pictures, one by one, always in the same order.

Of a folder, and of a pattern's matches, files count that are named as pictures are; hidden ones and what file servers
and archivers leave behind are passed over, and links to folders are not followed. What is named one by one, on the
command line or in a list, counts as a picture whatever it is called.

In memory are the names of one folder at a time, and all matches of a pattern: about 100 bytes each.
"""

from __future__ import annotations

import codecs
import glob
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from showtell.archives import split_member
from showtell.datasets.sidecars import LEFT_BEHIND, PICTURE_SUFFIXES
from showtell.errors import DataError

LIST_SUFFIXES = (".txt", ".lst", ".list")
_ACCEPTED = "accepted are folders, patterns, pictures, and lists of paths (.txt, or - for standard input)"


class Found(NamedTuple):
    """A picture, or a folder that cannot be listed, which `error` then says; -1 what cannot be asked for."""

    path: str
    size: int = -1
    mtime_ns: int = -1
    is_regular: bool = False
    error: str = ""


class Inputs:
    """What arguments name; it can be counted and gone through, each time as the disk then is. Close it.

    Example:
        >>> inputs = Inputs(["photos", "scans/**/*.tif", "more.txt"], recursive=True)  # doctest: +SKIP
        >>> inputs.count()  # doctest: +SKIP
        2000
    """

    def __init__(self, given: Iterable[str | os.PathLike[str]], *, recursive: bool = False) -> None:
        """Looks at what each argument is.

        Args:
            given: Folders, patterns such as "photos/**/*.jpg", lists (files of a path a line, named .txt, .lst or
                .list, or "-" for standard input; paths are relative to the current folder), and pictures.
            recursive: Go into the folders of folders too.

        Raises:
            DataError: An argument is nothing that is there, or cannot be read.
        """
        self._spooled: list[IO[bytes]] = []
        self._sources: list[Callable[[], Iterator[Found]]] = []
        try:
            self._sources.extend(self._open(os.fspath(argument), recursive) for argument in given)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for file in self._spooled:
            file.close()

    def count(self) -> int:
        return sum(1 for source in self._sources for _ in source())

    def __iter__(self) -> Iterator[Found]:
        return (found if found.error else _ask(found.path) for source in self._sources for found in source())

    def _open(self, argument: str, recursive: bool) -> Callable[[], Iterator[Found]]:
        if argument == "-":
            return partial(_read_list, self._spool(sys.stdin.buffer))
        path = Path(argument)
        try:
            if path.is_dir():
                os.scandir(path).close()
                return partial(_walk, argument, recursive)
            if path.exists() and path.suffix.lower() in LIST_SUFFIXES:
                file = path.open("rb")
                self._spooled.append(file)
                return partial(_read_list, file if path.is_file() else self._spool(file))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{argument} cannot be read ({reason}); {_ACCEPTED}") from error
        if os.path.lexists(path) or split_member(argument):
            return lambda: iter([Found(argument)])
        if glob.has_magic(argument):
            if next(_match(argument), None) is None:
                raise DataError(f"no picture matches {argument}; accepted are files named as pictures are: check it")
            return partial(_match, argument)
        if path.suffix.lower() in PICTURE_SUFFIXES:
            return lambda: iter([Found(argument)])  # reading it says that it is missing
        raise DataError(f"there is no {argument}; {_ACCEPTED}")

    def _spool(self, file: IO[bytes]) -> IO[bytes]:
        """A copy of what can be read only once."""
        copy = tempfile.TemporaryFile()  # noqa: SIM115 `close` does
        self._spooled.append(copy)
        shutil.copyfileobj(file, copy)
        return copy


def _walk(root: str, recursive: bool) -> Iterator[Found]:
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        pictures: list[str] = []
        below: list[str] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not _is_passed_over(entry.name):
                        if entry.is_dir(follow_symlinks=False):
                            below.append(entry.name)
                        elif _is_picture(entry.name):
                            pictures.append(entry.name)
        except OSError as error:
            reason = error.strerror or str(error)
            yield Found(folder, error=f"{folder} cannot be listed ({reason}); change its permissions or remove it")
            continue
        yield from (Found(os.path.join(folder, name)) for name in sorted(pictures))  # noqa: PTH118 of a million names
        if recursive:
            waiting += (os.path.join(folder, name) for name in sorted(below, reverse=True))  # noqa: PTH118


def _match(pattern: str) -> Iterator[Found]:
    for path in sorted(glob.iglob(pattern, recursive=True)):  # noqa: PTH207 which gives no paths as they were typed
        if _is_picture(path) and not any(part in LEFT_BEHIND for part in Path(path).parts) and not Path(path).is_dir():
            yield Found(path)


def _read_list(file: IO[bytes]) -> Iterator[Found]:
    file.seek(0)
    for number, line in enumerate(file):
        path = (line if number else line.removeprefix(codecs.BOM_UTF8)).rstrip(b"\r\n")
        if path.strip():
            yield Found(os.fsdecode(path))


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _is_picture(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES  # noqa: PTH122


def _ask(path: str) -> Found:
    try:
        status = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):  # it is missing, or its name holds a zero byte: reading it says so
        return Found(path)
    return Found(path, status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))
