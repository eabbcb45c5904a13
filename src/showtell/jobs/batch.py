"""Folders of photographs -> a table of captions, by a job that can be stopped anywhere and goes on from there.

    captions.jsonl            or .csv or .parquet: a row a picture, see `showtell.jobs.tables`
    captions.jsonl.journal    what is known of every picture, as soon as it is known: see `showtell.jobs.journal`
    captions.jsonl.lock       held while a run writes

The table has a row for each picture that the run was asked for, in the order of the folders, whatever was known before;
it is written from the journal when all are done, and takes the place of an older one in one step. `image` is relative
to the folder of the table where it lies below, so that photographs and captions may move together, else absolute.

On a later run

* what has the path, size and time of change of before is not opened; what could not be opened at all is tried again;
* what has not is hashed: the same content keeps its caption, also under another path, and only the rest is captioned;
* a picture that has changed is captioned again; one that is gone has no row any more, but the journal remembers it;
* another model, search or list of safe words is refused: captions of two kinds in one table would not say so.

A text beside a picture (`sidecar`) is NAME.txt with the caption as its line. One is written only where there is none,
or where it still holds what the journal says was written there: a text that people wrote or changed is theirs. Of two
pictures that would share a text the first has it. None is ever removed.

In memory are 56 bytes a picture: the journal's places (see there), and the order of the rows.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from showtell.bundle import Manifest
from showtell.captioner import Captioner
from showtell.decoding import Restrictions, SearchOptions
from showtell.errors import ConfigError, DataError
from showtell.images import DEFAULT_LIMITS, ImageLimits, digest_file
from showtell.jobs.inputs import Found, Inputs
from showtell.jobs.journal import Entry, Header, Journal, Places, key_of
from showtell.jobs.tables import check_table, plain, write_table
from showtell.locks import alone
from showtell.records import Failure
from showtell.safewords import ALL, SafeWords

_HASHED_AHEAD = 64  # pictures that are hashed before they are asked for
_LONGEST = 1 << 16  # bytes of a text that could be a caption of ours


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How a folder job goes about it.

    Attributes:
        recursive: Into the folders of folders too.
        sidecar: "txt": also write each caption into NAME.txt beside its picture.
        batch: Pictures that go through the networks together.
        limits: Of the pictures that are accepted.
    """

    recursive: bool = False
    sidecar: Literal["txt"] | None = None
    batch: int = 16
    limits: ImageLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        if self.sidecar not in (None, "txt"):
            raise ConfigError(f"unknown sidecar {self.sidecar!r}; accepted is txt")
        if self.batch < 1:
            raise ConfigError(f"batch is {self.batch!r}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Batched:
    """What a run did.

    Attributes:
        pictures: Rows of the table: the sum of the next four.
        captioned, unchanged: Pictures.
        known: Whose content had a caption under another path.
        failed: That could not be read, now or before, and folders that could not be listed.
        texts: That were written beside pictures.
        texts_left: Texts of others, which were left as they are.
        texts_failed: That could not be written.
    """

    pictures: int
    captioned: int
    unchanged: int
    known: int
    failed: int
    texts: int
    texts_left: int
    texts_failed: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


def caption_pictures(
    given: Iterable[str | os.PathLike[str]],
    out: str | Path,
    captioner: Captioner,
    options: SearchOptions | None = None,
    *,
    settings: BatchOptions | None = None,
    notice: Callable[[Failure], None] = lambda failure: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Batched:
    """Captions pictures into a table, or brings one up to date; see the module for its files.

    A run that is interrupted or killed has lost no more than the pictures that were in its hands, and the same call
    goes on after it.

    Args:
        given: Folders, patterns, lists and pictures: see `showtell.jobs.inputs.Inputs`.
        out: The table: .jsonl, .csv, or .parquet, which needs 'showtell[parquet]'.
        options: How to search; `captioner.options()` when absent. CSV and Parquet have the best caption alone.
        notice: Is told of each picture that cannot be read, and of each text that cannot be written.

    Raises:
        DataError: An argument is nothing that is there, there is no picture (the table is then left as it is), another
            run is writing it, or its journal is damaged.
        ConfigError: The journal is of another model, search or words, or `out` is something that no run wrote.
        BackendError: pyarrow is missing.
    """
    out = Path(out)
    settings = settings or BatchOptions()
    options = options or captioner.options()
    _check_out(out)
    with closing(Inputs(given, recursive=settings.recursive)) as inputs:
        total = inputs.count()
        if not total:
            below = "" if settings.recursive else "; folders of folders are read with --recursive"
            raise DataError(f"there are no pictures in what was given{below}")

        def tell(what: str, done: int) -> None:
            if done < total:  # files may have come since they were counted
                progress(what, done, total)

        busy = DataError(f"another run is writing {out}; wait until it is done, or give another --out")
        with alone(out.with_name(f"{out.name}.lock"), busy):
            header = header_of(captioner.manifest, options, captioner.words, captioner.restrictions)
            journal = Journal(out.with_name(f"{out.name}.journal"), header, out)
            with closing(journal):
                run = _Run(journal, out, settings, notice, tell)
                run.caption(inputs, captioner, options)
                progress(run.told, total, total)
                write_table(out, run.rows())
    return run.summary()


def _check_out(out: Path) -> None:
    check_table(out)
    if not out.parent.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, and there is no folder {out.parent}; make it, or give another")
    if out.is_dir():
        raise ConfigError(f"--out is {str(out)!r}, which is a folder; give the name of a file")
    if os.path.lexists(out) and not out.with_name(f"{out.name}.journal").exists():
        raise ConfigError(
            f"{out} is there already, and no {out.name}.journal is beside it that would say it is of `showtell batch`; "
            "give another --out, or remove it"
        )


def header_of(manifest: Manifest, options: SearchOptions, words: SafeWords, restrictions: Restrictions) -> Header:
    """What captions are of, so that those of another model, search or other words are told apart."""
    parts = {name: digest for name, digest in manifest.files.items() if name != "README.md"}
    told = json.dumps([parts, asdict(manifest.preprocessing)], sort_keys=True)
    model = hashlib.blake2b(told.encode(), digest_size=16).hexdigest()
    return Header(model=model, name=manifest.name, search=asdict(options), words=_name_words(words, restrictions))


def _name_words(words: SafeWords, restrictions: Restrictions) -> str:
    """What the words are called, and what they are to the model's vocabulary: a longer list may deny nothing more."""
    name = words.describe(restrictions)
    if name == ALL:
        return name
    denied = sorted((start, sorted(last)) for start, last in restrictions.denied.items())
    told = json.dumps([denied, sorted(restrictions.merged.items())])
    return f"{name} ({hashlib.blake2b(told.encode(), digest_size=4).hexdigest()})"


class _Item(NamedTuple):
    """A picture on its way: its row, what it is called in the journal, and what was known of it."""

    row: int
    found: Found
    name: str
    place: int
    before: Entry | None
    content: str = ""


class _Run:
    """One pass over the pictures; it counts what it does."""

    def __init__(
        self,
        journal: Journal,
        out: Path,
        settings: BatchOptions,
        notice: Callable[[Failure], None],
        progress: Callable[[str, int], None],
    ) -> None:
        self._journal, self._settings, self._notice, self._progress = journal, settings, notice, progress
        self._name_of = namer(out)
        self._order = array("q")  # where the journal has the rows
        self._seen = Places()  # paths of this run -> their rows
        self._pending: deque[_Item] = deque()  # handed to the captioner, in its order
        self._captioned = self._unchanged = self._known = self._failed = 0
        self._texts = self._texts_left = self._texts_failed = 0

    def caption(self, inputs: Iterable[Found], captioner: Captioner, options: SearchOptions) -> None:
        """Brings the journal up to date with the pictures."""
        with ThreadPoolExecutor(2) as pool:  # hashing waits for the disk more than it computes
            results = captioner.caption_stream(
                self._sort_out(inputs, pool), options, batch=self._settings.batch, limits=self._settings.limits
            )
            for result in results:
                said = result.to_json()
                del said["image"]
                if not isinstance(result, Failure):
                    self._captioned += 1
                self._settle(self._pending.popleft(), said)

    @property
    def told(self) -> str:
        return "captioning pictures" + (f" ({self._failed:,} failed)" if self._failed else "")

    def _sort_out(self, inputs: Iterable[Found], pool: ThreadPoolExecutor) -> Iterator[str]:
        """The pictures that have to be captioned; others are dealt with on the way."""
        hashing: deque[tuple[_Item, Future[str]]] = deque()
        for found in inputs:
            item = self._meet(found)
            if item is None:
                continue
            if found.error:
                self._settle(item, {"error": found.error})
            elif item.before is not None and _is_unchanged(item.before, found):
                self._keep(item, item.before)
            else:
                hashing.append((item, pool.submit(_digest, found, self._settings.limits)))
                if len(hashing) > _HASHED_AHEAD:
                    yield from self._look_up(*hashing.popleft())
        while hashing:
            yield from self._look_up(*hashing.popleft())

    def _meet(self, found: Found) -> _Item | None:
        """The picture with a row of its own; None where the run has met it before."""
        name = self._name_of(found.path)
        key = key_of(name)
        if self._seen.find(key) >= 0:
            return None
        row = len(self._order)
        self._seen.put(key, row)
        self._order.append(-1)
        place, before = self._journal.find(name) or (-1, None)
        return _Item(row, found, name, place, before)

    def _look_up(self, item: _Item, hashing: Future[str]) -> Iterator[str]:
        item = item._replace(content=hashing.result())
        before = item.before
        if before is not None and item.content and before.content == item.content:
            self._unchanged += before.caption is not None
            self._settle(item, before.said)
            return
        same = self._journal.find_content(item.content, item.found.size)
        if same is not None:
            self._known += 1
            self._settle(item, same.said)
        else:
            self._pending.append(item)
            yield item.found.path

    def _keep(self, item: _Item, before: Entry) -> None:
        self._unchanged += before.caption is not None
        self._finish(item, before)

    def _settle(self, item: _Item, said: dict[str, Any]) -> None:
        """Writes down what is said of a picture."""
        if "error" in said:
            said = {"error": plain(said["error"])}
        before, found = item.before, item.found
        written = _last_text(before) if before is not None else ""
        entry = Entry(
            path=item.name if _is_text(item.name) else "",
            odd=b"" if _is_text(item.name) else os.fsencode(item.name),
            size=found.size,
            mtime_ns=found.mtime_ns,
            content=item.content,
            said=said,
            written=written,
        )
        self._finish(item, entry)

    def _finish(self, item: _Item, entry: Entry) -> None:
        text: Path | None = None
        if self._settings.sidecar and entry.caption is not None:
            entry, text = self._claim_text(item, entry)
        place = item.place if entry == item.before else self._journal.append(entry)
        self._order[item.row] = place
        if text is not None:  # after the journal says whose it is
            self._write_text(item, text, entry)
        if entry.caption is None:
            self._failed += 1
            self._notice(Failure(item.found.path, entry.said["error"]))
        self._progress(self.told, self._captioned + self._unchanged + self._known + self._failed)

    def _claim_text(self, item: _Item, entry: Entry) -> tuple[Entry, Path | None]:
        """The entry, marked where the text beside the picture is ours; its path where it is to be written."""
        path = _beside(item.found.path)
        before = item.before
        ours = {text: f"{text}\n".encode() for text in _texts_of(before)}
        there = _read_text(path)
        if before is not None and before.sidecar:
            ours.setdefault("", b"")  # a file that lost its content with the power
        held = next((text for text, data in ours.items() if data == there), None)
        if there is not None and held is None:
            self._texts_left += 1
            return entry, None
        if entry is not before or not entry.sidecar:
            entry = msgspec.structs.replace(entry, sidecar=True, written=held or "")
        return entry, None if there == f"{entry.caption}\n".encode() else path

    def _write_text(self, item: _Item, path: Path, entry: Entry) -> None:
        try:
            if _write_text(path, f"{entry.caption}\n".encode()):
                self._texts += 1
            else:
                self._texts_left += 1
        except OSError as error:
            self._texts_failed += 1
            reason = error.strerror or str(error)
            self._notice(
                Failure(item.found.path, f"{path} cannot be written ({reason}); change the folder's permissions")
            )

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """(path, what is said of it) of every picture, in order."""
        for place in self._order:
            entry = self._journal.read(place)
            yield entry.name, entry.said

    def summary(self) -> Batched:
        return Batched(
            pictures=len(self._order),
            captioned=self._captioned,
            unchanged=self._unchanged,
            known=self._known,
            failed=self._failed,
            texts=self._texts,
            texts_left=self._texts_left,
            texts_failed=self._texts_failed,
        )


def _is_unchanged(before: Entry, found: Found) -> bool:
    return bool(before.content) and (before.size, before.mtime_ns) == (found.size, found.mtime_ns)


def _digest(found: Found, limits: ImageLimits) -> str:
    """The hash of a file's content, "" where there is nothing that could be read."""
    return digest_file(found.path, found.size, limits, width=16) if found.is_regular else ""


def namer(out: Path) -> Callable[[str], str]:
    """How the journal and the table beside it call a path."""
    base = os.path.realpath(out.parent).rstrip(os.sep) + os.sep

    @lru_cache(maxsize=256)
    def resolve(folder: str) -> str:
        return os.path.realpath(folder)

    def name(path: str) -> str:
        folder, file = os.path.split(path)
        try:
            full = os.path.join(resolve(folder), file)  # noqa: PTH118 of a million names
        except (OSError, ValueError):
            return path
        return full[len(base) :].replace(os.sep, "/") if full.startswith(base) else full

    return name


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


# texts beside pictures


def _beside(path: str) -> Path:
    return Path(f"{os.path.splitext(path)[0]}.txt")  # noqa: PTH122 `with_suffix` refuses names that a list may hold


def _last_text(entry: Entry) -> str:
    """What the text beside a picture holds, as far as an entry knows."""
    return (entry.caption or "") if entry.sidecar else entry.written


def _texts_of(entry: Entry | None) -> tuple[str, ...]:
    """What it may hold that was written by us: a run may have been killed between the journal and the text."""
    return () if entry is None else tuple(text for text in (_last_text(entry), entry.written) if text)


def _read_text(path: Path) -> bytes | None:
    """The content of a text, None where there is none; of what is not a plain text, something that no caption is."""
    if not os.path.lexists(path):
        return None
    try:
        if not path.is_file():
            return b"\0"
        with path.open("rb") as file:
            return file.read(_LONGEST)
    except OSError:
        return b"\0"


def _write_text(path: Path, data: bytes) -> bool:
    """Writes a text as a whole or not at all; False where somebody else has just made one.

    What is there was found to be ours; what is not there must still not be when the new one takes its place.
    """
    partial = path.with_name(f".{path.name}.showtell")
    is_new = not os.path.lexists(path)
    partial.write_bytes(data)
    try:
        if not is_new:
            partial.replace(path)
            return True
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            if os.path.lexists(path):
                return False
            partial.replace(path)
        return True
    finally:
        partial.unlink(missing_ok=True)
