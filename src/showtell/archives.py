"""Pictures and lists straight out of a zip: `archive.zip!member` -> bytes, without unpacking.

The table of contents is read once and kept small; a member is one seek and one read of a file opened for it, so that
any number of threads and processes read one archive at the same time. Archives are untrusted: a member is decompressed
to at most the size that its entry declares, and its checksum is compared. Nothing is ever written to a member's name.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from showtell.errors import DataError

SEPARATOR = ".zip!"

_LOCAL_HEADER = 30  # bytes before a member's name
_ENCRYPTED = 0x1


class _Entry(NamedTuple):
    offset: int  # of the local header, in bytes
    packed: int  # bytes
    size: int  # bytes
    method: int
    flags: int
    crc: int


def split_member(source: str) -> tuple[Path, str] | None:
    """(archive, member) of `archive.zip!member`; None when the source is not of that form."""
    place = source.lower().find(SEPARATOR)
    if place < 0:
        return None
    end = place + len(SEPARATOR)
    return Path(source[: end - 1]), source[end:]


def join_member(archive: Path, member: str) -> str:
    """The source that names a member of an archive."""
    return f"{archive}!{member}"


def list_members(archive: Path) -> Mapping[str, int]:
    """The bytes of each file in an archive, by its name, in the archive's order.

    Raises:
        DataError: There is no such file, or it is not a zip.
    """
    return {name: entry.size for name, entry in _contents(archive).items()}


def read_member(archive: Path, member: str, max_bytes: int) -> bytes:
    """The bytes of one member.

    Raises:
        DataError: The archive or the member is missing, broken, encrypted, packed in an unusual way or larger than
            `max_bytes`.
    """
    called = join_member(archive, member)
    entry = _contents(archive).get(member)
    if entry is None:
        raise DataError(f"{archive} has no member {member!r}; check the name")
    if entry.flags & _ENCRYPTED:
        raise DataError(f"{called} is encrypted; unpack the archive with its password first")
    if entry.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{called} is packed by method {entry.method}; stored and deflated are read: unpack it first")
    if entry.size > max_bytes:
        raise DataError(f"{called} has {entry.size:,} bytes; at most {max_bytes:,} are accepted")
    try:
        data = _unpack(archive, entry)
    except (OSError, ValueError, zlib.error) as error:
        raise DataError(f"{called} is damaged ({error}); get the archive again") from error
    if len(data) != entry.size or zlib.crc32(data) != entry.crc:
        raise DataError(f"{called} is damaged (its checksum is wrong); get the archive again")
    return data


def _unpack(archive: Path, entry: _Entry) -> bytes:
    with archive.open("rb") as file:
        file.seek(entry.offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise ValueError("no member begins where the table of contents says")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        if entry.method == zipfile.ZIP_STORED:
            return file.read(entry.size)
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(entry.packed), max(1, entry.size))


def _contents(archive: Path) -> Mapping[str, _Entry]:
    try:
        status = archive.stat()
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {archive} ({getattr(error, 'strerror', None) or error}); check the path"
        ) from error
    return _read_contents(archive, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)  # a few archives, read by many calls
def _read_contents(archive: Path, changed: int, size: int) -> Mapping[str, _Entry]:
    try:
        with zipfile.ZipFile(archive) as opened:
            return {
                info.filename: _Entry(
                    info.header_offset, info.compress_size, info.file_size, info.compress_type, info.flag_bits, info.CRC
                )
                for info in opened.infolist()
                if not info.is_dir()
            }
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{archive} is not a zip that can be read ({error}); get it again") from error
