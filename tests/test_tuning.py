"""Hyper-parameter search: what it finds, stopping and going on, trials that are cut short or fail, what it leaves."""

from __future__ import annotations

import csv
import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

torch = pytest.importorskip("torch", reason="needs the extra 'train'")
optuna = pytest.importorskip("optuna", reason="needs the extra 'tune'")

from showtell.cli.tune import tune as tune_command  # noqa: E402
from showtell.datasets import read_native  # noqa: E402
from showtell.errors import BackendError, ConfigError, DataError, TrainingError  # noqa: E402
from showtell.learn import tuning  # noqa: E402
from showtell.learn.config import AlignmentConfig, RunConfig, list_recipes, read_config  # noqa: E402
from showtell.learn.space import Choices, Range, Search, with_values  # noqa: E402
from showtell.learn.tuning import Found, to_toml, tune  # noqa: E402
from showtell.records import Example  # noqa: E402
from showtell.report import trials  # noqa: E402

RATE = "train.learning_rate"
EPOCHS = 6
Score = Callable[[RunConfig, int], float]


class Kill(BaseException):
    """The end of the process, as far as the code under test can tell: nobody expects it."""


class Elsewhere(BaseException):
    """Any error that a search does not know."""


@dataclass
class FakeTraining:
    """Stands in for `fit`: its scores are a function of the settings and the epoch, its files those of a run."""

    score: Score
    event: Callable[[str, int], None] = lambda run, epoch: None  # before an epoch is trained
    event_after: Callable[[str, int], None] = lambda run, epoch: None  # between the checkpoint and the report
    begun: list[tuple[str, RunConfig]] = field(default_factory=list)
    epochs: list[tuple[str, int]] = field(default_factory=list)
    features: list[Path | None] = field(default_factory=list)

    def __call__(self, config: RunConfig, examples: Any, directory: Path, *, resume: bool, **options: Any) -> float:
        run, checkpoint = directory.name, directory / "checkpoint.pt"
        assert resume == checkpoint.exists()
        directory.mkdir(parents=True, exist_ok=True)
        done = int(checkpoint.read_text()) if resume else 0
        (directory / "config.json").write_text(json.dumps(config.to_json()))
        self.begun.append((run, config))
        self.features.append(options["features"])
        scores = [self.score(config, epoch) for epoch in range(1, done + 1)]
        for epoch in range(done + 1, config.train.epochs + 1):
            self.event(run, epoch)
            self.epochs.append((run, epoch))
            scores.append(self.score(config, epoch))
            (directory / "best.safetensors").write_text("weights")
            row = {"epoch": epoch, "CIDEr": scores[-1], "train_seconds": 2.0, "val_seconds": 0.5}
            new = epoch == 1
            with (directory / "metrics.csv").open("w" if new else "a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
            checkpoint.write_text(str(epoch))
            self.event_after(run, epoch)
            options["progress"]("epoch", 1, 2)
            options["watch"](row, {})
        return max(scores)


def by_rate(config: RunConfig, epoch: int) -> float:
    """The nearer to 1e-3 the learning rate is, the better."""
    return epoch / config.train.epochs / (1 + abs(math.log10(config.train.learning_rate / 1e-3)))


@pytest.fixture
def examples(toy_data: Path) -> list[Example]:
    return read_native(toy_data)


@pytest.fixture
def search(toy_settings: RunConfig) -> Search:
    config = with_values(toy_settings, {"train.epochs": EPOCHS, RATE: 2e-3})
    space = {RATE: Range(low=1e-5, high=1e-1, log=True), "model.hidden": Choices((16, 32))}
    return Search(config, space, "shapes")


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """Trainings that take no time, and pages without their plots, which would take most of it."""
    fake = FakeTraining(by_rate)
    monkeypatch.setattr(tuning, "fit", fake)
    monkeypatch.setattr(tuning, "write_trials", lambda trials, axes, path, **_: path.write_text("", "utf-8"))
    return fake


@pytest.fixture
def drawn(training: FakeTraining, monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """The same with whole pages."""
    monkeypatch.setattr(tuning, "write_trials", trials.write_trials)
    return training


def values_of(found: Found) -> list[dict[str, Any]]:
    return [dict(trial.values) for trial in found.trials]


def when(run: str, epoch: int, error: type[BaseException]) -> Callable[[str, int], None]:
    """An event that raises an error, once."""
    left = [True]

    def event(at_run: str, at_epoch: int) -> None:
        if (at_run, at_epoch) == (run, epoch) and left:
            left.clear()
            raise error

    return event


# with real trainings


def test_a_search_finds_the_better_learning_rate_although_it_is_killed(
    toy_settings: RunConfig, toy_data: Path, examples: list[Example], tmp_path: Path
) -> None:
    config = with_values(toy_settings, {"model.conditioning": "init", "train.epochs": 16, "train.beam": 1})
    search = Search(config, {RATE: Choices((1e-9, 2e-2)), "model.dropout": Range(low=0.0, high=0.2)})
    told: list[str] = []

    def until_the_second_trial(what: str, done: int, total: int) -> None:
        told.append(what)
        if what.startswith("trial 2/3, epoch 3/"):
            raise Kill

    with pytest.raises(Kill):
        tune(search, examples, tmp_path, trials=3, progress=until_the_second_trial)
    assert any(what.startswith("trial 1/3, encoding pictures") for what in told)
    first = (tmp_path / "trials" / "0001" / "metrics.csv").read_bytes()
    told.clear()
    found = tune(search, examples, tmp_path, trials=3, progress=lambda what, done, total: told.append(what))
    assert not any("encoding" in what or what.startswith(("trial 1/3", "trial 2/3, epoch 2/")) for what in told)
    assert any(what.startswith("trial 2/3, epoch 3/") for what in told)
    assert (tmp_path / "trials" / "0001" / "metrics.csv").read_bytes() == first
    assert [trial.state for trial in found.trials] == 3 * ["finished"]
    assert all(len(trial.curve) == 16 for trial in found.trials)
    assert found.trials[0].values == {RATE: 2e-2, "model.dropout": config.model.dropout}  # as it was given
    assert {trial.values[RATE] for trial in found.trials} == {1e-9, 2e-2}
    good, bad = ([t.cider for t in found.trials if t.values[RATE] == rate] for rate in (2e-2, 1e-9))
    assert min(good) > max(bad)
    assert found.best is not None
    assert found.config is not None
    assert found.best.cider == max(good)
    assert read_config(found.config) == with_values(config, found.best.values)
    assert found.features == tmp_path / "features"
    kept = [path.parent.name for path in (tmp_path / "trials").glob("*/best.safetensors")]
    assert kept == [f"{found.best.number:04d}"] == [found.run.name if found.run else ""]


# stopping and going on


@pytest.mark.parametrize("error", [KeyboardInterrupt, Kill, Elsewhere])
@pytest.mark.parametrize(("run", "epoch", "after"), [("0001", 1, False), ("0003", 1, True), ("0004", 4, False)])
def test_a_search_that_was_stopped_goes_on_to_the_same_trials(
    run: str,
    epoch: int,
    after: bool,
    error: type[BaseException],
    training: FakeTraining,
    search: Search,
    examples: list[Example],
    tmp_path: Path,
) -> None:
    if error is not Kill and run != "0004":
        pytest.skip("the kinds of stops differ in one place only")
    whole = tune(search, examples, tmp_path / "whole", trials=5)
    trained = list(training.epochs)
    training.epochs.clear()
    setattr(training, "event_after" if after else "event", when(run, epoch, error))
    with pytest.raises(error):
        tune(search, examples, tmp_path / "stopped", trials=5)
    found = tune(search, examples, tmp_path / "stopped", trials=5)
    assert found.trials == whole.trials
    assert training.epochs == trained  # nothing twice
    assert (found.best, found.run and found.run.name) == (whole.best, whole.run and whole.run.name)


def test_a_real_kill_leaves_a_search_that_goes_on(
    toy_settings: RunConfig, toy_data: Path, examples: list[Example], tmp_path: Path, training: FakeTraining
) -> None:
    code = (
        "import json, os, signal, sys\n"
        "from showtell.datasets import read_native\n"
        "from showtell.learn import tuning\n"
        "from showtell.learn.config import RunConfig\n"
        "from showtell.learn.space import Range, Search\n"
        "def fit(config, examples, directory, *, watch, **options):\n"
        "    watch({'epoch': 1, 'CIDEr': 0.5}, {})\n"
        "    if directory.name == '0002': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return 0.5\n"
        "tuning.fit = fit\n"
        "search = Search(RunConfig(**json.loads(sys.argv[1])), {'train.learning_rate': Range(low=1e-5, high=0.1)})\n"
        "tuning.tune(search, read_native(sys.argv[2]), sys.argv[3], trials=3)\n"
    )
    command = [sys.executable, "-c", code, json.dumps(toy_settings.to_json()), str(toy_data), str(tmp_path)]
    assert subprocess.run(command, check=False).returncode == -9
    found = tune(Search(toy_settings, {RATE: Range(low=1e-5, high=0.1)}), examples, tmp_path, trials=3)
    assert [run for run, _ in training.begun] == ["0002", "0003"]
    assert [trial.state for trial in found.trials] == 3 * ["finished"]


def test_a_finished_search_is_extended_by_more_trials(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    few = tune(search, examples, tmp_path, trials=2)
    assert len(training.begun) == 2
    assert tune(search, examples, tmp_path, trials=2) == few
    assert len(training.begun) == 2
    more = tune(search, examples, tmp_path, trials=4)
    assert more.trials[:2] == few.trials
    assert [run for run, _ in training.begun] == ["0001", "0002", "0003", "0004"]


def test_the_seed_decides_what_is_tried(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    one, same, other = (
        tune(search, examples, tmp_path / name, trials=4, seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert values_of(one) == values_of(same)
    assert values_of(one)[0] == values_of(other)[0] == {RATE: 2e-3, "model.hidden": 32}  # the configuration itself
    assert all(mine != theirs for mine, theirs in zip(values_of(one)[1:], values_of(other)[1:], strict=True))
    rates = [values[RATE] for values in values_of(one)]
    assert len(set(rates)) == 4
    assert all(1e-5 <= rate <= 1e-1 for rate in rates)


def test_a_configuration_outside_the_space_is_not_tried(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    found = tune(replace(search, space={"model.hidden": Choices((16, 48))}), examples, tmp_path, trials=2)
    assert {values["model.hidden"] for values in values_of(found)} <= {16, 48}


def test_another_search_is_not_gone_on_with(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    tune(search, examples, tmp_path, trials=1)
    other_space = replace(search, space={RATE: Range(low=1e-5, high=1e-2, log=True)})
    other_settings = replace(search, config=with_values(search.config, {"model.dropout": 0.3}))
    for given_search, given_examples, seed, sentence in (
        (other_space, examples, 1, "has another space than this one; go on with what it was begun with, or give anoth"),
        (other_settings, examples, 1, "has another settings than"),
        (search, examples[1:], 1, "has another data than"),
        (other_space, examples[1:], 2, "has another space and another data and another seed than"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            tune(given_search, given_examples, tmp_path, trials=2, seed=seed)
    assert len(training.begun) == 1


def test_the_time_ends_a_search_after_an_epoch(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(tuning.time, "monotonic", lambda: now[0])

    def tick(run: str, epoch: int) -> None:
        now[0] += 1

    training.event = tick
    found = tune(search, examples, tmp_path, trials=2, timeout=EPOCHS + 3)
    assert [(trial.state, len(trial.curve)) for trial in found.trials] == [("finished", EPOCHS), ("stopped", 3)]
    assert (tmp_path / "trials" / "0002" / "checkpoint.pt").exists()
    found = tune(search, examples, tmp_path, trials=2, timeout=1e6)
    assert [trial.state for trial in found.trials] == ["finished", "finished"]
    assert len(training.epochs) == 2 * EPOCHS
    nothing = tune(search, examples, tmp_path / "none", timeout=0)
    assert (nothing.trials, nothing.best, nothing.config, nothing.run) == ((), None, None, None)


def test_one_search_at_a_time(training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path) -> None:
    def second(run: str, epoch: int) -> None:
        if (run, epoch) == ("0001", 2):
            with pytest.raises(
                ConfigError, match=r"a search is under way in .*; wait until it has ended, or give anoth"
            ):
                tune(search, examples, tmp_path)

    training.event = second
    assert len(tune(search, examples, tmp_path, trials=1).trials) == 1


def test_a_damaged_database_is_named(search: Search, examples: list[Example], tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database, whatever its name says" * 100)
    with pytest.raises(
        TrainingError, match=r"cannot use the search in .*study\.db: file is not a database; make room, o"
    ):
        tune(search, examples, tmp_path)


def test_signs_in_a_directorys_name_mean_nothing(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    directory = tmp_path / "a?mode=memory#b %41é"
    tune(search, examples, directory, trials=1)
    assert (directory / "study.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]
    assert len(tune(search, examples, directory, trials=1).trials) == 1


# trials that do not finish


def test_trials_below_the_median_are_cut_short(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    found = tune(search, examples, tmp_path, trials=10)
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    assert pruned
    for trial in found.trials:
        before = [other for other in found.trials[: trial.number - 1] if other.state == "finished"]
        for epoch, score in trial.curve.items():
            scores = sorted(other.curve[epoch] for other in before)
            middle = len(scores) // 2
            median = (scores[middle] + scores[~middle]) / 2 if scores else 0
            below = len(before) >= 4 and 2 <= epoch < EPOCHS and score < median
            assert below == (trial.state == "pruned" and epoch == max(trial.curve))
    assert all(trial.state == "finished" for trial in found.trials[:4])
    assert found.best is not None
    assert found.best.cider == max(trial.cider for trial in found.trials if trial.state == "finished")


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("heads must divide hidden"),
        TrainingError("the loss is nan in step 3"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
)
def test_a_trial_that_fails_is_kept_with_its_sentence(
    error: Exception, drawn: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    def fail(run: str, epoch: int) -> None:
        if run == "0002" and epoch == 3:
            raise error

    drawn.event = fail
    told: list[str] = []
    found = tune(search, examples, tmp_path, trials=3, progress=lambda what, done, total: told.append(what))
    assert [trial.state for trial in found.trials] == ["finished", "failed", "finished"]
    assert (found.trials[1].error, found.trials[1].seconds) == (str(error), 5.0)
    assert f"trial 2/3: failed: {error}" in told
    assert str(error) in found.report.read_text("utf-8")
    assert tune(search, examples, tmp_path, trials=3) == found


def test_values_that_do_not_go_together_fail_before_they_are_trained(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    space = {"model.cell": Choices(("lstm", "transformer")), "model.conditioning": Choices(("init", "attention"))}
    found = tune(replace(search, space=space), examples, tmp_path, trials=8)
    odd = {"model.cell": "transformer", "model.conditioning": "init"}
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert failed
    assert all(trial.values == odd for trial in failed)
    assert all(trial.error.startswith("cell 'transformer' needs 'attention'") for trial in failed)
    assert len(training.begun) == 8 - len(failed)


def test_what_is_wrong_with_the_machine_or_the_data_ends_the_search(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    full = TrainingError("could not write checkpoint.pt: no space left")
    full.__cause__ = OSError()
    for error in (full, DataError("no readable picture is left")):

        def fail(run: str, epoch: int, error: Exception = error) -> None:
            if (run, epoch) == ("0002", 2):
                raise error

        training.event = fail
        with pytest.raises(type(error), match=str(error)):
            tune(search, examples, tmp_path, trials=2)
    training.event = lambda run, epoch: None
    found = tune(search, examples, tmp_path, trials=2)
    assert [trial.state for trial in found.trials] == ["finished", "finished"]
    assert len(training.epochs) == 2 * EPOCHS


def test_trials_that_all_fail_alike_end_the_search(
    drawn: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    def fail(run: str, epoch: int) -> None:
        raise ConfigError("only 0 words occur 999 times")

    drawn.event = fail
    with pytest.raises(TrainingError, match="the first 3 trials all failed alike, and the search with them: only 0 wo"):
        tune(search, examples, tmp_path, trials=20)
    assert len(drawn.begun) == 3
    assert "No trial has finished." in (tmp_path / "report.html").read_text("utf-8")


# what it leaves


def test_only_the_best_trial_keeps_its_weights(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    def own_features(run: str, epoch: int) -> None:
        (tmp_path / "trials" / run / "features").mkdir(exist_ok=True)

    training.event = own_features
    for total in (1, 3, 8):
        found = tune(search, examples, tmp_path, trials=total)
        assert found.best is not None
        assert found.run == tmp_path / "trials" / f"{found.best.number:04d}"
        for directory in (tmp_path / "trials").iterdir():
            kept = {"config.json", "metrics.csv"}
            kept |= {"checkpoint.pt", "best.safetensors", "features"} if directory == found.run else set()
            assert {path.name for path in directory.iterdir()} == kept


def test_trials_share_features_unless_their_encoders_differ(
    training: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    def stores(name: str, space: dict[str, Range | Choices], **options: Any) -> dict[str, set[Path | None]]:
        training.begun.clear()
        training.features.clear()
        tune(replace(search, space=space), examples, tmp_path / name, trials=7, **options)
        found: dict[str, set[Path | None]] = {}
        for (_, config), features in zip(training.begun, training.features, strict=True):
            key = json.dumps([config.model.image_size, config.model.conditioning, config.train.seed])
            found.setdefault(key, set()).add(features)
        assert all(len(used) == 1 for used in found.values())
        return found

    assert set().union(*stores("same", search.space).values()) == {tmp_path / "same" / "features"}
    given = stores("given", search.space, features=tmp_path / "elsewhere")
    assert set().union(*given.values()) == {tmp_path / "elsewhere"}
    sizes = stores("sizes", {"model.image_size": Choices((64, 96))})
    assert len(sizes) == 2
    assert len(set().union(*sizes.values())) == 2
    assert all(path and path.parent == tmp_path / "sizes" / "features" for path in set().union(*sizes.values()))
    seeds = stores("seeds", {"train.seed": Range(low=1, high=9, whole=True)})  # the encoder's weights are random
    assert len(set().union(*seeds.values())) == len(seeds) > 1
    kinds = stores("kinds", {"model.conditioning": Choices(("init", "first", "attention", "concepts"))})
    by_kind = {json.loads(key)[1]: used.pop() for key, used in kinds.items()}
    assert by_kind.get("concepts") is None
    assert by_kind["attention"] not in (by_kind.get("init"), by_kind.get("first"))
    if "init" in by_kind and "first" in by_kind:
        assert by_kind["init"] == by_kind["first"]


class Page(HTMLParser):
    """The tags, the text, and what is said of plots on a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.rows: list[list[str]] = []
        self.labels: list[str] = []
        self.outside: list[str] = []
        self.in_cell = False
        self.feed(path.read_text("utf-8"))
        self.rows = [[cell.strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        said = dict(attrs)
        self.labels += [said["aria-label"] or ""] if "aria-label" in said else []
        self.outside += [
            value for name, value in attrs if name in ("src", "href") and not (value or "").startswith("#")
        ]  # type: ignore[misc]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_data(self, data: str) -> None:
        if self.in_cell:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False


def test_the_page_shows_all_trials(
    drawn: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    def fail(run: str, epoch: int) -> None:
        if run == "0003":
            raise ConfigError("<b>not</b> accepted")

    drawn.event = fail
    found = tune(search, examples, tmp_path, trials=10)
    page, text = Page(found.report), found.report.read_text("utf-8")
    assert "script" not in page.tags
    assert not page.outside
    assert "&lt;b&gt;not&lt;/b&gt; accepted" in text
    assert page.tags.count("svg") == 5  # history, curves, importance, a plot a field
    assert any(label.startswith("The best CIDEr of each of 9 trials") for label in page.labels)
    assert any(label.startswith("Importance of the fields: train.learning_rate") for label in page.labels)
    rows = {row[0]: row for row in page.rows if row and row[0].isdigit()}
    for trial in found.trials:
        row = rows[str(trial.number)]
        cider = "" if trial.cider is None else f"{trial.cider:.4f}"
        assert row[1:5] == [trial.state, cider, str(len(trial.curve)), f"{trial.seconds:.0f}"]
        assert row[5:7] == [f"{trial.values[RATE]:.4g}", str(trial.values["model.hidden"])]
    assert found.best is not None
    assert f"Trial {found.best.number} is the best: CIDEr {found.best.cider:.3f} on val." in text
    fields = {row[0]: row[1:] for row in page.rows if row}
    assert fields[RATE] == ["1e-05 to 0.1, logarithmic", f"{found.best.values[RATE]:.4g}"]
    assert fields["model.hidden"] == ["16, 32", str(found.best.values["model.hidden"])]


def test_importance_is_told_of_enough_trials_alone(
    drawn: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    two = tune(search, examples, tmp_path, trials=2).report.read_text("utf-8")
    assert "Importance needs 3 finished trials or more; there are 2." in two
    drawn.score = lambda config, epoch: 0.25
    alike = tune(search, examples, tmp_path / "alike", trials=4).report.read_text("utf-8")
    assert "The 4 finished trials are too much alike to tell importance." in alike


def test_importance_finds_the_field_that_matters(
    drawn: FakeTraining, search: Search, examples: list[Example], tmp_path: Path
) -> None:
    space = {"model.dropout": Range(low=0.0, high=0.7), RATE: Range(low=1e-5, high=1e-1, log=True)}
    found = tune(replace(search, space=space), examples, tmp_path, trials=16)
    label = next(label for label in Page(found.report).labels if label.startswith("Importance"))
    assert label.index(RATE) < label.index("model.dropout")


@pytest.mark.parametrize("name", list_recipes())
def test_a_recipe_is_the_same_after_it_was_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "best.toml").write_text(to_toml(read_config(name)), "utf-8")
    assert read_config(tmp_path / "best.toml") == read_config(name)


def test_alignments_are_written_and_not_searched(toy_settings: RunConfig, toy_data: Path, tmp_path: Path) -> None:
    config = replace(toy_settings, model=replace(toy_settings.model, conditioning="init"), alignment=AlignmentConfig())
    assert RunConfig(**tomllib.loads(to_toml(config))) == config
    with pytest.raises(ConfigError, match="leave \\[alignment\\] out"):
        tune(Search(config, {RATE: Range(low=1e-5, high=0.1)}), read_native(toy_data), tmp_path, trials=1)


TEXTS = st.text(st.characters(exclude_categories=("Cs",)))
OPTIONS = st.dictionaries(TEXTS, TEXTS | st.integers(-(2**62), 2**62) | st.booleans() | st.floats(allow_nan=False))


@settings(max_examples=100, deadline=None)
@given(TEXTS, OPTIONS, st.floats(1e-300, 1, exclude_min=True), st.lists(st.tuples(TEXTS, TEXTS), max_size=3))
def test_any_settings_are_the_same_after_they_were_written(
    text: str, options: dict[str, Any], rate: float, words: list[tuple[str, str]]
) -> None:
    config = with_values(
        RunConfig(describe=text),
        {"model.encoder_options": options, RATE: rate, "finetune.mirror_words": words, "model.mean": (0.5, rate, 1)},
    )
    assert RunConfig(**tomllib.loads(to_toml(config))) == config


@pytest.mark.parametrize("missing", ["optuna", "jinja2"])
def test_a_missing_package_is_told_before_anything_is_trained(
    missing: str, search: Search, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name, *more))
    with pytest.raises(
        BackendError, match=rf"needs {missing}, which is not installed; run: pip install 'showtell\[tune\]'"
    ):
        tune(search, examples, tmp_path / "none")
    assert not (tmp_path / "none").exists()


# the command


@pytest.fixture
def run(training: FakeTraining, search: Search, toy_data: Path, tmp_path: Path) -> Callable[..., Any]:
    spoken = to_toml(search.config) + f'\n[space]\n"{RATE}" = {{ low = 1e-5, high = 1e-1, log = true }}\n'
    (tmp_path / "toy.toml").write_text(spoken, "utf-8")
    app = typer.Typer()
    app.command()(tune_command)
    command = [str(tmp_path / "toy.toml"), "--data", str(toy_data), "--out", str(tmp_path / "out dir"), "--trials", "3"]
    return lambda *more: CliRunner().invoke(app, [*command, *more])


def test_the_command_says_what_is_best_and_how_to_train_it(
    run: Callable[..., Any], toy_data: Path, tmp_path: Path
) -> None:
    done = run("--encoder-weights", "weights.safetensors", "--shares", "60/20/20")
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    out = tmp_path / "out dir"
    assert lines[0].startswith(f"{out / 'best.toml'}: CIDEr 0.")
    assert " on val, trial " in lines[0]
    assert lines[1] == f"{out / 'report.html'}: all trials"
    assert lines[2] == (
        f"train it again: showtell train '{out}/best.toml' --data {toy_data} --shares 60/20/20 "
        f"--features '{out}/features' --out RUN"
    )
    assert lines[3].startswith(f"or make a bundle of its run: showtell export '{out}/trials/000")
    assert read_config(out / "best.toml").model.encoder_weights == "weights.safetensors"
    assert "[I " not in done.stderr  # Optuna's own log
    assert "searching train.learning_rate (1e-05 to 0.1, logarithmic)" in done.stderr


def test_the_command_gives_json(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("--json")
    assert done.exit_code == 0
    told = json.loads(done.stdout)
    assert told["trials"] == {"finished": 3}
    assert Path(told["run"]).name == f"{told['best']['trial']:04d}"
    assert list(told["best"]["values"]) == [RATE]
    assert Path(told["config"]).exists()
    assert Path(told["report"]).exists()


def test_a_stop_by_the_user_ends_the_command_with_130(run: Callable[..., Any], training: FakeTraining) -> None:
    training.event = when("0002", 2, KeyboardInterrupt)
    done = run()
    assert (done.exit_code, done.stdout) == (130, "")
    assert "showtell: stopped; the same command goes on (search in " in done.stderr
    done = run()
    assert done.exit_code == 0
    assert len(training.epochs) == 3 * EPOCHS


def test_a_command_without_a_finished_trial_fails(run: Callable[..., Any], training: FakeTraining) -> None:
    def fail(run: str, epoch: int) -> None:
        raise TrainingError(f"the loss is nan in {run}")

    training.event = fail
    done = run("--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["best"] is None
    assert (
        "showtell: no trial has finished (3 failed); the loss is nan in 0001; the same command goes on" in done.stderr
    )
