"""Captions without pictures, which can train the words of a captioner: one `Example` a picture they were written for.

Accepted files:
    captions.jsonl      the native layout; lines of the `val` and `test` splits are left out
    *.json              COCO annotations: {"annotations": [{"image_id", "caption"}, …], "images": [{"id", "file_name"}]}
    Flickr8k.token.txt  `name.jpg#0<TAB>caption`; when Flickr_8k.trainImages.txt lies beside it, only its pictures
    *.txt               one caption a line, each of a picture of its own
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from showtell.datasets.files import check_caption, read_json, read_rows, read_text
from showtell.datasets.native import check_references, check_split, read_lines
from showtell.errors import DataError
from showtell.records import Example


def read_captions(path: str | Path) -> list[Example]:
    """The captions of a file, grouped by the picture they describe; no picture is looked for.

    Raises:
        DataError: The file is missing, empty, or not of a layout named above.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "captions.jsonl"
    if not path.is_file():
        raise DataError(f"there is no file of captions at {path}; accepted are .jsonl, COCO .json and .txt")
    readers = {".jsonl": _read_jsonl, ".json": _read_coco, ".txt": _read_text}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path} has an unknown suffix; accepted are {', '.join(readers)}")
    groups = reader(path)
    if not groups:
        raise DataError(f"{path} holds no caption of a training picture")
    return [Example(id=name, image=None, references=tuple(captions)) for name, captions in groups.items()]


def _read_jsonl(path: Path) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for where, row in read_lines(path):
        references = check_references(row, where)
        if check_split(row, where) == "train":
            groups.setdefault(str(row.get("image", where)), []).extend(references)
    return groups


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    caption: Any = None


class _Annotations(msgspec.Struct):
    annotations: list[_Annotation]
    images: list[_Image] = []


def _read_coco(path: Path) -> dict[str, list[str]]:
    content = read_json(path, _Annotations, 'COCO annotations ({"annotations": [...]})')
    names = {image.id: str(image.file_name) for image in content.images}
    groups: dict[str, list[str]] = {}
    for number, row in enumerate(content.annotations, 1):
        name = names.get(row.image_id, str(row.image_id))
        groups.setdefault(name, []).append(check_caption(row.caption, f"{path}, annotation {number} ({name}),"))
    return groups


def _read_text(path: Path) -> dict[str, list[str]]:
    rows = list(read_rows(path))
    parts = [line.partition("\t") for _, line in rows]
    if not all(tab and "#" in name for name, tab, _ in parts):
        return {where.removeprefix(f"{path.parent}/"): [check_caption(line, where)] for where, line in rows}
    listing = path.with_name("Flickr_8k.trainImages.txt")
    kept = set(read_text(listing).split()) if listing.is_file() else None
    groups: dict[str, list[str]] = {}
    for (where, _), (name, _, caption) in zip(rows, parts, strict=True):
        image = name.rpartition("#")[0]
        if kept is None or image in kept:
            groups.setdefault(image, []).append(check_caption(caption, where))
    return groups
