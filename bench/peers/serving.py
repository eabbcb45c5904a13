"""A captioner's process, as all the compared ones share it.

    python MODULE.py NAME write FOLDER            writes the weights into FOLDER
    python MODULE.py NAME first SETTINGS PICTURE  captions one picture and prints its number of words
    python MODULE.py NAME serve SETTINGS          captions for as long as it is told, on its standard streams

SETTINGS is the JSON of `Settings`. A server first prints what it says of itself, then reads orders, a line each:
{"work": NAME, "seconds": S}, where 0 seconds are one call. It answers {"pictures": N, "seconds": S, "cpu": seconds of
it, "words": the mean of a caption, "peak": MB}. What libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter, process_time
from typing import Any


@dataclass(frozen=True)
class Settings:
    """What all captioners are given alike."""

    folder: str  # where the weights lie
    pictures: list[str]  # JPEG files
    threads: int
    batch: int
    beam: int
    words: int  # of every caption
    model: str  # showtell's


@dataclass(frozen=True)
class Work:
    """Something to be timed: `run` takes so many pictures at a time, encoded, and gives the words of each caption."""

    run: Callable[[list[bytes]], list[int]]
    pictures: int


@dataclass(frozen=True)
class System:
    """A captioner that is loaded: its works by name, "captions" among them, and what it says of itself."""

    works: dict[str, Work]
    about: dict[str, Any] = field(default_factory=dict)


Write = Callable[[str, Path], None]
Load = Callable[[str, Settings], System]


def peak_memory() -> float:
    """The most memory that this process had resident, in MB (Linux: VmHWM)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def run_process(write: Write, load: Load) -> None:
    """What this process was started for."""
    name, task, told, *rest = sys.argv[1:]
    if task == "write":
        write(name, Path(told))
        return
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    settings = Settings(**json.loads(told))
    system = load(name, settings)
    if task == "first":
        print(*system.works["captions"].run([Path(rest[0]).read_bytes()]), file=answers, flush=True)
        return
    pictures = [Path(path).read_bytes() for path in settings.pictures]
    print(json.dumps(system.about), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(do_work(system.works, json.loads(line), cycle(pictures))), file=answers, flush=True)


def do_work(works: dict[str, Work], order: dict[str, Any], pictures: Iterator[bytes]) -> dict[str, float]:
    """What an order took: whole calls, until its time is over."""
    work = works[order["work"]]
    words: list[int] = []
    seconds, cpu = 0.0, process_time()
    while not words or seconds < order["seconds"]:
        given = list(islice(pictures, work.pictures))
        begun = perf_counter()
        found = work.run(given)
        seconds += perf_counter() - begun
        if len(found) != len(given):
            raise SystemExit(f"{len(found)} captions for {len(given)} pictures")
        words += found
    return {
        "pictures": len(words),
        "seconds": seconds,
        "cpu": process_time() - cpu,
        "words": sum(words) / len(words),
        "peak": peak_memory(),
    }
