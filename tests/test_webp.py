"""Chunks of WebP files, against Pillow, and files that are cut short."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from showtell.jobs.webp import join_webp, split_webp


def encoded(size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise(size, 80).convert("RGBA" if options.pop("alpha", False) else "RGB").save(
        buffer, "WEBP", **options
    )
    return buffer.getvalue()


FORMS: list[dict[str, Any]] = [{}, {"lossless": True}, {"alpha": True}, {"lossless": True, "alpha": True}]


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("size", [(33, 20), (1, 1), (300, 7)])
def test_a_packet_is_joined_renewed_and_the_picture_stays(options: dict[str, Any], size: tuple[int, int]) -> None:
    data = encoded(size, **options)
    once = join_webp(split_webp(data), b"<first/>")
    twice = join_webp(split_webp(once), b"<second>")
    assert [content for name, content in split_webp(twice) if name == b"XMP "] == [b"<second>"]
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(twice))
    assert (after.size, after.info["xmp"]) == (size, b"<second>")
    assert after.convert("RGBA").tobytes() == before.convert("RGBA").tobytes()


@pytest.mark.parametrize("options", FORMS)
def test_what_is_cut_short_is_refused_and_nothing_else_is_raised(options: dict[str, Any]) -> None:
    data = encoded((20, 20), **options)
    for end in range(12, len(data) - 1):  # the last byte may be a filler
        with pytest.raises(ValueError, match="its end is missing"):
            split_webp(data[:end])
        cut = data[:4] + (end - 8).to_bytes(4, "little") + data[8:end]
        with pytest.raises(ValueError, match=r"a chunk is cut off|it has no picture"):
            split_webp(cut)
    name = data[12:16]
    for length in range(12):
        short = b"RIFF" + (12 + length + length % 2).to_bytes(4, "little") + b"WEBP" + name
        short += length.to_bytes(4, "little") + bytes(length + length % 2)
        if length < (5 if name == b"VP8L" else 10) or name == b"VP8 ":
            with pytest.raises(ValueError, match=r"it has no picture|a side of it has no pixels"):
                join_webp(split_webp(short), b"")
        else:
            assert split_webp(join_webp(split_webp(short), b""))[0][0] == b"VP8X"
