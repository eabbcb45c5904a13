"""The splits of Karpathy & Fei-Fei 2015, which most papers score on -> examples.

Accepted: `dataset_coco.json`, `dataset_flickr8k.json`, `dataset_flickr30k.json`, or another `dataset_*.json`:
    {"images": [{"filepath": "val2014", "filename": "…", "split": "restval", "sentences": [{"raw": "…"}, …]}, …]}
beside the pictures' folders or zips. `filepath` may be missing. `restval` is train, as the papers have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from showtell.datasets.files import Notice, PictureFolder, inside, name_split, read_json, refuse
from showtell.datasets.flickr import FOLDERS
from showtell.datasets.listings import Gathered, find_folders, notice_mojibake
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_EXPECTED = 'Karpathy\'s splits ({"images": [{"filename", "split", "sentences": [{"raw": "…"}]}, …]})'
_PUBLISHED = ("dataset_coco.json", "dataset_flickr8k.json", "dataset_flickr30k.json")
_COCO = ("train2014", "val2014", "images/train2014", "images/val2014")
_PEEK = 2**16  # bytes in which a file of this form has begun its first picture's sentences


class _Sentence(msgspec.Struct, gc=False):
    raw: Any = None


class _Picture(msgspec.Struct, gc=False):
    filename: Any = None
    filepath: Any = None
    split: Any = None
    sentences: list[_Sentence] | None = None


class _Splits(msgspec.Struct):
    images: list[_Picture]


def looks_like_karpathy(path: str | Path) -> bool:
    """Whether a path is dataset_*.json in this form, or a folder that holds one."""
    return bool(_find_listings(Path(path)))


def read_karpathy(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures that are there, with their captions and splits, in the file's order.

    Args:
        path: The folder, or its dataset_*.json.

    Raises:
        DataError: There is no such file or more than one, it is of another form, or none of its pictures is there.
    """
    path = Path(path)
    listings = [path] if path.is_file() else _find_listings(path)
    if not listings:
        raise DataError(f"{path} has no {', '.join(_PUBLISHED[:2])} or {_PUBLISHED[2]}; put it there")
    if len(listings) > 1:
        names = ", ".join(file.name for file in listings)
        raise DataError(f"{path} has several sets of splits ({names}); name one of the files")
    listing = listings[0]
    images = read_json(listing, _Splits, _EXPECTED, notice).images
    pictures = PictureFolder(listing.parent, notice)
    gathered = Gathered(listing, notice, "image")
    splits = _gather(images, gathered, pictures, notice)
    numbered = enumerate(images, 1)
    raw = ((number, sentence.raw) for number, picture in numbered for sentence in picture.sentences or ())
    notice_mojibake(raw, listing, "image", notice)
    _, folders = find_folders([pictures], (*_COCO, *FOLDERS), gathered.captions)
    found = gathered.examples(pictures, folders, splits)
    return [replace(example, id=_last(example.id)) if "/" in example.id else example for example in found]


def _gather(
    images: Sequence[_Picture], gathered: Gathered, pictures: PictureFolder, notice: Notice
) -> dict[str, Split]:
    """Gathers the captions of each picture by its path below one of the folders, and gives its split."""
    homes = _find_homes(images, pictures)
    splits: dict[str, Split] = {}
    taken: set[str] = set()
    for number, picture in enumerate(images, 1):
        where = f"{gathered.listing}, image {number} ({picture.filename}),"
        kind = "path"
        try:
            name = _read_name(picture, where, homes, pictures.root)
            kind = "repeated-picture"
            if _last(name) in taken:
                raise DataError(f"{where} is listed twice; file names are ids, so each has one entry")
            taken.add(_last(name))
            kind = "split"
            splits[name] = name_split(picture.split, where)
            kind = "caption"
            if not picture.sentences:
                raise DataError(f"{where} has no sentences; write one or remove the entry")
        except DataError as error:
            notice(Finding(kind, where, str(error)))
            continue
        for sentence in picture.sentences:
            gathered.add(name, sentence.raw, number)
    return splits


def _find_listings(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.glob("dataset_*.json"))
    return [file for file in files if file.name in _PUBLISHED or _has_sentences(file)]


def _has_sentences(path: Path) -> bool:
    """Whether dataset_*.json is of this form: other programs call files of theirs dataset_info.json."""
    if not path.name.startswith("dataset_") or path.suffix != ".json":
        return False
    try:
        with path.open("rb") as file:
            start = file.read(_PEEK)
    except OSError:
        return False
    return b'"images"' in start and b'"sentences"' in start


def _find_homes(images: Sequence[_Picture], pictures: PictureFolder) -> dict[str, str]:
    """What each `filepath` puts before its file names: its folder where that has some of them, else nothing."""
    homes: dict[str, str] = {}
    for picture in images:
        if not isinstance(picture.filepath, str) or homes.get(picture.filepath):
            continue
        homes[picture.filepath] = ""
        try:
            folder, name = inside(picture.filepath, "", ""), inside(picture.filename, "", "")
        except DataError:  # which is told when the entry is read
            continue
        for prefix in (f"{folder}/", f"images/{folder}/"):
            if pictures.find(f"{prefix}{name}") is not None:
                homes[picture.filepath] = prefix
                break
    return homes


def _read_name(picture: _Picture, where: str, homes: dict[str, str], root: Path) -> str:
    """The path of a picture below the root, or below one of the folders where its own has none."""
    home = homes.get(picture.filepath, "") if isinstance(picture.filepath, str) else ""
    if picture.filepath and not home:
        inside(picture.filepath, where, root)
    return f"{home}{inside(picture.filename, where, root)}"


def _last(name: str) -> str:
    return name.rpartition("/")[2]
