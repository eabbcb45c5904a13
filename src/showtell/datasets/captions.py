"""Captions without pictures, which can train the words of a captioner: one `Example` a picture they were written for.

Accepted files:
    captions.jsonl      the native layout; lines of the `val` and `test` splits are left out
    *.json              COCO annotations: {"annotations": [{"image_id", "caption"}, …], "images": [{"id", "file_name"}]}
    Flickr8k.token.txt  `name.jpg#0<TAB>caption`; when Flickr_8k.trainImages.txt lies beside it, only its pictures
    *.txt               one caption a line, each of a picture of its own
"""

from __future__ import annotations

import json
from pathlib import Path

from showtell.datasets.native import check_references, read_lines
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
        if row.get("split", "train") == "train":
            groups[str(row.get("image", where))] = list(check_references(row, where))
    return groups


def _read_coco(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text("utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in content.get("images", [])}
        groups: dict[str, list[str]] = {}
        for row in content["annotations"]:
            name = names.get(row["image_id"], str(row["image_id"]))
            groups.setdefault(name, []).append(str(row["caption"]))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is not COCO annotations ({{"annotations": [...]}}): {error!r}') from error
    return groups


def _read_text(path: Path) -> dict[str, list[str]]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    rows = [line.partition("\t") for line in lines if line.strip()]
    if not all(tab and "#" in name for name, tab, _ in rows):
        return {f"{path.name}:{number}": [line] for number, line in enumerate(lines, 1) if line.strip()}
    listing = path.with_name("Flickr_8k.trainImages.txt")
    kept = set(listing.read_text("utf-8").split()) if listing.is_file() else None
    groups: dict[str, list[str]] = {}
    for name, _, caption in rows:
        image = name.rpartition("#")[0]
        if kept is None or image in kept:
            groups.setdefault(image, []).append(caption)
    return groups
