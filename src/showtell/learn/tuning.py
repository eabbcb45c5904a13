"""Hyper-parameter search: a configuration and the values its fields may take -> the best configuration, and a page.

The search's directory holds
    study.db           every trial, in Optuna's tables (SQLite)
    features/          the encoded pictures, shared by the trials
    trials/0007/       the run of a trial; of those that have ended, that of the best alone keeps its weights
    best.toml          the best configuration, as `showtell train` takes it
    report.html        the page
A trial is a training run without the export; its value is the best CIDEr on `val`. Values are proposed by a
tree-structured Parzen estimator (Bergstra et al. 2011), and a trial whose best epoch so far is below the median of the
finished ones after as many epochs is cut short (Golovin et al. 2017). On a cluster, trials are trained side by side;
the study stays in this process, and a proposal knows the trials that have ended by then. A search that is stopped at
any point goes on: each trial's proposals depend on the seed, its number and the trials before it alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from showtell.cluster import Cluster, count_actors, joined
from showtell.errors import ConfigError, DataError, TrainingError
from showtell.learn.config import RunConfig
from showtell.learn.decoders import looks_at_grid
from showtell.learn.progress import Progress, silent
from showtell.learn.run import fit
from showtell.learn.space import Choices, Range, Search, with_values
from showtell.learn.study import open_storage, require_search_stack
from showtell.learn.training import Row
from showtell.records import Example
from showtell.report.curves import Epoch, read_metrics
from showtell.report.trials import Axis, Tried, best_of, show, write_trials

if TYPE_CHECKING:
    import optuna

_STUDY = "showtell"  # its name in the database
_RANDOM = 6  # trials whose values are drawn at random, before the estimator has enough to go by
_UNPRUNED = 4  # trials that must have finished before another is cut short
_HOPELESS = 3  # trials that fail alike, with none before them, end the search
_TELLING = 3  # finished trials that importance needs
_TOP = 0.25  # share of the trials that are the good ones, for importance
_KEPT = ("config.json", "metrics.csv")  # of a trial that has ended and is not the best
_STORED = frozenset(  # fields on which the stored features depend
    f"model.{name}"
    for name in ("encoder", "encoder_weights", "encoder_options", "image_size", "fit", "interpolation", "mean", "std")
) | {"model.conditioning", "train.val_pictures"}


@dataclass(frozen=True)
class Found:
    """What a search has come to.

    `run` is the directory of the best trial, `config` the file of its settings, and `features` where its encoded
    pictures lie, if other runs may share them. They are None until a trial has finished.
    """

    trials: tuple[Tried, ...]
    report: Path
    best: Tried | None = None
    config: Path | None = None
    run: Path | None = None
    features: Path | None = None


@dataclass(frozen=True)
class _Work:
    """What all trials share."""

    search: Search
    examples: Sequence[Example]
    text: Sequence[Example]
    directory: Path
    features: Path
    trials: int
    deadline: float  # on the monotonic clock
    describe: Mapping[str, Any]
    progress: Progress
    elsewhere: Callable[..., float] | None = None  # trains in the place of this process
    study_lock: threading.RLock = field(default_factory=threading.RLock)
    under_way: set[int] = field(default_factory=set)  # numbers of trials


class _TimeUpError(Exception):
    """The search's time is over; the trial under way can go on from its checkpoint."""


def tune(
    search: Search,
    examples: Sequence[Example],
    directory: str | Path,
    *,
    text: Sequence[Example] = (),
    trials: int = 20,
    timeout: float | None = None,
    seed: int = 1,
    features: str | Path | None = None,
    describe: Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
    progress: Progress = silent,
) -> Found:
    """Trains trial after trial until there are `trials` of them, and returns what is best.

    A search that is in `directory` goes on. The first trial is the configuration itself, if the space has it.

    Args:
        text, describe: As of `train`.
        timeout: Seconds after which the search stops, at the end of an epoch; None: never.
        seed: Of the proposals; the trainings have that of their configuration.
        features: Where the encoded pictures lie; None: in `directory`.
        cluster: Whose actors train a trial each; None: this process, one after the other.

    Raises:
        BackendError: Optuna, matplotlib or Jinja2 is not installed.
        ConfigError: The directory holds another search, or one that is under way.
        DataError: The examples cannot make a run.
        TrainingError: The first trials fail alike, or the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM came; the search can go on.
    """
    require_search_stack()
    directory = Path(directory)
    work = _Work(
        search,
        examples,
        text,
        directory,
        Path(features) if features is not None else directory / "features",
        trials,
        math.inf if timeout is None else time.monotonic() + timeout,
        describe or {},
        progress,
    )
    if search.config.alignment is not None:
        raise ConfigError("a search compares captioners by their CIDEr; leave [alignment] out, or use 'showtell train'")
    directory.mkdir(parents=True, exist_ok=True)
    with open_storage(directory) as storage, contextlib.ExitStack() as stack:
        study = _open_study(work, storage, seed)
        fields_searched = "; ".join(f"{name} ({values.describe()})" for name, values in search.space.items())
        progress(f"searching {fields_searched}", 1, 1)
        if cluster is None:
            _try_all(work, study, seed)
        else:
            stack.enter_context(joined(cluster))
            _try_side_by_side(work, study, seed, cluster)
        return _conclude(work, study)


def _try_all(work: _Work, study: optuna.Study, seed: int) -> None:
    """Trial after trial, until there are enough, all fail alike, or time is up."""
    with contextlib.suppress(_TimeUpError):
        while (drawn := _draw(work, study, seed)) is not None:
            trial, values = drawn
            try:
                _try(work, study, trial, values)
            finally:
                work.under_way.discard(trial.number)
            with work.study_lock:
                _clear(work, study)


def _try_side_by_side(work: _Work, study: optuna.Study, seed: int, cluster: Cluster) -> None:
    from showtell.learn.workers import fit_elsewhere

    over = threading.Event()
    work = replace(work, elsewhere=partial(fit_elsewhere, cluster=cluster, over=over))
    actors = min(count_actors(cluster), work.trials)
    with ThreadPoolExecutor(actors) as pool:
        try:
            trying = [pool.submit(_try_all, work, study, seed) for _ in range(actors)]
            for ended in as_completed(trying):
                ended.result()
        finally:
            over.set()


def _draw(work: _Work, study: optuna.Study, seed: int) -> tuple[optuna.Trial, dict[str, Any]] | None:
    """The next trial with its values; None where no more is wanted."""
    with work.study_lock:
        enough = len(_ended(study)) + len(work.under_way) >= work.trials
        if enough or _hopeless(study) or time.monotonic() >= work.deadline:
            return None
        trial = _next_trial(study, seed, work.under_way)
        values = {name: dimension.suggest(trial, name) for name, dimension in work.search.space.items()}
        work.under_way.add(trial.number)
    return trial, values


def _open_study(work: _Work, storage: optuna.storages.RDBStorage, seed: int) -> optuna.Study:
    """The study in the database, new or of this very search."""
    import optuna

    epochs = _all_epochs(work.search.config)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_warmup_steps=max(2, epochs // 4))
    study = optuna.create_study(
        storage=storage, study_name=_STUDY, direction="maximize", load_if_exists=True, pruner=pruner
    )
    identity = {
        "settings": work.search.config.to_json(),
        "space": {name: asdict(values) for name, values in work.search.space.items()},
        "data": _digest(work.examples, work.text),
        "seed": seed,
    }
    kept = study.user_attrs.get("identity")
    if kept is None:
        study.set_user_attr("identity", identity)
    elif other := [part for part, value in json.loads(json.dumps(identity)).items() if kept.get(part) != value]:
        raise ConfigError(
            f"the search in {work.directory} has another {' and another '.join(other)} than this one; go on with what "
            "it was begun with, or give another directory"
        )
    if not study.get_trials(deepcopy=False):
        tables, space = work.search.config.to_json(), work.search.space
        own = {name: tables[name.partition(".")[0]][name.partition(".")[2]] for name in space}
        if all(values.holds(own[name]) for name, values in space.items()):
            study.enqueue_trial({name: space[name].to_optuna(value) for name, value in own.items()})
    return study


def _digest(examples: Sequence[Example], text: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for example in (*examples, *text):
        digest.update(repr((example.id, example.split, example.references)).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _all_epochs(config: RunConfig) -> int:
    return config.train.epochs + config.train.pair_epochs + config.finetune.epochs + config.selfcritical.epochs


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _hopeless(study: optuna.Study) -> str:
    """What the first trials all fail with, if they do."""
    sentences = [trial.user_attrs.get("error", "") for trial in _ended(study)]
    return sentences[0] if len(sentences) >= _HOPELESS and len(set(sentences)) == 1 else ""


def _next_trial(study: optuna.Study, seed: int, under_way: Container[int]) -> optuna.Trial:
    """The trial that a stopped search left, or a new one.

    The sampler begins anew with each, so that a search that was stopped proposes what it would have proposed.
    """
    import optuna

    known = study.get_trials(deepcopy=False)
    begun = sum(trial.state != optuna.trial.TrialState.WAITING for trial in known)
    running = (trial for trial in known if trial.state == optuna.trial.TrialState.RUNNING)
    left = next((trial for trial in running if trial.number not in under_way), None)
    number = begun if left is None else left.number
    drawn = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=drawn, n_startup_trials=_RANDOM)
    if left is None:
        return study.ask()
    return optuna.Trial(study, left._trial_id)


def _try(work: _Work, study: optuna.Study, trial: optuna.Trial, values: dict[str, Any]) -> None:
    """Trains with the values of a trial, and tells the study what came of it."""
    import optuna

    number = trial.number + 1
    title = f"trial {number}/{work.trials}"
    work.progress(f"{title}: " + ", ".join(f"{name} {show(value)}" for name, value in values.items()), 1, 1)
    directory = _run_of(work, number)
    try:
        value = _train(work, trial, with_values(work.search.config, values), directory, title)
        outcome: dict[str, Any] = {"values": value}
        said = f"CIDEr {value:.3f}"
    except optuna.TrialPruned:
        outcome = {"state": optuna.trial.TrialState.PRUNED}
        said = "cut short, below the median"
    except (ConfigError, TrainingError, torch.OutOfMemoryError) as error:
        if isinstance(error, TrainingError) and error.__cause__ is not None:  # of the machine, whatever the values
            raise
        trial.set_user_attr("error", str(error))
        outcome = {"state": optuna.trial.TrialState.FAIL}
        said = f"failed: {error}"
    with work.study_lock:
        trial.set_user_attr("seconds", _seconds(directory))
        study.tell(trial, **outcome)
    work.progress(f"{title}: {said}", 1, 1)


def _train(work: _Work, trial: optuna.Trial, config: RunConfig, directory: Path, title: str) -> float:
    import optuna

    last = _all_epochs(config)
    reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def judge(epoch: int, cider: float) -> None:
        if epoch not in reported:
            reported.add(epoch)
            trial.report(cider, epoch)
        if epoch < last and trial.should_prune():
            raise optuna.TrialPruned

    def watch(row: Row, captions: dict[str, str]) -> None:
        judge(int(row["epoch"]), float(row["CIDEr"]))
        if time.monotonic() >= work.deadline and int(row["epoch"]) < last:
            raise _TimeUpError

    resume = (directory / "checkpoint.pt").exists()
    if not resume:
        shutil.rmtree(directory, ignore_errors=True)
    for epoch in _epochs(directory):  # a kill may have come between an epoch's checkpoint and its report
        judge(int(epoch.number), epoch.values["CIDEr"])
    return (work.elsewhere or fit)(
        config,
        work.examples,
        directory,
        text=work.text,
        resume=resume,
        describe=dict(work.describe),
        features=_features_of(work, config),
        watch=watch,
        progress=_titled(work.progress, title, sentences=trial.number == 0),
    )


def _titled(progress: Progress, title: str, *, sentences: bool) -> Progress:
    """A listener that says of which trial it speaks; what is no count may be left out."""

    def titled(what: str, done: int, total: int) -> None:
        if sentences or total != 1:
            progress(f"{title}, {what}", done, total)

    return titled


def _features_of(work: _Work, config: RunConfig) -> Path | None:
    """Where a trial's encoded pictures lie; None: in its own directory, since its encoder is its own."""
    if config.model.conditioning.startswith("concepts"):
        return None
    decisive = _STORED | ({"train.seed"} if config.model.encoder_weights == "random" else set())
    if not decisive & set(work.search.space):
        return work.features
    tables = {"model": asdict(config.model), "train": asdict(config.train)}
    tables["model"]["conditioning"] = looks_at_grid(config.model)
    values = {name: tables[name.partition(".")[0]][name.partition(".")[2]] for name in sorted(decisive)}
    return work.features / hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _run_of(work: _Work, number: int) -> Path:
    return work.directory / "trials" / f"{number:04d}"


def _epochs(directory: Path) -> list[Epoch]:
    try:
        return read_metrics(directory / "metrics.csv")
    except DataError:  # none has finished
        return []


def _seconds(directory: Path) -> float:
    return sum(epoch.values.get(key, 0.0) for epoch in _epochs(directory) for key in ("train_seconds", "val_seconds"))


def _clear(work: _Work, study: optuna.Study) -> None:
    """Removes what ended trials other than the best have written, save their settings and scores."""
    best = best_of(_history(work, study))
    for trial in _ended(study):
        directory = _run_of(work, trial.number + 1)
        if (best and trial.number + 1 == best.number) or not directory.is_dir():
            continue
        for path in directory.iterdir():
            if path.name in _KEPT:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


# what it has come to


def _history(work: _Work, study: optuna.Study) -> tuple[Tried, ...]:
    """The trials so far, in the words of the page."""
    from optuna.trial import TrialState

    names: dict[TrialState, Any] = {
        TrialState.COMPLETE: "finished",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "stopped",
    }
    found = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in names:
            continue
        curve = dict(sorted(trial.intermediate_values.items()))
        reached = trial.value if trial.state == TrialState.COMPLETE else max(curve.values(), default=None)
        space, attrs, number = work.search.space, trial.user_attrs, trial.number + 1
        values = {name: space[name].from_optuna(trial.params[name]) for name in space if name in trial.params}
        seconds = attrs.get("seconds", 0.0) or _seconds(_run_of(work, number))
        found.append(Tried(number, names[trial.state], values, reached, curve, seconds, attrs.get("error", "")))
    return tuple(found)


def _conclude(work: _Work, study: optuna.Study) -> Found:
    trials, space, path = _history(work, study), work.search.space, work.directory / "report.html"
    importances, unimportant = _importances(study)
    axes = [
        Axis(
            name,
            values.describe(),
            isinstance(values, Range) and values.log,
            tuple(map(show, values.values)) if isinstance(values, Choices) else (),
        )
        for name, values in space.items()
    ]
    write_trials(
        trials, axes, path, title=f"Search: {work.search.name}", importances=importances, unimportant=unimportant
    )
    if sentence := _hopeless(study):
        raise TrainingError(f"the first {_HOPELESS} trials all failed alike, and the search with them: {sentence}")
    best = best_of(trials)
    if best is None:
        return Found(trials, path)
    config, file = with_values(work.search.config, best.values), work.directory / "best.toml"
    about = f"# Trial {best.number} of a search over {len(trials)}: CIDEr {best.cider:.4f} on val.\n"
    file.write_text(about + to_toml(config), "utf-8")
    return Found(trials, path, best, file, _run_of(work, best.number), _features_of(work, config))


def _importances(study: optuna.Study) -> tuple[dict[str, float], str]:
    """(the share of each field, why there are none)."""
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
    from optuna.trial import TrialState

    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < _TELLING:
        return {}, f"Importance needs {_TELLING} finished trials or more; there are {len(finished)}."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of trials that all are equal, and of few: the page says both
        evaluator = PedAnovaImportanceEvaluator(target_quantile=_TOP)
        shares = get_param_importances(study, evaluator=evaluator, normalize=False)
    total = sum(shares.values())
    if not total > 0:
        return {}, f"The {len(finished)} finished trials are too much alike to tell importance."
    return {name: share / total for name, share in shares.items()}, ""


def to_toml(config: RunConfig) -> str:
    """The text of a file that `read_config` reads as this configuration."""
    plain, tables = [], []
    for name, value in config.to_json().items():
        if isinstance(value, dict):
            inner = [f"{key} = {_toml(item)}\n" for key, item in value.items() if item is not None]
            tables.append("".join([f"\n[{name}]\n", *inner]))
        elif value is not None:
            plain.append(f"{name} = {_toml(value)}\n")
    return "".join([*plain, *tables])


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)
