"""MS COCO 2014 and 2017 as downloaded -> examples (Lin et al. 2014; Chen et al. 2015).

Accepted: `annotations/captions_*.json` (or beside the folder's other files), or the same inside a zip such as
`captions_train-val2014.zip` or `annotations_trainval2017.zip`; pictures in the folder that the annotations are named
for (`captions_val2014.json`: `val2014/`), in `images/` or `images/val2014/`, or in a zip of that name, read in place.
The split is in the name: train*, val*, test*.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from showtell.archives import join_member, list_members
from showtell.datasets.files import Notice, PictureFolder, read_json, refuse
from showtell.datasets.listings import Gathered, NoPictures
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_EXPECTED = 'COCO captions ({"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]})'


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    caption: Any = None


class _Captions(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]


def looks_like_coco(path: str | Path) -> bool:
    """Whether a folder holds captions_*.json, in a folder `annotations` or a zip, or the path is such a file."""
    path = Path(path)
    return _is_listing(path.name) if path.is_file() else bool(_find_listings(path))


def read_coco(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of COCO that are there, with their captions, by file name within each split.

    Args:
        path: The folder, or one captions_*.json.

    Raises:
        DataError: There are no annotations, they are of another form, or none of their pictures is there.
    """
    path = Path(path)
    listings: Sequence[str] = [str(path)] if path.is_file() else _find_listings(path)
    if not listings:
        raise DataError(f"{path} has no annotations/captions_*.json, nor a zip that holds one; put them there")
    root = path if path.is_dir() else path.parent.parent if path.parent.name == "annotations" else path.parent
    examples: dict[str, Example] = {}
    failed: list[NoPictures] = []
    for listing in listings:
        try:
            found = _read_listing(listing, PictureFolder(root, notice), notice)
        except NoPictures as error:
            failed.append(error)
            continue
        for example in found:
            if example.id in examples:
                where = f"{listing}, image {example.id},"
                notice(Finding("repeated-picture", where, f"{where} is in another file of annotations too; keep one"))
            examples.setdefault(example.id, example)
    if not examples:
        raise failed[0]
    for lost in failed:  # the annotations of a split whose pictures were not downloaded
        notice(Finding("missing-picture", str(path), f"{lost}; that split is left out", False))
    return list(examples.values())


def _is_listing(name: str) -> bool:
    return name.startswith("captions_") and name.endswith(".json")


def _find_listings(folder: Path) -> list[str]:
    """The annotations of a folder: files first, then those of zips whose names no file has."""
    found: dict[str, str] = {}
    for place in (folder / "annotations", folder):
        if place.is_dir():
            for path in sorted(place.glob("captions_*.json")):
                found.setdefault(path.name, str(path))
    for archive in sorted(folder.glob("*.zip")) if folder.is_dir() else ():
        if not archive.name.startswith(("captions_", "annotations")):
            continue
        for member in list_members(archive):
            name = PurePosixPath(member).name
            if _is_listing(name):
                found.setdefault(name, join_member(archive, member))
    return list(found.values())


def _read_listing(listing: str, pictures: PictureFolder, notice: Notice) -> list[Example]:
    name = PurePosixPath(listing.replace("\\", "/")).stem.removeprefix("captions_")  # train2014
    content = read_json(listing, _Captions, _EXPECTED, notice)
    names: dict[int | str, str] = {}
    for number, image in enumerate(content.images, 1):
        if names.setdefault(image.id, image.file_name) != image.file_name:
            where = f"{listing}, image {number},"
            notice(
                Finding(
                    "repeated-picture",
                    where,
                    f"{where} has the id {image.id} of {names[image.id]}; each picture has an id of its own",
                )
            )
    gathered = Gathered(listing, notice)
    for number, row in enumerate(content.annotations, 1):
        file_name = names.get(row.image_id)
        where = f"{listing}, annotation {number},"
        if file_name is None:
            message = f"{where} is of picture {row.image_id!r}, which is not among its images; remove it or add that"
            notice(Finding("row", where, message))
        else:
            gathered.add(file_name, row.caption, number, where)
    gathered.captions = dict(sorted(gathered.captions.items()))
    split: Split | None = next((part for part in ("train", "val", "test") if name.startswith(part)), None)
    return gathered.examples(pictures, (name, "images", f"images/{name}", "."), split)
