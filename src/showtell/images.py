"""Untrusted picture files -> upright RGB -> the array that a network asks for; the only preprocessing code.

A path or the encoded bytes of a picture enters, 8-bit RGB leaves. Colour profiles are not applied, as they
were not when the pretrained networks were trained. Training, feature extraction and inference all call
`read_pixels`; mean and standard deviation are applied later, inside the network's graph.

Files are hostile until decoded: only regular files are opened, bytes are counted before reading and pixels
before decoding, only an allowlist of formats is tried, and whatever a decoder raises becomes an `ImageError`.
Threads may call everything here at once: no setting of Pillow or of the process is touched.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from showtell.archives import read_member, split_member
from showtell.errors import ConfigError, DataError, ImageError

Source = str | os.PathLike[str] | bytes  # a path, `archive.zip!member`, or the encoded bytes of a picture

# What cameras, scanners and browsers write. MPO (phones, two-lens cameras) is a JPEG by its first bytes. Left
# out: EPS and PDF (they are programs), PSD, icons, and the game and science formats, whose decoders are
# little fuzzed.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "TIFF", "PPM")

MEBIBYTE = 2**20

Turn = Image.Transpose
_TURNS = {  # EXIF orientation -> what makes the picture upright
    2: Turn.FLIP_LEFT_RIGHT,
    3: Turn.ROTATE_180,
    4: Turn.FLIP_TOP_BOTTOM,
    5: Turn.TRANSPOSE,
    6: Turn.ROTATE_270,
    7: Turn.TRANSVERSE,
    8: Turn.ROTATE_90,
}
_ENDS_LEFT = (2, 3, 6, 7)  # orientations that bring the stored last column or row to the left edge
_ENDS_ON_TOP = (3, 4, 7, 8)  # and to the top edge


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """How much of a picture is accepted.

    `max_pixels` defaults to the line above which Pillow itself warns of a bomb; above twice that line Pillow
    refuses, whatever is set here.
    """

    max_bytes: int = 64 * MEBIBYTE
    max_pixels: int = 89_478_485
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        object.__setattr__(self, "formats", tuple(self.formats))
        for field in ("max_bytes", "max_pixels"):
            if getattr(self, field) < 1:
                raise ConfigError(f"{field} is {getattr(self, field)!r}; it must be at least 1")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            wrong = f"{unknown[0]!r} is not" if unknown else "formats is empty; give at least"
            raise ConfigError(f"{wrong} one of the formats {', '.join(FORMATS)}")


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a picture becomes the input of one network; it belongs to the weights and travels with them.

    `fit`: "squash" resizes both sides to `size`; "crop" resizes the shorter side to floor(size /
    crop_fraction) and cuts out the centre, as timm's evaluation does; "pad" resizes the longer side to `size`
    and fills the rest with the colour `mean`, which is zero to the network. `crop_fraction` (timm's crop_pct)
    matters to "crop" alone.
    Units: `mean` and `std` are of values in 0..1, for red, green and blue.
    """

    size: int = 224
    fit: Literal["squash", "crop", "pad"] = "squash"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= 4096:
            raise ConfigError(f"size is {self.size!r}; it must be a whole number of pixels from 1 to 4096")
        if self.fit not in ("squash", "crop", "pad"):
            raise ConfigError(f"unknown fit {self.fit!r}; choose squash, crop or pad")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ConfigError(f"unknown interpolation {self.interpolation!r}; choose bilinear or bicubic")
        # Below 0.01 the crop would be a spot of a picture enlarged a hundred times.
        if not _is_number(self.crop_fraction) or not 0.01 <= self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction is {self.crop_fraction!r}; it must be from 0.01 to 1")
        self._check_triple("mean", lowest=0.0)
        self._check_triple("std", lowest=1e-6)

    def _check_triple(self, field: str, lowest: float) -> None:
        values = getattr(self, field)
        is_triple = isinstance(values, tuple | list) and len(values) == 3 and all(map(_is_number, values))
        if not is_triple or not all(lowest <= value <= 1 for value in values):
            raise ConfigError(f"{field} is {values!r}; it must be three numbers from {lowest:g} to 1")
        object.__setattr__(self, field, tuple(float(value) for value in values))


def read_image(
    source: Source, *, limits: ImageLimits = DEFAULT_LIMITS, draft: int | None = None, name: str | None = None
) -> Image.Image:
    """The picture, upright, in mode RGB, without its metadata; the first frame of an animation.

    Transparency is laid over white. Samples of more than 8 bits are scaled to 8 (see `_to_8_bits`).

    Args:
        source: A path, `archive.zip!member`, or the encoded bytes.
        limits: What is accepted.
        draft: Let a JPEG be decoded at 1/2, 1/4 or 1/8 scale while no side falls under this many pixels.
        name: What messages call the picture; by default its path, or "picture".

    Raises:
        ImageError: The picture is missing, unreadable, broken, too large or of a format that is not accepted.
    """
    return _read_upright(source, limits, draft, name).image


def read_sized(
    source: Source, *, limits: ImageLimits = DEFAULT_LIMITS, draft: int | None = None, name: str | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture as `read_image` gives it, and the (width, height) of the upright original, whatever `draft` is.

    Raises:
        ImageError: As `read_image`.
    """
    picture = _read_upright(source, limits, draft, name)
    return picture.image, (picture.width, picture.height)


def read_pixels(
    source: Source,
    preprocessing: Preprocessing,
    *,
    limits: ImageLimits = DEFAULT_LIMITS,
    name: str | None = None,
) -> NDArray[np.uint8]:
    """The picture as the network asks for it, before mean and standard deviation.

    Shape: (size, size, 3) uint8, RGB.

    Raises:
        ImageError: As `read_image`.
    """
    # A JPEG is decoded at a reduced scale while 7/8 of a pixel a side is left for each one of the result: photographs
    # of 600 × 400 and 1200 × 800 pixels are too, for a network of 224. That moves a photograph's pixels as much as
    # another interpolation does, by about 1 of 255 on average (bench/images.py).
    least = math.ceil(7 / 8 * _shorter_side(preprocessing))
    return _fit(_read_upright(source, limits, least, name), preprocessing)


def fit_pixels(picture: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """An upright RGB picture, or a part that was cut from one, as the network asks for it; shape as `read_pixels`."""
    return _fit(_Upright(picture, *picture.size), preprocessing)


def shown_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """The box of an upright original that the network's pixels cover; with fit "pad" it reaches out of the picture."""
    (left, top, right, bottom), (across, down) = _placement(width, height, preprocessing)
    each, size = ((right - left) / across, (bottom - top) / down), preprocessing.size
    x0, y0 = left - (size - across) // 2 * each[0], top - (size - down) // 2 * each[1]
    return (x0, y0, x0 + size * each[0], y0 + size * each[1])


def _fit(picture: _Upright, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    region, target = _placement(picture.width, picture.height, preprocessing)
    resample = Image.Resampling[preprocessing.interpolation.upper()]
    resized = picture.image.resize(target, resample, box=picture.box_of(region))
    size = preprocessing.size
    if target != (size, size):
        colour = tuple(round(255 * value) for value in preprocessing.mean)
        canvas = Image.new("RGB", (size, size), colour)
        canvas.paste(resized, ((size - target[0]) // 2, (size - target[1]) // 2))
        resized = canvas
    return np.array(resized)


def read_ahead(
    sources: Iterable[tuple[str, Source | Callable[[], bytes]]],
    preprocessing: Preprocessing,
    *,
    readers: int,
    ahead: int,
    limits: ImageLimits = DEFAULT_LIMITS,
) -> Iterator[tuple[str, NDArray[np.uint8] | ImageError]]:
    """Labelled pictures in order, each as `read_pixels` gives it or the error it raises.

    They are decoded in `readers` threads while the caller works, at most `ahead` of them before they are asked for.
    A source may be a function, which gets the bytes in such a thread, or raises an `ImageError`.
    """

    def read(label: str, source: Source | Callable[[], bytes]) -> tuple[str, NDArray[np.uint8] | ImageError]:
        try:
            source = source() if callable(source) else source
            name = label if isinstance(source, bytes) else None
            return label, read_pixels(source, preprocessing, limits=limits, name=name)
        except ImageError as error:
            return label, error

    with ThreadPoolExecutor(readers) as pool:
        waiting: deque[Future[tuple[str, NDArray[np.uint8] | ImageError]]] = deque()
        try:
            for label, source in sources:
                waiting.append(pool.submit(read, label, source))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


# Geometry: (left, top, right, bottom) in pixels of the upright original.

Box = tuple[float, float, float, float]


def digest_file(path: str | os.PathLike[str], size: int, limits: ImageLimits, *, width: int) -> str:
    """The BLAKE2b of a picture's file, 2 * `width` hexadecimal digits; "" where there is nothing that could be read.

    Args:
        size: The file's bytes, as far as they are known.
    """
    if not 0 < size <= limits.max_bytes:
        return ""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=width)).hexdigest()
    except OSError:
        return ""


def _shorter_side(preprocessing: Preprocessing) -> int:
    """The length that the original's shorter side is resized to, or an upper bound of it for "pad"."""
    if preprocessing.fit == "crop":
        return math.floor(preprocessing.size / preprocessing.crop_fraction)
    return preprocessing.size


def _placement(width: int, height: int, preprocessing: Preprocessing) -> tuple[Box, tuple[int, int]]:
    """Which box of the original is shown, and the (width, height) it is resized to.

    "crop" finds the box that resizing and then cutting would show, and only that is resized: a strip of 1 ×
    20000 pixels would otherwise grow to millions of rows first.
    Source: timm 1.0.31 `transforms_imagenet_eval`, torchvision's `Resize` and `CenterCrop`; rounding
    included.
    """
    size = preprocessing.size
    if preprocessing.fit == "squash":
        return (0, 0, width, height), (size, size)
    if preprocessing.fit == "pad":
        longer = max(width, height)
        target = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
        return (0, 0, width, height), target
    shorter = _shorter_side(preprocessing)
    new_width = int(shorter * width / height) if width > height else shorter
    new_height = int(shorter * height / width) if height > width else shorter
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    across, down = width / new_width, height / new_height
    return (left * across, top * down, (left + size) * across, (top + size) * down), (size, size)


@dataclass(frozen=True)
class _Upright:
    """An upright RGB picture that may be smaller than its original.

    Units: `width` and `height` are pixels of the upright original; `left` and `top`, in pixels of `image`,
    are where the original begins: not 0 when a reduced JPEG ends in part of a pixel and is turned around.
    """

    image: Image.Image
    width: int
    height: int
    scale: int = 1  # pixels of the original in one of `image`, along a side
    left: float = 0.0
    top: float = 0.0

    def box_of(self, region: Box) -> Box:
        x0, y0, x1, y1 = (value / self.scale for value in region)
        right, bottom = self.image.size  # rounding must not leave the picture, which Pillow refuses
        return (self.left + x0, self.top + y0, min(self.left + x1, right), min(self.top + y1, bottom))


# Decoding


def _read_upright(source: Source, limits: ImageLimits, draft: int | None, name: str | None) -> _Upright:
    if draft is not None and draft < 1:
        raise ValueError(f"draft is {draft}; it must be at least 1")
    if isinstance(source, bytes):
        called = name or "picture"
        data = source
    else:
        called = name or os.fspath(source) or "."
        data = _read_file(Path(source), limits, called)
    _check_bytes(len(data), limits, called)
    accepted = ", ".join(limits.formats)
    try:
        opened = Image.open(io.BytesIO(data), formats=limits.formats)
        _check_pixels(opened.size, limits, called)
        return _decode(opened, draft)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{called} cannot be read as a picture: its first bytes match none of the accepted formats "
            f"({accepted}), or its header is broken; convert it to JPEG or PNG"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{called} is too large: {_pixels_accepted(limits)}") from error
    except MemoryError as error:
        raise ImageError(f"{called} needs more memory than there is; make it smaller first") from error
    except Exception as error:  # decoders raise whatever their parsers stumble on: OSError, SyntaxError, KeyError
        reason = str(error) or type(error).__name__
        raise ImageError(
            f"{called} is damaged or of an unusual kind: it cannot be decoded ({reason}); "
            "get the file again or convert it to JPEG or PNG"
        ) from error


def _read_file(path: Path, limits: ImageLimits, called: str) -> bytes:
    packed = split_member(str(path))
    if packed is not None and not path.exists():
        try:
            return read_member(*packed, limits.max_bytes)
        except DataError as error:
            raise ImageError(str(error)) from error
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ImageError(f"{called} is a folder, not a picture; name the pictures in it")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a terminal would wait for ever
            raise ImageError(f"{called} is a pipe or a device, not a regular file; save the picture first")
        _check_bytes(status.st_size, limits, called)
        with path.open("rb") as file:
            data = file.read(status.st_size + 1)  # not max_bytes: memory for as many would be had, and be given back
            grown = len(data) > status.st_size
            return data + file.read(limits.max_bytes + 1 - len(data)) if grown else data
    except FileNotFoundError as error:
        raise ImageError(f"{called} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageError(f"{called} cannot be read ({reason}); check the path and its permissions") from error


def _check_bytes(count: int, limits: ImageLimits, called: str) -> None:
    if count == 0:
        raise ImageError(f"{called} is empty (0 bytes); get the file again")
    if count > limits.max_bytes:
        raise ImageError(
            f"{called} has {count / MEBIBYTE:.3g} MiB; "
            f"at most {limits.max_bytes / MEBIBYTE:.3g} MiB are accepted; save it smaller"
        )


def _check_pixels(size: tuple[int, int], limits: ImageLimits, called: str) -> None:
    if size[0] * size[1] > limits.max_pixels:
        raise ImageError(f"{called} is too large ({size[0]} × {size[1]}): {_pixels_accepted(limits)}")


def _pixels_accepted(limits: ImageLimits) -> str:
    return f"at most {limits.max_pixels / 1e6:.3g} million pixels are accepted; make it smaller first"


def _decode(opened: Image.Image, draft: int | None) -> _Upright:
    stored_width = opened.size[0]
    drafted = opened.draft(None, (draft, draft)) if draft else None  # None unless a JPEG
    opened.load()
    image = _to_rgb(opened)
    scale = round(stored_width / drafted[1][2]) if drafted else 1
    # In reduced pixels, the last of which may be filled in part. (A TIFF is turned by Pillow as it loads.)
    extent = drafted[1][2:] if drafted else image.size
    width, height = (round(side * scale) for side in extent)
    orientation = _orientation(opened)
    right, bottom = image.size[0] - extent[0], image.size[1] - extent[1]  # unfilled parts, 0 to 7/8
    if orientation in _TURNS:
        image = image.transpose(_TURNS[orientation])
    if orientation >= 5:
        width, height, right, bottom = height, width, bottom, right
    image.info = {}  # or the next reader of its orientation would turn it again
    return _Upright(
        image=image,
        width=width,
        height=height,
        scale=scale,
        left=right if orientation in _ENDS_LEFT else 0.0,
        top=bottom if orientation in _ENDS_ON_TOP else 0.0,
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 (upright) where there is none or it cannot be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata is untrusted too, and a broken tag does not spoil the pixels
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of Pillow as RGB, transparency over white; CMYK, YCbCr and LAB as Pillow converts them."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(_to_8_bits(image)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(layer, mask=layer)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_8_bits(image: Image.Image) -> NDArray[np.uint8]:
    """Grey samples of 16 or 32 bits as 8 bits.

    16-bit samples are shifted (>> 8). Wider integers and floats do not say what white is: it is taken to be
    the first of 1 (floats only), 255 and 65535 that the brightest sample does not pass, or else that sample.
    Negative and undefined samples are black.
    """
    samples = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (samples >> 8).astype(np.uint8)
        key = image.info.get("transparency")
        if isinstance(key, int):  # the one value that a PNG declares transparent
            grey[samples == key] = 255
        return grey
    clean = np.nan_to_num(samples.astype(np.float32), nan=0.0, neginf=0.0, posinf=0.0).clip(0)
    peak = float(clean.max())
    whites = (1.0, 255.0, 65535.0) if image.mode == "F" else (255.0, 65535.0)
    white = next((white for white in whites if peak <= white), peak)
    return np.rint(clean * (255 / white)).astype(np.uint8)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
