"""Time and memory of showtell by what it is given: python bench/scaling.py [PICTURES] [--plot FILE] [--json FILE]

One thing changes at a time: the number of pictures, the batch, the beam, the threads, and the size of the pictures; the
rest is as the first line says. Every point is a process of its own, so that memory is of that point alone; the points
are gone through `--rounds` times, forwards and backwards, and medians are printed, so that what else the machine does
spreads over all.

    pictures    seconds from the start of the process to the last caption, and captions a second on the way
    the others  captions a second of `Captioner.caption`, from JPEG bytes, once it is warm

Memory is the most that was resident (Linux: VmHWM), in MB; cores are the seconds of CPU in a second, which `threads`
should bound. Sizes are made from the same photographs, resized, as JPEG of quality 90: enlarged photographs are
smoother than real ones of that size, and a little faster to decode.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

# Nothing large is imported here: a child's ru_maxrss begins with the size of its parent.

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SUFFIXES = (".jpg", ".jpeg")
CALL = 32  # pictures in a call, or two batches where those are more
OWN_SIZE = "as they are"
SIZES = ("320x240", "640x480", "1280x960", "2048x1536", "4000x3000", "6000x4000")
Value = int | str


@dataclass(frozen=True)
class Point:
    """What a process is given. `pictures` 0: as many as there is time for, once it is warm."""

    threads: int
    pictures: int = 0
    batch: int = 16
    beam: int = 3
    size: str = OWN_SIZE


def list_points(threads: int) -> dict[str, dict[Value, Point]]:
    """The points of each axis, by what is changed."""
    usual = Point(threads)
    some = sorted({1, threads, *(2**power for power in range(8) if 2**power < threads)})
    return {
        "pictures": {count: replace(usual, pictures=count) for count in (1, 4, 16, 64, 256, 1024)},
        "batch": {size: replace(usual, batch=size) for size in (1, 2, 4, 8, 16, 32, 64)},
        "beam": {beam: replace(usual, beam=beam) for beam in (1, 2, 3, 5, 8, 12)},
        "threads": {count: replace(usual, threads=count) for count in some},
        "size": {size: replace(usual, size=size) for size in SIZES},
    }


# a point's process


def measure(point: Point, files: Sequence[str], model: str, seconds: float, begun: float) -> dict[str, float]:
    """What a point takes; `begun` is when its process was started (`time.time`)."""
    from showtell.captioner import Captioner

    captioner = Captioner.load(model, threads=point.threads)
    options = captioner.options(beam=point.beam)
    pictures = cycle([Path(path).read_bytes() for path in files])

    def caption(count: int) -> int:
        found = captioner.caption(list(islice(pictures, count)), options, batch=point.batch)
        return len([result.text for result in found])  # a Failure has no text

    call = max(CALL, 2 * point.batch)
    if not point.pictures:
        caption(call)
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while done < point.pictures or (not point.pictures and time.perf_counter() - wall < seconds):
        done += caption(point.pictures or call)
    took = time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
    return {
        "rate": done / took,
        "whole": time.time() - begun,
        "cores": (time.process_time() - cpu) / took,
        "memory": peak,
    }


def run_point(point: Point, files: list[str], model: str, seconds: float) -> dict[str, float]:
    """The same in a process of its own."""
    told = json.dumps([asdict(point), files, model, seconds, time.time()])
    done = subprocess.run([sys.executable, __file__, "--point", told], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the process of {point} ended with {done.returncode}; what it said last is above")
    found: dict[str, float] = json.loads(done.stdout)
    return found


def resize_pictures(files: Sequence[str], folder: str) -> None:
    """The pictures in each of `SIZES`, in folder/SIZE; in a process of its own, which may be large."""
    from PIL import Image

    for size in SIZES:
        place = Path(folder) / size
        place.mkdir()
        width, height = map(int, size.split("x"))
        for number, path in enumerate(files):
            with Image.open(path) as picture:
                resized = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            resized.save(place / f"{number}.jpg", quality=90)


# telling


def print_axis(axis: str, found: dict[Value, dict[str, float]]) -> None:
    whole = axis == "pictures"
    print(f"\n{axis:<12}{'seconds' if whole else '       '}{'/s':>9}{'MB':>8}{'cores':>8}")
    for value, each in found.items():
        seconds = f"{each['whole']:7.2f}" if whole else " " * 7
        print(f"{value:<12}{seconds}{each['rate']:9.1f}{each['memory']:8.0f}{each['cores']:8.2f}")


def draw(found: dict[str, dict[Value, dict[str, float]]], title: str, path: Path) -> None:
    """A column an axis: time above, memory below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(found), figsize=(3.3 * len(found), 6.2), layout="constrained", squeeze=False)
    for column, (axis, values) in enumerate(found.items()):
        places = list(range(len(values)))
        what = "whole" if axis == "pictures" else "rate"
        label = "seconds, start included" if axis == "pictures" else "captions a second"
        for row, (key, name) in enumerate(((what, label), ("memory", "peak memory, MB"))):
            plot = axes[row][column]
            plot.plot(places, [each[key] for each in values.values()], "o-", color=f"C{row}")
            plot.set_xticks(places, [str(value) for value in values], rotation=40 if axis == "size" else 0)
            plot.set(title=name, xlabel=axis)
            plot.set_ylim(bottom=0)
            plot.grid(alpha=0.3)
            plot.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def find_pictures(folder: Path, most: int) -> list[str]:
    found = [str(path) for path in sorted(folder.glob("*")) if path.suffix.lower() in SUFFIXES]
    if not found:
        raise SystemExit(f"no {' or '.join(SUFFIXES)} in {folder}")
    return found[:most]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="?", type=Path, default=EXAMPLES, help="a folder of .jpg [default: examples]")
    parser.add_argument("--only", metavar="AXES", help="with commas between them [default: all]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a point in a round, at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="[default: all cores]")
    parser.add_argument("--count", type=int, default=16, help="pictures of the folder, at most")
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG of all; needs matplotlib")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was measured")
    parser.add_argument("--point", help=argparse.SUPPRESS)
    parser.add_argument("--resize", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.plot and importlib.util.find_spec("matplotlib") is None:
        raise SystemExit("--plot needs matplotlib; run: pip install matplotlib")
    if arguments.point:
        point, *rest = json.loads(arguments.point)
        print(json.dumps(measure(Point(**point), *rest)))
        return
    if arguments.resize:
        folder, *files = arguments.resize
        resize_pictures(files, folder)
        return
    points = list_points(arguments.threads)
    axes = arguments.only.split(",") if arguments.only else list(points)
    if unknown := [axis for axis in axes if axis not in points]:
        parser.error(f"unknown axis {unknown[0]!r}; accepted are {', '.join(points)}")
    files = find_pictures(arguments.pictures, arguments.count)
    usual = Point(arguments.threads)
    title = (
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, {arguments.model}, {len(files)} photographs, "
        f"batch {usual.batch}, beam {usual.beam}, {usual.threads} threads, load {os.getloadavg()[0]:.2f}"
    )
    print(title, flush=True)
    rounds = run_rounds({axis: points[axis] for axis in axes}, files, arguments)
    found: dict[str, dict[Value, dict[str, float]]] = {}
    for axis, values in rounds.items():
        found[axis] = {
            value: {key: statistics.median(each[key] for each in several) for key in several[0]}
            for value, several in values.items()
        }
        print_axis(axis, found[axis])
    if arguments.json:
        told = {"title": title, "medians": found, "rounds": rounds}
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    if arguments.plot:
        draw(found, title, arguments.plot)


def run_rounds(
    points: dict[str, dict[Value, Point]], files: list[str], arguments: argparse.Namespace
) -> dict[str, dict[Value, list[dict[str, Any]]]]:
    """What each point took, by round."""
    found: dict[str, dict[Value, list[dict[str, Any]]]] = {axis: {v: [] for v in points[axis]} for axis in points}
    order = [(axis, value, point) for axis, values in points.items() for value, point in values.items()]
    with tempfile.TemporaryDirectory() as folder:
        if "size" in points:
            subprocess.run([sys.executable, __file__, "--resize", folder, *files], check=True)
        for number in range(arguments.rounds):
            for axis, value, point in order[:: -1 if number % 2 else 1]:
                given = files
                if point.size != OWN_SIZE:
                    given = sorted(map(str, (Path(folder) / point.size).iterdir()))
                found[axis][value].append(run_point(point, given, arguments.model, arguments.seconds))
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    main()
