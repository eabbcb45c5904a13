"""Pictures -> a folder of parts, by a job that any number of actors work on and that goes on after any kill.

    captions.parquet/           or captions.jsonl/: the suffix says what the parts are
        _job.json               what the captions are of: the model, search, words and listing; written once
        _listing.jsonl          a picture a line, "path", or {"path": …, "error": …}, then {"shard": …}; written before
        part-00000.parquet      the rows of the first block, in order: see `showtell.jobs.tables`
        …

A block is some pictures of the listing, or a shard. Its part is written under a name that nobody else has and then
takes its own in one step, so that it is whole or not there, whoever writes it and however often; which parts are there
is all that is known of a job. So a job may be begun on a cluster and finished on one machine, or the other way round.
The folder may lie behind a URL: a part is then one upload, which stores of objects show when it is complete.

Unlike the table of `showtell.jobs.batch`, what is listed is fixed when a job begins, and a picture that lies at two
paths is captioned twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import IO, Any

import msgspec

from showtell.bundle import Bundle
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import ConfigError, DataError, ImageError
from showtell.images import ImageLimits
from showtell.jobs.batch import Batched, BatchOptions, header_of, namer
from showtell.jobs.journal import Header, Places, differences, key_of
from showtell.jobs.listings import fetch, is_url, list_given, open_url, read_shard
from showtell.jobs.tables import check_table, plain, read_table, write_table
from showtell.locks import alone
from showtell.partitions import JOB, part_name
from showtell.records import Failure
from showtell.safewords import SafeWords

SUFFIXES = (".parquet", ".jsonl")
_LISTING = "_listing.jsonl"
_BLOCK = 256  # pictures, of jobs up to a million
_MOST = 4096  # parts of pictures, of larger ones
_REMOTE_READERS = 16  # threads that wait for URLs

Work = Callable[[Any], Any]
Engine = Callable[[Callable[[], Work], Sequence[Any]], Iterator[tuple[int, Any]]]  # see `showtell.cluster.spread`


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What _job.json says; `listing` is the SHA-256 of the listing, `pictures` and `shards` its lines."""

    header: Header
    listing: str
    pictures: int
    shards: int
    block: int

    @property
    def parts(self) -> int:
        return -(-self.pictures // self.block) + self.shards


def run_here(make: Callable[[], Work], blocks: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The engine of one machine: block after block in this process."""
    if blocks:
        work = make()
        yield from ((number, work(block)) for number, block in enumerate(blocks))


def caption_parts(
    given: Iterable[str | os.PathLike[str]],
    out: str,
    bundle: Bundle,
    options: SearchOptions,
    *,
    settings: BatchOptions | None = None,
    engine: Engine = run_here,
    threads: int | None = None,
    cuda: bool = False,
    words: SafeWords | None = None,
    notice: Callable[[Failure], None] = lambda failure: None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Batched:
    """Captions pictures into a folder of parts, or goes on with one; see the module for its files.

    Args:
        given: See `showtell.jobs.listings`.
        out: The folder, a path or a URL; its name ends in .parquet or .jsonl.
        engine: Who works on the blocks.
        threads, cuda: Of each who does, see `showtell.captioner.Runtime`.
        words: What captions may not say, as `showtell.captioner.Captioner`.
        notice: Is told of each picture that cannot be read.

    Raises:
        ConfigError: The folder holds another job, or something else.
        DataError: There is no picture, another run is writing the folder, or parts are missing in the end.
        BackendError: pyarrow, or the package that speaks a URL's protocol, is missing.
    """
    settings = settings or BatchOptions()
    folder = _Folder(out)
    if settings.sidecar:
        raise ConfigError("texts beside pictures are written into one table's folder; leave --sidecar out")
    words = words or SafeWords()
    header = header_of(bundle.manifest, options, words, words.restrict(bundle.vocabulary))
    with folder.alone():
        job, blocks = _plan(folder, given, header, settings.recursive)
        written = folder.parts()
        left = [block for block in blocks if part_name(block["part"], folder.suffix) not in written]
        captioned = failed = old = 0
        for said in (one for name in sorted(written) for one in folder.read_part(name)):
            old += not isinstance(said, Failure)
            failed += isinstance(said, Failure)
            if isinstance(said, Failure):
                notice(said)
        make = partial(_Writer, out, bundle, options, settings, threads, cuda, words)
        for done, (_, (rows, failures)) in enumerate(engine(make, left), 1):
            captioned, failed = captioned + rows - len(failures), failed + len(failures)
            for image, error in failures:
                notice(Failure(image, error))
            told = "captioning pictures" + (f" ({failed:,} failed)" if failed else "")
            if job.shards:  # nobody has counted what is in them
                progress(f"{told}, parts", len(written) + done, job.parts)
            else:
                progress(told, captioned + old + failed, job.pictures)
        missing = job.parts - len(folder.parts())
        if missing:
            raise DataError(
                f"{missing} of {job.parts} parts are not in {out}, although they were written: the machines of the "
                "cluster do not share that folder; give --out on a disk that all of them share, or a URL"
            )
    return Batched(
        pictures=captioned + old + failed,
        captioned=captioned,
        unchanged=old,
        known=0,
        failed=failed,
        texts=0,
        texts_left=0,
        texts_failed=0,
    )


# the folder


class _Folder:
    """The folder of a job, here or behind a URL."""

    def __init__(self, out: str) -> None:
        self.out = out.rstrip("/")
        self.suffix = os.path.splitext(self.out)[1].lower()  # noqa: PTH122 also of a URL
        if self.suffix not in SUFFIXES:
            raise ConfigError(
                f"--out is {out!r}; of a job in parts it is a folder whose name ends in {' or '.join(SUFFIXES)}"
            )
        check_table(Path(self.out))
        self._system, self._path = open_url(self.out)
        self._here = None if is_url(self.out) else Path(self.out)
        if self._here is not None and not self._here.parent.is_dir():
            raise ConfigError(f"--out is {out!r}, and there is no folder {self._here.parent}; make it, or give another")
        if self._here is not None and os.path.lexists(self._here) and not self._here.is_dir():
            raise ConfigError(f"{out} is a file, and the parts need a folder; give another --out, or remove it")
        self._system.makedirs(self._path, exist_ok=True)

    def alone(self) -> AbstractContextManager[None]:
        """Holds the folder, where that can be done."""
        if self._here is None:
            return nullcontext()
        busy = DataError(f"another run is writing {self.out}; wait until it is done, or give another --out")
        return alone(self._here / "_lock", busy)

    def parts(self) -> set[str]:
        """The names of the parts that are there."""
        self._system.invalidate_cache()
        names = (str(path).rstrip("/").rpartition("/")[2] for path in self._system.ls(self._path, detail=False))
        return {name for name in names if name.startswith("part-") and name.endswith(self.suffix)}

    def is_empty(self) -> bool:
        self._system.invalidate_cache()
        names = {str(path).rstrip("/").rpartition("/")[2] for path in self._system.ls(self._path, detail=False)}
        return all(name in ("_lock", _LISTING) or name.startswith(".") for name in names)

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes | None:
        """The bytes of a file, None where there is none."""
        try:
            data: bytes = self._system.cat_file(f"{self._path}/{name}", start=start, end=end)
        except FileNotFoundError:
            return None
        return data

    def read_part(self, name: str) -> Iterator[Any]:
        if self._here is not None:
            yield from read_table(self._here / name)
            return
        with tempfile.TemporaryDirectory() as near:
            copy = Path(near) / name
            self._system.get_file(f"{self._path}/{name}", str(copy))
            yield from read_table(copy)

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Writes a file that is there as a whole or not at all."""
        token = f".{secrets.token_hex(8)}-{name}"
        if self._here is not None:
            mine = self._here / token
            try:
                write(mine)
                mine.replace(self._here / name)
            finally:
                mine.unlink(missing_ok=True)
            return
        with tempfile.TemporaryDirectory() as near:
            write(Path(near) / token)
            self._system.put_file(str(Path(near) / token), f"{self._path}/{name}")


# what is to be done


def _plan(
    folder: _Folder, given: Iterable[str | os.PathLike[str]], header: Header, recursive: bool
) -> tuple[Job, list[dict[str, int]]]:
    """The job in the folder, which is begun where there is none, and its blocks."""
    kept = folder.read(JOB)
    if kept is None and not folder.is_empty():
        raise ConfigError(
            f"{folder.out} holds files that are of no job of `showtell batch`; give another --out, or remove it"
        )
    with tempfile.TemporaryDirectory() as near:
        listing = Path(near) / "listing"
        job = _write_listing(listing, given, header, recursive, folder)
        if kept is not None:
            _check_same(folder, kept, job)
        else:
            folder.put(_LISTING, lambda path: _write(path, listing))
            listing_of_job = Path(near) / "job"
            listing_of_job.write_bytes(msgspec.json.encode(job) + b"\n")
            folder.put(JOB, lambda path: _write(path, listing_of_job))
        return job, _blocks(listing, job)


def _write_listing(
    path: Path, given: Iterable[str | os.PathLike[str]], header: Header, recursive: bool, folder: _Folder
) -> Job:
    name_of, seen, digest = namer(Path(folder.out)), Places(), hashlib.sha256()
    pictures, shards = 0, []
    with path.open("wb") as file:
        for listed in list_given(given, recursive=recursive):
            key = key_of(listed.path if is_url(listed.path) else name_of(listed.path))
            if seen.find(key) >= 0:
                continue
            seen.put(key, 0)
            if listed.is_shard:
                shards.append(listed.path)
                continue
            pictures += 1
            line: Any = {"path": listed.path, "error": listed.error} if listed.error else listed.path
            _append(file, line, digest)
        for shard in shards:
            _append(file, {"shard": shard}, digest)
    if not pictures and not shards:
        below = "" if recursive else "; folders of folders are read with --recursive"
        raise DataError(f"there are no pictures in what was given{below}")
    block = max(_BLOCK, -(-pictures // _MOST))
    return Job(header=header, listing=digest.hexdigest(), pictures=pictures, shards=len(shards), block=block)


def _append(file: IO[bytes], line: Any, digest: Any) -> None:
    data = json.dumps(line).encode() + b"\n"  # escaped, so bytes of a name that are no UTF-8 come back
    digest.update(data)
    file.write(data)


def _check_same(folder: _Folder, kept: bytes, job: Job) -> None:
    try:
        old = msgspec.json.decode(kept, type=Job)
    except msgspec.MsgspecError as error:
        raise DataError(f"{folder.out}/{JOB} is damaged ({error}); give another --out, or remove the folder") from error
    made, given = differences(old.header, job.header)
    if made:
        raise ConfigError(
            f"{folder.out} was made with {made}, and this run has {given}; give the same, or another --out"
        )
    if old != job:
        raise ConfigError(
            f"{folder.out} holds a job over other pictures ({old.pictures:,} and {old.shards:,} shards, now "
            f"{job.pictures:,} and {job.shards:,}); give what it was begun with, or another --out"
        )


def _blocks(listing: Path, job: Job) -> list[dict[str, int]]:
    """The blocks: the number of the part, and which bytes of the listing it is of."""
    blocks: list[dict[str, int]] = []
    start = end = 0
    with listing.open("rb") as file:
        for number, line in enumerate(file, 1):
            end += len(line)
            if number >= job.pictures or number % job.block == 0:
                blocks.append({"part": len(blocks), "start": start, "end": end})
                start = end
    return blocks


def _write(path: Path, source: Path) -> None:
    with path.open("wb") as file:
        with source.open("rb") as original:
            shutil.copyfileobj(original, file)
        file.flush()
        os.fsync(file.fileno())


# the work


class _Writer:
    """Captions blocks into their parts, in whichever process."""

    def __init__(
        self,
        out: str,
        bundle: Bundle,
        options: SearchOptions,
        settings: BatchOptions,
        threads: int | None,
        cuda: bool,
        words: SafeWords,
    ) -> None:
        self._folder, self._captioner = _Folder(out), Captioner(bundle, threads=threads, cuda=cuda, words=words)
        self._options, self._settings = options, settings
        self._name_of = namer(Path(out))
        if self._folder.read(JOB) is None:
            raise DataError(
                f"a machine of the cluster does not see {out}; give --out on a disk that all of them share, or a URL"
            )

    def __call__(self, block: dict[str, int]) -> tuple[int, list[tuple[str, str]]]:
        """(how many rows the part has, the pictures that failed and why)."""
        lines = self._folder.read(_LISTING, block["start"], block["end"]) or b""
        readers = _REMOTE_READERS if b"://" in lines else None
        rows, failures = 0, []

        def count() -> Iterator[tuple[str, dict[str, Any]]]:
            nonlocal rows
            for label, said in self._caption(_sources(lines, self._settings.limits), readers):
                rows += 1
                if "error" in said:
                    said = {"error": plain(said["error"])}
                    failures.append((plain(label), said["error"]))
                yield label if is_url(label) else self._name_of(label), said

        name = part_name(block["part"], self._folder.suffix)
        self._folder.put(name, lambda path: write_table(path, count()))
        return rows, failures

    def _caption(self, sources: Iterator[tuple[str, Any]], readers: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
        results = self._captioner.caption_labelled(
            sources, self._options, batch=self._settings.batch, limits=self._settings.limits, readers=readers
        )
        for result in results:
            said = result.to_json()
            del said["image"]
            yield result.image, said


def _sources(lines: bytes, limits: ImageLimits) -> Iterator[tuple[str, Any]]:
    """(label, where the picture is) of what some lines of the listing name."""
    for line in lines.splitlines():
        listed = json.loads(line)
        if isinstance(listed, str):
            yield listed, partial(fetch, listed, limits) if is_url(listed) else listed
        elif "shard" in listed:
            for name, data in read_shard(listed["shard"], limits):
                yield name, data if isinstance(data, bytes) else partial(_raise, data)
        else:
            yield listed["path"], partial(_raise, ImageError(listed["error"]))


def _raise(error: Exception) -> bytes:
    raise error
