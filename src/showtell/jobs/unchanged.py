"""A picture before and after its metadata was written -> a refusal, where anything else would differ.

Every part that is not metadata must have the same bytes (JPEG, PNG, WebP), and every frame must decode to the same
samples (TIFF, whose parts move, and WebP).
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image, ImageSequence

from showtell.errors import DataError
from showtell.jobs.webp import split_webp


def check_unchanged(before: bytes, after: bytes, kind: str, path: Path) -> None:
    """Refuses a copy that shows anything else.

    Args:
        kind: The format: jpg, png, webp or tif.

    Raises:
        DataError: A part that is not metadata differs, or the picture is too damaged to say.
    """
    parts = {"jpg": _jpeg_parts, "png": _png_parts, "webp": _webp_parts, "tif": _decoded}[kind]
    try:
        was, is_now = ([_turn(data), *parts(data)] for data in (before, after))
    except Exception as error:  # decoders raise whatever their parsers stumble on
        raise DataError(f"{path} is damaged ({error or type(error).__name__}); it was left alone") from error
    if was != is_now:
        raise DataError(f"exiftool would change more of {path} than its metadata; it was left alone: --into sidecars")


def _turn(data: bytes) -> bytes:
    """The EXIF orientation, which is metadata that shows."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "TIFF")) as picture:
        return str(picture.getexif().get(ExifTags.Base.Orientation, 1)).encode()


def _jpeg_parts(data: bytes) -> Iterator[bytes]:
    """Every segment but EXIF, XMP and the index of further pictures, and all from the first scan on."""
    at = 2
    while True:
        while data[at : at + 2] == b"\xff\xff":  # padding
            at += 1
        if data[at : at + 1] != b"\xff":
            raise ValueError("a segment does not begin where the one before ends")
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            yield data[at:]
            return
        segment = data[at : at + 2 + length]
        if length < 2 or len(segment) < 2 + length:
            raise ValueError("a segment is cut off")
        is_metadata = marker == 0xE1 or (marker == 0xE2 and segment[4:8] == b"MPF\0")
        if not is_metadata:
            yield segment
        at += 2 + length


def _png_parts(data: bytes) -> Iterator[bytes]:
    """Every chunk but text, EXIF and the time, and what follows the last."""
    yield data[:8]
    at = 8
    while at < len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise ValueError("a chunk is cut off")
        if name not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"):
            yield chunk
        at += 12 + length
        if name == b"IEND":
            yield data[at:]
            return
    raise ValueError("its end is missing")


def _webp_parts(data: bytes) -> Iterator[bytes]:
    """Every chunk but EXIF, XMP and the header that announces them, and what the picture decodes to."""
    yield from (name + content for name, content in split_webp(data) if name not in (b"VP8X", b"EXIF", b"XMP "))
    yield from _decoded(data)


def _decoded(data: bytes) -> Iterator[bytes]:
    """What each frame decodes to."""
    with Image.open(io.BytesIO(data), formats=("WEBP", "TIFF")) as picture:
        for frame in ImageSequence.Iterator(picture):
            yield f"{frame.mode} {frame.size} {frame.info.get('duration')}".encode()
            yield hashlib.sha256(frame.tobytes()).digest()
