"""The command line through its real door: exit codes, what goes to stdout, and sentences instead of tracebacks."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import wave
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from conftest import Result, Run
from showtell.bundle import list_embedded, read_bundle
from showtell.cli.commands import app

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").glob("*.jpg"))
COMMANDS = ("caption", "train", "features", "tune", "evaluate", "report", "score", "export", "encoders")
COMMANDS += ("models", "calibrate", "regions", "ground", "index", "search", "batch", "alt", "serve")


def showtell(*arguments: str | os.PathLike[str], **environment: str) -> Result:
    """The command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "showtell", *map(os.fspath, arguments)],
        capture_output=True,
        env={**os.environ, **environment},
        timeout=300,
    )
    result = Result(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in result.err, result.err
    return result


@pytest.fixture(scope="session")
def bundle_dir(toy_run: Path) -> Path:
    return toy_run / "bundle"


@pytest.fixture(scope="session")
def pictures(toy_data: Path) -> list[Path]:
    return sorted((toy_data / "images").iterdir())


@pytest.fixture(scope="session")
def mixture(pictures: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Good and bad pictures, each with the text that its error contains ("" for a good one)."""
    folder = tmp_path_factory.mktemp("mixture")
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 90).save(buffer, "JPEG")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("This is no picture.\n" * 20)
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    Image.new("1", (40, 40)).save(folder / "bomb.png")
    data = bytearray((folder / "bomb.png").read_bytes())
    data[16:24] = struct.pack(">II", 40_000, 40_000)  # width and height: 1.6 gigapixels
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (folder / "bomb.png").write_bytes(data)
    return {
        pictures[0]: "",
        folder / "missing.jpg": "does not exist",
        folder / "empty.jpg": "empty",
        folder / "text.jpg": "cannot be read as a picture",
        pictures[1]: "",
        folder / "truncated.jpg": "truncated",
        folder / "bomb.png": "pixels",
        folder: "is a folder, not a picture",
        pictures[2]: "",
    }


# caption


def test_caption_prints_a_line_a_picture(bundle_dir: Path, pictures: list[Path]) -> None:
    result = showtell("caption", *pictures[:3], "--model", bundle_dir)
    assert (result.code, result.err) == (0, "")
    assert len(result.lines) == 3
    for picture, line in zip(pictures, result.lines, strict=False):
        path, _, caption = line.partition(": ")
        assert path == str(picture)
        assert re.fullmatch(r"[a-z]+( [a-z]+)*", caption)


def test_caption_as_json_is_an_object_a_picture(run: Run, bundle_dir: Path, pictures: list[Path]) -> None:
    plain = run("caption", *pictures, "-m", bundle_dir)
    result = run("caption", *pictures, "-m", bundle_dir, "--json", "--batch", "5")
    assert (result.code, result.err) == (0, "")
    assert [f"{row['image']}: {row['caption']}" for row in result.rows] == plain.lines
    for row in result.rows:
        assert row["logprob"] < 0
        assert [entry["word"] for entry in row["words"]] == row["caption"].split()


@pytest.mark.parametrize("beam", [(), ("--beam", "5")])
def test_top_gives_the_best_captions_first(
    run: Run, bundle_dir: Path, pictures: list[Path], beam: tuple[str, ...]
) -> None:
    result = run("caption", *pictures[:2], "-m", bundle_dir, "--top", "3", *beam)
    assert result.code == 0
    assert [line.partition(": ")[0] for line in result.lines] == [str(path) for path in pictures[:2] for _ in range(3)]
    assert len(set(result.lines)) == 6
    as_json = run("caption", *pictures[:2], "-m", bundle_dir, "--top", "3", *beam, "--json")
    said = [[row["caption"], *(other["caption"] for other in row["alternatives"])] for row in as_json.rows]
    assert [f"{path}: {text}" for path, texts in zip(pictures, said, strict=False) for text in texts] == result.lines


def test_every_picture_of_a_mixture_has_its_result_in_order(bundle_dir: Path, mixture: dict[Path, str]) -> None:
    result = showtell("caption", *mixture, "-m", bundle_dir, "--json", "--batch", "2")
    assert result.code == 1
    assert [row["image"] for row in result.rows] == [str(path) for path in mixture]
    for row, trouble in zip(result.rows, mixture.values(), strict=True):
        assert ("caption" in row, "error" in row) == (not trouble, bool(trouble))
        if trouble:
            assert trouble in row["error"], row["error"]
            assert row["image"] in row["error"]
            assert f"showtell: {row['error']}\n" in result.err


def test_failed_pictures_leave_no_line_on_stdout(run: Run, bundle_dir: Path, mixture: dict[Path, str]) -> None:
    result = run("caption", *mixture, "-m", bundle_dir)
    good = [str(path) for path, trouble in mixture.items() if not trouble]
    assert (result.code, [line.partition(": ")[0] for line in result.lines]) == (1, good)
    bad = [path for path, trouble in mixture.items() if trouble]
    assert len(result.err.splitlines()) == len(bad)
    nothing = run("caption", *bad, "-m", bundle_dir)
    assert (nothing.code, nothing.out) == (1, "")


def test_a_file_name_need_not_be_text(bundle_dir: Path, pictures: list[Path], tmp_path: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png"))
    try:
        shutil.copy(pictures[0], odd)
    except OSError:
        pytest.skip("this file system takes only text")
    result = showtell("caption", odd, odd.with_name("gone.jpg"), "-m", bundle_dir, "--json")
    assert result.code == 1
    assert [row["image"] for row in result.rows] == [str(odd), str(odd.with_name("gone.jpg"))]
    assert showtell("caption", odd, "-m", bundle_dir).out.startswith(f"{tmp_path}/\\udcff.png: ")


def test_a_reader_that_leaves_is_no_news(bundle_dir: Path, pictures: list[Path]) -> None:
    command = [sys.executable, "-m", "showtell", "caption", "-m", str(bundle_dir), "--batch", "1", *map(str, pictures)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(str(pictures[0]))
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_below_stdout_is_one_sentence(bundle_dir: Path, pictures: list[Path]) -> None:
    command = [sys.executable, "-m", "showtell", "caption", "-m", str(bundle_dir), str(pictures[0])]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"showtell: cannot write: No space left on device; .*\n", done.stderr)


def test_an_interrupted_caption_is_quiet(bundle_dir: Path, pictures: list[Path]) -> None:
    # More lines than a pipe holds: nobody reads on, so it cannot be done before the signal comes.
    command = [
        sys.executable,
        "-m",
        "showtell",
        "caption",
        "-m",
        str(bundle_dir),
        "--top",
        "3",
        *map(str, pictures * 500),
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs espeak-ng")
def test_captions_are_spoken_into_a_file(run: Run, tmp_path: Path) -> None:
    one, both = tmp_path / "one.wav", tmp_path / "both.wav"
    assert run("caption", EXAMPLES[0], "--wav", one).code == 0
    said = run("caption", *EXAMPLES[:2], tmp_path / "nothere.jpg", "--wav", both)
    assert said.code == 1
    assert len(said.lines) == 2
    with wave.open(str(one)) as short, wave.open(str(both)) as long:
        assert 0.5 * short.getframerate() < short.getnframes() < long.getnframes()
    wrong = run("caption", EXAMPLES[0], "--wav", tmp_path / "x.wav", "--language", "en; rm")
    assert wrong.code == 2
    assert len(wrong.err.splitlines()) == 1


# usage, help, models


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "Usage: "),
        (("describe", "a.jpg"), "No such command 'describe'"),
        (("caption",), "Missing argument 'PICTURE...'"),
        (("caption", "a.jpg", "--beams", "3"), "--beams"),
        (("caption", "a.jpg", "--batch", "0"), "Invalid value for '--batch'"),
        (("caption", "a.jpg", "--beam", "two"), "Invalid value for '--beam'"),
        (("train", "rsicd", "--out", "x"), "Missing option '--data'"),
        (("train", "rsicd", "--data", "x", "--out", "y", "--epochs", "0"), "Invalid value for '--epochs'"),
        (("score", "a.json"), "Missing argument 'REFERENCES'"),
    ],
)
def test_a_command_that_is_not_accepted(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert result.code == 2
    assert sentence in (result.err or result.out)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--beam", "0"), "search option beam is 0; it takes a whole number from 1 up"),
        (("--top", "0"), "search option top is 0; it takes a whole number from 1 to "),
        (("--beam", "2", "--top", "3"), "search option top is 3; it takes a whole number from 1 to 2"),
    ],
)
def test_a_search_out_of_range(run: Run, bundle_dir: Path, flags: tuple[str, ...], sentence: str) -> None:
    result = run("caption", EXAMPLES[0], "-m", bundle_dir, *flags)
    assert (result.code, result.out) == (2, "")
    assert sentence in result.err


def test_no_command_is_without_help() -> None:
    assert {command.callback.__name__ for command in app.registered_commands if command.callback} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Example: showtell {command} " in result.out
    assert command == "serve" or "--json" in result.out


def test_help_and_version_of_the_whole(run: Run) -> None:
    assert run("--help").code == 0
    assert all(f"\n  {command} " in run("--help").out for command in COMMANDS)
    assert re.fullmatch(r"showtell \d+\.\d+\.\d+\n", run("--version").out)


def _flip(bundle: Path) -> None:
    data = bytearray((bundle / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (bundle / "weights.safetensors").write_bytes(data)


def _age(bundle: Path) -> None:
    manifest = json.loads((bundle / "bundle.json").read_text())
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"format": 99}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_flip, "weights.safetensors in {} is not what was written there"),
        (_age, "{} is a bundle of format 99, this showtell reads up to format"),
        (lambda bundle: (bundle / "step.onnx").unlink(), "{} has no step.onnx"),
        (lambda bundle: (bundle / "bundle.json").write_text("{"), "bundle.json in {} is damaged"),
    ],
)
def test_a_damaged_model(
    run: Run, bundle_dir: Path, tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "copy"))
    damage(copy)
    result = run("caption", EXAMPLES[0], "--model", copy)
    assert (result.code, result.out) == (2, "")
    assert sentence.format(copy) in result.err


def test_an_unknown_model(run: Run, tmp_path: Path) -> None:
    assert run("caption", EXAMPLES[0], "--model", "defualt").code == 2
    assert "there is no model 'defualt'; accepted are a bundle's directory, its zip file" in (
        run("evaluate", "defualt", "--data", tmp_path.parent / "nowhere").err
        + run("caption", "a.jpg", "--model", "defualt").err
    )
    (tmp_path / "notes.zip").write_text("no zip")
    assert "notes.zip is not a bundle" in run("caption", "a.jpg", "--model", tmp_path / "notes.zip").err
    assert f"{tmp_path} has no bundle.json" in run("caption", "a.jpg", "--model", tmp_path).err


# train


TINY = """\
[model]
encoder = "test_resnet"
encoder_weights = "random"
image_size = 64
conditioning = "init"
embedding = 16
hidden = 32

[train]
epochs = 20
batch_pictures = 6
learning_rate = 0.01
warmup_steps = 3
min_count = 1
patience = 99
beam = 2
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.mark.parametrize(
    ("edit", "code", "sentence"),
    [
        (
            lambda listing: listing.unlink(),
            1,
            "{} is of no layout that is known; accepted are native (captions.jsonl and the pict",
        ),
        (lambda listing: _append(listing, "a cat"), 1, "{}/captions.jsonl:25 is not JSON"),
        (lambda listing: _append(listing, _row("images/lost.png")), 1, "captions.jsonl:25 names 'images/lost.png', wh"),
        (lambda listing: _append(listing, _row("new.png", " ")), 1, "captions.jsonl:25 has an empty caption (number 1"),
        (
            lambda listing: _append(listing, _row("images/red_square.png", split="test")),
            1,
            "captions.jsonl:25 lists 'images/red_square.png' in test, and earlier in val; a picture has one line and o",
        ),
        (
            lambda listing: listing.write_text(listing.read_text().replace('"val"', '"train"')),
            1,
            "the data has no example of the val split",
        ),
    ],
)
def test_data_that_cannot_be_trained_on(
    run: Run,
    toy_data: Path,
    tmp_path: Path,
    tiny: Path,
    edit: Callable[[Path], None],
    code: int,
    sentence: str,
) -> None:
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    edit(data / "captions.jsonl")
    result = run("train", tiny, "--data", data, "--out", tmp_path / "run")
    assert (result.code, result.out) == (code, "")
    assert sentence.format(data) in result.err
    assert len(result.err.splitlines()) == 1


def _append(listing: Path, line: str) -> None:
    listing.write_text(listing.read_text() + line + "\n")


def _row(image: str, caption: str = "a cat", split: str = "train") -> str:
    return json.dumps({"image": image, "captions": [caption], "split": split})


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("epochs = 20", "epoch = 20", "unknown key 'epoch' in {}:10; did you mean 'epochs'? [train] accepts seed, dev"),
        ("[train]", "[trian]", "unknown key 'trian' in {}:9; did you mean 'train'?"),
        ("epochs = 20", "epochs = 0", "epochs = 0 in {}:10 is not accepted"),
        ('"init"', '"middle"', "conditioning = 'middle' in {}:5 is not accepted"),
        ("epochs = 20", "epochs = ", "{} is not TOML: "),
        ("test_resnet", "test_resnot", "unknown encoder 'test_resnot'; did you mean 'test_resnet'? ('showtell encode"),
        ('"random"', '"lost.safetensors"', "encoder weights 'lost.safetensors' are not a file"),
    ],
)
def test_a_configuration_that_is_not_accepted(
    run: Run, toy_data: Path, tmp_path: Path, tiny: Path, old: str, new: str, sentence: str
) -> None:
    tiny.write_text(TINY.replace(old, new))
    result = run("train", tiny, "--data", toy_data, "--out", tmp_path / "run")
    assert (result.code, result.out) == (2, "")
    assert sentence.format(tiny) in result.err


def test_other_things_that_a_training_refuses(
    run: Run, toy_data: Path, toy_run: Path, tmp_path: Path, tiny: Path
) -> None:
    def refused(*arguments: str | Path, out: Path = tmp_path / "run") -> str:
        result = run("train", *arguments, "--out", out)
        assert (result.code, result.out) == (2, "")
        return result.err

    assert "there is no recipe 'rscid'; accepted are the path of a .toml file or one of: " in refused(
        "rscid", "--data", toy_data
    )
    assert "cannot read the configuration" in refused(tmp_path / "lost.toml", "--data", toy_data)
    assert f"{toy_run} already holds a run; go on with it with --resume" in refused(
        tiny, "--data", toy_data, out=toy_run
    )
    assert "captions without pictures (--text) need conditioning 'concepts'" in refused(
        tiny, "--data", toy_data, "--text", toy_data
    )
    assert f"cannot write {tiny}: File exists" in refused(tiny, "--data", toy_data, out=tiny)
    twice = run("train", tiny, "--data", toy_data, "--data", toy_data, "--out", tmp_path / "run")
    assert (twice.code, "have the id 'images/red_square.png'; ids must differ" in twice.err) == (1, True)


def test_a_stopped_training_goes_on(toy_data: Path, tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "run"
    command = ["train", str(tiny), "--data", str(toy_data), "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "showtell", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 240
        while not (out / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=240)
    assert (process.returncode, stdout) == (130, "")
    assert f"showtell: stopped; go on with the same command and --resume (run in {out})" in stderr
    assert "Traceback" not in stderr
    assert not (out / "bundle").exists()
    assert 1 <= len((out / "metrics.csv").read_text().splitlines()) - 1 < 20
    assert showtell(*command).code == 2  # never over a run that is there

    resumed = showtell(*command, "--resume")
    assert resumed.code == 0
    assert re.fullmatch(rf"{out}/bundle: CIDEr \d+\.\d+, BLEU-4 \d+\.\d+ on val\n", resumed.out)
    epochs = [line.split(",")[0] for line in (out / "metrics.csv").read_text().splitlines()[1:]]
    assert epochs == [str(number) for number in range(1, 21)]
    assert (out / "curves.png").stat().st_size > 0
    card = (out / "bundle" / "README.md").read_text("utf-8")
    assert f"$ showtell train {tiny.name} --data {toy_data.name} --out RUN\n" in card


# score, evaluate, export, encoders


def test_score_of_small_files(tmp_path: Path) -> None:
    references = {"1": ["a dog runs on grass", "the dog is running"], "2": ["two red buses", "a bus and a bus"]}
    (tmp_path / "references.json").write_text(json.dumps(references))
    said = {"1": "a dog runs on grass", "2": "two red buses"}
    (tmp_path / "said.json").write_text(json.dumps(said))
    result = showtell("score", tmp_path / "said.json", tmp_path / "references.json", "--json")
    assert (result.code, result.err) == (0, "")
    (found,) = result.rows
    assert found["n"] == 2
    assert found["metrics"]["BLEU-3"] == pytest.approx(1.0)
    assert found["metrics"]["distinct"] == 1.0
    plain = showtell("score", tmp_path / "said.json", tmp_path / "references.json")
    assert plain.lines[0].startswith("2 pictures, ptb tokens")
    assert any(line.startswith(f"CIDEr           {found['metrics']['CIDEr']:8.4f}   ") for line in plain.lines)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        ('{"1": "a dog"}', "1 picture has no candidate ('2')"),
        ('{"1": "a dog", "2": "a bus", "3": "?"}', "1 picture has no references ('3')"),
        ('{"1": ["a dog", "a cat"], "2": "a bus"}', "more than one caption"),
        ('{"image": "1", "error": "broken"}', "1 picture has an error instead of a caption ('1' at "),
        ("{", "is not JSON"),
        ("", "is empty"),
    ],
)
def test_a_score_that_cannot_be(run: Run, tmp_path: Path, said: str, sentence: str) -> None:
    (tmp_path / "references.json").write_text('{"1": ["a dog"], "2": ["a bus"]}')
    (tmp_path / "said.json").write_text(said)
    result = run("score", tmp_path / "said.json", tmp_path / "references.json")
    assert (result.code, result.out) == (1, "")
    assert sentence in result.err
    assert "cannot read" in run("score", tmp_path / "lost.json", tmp_path / "references.json").err


def test_evaluate_agrees_with_the_card_and_with_score(
    run: Run, bundle_dir: Path, toy_data: Path, tmp_path: Path
) -> None:
    result = run("evaluate", bundle_dir, "--data", toy_data, "--json", "--out", tmp_path / "said.jsonl")
    assert result.code == 0
    manifest = json.loads((bundle_dir / "bundle.json").read_text())
    (found,) = result.rows
    expected = manifest["scores"]
    assert {key: found[key] for key in ("n", "tokeniser", "split", "beam")} == {
        key: expected[key] for key in ("n", "tokeniser", "split", "beam")
    }
    assert found["metrics"] == {**expected["metrics"], "novel": found["metrics"]["novel"]}
    assert all(low <= found["metrics"][name] <= high for name, (low, high) in found["intervals"].items())
    lines = (toy_data / "captions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "references.jsonl").write_text("".join(line for line in lines if '"val"' in line))
    scored = run("score", tmp_path / "said.jsonl", tmp_path / "references.jsonl", "--json")
    assert {**scored.rows[0]["metrics"], "ECE": expected["metrics"]["ECE"]} == expected["metrics"]
    plain = run("evaluate", bundle_dir, "--data", toy_data, "--beam", "1")
    assert plain.lines[0] == "6 pictures, ptb tokens, split val, beam 1, all words"


def test_evaluate_counts_what_it_cannot_read(run: Run, bundle_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    (data / "images" / "red_square.png").write_bytes(b"")
    result = run("evaluate", bundle_dir, "--data", data, "--json")
    assert (result.code, result.rows[0]["n"]) == (1, 5)
    assert re.search(r"showtell: not scored: .*red_square\.png", result.err)


def test_an_evaluation_that_cannot_be(run: Run, bundle_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    result = run("evaluate", bundle_dir, "--data", toy_data, "--split", "validation")
    assert (result.code, result.out) == (1, "")
    assert "the data has no picture in the split 'validation'; it has train, val" in result.err
    lost = showtell("evaluate", bundle_dir, "--data", toy_data, "--out", tmp_path / "no" / "said.jsonl")
    assert lost.code == 2
    assert f"cannot write {tmp_path}/no/said.jsonl: No such file or directory" in lost.err


def test_an_exported_zip_captions(run: Run, toy_run: Path, tmp_path: Path, pictures: list[Path]) -> None:
    finished = Path(shutil.copytree(toy_run, tmp_path / "run"))
    result = run("export", finished, "--out", tmp_path / "toy.zip")
    assert (result.code, result.lines) == (0, [str(tmp_path / "toy.zip")])
    shutil.move(tmp_path / "toy.zip", tmp_path / "alone.zip")
    shutil.rmtree(finished)
    zipped = showtell("caption", *pictures, "-m", tmp_path / "alone.zip")
    assert zipped == showtell("caption", *pictures, "-m", toy_run / "bundle")
    nothing = run("export", tmp_path)
    assert (nothing.code, nothing.out) == (1, "")
    assert "no run is there, or its first epoch is not finished" in nothing.err


def test_models_lists_what_comes_along_and_shows_any_card(run: Run, bundle_dir: Path, tmp_path: Path) -> None:
    listed = run("models")
    assert (listed.code, listed.err) == (0, "")
    assert [line.partition(": ")[0] for line in listed.lines] == list_embedded()
    assert "default: Everyday photographs, English" in listed.out
    (told,) = [row for row in run("models", "--json").rows if row["model"] == "default"]
    assert told["scores"]["metrics"]["CIDEr"] > 0.58
    assert run("models", bundle_dir).out.strip() == (bundle_dir / "README.md").read_text("utf-8").strip()
    assert run("models", bundle_dir, "--json").rows[0]["model"] == read_bundle(bundle_dir).manifest.name
    nothing = run("models", tmp_path / "nothere")
    assert (nothing.code, nothing.out) == (2, "")
    assert f"or one of: {', '.join(list_embedded())}" in nothing.err


def test_encoders_lists_names(run: Run) -> None:
    result = run("encoders", "mobilenet")
    assert (result.code, result.err) == (0, "")
    assert "mobilenetv2_100" in result.lines
    assert result.lines == sorted(result.lines)
    assert all("mobilenet" in name for name in result.lines)
    assert json.loads(run("encoders", "mobilenet", "--json").out) == result.lines
    nothing = run("encoders", "mobilenit")
    assert (nothing.code, nothing.out) == (1, "")
    assert "no encoder's name contains 'mobilenit'" in nothing.err


# without the training half

EXTRA = ("torch", "torchvision", "timm", "onnx", "onnxscript", "matplotlib")
HIDE = f"""\
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in {EXTRA!r} else find_spec(name, *rest)
"""


@pytest.fixture(scope="session")
def without_extra(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH on which nothing of the extra `train` is installed."""
    folder = tmp_path_factory.mktemp("core")
    (folder / "sitecustomize.py").write_text(HIDE)
    return str(folder)


@pytest.mark.parametrize(
    "arguments", [("train", "rsicd", "--data", ".", "--out", "run"), ("export", "run"), ("encoders", "mobilenet")]
)
def test_a_missing_training_stack_is_one_sentence(without_extra: str, arguments: tuple[str, ...]) -> None:
    result = showtell(*arguments, PYTHONPATH=without_extra)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"showtell: training needs {', '.join(EXTRA)}, which are not installed; ")
    assert "pip install 'showtell[train]'" in result.err
    assert len(result.err.splitlines()) == 1


def test_the_core_captions_and_scores_without_it(
    without_extra: str, bundle_dir: Path, toy_data: Path, pictures: list[Path]
) -> None:
    with_it = showtell("caption", *pictures, "-m", bundle_dir)
    assert showtell("caption", *pictures, "-m", bundle_dir, PYTHONPATH=without_extra) == with_it
    assert showtell("evaluate", bundle_dir, "--data", toy_data, PYTHONPATH=without_extra).code == 0


# real photographs


@pytest.fixture(scope="session")
def hostile(shared_data: Path) -> list[Path]:
    return sorted(path for path in (shared_data / "hostile").rglob("*") if path.is_file())


@pytest.mark.parametrize("model", ["toy", "default"])
def test_a_hostile_file_ends_in_a_caption_or_an_error(
    model: str, hostile: list[Path], request: pytest.FixtureRequest
) -> None:
    source = request.getfixturevalue("bundle_dir") if model == "toy" else model
    result = showtell("caption", *hostile, "--model", source, "--json")
    assert result.code == 1  # there are licences among them
    assert [row["image"] for row in result.rows] == [str(path) for path in hostile]
    assert all(("caption" in row) != ("error" in row) for row in result.rows)
    assert sum("caption" in row for row in result.rows) > len(hostile) / 2


def test_files_of_all_orientations_have_captions_alike(run: Run, shared_data: Path) -> None:
    turned = sorted((shared_data / "hostile" / "exif-orientation").glob("*.jpg"))
    assert len(turned) == 9
    result = run("caption", *turned, "--top", "3", "--json")
    assert result.code == 0
    # compressed one by one, which tips some of them between two captions that are nearly as likely
    captions = [row["caption"] for row in result.rows]
    assert len(set(captions)) <= 2, result.out
    assert max(map(captions.count, captions)) >= 7, result.out
    assert len(set.intersection(*(set(caption.split()) for caption in captions))) >= 5, result.out
    best = [{row["caption"], *(other["caption"] for other in row["alternatives"])} for row in result.rows]
    assert set.intersection(*best), result.out


def test_a_turned_picture_has_the_very_caption_of_the_upright_one(run: Run, shared_data: Path, tmp_path: Path) -> None:
    upright = Image.open(shared_data / "hostile" / "exif-orientation" / "Landscape_0.jpg").convert("RGB")
    turn = Image.Transpose
    stored = {  # what a camera would have stored for each value of the tag (EXIF 2.3, table 4)
        1: upright,
        2: upright.transpose(turn.FLIP_LEFT_RIGHT),
        3: upright.transpose(turn.ROTATE_180),
        4: upright.transpose(turn.FLIP_TOP_BOTTOM),
        5: upright.transpose(turn.TRANSPOSE),
        6: upright.transpose(turn.ROTATE_90),
        7: upright.transpose(turn.TRANSVERSE),
        8: upright.transpose(turn.ROTATE_270),
    }
    for value, picture in stored.items():
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = value
        picture.save(tmp_path / f"{value}.png", exif=exif)
    result = run("caption", *sorted(tmp_path.glob("*.png")), "--json")
    assert len(result.rows) == 8
    assert len({(row["caption"], row["logprob"]) for row in result.rows}) == 1, result.out


def test_the_examples_have_captions_of_their_own(run: Run) -> None:
    assert len(EXAMPLES) >= 3
    result = run("caption", *EXAMPLES, "--json")
    assert (result.code, result.err) == (0, "")
    assert len({row["caption"] for row in result.rows}) == len(EXAMPLES), result.out


def test_the_default_model_says_different_things(run: Run, shared_data: Path) -> None:
    from showtell.datasets import read_native

    val = [str(example.image) for example in read_native(shared_data / "coco") if example.split == "val"][:60]
    result = run("caption", *val, "--json")
    assert result.code == 0
    assert len({row["caption"] for row in result.rows}) > len(val) / 2, result.out


# pages


def test_a_run_has_a_report(run: Run, toy_run: Path, tmp_path: Path) -> None:
    result = run("report", toy_run, "--out", tmp_path / "page.html", "--each", "2", "--resamples", "0")
    assert (result.code, result.lines) == (0, [str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count("data:image/jpeg;base64,") == 6
    assert "<svg" in page
    finished = Path(shutil.copytree(toy_run, tmp_path / "toy"))
    assert run("report", finished, "--resamples", "0").lines == [str(finished / "report.html")]
    nothing = run("report", tmp_path / "nowhere")
    assert nothing.code != 0
    assert "nowhere does not exist" in nothing.err
    (tmp_path / "empty").mkdir()
    assert "no run is there" in run("report", tmp_path / "empty").err


def test_a_table_of_captions_has_a_report(run: Run, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    table, pictures = tmp_path / "captions.jsonl", tmp_path / "images"
    shutil.copytree(toy_data / "images", pictures)
    (pictures / "broken.png").write_bytes(b"no picture")
    assert run("batch", pictures, "--out", table, "--model", toy_run / "bundle").code == 1
    result = run("report", table, "--model", toy_run / "bundle")
    assert (result.code, result.lines) == (0, [f"{table}.html"])
    page = Path(f"{table}.html").read_text("utf-8")
    assert page.count('"picture":"') == page.count('"maps":"') == 24
    assert "broken.png" in page
    scored = run("report", table, "--references", toy_data / "captions.jsonl", "--out", tmp_path / "p.html", "--json")
    assert scored.code == 1  # the broken one is told
    assert "broken.png" in scored.err
    assert scored.rows[0]["scores"]["n"] == 24
    assert (tmp_path / "p.html").read_text("utf-8").count('"cider":') == 24
    refused = run("report", toy_run, "--references", table)
    assert (refused.code, refused.out) == (2, "")
    assert "--references is for a FILE of captions" in refused.err
    assert "--beam is for a training run's directory" in run("report", table, "--beam", "2").err
    assert "is no table of captions; accepted are names" in run("report", toy_data / "images" / "red_circle.png").err


def test_an_evaluation_has_a_page(run: Run, bundle_dir: Path, toy_data: Path, tmp_path: Path) -> None:
    page = tmp_path / "val.html"
    result = run("evaluate", bundle_dir, "--data", toy_data, "--page", page, "--resamples", "0")
    assert result.code == 0
    assert "CIDEr" in result.out
    assert page.read_text("utf-8").count("data:image/jpeg;base64,") == 6


def test_a_run_shares_features_and_writes_events(
    run: Run, toy_data: Path, toy_run: Path, tmp_path: Path, tiny: Path
) -> None:
    pytest.importorskip("tensorboardX", reason="needs the extra 'tensorboard'")
    command = ("train", tiny, "--data", toy_data, "--epochs", "1", "--tensorboard", "--features", tmp_path / "store")
    assert run(*command, "--out", tmp_path / "one").code == 0
    features = (tmp_path / "store" / "features.npy").stat().st_mtime_ns
    assert not (tmp_path / "one" / "features").exists()
    (events,) = (tmp_path / "one" / "tensorboard").iterdir()
    written = events.read_bytes()
    assert b"CIDEr" in written
    assert b"captions" in written
    assert run(*command, "--out", tmp_path / "two").code == 0
    assert (tmp_path / "store" / "features.npy").stat().st_mtime_ns == features
