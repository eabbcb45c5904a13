"""A folder or a file of any layout that people have -> examples.

The layout is found from what is there, or named. `LAYOUTS` is tried from its top: a folder that fits two of them is
read as the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from showtell.datasets.coco import looks_like_coco, read_coco
from showtell.datasets.files import Notice, refuse
from showtell.datasets.flickr import looks_like_flickr, read_flickr
from showtell.datasets.karpathy import looks_like_karpathy, read_karpathy
from showtell.datasets.native import LISTING, read_native
from showtell.datasets.regions import read_instances, read_refcoco, read_visual_genome
from showtell.datasets.sidecars import looks_like_sidecars, read_sidecars
from showtell.datasets.tables import GUESSED, TABLE_SUFFIXES, Columns, find_tables, read_table
from showtell.errors import ConfigError, DataError
from showtell.records import Example


@dataclass(frozen=True)
class Layout:
    """One way of keeping pictures and captions: what it holds, how it is recognised and how it is read."""

    holds: str
    detect: Callable[[Path], bool]
    read: Callable[[Path, Columns, Notice], list[Example]]


def _plain(read: Callable[[Path, Notice], list[Example]]) -> Callable[[Path, Columns, Notice], list[Example]]:
    """A reader that has no use for columns, and says so."""

    def read_without(path: Path, columns: Columns, notice: Notice) -> list[Example]:
        if columns != GUESSED:
            raise ConfigError(
                f"{path} is no table, so it has no columns and no folder of pictures to name; leave them out"
            )
        return read(path, notice)

    return read_without


def _is_native(path: Path) -> bool:
    return (path / LISTING).is_file()


def _is_table(path: Path) -> bool:
    return bool(find_tables(path)) if path.is_dir() else path.suffix.lower() in TABLE_SUFFIXES


def _holds(*patterns: str) -> Callable[[Path], bool]:
    return lambda path: any(path.match(pattern) if path.is_file() else any(path.glob(pattern)) for pattern in patterns)


LAYOUTS: dict[str, Layout] = {
    "native": Layout("captions.jsonl and the pictures it names", _is_native, _plain(read_native)),
    "karpathy": Layout(
        "dataset_*.json in the form of dataset_coco.json",
        looks_like_karpathy,
        _plain(read_karpathy),
    ),
    "coco": Layout("annotations/captions_*.json, in folders or zips", looks_like_coco, _plain(read_coco)),
    "flickr": Layout(
        "Flickr8k.token.txt, results_20130124.token, or Kaggle's captions.txt or results.csv",
        looks_like_flickr,
        _plain(read_flickr),
    ),
    "visual-genome": Layout("region_descriptions.json", _holds("region_descriptions.json"), _plain(read_visual_genome)),
    "refcoco": Layout("refs*.json or refcoco*.json", _holds("refs*.json", "refcoco*.json"), _plain(read_refcoco)),
    "instances": Layout(
        "annotations/instances_*.json",
        _holds("annotations/instances_*.json", "instances_*.json"),
        _plain(read_instances),
    ),
    "table": Layout("a CSV, TSV, JSON, JSONL or Parquet file with a column of paths", _is_table, read_table),
    "sidecars": Layout("pictures with a .txt of the same name beside them", looks_like_sidecars, _plain(read_sidecars)),
}


def find_layout(path: str | Path) -> str:
    """The name of the layout of a folder or file.

    Raises:
        DataError: There is nothing at the path, or it is of no layout that is known.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no folder {path}; give a folder with pictures and their captions")
    if path.is_file() and path.suffix.lower() == ".zip":
        raise DataError(f"{path} is a zip; unpack it, or give the folder that it lies in if it is one of COCO's")
    for name, layout in LAYOUTS.items():
        if layout.detect(path):
            return name
    known = "; ".join(f"{name} ({layout.holds})" for name, layout in LAYOUTS.items())
    raise DataError(f"{path} is of no layout that is known; accepted are {known}")


def read_data(
    path: str | Path, *, layout: str | None = None, columns: Columns = GUESSED, notice: Notice = refuse
) -> list[Example]:
    """The examples of a folder or a file.

    Args:
        layout: One of `LAYOUTS`; found from what is there when None.
        columns: What the columns of a table hold.

    Raises:
        ConfigError: There is no layout of that name, or `columns` are given for something that is no table.
        DataError: The data cannot be read. What is wrong with single lines goes to `notice`, which raises what breaks
            training unless another is given.
    """
    name = layout or find_layout(path)
    if name not in LAYOUTS:
        raise ConfigError(f"unknown layout {name!r}; accepted are {', '.join(LAYOUTS)}")
    return LAYOUTS[name].read(Path(path), columns, notice)


def read_all(
    paths: Iterable[str | Path], *, layout: str | None = None, columns: Columns = GUESSED, notice: Notice = refuse
) -> list[Example]:
    """The examples of several folders or files, one after the other.

    Raises:
        ConfigError, DataError: As `read_data`, or two have a picture of the same id.
    """
    examples: dict[str, Example] = {}
    for path in paths:
        for example in read_data(path, layout=layout, columns=columns, notice=notice):
            if example.id in examples:
                raise DataError(
                    f"both {examples[example.id].image} and {example.image} have the id {example.id!r}; ids must "
                    f"differ: put the pictures of {path} in a folder of another name, in its list of captions too"
                )
            examples[example.id] = example
    return list(examples.values())
