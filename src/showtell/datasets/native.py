"""The native layout: a folder with `captions.jsonl` and the pictures it names.

One JSON object a line:
    {"image": "images/a.jpg", "captions": ["…", …], "split": "train"}
`image` is a path inside the folder; plainly spelt (`images/a.jpg` for `.\\images\\a.jpg`) it is the picture's id.
`split` is train, val or test (train when absent).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from showtell.errors import DataError
from showtell.records import SPLITS, Example, Split


def read_native(folder: str | Path) -> list[Example]:
    """The examples of a folder, in the order of its lines; each picture is there and has captions.

    Raises:
        DataError: The folder or its captions.jsonl is missing, or a line is not as the layout says; the sentence
            names the line.
    """
    folder = Path(folder)
    listing = folder / "captions.jsonl"
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give a folder with captions.jsonl and its pictures")
    if not listing.is_file():
        raise DataError(
            f'{folder} has no captions.jsonl; it needs one line a picture: {{"image": "images/a.jpg", '
            '"captions": ["…"], "split": "train"}'
        )
    examples: dict[str, Example] = {}
    on_disk: dict[Path, frozenset[str]] = {}
    for where, row in read_lines(listing):
        example = _example(row, where, folder)
        if example.id in examples:
            first = examples[example.id].split
            trouble = f"in {example.split}, and earlier in {first}" if first != example.split else "a second time"
            raise DataError(f"{where} lists {example.id!r} {trouble}; a picture has one line and one split")
        path = Path(str(example.image))
        if path.parent not in on_disk:
            on_disk[path.parent] = _names(path.parent)
        if path.name not in on_disk[path.parent]:
            raise DataError(
                f"{where} names {example.id!r}, which is not in {folder}; add the picture or remove the line"
            )
        examples[example.id] = example
    if not examples:
        raise DataError(f"{listing} is empty; it needs one line a picture")
    return list(examples.values())


def read_folders(folders: Iterable[str | Path]) -> list[Example]:
    """The examples of several folders, one after the other.

    Raises:
        DataError: As `read_native`, or two folders have a picture of the same id.
    """
    examples: dict[str, Example] = {}
    for folder in folders:
        for example in read_native(folder):
            if example.id in examples:
                raise DataError(
                    f"both {examples[example.id].image} and {example.image} have the id {example.id!r}; ids must "
                    f"differ: put the pictures of {folder} in a folder of another name, in its captions.jsonl too"
                )
            examples[example.id] = example
    return list(examples.values())


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:line`, object) of each line of a JSONL file that is not blank."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if "\\ud" in line.lower():
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where} holds half a character (\\ud800 to \\udfff alone); write it whole") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}; each line is one object with image and captions") from error
    if not isinstance(row, dict):
        raise DataError(f"{where} is {type(row).__name__}, not an object with image and captions")
    return row


def _example(row: dict[str, Any], where: str, folder: Path) -> Example:
    image = row.get("image")
    if not isinstance(image, str) or not image:
        raise DataError(f'{where} has no "image", the path of a picture inside {folder}')
    inside = PurePosixPath(image.replace("\\", "/"))
    if not inside.parts or inside.is_absolute() or ".." in inside.parts or ":" in inside.parts[0]:
        raise DataError(f"{where} names {image!r}, which is not inside {folder}; use a path below the folder")
    return Example(
        id=str(inside),
        image=str(folder / inside),
        references=check_references(row, where),
        split=check_split(row, where),
    )


def check_split(row: dict[str, Any], where: str) -> Split:
    """The split of a row, `train` when it names none.

    Raises:
        DataError: It is none of the three.
    """
    split = row.get("split", "train")
    if split not in SPLITS:
        raise DataError(f"{where} has split {split!r}; accepted are {', '.join(SPLITS)}")
    return cast(Split, split)


def check_references(row: dict[str, Any], where: str) -> tuple[str, ...]:
    """The captions of a row.

    Raises:
        DataError: There are none, or one is not text or is empty.
    """
    captions = row.get("captions")
    if not isinstance(captions, list) or not captions:
        raise DataError(f'{where} has no "captions", a list of at least one caption')
    for number, caption in enumerate(captions, 1):
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(
                f"{where} has an empty caption (number {number} of {len(captions)}); write one or remove it"
            )
    return tuple(captions)


def _names(folder: Path) -> frozenset[str]:
    try:
        return frozenset(entry.name for entry in folder.iterdir())
    except (OSError, ValueError):  # no such folder, or a name that none can have
        return frozenset()
