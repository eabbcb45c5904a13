"""The bytes of a WebP <-> its chunks: (name, content) pairs.

Source: WebP Container Specification.
"""

from __future__ import annotations

import struct

Chunks = list[tuple[bytes, bytes]]

_LEAST = {b"VP8L": 5}  # bytes of a first chunk that say how large the picture is; of the others 10


def split_webp(data: bytes) -> Chunks:
    """The chunks of a WebP.

    Raises:
        ValueError: One is cut off, or the first is no picture.
    """
    chunks, at, end = [], 12, 8 + int.from_bytes(data[4:8], "little")
    if len(data) < end:
        raise ValueError("its end is missing")
    while at + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise ValueError("a chunk is cut off")
        chunks.append((name, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if not chunks or len(chunks[0][1]) < _LEAST.get(chunks[0][0], 10):
        raise ValueError("it has no picture")
    return chunks


def join_webp(chunks: Chunks, packet: bytes) -> bytes:
    """A WebP of these chunks and an XMP packet, in its extended form.

    Raises:
        ValueError: The picture has a side without pixels.
    Source: WebP Container Specification, "Extended File Format".
    """
    if chunks[0][0] == b"VP8X":
        head, chunks = bytearray(chunks[0][1]), chunks[1:]
    else:
        head = _extended_header(*chunks[0])
    rest = [chunk for chunk in chunks if chunk[0] != b"XMP "]
    head[0] |= 0x04  # there is XMP
    body = b"WEBP"
    for name, content in [(b"VP8X", bytes(head)), *rest, (b"XMP ", packet)]:
        body += name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _extended_header(name: bytes, content: bytes) -> bytearray:
    """What the header of the extended form says of a picture that has none."""
    if name == b"VP8L":  # after a byte of signature: 14 bits of width - 1, 14 of height - 1, 1 of alpha
        bits = int.from_bytes(content[1:5], "little")
        right, bottom, alpha = bits & 0x3FFF, bits >> 14 & 0x3FFF, bits >> 28 & 1
    else:  # after 6 bytes of frame tag and start code: 14 bits of width, 2 of scale, the same of height
        right, bottom = ((side & 0x3FFF) - 1 for side in struct.unpack_from("<HH", content, 6))
        alpha = 0
        if min(right, bottom) < 0:
            raise ValueError("a side of it has no pixels")
    return bytearray([alpha << 4, 0, 0, 0, *right.to_bytes(3, "little"), *bottom.to_bytes(3, "little")])
