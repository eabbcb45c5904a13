"""Files of captions -> `{image id: caption}` to score, or `{image id: [captions]}` to score against.

Accepted, by content (ids become strings):
    [{"image_id": 42, "caption": "…"}, …]                        COCO results
    {"annotations": [{"image_id": 42, "caption": "…"}, …], …}    COCO annotations
    {"a.jpg": "…"} or {"a.jpg": ["…", …]}                        plain
    {"image": "a.jpg", "caption": "…"} a line                    what `showtell caption --json` prints
    {"image": "a.jpg", "captions": ["…", …]} a line              the native captions.jsonl
A row with `error` in place of a caption is refused: counting it as an empty caption would punish the captioner for a
broken file, and leaving it out would score fewer pictures than the references name without saying so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from showtell.errors import DataError

_ACCEPTED = (
    'accepted are COCO results or annotations, {"id": "caption"}, '
    'and JSONL lines with "image" and "caption" or "captions"'
)


def read_candidates(path: str | Path) -> dict[str, str]:
    """One caption a picture.

    Raises:
        DataError: The file is missing, empty, broken or of another form, a picture has several captions, or a row
            carries an error instead of a caption.
    """
    found: dict[str, str] = {}
    for where, image, captions in _rows(Path(path)):
        if len(captions) != 1 or image in found:
            raise DataError(
                f"{where} gives {image!r} {'no' if not captions else 'more than one'} caption; a file of candidates "
                "has one a picture"
            )
        found[image] = captions[0]
    return found


def read_references(path: str | Path) -> dict[str, list[str]]:
    """The captions that people wrote of each picture, in the order of the file.

    Raises:
        DataError: The file is missing, empty, broken or of another form, or a picture has an empty list.
    """
    found: dict[str, list[str]] = {}
    for where, image, captions in _rows(Path(path)):
        if not captions:
            raise DataError(f"{where} gives {image!r} no caption; each picture needs one or more references")
        found.setdefault(image, []).extend(captions)
    return found


def match_ids(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The candidates under the references' ids.

    When not one id is on both sides, ids are matched by file stem: `photos/a.jpg` is `a.png`, and a stem of digits is
    its number, so that COCO's 139 is `000000000139.jpg`.

    Raises:
        DataError: Ids would be matched by stem, but two of one side share a stem.
    """
    if not candidates.keys().isdisjoint(references):
        return dict(candidates)
    ours, theirs = _stems(candidates), _stems(references)
    if ours.keys().isdisjoint(theirs):
        return dict(candidates)
    for side, ids, stems in (("candidates", candidates, ours), ("references", references, theirs)):
        if len(stems) < len(ids):
            twice = next(image for image in ids if stems[_stem(image)] != image)
            raise DataError(
                f"{twice!r} and {stems[_stem(twice)]!r} of the {side} have one file name, so they cannot be "
                "told apart; use the same ids for candidates and references"
            )
    return {theirs.get(stem, image): candidates[image] for stem, image in ours.items()}


def _stems(ids: Mapping[str, object]) -> dict[str, str]:
    return {_stem(image): image for image in ids}


def _stem(image: str) -> str:
    stem = PurePosixPath(image.replace("\\", "/")).stem
    return stem.lstrip("0") or "0" if stem.isascii() and stem.isdigit() else stem


def _rows(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(where, image id, captions) of each entry."""
    failed: list[str] = []
    none = True
    for where, row in _objects(path):
        none = False
        image = next((row[key] for key in ("image", "image_id") if key in row), None)
        if not isinstance(image, str | int) or isinstance(image, bool) or image == "":
            raise DataError(f'{where} has no "image" or "image_id"; {_ACCEPTED}')
        if "error" in row and "caption" not in row and "captions" not in row:
            failed.append(f"{image!r} at {where}")
            continue
        captions = row.get("captions", [row["caption"]] if "caption" in row else None)
        if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
            raise DataError(f"{where} has no caption of {str(image)!r} that is text; {_ACCEPTED}")
        yield where, str(image), captions
    if failed:
        many = "1 picture has" if len(failed) == 1 else f"{len(failed)} pictures have"
        raise DataError(
            f"{many} an error instead of a caption ({', '.join(failed[:3])}{', …' if len(failed) > 3 else ''}); "
            "mend and caption them again, or take them out of the candidates and the references"
        )
    if none:
        raise DataError(f"{path}:1 holds no captions; {_ACCEPTED}")


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    text = _read(path)
    if path.suffix.lower() == ".jsonl" or _looks_like_lines(text):
        yield from _lines(path, text)
        return
    content = _parse(text, path, 1)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]
    if isinstance(content, dict):
        for image, captions in content.items():
            yield (
                f"{path}, entry {image!r},",
                {
                    "image": image,
                    "captions": [captions] if isinstance(captions, str) else captions,
                },
            )
        return
    if not isinstance(content, list):
        raise DataError(f"{path}:1 is {type(content).__name__}, not captions; {_ACCEPTED}")
    for number, row in enumerate(content, 1):
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number}, is {type(row).__name__}, not an object; {_ACCEPTED}")
        yield f"{path}, entry {number},", row


def _read(path: Path) -> str:
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; {_ACCEPTED}") from error
    if not text.strip():
        raise DataError(f"{path}:1 is empty; {_ACCEPTED}")
    return text


def _looks_like_lines(text: str) -> bool:
    """Whether the first line is an object of its own that names its image."""
    try:
        first = json.loads(text.lstrip().split("\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and ("image" in first or "image_id" in first)


def _lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = _parse(line, path, number)
        if not isinstance(row, dict):
            raise DataError(f"{path}:{number} is {type(row).__name__}, not an object; {_ACCEPTED}")
        yield f"{path}:{number}", row


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = line + error.lineno - 1
        raise DataError(f"{path}:{at} is not JSON ({error.msg}, column {error.colno}); {_ACCEPTED}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}:{line} is not JSON that can be read ({error}); {_ACCEPTED}") from error
