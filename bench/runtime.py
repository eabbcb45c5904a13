"""Captions a second of the runtime, against its encoder alone: python bench/runtime.py [--model MODEL] [PICTURE…]

Rates in one process, each measured several times over between two turns of the first, and their ratios to those;
medians are printed:
the encoder alone on decoded pixels, batches beside each other as in the whole path; all threads on one batch of it;
encoder and beam search on the same pixels; the whole path from the files; and the search alone on features, with all
words, with the safe words, and gender-neutrally too (English models). The pictures (those of examples/ when
none are given) are repeated until there are enough.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.captioner import Captioner, Runtime
from showtell.decoding import search
from showtell.images import read_pixels
from showtell.safewords import SafeWords

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def find_pictures(given: list[Path], count: int) -> list[str]:
    """`count` paths, those of the given files and folders over and over."""
    found = [
        str(path) for place in given for path in (sorted(place.glob("*.[jJpP][pPnN]*")) if place.is_dir() else [place])
    ]
    if not found:
        raise SystemExit(f"no .jpg, .jpeg or .png in {', '.join(map(str, given))}")
    return list(islice(cycle(found), count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pictures", nargs="*", type=Path, default=[EXAMPLES], help="files or folders")
    parser.add_argument("--model", default="default", help="an embedded bundle's name, a directory or a zip")
    parser.add_argument("--count", type=int, default=64, help="pictures a measurement")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--beam", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()

    captioner = Captioner.load(arguments.model, threads=arguments.threads)
    runtime, options = captioner.runtime, captioner.options(beam=arguments.beam)
    paths = find_pictures(arguments.pictures, arguments.count)
    pixels = [read_pixels(path, captioner.manifest.preprocessing) for path in paths]
    batches = [pixels[i : i + arguments.batch] for i in range(0, len(pixels), arguments.batch)]
    words: list[int] = []

    def encode(runtime: Runtime, batch: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        return list(runtime.encode_each(batch))

    def encode_and_search(runtime: Runtime, batch: Sequence[NDArray[np.uint8]]) -> list[int]:
        found = search(runtime, runtime.encode_each(batch), options, captioner.restrictions)
        words.extend(len(best[0].tokens) for best in found)
        return []

    def one_batch() -> None:
        for batch in batches:
            runtime.encode(np.stack(batch))

    def spread(work: Callable[[Runtime, Sequence[NDArray[np.uint8]]], list[Any]]) -> Callable[[], None]:
        return lambda: deque(runtime.spread(work, batches), maxlen=0).clear()

    features = [runtime.encode_each(batch) for batch in batches]

    def search_alone(words: SafeWords) -> Callable[[], None]:
        restrictions = words.restrict(captioner.vocabulary, captioner.manifest.once)
        return lambda: [search(runtime, one, options, restrictions) for one in features].clear()

    def caption_files() -> None:
        for result in captioner.caption_stream(paths, options, batch=arguments.batch):
            assert hasattr(result, "text"), result

    works: dict[str, Callable[[], None]] = {
        "encoder alone": spread(encode),
        "all on one batch": one_batch,
        "encoder and search": spread(encode_and_search),
        "from files": caption_files,
        "search alone": search_alone(SafeWords(default=False)),
        "safe words": search_alone(SafeWords()),
    }
    if "the" in captioner.vocabulary:
        works["gender-neutral"] = search_alone(SafeWords(neutral=True))

    def measure(work: Callable[[], None]) -> float:
        start = time.perf_counter()
        work()
        return len(paths) / (time.perf_counter() - start)

    first = works["encoder alone"]
    rates: dict[str, list[float]] = {name: [] for name in works}
    ratios: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(arguments.repeats + 1):  # the first one warms up
        before = measure(first)
        for name, work in works.items():
            rate, after = measure(work), measure(first)
            if repeat:
                rates[name].append(rate)
                ratios[name].append(2 * rate / (before + after))
            before = after
    print(
        f"{captioner.manifest.name} ({captioner.manifest.encoder}), {len(paths)} pictures, batch {arguments.batch}, "
        f"beam {arguments.beam}, {np.mean(words):.1f} words a caption, {arguments.repeats} repeats"
    )
    print("                        /s    ratio   lowest  highest")
    for name in works:
        low, middle, high = min(ratios[name]), statistics.median(ratios[name]), max(ratios[name])
        print(f"{name:<18}{statistics.median(rates[name]):8.1f}{middle:9.2f}{low:9.2f}{high:9.2f}")


if __name__ == "__main__":
    main()
