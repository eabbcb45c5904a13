"""Captions gathered line by line, and their pictures -> examples: what the readers of well-known sets share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from showtell.datasets.files import Notice, PictureFolder, check_caption, inside
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_NAMED = 3  # pictures that a message names


class NoPictures(DataError):
    """Not one of the pictures that a listing names is there."""


class Gathered:
    """The captions of pictures, and the line at which each picture was named first."""

    def __init__(self, listing: str | Path, notice: Notice) -> None:
        self.listing = listing
        self.captions: dict[str, list[str]] = {}
        self.lines: dict[str, int] = {}  # only of the first line of each picture
        self._notice = notice

    def add(self, name: str, caption: object, number: int, where: str | None = None) -> None:
        """One caption; what is wrong with it is noticed at its line."""
        try:
            clean = check_caption(caption, where or f"{self.listing}:{number}")
        except DataError as error:
            self._notice(Finding("caption", where or f"{self.listing}:{number}", str(error)))
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
            where = f"{self.listing}:{self.lines[name]}"
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
        notice_lost(lost, len(lost) + len(found), self.listing, self.lines, pictures.root, folders, self._notice)
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
    lines: Mapping[str, int],
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
    first = f"{listing}:{lines[lost[0]]}" if lost[0] in lines else str(listing)
    places = ", ".join("the folder itself" if folder == "." else f"{folder}/" for folder in folders)
    told = f"{len(lost):,} of {total:,} pictures that {listing} names are not below {root} ({few(lost)}, first {first})"
    if len(lost) == total:
        raise NoPictures(f"{told}; they are looked for in {places} and in zips of these names: put them there")
    notice(Finding("missing-picture", first, f"{told}; they are left out", False))


def few(names: Iterable[str]) -> str:
    """The first names of many."""
    names = list(names)
    return ", ".join(names[:_NAMED]) + (", …" if len(names) > _NAMED else "")
