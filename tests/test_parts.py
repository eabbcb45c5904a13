"""Jobs in parts: what they read, what they write, how they go on, what they refuse. The cluster: test_cluster.py."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from showtell.bundle import Bundle, read_bundle
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import ConfigError, DataError
from showtell.images import ImageLimits
from showtell.jobs import parts
from showtell.jobs.batch import BatchOptions, caption_pictures
from showtell.jobs.listings import list_given, read_shard
from showtell.jobs.parts import caption_parts
from showtell.jobs.tables import read_table
from showtell.locks import alone
from showtell.records import Caption, Failure

pytest.importorskip("fsspec", reason="needs the extra 'ray'")
EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.jpg"))
GREEDY = SearchOptions(**{**read_bundle("default").manifest.search, "beam": 1})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def bundle() -> Bundle:
    return read_bundle("default")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six pictures, of which one is broken, as the current folder has them; blocks are of two."""
    monkeypatch.setattr(parts, "_BLOCK", 2)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number, path in enumerate([*EXAMPLES, EXAMPLES[0]]):
        shutil.copy(path, tmp_path / "photos" / f"{number}.jpg")
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    return Path("photos")


def same(ours: Caption | Failure, theirs: Caption | Failure) -> bool:
    if isinstance(ours, Failure) or isinstance(theirs, Failure):
        return ours == theirs
    return (ours.image, ours.text) == (theirs.image, theirs.text) and abs(ours.logprob - theirs.logprob) < 1e-3


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_parts_say_what_one_table_says(photos: Path, bundle: Bundle, suffix: str) -> None:
    given = [photos, "photos/0.jpg", "gone.jpg"]
    caption_pictures(given, f"table{suffix}", Captioner(bundle), GREEDY)
    told: list[Failure] = []
    found = caption_parts(given, f"parts{suffix}", bundle, GREEDY, notice=told.append)
    table, read = list(read_table(Path(f"table{suffix}"))), list(read_table(Path(f"parts{suffix}")))
    assert len(read) == len(table) == 7
    assert all(map(same, read, table))
    assert (found.pictures, found.captioned, found.failed) == (7, 5, 2)
    assert [failure.error for failure in told] == [one.error for one in table if isinstance(one, Failure)]
    assert {path.name for path in Path(f"parts{suffix}").iterdir()} == {
        "_job.json", "_listing.jsonl", "_lock", *(f"part-{number:05d}{suffix}" for number in range(4))
    }  # fmt: skip


def test_a_job_goes_on_with_the_parts_that_are_missing(photos: Path, bundle: Bundle) -> None:
    caption_parts([photos], "out.jsonl", bundle, GREEDY)
    whole = list(read_table(Path("out.jsonl")))
    Path("out.jsonl/part-00001.jsonl").unlink()
    with pytest.raises(DataError, match=r"out.jsonl is unfinished: 2 of 3 parts"):
        list(read_table(Path("out.jsonl")))
    handed: list[Any] = []

    def watched(make: Any, blocks: Any) -> Any:
        handed.extend(blocks)
        return parts.run_here(make, blocks)

    told: list[Failure] = []
    found = caption_parts([photos], "out.jsonl", bundle, GREEDY, engine=watched, notice=told.append)
    assert [block["part"] for block in handed] == [1]
    assert (found.captioned, found.unchanged, found.failed, len(told)) == (2, 3, 1, 1)
    assert all(map(same, read_table(Path("out.jsonl")), whole))


def test_a_part_that_breaks_off_is_not_there(photos: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real, left = Captioner.caption_labelled, [3]

    def tire(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        for result in real(*arguments, **named):
            yield result
            if not left[0]:
                raise KeyboardInterrupt

    monkeypatch.setattr(Captioner, "caption_labelled", tire)
    with pytest.raises(KeyboardInterrupt):
        caption_parts([photos], "out.jsonl", bundle, GREEDY)
    assert sorted(path.name for path in Path("out.jsonl").iterdir() if path.name[0] != "_") == [
        "part-00000.jsonl", "part-00001.jsonl"
    ]  # fmt: skip
    assert caption_parts([photos], "out.jsonl", bundle, GREEDY).pictures == 6


def test_a_job_is_not_continued_as_another(photos: Path, bundle: Bundle) -> None:
    caption_parts([photos], "out.jsonl", bundle, GREEDY)
    with pytest.raises(ConfigError, match="was made with beam 1, and this run has beam 2; give the same, or another"):
        caption_parts([photos], "out.jsonl", bundle, replace(GREEDY, beam=2))
    (photos / "0.jpg").unlink()
    with pytest.raises(ConfigError, match=r"holds a job over other pictures \(6 and 0 shards, now 5 and 0\)"):
        caption_parts([photos], "out.jsonl", bundle, GREEDY)
    with alone(Path("out.jsonl/_lock"), DataError("")), pytest.raises(DataError, match="another run is writing"):
        caption_parts([photos], "out.jsonl", bundle, GREEDY)


def test_folders_that_are_no_job_are_left_alone(photos: Path, bundle: Bundle) -> None:
    other = Path("other.parquet")
    other.mkdir()
    (other / "mine.parquet").touch()
    with pytest.raises(ConfigError, match=r"other.parquet holds files that are of no job of `showtell batch`"):
        caption_parts([photos], "other.parquet", bundle, GREEDY)
    Path("file.jsonl").touch()
    with pytest.raises(ConfigError, match=r"file.jsonl is a file, and the parts need a folder"):
        caption_parts([photos], "file.jsonl", bundle, GREEDY)
    with pytest.raises(ConfigError, match=r"it is a folder whose name ends in .parquet or .jsonl"):
        caption_parts([photos], "captions.csv", bundle, GREEDY)
    with pytest.raises(ConfigError, match="leave --sidecar out"):
        caption_parts([photos], "out.jsonl", bundle, GREEDY, settings=BatchOptions(sidecar="txt"))
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"there are no pictures in empty|no pictures in what was given"):
        caption_parts(["empty"], "out.jsonl", bundle, GREEDY)
    assert not Path("out.jsonl/_job.json").exists()


def pack(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_shards_listings_and_urls_are_read(photos: Path, bundle: Bundle) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
    from pyarrow import parquet

    here = Path.cwd()
    cat = EXAMPLES[0].read_bytes()
    pack(Path("0.tar"), {"a/1.jpg": cat, "a/1.json": b"{}", "a/2.jpg": b"no picture", "a/3.png": cat})
    whole = Path("0.tar").read_bytes()
    Path("1.tar").write_bytes(whole[: len(whole) // 2])
    Path("list.jsonl").write_text(json.dumps({"image": f"file://{here}/photos/1.jpg"}) + "\n", "utf-8")
    parquet.write_table(pyarrow.table({"id": [1], "path": ["photos/2.jpg"]}), "list.parquet")
    given = ["?.tar", "list.jsonl", "list.parquet", f"file://{here}/photos/br*.jpg"]
    out = f"file://{here}/out.parquet"
    assert caption_parts(given, out, bundle, GREEDY).pictures == 9
    rows = list(read_table(Path("out.parquet")))
    assert [row.image.removeprefix(f"{here}/") for row in rows] == [
        f"file://{here}/photos/1.jpg",
        "photos/2.jpg",
        f"file://{here}/photos/broken.jpg",
        *(f"0.tar!a/{name}" for name in ("1.jpg", "2.jpg", "3.png")),
        "1.tar!a/1.jpg",
        "1.tar!a/2.jpg",
        "1.tar",
    ]
    failed = [row.error for row in rows if isinstance(row, Failure)]
    assert len(failed) == 4
    assert "0.tar!a/2.jpg cannot be read as a picture" in failed[1]
    assert "1.tar cannot be read as a tar" in failed[3]
    alike = [row.text for row in rows if isinstance(row, Caption) and row.image.endswith(("a/1.jpg", "3.png"))]
    assert len(alike) == 3
    assert len(set(alike)) == 1


def test_a_member_of_a_shard_may_be_too_large(tmp_path: Path) -> None:
    pack(tmp_path / "0.tar", {"a.jpg": b"x" * 50, "b.jpg": b"x" * 5})
    large, small = read_shard(str(tmp_path / "0.tar"), ImageLimits(max_bytes=10))
    assert "has 50 bytes; at most 10 are accepted" in str(large[1])
    assert small[1] == b"xxxxx"


@pytest.mark.parametrize(
    ("given", "trouble"),
    [
        ("no/*.tar", "there is no no/\\*.tar; give tar files"),
        ("empty.jsonl", "row 1, names no picture; it needs a column image, path"),
        ("broken.parquet", "broken.parquet cannot be read as a listing"),
        ("nothing://x/y", "nothing://x/y cannot be opened"),
        ("file:///nowhere/", "there are no pictures and no tar files in|cannot be listed"),
    ],
)
def test_what_cannot_be_listed_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, trouble: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text('{"name": "a.jpg"}\n', "utf-8")
    Path("broken.parquet").write_text("x", "utf-8")
    with pytest.raises(DataError, match=trouble):
        list(list_given([given]))


def test_the_commands_read_parts(photos: Path, bundle: Bundle, run: Run) -> None:
    caption_parts([str(path) for path in sorted(photos.glob("[0-4].jpg"))], "out.parquet", bundle, GREEDY)
    again = run("batch", "photos/[0-4].jpg", "--out", "out.parquet", "--beam", "1", "--json")
    assert (again.code, again.rows[0]["unchanged"]) == (0, 5)
    other = run("batch", "photos", "--out", "out.parquet", "--beam", "1")
    assert other.code == 2
    assert "holds a job over other pictures" in other.err
    assert run("report", "out.parquet", "--out", "page.html").code == 0
    assert "photos/0.jpg" in Path("page.html").read_text("utf-8")
    images = [row.image for row in read_table(Path("out.parquet"))]
    Path("refs.json").write_text(json.dumps({image: ["a cat"] for image in images}), "utf-8")
    assert run("score", "out.parquet", "refs.json", "--resamples", "0").code == 0
    Path("out.parquet/part-00000.parquet").unlink()
    assert "is unfinished: 2 of 3 parts" in run("score", "out.parquet", "refs.json").err
