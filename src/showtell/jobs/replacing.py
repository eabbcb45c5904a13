"""New content into a file that exists, whole before and whole after."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path


def replace_file(path: Path, data: bytes, *, keep_time: bool = False) -> None:
    """Puts new content into a file, which is there as a whole before and after, with its permissions and owner.

    Raises:
        OSError: It cannot be written; it is as it was.
    """
    partial = path.with_name(f".showtell-{secrets.token_hex(8)}.tmp")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            status = path.stat()
            with contextlib.suppress(OSError, AttributeError):
                os.chown(partial, status.st_uid, status.st_gid)  # before the mode, of which it may clear bits
            shutil.copystat(path, partial)
            if not keep_time:
                os.utime(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
