"""Captions gathered line by line, and their pictures -> examples: what the readers of well-known sets share."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from showtell.datasets.files import Notice, PictureFolder, check_caption, inside, undo_mojibake
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_NAMED = 3  # pictures that a message names


class NoPictures(DataError):
    """Not one of the pictures that a listing names is there."""


class Gathered:
    """The captions of pictures, and the line at which each picture was named first.

    Args:
        unit: What is counted in place of lines, in listings that are JSON.
    """

    def __init__(self, listing: str | Path, notice: Notice, unit: str | None = None) -> None:
        self.listing = listing
        self._unit = unit
        self.captions: dict[str, list[str]] = {}
        self.lines: dict[str, int] = {}  # only of the first line of each picture
        self._notice = notice

    def where(self, number: int) -> str:
        """A line or an entry of the listing, as messages name it."""
        return f"{self.listing}:{number}" if self._unit is None else f"{self.listing}, {self._unit} {number},"

    def add(self, name: str, caption: object, number: int) -> None:
        """One caption; what is wrong with it is noticed at its line."""
        try:
            clean = check_caption(caption, self.where(number))
        except DataError as error:
            self._notice(Finding("caption", self.where(number), str(error)))
            return
        if name not in self.captions:
            self.captions[name] = []
            self.lines[name] = number
        self.captions[name].append(clean)

    def examples(
        self,
        pictures: PictureFolder,
        folders: Sequence[str],
        splits: Mapping[str, Split] | Split | None,
    ) -> list[Example]:
        """The examples of the pictures that are there, in the listing's order.

        Args:
            folders: Where below the root pictures are looked for, each in turn.
            splits: Of each picture (those that it lacks are left out), of all of them, or None where nothing says.

        Raises:
            NoPictures: Not one of the pictures is there.
        """
        finder = Finder(pictures, folders)
        found: list[Example] = []
        lost: list[str] = []
        outside: list[str] = []
        for name, captions in self.captions.items():
            where = self.where(self.lines[name])
            split = splits.get(name) if isinstance(splits, Mapping) else splits
            if isinstance(splits, Mapping) and split is None:
                outside.append(name)
                continue
            try:
                source = finder.find(inside(name, where, pictures.root))
            except DataError as error:
                self._notice(Finding("path", where, str(error)))
                continue
            if source is None:
                lost.append(name)
            else:
                found.append(Example(name, source, tuple(captions), split))
        if outside:
            message = f"{len(outside):,} pictures of {self.listing} are in none of its splits ({few(outside)})"
            self._notice(Finding("split", str(self.listing), f"{message}; they are left out", False))
        first = self.where(self.lines[lost[0]]).rstrip(",") if lost else str(self.listing)
        notice_lost(lost, len(lost) + len(found), self.listing, first, pictures.root, folders, self._notice)
        return found


class Finder:
    """Pictures in one of several folders; the folder of the last one is tried first."""

    def __init__(self, pictures: PictureFolder, folders: Sequence[str]) -> None:
        self._pictures = pictures
        self._prefixes = ["" if folder == "." else f"{folder}/" for folder in folders]

    def find(self, path: PurePosixPath) -> str | None:
        """The source of a picture below one of the folders, or None."""
        for prefix in self._prefixes:
            source = self._pictures.find(f"{prefix}{path}")
            if source is not None:
                if prefix is not self._prefixes[0]:
                    self._prefixes.remove(prefix)
                    self._prefixes.insert(0, prefix)
                return source
        return None


def notice_lost(
    lost: Sequence[str],
    total: int,
    listing: str | Path,
    first: str,
    root: Path,
    folders: Sequence[str],
    notice: Notice,
) -> None:
    """Tells of pictures that are named and not there.

    Raises:
        NoPictures: None is there.
    """
    if not lost:
        if not total:
            raise NoPictures(f"{listing} names no picture that can be used")
        return
    places = ", ".join("the folder itself" if folder == "." else f"{folder}/" for folder in folders)
    told = f"{len(lost):,} of {total:,} pictures that {listing} names are not below {root} ({few(lost)}, first {first})"
    if len(lost) == total:
        raise NoPictures(f"{told}; they are looked for in {places} and in zips of these names: put them there")
    notice(Finding("missing-picture", first, f"{told}; they are left out", False))


def few(names: Iterable[str]) -> str:
    """The first names of many."""
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")


def find_folders(
    places: Sequence[PictureFolder], folders: Sequence[str], names: Collection[str]
) -> tuple[PictureFolder, Sequence[str]]:
    """The place that has some of the pictures, and the folders below it to look in.

    Where none is in `folders`, these are joined by whatever folders and zips right below the first place, or below its
    `images`, have some.

    Args:
        folders: Below each place, as the data set is published.
        names: Of the pictures; names that lead out of a place are passed over.
    """
    for pictures in places:
        if any(_has(pictures, folder, name) for name in _safe(names) for folder in folders):
            return pictures, folders
    pictures = places[0]
    safe = list(_safe(names))
    others = [folder for folder in _list_folders(pictures.root) if any(_has(pictures, folder, name) for name in safe)]
    return pictures, (*folders, *others)


def notice_mojibake(captions: Iterable[tuple[int, Any]], listing: str | Path, unit: str, notice: Notice) -> None:
    """Tells of the captions of a JSON file that were once decoded wrongly, all in one finding.

    Args:
        captions: (number of the entry, caption) of each.
        unit: What the entries are called.
    """
    found = []
    for number, caption in captions:
        if isinstance(caption, str) and not caption.isascii() and (meant := undo_mojibake(caption)) is not None:
            found.append((number, meant))
    if found:
        number, meant = found[0]
        where = f"{listing}, {unit} {number}"
        told = (
            f"{listing} has captions that were once saved in a wrong encoding ({len(found):,}); the first, of {unit} "
            f"{number}, was probably {meant.strip()[:60]!r}: mend them in the file"
        )
        notice(Finding("mojibake", where, told, False))


def _has(pictures: PictureFolder, folder: str, name: str) -> bool:
    return pictures.find(name if folder == "." else f"{folder}/{name}") is not None


def _safe(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        with contextlib.suppress(DataError):
            yield str(inside(name, "", ""))


def _list_folders(root: Path) -> list[str]:
    found: dict[str, None] = {}
    for parent in ("", "images/"):
        try:
            entries = sorted((root / parent).iterdir())
        except OSError:
            continue
        for entry in entries:
            if entry.suffix.lower() == ".zip":
                found[f"{parent}{entry.stem}"] = None
            elif entry.is_dir():
                found[f"{parent}{entry.name}"] = None
    return list(found)
