"""Pictures read per second by size, whole and drafted: python bench/images.py [PICTURE]

For each size: how many JPEGs a second are decoded at full scale and resized to 224 × 224, how many
`read_pixels` reads (it decodes large ones at a reduced scale), the ratio, and the mean and greatest
difference of the two results, of 255. The picture is the given one, resized; without one it is coloured noise
of every frequency, the hardest case for the decoder and for the difference.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from showtell.images import Preprocessing, read_image, read_pixels

SIZES = ((500, 375), (600, 400), (1200, 800), (1280, 960), (2048, 1536), (4000, 3000))  # the last is 12 megapixels
SECONDS = 3.0  # spent on each measurement
PREPROCESSING = Preprocessing()


def read_whole(data: bytes) -> np.ndarray:
    side = PREPROCESSING.size
    return np.asarray(read_image(data).resize((side, side), Image.Resampling.BICUBIC))


def read_drafted(data: bytes) -> np.ndarray:
    return read_pixels(data, PREPROCESSING)


def rate(read: Callable[[bytes], np.ndarray], data: bytes) -> float:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < SECONDS:
        read(data)
        count += 1
    return count / (time.perf_counter() - start)


def make_noise(size: tuple[int, int]) -> Image.Image:
    """Coloured noise, octave by octave."""
    rng = np.random.default_rng(0)
    picture = Image.new("RGB", size)
    for octave in range(11):
        layer = Image.fromarray(rng.integers(0, 256, (3 << octave, 4 << octave, 3), np.uint8))
        picture = Image.blend(picture, layer.resize(size), 0.3)
    return picture


def main() -> None:
    picture = read_image(sys.argv[1]) if len(sys.argv) > 1 else make_noise(SIZES[-1])
    print("       size   whole/s drafted/s   ratio    mean   max")
    for size in SIZES:
        buffer = io.BytesIO()
        picture.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
        data = buffer.getvalue()
        whole, drafted = rate(read_whole, data), rate(read_drafted, data)
        difference = np.abs(read_whole(data).astype(int) - read_drafted(data))
        label = f"{size[0]} × {size[1]}"
        print(
            f"{label:>11}{whole:10.1f}{drafted:10.1f}{drafted / whole:8.2f}"
            f"{difference.mean():8.2f}{difference.max():6d}"
        )


if __name__ == "__main__":
    main()
