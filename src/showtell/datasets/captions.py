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


def _read_coco(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(_read(path))
        names = {image["id"]: str(image["file_name"]) for image in content.get("images", [])}
        groups: dict[str, list[str]] = {}
        for row in content["annotations"]:
            name = names.get(row["image_id"], str(row["image_id"]))
            groups.setdefault(name, []).extend(check_references({"captions": [row["caption"]]}, f"{path}: {name}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f'{path} is not COCO annotations ({{"annotations": [...]}}): {error!r}') from error
    return groups


def _read_text(path: Path) -> dict[str, list[str]]:
    lines = _read(path).splitlines()
    rows = [line.partition("\t") for line in lines if line.strip()]
    if not all(tab and "#" in name for name, tab, _ in rows):
        return {f"{path.name}:{number}": [line] for number, line in enumerate(lines, 1) if line.strip()}
    listing = path.with_name("Flickr_8k.trainImages.txt")
    kept = set(_read(listing).split()) if listing.is_file() else None
    groups: dict[str, list[str]] = {}
    for name, _, caption in rows:
        image = name.rpartition("#")[0]
        if kept is None or image in kept:
            groups.setdefault(image, []).append(caption)
    return groups


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
