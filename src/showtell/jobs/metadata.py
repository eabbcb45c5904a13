"""Alt text -> the metadata of pictures (JPEG, PNG, WebP, TIFF) or a sidecar `.xmp`, through exiftool.

`showtell.jobs.fields` says where the text stands there, and whose text it is; people's texts stay.

No pixel is touched: exiftool writes a copy, of which every part that is not metadata must be the same as in the picture
(`showtell.jobs.unchanged`). Only then does the copy take the picture's place, at once, with its permissions, owner and
extended attributes. Its time of change becomes the present, so that backups and indexes notice, unless that of before
is asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from showtell.errors import DataError
from showtell.images import DEFAULT_LIMITS, Source
from showtell.jobs import fields
from showtell.jobs.alttext import AltText, Describer
from showtell.jobs.exiftool import ExifTool
from showtell.jobs.fields import Described
from showtell.jobs.replacing import replace_file
from showtell.jobs.unchanged import check_unchanged
from showtell.jobs.webp import join_webp, split_webp
from showtell.records import Failure

State = Literal["written", "kept", "unsure", "failed"]

_MAGIC = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG\r\n\x1a\n", "png"), (b"II*\0", "tif"), (b"MM\0*", "tif"))


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """Where alt text goes, and what it may replace.

    Attributes:
        sidecar: Into `photo.jpg.xmp` instead of the picture.
        exif: Into EXIF's ImageDescription too (of JPEG, PNG and TIFF).
        renew: Replace texts that this package wrote.
        overwrite: Replace texts that people wrote too.
        keep_time: The picture keeps its time of change.
        dry: Nothing is written.
        model: What is said to have written the text.
    """

    sidecar: bool = False
    exif: bool = False
    renew: bool = False
    overwrite: bool = False
    keep_time: bool = False
    dry: bool = False
    model: str = "showtell"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a picture.

    Attributes:
        state: `written` (with `dry`: would be), `kept` (it has alt text), `unsure` (the model is), or `failed`.
        text: The alt text that it has now.
        error: Why it failed.
    """

    image: str
    state: State
    text: str | None = None
    confidence: float | None = None
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"image": self.image, "state": self.state}
        if self.text is not None:
            out["alt"] = self.text
        if self.confidence is not None:
            out["confidence"] = round(self.confidence, 4)
        if self.error is not None:
            out["error"] = self.error
        return out


def describe_pictures(
    paths: Iterable[Path], describe: Describer, metadata: Metadata, options: WriteOptions
) -> Iterator[Outcome]:
    """Writes alt text into pictures that have none, and says of each picture, in order, what became of it.

    Only pictures that want a text are captioned. Any number of pictures takes the same memory.
    """
    waiting: deque[tuple[Path, Outcome | None]] = deque()

    def wanting() -> Iterator[Source]:
        for path in paths:
            known = _look(path, metadata, options)
            waiting.append((path, known))
            if known is None:
                yield path

    for said in describe(wanting()):
        while (known := waiting[0][1]) is not None:
            waiting.popleft()
            yield known
        yield _put(waiting.popleft()[0], said, metadata, options)
    for _, known in waiting:
        if known is not None:
            yield known


def _look(path: Path, metadata: Metadata, options: WriteOptions) -> Outcome | None:
    """What is known of a picture without captioning it; None where it wants a text."""
    try:
        found = metadata.read(path)
    except DataError as error:
        return Outcome(str(path), "failed", error=str(error))
    is_free = found.alt is None or options.overwrite or (options.renew and not found.by_a_person)
    return None if is_free else Outcome(str(path), "kept", found.alt)


def _put(path: Path, said: AltText | Failure, metadata: Metadata, options: WriteOptions) -> Outcome:
    if isinstance(said, Failure):
        return Outcome(str(path), "failed", error=said.error)
    if said.text is None:
        return Outcome(str(path), "unsure", confidence=said.confidence)
    try:
        changed = metadata.write(path, said.text, options)
    except DataError as error:
        return Outcome(str(path), "failed", error=str(error))
    return Outcome(str(path), "written" if changed else "kept", said.text, said.confidence)


def sidecar_of(path: Path) -> Path:
    """`photo.jpg.xmp` beside `photo.jpg`, as darktable and digiKam name it."""
    return path.with_name(f"{path.name}.xmp")


class Metadata:
    """Reads and writes the alt text of pictures; one exiftool runs from the first picture to `close`.

    Use it in a `with`.

    Raises:
        BackendError: There is no exiftool.
    """

    def __init__(self) -> None:
        self._tool = ExifTool(fields.CONFIG)

    def __enter__(self) -> Metadata:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends exiftool."""
        self._tool.close()

    def read(self, path: Path) -> Described:
        """What a picture and its sidecar say; the sidecar comes first.

        Raises:
            DataError: The picture cannot be read, or is damaged.
        """
        inside = fields.describe(self._tool.read(path, _kind(path), fields.READ))
        sidecar = sidecar_of(path)
        if not sidecar.is_file():
            return inside
        beside = fields.describe(self._tool.read(sidecar, "xmp", fields.READ))
        return Described(beside.alt or inside.alt, beside.caption or inside.caption, beside.ours or inside.ours)

    def write(self, path: Path, text: str, options: WriteOptions) -> bool:
        """Puts alt text into a picture or its sidecar; False where the same is there.

        A description that a person wrote stays, unless `options.overwrite`.

        Raises:
            DataError: The picture cannot be changed, or not without touching its pixels; it is as it was.
        """
        place = Path(os.path.realpath(sidecar_of(path) if options.sidecar else path))
        is_new = options.sidecar and not place.exists()
        kind = "xmp" if options.sidecar else _kind(place)
        if kind is None:
            raise DataError(
                f"{path} is no JPEG, PNG, WebP or TIFF; --into sidecars writes its alt text into a file beside it"
            )
        found = self.read(path)
        if found.alt == text and found.ours == text and not options.exif:
            return False
        if options.dry:
            return True
        before = None if is_new else _read(place)
        if before is not None and not os.access(place, os.W_OK):
            raise DataError(f"{place} is write-protected; change its permissions, or use --into sidecars")
        exif = options.exif and not options.sidecar
        arguments = fields.assign(text, found, options.model, overwrite=options.overwrite, exif=exif)
        after = self._edit(arguments, kind, before, place)
        if before is not None:
            if kind != "xmp":
                check_unchanged(before, after, kind, place)
            if _read(place) != before:
                raise DataError(f"{place} was changed by another program meanwhile; run the command again")
        try:
            replace_file(place, after, keep_time=options.keep_time)
        except OSError as error:
            raise DataError(f"cannot write {place} ({error.strerror or error}); it is as it was") from error
        return True

    def _edit(self, arguments: list[str], kind: str, before: bytes | None, place: Path) -> bytes:
        """What exiftool makes of a file (None: there is none yet), of WebP of the XMP alone.

        exiftool itself writes WebP only from 12.58 on, which distributions lack.
        """
        if before is None or kind != "webp":
            return self._tool.edit(arguments, kind, None if before is None else place, place)
        try:
            chunks = split_webp(before)
            packet = next((content for name, content in chunks if name == b"XMP "), None)
            arguments = [argument for argument in arguments if argument.startswith("-XMP")]
            return join_webp(chunks, self._tool.edit(arguments, "xmp", packet, place))
        except ValueError as error:
            raise DataError(f"{place} is damaged ({error}); it was left alone") from error


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > DEFAULT_LIMITS.max_bytes:
            raise DataError(f"{path} has more than {DEFAULT_LIMITS.max_bytes:,} bytes; use --into sidecars")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error


def _kind(path: Path) -> str | None:
    """The format that the first bytes say a file has, as the suffix that exiftool expects; None of another one."""
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror or error}); check its permissions") from error
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return "webp"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), None)
