"""How long work tells what it has done: a callable that the caller gives; the library prints nothing itself."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)


def silent(what: str, done: int, total: int) -> None:
    """A listener that says nothing."""
