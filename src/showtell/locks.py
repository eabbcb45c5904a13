"""One process at a time; the system takes the lock from a process that dies."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from showtell.errors import ShowtellError

_AGAIN = 0.5  # seconds


@contextlib.contextmanager
def alone(path: Path, refusal: ShowtellError) -> Iterator[None]:
    """Holds the lock of a file, which is made where there is none.

    Raises:
        ShowtellError: `refusal`, when another process holds it.
    """
    with path.open("a") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise refusal from error
        yield


@contextlib.contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Holds the lock of a file as soon as no other process does."""
    busy = ShowtellError(f"{path} is held by another process")
    while True:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(alone(path, busy))
            except ShowtellError as error:
                if error is not busy:
                    raise
            else:
                yield
                return
        time.sleep(_AGAIN)
