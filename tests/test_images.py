"""Reading pictures: every mode and orientation, the geometry of each fit, and hostile files."""

from __future__ import annotations

import functools
import io
import os
import random
import socket
import struct
import threading
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from showtell.errors import ConfigError, ImageError
from showtell.images import FORMATS, ImageLimits, Preprocessing, read_image, read_pixels, read_sized, shown_box

HOSTILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "hostile"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
# C libraries under Pillow warn of broken metadata; that is not what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore")


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def colour(data: bytes) -> tuple[int, ...]:
    """The colour of the middle pixel."""
    image = read_image(data)
    assert image.mode == "RGB"
    return image.getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


@functools.cache
def make_photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth structure of several scales, different in every corner."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), (60, 120, 180))
    for cells in (3, 7, 20, 60):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        picture = Image.blend(picture, layer.resize((width, height), Image.Resampling.BICUBIC), 0.45)
    return picture


def difference(one: Any, other: Any) -> Any:
    return np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


# ---- orientation ----

STORED_AS = {  # orientation -> how a camera that was held this way stores the upright picture
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_pictures_are_turned_upright_by_their_exif(orientation: int, format: str) -> None:
    upright = np.asarray(make_photo(40, 24))
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright)))
    options = {"lossless": True} if format == "WEBP" else {"quality": 98, "subsampling": 0} if format == "JPEG" else {}
    image = read_image(encode(stored, format, exif=exif(orientation), **options))
    assert image.size == (40, 24)
    assert difference(image, upright).mean() < (3 if format == "JPEG" else 0.001)
    assert image.getexif().get(ExifTags.Base.Orientation, 1) == 1  # nobody turns it twice


def test_the_nine_landscapes_are_one_picture(shared_data: Path) -> None:
    files = sorted((shared_data / "hostile" / "exif-orientation").glob("Landscape_*.jpg"))
    assert len(files) == 9
    pixels = [read_pixels(file, Preprocessing()) for file in files]
    assert all(difference(pixels[0], other).mean() < 4 for other in pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_reduced_jpeg_of_any_orientation_is_the_same_input(orientation: int, fit: Any) -> None:
    upright = np.asarray(make_photo(1405, 1003))  # leaves part of a pixel at 1/8, 1/4 and 1/2
    preprocessing = Preprocessing(size=64, fit=fit)
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright)))
    data = encode(stored, "JPEG", quality=95, exif=exif(orientation))
    assert min(read_image(data, draft=56).size) < 150
    whole = read_pixels(encode(read_image(data), "BMP"), preprocessing)
    delta = difference(read_pixels(data, preprocessing), whole)
    assert delta.mean() < 1  # a picture that begins elsewhere differs by 2 to 10
    assert delta.max() <= 6


@pytest.mark.parametrize(
    "tags", [b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01"]
)
def test_a_corrupt_exif_leaves_the_picture_as_it_is(tags: bytes) -> None:
    photo = make_photo(40, 24)
    assert read_image(encode(photo, "JPEG", exif=tags)).size == (40, 24)


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_unknown_orientation_is_upright(orientation: int) -> None:
    photo = make_photo(40, 24)
    assert difference(read_image(encode(photo, exif=exif(orientation))), photo).max() == 0


# ---- modes ----


def palette_image(transparency: Any = None) -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([*BLUE, *RED])
    return encode(image, **({} if transparency is None else {"transparency": transparency}))


def ramp(dtype: Any, value: float) -> Image.Image:
    return Image.fromarray(np.full((8, 8), value, dtype))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(encode(Image.new("1", (8, 8), 1)), WHITE, id="1"),
        pytest.param(encode(Image.new("L", (8, 8), 90)), (90, 90, 90), id="L"),
        pytest.param(encode(Image.new("L", (8, 8), 90), transparency=90), WHITE, id="L-key"),
        pytest.param(encode(Image.new("LA", (8, 8), (90, 0))), WHITE, id="LA-clear"),
        pytest.param(encode(Image.new("LA", (8, 8), (0, 51))), (204, 204, 204), id="LA-faint"),
        pytest.param(palette_image(), RED, id="P"),
        pytest.param(palette_image(1), WHITE, id="P-key"),
        pytest.param(palette_image(bytes([255, 51])), (255, 204, 204), id="P-faint"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED)), RED, id="RGB"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED), transparency=RED), WHITE, id="RGB-key"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 255))), RED, id="RGBA"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*BLUE, 0))), WHITE, id="RGBA-clear"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (0, 0, 0, 51))), (204, 204, 204), id="RGBA-faint"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 0)), "WEBP", lossless=True), WHITE, id="WEBP"),
        pytest.param(encode(Image.new("RGBA", (8, 8), (*RED, 0)), "AVIF"), WHITE, id="AVIF"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED), "BMP"), RED, id="BMP"),
        pytest.param(encode(Image.new("RGB", (8, 8), RED), "PPM"), RED, id="PPM"),
        pytest.param(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF"), RED, id="CMYK"),
        pytest.param(encode(Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF"), WHITE, id="LAB"),
        pytest.param(encode(ramp(np.uint16, 0x8040)), (0x80,) * 3, id="I;16"),
        pytest.param(encode(ramp(np.uint16, 0xFFFF), "TIFF"), WHITE, id="I;16-tiff"),
        pytest.param(encode(ramp(np.int32, 200), "TIFF"), (200,) * 3, id="I-8-bits"),
        pytest.param(encode(ramp(np.int32, 65535), "TIFF"), WHITE, id="I-16-bits"),
        pytest.param(encode(ramp(np.int32, 1 << 24), "TIFF"), WHITE, id="I-wider"),
        pytest.param(encode(ramp(np.int32, -5), "TIFF"), (0, 0, 0), id="I-negative"),
        pytest.param(encode(ramp(np.float32, 0.5), "TIFF"), (128,) * 3, id="F-unit"),
        pytest.param(encode(ramp(np.float32, 77.0), "TIFF"), (77,) * 3, id="F-bytes"),
        pytest.param(encode(ramp(np.float32, np.nan), "TIFF"), (0, 0, 0), id="F-undefined"),
        pytest.param(b"P5 2 2 65535 " + struct.pack(">4H", *[0x8000] * 4), (0x80,) * 3, id="PGM-16"),
    ],
)
def test_every_mode_becomes_rgb_over_white(data: bytes, expected: tuple[int, ...]) -> None:
    assert difference(colour(data), expected).max() <= 1


def test_palette_with_alpha_and_ycbcr() -> None:
    from showtell.images import _to_rgb  # no file format stores these modes as they are

    image = Image.new("PA", (4, 4))
    image.putpalette([*RED] * 256)
    image.putalpha(51)
    assert image.mode == "PA"
    assert _to_rgb(image).getpixel((0, 0)) == (255, 204, 204)
    assert difference(_to_rgb(Image.new("RGB", (4, 4), RED).convert("YCbCr")).getpixel((0, 0)), RED).max() <= 2


@pytest.mark.parametrize(("format", "tolerance"), [("JPEG", 2), ("TIFF", 0)])
def test_cmyk_is_not_inverted(format: str, tolerance: int) -> None:
    """Pillow writes CMYK JPEGs with Adobe's marker and inverted samples, as Photoshop does."""
    data = encode(Image.new("CMYK", (16, 16), (255, 0, 255, 0)), format)
    assert difference(colour(data), GREEN).max() <= tolerance


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(format: str) -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, GREEN, BLUE)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert colour(data) == RED


@pytest.mark.parametrize("size", [(1, 1), (1, 20_000), (20_000, 1), (3, 5000)])
@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_tiny_and_extreme_pictures_give_an_input(size: tuple[int, int], fit: Any) -> None:
    pixels = read_pixels(encode(Image.new("RGB", size, BLUE)), Preprocessing(fit=fit, size=64))
    assert pixels.shape == (64, 64, 3)
    assert pixels.dtype == np.uint8
    assert tuple(pixels[32, 32]) == BLUE or fit == "pad"


# ---- geometry ----


def quarters(width: int, height: int) -> bytes:
    """Red, green / blue, white."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(GREEN, (width // 2, 0, width, height))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    image.paste(WHITE, (width // 2, height // 2, width, height))
    return encode(image)


def test_squash_shows_the_whole_picture() -> None:
    pixels = read_pixels(quarters(80, 40), Preprocessing(size=20, fit="squash"))
    assert [tuple(pixels[y, x]) for y in (0, 19) for x in (0, 19)] == [RED, GREEN, BLUE, WHITE]


def test_the_box_that_is_shown() -> None:
    assert shown_box(640, 480, Preprocessing(size=224, fit="squash")) == (0, 0, 640, 480)
    assert shown_box(200, 100, Preprocessing(size=100, fit="pad")) == (0, -50, 200, 150)
    x0, y0, x1, y1 = shown_box(640, 480, Preprocessing(size=224, fit="crop", crop_fraction=0.875))
    assert (x0 + x1) / 2 == pytest.approx(320, abs=2)
    assert (y0 + y1) / 2 == pytest.approx(240)
    assert x1 - x0 == pytest.approx(480 * 0.875, rel=0.01)
    assert y1 - y0 == pytest.approx(480 * 0.875)


def test_crop_shows_the_centre() -> None:
    image = Image.new("RGB", (80, 40), RED)
    image.paste(BLUE, (25, 5, 55, 35))  # the centre that remains at crop_fraction 0.75: 30 × 30
    pixels = read_pixels(encode(image), Preprocessing(size=30, fit="crop", crop_fraction=0.75))
    assert {tuple(c) for c in pixels.reshape(-1, 3)} == {BLUE}


def test_pad_centres_the_whole_picture_on_the_mean() -> None:
    preprocessing = Preprocessing(size=40, fit="pad", mean=(0.2, 0.4, 0.6))
    pixels = read_pixels(quarters(80, 40), preprocessing)
    assert tuple(pixels[9, 0]) == tuple(pixels[30, 39]) == (51, 102, 153)
    assert [tuple(pixels[y, x]) for y in (10, 29) for x in (0, 39)] == [RED, GREEN, BLUE, WHITE]


def timm_eval(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Written down from timm 1.0.31 `transforms_imagenet_eval` and torchvision's Resize and CenterCrop."""
    scale_size = int(preprocessing.size / preprocessing.crop_fraction)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    new_long = int(scale_size * long / short)
    new_size = (scale_size, new_long) if width <= height else (new_long, scale_size)
    resized = image.resize(new_size, Image.Resampling[preprocessing.interpolation.upper()])
    top = round((new_size[1] - preprocessing.size) / 2.0)
    left = round((new_size[0] - preprocessing.size) / 2.0)
    return resized.crop((left, top, left + preprocessing.size, top + preprocessing.size))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("size", "crop_fraction"), [(224, 0.875), (299, 0.875), (240, 0.95), (64, 1.0)])
@pytest.mark.parametrize("shape", [(500, 375), (333, 501), (640, 427), (100, 77), (256, 256), (31, 400)])
def test_crop_equals_timms_evaluation(
    shape: tuple[int, int], size: int, crop_fraction: float, interpolation: Any
) -> None:
    photo = make_photo(*shape)
    preprocessing = Preprocessing(size=size, fit="crop", crop_fraction=crop_fraction, interpolation=interpolation)
    pixels = read_pixels(encode(photo, "BMP"), preprocessing)
    delta = difference(pixels, timm_eval(photo, preprocessing))
    # Pillow chooses the order of its two passes by their cost, which moves the rounding between them. A crop that
    # is off by one pixel differs by 5 to 19 on average (31 × 400, enlarged: 0.4).
    assert delta.max() <= 2
    assert delta.mean() < 0.25


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_small_jpegs_are_never_reduced(fit: Any) -> None:
    photo = make_photo(500, 375)
    data = encode(photo, "JPEG", quality=95)
    preprocessing = Preprocessing(fit=fit)
    assert difference(read_pixels(data, preprocessing), read_pixels(encode(read_image(data)), preprocessing)).max() == 0


def test_a_jpeg_is_reduced_to_no_less_than_7_8ths_of_the_input() -> None:
    for width, height, reduced in ((600, 400, True), (392, 640, True), (640, 391, False), (391, 640, False)):
        data = encode(make_photo(width, height), "JPEG", quality=95)
        whole = read_pixels(encode(read_image(data), "BMP"), Preprocessing())
        delta = difference(read_pixels(data, Preprocessing()), whole)
        assert (delta.max() > 0) == reduced
        assert delta.mean() < 1


def test_drafts_keep_both_sides_at_least_as_long_as_asked() -> None:
    data = encode(make_photo(1600, 1200), "JPEG")
    assert read_image(data).size == (1600, 1200)
    assert read_image(data, draft=601).size == (1600, 1200)
    assert read_image(data, draft=600).size == (800, 600)
    assert read_image(data, draft=150).size == (200, 150)
    assert read_image(encode(make_photo(1600, 1200)), draft=150).size == (1600, 1200)
    with pytest.raises(ValueError, match="draft is 0"):
        read_image(data, draft=0)


def test_paths_bytes_and_threads_agree(tmp_path: Path) -> None:
    data = encode(make_photo(900, 700), "JPEG")
    (tmp_path / "photo.jpg").write_bytes(data)
    expected = read_pixels(data, Preprocessing())
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(read_pixels(tmp_path / "photo.jpg", Preprocessing())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all((result == expected).all() for result in results)
    assert (read_pixels(str(tmp_path / "photo.jpg"), Preprocessing()) == expected).all()


# ---- configuration ----


def test_preprocessing_survives_json() -> None:
    preprocessing = Preprocessing(size=96, fit="pad", mean=(0.1, 0.2, 0.3))
    values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(preprocessing).items()}
    assert Preprocessing(**values) == preprocessing


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"size": 0}, "size is 0; it must be a whole number of pixels from 1 to 4096"),
        ({"size": 2.5}, "size is 2.5; it must be a whole number"),
        ({"size": True}, "size is True; it must be a whole number"),
        ({"fit": "stretch"}, "unknown fit 'stretch'; choose squash, crop or pad"),
        ({"crop_fraction": 1.5}, "crop_fraction is 1.5; it must be from 0.01 to 1"),
        ({"crop_fraction": float("nan")}, "crop_fraction is nan; it must be from 0.01 to 1"),
        ({"interpolation": "lanczos"}, "unknown interpolation 'lanczos'; choose bilinear or bicubic"),
        ({"mean": (0.5, 0.5)}, "it must be three numbers from 0 to 1"),
        ({"mean": "abc"}, "mean is 'abc'; it must be three numbers"),
        ({"std": (0.5, 0.0, 0.5)}, "it must be three numbers from 1e-06 to 1"),
    ],
)
def test_preprocessing_out_of_range_is_named(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessing(**wrong)
    assert sentence in str(caught.value)


def test_limits_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="max_bytes is 0; it must be at least 1"):
        ImageLimits(max_bytes=0)
    with pytest.raises(ConfigError, match="'EPS' is not one of the formats JPEG, PNG"):
        ImageLimits(formats=("PNG", "EPS"))
    with pytest.raises(ConfigError, match="formats is empty"):
        ImageLimits(formats=())


# ---- hostile input ----


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    rows = png_chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + rows + png_chunk(b"IEND", b"")


def text_bomb() -> bytes:
    """8 MiB of spaces in 8 kB."""
    body = b"Comment\0\0" + zlib.compress(b" " * (8 << 20))
    return png(2, 2, png_chunk(b"zTXt", body))


PHOTO = encode(make_photo(64, 48), "JPEG")
PICTURE = encode(make_photo(64, 48))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        pytest.param(b"", "picture is empty (0 bytes); get the file again", id="empty"),
        pytest.param(
            b"just some words",
            "picture cannot be read as a picture: its first bytes match none of the accepted formats "
            f"({', '.join(FORMATS)}), or its header is broken; convert it to JPEG or PNG",
            id="text",
        ),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of the accepted formats", id="EPS"),
        pytest.param(encode(make_photo(9, 9), "ICO"), "none of the accepted formats", id="ICO"),
        pytest.param(PHOTO[:20], "or its header is broken", id="jpeg-header-cut"),
        pytest.param(PHOTO[: len(PHOTO) // 2], "cannot be decoded (image file is truncated", id="jpeg-cut"),
        pytest.param(PICTURE[:20], "cannot be decoded (Truncated File Read)", id="png-header-cut"),
        pytest.param(PICTURE[: len(PICTURE) // 2], "get the file again or convert it to JPEG or PNG", id="png-cut"),
        pytest.param(png(0, 5), "or its header is broken", id="zero-size"),
        pytest.param(
            png(60_000, 60_000),
            "picture is too large: at most 89.5 million pixels are accepted; make it smaller first",
            id="bomb",
        ),
        pytest.param(
            png(10_000, 9_000),
            "picture is too large (10000 × 9000): at most 89.5 million pixels are accepted",
            id="large",
        ),
        pytest.param(text_bomb(), "Decompressed data too large", id="text-bomb"),
    ],
)
def test_bytes_that_are_no_picture_are_refused_in_one_sentence(data: bytes, sentence: str) -> None:
    with pytest.raises(ImageError) as caught:
        read_image(data)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith("picture ")
    assert "\n" not in str(caught.value)


def test_limits_hold_and_name_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    with pytest.raises(
        ImageError, match=r"^zip!a has 0\.\d+ MiB; at most 0\.000954 MiB are accepted; save it smaller$"
    ):
        read_image(PHOTO, limits=ImageLimits(max_bytes=1000), name="zip!a")
    with pytest.raises(ImageError, match=r"photo\.jpg has .* MiB are accepted"):
        read_image(path, limits=ImageLimits(max_bytes=1000))
    with pytest.raises(ImageError, match=r"photo\.jpg is too large \(64 × 48\): at most 0\.003 million pixels"):
        read_image(path, limits=ImageLimits(max_pixels=3000))
    with pytest.raises(ImageError, match=r"accepted formats \(PNG\)"):
        read_image(path, limits=ImageLimits(formats=("PNG",)))
    assert read_image(path, limits=ImageLimits(max_bytes=len(PHOTO), max_pixels=64 * 48)).size == (64, 48)


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    measure = Path.stat

    def half(self: Path, **options: Any) -> os.stat_result:
        status = measure(self, **options)
        return os.stat_result((*status[:6], status.st_size // 2, *status[7:]))

    monkeypatch.setattr(Path, "stat", half)
    assert difference(read_image(path), read_image(PHOTO)).max() == 0
    with pytest.raises(ImageError, match="at most"):
        read_image(path, limits=ImageLimits(max_bytes=len(PHOTO) - 1))


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing
    with pytest.raises(ImageError, match=r"has 1\.05e\+06 MiB; at most 64 MiB are accepted"):
        read_image(tmp_path / "sparse.jpg")


@pytest.mark.timeout(10)
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg is a pipe or a device, not a regular file; save the picture"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"^/dev/zero is a pipe or a device"):
        read_image("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path)  # a socket's path is short
        server.bind("s.jpg")
        with pytest.raises(ImageError, match=r"^s\.jpg is a pipe or a device"):
            read_image("s.jpg")
    with pytest.raises(ImageError, match=r"is a folder, not a picture; name the pictures in it"):
        read_image(tmp_path)
    with pytest.raises(ImageError, match=r"^\. is a folder"):
        read_image("")


def test_missing_and_unreadable_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg does not exist; check the path"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"cannot be read \(embedded null byte\); check the path"):
        read_image("a\0b.jpg")
    with pytest.raises(ImageError, match=r"cannot be read \(File name too long\)"):
        read_image("x" * 5000)
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    with pytest.raises(ImageError, match=r"cannot be read \(Not a directory\)"):
        read_image(tmp_path / "a.jpg" / "b.jpg")

    def refuse(*_: Any, **__: Any) -> Any:  # root may read everything, so a mode of 000 would test nothing
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    sentence = r"a\.jpg cannot be read \(Permission denied\); check the path and its permissions"
    with pytest.raises(ImageError, match=sentence) as caught:
        read_image(tmp_path / "a.jpg")
    assert isinstance(caught.value.__cause__, PermissionError)


def test_a_text_file_named_jpg_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("dear diary")
    with pytest.raises(ImageError, match=r"notes\.jpg cannot be read as a picture") as caught:
        read_pixels(tmp_path / "notes.jpg", Preprocessing())
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize(
    "file",
    [pytest.param(p, id=str(p.relative_to(HOSTILE))) for p in sorted(HOSTILE.rglob("*")) if p.is_file()],
)
def test_hostile_files_end_in_pixels_or_an_image_error(file: Path) -> None:
    try:
        shape, called = read_pixels(file, Preprocessing()).shape, str(file)
    except ImageError as error:
        shape, called = (224, 224, 3), str(error)
    assert shape == (224, 224, 3)
    assert file.name in called


SEEDS = [
    encode(make_photo(24, 16), "JPEG", exif=exif(6)),
    encode(make_photo(24, 16), "JPEG", progressive=True),
    encode(make_photo(24, 16).convert("RGBA"), "PNG", exif=exif(3)),
    encode(make_photo(24, 16).quantize(16), "PNG", transparency=3),
    encode(make_photo(24, 16), "GIF", save_all=True, append_images=[make_photo(24, 16, seed=1)]),
    encode(make_photo(24, 16), "WEBP", exif=exif(8)),
    encode(make_photo(24, 16), "TIFF", compression="tiff_lzw", exif=exif(5)),
    encode(ramp(np.float32, 0.5), "TIFF"),
    encode(make_photo(24, 16), "BMP"),
    encode(make_photo(24, 16), "PPM"),
    encode(make_photo(24, 16), "AVIF"),
]


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    which=st.integers(0, len(SEEDS) - 1),
    seed=st.integers(0, 2**32),
    flips=st.integers(0, 12),
    cut=st.booleans(),
)
def test_damaged_bytes_end_in_pixels_or_an_image_error(which: int, seed: int, flips: int, cut: bool) -> None:
    rng = random.Random(seed)
    data = bytearray(SEEDS[which])
    for _ in range(flips):
        # Headers are where parsers go wrong: half of the flips go to the first 64 bytes.
        data[rng.randrange(min(64, len(data)) if rng.random() < 0.5 else len(data))] = rng.randrange(256)
    if cut:
        del data[rng.randrange(len(data)) :]
    limits = ImageLimits(max_pixels=4_000_000)  # so that a flipped size is refused, not allocated, and the test is fast
    try:
        pixels = read_pixels(bytes(data), Preprocessing(size=16), limits=limits)
    except ImageError:
        return
    assert pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("size", [(1603, 801), (640, 480), (33, 1200)])
def test_the_size_of_the_original_is_known_however_small_it_was_decoded(
    size: tuple[int, int], orientation: int
) -> None:
    data = encode(make_photo(*size), "JPEG", exif=exif(orientation))
    expected = size if orientation < 5 else size[::-1]
    for draft in (None, 256, 100, 1):
        image, found = read_sized(data, draft=draft)
        assert found == expected
        assert difference(image, read_image(data, draft=draft)).max() == 0
    assert image.width * image.height < size[0] * size[1] / 16


def test_sized_pictures_are_refused_as_others() -> None:
    with pytest.raises(ImageError, match="the one is too large"):
        read_sized(encode(make_photo(40, 30)), limits=ImageLimits(max_pixels=1000), name="the one")
