"""Searching a million embeddings: python bench/search.py [--rows N] [--approximate]

Writes N random unit vectors as float16 to a file, block by block, and finds the 20 nearest of 1 and of 16 queries in
processes of their own: exactly, over the memory map; and with a plain matrix product over a float32 matrix that is held
in memory whole, and argpartition. The middle of several times, their ratio, and the peak of RssAnon (the memory that is
not page cache) beside what it was before are printed. With --approximate also usearch: the time to build its graph and
to search it, and its recall, here of vectors without any structure, which is the hardest case for a graph.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sampler import Sampler
from showtell.nearest import nearest_rows
from showtell.search import PictureIndex, build_approximate, map_rows

WIDTH = 256
TOP = 20
QUERIES = (1, 16)
ROUNDS = 7
PIECE = 1 << 14  # rows written at once
TOKEN = "bench"
SEED = 1  # of the queries; the rows have 0


def make_vectors(rows: int, rng: np.random.Generator) -> np.ndarray:
    vectors = rng.standard_normal((rows, WIDTH), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_index(directory: Path, rows: int) -> None:
    """An index of random embeddings, without pictures, in the layout of showtell.search."""
    rng = np.random.default_rng(0)
    with embeddings_path(directory).open("wb") as file:
        for start in range(0, rows, PIECE):
            file.write(make_vectors(min(PIECE, rows - start), rng).astype("<f2").tobytes())
    (directory / f"entries-{TOKEN}.jsonl").touch()
    np.concatenate([[0], np.zeros(rows, np.int64)]).astype("<i8").tofile(directory / f"offsets-{TOKEN}.i64")
    about = {"format": 1, "token": TOKEN, "model": "synthetic", "width": WIDTH}
    (directory / "index.json").write_text(json.dumps(about))


def embeddings_path(directory: Path) -> Path:
    return directory / f"embeddings-{TOKEN}.f16"


def middle(work: Callable[[], object]) -> float:
    """Milliseconds, after a first round that is not counted."""
    times = []
    for _ in range(ROUNDS + 1):
        begun = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - begun))
    return float(np.median(times[1:]))


def measure(directory: Path, rows: int, what: str) -> None:
    """Prints what one way of searching takes, as JSON."""
    sampler = Sampler()
    sampler.start()
    queries = make_vectors(max(QUERIES), np.random.default_rng(SEED))
    mapped = map_rows(embeddings_path(directory), rows, WIDTH)
    offsets = np.memmap(directory / f"offsets-{TOKEN}.i64", "<i8", "r")[1:]
    time.sleep(0.1)
    before, found = sampler.peak, {}
    if what == "exact":
        for count in QUERIES:
            found[count] = middle(lambda count=count: nearest_rows(mapped, queries[:count], TOP, offsets=offsets))
    elif what == "plain":
        matrix = mapped.astype(np.float32)
        for count in QUERIES:

            def multiply(count: int = count) -> object:
                scores = matrix @ queries[:count].T
                return np.argpartition(scores, -TOP, axis=0)[-TOP:]

            found[count] = middle(lambda count=count: matrix @ queries[:count].T)
            found[f"top {count}"] = middle(multiply)
    else:
        index = PictureIndex(directory)
        begun = time.perf_counter()
        build_approximate(index)
        found["build"] = time.perf_counter() - begun
        hits = 0
        exact = nearest_rows(mapped, queries, TOP, offsets=offsets)
        graph_rows = index._follow_graph(queries, TOP)
        for (true, _), (near, _) in zip(exact, graph_rows, strict=True):
            hits += len(set(true.tolist()) & set(near.tolist()))
        found["recall"] = hits / (TOP * len(queries))
        for count in QUERIES:
            found[count] = middle(lambda count=count: index._follow_graph(queries[:count], TOP))
        found["bytes"] = index.graph.stat().st_size
    print(json.dumps({"before": before, "peak": sampler.peak, **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--approximate", action="store_true", help="also usearch; building its graph takes minutes")
    parser.add_argument(
        "--folder", type=Path, help="where the embeddings go for a while [default: the temporary folder]"
    )
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "DIRECTORY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(Path(arguments.measure[1]), arguments.rows, arguments.measure[0])
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as directory:
        write_index(Path(directory), arguments.rows)
        size = embeddings_path(Path(directory)).stat().st_size / 1e6
        print(
            f"{arguments.rows:,} embeddings of {WIDTH} numbers, {size:,.0f} MB on disk; the nearest {TOP}", flush=True
        )
        found = {}
        for what in ("exact", "plain", *(["approximate"] if arguments.approximate else [])):
            command = [sys.executable, __file__, "--rows", str(arguments.rows), "--measure", what, directory]
            found[what] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for count in QUERIES:
        exact, plain = found["exact"][str(count)], found["plain"][str(count)]
        sorted_too = found["plain"][f"top {count}"]
        print(
            f"{count:3} queries: exact {exact:,.1f} ms; float32 product {plain:,.1f} ms, {exact / plain:.2f} times; "
            f"with argpartition {sorted_too:,.1f} ms, {exact / sorted_too:.2f} times"
        )
    for what, one in found.items():
        print(f"RssAnon of {what}: {one['peak']:,.1f} MB at the peak, {one['before']:,.1f} before")
    if arguments.approximate:
        one = found["approximate"]
        print(
            f"usearch: recall {one['recall']:.3f}, {one['1']:.2f} ms for 1 query and {one['16']:.2f} for 16, "
            f"built in {one['build']:,.1f} s, {one['bytes'] / 1e6:,.0f} MB"
        )


if __name__ == "__main__":
    main()
