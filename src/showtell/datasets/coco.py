"""MS COCO 2014 and 2017 as downloaded -> examples (Lin et al. 2014; Chen et al. 2015).

Accepted: `annotations/captions_*.json` (or beside the folder's other files), or the same inside a zip such as
`captions_train-val2014.zip` or `annotations_trainval2017.zip`; pictures in the folder that the annotations are named
for (`captions_val2014.json`: `val2014/`), in `images/` or `images/val2014/`, in a zip of that name, read in place, or
in whichever folder there has some of them. The split is in the name: train*, val*, test*.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from showtell.archives import join_member, list_members
from showtell.datasets.files import Notice, PictureFolder, inside, read_json, refuse
from showtell.datasets.listings import Gathered, NoPictures, few, find_folders, notice_mojibake
from showtell.errors import DataError
from showtell.records import Example, Finding, Split

_EXPECTED = 'COCO captions ({"images": [{"id", "file_name"}, …], "annotations": [{"image_id", "caption"}, …]})'


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Any = None
    caption: Any = None


class _Captions(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]


_Id = int | str
_Names = dict[_Id, str | None]  # the file of each picture, None where its entry cannot be used


def looks_like_coco(path: str | Path) -> bool:
    """Whether a folder holds captions_*.json, in a folder `annotations` or a zip, or the path is such a file."""
    path = Path(path)
    return _is_listing(path.name) if path.is_file() else bool(_find_listings(path))


def read_coco(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of COCO that are there, with their captions, in the order of their ids within each file.

    Args:
        path: The folder, or one captions_*.json, whose pictures are looked for beside it and in the folder above.

    Raises:
        DataError: There are no annotations, they are of another form, or none of their pictures is there.
    """
    path = Path(path)
    listings: Sequence[str] = [str(path)] if path.is_file() else _find_listings(path)
    if not listings:
        raise DataError(f"{path} has no annotations/captions_*.json, nor a zip that holds one; put them there")
    pictures = [PictureFolder(root, notice) for root in _roots(path)]
    examples: dict[str, Example] = {}
    failed: list[NoPictures] = []
    for listing in listings:
        try:
            found = _read_listing(listing, pictures, notice)
        except NoPictures as error:
            failed.append(error)
            continue
        twice = [example.id for example in found if example.id in examples]
        if twice:
            message = f"{listing} has {len(twice):,} pictures that another file of annotations has too ({few(twice)})"
            notice(Finding("repeated-picture", listing, f"{message}; keep one of the files"))
        for example in found:
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


def _roots(path: Path) -> list[Path]:
    """The folders below which the pictures of a folder, or of a file of annotations, may be."""
    if path.is_dir():
        return [path]
    if path.parent.name == "annotations":
        return [path.parent.parent, path.parent]
    return [path.parent, path.absolute().parent.parent]


def _read_listing(listing: str, places: Sequence[PictureFolder], notice: Notice) -> list[Example]:
    name = PurePosixPath(listing.replace("\\", "/")).stem.removeprefix("captions_")  # train2014
    content = read_json(listing, _Captions, _EXPECTED, notice)
    names = _read_names(content.images, listing, places[0].root, notice)
    gathered = Gathered(listing, notice, "annotation")
    for number, row in enumerate(content.annotations, 1):
        where = f"{listing}, annotation {number},"
        key = row.image_id
        if type(key) not in (int, str) or key not in names:
            message = f"{where} is of picture {key!r}, which is not among its images; remove it or add that"
            notice(Finding("row", where, message))
        elif (file_name := names[key]) is not None:
            gathered.add(file_name, row.caption, number)
    captions = ((number, row.caption) for number, row in enumerate(content.annotations, 1))
    notice_mojibake(captions, listing, "annotation", notice)
    order = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]
    files = [file_name for file_name in order if file_name is not None]
    silent = [file_name for file_name in files if file_name not in gathered.captions]
    if silent:
        message = f"{len(silent):,} of {len(names):,} images of {listing} have no caption ({few(silent)})"
        notice(Finding("caption", listing, f"{message}; they are left out", False))
    gathered.captions = {name: gathered.captions[name] for name in files if name in gathered.captions}
    split: Split | None = next((part for part in ("train", "val", "test") if name.startswith(part)), None)
    pictures, folders = find_folders(places, (name, "images", f"images/{name}", "."), gathered.captions)
    return gathered.examples(pictures, folders, split)


def _read_names(images: Sequence[_Image], listing: str, root: Path, notice: Notice) -> _Names:
    names: _Names = {}
    taken: set[str] = set()
    for number, image in enumerate(images, 1):
        where = f"{listing}, image {number},"
        if type(image.id) not in (int, str):
            message = f"{where} has the id {image.id!r}; give each picture a number of its own"
            notice(Finding("row", where, message))
            continue
        if image.id in names:
            other = names[image.id] or "another image"
            message = f"{where} has the id {image.id} of {other}; each picture has an id of its own"
            notice(Finding("repeated-picture", where, message))
            continue
        names[image.id] = None
        try:
            name = str(inside(image.file_name, where, root))
        except DataError as error:
            notice(Finding("path", where, str(error)))
            continue
        if name in taken:
            message = f"{where} is {name} again under another id; list each picture once"
            notice(Finding("repeated-picture", where, message))
        taken.add(name)
        names[image.id] = name
    return names
