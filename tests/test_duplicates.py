"""Fingerprints and groups of duplicates: against brute force, on changed copies of real pictures, on hard cases."""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageDraw, ImageEnhance

from conftest import COLOURS, SHAPES, draw_toy
from showtell.datasets.duplicates import (
    MAX_DIFFERENCE,
    MAX_DISTANCE,
    Fingerprints,
    Thumbnails,
    _Groups,
    _near_pairs,
    fingerprint,
    fingerprint_pictures,
    group_duplicates,
    group_identical,
)
from showtell.records import Example


def encode(image: Image.Image, format: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **({"quality": 90} if format == "JPEG" else {}) | options)
    return buffer.getvalue()


def make_photo(seed: int, width: int = 320, height: int = 240) -> Image.Image:
    """Coloured noise of every scale, as busy as a photograph and like no other seed's."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), (110, 120, 130))
    for cells in (3, 5, 9, 17, 33):
        layer = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        picture = Image.blend(picture, layer.resize((width, height), Image.Resampling.BICUBIC), 0.4)
    return picture


def make_prints(
    hashes: np.ndarray, thumbnails: np.ndarray, details: np.ndarray | None = None, features: int = 64
) -> Fingerprints:
    """Fingerprints of pictures of which no two are identical."""
    total = len(hashes)
    return Fingerprints(
        hashes=hashes.astype(np.uint64),
        details=np.zeros((total, 2), np.uint64) if details is None else details.astype(np.uint64),
        thumbnails=thumbnails.astype(np.uint8),
        features=np.full(total, features, np.uint8),
        digests=np.arange(1, total + 1, dtype=np.uint64),
        sizes=np.full((total, 2), 64, np.int32),
        failures={},
    )


def flip_bits(rng: np.random.Generator, number: int, count: int, bits: int = 64) -> int:
    for place in rng.choice(bits, count, replace=False).tolist():
        number ^= 1 << place
    return number


def partition(groups: np.ndarray) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(groups == group).tolist()) for group in set(groups.tolist())}


# ---- fingerprints ----


def test_the_hash_is_the_signs_of_the_lowest_frequencies_of_the_cosine_transform() -> None:
    checked = 0
    for seed in range(8):
        picture = make_photo(seed)
        found = fingerprint(picture)
        small = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)).astype(float)
        grey = small @ [0.299, 0.587, 0.114]
        place = (2 * np.arange(32) + 1) * np.pi / 64
        order = [(row, total - row) for total in range(1, 30) for row in range(total + 1)]
        bits = f"{int(found.hash):064b}" + "".join(f"{int(part):064b}" for part in found.details)
        loud = 0
        for bit, (row, column) in zip(bits, order, strict=False):
            value = 2 / 32 * (grey * np.outer(np.cos(row * place), np.cos(column * place))).sum()
            if abs(value - 2) > 0.1:  # nearer, the rounded cosines may decide otherwise
                assert (bit == "1") == (value > 2)
                checked += 1
            loud += abs(value) > 8 and (row, column) in order[:64]
        assert abs(loud - found.features) <= 1
    assert checked > 1200


def test_the_thumbnail_is_the_picture_in_64_cells() -> None:
    cells = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    picture = Image.fromarray(cells)
    assert (fingerprint(picture.resize((32, 32), Image.Resampling.NEAREST)).thumbnail == cells).all()
    large = fingerprint(picture.resize((512, 512), Image.Resampling.NEAREST)).thumbnail
    assert np.abs(large.astype(int) - cells).mean() <= 10  # the edges of cells are a little blurred


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_pictures_of_any_mode_and_size_have_one(mode: str) -> None:
    for size in ((1, 1), (1, 500), (37, 2), (300, 200)):
        found = fingerprint(Image.new(mode, size))
        assert found.thumbnail.shape == (8, 8, 3)
        assert found.features == 0


def test_a_fingerprint_is_the_same_for_a_picture_of_a_million_pixels_and_of_a_few_thousand() -> None:
    large = make_photo(3, 1280, 960)
    small = large.resize((160, 120), Image.Resampling.LANCZOS)
    assert (int(fingerprint(large).hash) ^ int(fingerprint(small).hash)).bit_count() <= 2


def test_a_fingerprint_takes_less_than_300_bytes() -> None:
    prints = fingerprint_pictures([encode(make_photo(seed)) for seed in range(4)])
    arrays = [getattr(prints, field.name) for field in fields(prints) if field.name != "failures"]
    assert sum(array.nbytes for array in arrays) < 300 * len(prints)


# ---- many pictures ----


def test_pictures_come_in_order_with_their_true_sizes_and_failures(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = 6  # a quarter turn
    (tmp_path / "wide.jpg").write_bytes(encode(make_photo(0, 1603, 801)))
    (tmp_path / "turned.jpg").write_bytes(encode(make_photo(1, 1603, 801), exif=tags))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.writestr("in/it.png", encode(make_photo(2, 50, 40), "PNG"))
    sources: list[object] = [
        str(tmp_path / "wide.jpg"),
        Example("turned", str(tmp_path / "turned.jpg"), ("turned",)),
        tmp_path / "broken.png",
        Example("words alone", None, ("words",)),
        None,
        f"{tmp_path}/some.zip!in/it.png",
        encode(make_photo(3, 30, 20), "PNG"),
        f"{tmp_path}/some.zip!in/other.png",
    ]
    calls: list[tuple[str, int, int]] = []
    found = [
        fingerprint_pictures(sources, readers=readers, progress=lambda *call: calls.append(call))  # type: ignore[arg-type]
        for readers in (1, 2, 5)
    ]
    prints = found[0]
    assert prints.sizes.tolist() == [[1603, 801], [801, 1603], [0, 0], [0, 0], [0, 0], [50, 40], [30, 20], [0, 0]]
    assert sorted(prints.failures) == [2, 7]
    assert "broken.png cannot be read as a picture" in prints.failures[2]
    assert "has no member 'in/other.png'" in prints.failures[7]
    assert prints.readable.tolist() == [True, True, False, False, False, True, True, False]
    assert [call[1:] for call in calls] == [(8, 8)] * 3
    for other in found[1:]:
        for field in fields(prints):
            assert np.all(getattr(prints, field.name) == getattr(other, field.name))
    assert group_duplicates(prints).tolist() == list(range(8))  # what was not read is like nothing


def test_progress_is_told_now_and_then_and_at_the_end() -> None:
    calls: list[tuple[int, int]] = []
    fingerprint_pictures([None] * 200, progress=lambda what, done, total: calls.append((done, total)))
    assert calls == [(64, 200), (128, 200), (192, 200), (200, 200)]


def test_no_pictures_are_no_groups() -> None:
    prints = fingerprint_pictures([])
    assert len(prints) == 0
    assert group_identical(prints).tolist() == group_duplicates(prints).tolist() == []


# ---- identical pictures ----


def test_identical_is_what_has_the_same_pixels_in_whatever_file() -> None:
    photo = make_photo(0)
    copies = [
        encode(photo, "PNG"),
        encode(photo, "BMP"),
        encode(photo, "WEBP", lossless=True),
        encode(photo, "PNG", compress_level=1),
    ]
    others = [encode(photo), encode(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG"), encode(make_photo(1))]
    assert group_identical(fingerprint_pictures([*copies, *others])).tolist() == [0, 0, 0, 0, 1, 2, 3]


def test_metadata_does_not_make_another_picture() -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = "someone"
    photo = make_photo(0, 640, 480)
    prints = fingerprint_pictures([encode(photo), encode(photo, exif=tags, comment=b"of a holiday")])
    assert group_identical(prints).tolist() == [0, 0]


def test_one_colour_is_identical_to_the_same_size_and_colour_alone() -> None:
    sizes = [(64, 64), (64, 64), (64, 65), (128, 32)]
    pictures = [encode(Image.new("RGB", size, "white"), "PNG") for size in sizes]
    pictures += [encode(Image.new("RGB", (64, 64), (255, 255, level)), "PNG") for level in range(200, 255)]
    groups = group_duplicates(fingerprint_pictures(pictures))
    assert groups.tolist() == [0, 0, *range(1, len(pictures) - 1)]


# ---- near-identical pictures ----


def cropped(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        return picture.crop(
            (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
        )

    return change


def labelled(picture: Image.Image) -> Image.Image:
    mask = Image.new("L", picture.size)
    width, height = picture.size
    ImageDraw.Draw(mask).rectangle((0.74 * width, 0.92 * height, 0.98 * width, 0.98 * height), fill=102)
    return Image.composite(Image.new("RGB", picture.size, "white"), picture, mask)


CHANGES: dict[str, tuple[Callable[[Image.Image], Image.Image], int, float]] = {  # quality; share that must be found
    "saved again, 95": (lambda picture: picture, 95, 1.0),
    "saved again, 50": (lambda picture: picture, 50, 1.0),
    "half the size": (lambda picture: picture.reduce(2), 90, 1.0),
    "twice the size": (lambda picture: picture.resize((2 * picture.width, 2 * picture.height)), 90, 1.0),
    "224 x 224": (lambda picture: picture.resize((224, 224)), 90, 1.0),
    "lighter": (lambda picture: ImageEnhance.Brightness(picture).enhance(1.1), 92, 0.98),
    "darker": (lambda picture: ImageEnhance.Brightness(picture).enhance(0.9), 92, 0.98),
    "grey": (lambda picture: picture.convert("L"), 92, 0.98),
    "1.5 % off each side": (cropped(0.015, 0.015, 0.015, 0.015), 92, 0.97),
    "3 % off the left": (cropped(0.03, 0, 0, 0), 92, 0.95),
    "3 % off left and top": (cropped(0.03, 0.03, 0, 0), 92, 0.8),
    "a label in a corner": (labelled, 92, 0.8),
}


@pytest.fixture(scope="session")
def real_pictures(shared_data: Path) -> list[str]:
    """120 pictures of three kinds: of everyday life, of web albums, from above."""
    folders = ("coco/images", "flickr8k/Images", "rsicd/images")
    chosen = []
    for folder in folders:
        paths = sorted(path for path in (shared_data / folder).iterdir() if path.suffix in (".jpg", ".webp"))
        chosen += [str(paths[row]) for row in np.linspace(0, len(paths) - 1, 40).astype(int)]
    return chosen


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_of_real_pictures_are_found_each_with_its_own(name: str, real_pictures: list[str]) -> None:
    change, quality, expected = CHANGES[name]
    changed = [encode(change(Image.open(path).convert("RGB")), quality=quality) for path in real_pictures]
    groups = group_duplicates(fingerprint_pictures([*real_pictures, *changed]))
    total = len(real_pictures)
    assert (groups[:total] == groups[total:]).mean() >= expected
    assert len(set(groups[:total].tolist())) == total  # and nothing else is


def test_flipped_and_turned_copies_are_other_pictures(real_pictures: list[str]) -> None:
    turns = (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_180)
    for path in real_pictures[::4]:
        picture = Image.open(path).convert("RGB")
        copies = [encode(picture.transpose(turn)) for turn in turns]
        assert group_duplicates(fingerprint_pictures([path, *copies])).tolist() == [0, 1, 2, 3]


def test_different_real_pictures_are_not_duplicates(shared_data: Path) -> None:
    paths = sorted((shared_data / "coco/images").iterdir()) + sorted((shared_data / "flickr8k/Images").iterdir())
    prints = fingerprint_pictures([path for path in paths if path.suffix == ".jpg"])
    groups = group_duplicates(prints)
    assert len(prints) > 500
    assert len(prints) - len(set(groups.tolist())) == 0


def test_the_same_pictures_in_two_data_sets_are_found(shared_data: Path) -> None:
    paths = [shared_data / "coco/images/000000005802.jpg", shared_data / "coco2k/images/sample_11.jpg"]  # resized
    burst = [shared_data / "coco2k/images/sample_769.jpg", shared_data / "coco2k/images/sample_770.jpg"]
    assert group_duplicates(fingerprint_pictures([*paths, *burst])).tolist() == [0, 0, 1, 1]


def test_a_chain_of_changes_is_one_group() -> None:
    photo = make_photo(5)
    grey = photo.convert("L")
    pictures = [photo, photo.resize((200, 150)), ImageEnhance.Brightness(photo).enhance(0.9), grey, grey.reduce(2)]
    prints = fingerprint_pictures([encode(picture) for picture in [*pictures, make_photo(6)]])
    assert group_duplicates(prints).tolist() == [0, 0, 0, 0, 0, 1]


# ---- pictures that look alike and are not the same ----


def make_gradient(rng: np.random.Generator) -> Image.Image:
    """Sky or fog: one colour that slowly becomes another, and a little noise."""
    angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(10, 60)
    rows, columns = np.mgrid[0:120, 0:160] / 160
    slope = (np.cos(angle) * columns + np.sin(angle) * rows - 0.4)[..., None] * strength
    values = rng.uniform(90, 160, 3) + slope + rng.normal(0, 3, (120, 160, 1))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def make_horizon(rng: np.random.Generator) -> Image.Image:
    rows = np.mgrid[0:120, 0:160][0][..., None]
    values = np.where(rows < rng.uniform(40, 80), rng.uniform(120, 230, 3), rng.uniform(20, 130, 3))
    return Image.fromarray((values + rng.normal(0, 3, (120, 160, 1))).clip(0, 255).astype(np.uint8))


def make_page(rng: np.random.Generator) -> Image.Image:
    """Words of a page as bars, all on the same lines."""
    page = Image.new("RGB", (300, 400), "white")
    pen = ImageDraw.Draw(page)
    for top in range(20, 380, 10):
        left = 20
        while left < 270:
            width = int(rng.integers(5, 30))
            pen.rectangle((left, top, min(left + width, 280), top + 4), fill=(30, 30, 30))
            left += width + 4
    return page


@pytest.mark.parametrize("make", [make_gradient, make_horizon, make_page])
def test_pictures_of_one_kind_do_not_collapse_into_one_group(make: Callable[..., Image.Image]) -> None:
    rng = np.random.default_rng(0)
    pictures = [encode(make(rng)) for _ in range(150)]
    groups = group_duplicates(fingerprint_pictures(pictures))
    assert len(set(groups.tolist())) >= 147


def test_shapes_that_differ_in_colour_or_form_are_not_duplicates() -> None:
    pictures = [encode(draw_toy(colour, shape)) for colour, shape in itertools.product(COLOURS, SHAPES)]
    assert group_duplicates(fingerprint_pictures(pictures)).tolist() == list(range(24))


def test_pictures_with_few_features_count_only_when_identical() -> None:
    thumbnails = np.tile(np.random.default_rng(0).integers(0, 256, (8, 8, 3)), (2, 1, 1, 1))
    hashes = np.array([5, 5], np.uint64)
    assert group_duplicates(make_prints(hashes, thumbnails, features=12)).tolist() == [0, 0]
    assert group_duplicates(make_prints(hashes, thumbnails, features=11)).tolist() == [0, 1]


# ---- thumbnails ----


def measure_alone(one: np.ndarray, other: np.ndarray) -> float:
    """What `Thumbnails.measure` documents, a cell at a time."""
    pair = [side.astype(float) for side in (one, other)]
    if min((side.max(2) - side.min(2)).mean() for side in pair) < 4:
        pair = [(side @ [0.299, 0.587, 0.114])[..., None] for side in pair]
    pair = [side - side.mean((0, 1)) for side in pair]
    contrast = min(np.abs(side).mean() for side in pair)
    return float(np.abs(pair[0] - pair[1]).mean() / contrast)


def test_the_difference_of_thumbnails_is_what_is_documented() -> None:
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (5000, 8, 8, 3))
    greys = np.repeat(rng.integers(0, 256, (40, 8, 8, 1)), 3, axis=-1) + rng.integers(0, 3, (40, 8, 8, 3))
    pixels = np.concatenate([colours, greys]).clip(0, 255).astype(np.uint8)
    left, right = rng.integers(0, len(pixels), (2, 9000))
    left[:80] = np.arange(5000 - 40, 5040)
    found = Thumbnails(pixels).measure(left, right)
    for row in [*range(120), *range(4090, 4110), 8999]:
        assert found[row] == pytest.approx(measure_alone(pixels[left[row]], pixels[right[row]]), rel=1e-5)
    same = Thumbnails(pixels).measure(left, left[:1])
    assert same[0] == 0
    assert same[100] == pytest.approx(measure_alone(pixels[left[100]], pixels[left[0]]), rel=1e-5)


# ---- the search ----


def brute_pairs(hashes: list[int], limit: int) -> set[tuple[int, int]]:
    return {
        (one, other)
        for one, other in itertools.combinations(range(len(hashes)), 2)
        if (hashes[one] ^ hashes[other]).bit_count() <= limit
    }


def search_pairs(hashes: list[int], limit: int) -> list[tuple[int, int]]:
    found = _near_pairs(np.array(hashes, np.uint64), limit)
    pairs = [
        (left, right) for lefts, rights in found for left, right in zip(lefts.tolist(), rights.tolist(), strict=True)
    ]
    return [(min(pair), max(pair)) for pair in pairs]


@pytest.mark.parametrize("limit", [0, 1, 3, 4, 7, 8, 11, 12, 15])
def test_the_search_finds_each_near_pair_once(limit: int) -> None:
    rng = np.random.default_rng(limit)
    hashes = rng.integers(0, 2**64, 60, np.uint64).tolist()
    hashes += [flip_bits(rng, hashes[row % 60], int(rng.integers(0, limit + 4))) for row in range(240)]
    found = search_pairs(hashes, limit)
    assert len(found) == len(set(found))
    assert set(found) == brute_pairs(hashes, limit)


@settings(max_examples=25, deadline=None)
@given(
    hashes=st.lists(st.sampled_from([0, 1, 2**63, 2**64 - 1, 0xFFFF, 0x1_0001, 0xFFFF_0000]), max_size=40),
    limit=st.sampled_from([0, 2, 7, 11]),
)
def test_the_search_is_exact_for_hashes_that_repeat(hashes: list[int], limit: int) -> None:
    found = search_pairs(hashes, limit)
    assert len(found) == len(set(found))
    assert set(found) == brute_pairs(hashes, limit)


def test_a_bucket_larger_than_a_part_is_searched_whole() -> None:
    hashes = [7] * 500 + [7 + (1 << 40)] * 500
    assert len(search_pairs(hashes, 0)) == 2 * 500 * 499 // 2
    assert len(set(search_pairs(hashes, 4))) == 1000 * 999 // 2


# ---- groups ----


def brute_groups(prints: Fingerprints) -> set[frozenset[int]]:
    """Chains of sure pairs, then lone pairs, by comparing all with all; for groups that need no bound."""
    total = len(prints)
    group = list(range(total))

    def unite(one: int, other: int) -> None:
        before, after = group[other], group[one]
        group[:] = [after if name == before else name for name in group]

    loose = []
    for one, other in itertools.combinations(range(total), 2):
        distance = (int(prints.hashes[one]) ^ int(prints.hashes[other])).bit_count()
        if distance > MAX_DISTANCE:
            continue
        details = sum(int(part).bit_count() for part in prints.details[one] ^ prints.details[other])
        difference = measure_alone(prints.thumbnails[one], prints.thumbnails[other])
        if difference <= MAX_DIFFERENCE / 2 and details <= 20:
            unite(one, other)
        elif difference <= MAX_DIFFERENCE and details <= 40:
            loose.append((one, other))
    edges = {frozenset((group[one], group[other])) for one, other in loose if group[one] != group[other]}
    for edge in edges:
        if sum(len(edge & other) > 0 for other in edges) == 1:
            unite(*edge)
    return {frozenset(row for row in range(total) if group[row] == name) for name in set(group)}


def random_families(seed: int) -> Fingerprints:
    """Pictures, and copies of some of them of which hash, details and thumbnail are each more or less off."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, 30, np.uint64).tolist()
    details = rng.integers(0, 2**64, (30, 2), np.uint64).tolist()
    thumbnails = list(rng.integers(20, 236, (30, 8, 8, 3)))
    for _ in range(45):
        origin = int(rng.integers(30))
        hashes.append(flip_bits(rng, hashes[origin], int(rng.integers(0, 14))))
        details.append([flip_bits(rng, part, int(rng.integers(0, 24))) for part in details[origin]])
        noise = rng.uniform(-1, 1, (8, 8, 3)) * rng.uniform(0, 50)
        thumbnails.append((thumbnails[origin] + noise).clip(0, 255).round())
    return make_prints(np.array(hashes, np.uint64), np.array(thumbnails), np.array(details, np.uint64))


@pytest.mark.parametrize("seed", range(12))
def test_groups_are_those_of_comparing_all_with_all(seed: int) -> None:
    prints = random_families(seed)
    expected = brute_groups(prints)
    assert partition(group_duplicates(prints)) == expected
    assert 30 < len(expected) < 75  # some were united and some were not


@pytest.mark.parametrize("seed", range(8))
def test_groups_do_not_depend_on_the_order_of_the_pictures(seed: int) -> None:
    prints = make_film(400, flips=seed) if seed < 2 else random_families(seed)
    order = np.random.default_rng(seed).permutation(len(prints))
    shuffled = Fingerprints(
        **{field.name: getattr(prints, field.name)[order] for field in fields(prints) if field.name != "failures"},
        failures={},
    )
    groups = group_duplicates(shuffled)
    back = np.empty(len(prints), int)
    back[order] = groups
    assert partition(back) == partition(group_duplicates(prints))
    first_seen = list(dict.fromkeys(groups.tolist()))
    assert first_seen == list(range(len(first_seen)))  # numbered as they come


def test_copies_with_different_details_count_only_for_each_other() -> None:
    rng = np.random.default_rng(0)
    thumbnail = rng.integers(0, 256, (8, 8, 3))
    details = [[0, 0], [2**30 - 1, 0], [0, 2**30 - 1]]  # the second and the third differ in 60 bits
    two, three = (
        make_prints(np.zeros(n), np.tile(thumbnail, (n, 1, 1, 1)), np.array(details[:n], np.uint64)) for n in (2, 3)
    )
    assert group_duplicates(two).tolist() == [0, 0]
    assert group_duplicates(three).tolist() == [0, 1, 2]  # the first is like both


def make_film(frames: int, flips: int = 1) -> Fingerprints:
    """Each frame is nearly the one before it, the last is nothing like the first; hashes stay when `flips` is 0."""
    rng = np.random.default_rng(0)
    number, picture = 0, rng.uniform(40, 215, (8, 8, 3))
    hashes, thumbnails = [], []
    for _ in range(frames):
        number = flip_bits(rng, number, flips)
        picture = (picture + rng.normal(0, 4, (8, 8, 3))).clip(0, 255)
        hashes.append(number)
        thumbnails.append(picture)
    return make_prints(np.array(hashes, np.uint64), np.array(thumbnails))


@pytest.mark.parametrize("flips", [0, 1])
def test_a_slow_film_becomes_scenes_instead_of_one_group(flips: int) -> None:
    prints = make_film(600, flips)
    groups = group_duplicates(prints)
    assert 3 <= len(set(groups.tolist())) <= 100
    thumbnails = Thumbnails(prints.thumbnails)
    for scene in map(sorted, partition(groups)):
        rows = np.array(scene)
        near_all = [
            all((int(prints.hashes[one]) ^ int(prints.hashes[row])).bit_count() <= 2 * MAX_DISTANCE for row in scene)
            and (thumbnails.measure(rows, np.array([one])) <= 2 * MAX_DIFFERENCE).all()
            for one in scene
        ]
        assert any(near_all)  # its representative


def make_crowd(frames: int) -> Fingerprints:
    """Frames of a camera that does not move, then 300 other pictures."""
    rng = np.random.default_rng(0)
    frame = rng.integers(20, 236, (8, 8, 3))
    hashes = [flip_bits(rng, 2**40 + 9, int(rng.integers(0, 4))) for _ in range(frames)]
    hashes += rng.integers(0, 2**64, 300, np.uint64).tolist()
    thumbnails = [frame + rng.integers(-4, 5, (frames, 8, 8, 3)), rng.integers(0, 256, (300, 8, 8, 3))]
    return make_prints(np.array(hashes, np.uint64), np.concatenate(thumbnails))


def test_a_crowd_of_frames_is_one_group() -> None:
    groups = group_duplicates(make_crowd(2000))
    assert groups.tolist() == [0] * 2000 + list(range(1, 301))


def test_few_of_a_crowd_are_compared_with_all() -> None:
    prints = make_crowd(2000)
    groups = _Groups(prints, np.arange(len(prints)), MAX_DISTANCE, MAX_DIFFERENCE)
    searched = groups.gather_crowds()
    assert len(searched) < 700  # 300 are no crowd
    assert len(set(groups.of[:2000].tolist())) < 300


def test_planted_copies_among_many_are_grouped() -> None:
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, 20_000, np.uint64)
    thumbnails = rng.integers(0, 256, (20_000, 8, 8, 3), np.uint8)
    hashes[10_000:10_500] = [flip_bits(rng, number, MAX_DISTANCE) for number in hashes[:500].tolist()]
    thumbnails[10_000:10_500] = thumbnails[:500]
    groups = group_duplicates(make_prints(hashes, thumbnails))
    assert (groups[10_000:10_500] == groups[:500]).all()
    assert len(set(groups.tolist())) == 19_500


@pytest.mark.parametrize("limits", [{"max_distance": 16}, {"max_distance": -1}, {"max_difference": 1.0}])
def test_limits_out_of_range_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limits))} is"):
        group_duplicates(make_film(3), **limits)  # type: ignore[arg-type]


def test_with_limits_of_0_only_equal_fingerprints_are_near() -> None:
    prints = random_families(0)
    prints.hashes[1], prints.details[1], prints.thumbnails[1] = (
        prints.hashes[0],
        prints.details[0],
        prints.thumbnails[0],
    )
    groups = group_duplicates(prints, max_distance=0, max_difference=0)
    assert groups[0] == groups[1]
    assert len(set(groups.tolist())) == len(prints) - 1
