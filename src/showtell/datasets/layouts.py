"""A folder or a file of any layout that people have -> examples.

The layout is found from what is there, or named. `LAYOUTS` is tried from its top: a folder that fits two of them is
read as the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from showtell.datasets.files import Notice, refuse
from showtell.datasets.native import LISTING, read_native
from showtell.errors import ConfigError, DataError
from showtell.records import Example


@dataclass(frozen=True)
class Layout:
    """One way of keeping pictures and captions: what it holds, how it is recognised and how it is read."""

    holds: str
    detect: Callable[[Path], bool]
    read: Callable[[Path, Notice], list[Example]]


def _is_native(path: Path) -> bool:
    return (path / LISTING).is_file()


LAYOUTS: dict[str, Layout] = {
    "native": Layout("captions.jsonl and the pictures it names", _is_native, read_native),
}


def find_layout(path: str | Path) -> str:
    """The name of the layout of a folder or file.

    Raises:
        DataError: There is nothing at the path, or it is of no layout that is known.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no folder {path}; give a folder with pictures and their captions")
    for name, layout in LAYOUTS.items():
        if layout.detect(path):
            return name
    known = "; ".join(f"{name} ({layout.holds})" for name, layout in LAYOUTS.items())
    raise DataError(f"{path} is of no layout that is known; accepted are {known}")


def read_data(path: str | Path, *, layout: str | None = None, notice: Notice = refuse) -> list[Example]:
    """The examples of a folder or a file.

    Raises:
        ConfigError: There is no layout of that name.
        DataError: The data cannot be read. What is wrong with single lines goes to `notice`, which raises what breaks
            training unless another is given.
    """
    name = layout or find_layout(path)
    if name not in LAYOUTS:
        raise ConfigError(f"unknown layout {name!r}; accepted are {', '.join(LAYOUTS)}")
    return LAYOUTS[name].read(Path(path), notice)


def read_all(paths: Iterable[str | Path], *, layout: str | None = None, notice: Notice = refuse) -> list[Example]:
    """The examples of several folders or files, one after the other.

    Raises:
        ConfigError, DataError: As `read_data`, or two have a picture of the same id.
    """
    examples: dict[str, Example] = {}
    for path in paths:
        for example in read_data(path, layout=layout, notice=notice):
            if example.id in examples:
                raise DataError(
                    f"both {examples[example.id].image} and {example.image} have the id {example.id!r}; ids must "
                    f"differ: put the pictures of {path} in a folder of another name, in its list of captions too"
                )
            examples[example.id] = example
    return list(examples.values())
