"""Train a captioner: phases of epochs over captions -> weights, scores, a checkpoint.

A run directory holds
    config.json        the settings
    features/          the store of the encoded pictures; features-tuned/ that of a tuned encoder
    encoder.safetensors  the encoder's weights as they came, or tuned on content words
    word_vectors.bin   the pretrained vectors of its words, when it starts from some
    vocabulary.json, data.json, val.jsonl   what the export needs to know of the data
    checkpoint.pt      where a stopped run goes on
    best.safetensors   the weights of the best epoch; those of an encoder that is fine-tuned begin with "encoder."
    metrics.csv        a row an epoch; curves.png draws it
    bundle/            the captioner
The loop is plain PyTorch. A phase (`words`, `pairs`, `finetune`, `selfcritical`) has its own loss, data and rates, and
begins from the best weights so far; AdamW warms up and falls along a cosine, and after each epoch a real beam search on
the `val` pictures decides by its CIDEr which epoch is kept and when to stop.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from showtell.errors import ConfigError, TrainingError
from showtell.learn import checkpoint
from showtell.learn.averaging import MovingAverage
from showtell.learn.batches import Batch, CaptionTable
from showtell.learn.cells import State
from showtell.learn.config import TrainConfig
from showtell.learn.encoders import Encoder
from showtell.learn.features import FeatureStore
from showtell.learn.losses import Loss
from showtell.learn.parallel import ALONE, Processes
from showtell.learn.progress import Progress, silent
from showtell.learn.steps import Decoder
from showtell.learn.validation import Validated, Validation, validate
from showtell.records import Example
from showtell.text import Vocabulary, tokenise

_SAMPLES = 3  # captions of `val` that are shown after each epoch

Row = dict[str, float | int | str]
Watch = Callable[[Row, dict[str, str]], None]  # (the epoch's row of metrics.csv, what was said of each picture of val)


def unwatched(row: Row, captions: dict[str, str]) -> None:
    """A watch that does nothing."""


class Started(NamedTuple):
    """A batch whose captions are about to be said: what is said, and what the decoder knows of the pictures."""

    batch: Batch
    memory: State
    state: State


StartBatch = Callable[[Batch, np.random.Generator], Started]


@dataclass
class Position:
    """Where a run stands; all of it goes into the checkpoint."""

    phase: int = 0
    begun: int = 0  # finished epochs of the phases before
    epoch: int = 0  # finished epochs of the phase
    step: int = 0  # finished batches of the epoch under way
    loss: float = 0.0  # what is shown, summed over the tokens of the epoch under way
    tokens: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0  # counted through the phases
    best_score: float = -1.0


@dataclass(frozen=True)
class Source:
    """Captions to train on, and how their pictures start the decoder."""

    table: CaptionTable
    start: StartBatch
    names: Sequence[str]  # the id of each picture, for messages


@dataclass(frozen=True)
class Phase:
    """A part of the training.

    Args:
        loss: What a batch costs, given the share of the phase that is done.
        rates: Parameters, and their learning rate at its peak.
        warmup_steps: Batches during which the rates rise.
        shows: The column of metrics.csv for what the loss shows.
        begin_epoch: Called with the number of finished epochs before each.
    """

    name: str
    epochs: int
    sources: Sequence[Source]
    validation: Validation
    loss: Callable[[Started, float], Loss]
    rates: Sequence[tuple[Sequence[nn.Parameter], float]]
    batch_pictures: int
    accumulate: int = 1
    warmup_steps: int | None = None  # None: a tenth of the phase, no more than the configuration's
    shows: str = "train_loss"
    begin_epoch: Callable[[int], None] = lambda finished: None


@dataclass
class Loop:
    """What the phases share.

    Args:
        encoder: Of a run that tunes it; its weights are kept with the decoder's.
    """

    config: TrainConfig
    decoder: Decoder
    encoder: Encoder | None
    vocabulary: Vocabulary
    run: Path
    identity: dict[str, Any]  # what must be the same for a checkpoint to be of this run
    progress: Progress = silent
    watch: Watch = unwatched
    processes: Processes = ALONE
    position: Position = field(default_factory=Position)

    @property
    def device(self) -> torch.device:
        return self.decoder.words.weight.device

    def weights(self) -> dict[str, Tensor]:
        """All weights that the run trains, with those beside them."""
        tuned = {} if self.encoder is None else self.encoder.network.state_dict()
        return {**self.decoder.state_dict(), **{checkpoint.ENCODER + name: tensor for name, tensor in tuned.items()}}

    def load(self, weights: dict[str, Tensor]) -> None:
        ours, tuned = checkpoint.split_weights(weights)
        self.decoder.load_state_dict(ours)
        if self.encoder is not None:
            self.encoder.network.load_state_dict(tuned)


def build_vocabulary(examples: Sequence[Example], config: TrainConfig) -> Vocabulary:
    """The words of training captions; pictures of the other splits do not count."""
    captions = (tokenise(text) for example in examples if example.split == "train" for text in example.references)
    vocabulary = Vocabulary.build(captions, min_count=config.min_count, max_size=config.max_vocabulary)
    if len(vocabulary) < 10:
        raise ConfigError(
            f"only {len(vocabulary) - 4} words occur {config.min_count} times in the training captions; "
            "lower min_count in [train], or give more captions"
        )
    return vocabulary


def choose_device(config: TrainConfig) -> torch.device:
    """Where a run computes.

    Raises:
        ConfigError: A CUDA device is asked for and there is none, or half precision where there is no support for it.
    """
    there = torch.cuda.is_available()
    if config.device == "cuda" and not there:
        raise ConfigError("device = 'cuda' in [train], but PyTorch finds no CUDA device; give device = 'cpu' or 'auto'")
    device = torch.device("cuda" if there and config.device != "cpu" else "cpu")
    if config.precision == "float16" and device.type == "cpu":
        raise ConfigError(
            "precision = 'float16' in [train] needs a CUDA device; CPUs compute in 'float32', or some in 'bfloat16'"
        )
    return device


# phases


class _Tools(NamedTuple):
    """What a phase changes weights with."""

    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # of float16's gradients; does nothing otherwise
    average: MovingAverage
    parameters: list[nn.Parameter]


def run_phases(loop: Loop, phases: Sequence[Callable[[], Phase]], *, resume: bool) -> Position:
    """Trains phase after phase; the loop's weights, and best.safetensors, are the best of all at the end.

    Args:
        phases: Each builds a phase once the weights it begins with are in place.

    Raises:
        TrainingError: The loss is not a number, the checkpoint is of another run, or the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    state: dict[str, Any] | None = None
    if resume:
        state = _read_state(loop)
    elif loop.processes.leads:
        (loop.run / "metrics.csv").unlink(missing_ok=True)
    position = loop.position
    with stop_signals() as stop_requested:
        for number in range(position.phase, len(phases)):
            if position.best_epoch:
                loop.load(checkpoint.read_weights(loop.run / "best.safetensors"))
            torch.manual_seed(1000 * loop.config.seed + number)
            phase = phases[number]()
            tools = _build_tools(loop, phase)
            if state is not None:
                _restore(loop, tools, state)
                state = None
            loop.processes.align(list(loop.weights().values()))
            while position.epoch < phase.epochs and not _is_stale(loop):
                phase.begin_epoch(position.epoch)
                _train_epoch(loop, phase, tools, stop_requested)
                _finish_epoch(loop, phase, tools)
            if number + 1 < len(phases):
                position.begun, position.phase, position.epoch = position.begun + position.epoch, number + 1, 0
    loop.load(checkpoint.read_weights(loop.run / "best.safetensors"))
    return position


def _build_tools(loop: Loop, phase: Phase) -> _Tools:
    groups = [
        {"params": [parameter for parameter in group if parameter.requires_grad], "lr": rate, "peak": rate}
        for group, rate in phase.rates
    ]
    parameters = [parameter for group in groups for parameter in group["params"]]  # type: ignore[attr-defined]
    return _Tools(
        torch.optim.AdamW(groups, weight_decay=loop.config.weight_decay, betas=(0.9, 0.98)),
        torch.amp.GradScaler(loop.device.type, enabled=loop.config.precision == "float16"),
        MovingAverage(parameters, loop.config.average),
        parameters,
    )


def _is_stale(loop: Loop) -> bool:
    position = loop.position
    return position.begun + position.epoch - max(position.begun, position.best_epoch) >= loop.config.patience


def _train_epoch(loop: Loop, phase: Phase, tools: _Tools, stop_requested: Callable[[], bool]) -> None:
    """The rest of the epoch that the position names."""
    config, position, processes = loop.config, loop.position, loop.processes
    batches = _plan(loop, phase)
    total_steps = phase.epochs * len(batches)
    warmup_steps = phase.warmup_steps
    if warmup_steps is None:
        warmup_steps = min(config.warmup_steps, total_steps // 10)
    title = "" if phase.name == "words" else f"{phase.name} "
    loop.decoder.train()
    if loop.encoder is not None:
        loop.encoder.train()
    began = time.perf_counter() - position.seconds
    for source, items in batches[position.step :]:
        step = position.epoch * len(batches) + position.step
        loss = _cost(loop, phase, source, processes.share(items), step, total_steps)
        value, shown, tokens = processes.total(loss.value.item(), loss.shown * loss.tokens, loss.tokens)
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} in step {position.step + 1} of {title}epoch {position.epoch + 1}, "
                f"whose batch is {', '.join(source.names[item] for item in items)}; lower learning_rate, or look for "
                "damaged features"
            )
        if loss.tokens:
            tools.scaler.scale(loss.value * (loss.tokens / tokens) / phase.accumulate).backward()
        position.step += 1
        position.loss += shown
        position.tokens += tokens
        position.seconds = time.perf_counter() - began
        loop.progress(
            f"{title}epoch {position.epoch + 1}/{phase.epochs}, {phase.shows.removeprefix('train_')} "
            f"{position.loss / position.tokens:.3f}, {position.tokens / position.seconds:,.0f} tokens/s",
            position.step,
            len(batches),
        )
        if position.step % phase.accumulate and position.step < len(batches):
            continue
        processes.add_gradients(tools.parameters)
        _update(tools, schedule(step, warmup_steps, total_steps), config.clip_norm)
        if any(processes.total(float(stop_requested()))):
            _save(loop, tools)
            raise KeyboardInterrupt


def _cost(loop: Loop, phase: Phase, source: Source, items_B: NDArray[np.int64], step: int, total_steps: int) -> Loss:
    """What this process's share of a batch costs."""
    if not len(items_B):
        return Loss(torch.zeros(()), 0.0, 0.0)
    seeds = (loop.config.seed, loop.position.phase, step, *loop.processes.salt)
    if loop.processes.salt:  # the first process goes on drawing, as one alone does
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1)[0]))
    with _precision(loop):
        started = source.start(source.table.batch(items_B).to(loop.device), np.random.default_rng(seeds))
        return phase.loss(started, step / total_steps)


def _plan(loop: Loop, phase: Phase) -> list[tuple[Source, NDArray[np.int64]]]:
    """The batches of the epoch, the same however often a run is stopped."""
    rng = np.random.default_rng((loop.config.seed, loop.position.begun + loop.position.epoch))
    batches = [(source, items) for source in phase.sources for items in source.table.epoch(rng, phase.batch_pictures)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _precision(loop: Loop) -> Any:
    """The context in which matrix products are computed in the run's precision."""
    if loop.config.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(loop.device.type, getattr(torch, loop.config.precision))


def _update(tools: _Tools, share: float, clip_norm: float) -> None:
    """One step of the optimiser at a share of its peak rates."""
    for group in tools.optimiser.param_groups:
        group["lr"] = group["peak"] * share
    tools.scaler.unscale_(tools.optimiser)
    torch.nn.utils.clip_grad_norm_(tools.parameters, clip_norm)
    tools.scaler.step(tools.optimiser)
    tools.scaler.update()
    tools.optimiser.zero_grad(set_to_none=True)
    tools.average.update()


def schedule(step: int, warmup: int, total: int) -> float:
    """The share of the peak learning rate: a linear rise, then a half cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


def _finish_epoch(loop: Loop, phase: Phase, tools: _Tools) -> None:
    """Scores the epoch, keeps its weights when they are the best so far, and saves where the run stands."""
    if loop.processes.leads:
        _score_epoch(loop, phase, tools)
    vars(loop.position).update(loop.processes.agree(asdict(loop.position)))


def _score_epoch(loop: Loop, phase: Phase, tools: _Tools) -> None:
    position = loop.position
    began = time.perf_counter()
    with tools.average.in_place():
        loop.decoder.eval()
        if loop.encoder is not None:
            loop.encoder.eval()
        found = validate(loop.decoder, loop.vocabulary, phase.validation, loop.config)
        if found.metrics["CIDEr"] > position.best_score:
            position.best_score = found.metrics["CIDEr"]
            position.best_epoch = position.begun + position.epoch + 1
            checkpoint.write_weights(loop.run / "best.safetensors", loop.weights())
    row = _row(position, phase, found, time.perf_counter() - began)
    loop.progress(f"epoch {row['epoch']} ({phase.name}): val CIDEr {found.metrics['CIDEr']:.3f}", 1, 1)
    said = list(found.captions.items())
    for name, text in said[:: -(-len(said) // _SAMPLES)]:
        loop.progress(f"    {name}: {text}", 1, 1)
    append_row(loop.run / "metrics.csv", row)
    position.epoch, position.step = position.epoch + 1, 0
    position.loss = position.tokens = position.seconds = 0.0
    _save(loop, tools)
    loop.watch(row, found.captions)


def _row(position: Position, phase: Phase, found: Validated, seconds: float) -> Row:
    shown: Row = {"train_loss": "", "reward": "", phase.shows: round(position.loss / position.tokens, 6)}
    return {
        "epoch": position.begun + position.epoch + 1,
        "phase": phase.name,
        **shown,
        "val_loss": round(found.loss, 6),
        **{name: round(found.metrics[name], 6) for name in ("CIDEr", "BLEU-4", "ROUGE-L", "distinct", "mean_length")},
        "train_seconds": round(position.seconds, 1),
        "val_seconds": round(seconds, 1),
        "tokens_per_second": round(position.tokens / position.seconds),
        "memory_mb": anonymous_memory_mb(),
    }


def anonymous_memory_mb() -> int:
    """The process's memory that is not page cache, in MB (0 where the system does not tell)."""
    try:
        status = Path("/proc/self/status").read_text("utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) // 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)


def append_row(path: Path, row: Row) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


# stopping and going on


def _save(loop: Loop, tools: _Tools) -> None:
    if not loop.processes.leads:
        return
    state = {
        "identity": json.dumps(loop.identity, sort_keys=True),
        "position": asdict(loop.position),
        "weights": loop.weights(),
        "optimiser": tools.optimiser.state_dict(),
        "scaler": tools.scaler.state_dict(),
        "average": tools.average.state_dict(),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if loop.device.type == "cuda" else [],
    }
    checkpoint.write_checkpoint(loop.run / "checkpoint.pt", state)


def _read_state(loop: Loop) -> dict[str, Any]:
    state = checkpoint.read_checkpoint(loop.run / "checkpoint.pt")
    if state.get("identity") != json.dumps(loop.identity, sort_keys=True) or "weights" not in state:
        raise TrainingError(
            f"the checkpoint in {loop.run} is of a run with other settings or data; go on with the settings in its "
            "config.json, or give another directory"
        )
    loop.position = Position(**state["position"])
    if loop.processes.leads:
        drop_rows_after(loop.run / "metrics.csv", loop.position.begun + loop.position.epoch)
    return state


def _restore(loop: Loop, tools: _Tools, state: dict[str, Any]) -> None:
    loop.load(state["weights"])
    tools.optimiser.load_state_dict(state["optimiser"])
    tools.scaler.load_state_dict(state["scaler"])
    tools.average.load_state_dict(state["average"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"]:
        torch.cuda.set_rng_state_all(state["random_cuda"])


def drop_rows_after(path: Path, epoch: int) -> None:
    """Forgets the row of an epoch that was scored but not saved: it is trained again."""
    if path.exists():
        header, *rows = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(chain([header], rows[:epoch])), "utf-8")


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the loop to stop after its step; a second one stops at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def store_start(decoder: Decoder, store: FeatureStore, rows: NDArray[np.int64]) -> StartBatch:
    """Starts captions from the stored features of their pictures; `rows` are the table's pictures in the store."""

    def start(batch: Batch, rng: np.random.Generator) -> Started:
        features_BLD = torch.from_numpy(store.read(rows[batch.items_B])).to(batch.tokens_NT.device)
        return Started(batch, *decoder.start(features_BLD))

    return start
