"""Finding duplicates: python bench/duplicates.py [FOLDER …] [--pictures N]

Groups N random fingerprints among which near-identical ones are planted, and fingerprints pictures of 640 x 480. With
folders of pictures: fingerprints these, groups them, and says which share of some of them is found again after each
kind of change.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from images import make_noise
from showtell.datasets.duplicates import MAX_DISTANCE, Fingerprints, fingerprint_pictures, group_duplicates
from showtell.images import FORMATS, read_image

PLANTED = 0.1  # share of the fingerprints that are near another
NOISE = 5  # levels that the thumbnail of a planted one is off
SUFFIXES = tuple(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)

ARRAYS = ("hashes", "details", "thumbnails", "features", "digests", "sizes")

Change = Callable[[Image.Image], Image.Image]


def resized(share: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        width, height = (max(1, round(side * share)) for side in picture.size)
        return picture.resize((width, height), Image.Resampling.BICUBIC)

    return change


def cropped(left: float, top: float, right: float, bottom: float) -> Change:
    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return picture.crop(tuple(round(side) for side in box))

    return change


def labelled(opacity: float) -> Change:
    """A white label over a quarter of the width and 6 % of the height, in a corner."""

    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        label = (round(0.74 * width), round(0.92 * height), round(0.98 * width), round(0.98 * height))
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).rectangle(label, fill=round(255 * opacity))
        return Image.composite(Image.new("RGB", picture.size, "white"), picture, mask)

    return change


CHANGES: dict[str, tuple[Change, int]] = {  # and the quality of the JPEG that is written
    "JPEG, quality 95": (lambda picture: picture, 95),
    "JPEG, quality 75": (lambda picture: picture, 75),
    "JPEG, quality 50": (lambda picture: picture, 50),
    "a quarter of the size": (resized(0.25), 90),
    "half of the size": (resized(0.5), 90),
    "1.5 times the size": (resized(1.5), 90),
    "twice the size": (resized(2), 90),
    "224 x 224": (lambda picture: picture.resize((224, 224), Image.Resampling.BICUBIC), 90),
    "1 % off each side": (cropped(0.01, 0.01, 0.01, 0.01), 92),
    "1.5 % off each side": (cropped(0.015, 0.015, 0.015, 0.015), 92),
    "3 % off the left": (cropped(0.03, 0, 0, 0), 92),
    "3 % off left and top": (cropped(0.03, 0.03, 0, 0), 92),
    "3 % off each side": (cropped(0.03, 0.03, 0.03, 0.03), 92),
    "brightness + 10 %": (lambda picture: ImageEnhance.Brightness(picture).enhance(1.1), 92),
    "brightness - 10 %": (lambda picture: ImageEnhance.Brightness(picture).enhance(0.9), 92),
    "contrast + 10 %": (lambda picture: ImageEnhance.Contrast(picture).enhance(1.1), 92),
    "a label in a corner, 40 %": (labelled(0.4), 92),
    "a label in a corner, opaque": (labelled(1), 92),
    "grey": (lambda picture: picture.convert("L"), 92),
    "flipped (another picture)": (lambda picture: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 92),
}


def peak() -> float:
    """The most memory that this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def time_grouping(pictures: int) -> None:
    rng = np.random.default_rng(0)
    planted = round(PLANTED * pictures)
    first = pictures - planted
    hashes = rng.integers(0, 2**64, pictures, np.uint64)
    details = rng.integers(0, 2**64, (pictures, 2), np.uint64)
    thumbnails = rng.integers(0, 256, (pictures, 8, 8, 3), np.uint8)
    origins = rng.choice(first, planted, replace=False)
    for row, origin in enumerate(origins, first):
        bits = rng.choice(64, rng.integers(0, MAX_DISTANCE + 1), replace=False).astype(np.uint64)
        hashes[row] = hashes[origin] ^ np.bitwise_or.reduce(np.uint64(1) << bits, initial=np.uint64(0))
        details[row] = details[origin]
        noise = rng.integers(-NOISE, NOISE + 1, (8, 8, 3))
        thumbnails[row] = np.clip(thumbnails[origin].astype(int) + noise, 0, 255)
    prints = Fingerprints(
        hashes=hashes,
        details=details,
        thumbnails=thumbnails,
        features=np.full(pictures, 64, np.uint8),
        digests=np.arange(1, pictures + 1, dtype=np.uint64),
        sizes=np.full((pictures, 2), 640, np.int32),
        failures={},
    )
    before, start = peak(), time.perf_counter()
    groups = group_duplicates(prints)
    seconds = time.perf_counter() - start
    found = (groups[origins] == groups[first:]).sum()
    print(f"grouping {pictures:,} fingerprints: {seconds:.1f} s, {peak():,.0f} MB at the peak ({before:,.0f} before)")
    print(f"  {found:,} of {planted:,} planted ones found, {groups.max() + 1:,} groups for {first:,} pictures")


def time_fingerprints(pictures: list[str | bytes]) -> Fingerprints:
    start = time.perf_counter()
    prints = fingerprint_pictures(pictures)
    rate = len(pictures) / (time.perf_counter() - start)
    print(f"fingerprinting {len(pictures):,} pictures: {rate:,.0f} a second, {len(prints.failures)} cannot be read")
    return prints


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def measure_recall(paths: list[str]) -> None:
    rows = [fingerprint_pictures([path, *change_all(path)]) for path in paths]
    print(f"found again of {len(paths):,} pictures:")
    for place, name in enumerate(CHANGES, 1):
        groups = group_duplicates(join([take(row, 0) for row in rows] + [take(row, place) for row in rows]))
        found = groups[: len(rows)] == groups[len(rows) :]
        print(f"  {name:28}{found.mean():7.1%}")


def change_all(path: str) -> list[bytes]:
    picture = read_image(path)
    return [encode(change(picture), quality) for change, quality in CHANGES.values()]


def take(prints: Fingerprints, row: int) -> tuple[np.ndarray, ...]:
    return tuple(getattr(prints, name)[row] for name in ARRAYS)


def join(rows: list[tuple[np.ndarray, ...]]) -> Fingerprints:
    return Fingerprints(**dict(zip(ARRAYS, map(np.stack, zip(*rows, strict=True)), strict=True)), failures={})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--pictures", type=int, default=123_000, help="fingerprints that are grouped")
    parser.add_argument("--sample", type=int, default=250, help="pictures of each folder that are changed")
    arguments = parser.parse_args()
    time_grouping(arguments.pictures)
    time_fingerprints([encode(make_noise((640, 480)), 90)] * 1_000)
    found = [sorted(str(path) for path in folder.iterdir() if is_picture(path)) for folder in arguments.folders]
    pictures = [path for paths in found for path in paths]
    if not pictures:
        return
    groups = group_duplicates(time_fingerprints(list(pictures)))
    sizes = np.bincount(groups)
    print(f"  {(sizes > 1).sum():,} groups of duplicates, the largest of {sizes.max()}")
    rng = np.random.default_rng(0)
    sample = [name for paths in found for name in rng.permutation(paths)[: arguments.sample].tolist()]
    measure_recall(sample)


if __name__ == "__main__":
    main()
