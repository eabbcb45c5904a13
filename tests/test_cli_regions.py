"""`showtell regions`, `ground`, `index` and `search` from the outside: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from conftest import Run

CAT = str(Path(__file__).parents[1] / "examples" / "cat.jpg")


@pytest.fixture(scope="module")
def aligned(aligned_run: Path) -> Path:
    return aligned_run / "bundle"


# regions


def test_regions_are_lines_of_box_score_and_caption(run: Run, tmp_path: Path) -> None:
    said = run("regions", CAT, "--top", "3", "--out", tmp_path / "drawn.png")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert len(lines) == 3
    for line in lines:
        box, score, text = line.split(" ", 2)
        x0, y0, x1, y1 = map(int, box.split(","))
        assert 0 <= x0 < x1 <= 451
        assert 0 <= y0 < y1 <= 300
        assert 0 < float(score) <= 1
        assert text
    with Image.open(tmp_path / "drawn.png") as drawn, Image.open(CAT) as plain:
        assert drawn.convert("RGB").tobytes() != plain.convert("RGB").resize(drawn.size).tobytes()
    row = json.loads(run("regions", CAT, "--top", "3", "--json").out.splitlines()[0])
    assert f"{row['score']:.3f}" == lines[0].split()[1]


def test_own_boxes_are_described_and_bad_ones_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text("[[0, 0, 200, 300], [400, 250, 900, 900], [9, 9, 2, 12], [1, null, 3, 4]]")
    said = run("regions", CAT, "--boxes", tmp_path / "boxes.json", "--boxes", "900,900,950,950")
    assert said.code == 1
    assert [line.split()[0] for line in said.out.splitlines()] == ["0,0,200,300", "400,250,451,300"]
    reasons = ("reaches out of", "is turned inside out", "no number", "lies outside of")
    for line, reason in zip(said.err.splitlines(), reasons, strict=True):
        assert reason in line
    none = run("regions", CAT, "--boxes", "900,900,950,950")
    assert none.code == 1
    assert "none of the boxes lies in" in none.err


def test_a_hundred_thousand_boxes_are_told_of_in_a_few_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps([[5, 5, 1, 1]] * 99_999 + [[0, 0, 300, 300]]))
    said = run("regions", CAT, "--boxes", tmp_path / "boxes.json")
    assert said.code == 1
    assert len(said.out.splitlines()) == 1
    assert len(said.err.splitlines()) == 11
    assert "99,989 more boxes" in said.err


@pytest.mark.parametrize("size", [(1, 1), (2000, 100), (100, 2000)])
def test_pictures_of_any_shape_have_regions(run: Run, size: tuple[int, int], tmp_path: Path) -> None:
    Image.new("RGB", size, (30, 120, 200)).save(tmp_path / "odd.png")
    said = run("regions", tmp_path / "odd.png", "--top", "2")
    assert said.code == 0
    assert said.out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nothere.jpg"], 1, "nothere.jpg does not exist; check the path"),
        ([CAT, "--propose", "guess"], 2, "accepted are windows, selective, or a detector's .onnx file"),
        ([CAT, "--propose", "detector.onnx"], 2, "with --labels FILE"),
        ([CAT, "--boxes", "1,2,3"], 1, "has 3 numbers; a box is x0,y0,x1,y1"),
        ([CAT, "--top", "1", "--out", "nowhere/drawn.png"], 1, "cannot write nowhere/drawn.png"),
        ([CAT, "--model", "nothere"], 2, "nothere"),
    ],
)
def test_mistakes_are_one_sentence(run: Run, arguments: list[str], code: int, sentence: str) -> None:
    said = run("regions", *arguments)
    assert said.code == code
    assert sentence in said.err
    assert len(said.err.splitlines()) == 1


# ground


def test_words_are_grounded_by_attention_and_by_alignment(
    run: Run, toy_run: Path, aligned: Path, toy_data: Path, tmp_path: Path
) -> None:
    picture = toy_data / "images" / "red_circle.png"
    for model in (toy_run / "bundle", aligned):
        drawn, maps = tmp_path / "drawn.png", tmp_path / "maps.png"
        said = run(
            "ground", picture, "a red circle on grey paper", "--model", model, "--out", drawn, "--maps", maps, "--json"
        )
        assert (said.code, said.err) == (0, "")
        rows = [json.loads(line) for line in said.out.splitlines()]
        assert " ".join(row["words"] for row in rows) == "a red circle on grey paper"
        for path in (drawn, maps):
            with Image.open(path) as opened:
                assert opened.width >= 64
            path.unlink()
        own = run("ground", picture, "--model", model)
        assert own.code == 0
        assert own.out


def test_what_cannot_be_grounded_is_one_sentence(run: Run, aligned: Path) -> None:
    unknown = run("ground", CAT, "zebra piano", "--model", aligned)
    assert (unknown.code, unknown.out) == (1, "")
    assert "knows none of the words 'zebra', 'piano'" in unknown.err
    captioner = run("ground", CAT, "zyzzyva")
    assert captioner.code == 1
    assert "'default' knows none of the words of 'zyzzyva'" in captioner.err


# index and search


def test_a_folder_is_indexed_and_searched(run: Run, aligned: Path, toy_data: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "pictures", tmp_path / "index"
    shutil.copytree(toy_data / "images", folder)
    (folder / "broken.png").write_bytes(b"no picture")
    first = run("index", folder, "--out", index, "--model", aligned)
    assert "24 pictures (24 encoded, 0 unchanged, 1 unreadable)" in first.out
    assert "broken.png cannot be read as a picture" in first.err
    again = run("index", folder, "--out", index)
    assert "(0 encoded, 24 unchanged, 1 unreadable)" in again.out
    (folder / "red_circle.png").rename(folder / "moved.png")
    (folder / "blue_square.png").unlink()
    third = run("index", folder, "--out", index)
    assert "23 pictures (0 encoded, 22 unchanged, 1 moved or copied, 1 removed" in third.out
    page = tmp_path / "found.html"
    found = run("search", index, "a red circle on grey paper", "--top", "5", "--page", page)
    assert found.code == 0
    scores = [float(line.split(" ", 1)[0]) for line in found.out.splitlines()]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert "a red circle on grey paper" in page.read_text("utf-8")
    like = run("search", index, "--like", folder / "moved.png", "--top", "1")
    score, path = like.out.rstrip().split(" ", 1)
    assert float(score) == pytest.approx(1, abs=1e-3)
    assert path.endswith("moved.png")


def test_an_index_and_a_query_that_do_not_fit_are_one_sentence(
    run: Run, aligned: Path, toy_data: Path, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    assert run("index", toy_data / "images", "--out", index, "--model", aligned).code == 0
    about = json.loads((index / "index.json").read_text("utf-8"))
    (index / "index.json").write_text(json.dumps({**about, "model": "0" * 32}), "utf-8")
    other = run("index", toy_data / "images", "--out", index, "--model", aligned)
    assert other.code == 2
    assert "was made with another model" in other.err
    assert "showtell index FOLDER --out NEW" in run("search", index, "a red circle").err
    (index / "index.json").write_text(json.dumps(about), "utf-8")
    unknown = run("search", index, "zebra piano")
    assert unknown.code == 1
    assert "knows none of the words" in unknown.err
    missing = run("search", tmp_path / "none", "a circle")
    assert missing.code == 1
    assert "there is no index in" in missing.err
