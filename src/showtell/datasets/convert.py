"""Examples of any layout -> a folder in the native layout, its pictures copied or made smaller.

A picture is written under another name first and then renamed, and `captions.jsonl` comes last, so that a conversion
that was stopped goes on where it was: pictures that are there are not read again. `conversion.json` says how they were
made: {"size": 400}, in pixels of the longer side, or null for copies.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath

from showtell.datasets.files import Notice, read_bytes, refuse
from showtell.datasets.native import LISTING, write_line
from showtell.errors import DataError, ImageError
from showtell.images import read_image
from showtell.records import Example, Finding, Region

QUALITY = 90  # of the JPEGs that are written
_CHUNK = 64  # pictures under way at a time
_SETTINGS = "conversion.json"
_JPEG = (".jpg", ".jpeg")


def convert(
    examples: Sequence[Example],
    out: str | Path,
    *,
    size: int | None = None,
    notice: Notice = refuse,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> int:
    """Writes a folder in the native layout and returns how many pictures it holds.

    Every picture is decoded, so that only pictures get in; those that cannot be read are noticed and left out.

    Args:
        out: A new or empty folder, or the one of a conversion that was stopped.
        size: Pictures become upright JPEGs (quality 90) without metadata whose longer side has at most so many
            pixels, and boxes shrink with them; JPEGs that are small enough stay as they are. None copies all files.

    Raises:
        DataError: `out` holds something else or a conversion of another size, or no picture can be read.
    """
    out = Path(out)
    _open(out, size)
    targets = _targets(examples, size)
    write = partial(_write, out=out, size=size)
    lines: list[str] = []
    done = 0
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(examples), _CHUNK):
            part = examples[start : start + _CHUNK]
            results = pool.map(write, part, targets[start : start + _CHUNK])
            for example, target, written in zip(part, targets[start : start + _CHUNK], results, strict=True):
                if isinstance(written, ImageError):
                    where = str(example.image)
                    notice(Finding("unreadable-picture", where, f"{written}; it is left out", False))
                else:
                    lines.append(write_line(written, str(target)))
            done += len(part)
            progress("converting", done, len(examples))
    if not lines:
        raise DataError(f"none of the {len(examples)} pictures can be read; nothing was converted to {out}")
    _replace(out / LISTING, "".join(lines).encode())
    return len(lines)


def _open(out: Path, size: int | None) -> None:
    settings = out / _SETTINGS
    if out.is_dir() and any(out.iterdir()):
        try:
            before = json.loads(settings.read_text("utf-8"))["size"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{out} is not empty and holds no conversion that was stopped; name a new folder"
            ) from error
        if before != size:
            raise DataError(
                f"{out} was begun with size {before}, this conversion has {size}; use that size or a new folder"
            )
    elif out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; name a folder to write to")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _replace(settings, json.dumps({"size": size}).encode())
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error.strerror}") from error


def _targets(examples: Sequence[Example], size: int | None) -> list[PurePosixPath]:
    """Where each picture goes, a path inside the folder that no other picture has."""
    taken: set[str] = set()
    targets = []
    for example in examples:
        inside = PurePosixPath(example.id)
        if not inside.suffix and example.image is not None:
            inside = inside.with_name(inside.name + PurePosixPath(example.image).suffix)
        path = inside if inside.parts[0] == "images" and len(inside.parts) > 1 else "images" / inside
        if size is not None and path.suffix.lower() not in _JPEG:
            path = path.with_suffix(".jpg")
        if str(path).lower() in taken:  # a.png beside a.jpg, or names that differ in case alone
            path = path.with_name(f"{inside.name}.{len(taken)}{path.suffix}")
        taken.add(str(path).lower())
        targets.append(path)
    return targets


def _write(example: Example, target: PurePosixPath, *, out: Path, size: int | None) -> Example | ImageError:
    """The example with its boxes as the written picture has them, or why its picture cannot be read."""
    path = out / target
    if path.exists() and (size is None or not example.regions):
        return example
    source = str(example.image)
    try:
        picture = read_image(source, draft=None if size is None or example.regions else 2 * size)
    except ImageError as error:
        return error
    scale = 1.0 if size is None else min(1.0, size / max(picture.size))
    if size is None or (scale == 1 and path.suffix.lower() in _JPEG and source.lower().endswith(_JPEG)):
        data = read_bytes(source)
    else:
        smaller = picture.resize([max(1, round(side * scale)) for side in picture.size]) if scale < 1 else picture
        written = io.BytesIO()
        smaller.save(written, "JPEG", quality=QUALITY)
        data = written.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, data)
    if scale == 1 or not example.regions:
        return example
    return replace(example, regions=tuple(_shrink(region, scale) for region in example.regions))


def _shrink(region: Region, scale: float) -> Region:
    x0, y0, x1, y1 = region.box
    return replace(region, box=(scale * x0, scale * y0, scale * x1, scale * y1))


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; what is there stays, run it again to go on") from error
