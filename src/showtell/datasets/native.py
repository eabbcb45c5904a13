"""The native layout: a folder with `captions.jsonl` and the pictures it names.

One JSON object a line:
    {"image": "images/a.jpg", "captions": ["…", …], "split": "train"}
`image` is a path inside the folder; plainly spelt (`images/a.jpg` for `.\\images\\a.jpg`) it is the picture's id.
`split` is train, val or test. Where no line names one, the set has no splits; otherwise a line without is train.
`regions`, where pictures have them, is [{"box": [x0, y0, x1, y1], "phrases": ["…"], "category": "dog"}, …], in
pixels of the upright picture; a picture with regions may have no captions.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from showtell.datasets.files import Notice, PictureFolder, check_caption, inside, read_rows, refuse
from showtell.errors import DataError
from showtell.records import SPLITS, Example, Finding, Region, Split

LISTING = "captions.jsonl"


def read_native(folder: str | Path, notice: Notice = refuse) -> list[Example]:
    """The examples of a folder, in the order of its lines; each picture is there and has captions.

    Raises:
        DataError: The folder or its captions.jsonl is missing or empty. What is wrong with a line goes to `notice`,
            which raises it unless another is given.
    """
    folder = Path(folder)
    listing = folder / LISTING
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give a folder with captions.jsonl and its pictures")
    if not listing.is_file():
        raise DataError(
            f'{folder} has no captions.jsonl; it needs one line a picture: {{"image": "images/a.jpg", '
            '"captions": ["…"], "split": "train"}'
        )
    examples: dict[str, Example] = {}
    pictures = PictureFolder(folder, notice)
    splits = False
    for where, row in read_lines(listing, notice):
        try:
            example = _example(row, where, pictures)
            _check_once(example, where, examples)
        except DataError as error:
            notice(Finding("row", where, str(error)))
            continue
        splits = splits or "split" in row
        examples[example.id] = example
    if not examples:
        raise DataError(f"{listing} has no line that can be used; it needs one line a picture")
    if splits:
        return list(examples.values())
    return [replace(example, split=None) for example in examples.values()]


def read_lines(path: Path, notice: Notice = refuse) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`path:line`, object) of each line of a JSONL file that is not blank."""
    for where, line in read_rows(path, notice):
        try:
            row = _parse(line, where)
        except DataError as error:
            notice(Finding("row", where, str(error)))
        else:
            yield where, row


def write_line(example: Example, image: str) -> str:
    """The line of captions.jsonl for an example whose picture is at `image`, a path inside the folder."""
    row: dict[str, Any] = {"image": image, "captions": example.references}
    if example.split is not None:
        row["split"] = example.split
    if example.regions:
        row["regions"] = [
            {"box": region.box, "phrases": region.phrases, "category": region.category} for region in example.regions
        ]
    return json.dumps(row, ensure_ascii=False) + "\n"


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


def _example(row: dict[str, Any], where: str, pictures: PictureFolder) -> Example:
    image = row.get("image")
    if not isinstance(image, str) or not image:
        raise DataError(f'{where} has no "image", the path of a picture inside {pictures.root}')
    path = inside(image, where, pictures.root)
    regions = _regions(row, where)
    example = Example(
        id=str(path),
        image=pictures.find(path),
        references=() if regions and not row.get("captions") else check_references(row, where),
        split=check_split(row, where),
        regions=regions,
    )
    if example.image is None:
        raise DataError(
            f"{where} names {example.id!r}, which is not in {pictures.root}; add the picture or remove the line"
        )
    return example


def _check_once(example: Example, where: str, earlier: dict[str, Example]) -> None:
    if example.id in earlier:
        first = earlier[example.id].split
        trouble = f"in {example.split}, and earlier in {first}" if first != example.split else "a second time"
        raise DataError(f"{where} lists {example.id!r} {trouble}; a picture has one line and one split")


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
    clean = []
    for number, caption in enumerate(captions, 1):
        if not isinstance(caption, str) or not caption.strip():
            raise DataError(
                f"{where} has an empty caption (number {number} of {len(captions)}); write one or remove it"
            )
        clean.append(check_caption(caption, where))
    return tuple(clean)


def _regions(row: dict[str, Any], where: str) -> tuple[Region, ...]:
    try:
        return tuple(_region(region) for region in row.get("regions", ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f'{where} has "regions" that cannot be read ({error!r}); accepted is '
            '[{"box": [x0, y0, x1, y1], "phrases": ["…"], "category": "dog"}, …]'
        ) from error


def _region(row: dict[str, Any]) -> Region:
    x0, y0, x1, y1 = (float(value) for value in row["box"])
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"the box {row['box']} is empty")
    category = row.get("category")
    return Region(
        (x0, y0, x1, y1), tuple(map(str, row.get("phrases", ()))), None if category is None else str(category)
    )
