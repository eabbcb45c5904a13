"""The splits of Karpathy & Fei-Fei 2015, which most papers score on -> examples.

Accepted: `dataset_coco.json`, `dataset_flickr8k.json` or `dataset_flickr30k.json`,
    {"images": [{"filepath": "val2014", "filename": "…", "split": "restval", "sentences": [{"raw": "…"}, …]}, …]}
beside the pictures' folders or zips. `restval` is train, as the papers have it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from showtell.datasets.files import Notice, PictureFolder, name_split, read_json, refuse
from showtell.datasets.flickr import FOLDERS
from showtell.datasets.listings import Gathered
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_EXPECTED = 'Karpathy\'s splits ({"images": [{"filename", "split", "sentences": [{"raw": "…"}]}, …]})'
_COCO = ("train2014", "val2014", "images/train2014", "images/val2014")


class _Sentence(msgspec.Struct, gc=False):
    raw: Any = None


class _Picture(msgspec.Struct):
    filename: str
    split: str
    sentences: list[_Sentence]


class _Splits(msgspec.Struct):
    images: list[_Picture]


def looks_like_karpathy(path: str | Path) -> bool:
    """Whether a path is dataset_*.json, or a folder that holds one."""
    return _find_listing(Path(path)) is not None


def read_karpathy(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures that are there, with their captions and splits, in the file's order.

    Args:
        path: The folder, or its dataset_*.json.

    Raises:
        DataError: There is no such file or more than one, it is of another form, or none of its pictures is there.
    """
    listing = _find_listing(Path(path))
    if listing is None:
        raise DataError(
            f"{path} has no dataset_coco.json, dataset_flickr8k.json or dataset_flickr30k.json; put it there"
        )
    content = read_json(listing, _Splits, _EXPECTED, notice)
    gathered = Gathered(listing, notice)
    splits: dict[str, Split] = {}
    for number, picture in enumerate(content.images, 1):
        where = f"{listing}, image {number} ({picture.filename}),"
        if picture.filename in splits:
            notice(Finding("repeated-picture", where, f"{where} is listed twice; a picture has one entry"))
            continue
        try:
            splits[picture.filename] = name_split(picture.split, where)
        except DataError as error:
            notice(Finding("split", where, str(error)))
            continue
        for sentence in picture.sentences:
            gathered.add(picture.filename, sentence.raw, number, where)
    return gathered.examples(PictureFolder(listing.parent, notice), (*_COCO, *FOLDERS), splits)


def _find_listing(path: Path) -> Path | None:
    if path.is_file():
        return path if path.name.startswith("dataset_") and path.suffix == ".json" else None
    found = sorted(path.glob("dataset_*.json"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{path} has several sets of splits ({names}); name one of the files")
    return found[0] if found else None
