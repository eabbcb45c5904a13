"""Describing regions: python bench/regions.py --model runs/photos/bundle PICTURE... [--regions 20] [--rounds 15]

Times, in turn, of the same picture in one process: one caption of the whole picture by the default captioner; N regions
by an alignment model that cuts all of them from one pass of its encoder (RoI-align); the same by the same model, each
cut out and encoded by itself; and each described by the default captioner. The median of the rounds, and its ratio to
the whole picture's caption, are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from showtell.captioner import Captioner
from showtell.images import read_sized
from showtell.regions import RegionCaptioner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--model", required=True, help="an alignment model that describes regions")
    parser.add_argument("--regions", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    captioner, crops_of_captioner = Captioner.load("default"), RegionCaptioner.load("default")
    aligned, crops = RegionCaptioner.load(arguments.model), RegionCaptioner.load(arguments.model, crops=True)
    rng = np.random.default_rng(0)
    ways: dict[str, Callable[[str, np.ndarray], object]] = {
        "whole picture, default": lambda picture, boxes: captioner.caption([picture]),
        "whole picture, this model": lambda picture, boxes: aligned.describe(picture, boxes=[_whole(picture)]),
        "regions, one pass": lambda picture, boxes: aligned.describe(picture, boxes=boxes),
        "regions, crop by crop": lambda picture, boxes: crops.describe(picture, boxes=boxes),
        "regions, crop by crop, default": lambda picture, boxes: crops_of_captioner.describe(picture, boxes=boxes),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        picture = arguments.pictures[number % len(arguments.pictures)]
        _, size = read_sized(picture, draft=1)
        corners = np.sort(rng.random((arguments.regions, 2, 2)), axis=1)
        boxes = np.clip(corners.reshape(-1, 4) + np.array([-0.05, -0.05, 0.05, 0.05]), 0, 1) * np.tile(size, 2)
        for name, way in ways.items():
            began = time.perf_counter()
            way(picture, boxes)
            if number:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    first = statistics.median(times["whole picture, default"])
    for name, taken in times.items():
        middle = statistics.median(taken)
        print(f"{name}: {1000 * middle:.0f} ms, {middle / first:.2f} x the first")


def _whole(picture: str) -> list[int]:
    return [0, 0, *read_sized(picture, draft=1)[1]]


if __name__ == "__main__":
    main()
