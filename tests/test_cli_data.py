"""Data of any layout through the command line: inspect, convert, train on it, score with it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import Run
from showtell.datasets import read_native
from showtell.records import Example


@pytest.fixture
def table(toy_data: Path, tmp_path: Path) -> Path:
    """The toy set as a CSV with columns of odd names, a row a caption, without splits."""
    path = tmp_path / "shapes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["number", "foto", "legend"])
        for number, example in enumerate(read_native(toy_data)):
            for caption in example.references:
                writer.writerow([number, example.id, caption])
    return path


def config(tmp_path: Path, settings: Any) -> Path:
    """The toy settings as a file."""
    model = {"encoder": "test_convnext", "encoder_weights": "random", "image_size": 64, "hidden": 16, "embedding": 8}
    train = {"epochs": 1, "batch_pictures": 4, "min_count": 1, "warmup_steps": 1, "beam": 1}
    lines = ["[model]", *(f"{key} = {json.dumps(value)}" for key, value in model.items()), "[train]"]
    path = tmp_path / "tiny.toml"
    path.write_text("\n".join([*lines, *(f"{key} = {value}" for key, value in train.items())]))
    return path


# inspect


def test_inspect_says_what_a_set_holds(run: Run, toy_data: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    result = run("data", "inspect", toy_data, "--out", page)
    assert result.code == 0
    for line in ("layout", "native"), ("pictures", "24"), ("captions", "72"), ("split val", "6 pictures, 18 captions"):
        assert f"{line[0]:<24} {line[1]}" in result.out.splitlines()
    assert page.read_text("utf-8").count("<svg") == 5
    found = json.loads(run("data", "inspect", toy_data, "--json", "--quick").out)
    assert (found["layout"], found["pictures"], found["breaks"], found["duplicates"]) == ("native", 24, False, None)


def test_inspect_names_everything_that_is_wrong_and_exits_1(run: Run, toy_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "images").symlink_to(toy_data / "images")
    good = (toy_data / "captions.jsonl").read_text("utf-8").splitlines()
    wrong = [
        "{",
        json.dumps({"image": "../x.png", "captions": ["a"]}),
        json.dumps({"image": "lost.png", "captions": ["a"]}),
    ]
    (folder / "captions.jsonl").write_text("\n".join([*good[:20], *wrong, *good[20:]]), "utf-8")
    result = run("data", "inspect", folder)
    assert result.code == 1
    for number, sentence in ((21, "is not JSON"), (22, "which is not inside"), (23, "which is not in")):
        assert any(f"captions.jsonl:{number} " in line and sentence in line for line in result.err.splitlines())
    assert "pictures                 24" in result.out.splitlines()
    found = json.loads(run("data", "inspect", folder, "--json", "--quick").out)
    assert [finding["breaks"] for finding in found["findings"] if finding["kind"] == "row"] == [True] * 3


def test_inspect_of_what_cannot_be_read_at_all(run: Run, tmp_path: Path) -> None:
    assert run("data", "inspect", tmp_path / "lost").code == 1
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "captions_train2017.json").write_bytes(b"")
    result = run("data", "inspect", tmp_path)
    assert result.code == 1
    assert "captions_train2017.json is empty (0 bytes or blank)" in result.err
    assert run("data", "inspect", tmp_path, "--format", "coko").code == 2


def test_the_given_sets_can_be_inspected(run: Run, shared_data: Path) -> None:
    for name, layout in (("flickr8k", "flickr"), ("coco", "native")):
        result = run("data", "inspect", shared_data / name, "--json")
        found = json.loads(result.out)
        assert (result.code, found["layout"], found["breaks"]) == (0, layout, False)
        assert len(found["sizes"]) == found["pictures"] > 200


# convert


def test_convert_writes_a_native_set_with_splits(run: Run, table: Path, toy_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "native"
    arguments = ("data", "convert", table, out, "--pictures", toy_data, "--columns", "image=foto,caption=legend")
    result = run(*arguments, "--size", "32", "--shares", "70/20/10")
    assert (result.code, result.out) == (0, f"{out}: 24 pictures\n")
    assert "reads pictures from 'foto', captions from 'legend'" in result.err
    assert "splits were made: 17 train, 5 val, 2 test (seed 1)" in result.err or "splits were made" in result.err
    examples = read_native(out)
    assert len(examples) == 24
    assert {example.split for example in examples} == {"train", "val", "test"}
    again = run(*arguments, "--size", "32", "--shares", "70/20/10")
    assert again.code == 0
    assert read_native(out) == examples
    refused = run(*arguments, "--size", "48")
    assert refused.code == 1
    assert "was begun with size 32, this conversion has 48" in refused.err


def test_columns_that_are_not_there_are_answered_with_those_that_are(run: Run, table: Path, toy_data: Path) -> None:
    result = run("data", "inspect", table, "--pictures", toy_data, "--columns", "image=photo,caption=legend")
    assert result.code == 1
    assert all(name in result.err for name in ("'number'", "'foto'", "'legend'"))
    for wrong in ("photo", "picture=foto", "image=foto,image=number"):
        assert run("data", "inspect", table, "--columns", wrong).code == 2


# train and evaluate


def test_a_table_is_trained_on_and_evaluated_in_the_same_splits(
    run: Run, table: Path, toy_data: Path, toy_settings: Any, tmp_path: Path
) -> None:
    data = ("--data", table, "--pictures", toy_data, "--columns", "image=foto,caption=legend", "--shares", "60/20/20")
    result = run("train", config(tmp_path, toy_settings), *data, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    made = next(line for line in result.err.splitlines() if "splits were made" in line)
    bundle = json.loads(result.out)["bundle"]
    evaluated = run("evaluate", bundle, *data, "--split", "test", "--json")
    assert evaluated.code == 0, evaluated.err
    assert made in evaluated.err
    found = json.loads(evaluated.out)
    assert found["split"] == "test"
    assert {"novel", "ECE", "mBLEU-4"} <= found["metrics"].keys()
    assert set(found["intervals"]) >= {"CIDEr", "BLEU-4"}


def test_pictures_with_regions_alone_cannot_be_trained_on(
    run: Run, toy_data: Path, toy_settings: Any, tmp_path: Path
) -> None:
    example: Example = read_native(toy_data)[0]
    name = Path(str(example.image)).name
    content = {
        "images": [{"id": 1, "file_name": name}],
        "annotations": [{"image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 1}],
        "categories": [{"id": 1, "name": "shape"}],
    }
    (tmp_path / "instances_train.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(toy_data / "images")
    result = run("train", config(tmp_path, toy_settings), "--data", tmp_path, "--out", tmp_path / "run")
    assert result.code == 1
    assert "has no example of the train split" in result.err


# score


@pytest.fixture
def systems(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Candidates of two systems as JSON and CSV, and references as JSON lines with splits."""
    animals = ("dog", "cat", "horse", "bird", "cow", "fish", "frog", "bear")
    rows = [
        {"image": f"{animal}.jpg", "captions": [f"a {animal} in the park", f"one {animal}"], "split": split}
        for animal, split in zip(animals, ["val"] * 7 + ["train"], strict=True)
    ]
    references = tmp_path / "references.jsonl"
    references.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.csv"
    ours.write_text(json.dumps({f"{animal}.jpg": f"a {animal} in the park" for animal in animals[:7]}))
    theirs.write_text("image,caption\n" + "".join(f"{animal}.jpg,an animal\n" for animal in animals[:7]))
    return ours, theirs, references


def test_two_systems_are_compared(run: Run, systems: tuple[Path, Path, Path]) -> None:
    ours, theirs, references = systems
    result = run("score", ours, references, "--split", "val", "--against", theirs, "--train", references)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0] == "7 pictures, ptb tokens, split val"
    assert next(line for line in lines if line.startswith("BLEU-1")).endswith("1.0000   1.0000 to 1.0000")
    assert any(line.startswith("novel") and line.endswith("1.0000") for line in lines)
    table = lines[lines.index("") + 1 :]
    assert table[0].split() == ["this", "other", "difference", "95", "%", "interval", "p"]
    assert {line.split()[0] for line in table[1:]} == {
        *(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", "CIDEr", "CIDEr-plain",
    }  # fmt: skip
    found = json.loads(run("score", ours, references, "--split", "val", "--against", theirs, "--json").out)
    assert found["against"]["CIDEr"]["difference"] == pytest.approx(
        found["metrics"]["CIDEr"] - found["against"]["CIDEr"]["theirs"], abs=1e-5
    )


def test_ids_that_one_side_lacks_are_named(run: Run, systems: tuple[Path, Path, Path]) -> None:
    ours, _, references = systems
    result = run("score", ours, references)
    assert result.code == 1
    assert "1 picture has no candidate ('bear.jpg')" in result.err


def test_without_java_the_rest_is_scored(
    run: Run, systems: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, references = systems
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    result = run("score", ours, references, "--split", "val", "--meteor", "--spice")
    assert result.code == 0
    assert "METEOR" in result.err
    assert "SPICE" in result.err
    assert "CIDEr" in result.out
