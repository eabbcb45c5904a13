"""Pictures with a text of the same name beside them, as caption tools for image generators write them -> examples.

    photos/a.jpg
    photos/a.txt      one caption a line; tags between commas are a caption like any other

The text is `a.txt`, `a.caption` or `a.jpg.txt`, its suffix in any case; where a picture has several, all are read.
Folders are read to any depth, but not hidden ones and those that file servers and archivers leave behind. Where all
pictures lie below folders named after splits (`train/`, `valid/`, `test/`), these are their splits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from showtell.datasets.files import Notice, PictureFolder, check_caption, name_split, read_rows, refuse
from showtell.errors import DataError
from showtell.records import Example, Finding

# What files of the accepted formats (`images.FORMATS`) are called.
PICTURE_SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif", ".avifs", ".bmp",
    ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm",
})  # fmt: skip
TEXT_SUFFIXES = (".txt", ".caption")
LEFT_BEHIND = frozenset({"@eaDir", "__MACOSX"})  # thumbnails of Synology servers, resource forks of macOS
_GLANCE = 200_000  # files; more than a folder of COCO's size has, and listed in 0.2 s


def looks_like_sidecars(folder: str | Path) -> bool:
    """Whether a picture with a text beside it is among the first files of a folder; stops at the first one."""
    seen = 0
    for _, names in _walk(Path(folder), lambda finding: None):
        pictures, texts = _sort_out(names)
        if any(texts.keys() & {picture, split_suffix(picture)[0]} for picture in pictures):
            return True
        seen += len(names)
        if seen > _GLANCE:
            return False
    return False


def read_sidecars(folder: str | Path, notice: Notice = refuse) -> list[Example]:
    """The pictures of a folder that have captions beside them, sorted by their paths, which are their ids.

    Pictures without a text, and texts without a picture, are left out with one warning each.

    Raises:
        DataError: There is no such folder, or no picture in it has a text. What is wrong with a text goes to `notice`,
            which raises it unless another is given.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; give a folder of pictures with texts beside them")
    found = _Found()
    for below, names in _walk(folder, notice):
        _pair(below, names, found)
    if not found.pairs:
        raise DataError(
            f"{folder} has no picture with a text of the same name beside it, such as a.jpg and a.txt "
            f"(pictures: {len(found.untold)}, texts: {len(found.unseen)}); write the texts, or give another folder"
        )
    _notice_leftovers(folder, found, notice)
    pictures = PictureFolder(folder, notice)
    examples = []
    for name in sorted(found.pairs):
        source = pictures.find(name)
        captions = [caption for text in found.pairs[name] for caption in _read_captions(f"{folder}/{text}", notice)]
        if source is not None and captions:
            examples.append(Example(name, source, tuple(captions), None))
    if not examples:
        raise DataError(f"no text beside the pictures of {folder} holds a caption; write one a line")
    return _name_splits(examples)


def split_suffix(name: str) -> tuple[str, str]:
    """A name without its suffix, and the suffix in small letters with its dot; "" where there is none."""
    stem, dot, suffix = name.rpartition(".")
    return (stem, f".{suffix.lower()}") if dot else (name, "")


@dataclass
class _Found:
    """What lies in a folder; every path is below it."""

    pairs: dict[str, list[str]] = field(default_factory=dict)  # picture -> its texts
    sharing: list[str] = field(default_factory=list)  # pictures whose text is also an earlier picture's
    untold: list[str] = field(default_factory=list)  # pictures without a text
    unseen: list[str] = field(default_factory=list)  # texts without a picture


def _walk(folder: Path, notice: Notice) -> Iterator[tuple[str, list[str]]]:
    """(path below the folder, empty or with a `/` at its end; names of its files, sorted) of it and those below."""

    def complain(error: OSError) -> None:
        path = error.filename
        notice(Finding("path", path, f"cannot list {path} ({error.strerror}); change its permissions or remove it"))

    for place, folders, files in os.walk(folder, onerror=complain):
        folders[:] = sorted(name for name in folders if name not in LEFT_BEHIND and _is_plain(name, place, notice))
        for link in (path for path in (Path(place, name) for name in folders) if path.is_symlink()):
            message = f"{link} is a link to a folder and is not followed; copy the folder to its place"
            notice(Finding("link", str(link), message, False))
        below = os.path.relpath(place, folder).replace(os.sep, "/")
        yield "" if below == "." else f"{below}/", sorted(name for name in files if _is_plain(name, place, notice))


def _is_plain(name: str, place: str, notice: Notice) -> bool:
    """Whether a name is neither hidden nor one that no text could hold."""
    if name.startswith("."):
        return False
    try:
        name.isascii() or name.encode()
    except UnicodeEncodeError:
        shown = f"{place}/{os.fsencode(name).decode('utf-8', 'replace')}"
        notice(Finding("path", shown, f"{shown} has a name that is not UTF-8; rename it"))
        return False
    return True


def _sort_out(names: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """The pictures among the names of one folder, and its texts by what they are beside."""
    pictures: list[str] = []
    texts: dict[str, list[str]] = {}
    for name in names:
        stem, suffix = split_suffix(name)
        if suffix in PICTURE_SUFFIXES:
            pictures.append(name)
        elif suffix in TEXT_SUFFIXES:
            texts.setdefault(stem, []).append(name)
    return pictures, texts


def _pair(below: str, names: Sequence[str], found: _Found) -> None:
    pictures, texts = _sort_out(names)
    taken: set[str] = set()
    for picture in pictures:
        keys = [key for key in (split_suffix(picture)[0], picture) if key in texts]
        if not keys:
            found.untold.append(below + picture)
            continue
        if not taken.isdisjoint(keys):
            found.sharing.append(below + picture)
        taken.update(keys)
        found.pairs[below + picture] = [below + text for key in keys for text in texts[key]]
    found.unseen += (below + text for key, group in texts.items() if key not in taken for text in group)


def _notice_leftovers(folder: Path, found: _Found, notice: Notice) -> None:
    for kind, names, what, then in (
        ("caption", found.untold, "pictures without a text beside them", "they are left out: write their captions"),
        ("missing-picture", found.unseen, "texts without a picture of the same name", "they are left out"),
        ("repeated-picture", found.sharing, "pictures of one name, which share a text", "rename them and their texts"),
    ):
        if names:
            shown = ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
            message = f"{folder} has {what}: {len(names):,} ({shown}); {then}"
            notice(Finding(kind, str(folder / names[0]), message, False))


def _read_captions(path: str, notice: Notice) -> list[str]:
    try:
        rows = list(read_rows(path, notice))
    except DataError as error:
        if not _is_blank(path):
            notice(Finding("caption", path, str(error)))
            return []
        rows = []
    if not rows:
        message = f"{path} is empty; write a caption in it, or remove it and its picture"
        notice(Finding("caption", path, message))
    captions = []
    for where, line in rows:
        try:
            captions.append(check_caption(line, where))
        except DataError as error:
            notice(Finding("caption", where, str(error)))
    return captions


def _is_blank(path: str) -> bool:
    try:
        return not Path(path).read_bytes().strip()
    except OSError:
        return False


def _name_splits(examples: list[Example]) -> list[Example]:
    splits = {}
    for first in {example.id.partition("/")[0] for example in examples}:
        try:
            splits[first] = name_split(first, first)
        except DataError:
            return examples
    return [replace(example, split=splits[example.id.partition("/")[0]]) for example in examples]
