"""The journal of a folder job: what is known of every picture, a line each, appended as soon as it is known.

    {"journal": "showtell batch", "format": 1, "model": "9f31…", "name": "default", "search": {"beam": 3, …},
     "words": "safe words (51c0…)"}
    {"path": "photos/a.jpg", "size": 81023, "mtime_ns": …, "content": "4be1…", "said": {"caption": "a dog", …}}
    {"path": "photos/b.jpg", …, "said": {"error": "photos/b.jpg is empty (0 bytes); get the file again"}}

The first line says which model, search and safe words the captions are of. Of the lines of one path the last counts;
no line is ever changed. A run that is killed leaves at most a torn line at the end, which the next one cuts off.

In memory a journal takes 32 bytes a picture: where the line of its path begins, and the line of its content.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from showtell.errors import ConfigError, DataError

FORMAT = 1

_OPENING = b'{"journal":"showtell batch"'
_RECENT = 1 << 14  # places that are kept in a dict before they are sorted in among the others


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line; `model` identifies the weights, `words` what the captions may not say, `name` is for people."""

    journal: str = "showtell batch"
    format: int = FORMAT
    model: str
    name: str
    search: dict[str, int | float]
    words: str = "all words"  # what a journal without it was made with


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, kw_only=True):
    """What is known of the picture at a path.

    Attributes:
        path: With `/` and relative to the folder that holds the journal, where it lies below; else absolute.
        odd: The path as bytes (base64) where it is not UTF-8; `path` is then empty.
        size, mtime_ns: Of the file when it was read, -1 where they could not be asked for.
        content: 128 bits of the file's BLAKE2b as 32 hexadecimal digits; "" where it could not be read.
        said: `Caption.to_json` or `Failure.to_json` without the path.
        sidecar: The caption was written, or was about to be written, into the text beside the picture.
        written: What that text may hold from before.
    """

    path: str = ""
    odd: bytes = b""
    size: int = -1
    mtime_ns: int = -1
    content: str = ""
    said: dict[str, Any]
    sidecar: bool = False
    written: str = ""

    @property
    def name(self) -> str:
        return os.fsdecode(self.odd) if self.odd else self.path

    @property
    def caption(self) -> str | None:
        """The best caption; None for a picture that could not be read."""
        return self.said.get("caption")


def key_of(name: str) -> int:
    """64 bits that stand for a path; whoever finds a line by them compares the path."""
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


class Places:
    """A map from 64-bit keys to places, 16 bytes each."""

    def __init__(self) -> None:
        self._keys: NDArray[np.uint64] = np.empty(0, np.uint64)
        self._places: NDArray[np.int64] = np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def find(self, key: int) -> int:
        """The place of a key, -1 where there is none."""
        if key in self._recent:
            return self._recent[key]
        at = int(np.searchsorted(self._keys, np.uint64(key)))
        return int(self._places[at]) if at < len(self._keys) and int(self._keys[at]) == key else -1

    def put(self, key: int, place: int) -> None:
        self._recent[key] = place
        if len(self._recent) >= _RECENT:
            self._sort_in()

    def _sort_in(self) -> None:
        count = len(self._recent)
        keys = np.concatenate([self._keys, np.fromiter(self._recent, np.uint64, count)])
        places = np.concatenate([self._places, np.fromiter(self._recent.values(), np.int64, count)])
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        last = np.append(keys[1:] != keys[:-1], True)
        self._keys, self._places = keys[last], places[order][last]
        self._recent.clear()


class Journal:
    """A journal, mended and open to be appended to. Close it. One process at a time: see `showtell.locks`."""

    def __init__(self, path: Path, header: Header, out: Path) -> None:
        """Opens the journal of a path, or makes one.

        Args:
            out: The table that is written from it, for messages.

        Raises:
            ConfigError: It is of another model, search or words, or the file is something else.
            DataError: It is damaged elsewhere than at its end, or of a newer format.
        """
        self.path = path
        self._paths, self._contents = Places(), Places()
        self._decode = msgspec.json.Decoder(Entry).decode
        path.touch()
        self._end = self._read(header, out)
        os.truncate(path, self._end)
        self._appended, self._old = path.open("ab"), path.open("rb")
        if not self._end:
            self._write(msgspec.json.encode(header) + b"\n")

    def close(self) -> None:
        """Closes it after all that was appended lies on the disk."""
        try:
            self._appended.flush()
            os.fsync(self._appended.fileno())
        finally:
            self._appended.close()
            self._old.close()

    def _read(self, header: Header, out: Path) -> int:
        """How many bytes are whole lines; where they begin is noted."""
        with self.path.open("rb") as file:
            first = file.readline()
            if not self._is_whole_header(first):
                return 0
            self._check(first, header, out)
            end = len(first)
            for number, line in enumerate(file, 2):
                try:
                    entry = self._decode(line) if line.endswith(b"\n") else None
                except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                    if file.read(1):
                        raise DataError(
                            f"{self.path}:{number} is no line of a journal ({error}); remove that line, "
                            f"or remove {self.path} and {out} to caption all pictures anew"
                        ) from error
                    entry = None  # the end of a run that lost its power
                if entry is None:
                    break
                self._note(entry, end)
                end += len(line)
        return end

    def _is_whole_header(self, first: bytes) -> bool:
        if first[: len(_OPENING)] != _OPENING[: len(first)]:
            raise ConfigError(
                f"{self.path} is not a journal of `showtell batch`, which would be written there; give another --out"
            )
        return first.endswith(b"\n")

    def _check(self, first: bytes, header: Header, out: Path) -> None:
        anew = f"remove {self.path} and {out} to caption all pictures anew"
        try:
            old = msgspec.json.decode(first, type=Header)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise DataError(f"{self.path}:1 is damaged ({error}); {anew}") from error
        if old.format > FORMAT:
            raise DataError(
                f"{self.path} is a journal of format {old.format}, this showtell reads up to format {FORMAT}; "
                "run: pip install --upgrade showtell"
            )
        made, given = differences(old, header)
        if made:
            raise ConfigError(
                f"{self.path} was made with {made}, and this run has {given}; "
                f"give the same, or another --out, or {anew}"
            )

    def _note(self, entry: Entry, place: int) -> None:
        self._paths.put(key_of(entry.name), place)
        if entry.content and entry.caption is not None:
            self._contents.put(_content_key(entry.content), place)

    def read(self, place: int) -> Entry:
        """The entry whose line begins there."""
        self._old.seek(place)
        return self._decode(self._old.readline())

    def find(self, name: str) -> tuple[int, Entry] | None:
        """The last line of a path, and where it begins."""
        place = self._paths.find(key_of(name))
        if place < 0:
            return None
        entry = self.read(place)
        return (place, entry) if entry.name == name else None

    def find_content(self, content: str, size: int) -> Entry | None:
        """A picture of this content that has a caption, whether it is still there or not."""
        place = self._contents.find(_content_key(content)) if content else -1
        if place < 0:
            return None
        entry = self.read(place)
        return entry if (entry.content, entry.size) == (content, size) else None

    def append(self, entry: Entry) -> int:
        """Where the new line begins; it is out of this process's hands when this returns."""
        place = self._end
        self._write(msgspec.json.encode(entry) + b"\n")
        self._note(entry, place)
        return place

    def _write(self, line: bytes) -> None:
        self._appended.write(line)
        self._appended.flush()
        self._end += len(line)


def _content_key(content: str) -> int:
    return int(content[:16], 16)


def differences(old: Header, new: Header) -> tuple[str, str]:
    """What two headers say where they differ, for people; empty where they do not."""
    told: tuple[list[str], list[str]] = ([], [])
    if old.model != new.model:
        for header, words in zip((old, new), told, strict=True):
            words.append(f"the model {header.name!r} ({header.model[:8]})")
    for option in {**old.search, **new.search}:
        if old.search.get(option) != new.search.get(option):
            for header, words in zip((old, new), told, strict=True):
                words.append(f"{option} {header.search.get(option)}")
    if old.words != new.words:
        for header, words in zip((old, new), told, strict=True):
            words.append(header.words)
    return ", ".join(told[0]), ", ".join(told[1])
