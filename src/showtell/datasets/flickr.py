"""Flickr8k and Flickr30k as they are handed around -> examples (Hodosh et al. 2013; Young et al. 2014).

Accepted, in the folder or one below it:
    Flickr8k.token.txt, results_20130124.token   `name.jpg#0<TAB>caption`, the originals
    captions.txt                                 Kaggle's Flickr8k: header `image,caption`
    results.csv                                  Kaggle's Flickr30k: header `image_name| comment_number| comment`
    Flickr_8k.trainImages.txt, .devImages, .testImages, or train.txt, val.txt, test.txt: the names of each split
    Flicker8k_Dataset/, Images/, flickr30k_images/, … or zips of these names: the pictures (else any folder of them)
The originals go before Kaggle's files. With split lists, pictures that are in none of them are left out.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from showtell.datasets.files import Notice, PictureFolder, read_rows, refuse
from showtell.datasets.listings import Gathered, few, find_folders
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

FOLDERS = (
    "Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr8k_images", "Flickr8k_images",
    "flickr30k-images", "flickr30k_images", "Flickr30k_images", "Flicker8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset", "flickr30k-images/flickr30k-images", "flickr30k_images/flickr30k_images", ".",
)  # fmt: skip
_ORIGINALS = ("Flickr8k.token.txt", "results_20130124.token")
_KAGGLE = ("captions.txt", "results.csv")
_LISTS: dict[str, Split] = {
    "Flickr_8k.trainImages.txt": "train", "Flickr_8k.devImages.txt": "val", "Flickr_8k.testImages.txt": "test",
    "train.txt": "train", "val.txt": "val", "dev.txt": "val", "test.txt": "test",
}  # fmt: skip
_KNOWN = frozenset(name.lower() for name in (*_ORIGINALS, *_KAGGLE, *_LISTS))
_HEADERS = (["image", "caption"], ["image_name", "comment_number", "comment"])  # with commas or bars between
_NUMBERED = re.compile(r'\s*"?(\d+)"?\s*([,|]?)(.*)')  # a caption and the number before it
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*')  # a whole CSV field


def looks_like_flickr(folder: str | Path) -> bool:
    """Whether a folder holds one of the listings."""
    return _find_listing(_find_files(Path(folder))) is not None


def read_flickr(folder: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of Flickr8k or Flickr30k that are there, with their captions, in the listing's order.

    Raises:
        DataError: There is no listing, its header is another, its split lists are of other pictures, or none of its
            pictures is there.
    """
    folder = Path(folder)
    files = _find_files(folder)
    listing = _find_listing(files)
    if listing is None:
        raise DataError(_say_why_not(folder, files))
    gathered = Gathered(listing, notice)
    rows = _token_rows if listing.name.lower() in _lower(_ORIGINALS) else _kaggle_rows
    for number, name, caption in rows(listing, notice):
        gathered.add(name, caption, number)
    splits = _read_splits(files, gathered.captions, listing, notice)
    pictures, folders = find_folders([PictureFolder(folder, notice)], FOLDERS, gathered.captions)
    return gathered.examples(pictures, folders, splits)


# which file


def _find_files(folder: Path) -> dict[str, Path]:
    """The files of known names in a folder and in the folders in it, by lower-case name."""
    found: dict[str, Path] = {}
    below: list[Path] = []
    _look_in(folder, found, below)
    for place in sorted(below):
        _look_in(place, found, [])
    return found


def _look_in(folder: Path, found: dict[str, Path], below: list[Path]) -> None:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name.lower()
                if name in _KNOWN and entry.is_file():
                    found.setdefault(name, Path(entry.path))
                elif entry.is_dir():
                    below.append(Path(entry.path))
    except (OSError, ValueError):  # no folder
        return


def _find_listing(files: Mapping[str, Path]) -> Path | None:
    for name in _lower(_ORIGINALS):
        if name in files:
            return files[name]
    for name in _KAGGLE:
        if name in files and _delimiter(_read_header(files[name])) is not None:
            return files[name]
    return None


def _lower(names: Collection[str]) -> list[str]:
    return [name.lower() for name in names]


def _read_header(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(200).decode("utf-8-sig", "replace")
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check its permissions") from error
    return next(iter(start.splitlines()), "")


def _delimiter(header: str) -> str | None:
    """What separates the columns of a file of Kaggle's, or None where the header is not one of theirs."""
    for delimiter in ",|":
        if [name.strip().strip('"').lower() for name in header.split(delimiter)] in _HEADERS:
            return delimiter
    return None


def _say_why_not(folder: Path, files: Mapping[str, Path]) -> str:
    for name in _KAGGLE:
        if name in files:
            accepted = " or ".join(repr(",".join(header)) for header in _HEADERS)
            return f"{files[name]}:1 has the header {_read_header(files[name])[:60]!r}; accepted is {accepted}"
    names = ", ".join((*_ORIGINALS, *_KAGGLE))
    return f"{folder} has none of {names}, nor has a folder in it; put the captions there"


# captions


def _token_rows(path: Path, notice: Notice) -> Iterator[tuple[int, str, str]]:
    """(line, picture, caption) of each line."""
    for where, line in read_rows(path, notice):
        key, tab, caption = line.partition("\t")
        name, sign, index = key.strip().rpartition("#")
        if not tab or not sign or not index.isdigit():
            message = f"{where} is not `name.jpg#0<TAB>caption`; mend the line or remove it"
            notice(Finding("row", where, message))
            continue
        yield int(where.rpartition(":")[2]), name, caption


def _kaggle_rows(path: Path, notice: Notice) -> Iterator[tuple[int, str, str]]:
    """The same of Kaggle's files, where a comma or a quote in a caption may stand as it is."""
    rows = read_rows(path, notice)
    _, header = next(rows)
    delimiter = _delimiter(header) or ","
    numbered = header.count(delimiter) == 2
    for where, line in rows:
        name, sign, caption = line.partition(delimiter)
        name = name.strip().strip('"')
        match = _NUMBERED.fullmatch(caption) if numbered else None
        if not name or not sign or (numbered and match is None):
            notice(Finding("row", where, f"{where} is not `{header.strip()}`; mend the line or remove it"))
            continue
        if match is not None:
            number, second, caption = match.groups()
            if second != delimiter:  # a known line of Flickr30k: `2199200615.jpg| 4   A dog runs across the grass .`
                message = f"{where} lacks its second {delimiter}; it was read as caption {number}: "
                notice(Finding("row", where, f"{message}{caption.strip()[:40]!r}", False))
        quoted = _QUOTED.fullmatch(caption) if delimiter == "," else None
        yield int(where.rpartition(":")[2]), name, quoted[1].replace('""', '"') if quoted else caption


# splits


def _read_splits(
    files: Mapping[str, Path], captions: Collection[str], listing: Path, notice: Notice
) -> dict[str, Split] | None:
    """The split of each picture that a list names, or None where there are no lists.

    Names may lack their `.jpg`, as in the lists of Flickr30k Entities.

    Raises:
        DataError: The lists name none of the listing's pictures.
    """
    splits: dict[str, Split] = {}
    unknown: dict[str, str] = {}  # names without captions, with where they are listed
    for known, split in _LISTS.items():
        path = files.get(known.lower())
        if path is None:
            continue
        for where, line in read_rows(path, notice):
            name = line.strip()
            if name not in captions and f"{name}.jpg" in captions:
                name = f"{name}.jpg"
            if name not in captions:
                unknown.setdefault(name, where)
            elif splits.setdefault(name, split) != split:
                message = f"{where} puts {name} into {split}, another list into {splits[name]}; a picture has one split"
                notice(Finding("split", where, message))
    if unknown:
        first = next(iter(unknown.values()))
        told = f"{len(unknown):,} names of the split lists have no caption in {listing} ({few(unknown)}, first {first})"
        if not splits:
            raise DataError(f"{told}, and no other is listed; use lists that belong to it, or rename them")
        notice(Finding("split", first, f"{told}; they are left out", False))
    return splits or None
