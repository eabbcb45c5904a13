"""`showtell batch` on a folder: speed, memory, and being killed: python bench/batch.py FOLDER [--count N] [--kills N]

Prints the captions a second of the whole job, with a new table each time, beside those of encoder and beam search on
pixels that are in memory, measured in turn; the peak of RssAnon (memory that is not page cache) of jobs over a tenth of
the pictures and over all, in processes of their own; and what is left of a job that was killed at random moments with
SIGKILL and then gone on with, beside one that was left alone. The temporary folder holds tables only.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampler import Sampler
from showtell.captioner import Captioner, Runtime
from showtell.decoding import search
from showtell.images import ImageError, read_pixels
from showtell.jobs.batch import caption_pictures

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
CLOSE = 2e-4  # log-probabilities of the same picture in batches of other sizes


def run_job(pictures: str, out: str, arguments: argparse.Namespace) -> None:
    """The job in this process; prints what it took, as JSON."""
    sampler = Sampler()
    sampler.start()
    captioner = Captioner.load(arguments.model, threads=arguments.threads)
    begun = time.perf_counter()
    done = caption_pictures([pictures], out, captioner, captioner.options(beam=arguments.beam))
    print(json.dumps({**done.to_json(), "peak": sampler.peak, "seconds": time.perf_counter() - begun}))


def command(pictures: Path, out: Path, arguments: argparse.Namespace) -> list[str]:
    told = [sys.executable, __file__, "--job", str(pictures), str(out), "--model", arguments.model]
    told += ["--beam", str(arguments.beam)]
    return told + (["--threads", str(arguments.threads)] if arguments.threads else [])


@contextmanager
def listed(paths: list[Path]) -> Iterator[tuple[Path, Path]]:
    """A list of the pictures, and a table that is not there yet."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures.txt"
        pictures.write_text("".join(f"{path}\n" for path in paths), "utf-8")
        yield pictures, Path(folder) / "captions.jsonl"


def measure_speed(paths: list[Path], arguments: argparse.Namespace) -> None:
    captioner = Captioner.load(arguments.model, threads=arguments.threads)
    options = captioner.options(beam=arguments.beam)
    pixels = []
    for path in paths:
        try:
            pixels.append(read_pixels(path, captioner.manifest.preprocessing))
        except ImageError as error:
            print(f"left out of the rate in memory: {error}", file=sys.stderr)
    batches = [pixels[start : start + 16] for start in range(0, len(pixels), 16)]

    def work(runtime: Runtime, batch: Sequence[NDArray[np.uint8]]) -> list[int]:
        return [len(best) for best in search(runtime, runtime.encode_each(batch), options)]

    rates: dict[str, list[float]] = {"in memory": [], "batch job": []}
    for _ in range(arguments.repeats):
        begun = time.perf_counter()
        for _ in captioner.runtime.spread(work, batches):
            pass
        rates["in memory"].append(len(pixels) / (time.perf_counter() - begun))
        with listed(paths) as (pictures, out):
            begun = time.perf_counter()
            caption_pictures([pictures], out, captioner, options)
            rates["batch job"].append(len(paths) / (time.perf_counter() - begun))
            begun = time.perf_counter()
            again = caption_pictures([pictures], out, captioner, options)
            later = time.perf_counter() - begun
    median = {name: statistics.median(values) for name, values in rates.items()}
    ratios = [job / memory for memory, job in zip(*rates.values(), strict=True)]
    print(f"{captioner.manifest.name}, {len(paths):,} pictures, beam {arguments.beam}, {arguments.repeats} repeats")
    for name, rate in median.items():
        print(f"{name:<12}{rate:8.1f}/s  {min(rates[name]):8.1f} to {max(rates[name]):.1f}")
    print(f"ratio       {statistics.median(ratios):8.2f}     {min(ratios):8.2f} to {max(ratios):.2f}  (at least 0.8)")
    print(f"once more   {later:8.2f} s for {again.unchanged:,} unchanged pictures", flush=True)


def measure_memory(paths: list[Path], arguments: argparse.Namespace) -> None:
    peaks = {}
    for count in (max(1, len(paths) // 10), len(paths)):
        with listed(paths[:count]) as (pictures, out):
            done = subprocess.run(command(pictures, out, arguments), check=True, capture_output=True, text=True)
        peaks[count] = json.loads(done.stdout)["peak"]
        print(f"peak memory {peaks[count]:8.1f} MB over {count:,} pictures")
    few, many = peaks.values()
    print(f"difference  {many - few:+8.1f} MB  (at most 50)", flush=True)


def read_rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()]


def try_kills(paths: list[Path], arguments: argparse.Namespace) -> None:
    """Raises SystemExit where a picture is lost, twice or different."""
    chance = random.Random(arguments.seed)
    with listed(paths) as (pictures, out):
        subprocess.run(command(pictures, out, arguments), check=True, capture_output=True)
        whole, size = read_rows(out), out.with_name(f"{out.name}.journal").stat().st_size
    with listed(paths) as (pictures, out):
        journal, killed, torn = out.with_name(f"{out.name}.journal"), 0, 0
        for left in range(arguments.kills, 0, -1):
            there = journal.stat().st_size if journal.exists() else 0
            goal = there + chance.uniform(0, 2) * (size - there) / (left + 1)
            process = subprocess.Popen(command(pictures, out, arguments), stdout=subprocess.DEVNULL)
            while process.poll() is None and (not journal.exists() or journal.stat().st_size < goal):
                time.sleep(1e-4)
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
            torn += journal.exists() and not journal.read_bytes().endswith(b"\n")
        before = journal.read_bytes().count(b"\n") - 1
        subprocess.run(command(pictures, out, arguments), check=True, capture_output=True)
        resumed = read_rows(out)
        entries = [json.loads(line)["path"] for line in journal.read_bytes().splitlines()[1:]]
    images = [row["image"] for row in resumed]
    same = sum(row.get("caption") == other.get("caption") for row, other in zip(resumed, whole, strict=False))
    apart = max(
        abs(row.get("logprob", 0) - other.get("logprob", 0)) for row, other in zip(resumed, whole, strict=False)
    )
    twice = len(images) - len(set(images)) + len(entries) - len(set(entries))
    print(
        f"{killed} kills, the last with {before:,} done, {torn} torn lines: {len(resumed):,} results for "
        f"{len(paths):,} pictures, {twice} twice, {same:,} as when left alone, log-probabilities within {apart:.1g}"
    )
    if images != [row["image"] for row in whole] or twice or same != len(paths) or apart > CLOSE:
        raise SystemExit("the results differ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of pictures")
    parser.add_argument("--count", type=int, default=2000, help="pictures, at most")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=("speed", "memory", "kills"))
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(*arguments.job, arguments)
        return
    if arguments.folder is None:
        parser.error("give a folder of pictures")
    found = sorted(path for path in arguments.folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    paths = found[: arguments.count]
    if not paths:
        raise SystemExit(f"no {', '.join(SUFFIXES)} in {arguments.folder}")
    for name, measure in (("speed", measure_speed), ("memory", measure_memory), ("kills", try_kills)):
        if arguments.only in (None, name) and (name != "kills" or arguments.kills):
            measure(paths, arguments)


if __name__ == "__main__":
    main()
