"""Flickr8k and Flickr30k as they are handed around -> examples (Hodosh et al. 2013; Young et al. 2014).

Accepted, in the folder or one below it:
    Flickr8k.token.txt, results_20130124.token   `name.jpg#0<TAB>caption`, the originals
    captions.txt                                 Kaggle's Flickr8k: header `image,caption`
    results.csv                                  Kaggle's Flickr30k: `image_name| comment_number| comment`
    Flickr_8k.trainImages.txt, .devImages, .testImages, or train.txt, val.txt, test.txt: the names of each split
    Flicker8k_Dataset/, Images/, flickr30k_images/, … or zips of these names: the pictures
The originals go before Kaggle's files. With split lists, pictures that are in none of them are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from showtell.datasets.files import Notice, PictureFolder, read_rows, refuse
from showtell.datasets.listings import Gathered
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

FOLDERS = (
    "Images", "images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr8k_images", "Flickr8k_images",
    "flickr30k-images", "flickr30k_images", "Flickr30k_images", "Flicker8k_Dataset/Flicker8k_Dataset",
    "flickr30k_images/flickr30k_images", ".",
)  # fmt: skip
_ORIGINALS = ("flickr8k.token.txt", "results_20130124.token")
_KAGGLE = {"captions.txt": ",", "results.csv": "|"}
_LISTS: dict[str, Split] = {
    "flickr_8k.trainimages.txt": "train", "flickr_8k.devimages.txt": "val", "flickr_8k.testimages.txt": "test",
    "train.txt": "train", "val.txt": "val", "dev.txt": "val", "test.txt": "test",
}  # fmt: skip


def looks_like_flickr(folder: str | Path) -> bool:
    """Whether a folder holds one of the listings."""
    return Path(folder).is_dir() and _find_listing(Path(folder)) is not None


def read_flickr(folder: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of Flickr8k or Flickr30k that are there, with their captions, in the listing's order.

    Raises:
        DataError: There is no listing, or none of its pictures is there.
    """
    folder = Path(folder)
    listing = _find_listing(folder)
    if listing is None:
        names = ", ".join((*_ORIGINALS, *_KAGGLE))
        raise DataError(f"{folder} has none of {names}, nor has a folder in it; put the captions there")
    gathered = Gathered(listing, notice)
    rows = _token_rows if listing.name.lower() in _ORIGINALS else _kaggle_rows
    for number, name, caption in rows(listing, notice):
        gathered.add(name, caption, number)
    return gathered.examples(PictureFolder(folder, notice), FOLDERS, _read_splits(folder, notice))


def _find_listing(folder: Path) -> Path | None:
    files = _files(folder)
    for name in _ORIGINALS:
        if name in files:
            return files[name]
    for name, delimiter in _KAGGLE.items():
        if name in files and _has_header(files[name], delimiter):
            return files[name]
    return None


def _files(folder: Path) -> dict[str, Path]:
    """The text files of a folder and of the folders in it that are not of pictures, by lower-case name."""
    found: dict[str, Path] = {}
    pictures = {name.split("/")[0].lower() for name in FOLDERS}
    below = [path for path in _entries(folder) if path.is_dir() and path.name.lower() not in pictures]
    for place in (folder, *below):
        for path in _entries(place):
            if path.suffix.lower() in (".txt", ".token", ".csv") and path.is_file():
                found.setdefault(path.name.lower(), path)
    return found


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _has_header(path: Path, delimiter: str) -> bool:
    with path.open("rb") as file:
        first = file.readline(200).decode("utf-8-sig", "replace")
    names = [name.strip().strip('"').lower() for name in first.split(delimiter)]
    return names in (["image", "caption"], ["image_name", "comment_number", "comment"])


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
    delimiter = _KAGGLE[path.name.lower()]
    for index, (where, line) in enumerate(read_rows(path, notice)):
        name, sign, rest = line.partition(delimiter)
        if index == 0:
            continue
        if delimiter == "|":
            number, bar, caption = rest.partition("|")
            if not bar:  # a known line of Flickr30k lacks its second bar: `2199200615.jpg| 4   A dog runs …`
                number, _, caption = rest.strip().partition(" ")
                message = f"{where} lacks its second |; it was read as caption {number!r}: {caption.strip()[:40]!r}"
                notice(Finding("row", where, message, False))
        else:
            caption = next(csv.reader([rest]), [""])[0] if rest.startswith('"') else rest
        if not sign or not name.strip():
            notice(Finding("row", where, f"{where} is not `image{delimiter}caption`; mend the line or remove it"))
            continue
        yield int(where.rpartition(":")[2]), name.strip(), caption


def _read_splits(folder: Path, notice: Notice) -> dict[str, Split] | None:
    """The split of each picture that a list names, or None where there are no lists.

    Raises:
        DataError: A picture is in two lists.
    """
    files = _files(folder)
    splits: dict[str, Split] = {}
    for listing, split in _LISTS.items():
        if listing not in files:
            continue
        for where, line in read_rows(files[listing], notice):
            name = line.strip()
            if splits.setdefault(name, split) != split:
                message = f"{where} puts {name} into {split}, another list into {splits[name]}; a picture has one split"
                notice(Finding("split", where, message))
    return splits or None
