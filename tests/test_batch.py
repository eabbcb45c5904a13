"""`showtell batch`: tables, resuming, changes of the folder, texts beside pictures, hostile files, refusals."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from showtell.cli import main
from showtell.cli.batch import batch
from showtell.decoding import SearchOptions
from showtell.errors import BackendError, ConfigError, DataError, ImageError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Preprocessing, read_ahead, read_pixels
from showtell.jobs import journal as journal_module
from showtell.jobs.batch import Batched, BatchOptions, caption_pictures
from showtell.jobs.inputs import Inputs
from showtell.jobs.journal import Places
from showtell.locks import alone
from showtell.records import Caption, Failure
from showtell.safewords import SafeWords
from showtell.text import SPECIAL_WORDS, Vocabulary

COLOURS = ("red", "green", "blue", "gold", "teal", "navy")
SIZE = Preprocessing(size=16)
ENGLISH = Vocabulary((*SPECIAL_WORDS, "the", "grey", "black", "man", "person"))
SAFE = SafeWords()


class Namer:
    """A captioner that says the mean colour of a picture, and remembers what it was shown."""

    def __init__(self, weights: str = "a", before: str = "the colour", words: SafeWords = SAFE) -> None:
        self.manifest = SimpleNamespace(name="namer", files={"weights": weights}, preprocessing=SIZE)
        self.words, self.restrictions = words, words.restrict(ENGLISH)
        self.shown: list[str] = []
        self.before = before
        self.stops_after: int | None = None

    def options(self, **changes: Any) -> SearchOptions:
        return SearchOptions(**changes)

    def caption_stream(
        self, images: Iterable[str], options: SearchOptions, *, batch: int, limits: ImageLimits = DEFAULT_LIMITS
    ) -> Iterator[Caption | Failure]:
        labelled = ((path, path) for path in images)
        for path, pixels in read_ahead(labelled, SIZE, readers=2, ahead=2 * batch, limits=limits):
            if self.stops_after is not None and len(self.shown) == self.stops_after:
                raise KeyboardInterrupt
            self.shown.append(path)
            if isinstance(pixels, ImageError):
                yield Failure(path, str(pixels))
            else:
                text = f"{self.before} {','.join(str(round(value)) for value in pixels.mean((0, 1)))}"
                words = tuple(text.split())
                yield Caption(path, text, -1.5, words, (-0.5,) * len(words))


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of six pictures in the current one, with what is none of them around."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for place, colour in enumerate(COLOURS):
        paint(folder / f"{place}.png", colour)
    (folder / "notes.md").write_text("no picture")
    paint(folder / ".hidden.png", "white")
    (folder / "@eaDir").mkdir()
    paint(folder / "@eaDir" / "thumbnail.png", "white")
    (folder / "below").mkdir()
    paint(folder / "below" / "deep.jpg", "pink")
    (folder / "below" / "loop").symlink_to(folder)
    return folder


def paint(path: Path, colour: str) -> None:
    Image.new("RGB", (20, 12), colour).save(path)


def job(
    out: str = "captions.jsonl", given: Iterable[str] = ("photos",), captioner: Namer | None = None, **options: Any
) -> Batched:
    return caption_pictures(given, out, captioner or Namer(), settings=BatchOptions(**options))  # type: ignore[arg-type]


def rows(path: str | Path = "captions.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# tables


def test_a_folder_becomes_a_table_in_order(photos: Path) -> None:
    captioner = Namer()
    done = job(captioner=captioner)
    assert [row["image"] for row in rows()] == [f"photos/{place}.png" for place in range(6)]
    for row, path in zip(rows(), sorted(photos.glob("*.png"))[1:], strict=True):
        (said,) = Namer().caption_stream([str(path)], SearchOptions(), batch=1)
        assert row == {**said.to_json(), "image": row["image"]}
    assert (done.pictures, done.captioned, done.failed) == (6, 6, 0)
    deep = job(recursive=True, captioner=captioner)
    assert (deep.pictures, deep.captioned, deep.unchanged) == (7, 1, 6)
    assert rows()[-1]["image"] == "photos/below/deep.jpg"


def test_formats_say_the_same(photos: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'parquet'")
    (photos / "broken.jpg").write_bytes(b"no picture")
    for suffix in ("jsonl", "csv", "parquet"):
        job(f"captions.{suffix}")
    expected = rows()
    with Path("captions.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["caption"] or row["error"] for row in table] == [row.get("caption") or row["error"] for row in expected]
    packed = parquet.read_table("captions.parquet").to_pylist()
    for row, wanted in zip(packed, expected, strict=True):
        for name in ("image", "caption", "logprob", "error"):
            assert row[name] == wanted.get(name)
        assert row["words"] == ([word["word"] for word in wanted["words"]] if "words" in wanted else None)


def test_parquet_without_pyarrow_says_what_to_install(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    captioner = Namer()
    with pytest.raises(BackendError, match=r"pip install 'showtell\[parquet\]'"):
        job("captions.parquet", captioner=captioner)
    assert not captioner.shown


def test_patterns_lists_and_pictures_are_met_once(photos: Path) -> None:
    Path("more.txt").write_bytes(b"\xef\xbb\xbfphotos/2.png\r\n\r\nphotos/notes.md\nphotos/none.png\n")
    done = job(given=["photos/[01].png", "photos/1.png", str(photos / "0.png"), "more.txt", "photos/**/*.jpg"])
    images = [row["image"] for row in rows()]
    assert images[:5] == ["photos/0.png", "photos/1.png", "photos/2.png", "photos/notes.md", "photos/none.png"]
    assert "photos/below/deep.jpg" in images
    errors = {row["image"]: row["error"] for row in rows() if "error" in row}
    assert "cannot be read as a picture" in errors["photos/notes.md"]
    assert "does not exist" in errors["photos/none.png"]
    assert done.failed == len(errors) == 2


def test_standard_input_is_a_list(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.write(write, b"photos/1.png\nphotos/0.png\n")
    os.close(write)
    with os.fdopen(read) as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        job(given=["-"])
    assert [row["image"] for row in rows()] == ["photos/1.png", "photos/0.png"]


def test_names_that_are_no_text_are_pictures_too(photos: Path) -> None:
    odd = os.fsdecode(b"photos/\xe9.png")
    shutil.copy(photos / "0.png", odd)
    broken = os.fsdecode(b"photos/\xe8.png")
    Path(broken).write_bytes(b"")
    assert job().pictures == 8
    assert [row["image"] for row in rows()][-2:] == ["photos/\\udce8.png", "photos/\\udce9.png"]
    captioner = Namer()
    again = job(captioner=captioner)
    assert (again.unchanged, again.failed, captioner.shown) == (7, 1, [broken])


def test_tables_elsewhere_name_pictures_absolutely(photos: Path) -> None:
    Path("tables").mkdir()
    job("tables/captions.jsonl")
    assert rows("tables/captions.jsonl")[0]["image"] == str(photos.resolve() / "0.png")


# later runs


def test_unchanged_pictures_are_not_opened(photos: Path) -> None:
    job()
    before = Path("captions.jsonl.journal").read_bytes()
    for path in photos.glob("*.png"):
        status = path.stat()
        path.write_bytes(b"\0" * status.st_size)  # what opens it would see that
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    captioner = Namer()
    assert job(captioner=captioner).unchanged == 6
    assert (captioner.shown, Path("captions.jsonl.journal").read_bytes()) == ([], before)


def test_changes_of_a_folder_cost_what_is_new(photos: Path) -> None:
    job()
    old = {row["image"]: row["caption"] for row in rows()}
    os.utime(photos / "0.png", (5, 5))  # touched
    (photos / "1.png").rename(photos / "moved.png")
    shutil.copy(photos / "2.png", photos / "copy.png")
    (photos / "3.png").unlink()
    paint(photos / "4.png", "white")
    captioner = Namer()
    done = job(captioner=captioner)
    assert captioner.shown == ["photos/4.png"]
    assert (done.pictures, done.captioned, done.unchanged, done.known) == (6, 1, 3, 2)
    new = {row["image"]: row["caption"] for row in rows()}
    assert new["photos/moved.png"] == old["photos/1.png"]
    assert new["photos/copy.png"] == old["photos/2.png"]
    assert new["photos/4.png"] != old["photos/4.png"]
    assert "photos/3.png" not in new
    paint(photos / "3.png", COLOURS[3])
    assert job(captioner=captioner).pictures == 7
    assert captioner.shown == ["photos/4.png"]
    assert job(captioner=captioner).unchanged == 7  # the touched and the moved are known by their new times


def test_a_folder_moves_with_its_table(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job()
    home = photos.parent / "elsewhere"
    home.mkdir()
    for name in ("photos", "captions.jsonl", "captions.jsonl.journal"):
        Path(name).rename(home / name)
    captioner = Namer()
    done = job(str(home / "captions.jsonl"), [str(home / "photos")], captioner)
    assert (done.unchanged, captioner.shown) == (6, [])


def test_failures_are_tried_again_when_they_may_have_mended(photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no picture")
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    assert job().failed == 2
    captioner = Namer()
    assert job(captioner=captioner).failed == 2
    assert captioner.shown == ["photos/gone.jpg"]
    paint(photos / "broken.jpg", "white")
    paint(photos / "nowhere.jpg", "white")
    assert job(captioner=captioner).failed == 0


def test_a_folder_that_cannot_be_listed_is_a_failure(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("below"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert job(recursive=True).failed == 1
    assert "below cannot be listed (Permission denied)" in rows()[-1]["error"]


# interruptions


def test_a_journal_torn_anywhere_is_mended(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # hundreds of runs need not wait for the disk
    (photos / "5.png").write_bytes(b"no picture")
    three = ["photos/[345].png"]
    job(given=three)
    table, journal = Path("captions.jsonl").read_bytes(), Path("captions.jsonl.journal")
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = len(whole) - sum(map(len, lines[-2:]))
    for end in [*range(kept, len(whole)), *range(0, len(lines[0]) + 1, 7)]:
        journal.write_bytes(whole[:end])
        captioner = Namer()
        job(given=three, captioner=captioner)
        if end >= kept:
            assert len(captioner.shown) == (1 if end >= kept + len(lines[-2]) else 2)
            assert journal.read_bytes() == whole
        assert Path("captions.jsonl").read_bytes() == table
    journal.write_bytes(whole + b"\0" * 4096)  # what a lost power may leave behind
    assert job(given=three).unchanged == 2
    assert journal.read_bytes() == whole


def test_damage_elsewhere_is_told(photos: Path) -> None:
    job()
    journal = Path("captions.jsonl.journal")
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"{}\n", *lines[3:]]))
    with pytest.raises(DataError, match=r"captions\.jsonl\.journal:4 is no line of a journal"):
        job()
    journal.write_bytes(whole.replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(DataError, match="format 2, this showtell reads up to format 1"):
        job()


def test_an_interrupted_run_leaves_the_old_table(photos: Path) -> None:
    job()
    table = Path("captions.jsonl").read_bytes()
    for colour in range(6):
        paint(photos / f"new{colour}.png", f"#{colour}0{colour}0{colour}0")
    captioner = Namer()
    captioner.stops_after = 4
    with pytest.raises(KeyboardInterrupt):
        job(captioner=captioner)
    assert Path("captions.jsonl").read_bytes() == table
    captioner.stops_after = None
    done = job(captioner=captioner)
    assert (done.captioned, done.unchanged) == (2, 10)
    assert len(captioner.shown) == len(set(captioner.shown)) == 6


CHILD = """
import sys
import typer
import showtell.cli.commands
from showtell.cli import main
from showtell.cli.batch import batch
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(batch)
showtell.cli.commands.app = app
main()
"""


def start(folder: Path, out: Path) -> subprocess.Popen[str]:
    options = ["--out", str(out), "--sidecar", "txt", "--batch", "4", "--workers", "1"]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), *options],
        stdout=-1,
        stderr=-1,
        text=True,
        env=dict(os.environ),
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_lines(process: subprocess.Popen[str], journal: Path, count: int) -> None:
    while process.poll() is None and (not journal.exists() or journal.read_bytes().count(b"\n") < count):
        time.sleep(0.002)


def test_killed_runs_lose_nothing_and_do_nothing_twice(tmp_path: Path) -> None:
    chance = random.Random(5)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        Image.frombytes("RGB", (6, 6), chance.randbytes(108)).resize((64, 64)).save(folder / f"{number:02}.png")
    (folder / "30.jpg").write_bytes(b"no picture")
    out = tmp_path / "captions.jsonl"
    journal = tmp_path / "captions.jsonl.journal"
    for lines, sign in ((1, 9), (9, signal.SIGINT), (20, 9), (33, 9), (50, 9)):
        process = start(folder, out)
        wait_for_lines(process, journal, lines + chance.randrange(5))
        time.sleep(chance.random() / 50)
        process.send_signal(sign)
        _, err = process.communicate()
        assert process.returncode == (130 if sign == signal.SIGINT else -9)
        assert sign == 9 or "the same command goes on" in err
        assert not out.exists()
    process = start(folder, out)
    said, _ = process.communicate()
    assert (process.returncode, said[: said.index("(")]) == (1, f"{out}: 61 pictures ")
    entries = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
    assert len({entry["path"] for entry in entries}) == len(entries) == 61
    resumed = rows(out)
    shutil.copytree(folder, tmp_path / "again" / "photos", ignore=shutil.ignore_patterns("*.txt"))
    process = start(tmp_path / "again" / "photos", tmp_path / "again" / "captions.jsonl")
    process.communicate()
    whole = rows(tmp_path / "again" / "captions.jsonl")
    assert [row["image"] for row in resumed] == [row["image"] for row in whole]
    for row, wanted in zip(resumed, whole, strict=True):
        assert row.get("caption") == wanted.get("caption")
        assert row.get("logprob", 0) == pytest.approx(wanted.get("logprob", 0), abs=2e-4)  # of other batches
        if "caption" in row:
            assert (tmp_path / row["image"]).with_suffix(".txt").read_text("utf-8") == f"{row['caption']}\n"
    assert not [path for path in folder.iterdir() if path.suffix not in (".png", ".txt", ".jpg")]


# texts beside pictures


def text(photos: Path, place: int) -> str:
    return (photos / f"{place}.txt").read_text("utf-8")


def test_texts_are_written_but_over_none_of_others(photos: Path) -> None:
    (photos / "0.txt").write_text("by hand\n")
    (photos / "1.txt").symlink_to(photos / "notes.md")
    (photos / "2.txt").mkdir()
    done = job(sidecar="txt")
    assert (done.texts, done.texts_left) == (3, 3)
    assert (text(photos, 0), text(photos, 1)) == ("by hand\n", "no picture")
    said = {row["image"]: row["caption"] for row in rows()}
    assert text(photos, 4) == f"{said['photos/4.png']}\n"
    (photos / "3.txt").write_text("changed by hand\n")
    (photos / "4.txt").unlink()
    again = job(sidecar="txt")
    assert (again.texts, again.texts_left, again.unchanged) == (1, 4, 6)
    assert text(photos, 3) == "changed by hand\n"
    assert text(photos, 4) == f"{said['photos/4.png']}\n"


def test_texts_follow_their_pictures(photos: Path) -> None:
    job()
    assert job(sidecar="txt").texts == 6  # asked for later
    first = text(photos, 0)
    for place in (0, 1):
        paint(photos / f"{place}.png", "white")
    job()  # without texts, which are known as ours all the same
    assert text(photos, 0) == first
    assert job(sidecar="txt").texts == 2
    assert text(photos, 0) != first
    (photos / "0.png").write_bytes(b"no picture")
    assert job(sidecar="txt").failed == 1
    paint(photos / "0.png", COLOURS[0])
    assert job(sidecar="txt").texts == 1
    assert text(photos, 0) == first
    assert job(sidecar="txt").texts == 0


def test_a_kill_between_journal_and_text_is_made_good(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: Any) -> bool:
        raise KeyboardInterrupt

    job(sidecar="txt")
    first = text(photos, 0)
    paint(photos / "0.png", "white")
    with monkeypatch.context() as patched:
        patched.setattr("showtell.jobs.batch._write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            job(sidecar="txt")
    assert text(photos, 0) == first
    paint(photos / "0.png", "black")
    with monkeypatch.context() as patched:
        patched.setattr("showtell.jobs.batch._write_text", stop)
        with pytest.raises(KeyboardInterrupt):
            job(sidecar="txt")
    done = job(sidecar="txt")
    assert (done.texts, done.texts_left) == (1, 0)
    assert text(photos, 0) == f"{rows()[0]['caption']}\n"


def test_pictures_that_share_a_text_give_it_to_the_first(photos: Path) -> None:
    paint(photos / "0.webp", "white")
    for texts, left in ((6, 1), (0, 1)):
        done = job(sidecar="txt")
        assert (done.texts, done.texts_left) == (texts, left)
        assert text(photos, 0) == f"{rows()[0]['caption']}\n"


def test_a_text_that_cannot_be_written_is_told(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> bool:
        raise PermissionError(13, "Permission denied")

    told: list[Failure] = []
    with monkeypatch.context() as patched:
        patched.setattr("showtell.jobs.batch._write_text", refuse)
        done = caption_pictures(
            ["photos"],
            "captions.jsonl",
            Namer(),  # type: ignore[arg-type]
            settings=BatchOptions(sidecar="txt"),
            notice=told.append,
        )
    assert (done.texts_failed, done.captioned, len(told)) == (6, 6, 6)
    assert "0.txt cannot be written (Permission denied)" in told[0].error
    assert job(sidecar="txt").texts == 6


def test_file_systems_without_links_have_texts_too(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert job(sidecar="txt").texts == 6
    assert text(photos, 0) == f"{rows()[0]['caption']}\n"


# hostile files


def test_hostile_files_end_as_a_caption_or_a_reason(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = sorted(path for path in (shared_data / "hostile").rglob("*") if path.is_file())
    Path("all.txt").write_text("".join(f"{path}\n" for path in paths), "utf-8")
    done = job(given=["all.txt"])
    assert len(rows()) == done.pictures == len(paths) > 200
    for row, path in zip(rows(), paths, strict=True):
        assert row["image"] == str(path.resolve())
        if "error" in row:
            with pytest.raises(ImageError) as refused:
                read_pixels(path, SIZE)
            assert row["error"] == str(refused.value)
        else:
            assert row["caption"].startswith("the colour")


# refusals


def test_another_model_or_search_is_refused(photos: Path) -> None:
    job()
    table = Path("captions.jsonl").read_bytes()
    with pytest.raises(
        ConfigError, match=r"made with the model 'namer' \(\w{8}\), and this run has the model"
    ) as other:
        job(captioner=Namer("b"))
    assert "remove captions.jsonl.journal and captions.jsonl to caption all pictures anew" in str(other.value)
    with pytest.raises(ConfigError, match="made with beam 3, and this run has beam 1;"):
        caption_pictures(["photos"], "captions.jsonl", Namer(), SearchOptions(beam=1))  # type: ignore[arg-type]
    assert Path("captions.jsonl").read_bytes() == table


def test_other_words_are_refused(photos: Path) -> None:
    job()
    table = Path("captions.jsonl").read_bytes()
    for words, name in (
        (SafeWords(default=False), "all words"),
        (SafeWords(deny=("grey man",)), r"safe words, 1 denied \(\w{8}\)"),
        (SafeWords(neutral=True), r"safe words, gender-neutral \(\w{8}\)"),
    ):
        with pytest.raises(ConfigError, match=rf"made with safe words \(\w{{8}}\), and this run has {name};"):
            job(captioner=Namer(words=words))
    assert Path("captions.jsonl").read_bytes() == table
    assert job().unchanged == 6


def test_a_journal_of_before_safe_words_goes_on_with_all_words(photos: Path) -> None:
    everything = SafeWords(default=False)
    job(captioner=Namer(words=everything))
    journal = Path("captions.jsonl.journal")
    first, _, rest = journal.read_bytes().partition(b"\n")
    old = json.loads(first)
    assert old.pop("words") == "all words"
    journal.write_bytes(json.dumps(old, separators=(",", ":")).encode() + b"\n" + rest)
    with pytest.raises(ConfigError, match="made with all words, and this run has safe words"):
        job()
    assert job(captioner=Namer(words=everything)).unchanged == 6


def test_two_runs_at_once_are_refused(photos: Path) -> None:
    with (
        alone(Path("captions.jsonl.lock"), DataError("free")),
        pytest.raises(DataError, match=r"another run is writing captions\.jsonl; wait"),
    ):
        job()
    assert job().pictures == 6


@pytest.mark.parametrize(
    ("out", "sentence"),
    [
        ("captions.xml", r"accepted are names that end in \.jsonl, \.csv, \.parquet"),
        ("nowhere/captions.csv", "there is no folder nowhere"),
        ("folder.csv", "which is a folder"),
        ("mine.csv", r"mine\.csv is there already, and no mine\.csv\.journal is beside it"),
        ("strange.csv", r"strange\.csv\.journal is not a journal"),
    ],
)
def test_bad_tables_are_refused_before_anything_is_read(photos: Path, out: str, sentence: str) -> None:
    Path("folder.csv").mkdir()
    Path("mine.csv").write_text("image,caption\n")
    Path("strange.csv.journal").write_text("dear diary\n")
    captioner = Namer()
    with pytest.raises(ConfigError, match=sentence):
        job(out, captioner=captioner)
    assert not captioner.shown
    assert Path("mine.csv").read_text() == "image,caption\n"
    assert Path("strange.csv.journal").read_text() == "dear diary\n"


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("photoz", "there is no photoz; accepted are folders, patterns, pictures"),
        ("photos/*.tif", r"no picture matches photos/\*\.tif"),
        ("empty", "there are no pictures in what was given; folders of folders are read with --recursive"),
    ],
)
def test_arguments_that_name_nothing_leave_the_table(photos: Path, argument: str, sentence: str) -> None:
    job()
    table = Path("captions.jsonl").read_bytes()
    Path("empty").mkdir()
    with pytest.raises(DataError, match=sentence):
        job(given=[argument])
    assert Path("captions.jsonl").read_bytes() == table


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown sidecar 'xmp'; accepted is txt"):
        BatchOptions(sidecar="xmp")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch is 0"):
        replace(BatchOptions(), batch=0)


# parts


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), st.integers(0, 2**40)), max_size=30))
def test_places_are_those_of_a_dict(puts: list[tuple[int, int]]) -> None:
    places, wanted = Places(), {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(journal_module, "_RECENT", 3)
        for key, place in puts:
            places.put(key, place)
            wanted[key] = place
            for asked in (0, 1, 2, 7, 2**63, 2**64 - 1):
                assert places.find(asked) == wanted.get(asked, -1)


def test_paths_of_the_same_key_are_told_apart(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "key_of", lambda name: 1)
    job()
    table = Path("captions.jsonl").read_bytes()
    captioner = Namer()
    job(captioner=captioner)
    assert (Path("captions.jsonl").read_bytes(), captioner.shown) == (table, [])


def test_inputs_count_what_they_give(photos: Path) -> None:
    inputs = Inputs(["photos", "photos/*.png"], recursive=True)
    assert inputs.count() == len(list(inputs)) == 13
    inputs.close()


# the command


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(batch)
    monkeypatch.setattr("showtell.cli.commands.app", app)

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["showtell", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main()
        return Result(int(left.value.code or 0), *capsys.readouterr())

    return run


def test_the_command_captions_and_tells_of_failures(run: Callable[..., Result], photos: Path) -> None:
    plain = run("photos", "--out", "captions.csv")
    assert (plain.code, plain.out) == (0, "captions.csv: 6 pictures (6 captioned, 0 unchanged)\n")
    for number in range(7):
        (photos / f"broken{number}.jpg").write_bytes(b"no picture %d" % number)
    failed = run("photos", "--out", "captions.csv")
    assert failed.code == 1
    assert failed.out == "captions.csv: 13 pictures (0 captioned, 6 unchanged, 7 failed)\n"
    assert failed.err.count("showtell: photos/broken") == 5
    assert "… and 2 more; --failures lists them all" in failed.err
    listed = run("photos", "--out", "captions.csv", "--failures")
    assert listed.out.count("cannot be read as a picture") == 7
    told = [
        json.loads(line) for line in run("photos", "--out", "captions.csv", "--failures", "--json").out.splitlines()
    ]
    assert [row["image"] for row in told[:-1]] == [f"photos/broken{number}.jpg" for number in range(7)]
    assert (told[-1]["pictures"], told[-1]["failed"]) == (13, 7)


def test_mistakes_are_one_sentence(run: Callable[..., Result], photos: Path) -> None:
    for arguments, code, sentence in (
        (["photos", "--out", "captions.xml"], 2, "accepted are names that end in"),
        (["photoz", "--out", "captions.csv"], 1, "there is no photoz"),
        (["photos", "--out", "captions.csv", "--sidecar", "xmp"], 2, "accepted is txt"),
        (["photos", "--out", "captions.csv", "--beam", "0"], 2, "beam is 0"),
        (["photos", "--out", "captions.csv", "--model", "none"], 2, "there is no model 'none'"),
    ):
        said = run(*arguments)
        assert (said.code, said.out, len(said.err.splitlines())) == (code, "", 1)
        assert sentence in said.err


def test_the_command_says_how_to_go_on(
    run: Callable[..., Result], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **options: Any) -> Batched:
        raise KeyboardInterrupt

    monkeypatch.setattr("showtell.jobs.batch.caption_pictures", stop)
    said = run("photos", "--out", "captions.csv")
    assert said.code == 130
    assert "stopped; the same command goes on" in said.err
