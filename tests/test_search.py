"""An index finds what a computation over all pictures finds, after whatever happened to the folder or to a run."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from showtell import indexing, nearest
from showtell.cli import search as commands
from showtell.errors import BackendError, ConfigError, DataError, ImageError, ShowtellError
from showtell.images import Preprocessing, Source, read_pixels
from showtell.indexing import Indexed, index_pictures
from showtell.nearest import nearest_rows
from showtell.search import Match, PictureIndex, build_approximate, find_like, find_sentence

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220), "white": (245, 245, 245)}


@dataclass
class Toy:
    """A fixed random projection of a picture of 4 x 4 pixels; of a sentence, that of the colours it names."""

    model: str = "0123456789abcdef"
    width: int = 7
    preprocessing: Preprocessing = field(default_factory=lambda: Preprocessing(size=4))
    seen: int = 0

    def embed_pictures(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.seen += len(pixels_BHWC)
        projection = np.random.default_rng(0).standard_normal((48, self.width)).astype(np.float32)
        vectors = (pixels_BHWC.reshape(-1, 48).astype(np.float32) / 127.5 - 1) @ projection
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed_sentence(self, text: str) -> NDArray[np.float32]:
        known = [COLOURS[word] for word in text.split() if word in COLOURS]
        if not known:
            raise DataError(f"the model knows no word of {text!r}")
        pixels = np.broadcast_to(np.mean(known, 0).astype(np.uint8), (1, 4, 4, 3))
        return Toy(width=self.width).embed_pictures(pixels)[0]


def draw(path: Path, seed: int, colour: str | None = None) -> Path:
    """A picture of one colour with a little noise, or of noise."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (9, 12, 3))
    if colour is not None:
        pixels = np.clip(np.array(COLOURS[colour]) + rng.integers(-9, 10, (9, 12, 3)), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, "PNG")
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures, in two folders."""
    for number, colour in enumerate(COLOURS):
        draw(tmp_path / "photos" / f"{colour}.png", number, colour)
    draw(tmp_path / "photos" / "deep" / "er" / "noise.jpg", 7)
    draw(tmp_path / "photos" / "deep" / "MORE.PNG", 8)
    return tmp_path / "photos"


def run(photos: Path, toy: Toy | None = None, **options: Any) -> Indexed:
    return index_pictures(photos, photos.parent / "index", toy or Toy(), threads=2, **options)


def expected(folder: Path, query: NDArray[np.float32]) -> list[Match]:
    """What a search of all pictures below a folder gives, by reading and embedding each of them now."""
    matches = []
    for path in folder.rglob("*"):
        if path.suffix.lower() in (".png", ".jpg") and path.is_file():
            try:
                pixels = read_pixels(path, Toy().preprocessing)
            except ImageError:
                continue
            vector = Toy().embed_pictures(pixels[None])[0].astype(np.float16).astype(np.float64)
            matches.append(Match(str(path), float(vector @ query)))
    return matches


def check(folder: Path, index: Path | None = None) -> None:
    """That the index finds all pictures below a folder, each once, with its own score, and nothing else."""
    query = Toy().embed_sentence("red")
    found = PictureIndex(index or folder.parent / "index").search(query[None], 10_000)[0]
    wanted = expected(folder, query)
    assert len({match.path for match in found}) == len(found)
    assert [match.score for match in found] == sorted((match.score for match in found), reverse=True)
    scores = {match.path: match.score for match in found}
    assert scores == pytest.approx({match.path: match.score for match in wanted}, abs=1e-6)


# the exact search


def brute_force(
    embeddings: NDArray[np.float16], queries: NDArray[np.float32], top: int, alive: NDArray[np.bool_]
) -> list[list[tuple[int, float]]]:
    scores = (queries.astype(np.float64) @ embeddings[:, : queries.shape[1]].astype(np.float64).T).tolist()
    rows = np.flatnonzero(alive).tolist()
    return [[(row, one[row]) for row in sorted(rows, key=lambda row: (-one[row], row))[:top]] for one in scores]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(0, 2500),
    width=st.integers(1, 40),
    count=st.integers(1, 19),
    top=st.integers(1, 40),
    levels=st.sampled_from([2, 40]),
    threads=st.integers(1, 3),
    dead=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_the_exact_search_is_a_sort_of_all_products(
    seed: int, rows: int, width: int, count: int, top: int, levels: int, threads: int, dead: float
) -> None:
    rng = np.random.default_rng(seed)
    embeddings = np.zeros((rows, width + width % 2), "<f2")
    # Eighths, whose sums are exact in float32; with few levels and numbers, ties are many.
    embeddings[:, :width] = rng.integers(-levels, levels + 1, (rows, width)) / 8
    queries = (rng.integers(-levels, levels + 1, (count, width)) / 8).astype(np.float32)
    offsets = np.where(rng.random(rows) < dead, -1, np.arange(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "_SPAN", 1024)
        found = nearest_rows(embeddings, queries, top, offsets=offsets, threads=threads)
    got = [list(zip(one.tolist(), scores.tolist(), strict=True)) for one, scores in found]
    assert got == brute_force(embeddings, queries, top, offsets >= 0)


def test_real_numbers_are_ranked_as_in_float64() -> None:
    rng = np.random.default_rng(3)
    embeddings = rng.standard_normal((40_000, 32)).astype("<f2")
    queries = rng.standard_normal((3, 32)).astype(np.float32)
    found = nearest_rows(embeddings, queries, 25, threads=2)
    wanted = brute_force(embeddings, queries, 25, np.ones(len(embeddings), np.bool_))
    for (rows, scores), one in zip(found, wanted, strict=True):
        assert rows.tolist() == [row for row, _ in one]
        assert scores == pytest.approx([score for _, score in one], abs=1e-9)


def test_every_finite_float16_is_widened_exactly() -> None:
    bits = np.arange(2**16, dtype="<u2")
    values = bits.view("<f2")[np.isfinite(bits.view("<f2"))]
    for place in (0, 1):
        embeddings = np.zeros((len(values), 2), "<f2")
        embeddings[:, place] = values
        query = np.zeros((1, 2), np.float32)
        query[0, place] = 1
        scan = nearest._Scan(embeddings, query, 1, None)
        for start in range(0, len(values), nearest._SPAN):
            scan.look([start])
            part = values[start : start + nearest._SPAN].astype(np.float32)
            np.testing.assert_array_equal(scan._scores.reshape(-1)[: len(part)], part)


def test_of_equal_pictures_the_first_come_first(tmp_path: Path) -> None:
    embeddings = np.tile(np.float16([0.6, 0.8]), (40_000, 1))
    ((rows, scores),) = nearest_rows(embeddings, np.float32([[0.6, 0.8]]), 5, threads=2)
    assert rows.tolist() == [0, 1, 2, 3, 4]
    assert len(set(scores.tolist())) == 1


@pytest.mark.parametrize(
    ("query", "top", "sentence"),
    [
        ([[1.0, 0.0]], 0, "top is 0; it must be at least 1"),
        ([[1.0, 0.0, 0.0]], 1, "queries of shape"),
        ([[np.nan, 0.0]], 1, "NaN or infinite"),
    ],
)
def test_what_no_search_can_mean(query: list[list[float]], top: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        nearest_rows(np.zeros((3, 2), "<f2"), np.array(query, np.float32), top)


# finding


def test_a_sentence_finds_its_colour_and_an_example_finds_itself(photos: Path) -> None:
    assert run(photos).pictures == 6
    index = PictureIndex(photos.parent / "index")
    for colour in COLOURS:
        assert find_sentence(index, Toy(), f"a {colour} thing")[0].path == str(photos / f"{colour}.png")
        like = find_like(index, Toy(), photos / f"{colour}.png", top=2)
        assert like[0].path == str(photos / f"{colour}.png")
        assert like[0].score == pytest.approx(1, abs=1e-3)
        assert len(like) == 2
    assert len(index) == 6
    check(photos)


def test_many_queries_at_once_are_each_alone(photos: Path) -> None:
    run(photos)
    index = PictureIndex(photos.parent / "index")
    queries = np.stack([Toy().embed_sentence(colour) for colour in COLOURS])
    assert index.search(queries, 3) == [index.search(query[None], 3)[0] for query in queries]


def test_unknown_words_and_unreadable_examples_raise(photos: Path) -> None:
    run(photos)
    index = PictureIndex(photos.parent / "index")
    with pytest.raises(DataError, match="knows no word"):
        find_sentence(index, Toy(), "quux")
    with pytest.raises(ImageError, match="does not exist"):
        find_like(index, Toy(), photos / "nothing.png")


def test_a_relative_index_gives_relative_paths(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos.parent)
    index_pictures("photos", "index", Toy())
    assert find_sentence(PictureIndex("index"), Toy(), "red")[0].path == "photos/red.png"
    monkeypatch.chdir(photos)
    assert find_sentence(PictureIndex("../index"), Toy(), "red")[0].path == "../photos/red.png"


def test_an_index_elsewhere_has_absolute_paths(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    index = tmp_path_factory.mktemp("elsewhere") / "index"
    index_pictures(photos, index, Toy())
    check(photos, index)


# being up to date


def test_a_second_run_encodes_nothing(photos: Path) -> None:
    toy = Toy()
    first = run(photos, toy)
    assert (first.encoded, first.unchanged, toy.seen) == (6, 0, 6)
    second = run(photos, toy)
    assert (second.encoded, second.unchanged, toy.seen) == (0, 6, 6)
    check(photos)


def test_changed_new_and_deleted_pictures(photos: Path) -> None:
    run(photos)
    toy = Toy()
    draw(photos / "red.png", 50)
    draw(photos / "new" / "one.png", 51)
    (photos / "blue.png").unlink()
    done = run(photos, toy)
    assert (done.pictures, done.encoded, done.unchanged, done.removed, done.moved) == (6, 2, 4, 1, 0)
    assert toy.seen == 2
    check(photos)


def test_moved_copied_and_touched_pictures_are_not_encoded_again(photos: Path) -> None:
    run(photos)
    toy = Toy()
    (photos / "red.png").rename(photos / "deep" / "scarlet.png")
    shutil.copy(photos / "blue.png", photos / "azure.png")
    os.utime(photos / "green.png", ns=(1, 1))
    done = run(photos, toy)
    assert toy.seen == 0
    assert (done.pictures, done.encoded, done.unchanged, done.moved, done.removed) == (7, 0, 5, 2, 0)
    check(photos)
    assert run(photos, toy).unchanged == 7


def test_two_pictures_that_change_their_names(photos: Path) -> None:
    run(photos)
    (photos / "red.png").rename(photos / "swap")
    (photos / "blue.png").rename(photos / "red.png")
    (photos / "swap").rename(photos / "blue.png")
    toy = Toy()
    run(photos, toy)
    assert toy.seen == 0
    check(photos)


def test_a_tree_that_moves_with_its_index_is_unchanged(photos: Path, tmp_path: Path) -> None:
    run(photos)
    (tmp_path / "new").mkdir()
    for name in ("photos", "index"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    check(tmp_path / "new" / "photos")
    assert run(tmp_path / "new" / "photos").unchanged == 6


def test_folders_can_share_an_index(photos: Path, tmp_path: Path) -> None:
    draw(tmp_path / "other" / "x.png", 70)
    run(photos)
    done = index_pictures(tmp_path / "other", tmp_path / "index", Toy())
    assert (done.pictures, done.encoded, done.removed) == (7, 1, 0)
    (photos / "red.png").unlink()
    assert index_pictures(photos / "deep", tmp_path / "index", Toy()).removed == 0  # red.png is above it
    assert run(photos).removed == 1
    check(tmp_path, tmp_path / "index")


def test_random_histories_end_like_a_new_index(tmp_path: Path) -> None:
    folder, chance = tmp_path / "photos", random.Random(5)
    draw(folder / "first.png", 0)
    for step in range(1, 60):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        choice, some = chance.randrange(6), chance.choice(files)
        target = folder / chance.choice(["", "a", "a/b", "c"]) / f"{chance.randrange(9)}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        if choice <= 1:
            draw(target, step)
        elif choice == 2:
            some.replace(target)
        elif choice == 3:
            shutil.copy(some, target)
        elif choice == 4 and len(files) > 2:
            some.unlink()
        else:
            target.write_bytes(b"no picture" + bytes([step]))
        if step % 3 == 0:
            run(folder, batch=2)
            check(folder)


# what cannot be read


def test_unreadable_pictures_are_reported_and_tried_again_only_when_they_change(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(7):
        (photos / f"broken{number}.jpg").write_bytes(b"no picture" * (number + 1))
    (photos / "dangling.png").symlink_to(photos / "nowhere.png")
    done = run(photos)
    assert (done.pictures, done.encoded, done.unreadable, len(done.failures)) == (6, 6, 8, 5)
    assert all(failure.image in failure.error for failure in done.failures)
    tried: list[str] = []
    read_ahead = indexing.read_ahead

    def watched(sources: Any, *arguments: Any, **options: Any) -> Any:
        def watch() -> Any:
            for label, source in sources:
                tried.append(label)
                yield label, source

        return read_ahead(watch(), *arguments, **options)

    monkeypatch.setattr(indexing, "read_ahead", watched)
    again = run(photos)
    assert (again.unreadable, again.unchanged, tried) == (8, 6, [])
    assert {failure.image for failure in again.failures} <= {str(path) for path in photos.iterdir()}
    draw(photos / "broken3.jpg", 90)
    draw(photos / "nowhere.png", 91)
    assert (run(photos).unreadable, sorted(tried)) == (
        6,
        sorted(str(photos / name) for name in ("broken3.jpg", "dangling.png", "nowhere.png")),
    )
    check(photos)


def test_hidden_linked_and_other_files_are_passed_over(photos: Path) -> None:
    draw(photos / ".hidden" / "a.png", 1)
    draw(photos / "@eaDir" / "b.png", 1)
    draw(photos / ".c.png", 1)
    (photos / "notes.txt").write_text("red")
    (photos / "loop").symlink_to(photos)
    (photos / "folder.png").mkdir()
    draw(photos / "folder.png" / "inside.png", 3)
    (photos / "alias.png").symlink_to(photos / "red.png")
    done = run(photos)
    assert (done.pictures, done.unreadable) == (8, 0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    done = run(photos)
    assert (done.pictures, done.unreadable) == (6, 1)
    assert "pipe or a device" in done.failures[0].error


def test_names_need_not_be_text(photos: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(photos) + b"/\xff\n.png"))
    try:
        draw(odd, 5, "red")
    except OSError:
        pytest.skip("this file system takes only text")
    draw(photos / 'line\nbreak "quoted" ünï.png', 6)
    Path(os.fsdecode(os.fsencode(photos) + b"/\xfe.png")).write_bytes(b"broken")
    done = run(photos)
    assert (done.pictures, done.unreadable) == (8, 1)
    assert run(photos).unchanged == 8
    check(photos)


def test_a_folder_that_cannot_be_listed_keeps_its_pictures(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos)
    scandir = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (photos / "red.png").unlink()
    done = run(photos)
    assert (done.pictures, done.removed, done.unreadable) == (5, 1, 1)
    assert "cannot be listed (Permission denied)" in done.failures[0].error
    monkeypatch.undo()
    check(photos)


def test_a_folder_that_is_away_changes_nothing(photos: Path) -> None:
    run(photos)
    photos.rename(photos.with_name("away"))
    with pytest.raises(DataError, match="there is no folder"):
        run(photos)
    photos.mkdir()  # where a disk is not mounted
    with pytest.raises(DataError, match=r"there are no pictures in .*accepted are files named .*\.jpg"):
        run(photos)
    assert len(PictureIndex(photos.parent / "index")) == 6


# runs that end too soon

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
import test_search as t
class Killed(t.Toy):
    def embed_pictures(self, pixels):
        if self.seen >= int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_pictures(pixels)
t.index_pictures(sys.argv[1], sys.argv[2], Killed(), batch=2, threads=1)
"""


def test_a_killed_run_goes_on(photos: Path) -> None:
    for number in range(6):
        draw(photos / f"n{number}.png", 100 + number)
    command = [sys.executable, "-c", KILLED, str(photos), str(photos.parent / "index"), str(Path(__file__).parent), "6"]
    assert subprocess.run(command, timeout=120).returncode == -signal.SIGKILL
    assert len(PictureIndex(photos.parent / "index")) == 6  # what is finished can already be found
    toy = Toy()
    done = run(photos, toy)
    assert (done.pictures, done.encoded, done.unchanged, toy.seen) == (12, 6, 6, 6)
    check(photos)


def test_ends_that_are_torn_at_any_byte_are_cut_off(photos: Path) -> None:
    run(photos)
    index = photos.parent / "index"
    (entries,) = index.glob("entries-*")
    (rows,) = index.glob("embeddings-*")
    whole, stored = entries.read_bytes(), rows.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1
    cuts = [(cut, len(stored)) for cut in range(last, len(whole) + 1)]
    cuts += [(len(whole), cut) for cut in range(len(stored) - 20, len(stored))]  # 16 bytes a row
    cuts += [(0, 0), (0, len(stored))]
    for number, (text, data) in enumerate(cuts):
        entries.write_bytes(whole[:text])
        rows.write_bytes(stored[:data] + b"\x01" * (number % 7))
        kept = min(whole[:text].count(b"\n"), (data + number % 7) // 16)
        if data == len(stored):  # else the last row was filled up with other bytes
            assert len(PictureIndex(index)) == kept
        else:
            rows.write_bytes(stored[:data])
            kept = data // 16
        toy = Toy()
        done = run(photos, toy)
        assert (done.pictures, toy.seen) == (6, 6 - kept)
        assert next(index.glob("embeddings-*")).stat().st_size == len(stored)
        (entries,), (rows,) = index.glob("entries-*"), index.glob("embeddings-*")
        if number % 10 == 0:
            check(photos)


def test_what_is_damaged_elsewhere_is_an_error(photos: Path) -> None:
    run(photos)
    (entries,) = (photos.parent / "index").glob("entries-*")
    data = bytearray(entries.read_bytes())
    data[3:6] = b"\0\0\0"
    entries.write_bytes(data)
    with pytest.raises(DataError, match=r"entries-\w+\.jsonl:1 is no entry of an index .* build it again"):
        run(photos)
    (photos.parent / "index" / "index.json").write_text("{")
    with pytest.raises(DataError, match=r"index.json cannot be read .* build it again"):
        PictureIndex(photos.parent / "index")


@pytest.mark.parametrize("fails", [1, 2])  # index.json of the new files, then the offsets
def test_a_run_that_ends_while_it_writes_anew(photos: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    run(photos)
    for name in ("red", "blue", "white"):
        (photos / f"{name}.png").unlink()
    replace, calls = indexing._replace, 0

    def failing(path: Path, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == fails:
            raise OSError(28, "No space left on device", str(path))
        replace(path, data)

    monkeypatch.setattr(indexing, "_replace", failing)
    with pytest.raises(OSError, match="No space left"):
        run(photos)
    monkeypatch.undo()
    check(photos)
    toy = Toy()
    assert run(photos, toy).pictures == 3
    assert toy.seen == 0
    check(photos)
    assert len(list((photos.parent / "index").iterdir())) == 5  # index.json, lock, and three of one token


def test_a_run_that_begins_while_another_writes_is_refused(photos: Path) -> None:
    class Second(Toy):
        def embed_pictures(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            with pytest.raises(DataError, match="another run is writing the index"):
                run(photos)
            return super().embed_pictures(pixels_BHWC)

    assert run(photos, Second()).pictures == 6
    assert run(photos).unchanged == 6
    check(photos)


# its files


def test_an_index_of_another_model_is_refused(photos: Path) -> None:
    run(photos)
    index, other = PictureIndex(photos.parent / "index"), Toy(model="another")
    sentence = (
        r"made with another model \(0123456789ab, width 7\).*\(another, width 7\).*showtell index FOLDER --out NEW"
    )
    for call in (
        lambda: run(photos, other),
        lambda: find_sentence(index, other, "red"),
        lambda: find_like(index, other, photos / "red.png"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            call()
    check(photos)


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (lambda index: shutil.rmtree(index), DataError, "there is no index in .*; make one: showtell index"),
        (
            lambda index: (index / "index.json").write_text(
                json.dumps(json.loads((index / "index.json").read_text()) | {"format": 99})
            ),
            DataError,
            "is an index of format 99, this showtell reads up to format 1; run: pip install --upgrade",
        ),
        (lambda index: next(index.glob("entries-*")).unlink(), DataError, r"has no entries-\w+.jsonl; remove it"),
        (lambda index: next(index.glob("embeddings-*")).unlink(), DataError, r"has no embeddings-\w+.f16; remove it"),
    ],
)
def test_indexes_that_cannot_be_opened(
    photos: Path, damage: Callable[[Path], None], error: type[ShowtellError], sentence: str
) -> None:
    run(photos)
    damage(photos.parent / "index")
    with pytest.raises(error, match=sentence):
        PictureIndex(photos.parent / "index")


def test_a_folder_of_something_else_is_no_index(photos: Path) -> None:
    with pytest.raises(ConfigError, match="is not an index and holds other files"):
        index_pictures(photos, photos, Toy())


def test_the_entries_are_read_where_the_offsets_are_missing_or_old(photos: Path) -> None:
    run(photos)
    index = photos.parent / "index"
    (offsets,) = index.glob("offsets-*")
    quick = PictureIndex(index)
    assert isinstance(quick.offsets, np.memmap)
    kept = offsets.read_bytes()
    offsets.unlink()
    assert PictureIndex(index).offsets.tolist() == quick.offsets.tolist()
    offsets.write_bytes(kept)
    with next(index.glob("entries-*")).open("a") as entries:
        entries.write('{"path":"photos/red.png","gone":true}\n')
    assert len(PictureIndex(index)) == 5


def test_what_is_of_no_use_is_thrown_away_and_open_indexes_go_on(photos: Path) -> None:
    run(photos)
    (photos / "broken.png").write_bytes(b"broken")
    assert run(photos).unreadable == 1
    before = PictureIndex(photos.parent / "index")
    wanted = before.search(Toy().embed_sentence("red")[None], 9)
    for name in ("red", "blue", "white"):
        (photos / f"{name}.png").unlink()
    done = run(photos)
    assert (done.pictures, done.removed, done.unreadable) == (3, 3, 1)
    (rows,) = (photos.parent / "index").glob("embeddings-*")
    assert rows.stat().st_size == 3 * 8 * 2
    assert next((photos.parent / "index").glob("entries-*")).read_bytes().count(b"\n") == 4
    check(photos)
    assert before.search(Toy().embed_sentence("red")[None], 9) == wanted
    toy = Toy()
    assert run(photos, toy).unchanged == 3
    assert toy.seen == 0


def test_embeddings_that_are_not_numbers_are_refused(photos: Path) -> None:
    class Broken(Toy):
        def embed_pictures(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().embed_pictures(pixels_BHWC) * np.float32("nan")

    with pytest.raises(ValueError, match="not finite"):
        run(photos, Broken())


def test_progress_ends_at_the_total(photos: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    run(photos, batch=2, progress=lambda *call: calls.append(call))
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)
    assert calls[-1] == ("indexing pictures", 6, 6)
    assert sum(done == total for _, done, total in calls) == 1


# the approximate index


def test_the_approximate_index_finds_what_the_exact_search_finds(tmp_path: Path) -> None:
    if importlib.util.find_spec("usearch") is None:  # importing it here would be before onnxruntime: see the search
        pytest.skip("needs the extra 'search'")
    for number in range(40):
        draw(tmp_path / "photos" / f"{number}.png", number)
    run(tmp_path / "photos")
    index = PictureIndex(tmp_path / "index")
    queries = np.stack([Toy().embed_sentence(colour) for colour in COLOURS])
    with pytest.raises(ConfigError, match=r"was not built; build it with: showtell index FOLDER --out .* --app"):
        index.search(queries, approximate=True)
    assert build_approximate(index) == index.graph
    assert index.search(queries, 9, approximate=True) == index.search(queries, 9)
    for number in range(8):
        (tmp_path / "photos" / f"{number}.png").unlink()
    run(tmp_path / "photos")
    fewer = PictureIndex(tmp_path / "index")
    assert fewer.search(queries, 40, approximate=True) == fewer.search(queries, 40)
    draw(tmp_path / "photos" / "more.png", 77)
    run(tmp_path / "photos")
    with pytest.raises(ConfigError, match="is of 40 rows, the index has 41"):
        PictureIndex(tmp_path / "index").search(queries, approximate=True)


def test_the_approximate_index_names_what_it_needs(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(photos)
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(BackendError, match=r"pip install 'showtell\[search\]'"):
        build_approximate(PictureIndex(photos.parent / "index"))


# the page and the commands

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The commands with the toy model."""
    import showtell.alignment

    loaded: list[Source] = []

    def load(source: str, **options: Any) -> Toy:
        loaded.append(source)
        return Toy(model=Path(source).name)

    monkeypatch.setattr(showtell.alignment.Aligner, "load", load)
    app = typer.Typer()
    app.command()(commands.index)
    app.command()(commands.search)

    def call(*arguments: str | os.PathLike[str]) -> tuple[int, str, str]:
        capsys.readouterr()
        code = 0
        try:
            app([os.fspath(argument) for argument in arguments], standalone_mode=True)
        except SystemExit as left:
            code = int(left.code or 0)
        return (code, *capsys.readouterr())

    return call


def lines(text: str) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_commands_index_and_find(call: Call, photos: Path, tmp_path: Path) -> None:
    index = tmp_path / "index"
    with pytest.raises(ConfigError, match="name the alignment model with --model"):
        call("index", photos, "--out", index)
    code, out, err = call("index", photos, "--out", index, "--model", "toy")
    assert (code, out) == (0, f"{index}: 6 pictures (6 encoded, 0 unchanged)\n")
    (photos / "broken.jpg").write_bytes(b"broken")
    code, out, err = call("index", photos, "--out", index, "--json")
    assert code == 1
    assert lines(out)[0]["unreadable"] == 1
    assert f"showtell: not indexed: {photos / 'broken.jpg'}" in err
    code, out, _ = call("search", index, "something blue", "--top", "2")
    assert code == 0
    score, _, path = out.splitlines()[0].partition(" ")
    assert (len(out.splitlines()), path) == (2, str(photos / "blue.png"))
    code, out, _ = call("search", index, "--like", photos / "red.png", "--json")
    assert lines(out)[0]["path"] == str(photos / "red.png")
    assert len(lines(out)) == 6
    assert float(score) < 1.001


def test_the_search_wants_one_query_and_its_own_model(call: Call, photos: Path, tmp_path: Path) -> None:
    call("index", photos, "--out", tmp_path / "index", "--model", "toy")
    for arguments in ((), ("red", "--like", photos / "red.png")):
        with pytest.raises(ConfigError, match="give a sentence or --like PICTURE, one of the two"):
            call("search", tmp_path / "index", *arguments)
    with pytest.raises(ConfigError, match="made with another model"):
        call("search", tmp_path / "index", "red", "--model", "other")
    with pytest.raises(DataError, match="there is no index in"):
        call("search", tmp_path / "none", "red")


@pytest.mark.parametrize("option", ["--page", "--open"])
def test_the_page_shows_what_was_found(call: Call, photos: Path, tmp_path: Path, option: str) -> None:
    pytest.importorskip("jinja2", reason="needs the extra 'report'")
    call("index", photos, "--out", tmp_path / "index", "--model", "toy")
    (photos / "green.png").write_bytes(b"broken since")
    page = tmp_path / "found.html"
    assert call("search", tmp_path / "index", "<red> & red", option, page)[0] == 0
    html = page.read_text("utf-8")
    assert '<h1 dir="auto">&lt;red&gt; &amp; red</h1>' in html
    assert html.count("<img ") == 5
    assert html.index("red.png") < html.index("blue.png")
    assert "green.png cannot be read as a picture" in html
    assert "http" not in html.replace("http-equiv", "")
    call("search", tmp_path / "index", "--like", photos / "red.png", option, page)
    assert f"Pictures like {photos / 'red.png'}" in page.read_text("utf-8")
    assert page.read_text("utf-8").count("<img ") == 6
