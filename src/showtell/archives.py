"""Pictures and lists straight out of a zip: `archive.zip!member` -> bytes, without unpacking.

The table of contents is read once and kept small; a member is one seek and one read of a file opened for it, so that
any number of threads and processes read one archive at the same time. Archives are untrusted: a member is decompressed
to at most the size that its entry declares, and its checksum is compared. Nothing is ever written to a member's name.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from showtell.errors import DataError

SEPARATOR = ".zip!"

_SEPARATOR = re.compile(re.escape(SEPARATOR), re.IGNORECASE | re.ASCII)

_LOCAL_HEADER = 30  # bytes before a member's name
_ENCRYPTED = 0x1  # flags of an entry
_UTF_8 = 0x800


class _Entry(NamedTuple):
    offset: int  # of the local header, in bytes
    packed: int  # bytes
    size: int  # bytes
    method: int
    flags: int
    crc: int


def split_member(source: str) -> tuple[Path, str] | None:
    """(archive, member) of `archive.zip!member`; None when the source is not of that form."""
    found = _SEPARATOR.search(source)
    return None if found is None else (Path(source[: found.end() - 1]), source[found.end() :])


def join_member(archive: Path, member: str) -> str:
    """The source that names a member of an archive."""
    return f"{archive}!{member}"


def list_members(archive: Path) -> Mapping[str, int]:
    """The bytes of each file in an archive, by its name with `/` between folders, in the archive's order.

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
        if entry.packed > os.fstat(file.fileno()).st_size:  # before memory is set aside for it
            raise ValueError("it is longer than its archive")
        file.seek(entry.offset)
        header = file.read(_LOCAL_HEADER)
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise ValueError("no member begins where the table of contents says")
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        packed = file.read(entry.packed)
    if entry.method == zipfile.ZIP_STORED:
        return packed
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, max(1, entry.size))


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
                name: _Entry(
                    info.header_offset, info.compress_size, info.file_size, info.compress_type, info.flag_bits, info.CRC
                )
                for info in opened.infolist()
                if not (name := _read_name(info)).endswith("/")
            }
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{archive} is not a zip that can be read ({error}); get it again") from error


def _read_name(info: zipfile.ZipInfo) -> str:
    """The name of a member with `/` between folders, which some programs for Windows write as a backslash."""
    name = info.filename
    if not info.flag_bits & _UTF_8 and not name.isascii():  # macOS writes UTF-8 and does not say so
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")
