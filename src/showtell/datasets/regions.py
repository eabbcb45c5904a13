"""Boxes with words -> examples with regions: Visual Genome, RefCOCO-style lists, COCO instances.

Accepted (boxes of all three are x, y, width, height in pixels; they leave as x0, y0, x1, y1):
    region_descriptions.json   Visual Genome: [{"id": picture, "regions": [{"x", "y", "width", "height", "phrase"}]}];
                               pictures in VG_100K/ and VG_100K_2/ (or their zips) as ID.jpg
    refs*.json, refcoco*.json  [{"image_id" or "file_name", "bbox": […], "sentences": […], "split"}], or the same rows
                               under "refs" beside COCO's "images" and "annotations", which then hold names and boxes
    instances_*.json           COCO: {"images", "annotations": [{"image_id", "bbox", "category_id"}], "categories"}

A region has its phrases or its category; one that cannot be used is noticed and left out, since the published files
have a few. The examples have no captions of the whole picture, and the id of a picture is
its file name, so that `join_regions` can put them beside the captions of the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from showtell.datasets.files import Notice, PictureFolder, check_caption, inside, name_split, read_json, refuse
from showtell.datasets.listings import Finder, notice_lost
from showtell.errors import DataError
from showtell.records import Box, Example, Finding, Region, Split

_VISUAL_GENOME = "region_descriptions.json"
_FOLDERS = (
    "VG_100K", "VG_100K_2", "images", "train2014", "val2014", "train2017", "val2017", "images/VG_100K",
    "images/VG_100K_2", "images/train2014", "images/val2014", "images/train2017", "images/val2017", ".",
)  # fmt: skip


class _VisualGenomeRegion(msgspec.Struct, gc=False):
    x: Any = None
    y: Any = None
    width: Any = None
    height: Any = None
    phrase: Any = None


class _VisualGenomePicture(msgspec.Struct):
    regions: list[_VisualGenomeRegion]
    id: Any = None
    image_id: Any = None


class _Image(msgspec.Struct, gc=False):
    id: Any = None
    file_name: Any = None


class _Category(msgspec.Struct, gc=False):
    id: Any = None
    name: Any = None


class _Annotation(msgspec.Struct, gc=False):
    image_id: Any = None
    bbox: Any = None
    category_id: Any = None
    id: Any = None


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category] = []


class _Reference(msgspec.Struct):
    image_id: Any = None
    file_name: Any = None
    bbox: Any = None
    ann_id: Any = None
    sentences: Any = None
    split: Any = None


class _References(msgspec.Struct):
    refs: list[_Reference]
    images: list[_Image] = []
    annotations: list[_Annotation] = []


class _Collector:
    """Regions by picture, with what is wrong told to a `Notice`."""

    def __init__(self, listing: Path, notice: Notice) -> None:
        root = listing.parent.parent if listing.parent.name == "annotations" else listing.parent
        self._listing = listing
        self._notice = notice
        self._pictures = PictureFolder(root, notice)
        self._finder = Finder(self._pictures, _FOLDERS)
        self._sources: dict[str, str | None] = {}
        self._regions: dict[str, list[Region]] = {}
        self._splits: dict[str, Split | None] = {}

    def add(self, name: str, box: Any, where: str, *, split: Any = None, **words: Any) -> None:
        """One region of the picture of a file name; `words` are those of `Region`."""
        try:
            region = Region(_from_xywh(box, where), **words)
            if name not in self._sources:
                self._sources[name] = self._finder.find(inside(name, where, self._pictures.root))
                self._splits[name] = None if split is None else name_split(split, where)
        except DataError as error:
            self._notice(Finding("region", where, str(error), False))
            return
        self._regions.setdefault(name, []).append(region)

    def examples(self) -> list[Example]:
        """What was added, of the pictures that are there, by file name."""
        if not self._regions:
            raise DataError(f"{self._listing} holds no region that can be used")
        lost = [name for name in self._regions if self._sources[name] is None]
        first = str(self._listing)
        notice_lost(lost, len(self._regions), self._listing, first, self._pictures.root, _FOLDERS, self._notice)
        return [
            Example(name, self._sources[name], (), self._splits[name], tuple(self._regions[name]))
            for name in sorted(self._regions)
            if self._sources[name] is not None
        ]


def read_visual_genome(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of Visual Genome (Krishna et al. 2017) with their described regions.

    Args:
        path: region_descriptions.json, or the folder that holds it.

    Raises:
        DataError: The file is missing or of another form, or none of its pictures is there.
    """
    listing = Path(path) / _VISUAL_GENOME if Path(path).is_dir() else Path(path)
    collector = _Collector(listing, notice)
    expected = 'Visual Genome regions ([{"id": 1, "regions": [{"x", "y", "width", "height", "phrase"}, …]}, …])'
    for number, picture in enumerate(read_json(listing, list[_VisualGenomePicture], expected, notice), 1):
        name = picture.id if picture.id is not None else picture.image_id
        if not isinstance(name, int):
            where = f"{listing}, picture {number}"
            notice(Finding("region", where, f'{where} has no number as its "id"; it is left out', False))
            continue
        for index, region in enumerate(picture.regions, 1):
            where = f"{listing}, picture {name}, region {index},"
            box = [region.x, region.y, region.width, region.height]
            _add_phrases(collector, f"{name}.jpg", box, [region.phrase], where, notice)
    return collector.examples()


def read_refcoco(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """Pictures with regions and the sentences that refer to them (Kazemzadeh et al. 2014; Yu et al. 2016).

    Raises:
        DataError: The file is missing or of another form, or none of its pictures is there.
    """
    listing = _listing(Path(path), ("refs*.json", "refcoco*.json", "annotations/refcoco*.json"))
    collector = _Collector(listing, notice)
    expected = 'references ([{"file_name", "bbox": [x, y, width, height], "sentences": ["…"], "split"}, …])'
    content = read_json(listing, _References | list[_Reference], expected, notice)  # type: ignore[arg-type]
    if isinstance(content, list):
        content = _References(content)
    names = _names(content.images)
    boxes = {row.id: row.bbox for row in content.annotations if isinstance(row.id, int | str)}
    for number, row in enumerate(content.refs, 1):
        where = f"{listing}, reference {number},"
        name = row.file_name if isinstance(row.file_name, str) else names.get(_key(row.image_id), f"{row.image_id}.jpg")
        box = row.bbox if row.bbox is not None else boxes.get(_key(row.ann_id))
        sentences = row.sentences if isinstance(row.sentences, list) else [row.sentences]
        texts = [text.get("raw") or text.get("sent") if isinstance(text, dict) else text for text in sentences]
        split = "test" if row.split in ("testA", "testB") else row.split
        _add_phrases(collector, _coco_name(name), box, texts, where, notice, split)
    return collector.examples()


def read_instances(path: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of COCO instances with their objects: boxes with the names of their categories.

    Raises:
        DataError: The file is missing or of another form, or none of its pictures is there.
    """
    listing = _listing(Path(path), ("annotations/instances_*.json", "instances_*.json"))
    collector = _Collector(listing, notice)
    content = _read_instances(listing, notice)
    names, categories = _names(content.images), _categories(content)
    split = next((part for part in ("train", "val", "test") if part in listing.name), None)
    for number, row in enumerate(content.annotations, 1):
        where = f"{listing}, annotation {number},"
        category, name = categories.get(_key(row.category_id)), names.get(_key(row.image_id))
        if category is None or name is None:
            lost = f"category {row.category_id!r}" if category is None else f"picture {row.image_id!r}"
            notice(Finding("region", where, f'{where} has {lost}, which is not in "categories" or "images"', False))
            continue
        collector.add(name, row.bbox, where, split=split, category=category)
    return collector.examples()


def read_objects(path: str | Path, notice: Notice = refuse) -> dict[str, frozenset[str]]:
    """The categories that COCO instances name of each picture, by its file name; no picture is looked for.

    Raises:
        DataError: The file is missing or of another form.
    """
    listing = _listing(Path(path), ("annotations/instances_*.json", "instances_*.json"))
    content = _read_instances(listing, notice)
    names, categories = _names(content.images), _categories(content)
    found: dict[str, set[str]] = {name: set() for name in names.values()}
    for row in content.annotations:
        name, category = names.get(_key(row.image_id)), categories.get(_key(row.category_id))
        if name is not None and category is not None:
            found[name].add(category)
    return {name: frozenset(objects) for name, objects in found.items()}


def join_regions(examples: Sequence[Example], regions: Iterable[Example]) -> list[Example]:
    """The examples with the regions of the pictures of the same file name, in the examples' order."""
    by_name: dict[str, tuple[Region, ...]] = {}
    for example in regions:
        name = PurePosixPath(example.id).name
        by_name[name] = by_name.get(name, ()) + example.regions
    return [
        replace(example, regions=example.regions + by_name.get(PurePosixPath(example.id).name, ()))
        for example in examples
    ]


def _read_instances(listing: Path, notice: Notice) -> _Instances:
    return read_json(listing, _Instances, 'COCO instances ({"images", "annotations", "categories"})', notice)


def _key(value: Any) -> int | str:
    """An id as one looks it up; what is neither a number nor text is found nowhere."""
    return value if isinstance(value, int | str) else "\0"


def _names(images: Sequence[_Image]) -> dict[int | str, str]:
    """File names by id; images that lack either are left out, and so are the regions that name them."""
    return {_key(image.id): image.file_name for image in images if isinstance(image.file_name, str)}


def _categories(content: _Instances) -> dict[int | str, str]:
    return {_key(category.id): category.name for category in content.categories if isinstance(category.name, str)}


def _add_phrases(
    collector: _Collector, name: str, box: Any, texts: Sequence[Any], where: str, notice: Notice, split: Any = None
) -> None:
    phrases = []
    for text in texts:
        try:
            phrases.append(check_caption(text, where))
        except DataError as error:
            notice(Finding("caption", where, str(error), False))
    if phrases:
        collector.add(name, box, where, split=split, phrases=tuple(phrases))


def _from_xywh(box: Any, where: str) -> Box:
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        raise DataError(f"{where} has the box {box!r}; accepted are x, y, width and height, four numbers")
    x, y, width, height = map(float, box)
    if not (width > 0 and height > 0):
        raise DataError(f"{where} has a box of {width:g} × {height:g} pixels; both must be above 0")
    return (x, y, x + width, y + height)


def _coco_name(name: str) -> str:
    """`COCO_train2014_000000581857.jpg` of RefCOCO's `COCO_train2014_000000581857_16.jpg`."""
    stem, dot, suffix = name.rpartition(".")
    parts = stem.split("_")
    return "_".join(parts[:3]) + dot + suffix if len(parts) == 4 and parts[0] == "COCO" else name


def _listing(path: Path, patterns: Sequence[str]) -> Path:
    if path.is_file():
        return path
    found = sorted({match for pattern in patterns for match in path.glob(pattern)})
    if len(found) != 1:
        names = f"several ({', '.join(match.name for match in found)})" if found else "none"
        raise DataError(f"{path} should hold one file named {' or '.join(patterns)}, it has {names}; name the file")
    return found[0]
