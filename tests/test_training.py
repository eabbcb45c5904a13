"""Training runs: stopping and going on, what breaks a run, and what a run learns."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from showtell import Captioner  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.errors import ConfigError, DataError, TrainingError  # noqa: E402
from showtell.learn import checkpoint, run, training, validation  # noqa: E402
from showtell.learn.config import FinetuneConfig, RunConfig, SelfCriticalConfig, TrainConfig  # noqa: E402
from showtell.learn.embeddings import initial_embedding, read_vectors  # noqa: E402
from showtell.learn.run import export_run  # noqa: E402
from showtell.learn.training import build_vocabulary  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.text import UNK, Vocabulary  # noqa: E402

TEXT = [Example(f"t{number}", None, (f"a purple {word} on paper", f"one {word}")) for number, word in enumerate("ab")]
TIMING = ("train_seconds", "val_seconds", "tokens_per_second", "memory_mb")
Train = Callable[..., Path]


class Kill(BaseException):
    """The end of the process, as far as the code under test can tell: nobody expects it."""


@pytest.fixture
def examples(toy_data: Path) -> list[Example]:
    return read_native(toy_data)


@pytest.fixture
def settings(toy_settings: RunConfig) -> RunConfig:
    """Three epochs of four steps."""
    short = replace(toy_settings.train, epochs=3, batch_pictures=5, learning_rate=5e-3, label_smoothing=0.1)
    return replace(toy_settings, train=short)


def with_phases(settings: RunConfig) -> RunConfig:
    """One epoch of words, then two with the encoder, then two on rewards; weights are averaged."""
    return replace(
        settings,
        train=replace(settings.train, epochs=1, average=0.9, own_words=0.3, attention_penalty=0.1, patience=9),
        finetune=FinetuneConfig(epochs=2, stages=2, unfreeze_every=1, batch_pictures=5, accumulate=2, turn=True),
        selfcritical=SelfCriticalConfig(epochs=2, batch_pictures=5, captions=3, learning_rate=1e-3),
    )


def with_conditioning(settings: RunConfig, conditioning: str) -> RunConfig:
    return replace(settings, model=replace(settings.model, conditioning=conditioning, dropout=0.5))


@pytest.fixture
def train(examples: list[Example], monkeypatch: pytest.MonkeyPatch) -> Train:
    """`run.train` without the export and the picture of the curves, which take most of its time here."""
    monkeypatch.setattr(run, "export_run", lambda directory, **_: directory)
    monkeypatch.setattr(run, "draw_curves", lambda *_: None)

    def trained(settings: RunConfig, directory: Path, **options: Any) -> Path:
        text = TEXT if settings.model.conditioning == "concepts" else ()
        return run.train(settings, options.pop("examples", examples), directory, **{"text": text, **options})

    return trained


def rows_of(directory: Path) -> list[dict[str, float]]:
    with (directory / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(TIMING) < set(rows[0])
    numbers = [{key: value for key, value in row.items() if key not in (*TIMING, "phase")} for row in rows]
    return [{key: float(value) for key, value in row.items() if value} for row in numbers]


def assert_same_run(one: Path, other: Path) -> None:
    assert len(rows_of(one)) == len(rows_of(other))
    for mine, theirs in zip(rows_of(one), rows_of(other), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6)
    states = [checkpoint.read_checkpoint(directory / "checkpoint.pt") for directory in (one, other)]
    best = [checkpoint.read_weights(directory / "best.safetensors") for directory in (one, other)]
    for mine, theirs in ((states[0]["weights"], states[1]["weights"]), best):
        assert mine.keys() == theirs.keys()
        for name in mine:
            torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-6)
    positions = [{k: v for k, v in state["position"].items() if k != "seconds"} for state in states]
    assert positions[0] == pytest.approx(positions[1], abs=1e-6)


def at_step(epoch: int, step: int, do: Callable[[], None], phase: str = "") -> Callable[[str, int, int], None]:
    """A progress listener that does something after a step."""

    def progress(what: str, done: int, total: int) -> None:
        if what.startswith(f"{phase}epoch {epoch}/") and done == step:
            do()

    return progress


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def kill() -> None:
    raise Kill


# stopping and going on


@pytest.mark.parametrize(
    ("conditioning", "tied"), [("attention", False), ("init", False), ("init", True), ("concepts", False)]
)
def test_a_run_that_was_interrupted_goes_on_to_the_same_numbers(
    conditioning: str, tied: bool, train: Train, settings: RunConfig, tmp_path: Path
) -> None:
    settings = with_conditioning(settings, conditioning)
    settings = replace(settings, model=replace(settings.model, tie_words=tied))
    train(settings, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(settings, stopped, progress=at_step(2, 2, interrupt))
    assert signal.getsignal(signal.SIGINT) is handler
    state = checkpoint.read_checkpoint(stopped / "checkpoint.pt")
    assert (state["position"]["epoch"], state["position"]["step"]) == (1, 2)
    torch.manual_seed(12345)  # another process has other random numbers
    train(settings, stopped, resume=True)
    assert_same_run(stopped, tmp_path / "whole")


@pytest.mark.parametrize("stop", [interrupt, kill])
@pytest.mark.parametrize(("phase", "epoch"), [("", 1), ("finetune ", 1), ("finetune ", 2), ("selfcritical ", 2)])
def test_every_phase_goes_on_to_the_same_numbers(
    phase: str, epoch: int, stop: Callable[[], None], train: Train, settings: RunConfig, tmp_path: Path
) -> None:
    settings = with_phases(settings)
    train(settings, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with pytest.raises((KeyboardInterrupt, Kill)):
        train(settings, stopped, progress=at_step(epoch, 2, stop, phase))
    torch.manual_seed(12345)
    train(settings, stopped, resume=True)
    assert_same_run(stopped, tmp_path / "whole")
    with (stopped / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["words", "finetune", "finetune", "selfcritical", "selfcritical"]
    assert [row["epoch"] for row in rows] == list("12345")
    assert [bool(row["reward"]) for row in rows] == [bool(not row["train_loss"]) for row in rows] == 3 * [0] + 2 * [1]


@pytest.mark.parametrize(("epoch", "step"), [(1, 1), (1, 4), (3, 4)])
def test_every_step_can_be_the_last(epoch: int, step: int, train: Train, settings: RunConfig, tmp_path: Path) -> None:
    train(settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path / "stopped", progress=at_step(epoch, step, interrupt))
    train(settings, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_a_run_that_was_killed_goes_on_from_its_last_epoch(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    train(settings, tmp_path / "whole")
    with pytest.raises(Kill):
        train(settings, tmp_path / "killed", progress=at_step(3, 2, kill))
    seen: list[str] = []
    train(settings, tmp_path / "killed", resume=True, progress=lambda what, done, total: seen.append(what))
    assert not any(what.startswith(("epoch 1", "epoch 2", "encoding")) for what in seen)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_kill_between_the_scores_and_the_checkpoint_leaves_no_double_row(
    train: Train, settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(settings, tmp_path / "whole")
    with monkeypatch.context() as patch:
        write, calls = checkpoint.write_checkpoint, []

        def dies_the_second_time(path: Path, state: dict[str, Any]) -> None:
            calls.append(path)
            if len(calls) == 2:
                raise Kill
            write(path, state)

        patch.setattr(checkpoint, "write_checkpoint", dies_the_second_time)
        with pytest.raises(Kill):
            train(settings, tmp_path / "killed")
    assert len(rows_of(tmp_path / "killed")) == 2  # the checkpoint knows of one
    train(settings, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_from_outside_stop_the_process_with_a_checkpoint(
    number: signal.Signals, settings: RunConfig, toy_data: Path, tmp_path: Path
) -> None:
    config = json.dumps({**settings.to_json(), "train": {**settings.to_json()["train"], "epochs": 100_000}})
    code = (
        "import json, sys\n"
        "from showtell.datasets import read_native\n"
        "from showtell.learn.config import RunConfig\n"
        "from showtell.learn.run import train\n"
        "def tell(what, done, total):\n"
        "    if what.startswith('epoch 2/'): print('going', flush=True)\n"
        "try:\n"
        "    train(RunConfig(**json.loads(sys.argv[1])), read_native(sys.argv[2]), sys.argv[3], progress=tell)\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(42)\n"
    )
    command = [sys.executable, "-c", code, config, str(toy_data), str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 42
    assert checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")["position"]["epoch"] >= 1


def test_a_process_killed_with_signal_9_goes_on_to_the_same_curve(
    settings: RunConfig, toy_data: Path, tmp_path: Path, train: Train
) -> None:
    settings = with_phases(settings)
    code = (
        "import json, sys\n"
        "from showtell.datasets import read_native\n"
        "from showtell.learn.config import RunConfig\n"
        "from showtell.learn.run import fit\n"
        "def tell(what, done, total):\n"
        "    if what.startswith('selfcritical epoch 2/') and done == 2: print('going', flush=True)\n"
        "fit(RunConfig(**json.loads(sys.argv[1])), read_native(sys.argv[2]), sys.argv[3], progress=tell)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(settings.to_json()), str(toy_data), str(tmp_path / "killed")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "going\n"
        process.kill()
    assert process.returncode == -signal.SIGKILL
    train(settings, tmp_path / "killed", resume=True)
    train(settings, tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_run_killed_before_its_first_checkpoint_goes_on_too(
    train: Train, settings: RunConfig, tmp_path: Path
) -> None:
    train(settings, tmp_path / "whole")
    with pytest.raises(Kill):
        train(settings, tmp_path / "killed", progress=at_step(1, 2, kill))
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    train(settings, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    train(settings, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    train(settings, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "run", tmp_path / "copy")


def test_two_runs_of_a_seed_are_the_same_and_of_two_seeds_are_not(
    train: Train, settings: RunConfig, tmp_path: Path
) -> None:
    train(settings, tmp_path / "one")
    train(settings, tmp_path / "same")
    train(replace(settings, train=replace(settings.train, seed=2)), tmp_path / "other")
    assert_same_run(tmp_path / "one", tmp_path / "same")
    assert rows_of(tmp_path / "one") != rows_of(tmp_path / "other")


def test_a_run_with_other_settings_is_not_gone_on_with(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    train(settings, directory)
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    with pytest.raises(TrainingError, match=r"has other settings than these; go on with those in its config\.json"):
        train(replace(settings, train=replace(settings.train, learning_rate=1e-4)), directory, resume=True)
    with pytest.raises(ConfigError, match="already holds a run; go on with it with --resume, or give another dir"):
        train(settings, directory)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_a_run_with_other_captions_is_not_gone_on_with_and_keeps_its_own(
    train: Train, settings: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings, directory, progress=at_step(2, 1, interrupt))
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    others = [replace(example, references=("entirely other words and more of them here",)) for example in examples]
    with pytest.raises(TrainingError, match="is of a run with other settings or data"):
        train(settings, directory, examples=others, resume=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before


def test_a_new_run_does_not_take_what_a_broken_one_left(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    first = replace(settings, train=replace(settings.train, seed=7))
    with pytest.raises(Kill):  # dies when the encoder is kept, before the first feature is
        train(first, tmp_path / "run", progress=lambda *_: kill())
    shutil.rmtree(tmp_path / "run" / "features")
    assert (tmp_path / "run" / "encoder.safetensors").exists()
    train(settings, tmp_path / "run")
    train(settings, tmp_path / "fresh")
    assert_same_run(tmp_path / "run", tmp_path / "fresh")


# what breaks a run


def test_a_loss_that_is_no_number_names_its_pictures(
    train: Train, settings: RunConfig, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = run.extract_features

    def extract_with_damage(*arguments: Any, **options: Any) -> Any:
        store = extract(*arguments, **options)
        features = np.load(store.directory / "features.npy", mmap_mode="r+")
        features[3] = np.nan
        features.flush()
        return store

    monkeypatch.setattr(run, "extract_features", extract_with_damage)
    damaged = [example for example in examples if example.split == "train"][3]
    with pytest.raises(TrainingError, match=r"the loss is nan in step \d of epoch 1, whose batch is ") as caught:
        train(settings, tmp_path / "run")
    named = [example.id for example in examples if example.id in str(caught.value)]
    assert damaged.id in named
    assert len(named) <= settings.train.batch_pictures


def full_disk(kind: str) -> Callable[..., None]:
    def save(state: Any, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        if kind == "OSError":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 597")

    return save


@pytest.mark.parametrize("kind", ["OSError", "RuntimeError"])
def test_a_full_disk_leaves_the_checkpoint_of_before(
    kind: str, train: Train, settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(settings, tmp_path / "whole")
    directory = tmp_path / "run"

    def fill() -> None:
        patch.setattr(torch, "save", full_disk(kind))

    sentence = r"could not write .*checkpoint\.pt: .*the file of before is unharmed: make room and start again with --r"
    with monkeypatch.context() as patch, pytest.raises(TrainingError, match=sentence):
        train(settings, directory, progress=at_step(2, 3, fill))
    assert checkpoint.read_checkpoint(directory / "checkpoint.pt")["position"]["epoch"] == 1
    assert not list(directory.glob("*.partial"))
    train(settings, directory, resume=True)
    assert_same_run(directory, tmp_path / "whole")


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_a_disk_that_is_really_full_is_told_in_a_sentence(kind: str, tmp_path: Path) -> None:
    """The limit on a file's size is what a process can set for itself; it fails in the same calls as a full disk."""
    path = tmp_path / "file"

    def write(numbers: int) -> None:
        tensor = torch.full((numbers,), 3.0)
        if kind == "checkpoint":
            checkpoint.write_checkpoint(path, {"a": tensor})
        else:
            checkpoint.write_weights(path, {"a": tensor})

    write(10)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"could not write .*file: .*make room"):
            write(1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    read = checkpoint.read_checkpoint if kind == "checkpoint" else checkpoint.read_weights
    assert torch.equal(read(path)["a"], torch.full((10,), 3.0))


def test_a_damaged_or_missing_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"there is no checkpoint at .*; start the run without --resume"):
        checkpoint.read_checkpoint(tmp_path / "checkpoint.pt")
    checkpoint.write_checkpoint(tmp_path / "checkpoint.pt", {"a": torch.zeros(100)})
    content = (tmp_path / "checkpoint.pt").read_bytes()
    (tmp_path / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.read_checkpoint(tmp_path / "checkpoint.pt")
    torch.save({"a": Path("x")}, tmp_path / "checkpoint.pt")
    with pytest.raises(TrainingError, match="is damaged"):
        checkpoint.read_checkpoint(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(
    split: str, train: Train, settings: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    others = [example for example in examples if example.split != split]
    with pytest.raises(DataError, match=f'no example of the {split} split; give some lines "split": "{split}"'):
        train(settings, tmp_path / "run", examples=others)


def test_text_needs_concepts(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\(--text\) need conditioning 'concepts', this run has 'attention'"):
        train(settings, tmp_path / "run", text=TEXT)


def test_pictures_that_cannot_be_read_are_left_out_and_told(
    train: Train, settings: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    first = next(number for number, example in enumerate(examples) if example.split == "train")
    examples[first] = replace(examples[first], image=str(broken))
    told: list[str] = []
    train(settings, tmp_path / "run", examples=examples, progress=lambda what, done, total: told.append(what))
    assert any(what.startswith("1 unreadable pictures are left out") for what in told)
    everything = [replace(example, image=str(broken)) for example in examples]
    with pytest.raises(DataError, match="no readable picture is left in train or val"):
        train(settings, tmp_path / "none", examples=everything)


# what is learned


def test_the_vocabulary_is_of_the_training_captions_alone(settings: RunConfig, examples: list[Example]) -> None:
    examples.append(Example("v", None, ("valword everywhere",), "val"))
    examples.append(Example("w", None, ("testword everywhere",), "test"))
    examples.append(Example("x", None, ("trainword everywhere",), "train"))
    vocabulary = build_vocabulary(examples, settings.train)
    assert "trainword" in vocabulary
    assert "valword" not in vocabulary
    assert "testword" not in vocabulary
    with pytest.raises(ConfigError, match=r"only 0 words occur 999 times in the training captions; lower min_count"):
        build_vocabulary(examples, replace(settings.train, min_count=999))


def test_the_vocabulary_can_be_limited(settings: RunConfig, examples: list[Example]) -> None:
    whole = build_vocabulary(examples, settings.train)
    assert len(whole) > 14
    assert build_vocabulary(examples, replace(settings.train, max_vocabulary=10)).words == whole.words[:14]


def test_text_of_pictures_kept_for_scoring_is_dropped(
    train: Train, settings: RunConfig, examples: list[Example], tmp_path: Path
) -> None:
    stems = {split: Path(next(e.id for e in examples if e.split == split)).stem for split in ("train", "val")}
    examples.append(Example("images/kept_test.png", None, ("a",), "test"))
    text = [
        *TEXT,
        Example(f"{stems['val']}.jpg", None, ("valtext words",)),
        Example("kept_test", None, ("testtext words",)),
        Example(f"{stems['train']}.jpg", None, ("traintext words",)),
    ]
    settings = with_conditioning(settings, "concepts")
    train(settings, tmp_path / "run", examples=examples, text=text)
    words = json.loads((tmp_path / "run" / "vocabulary.json").read_text())["words"]
    assert "traintext" in words
    assert "valtext" not in words
    assert "testtext" not in words


def test_a_run_that_gets_no_better_stops_by_patience(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    still = replace(settings.train, epochs=30, patience=2, learning_rate=1e-9)
    train(replace(settings, train=still), tmp_path / "run")
    assert [row["epoch"] for row in rows_of(tmp_path / "run")] == [1, 2, 3]
    assert checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")["position"]["best_epoch"] == 1


def test_the_best_epoch_is_kept_not_the_last(
    train: Train, settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = iter([0.1, 0.5, 0.3])
    score = validation.score

    def scripted(*arguments: Any, **options: Any) -> Any:
        scores = score(*arguments, **options)
        return replace(scores, metrics={**scores.metrics, "CIDEr": next(said)})

    monkeypatch.setattr(validation, "score", scripted)
    decoders: list[dict[str, Any]] = []
    write = checkpoint.write_checkpoint

    def keep(path: Path, state: dict[str, Any]) -> None:
        decoders.append({name: tensor.clone() for name, tensor in state["weights"].items()})
        write(path, state)

    monkeypatch.setattr(checkpoint, "write_checkpoint", keep)
    train(settings, tmp_path / "run")
    best = checkpoint.read_weights(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(best[name], decoders[1][name]) for name in best)
    assert not all(torch.equal(best[name], decoders[2][name]) for name in best)


def test_the_learning_rate_rises_in_a_line_and_falls_in_a_cosine() -> None:
    rates = [training.schedule(step, 4, 24) for step in range(25)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[14] == pytest.approx(0.5)
    assert rates[24] == pytest.approx(0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert training.schedule(0, 0, 10) == 1.0
    assert training.schedule(3, 200, 4) == pytest.approx(0.02)  # a run shorter than its warm-up


def test_the_schedule_reaches_the_optimiser(
    train: Train, settings: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    step = torch.optim.AdamW.step

    def recorded(self: Any, *arguments: Any, **options: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    train(settings, tmp_path / "run")
    config: TrainConfig = settings.train
    expected = [config.learning_rate * training.schedule(step, config.warmup_steps, 12) for step in range(12)]
    assert rates == pytest.approx(expected)


# pretrained word vectors

WIDTH = 11
WITH_VECTOR = ("a", "on", "grey", "paper", "RED", "green", "square", "circle", "there", "is")  # of the toy's words


@pytest.fixture
def vector_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = [f"{word} {' '.join(map(str, rng.standard_normal(WIDTH)))}\n" for word in (*WITH_VECTOR, "unrelated")]
    path = tmp_path / "given" / "toy.vectors.txt"
    path.parent.mkdir()
    path.write_text("".join(lines), "utf-8")
    return path


def with_vectors(settings: RunConfig, path: Path, *, tune: bool) -> RunConfig:
    return replace(settings, model=replace(settings.model, word_vectors=str(path), tune_words=tune))


def start_of(directory: Path, path: Path, settings: RunConfig) -> tuple[Vocabulary, Any, list[int]]:
    """(the words of a run, where its embedding started, the ids that have a vector)."""
    vocabulary = Vocabulary.from_json((directory / "vocabulary.json").read_text("utf-8"))
    vectors = read_vectors(path, vocabulary.words[4:])
    start_VD = torch.from_numpy(initial_embedding(vocabulary, vectors, settings.train.seed))
    return vocabulary, start_VD, [vocabulary.id_of(word) for word in vectors.found]


@pytest.mark.parametrize("conditioning", ["init", "first", "attention", "concepts"])
def test_frozen_words_stay_where_their_vectors_are(
    conditioning: str, train: Train, settings: RunConfig, vector_file: Path, tmp_path: Path
) -> None:
    settings = with_vectors(with_conditioning(settings, conditioning), vector_file, tune=False)
    settings = replace(settings, train=replace(settings.train, weight_decay=0.1, pair_epochs=1))
    train(settings, tmp_path / "run")
    vocabulary, start_VD, found = start_of(tmp_path / "run", vector_file, settings)
    rows = {line.split()[0].lower(): line.split()[1:] for line in vector_file.read_text("utf-8").splitlines()}
    given = [np.array(rows[vocabulary.words[index]], np.float64).astype(np.float32) for index in found]
    assert {vocabulary.words[index] for index in found} == {word.lower() for word in WITH_VECTOR}
    weights = [checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")["weights"]]
    weights.append(checkpoint.read_weights(tmp_path / "run" / "best.safetensors"))
    for words_VD in (state["words.weight"] for state in weights):
        assert np.array_equal(words_VD[found].numpy(), given)
        assert torch.equal(words_VD, start_VD)


def test_tuned_words_start_at_their_vectors_and_move(
    train: Train, settings: RunConfig, vector_file: Path, tmp_path: Path
) -> None:
    still = replace(settings, train=replace(settings.train, learning_rate=1e-12))
    train(with_vectors(still, vector_file, tune=True), tmp_path / "still")
    train(with_vectors(settings, vector_file, tune=True), tmp_path / "run")
    vocabulary, start_VD, found = start_of(tmp_path / "run", vector_file, settings)
    words_VD = checkpoint.read_weights(tmp_path / "still" / "best.safetensors")["words.weight"]
    torch.testing.assert_close(words_VD, start_VD, rtol=0, atol=1e-6)
    words_VD = checkpoint.read_checkpoint(tmp_path / "run" / "checkpoint.pt")["weights"]["words.weight"]
    moved = (words_VD - start_VD).abs().amax(1) > 1e-3
    assert moved[found].all()
    assert moved[[vocabulary.id_of("painted"), vocabulary.id_of("one")]].all()  # they have no vector
    assert not moved[[0, UNK]].any()  # PAD, and a word that no caption here has


def test_coverage_is_told_before_the_pictures_are_encoded_and_kept(
    train: Train, settings: RunConfig, examples: list[Example], vector_file: Path, tmp_path: Path
) -> None:
    told: list[str] = []
    settings = with_vectors(settings, vector_file, tune=False)
    train(settings, tmp_path / "run", progress=lambda what, done, total: told.append(what))
    captions = [text for example in examples if example.split == "train" for text in example.references]
    tokens = [word for text in captions for word in text.split() if word != "."]
    missing = [word for word in tokens if word not in {word.lower() for word in WITH_VECTOR}]
    assert told[0] == (
        f"toy.vectors.txt: 10 vectors of 11 numbers, for {10 / len(set(tokens)):.1%} of the vocabulary and "
        f"{1 - len(missing) / len(tokens):.1%} of the training captions' tokens; none for 'in', 'one', 'painted', "
        "'cross', 'stripes', 'black', 'blue', 'white', 'yellow'; 1 of them in another case"
    )
    about = json.loads((tmp_path / "run" / "data.json").read_text("utf-8"))["word_vectors"]
    assert (about["file"], about["tuned"]) == ("toy.vectors.txt", False)
    assert about["words"] == pytest.approx(10 / len(set(tokens)), abs=1e-6)
    assert about["tokens"] == pytest.approx(1 - len(missing) / len(tokens), abs=1e-6)
    assert sorted(about["without"]) == sorted(set(missing))


def test_a_run_goes_on_without_the_file_of_its_vectors(
    train: Train, settings: RunConfig, vector_file: Path, tmp_path: Path
) -> None:
    settings = with_vectors(settings, vector_file, tune=True)
    train(settings, tmp_path / "whole")
    for name, epoch, do, stop in (("stopped", 2, interrupt, KeyboardInterrupt), ("killed", 1, kill, Kill)):
        with pytest.raises(stop):
            train(settings, tmp_path / name, progress=at_step(epoch, 2, do))
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()
    vector_file.unlink()
    for name in ("stopped", "killed"):
        train(settings, tmp_path / name, resume=True)
        assert_same_run(tmp_path / name, tmp_path / "whole")
    with pytest.raises(DataError, match=r"cannot read the word vectors .*toy\.vectors\.txt \(No such file"):
        train(settings, tmp_path / "new")


def test_a_run_with_other_vectors_is_not_gone_on_with_and_keeps_its_own(
    train: Train, settings: RunConfig, vector_file: Path, tmp_path: Path
) -> None:
    settings, directory = with_vectors(settings, vector_file, tune=True), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings, directory, progress=at_step(2, 1, interrupt))
    before = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    text = vector_file.read_text("utf-8")
    vector_file.write_text(re.sub(r"(?<=grey )\S+", "9", text), "utf-8")
    with pytest.raises(TrainingError, match="is of a run with other settings or data"):
        train(settings, directory, resume=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()} == before
    vector_file.write_text(re.sub(r"(?<=unrelated )\S+", "9", text), "utf-8")  # of no word that the run has
    train(settings, directory, resume=True)


def test_a_new_run_does_not_take_the_vectors_that_a_broken_one_left(
    train: Train, settings: RunConfig, vector_file: Path, tmp_path: Path
) -> None:
    settings = with_vectors(settings, vector_file, tune=True)
    with pytest.raises(Kill):
        train(settings, tmp_path / "run", progress=at_step(1, 1, kill))
    vector_file.unlink()
    with pytest.raises(DataError, match="cannot read the word vectors"):
        train(settings, tmp_path / "run")


def test_frozen_words_need_vectors(train: Train, settings: RunConfig, tmp_path: Path) -> None:
    frozen = replace(settings, model=replace(settings.model, tune_words=False))
    with pytest.raises(ConfigError, match=r"tune_words = false leaves the words .* give a file as word_vectors in \["):
        train(frozen, tmp_path / "run")


def test_a_bundle_that_started_from_glove_speaks_without_it(
    train: Train, settings: RunConfig, toy_data: Path, shared_data: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given.txt"
    shutil.copy(shared_data / "glove" / "glove.6B.50d.subset.txt", given)
    settings = with_vectors(settings, given, tune=False)
    longer = replace(settings.train, epochs=16, batch_pictures=3, learning_rate=2e-2, warmup_steps=3, patience=16)
    settings = replace(settings, train=replace(longer, label_smoothing=0.0))
    train(settings, tmp_path / "run")
    _, start_VD, found = start_of(tmp_path / "run", given, settings)
    words_VD = checkpoint.read_weights(tmp_path / "run" / "best.safetensors")["words.weight"]
    assert torch.equal(words_VD[found], start_VD[found])
    given.unlink()
    bundle = export_run(tmp_path / "run")
    manifest = json.loads((bundle / "bundle.json").read_text("utf-8"))
    model = manifest["config"]["model"]
    assert (model["embedding"], model["word_vectors"], model["tune_words"]) == (50, "given.txt", False)
    assert manifest["training"]["word_vectors"]["tokens"] > 0.9
    assert str(tmp_path) not in (bundle / "bundle.json").read_text("utf-8")
    assert manifest["training"]["parity"]["same_captions"] == 1
    red, green = Captioner.load(bundle).caption(
        [str(toy_data / "images" / f"{name}.png") for name in ("red_square", "green_circle")]
    )
    assert "red" in red.text  # type: ignore[union-attr]
    assert "green" in green.text  # type: ignore[union-attr]


def test_a_run_learns_to_tell_pictures_apart(toy_run: Path, toy_data: Path) -> None:
    rows = rows_of(toy_run)
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    manifest = json.loads((toy_run / "bundle" / "bundle.json").read_text())
    scores = manifest["scores"]["metrics"]
    assert scores["CIDEr"] > scores["constant_CIDEr"]
    assert scores["CIDEr"] == pytest.approx(max(row["CIDEr"] for row in rows), abs=1e-5)
    captioner = Captioner.load(toy_run / "bundle")
    red, green = captioner.caption(
        [str(toy_data / "images" / f"{name}.png") for name in ("red_square", "green_circle")]
    )
    assert "red" in red.text  # type: ignore[union-attr]
    assert "green" in green.text  # type: ignore[union-attr]
    assert (toy_run / "curves.png").read_bytes().startswith(b"\x89PNG")
