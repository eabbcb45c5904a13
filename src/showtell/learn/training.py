"""Train a captioner: examples -> a run directory with a bundle in it.

A run directory holds
    config.json        the settings
    features/          the store of the encoded pictures
    encoder.safetensors  the encoder's weights, tuned or as they came
    word_vectors.bin   the pretrained vectors of its words, when it starts from some
    vocabulary.json, data.json, val.jsonl   what the export needs to know of the data
    checkpoint.pt      where a stopped run goes on
    best.safetensors   the decoder of the best epoch; tuned.safetensors after `pair_epochs`
    metrics.csv        a row an epoch; curves.png draws it
    bundle/            the captioner
The loop is plain PyTorch: teacher forcing with label smoothing, AdamW with warm-up and a cosine, and after each epoch a
real beam search on the `val` pictures, whose CIDEr decides which epoch is kept and when to stop.
"""

from __future__ import annotations

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
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from showtell.decoding import Arrays, SearchOptions, StepOutput, search
from showtell.errors import ConfigError, TrainingError
from showtell.learn import checkpoint
from showtell.learn.batches import Batch, CaptionTable
from showtell.learn.cells import State
from showtell.learn.config import TrainConfig
from showtell.learn.features import FeatureStore
from showtell.learn.progress import Progress, silent
from showtell.learn.steps import Decoder
from showtell.metrics import score
from showtell.records import Example
from showtell.text import PAD, Vocabulary, join_words, tokenise

_PAIR_BATCH = 64  # pictures a step of `tune_on_pairs`

StartBatch = Callable[[Batch], tuple[State, State]]  # (memory, state) of a batch's pictures


@dataclass
class Position:
    """Where a run stands; all of it goes into the checkpoint."""

    epoch: int = 0  # finished epochs
    step: int = 0  # finished steps of the epoch under way
    loss: float = 0.0  # summed over the tokens of the epoch under way
    tokens: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -1.0


@dataclass(frozen=True)
class Source:
    """Captions to train on, and how their pictures start the decoder."""

    table: CaptionTable
    start: StartBatch
    names: Sequence[str]  # the id of each picture, for messages


@dataclass(frozen=True)
class Validation:
    """The pictures that are captioned after each epoch."""

    examples: Sequence[Example]
    table: CaptionTable
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]]  # picture numbers -> features (B, L, D)


@dataclass
class Loop:
    """What the epochs share."""

    config: TrainConfig
    decoder: Decoder
    vocabulary: Vocabulary
    sources: Sequence[Source]
    validation: Validation
    run: Path
    identity: dict[str, Any]  # what must be the same for a checkpoint to be of this run
    progress: Progress = silent
    position: Position = field(default_factory=Position)


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


def run_epochs(loop: Loop, *, resume: bool) -> Position:
    """Trains until the last epoch or until validation stops improving; the best decoder is in best.safetensors.

    Raises:
        TrainingError: The loss is not a number, the checkpoint is of another run, or the disk is full.
        KeyboardInterrupt: SIGINT or SIGTERM came; the checkpoint has been written.
    """
    optimiser = torch.optim.AdamW(
        [parameter for parameter in loop.decoder.parameters() if parameter.requires_grad],
        lr=loop.config.learning_rate,
        weight_decay=loop.config.weight_decay,
        betas=(0.9, 0.98),
    )
    if resume:
        _restore(loop, optimiser)
    else:
        (loop.run / "metrics.csv").unlink(missing_ok=True)
    position = loop.position
    with _stop_requested() as stop_requested:
        while position.epoch < loop.config.epochs and not _is_stale(loop):
            _train_epoch(loop, optimiser, stop_requested)
            row = _validate(loop)
            _append_row(loop.run / "metrics.csv", row)
            position.epoch, position.step = position.epoch + 1, 0
            position.loss = position.tokens = position.seconds = 0.0
            _save(loop, optimiser)
    loop.decoder.load_state_dict(checkpoint.read_weights(loop.run / "best.safetensors"))
    return position


def tune_on_pairs(loop: Loop) -> None:
    """A few passes over the pictures with captions alone, from the best epoch on; the result is tuned.safetensors.

    Takes seconds, so a stop in between starts it again.
    """
    config, pairs = loop.config, loop.sources[0]
    kept = loop.run / "tuned.safetensors"
    if not config.pair_epochs or kept.exists():
        return
    torch.manual_seed(config.seed)
    parameters = [parameter for parameter in loop.decoder.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=config.pair_rate, weight_decay=config.weight_decay, betas=(0.9, 0.98))
    loop.decoder.train()
    for epoch in range(config.pair_epochs):
        batches = pairs.table.epoch(np.random.default_rng(epoch), _PAIR_BATCH)
        for number, items in enumerate(batches, 1):
            batch = pairs.table.batch(items)
            loss, _ = caption_loss(loop.decoder, *pairs.start(batch), batch, config.label_smoothing)
            _update(loop.decoder, optimiser, loss, config.clip_norm)
            loop.progress(f"tuning on pairs, pass {epoch + 1}/{config.pair_epochs}", number, len(batches))
    checkpoint.write_weights(kept, loop.decoder.state_dict())


def _update(decoder: Decoder, optimiser: torch.optim.Optimizer, loss: Tensor, clip_norm: float) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(decoder.parameters(), clip_norm)
    optimiser.step()


def _is_stale(loop: Loop) -> bool:
    return loop.position.epoch - loop.position.best_epoch >= loop.config.patience


def _train_epoch(loop: Loop, optimiser: torch.optim.Optimizer, stop_requested: Callable[[], bool]) -> None:
    """The rest of the epoch that the position names."""
    config, position = loop.config, loop.position
    batches = _plan(loop)
    total_steps = config.epochs * len(batches)
    loop.decoder.train()
    began = time.perf_counter() - position.seconds
    for source, items in batches[position.step :]:
        step = position.epoch * len(batches) + position.step
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config.warmup_steps, total_steps)
        batch = source.table.batch(items)
        memory, state = source.start(batch)
        loss, tokens = caption_loss(loop.decoder, memory, state, batch, config.label_smoothing)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in step {position.step + 1} of epoch {position.epoch + 1}, whose batch is "
                f"{', '.join(source.names[item] for item in items)}; lower learning_rate, or look for damaged features"
            )
        _update(loop.decoder, optimiser, loss, config.clip_norm)
        position.step += 1
        position.loss += loss.item() * tokens
        position.tokens += tokens
        position.seconds = time.perf_counter() - began
        loop.progress(
            f"epoch {position.epoch + 1}/{config.epochs}, loss {position.loss / position.tokens:.3f}, "
            f"{position.tokens / position.seconds:,.0f} tokens/s",
            position.step,
            len(batches),
        )
        if stop_requested():
            _save(loop, optimiser)
            raise KeyboardInterrupt


def _plan(loop: Loop) -> list[tuple[Source, NDArray[np.int64]]]:
    """The batches of the epoch, the same however often a run is stopped."""
    rng = np.random.default_rng((loop.config.seed, loop.position.epoch))
    batches = [
        (source, items) for source in loop.sources for items in source.table.epoch(rng, loop.config.batch_pictures)
    ]
    return [batches[i] for i in rng.permutation(len(batches))]


def caption_loss(
    decoder: Decoder, memory: State, state: State, batch: Batch, label_smoothing: float
) -> tuple[Tensor, float]:
    """(mean cross-entropy of a token in nats, number of tokens), each caption counted by its weight."""
    logits_MV = decoder(memory, state, batch.tokens_NT[:, :-1], batch.rows_N).logits_MV
    inputs, targets = batch.tokens_NT[:, :-1], batch.tokens_NT[:, 1:]
    weights_M = batch.weights_N[:, None].expand_as(targets)[inputs != PAD]
    targets_M = targets[inputs != PAD]
    weights_M = weights_M * (targets_M != PAD)  # after a shorter caption's END comes nothing
    losses_M = functional.cross_entropy(logits_MV, targets_M, reduction="none", label_smoothing=label_smoothing)
    total = weights_M.sum()
    return (losses_M * weights_M).sum() / total, float(total)


def _schedule(step: int, warmup: int, total: int) -> float:
    """The share of the peak learning rate: a linear rise, then a half cosine to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))


# validation


class TorchStep:
    """A decoder as the search wants it: numpy in, numpy out. It keeps nothing between calls."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.eval()

    @torch.inference_mode()
    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        memory, state = self.decoder.start(torch.from_numpy(features_BLD))
        return _to_numpy(memory), _to_numpy(state)

    @torch.inference_mode()
    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays) -> StepOutput:
        step = self.decoder.step(torch.from_numpy(tokens_N), _to_torch(memory), _to_torch(state))
        alpha = None if step.alpha_NL is None else step.alpha_NL.numpy()
        return StepOutput(step.logits_NV.log_softmax(-1).numpy(), _to_numpy(step.state), alpha)


def _to_numpy(tensors: State) -> Arrays:
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def _to_torch(arrays: Arrays) -> State:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def search_options(config: TrainConfig) -> SearchOptions:
    """The search by which a run is validated and its bundle speaks."""
    return SearchOptions(beam=config.beam, length_penalty=config.length_penalty)


def caption_examples(
    decoder: Decoder,
    vocabulary: Vocabulary,
    validation: Validation,
    options: SearchOptions,
    batch_pictures: int = 64,
) -> Iterator[str]:
    """The best caption of each picture, in order."""
    step = TorchStep(decoder)
    for items in validation.table.in_order(batch_pictures):
        for best in search(step, validation.read(items), options):
            yield join_words(vocabulary.decode(best[0].tokens))


def _validate(loop: Loop) -> dict[str, float | int | str]:
    """The row of metrics.csv for the epoch that has just ended; keeps the decoder when it is the best so far."""
    config, position, validation = loop.config, loop.position, loop.validation
    began = time.perf_counter()
    loop.decoder.eval()
    loss = tokens = 0.0
    with torch.inference_mode():
        for items in validation.table.in_order(config.batch_pictures):
            batch = validation.table.batch(items)
            memory, state = loop.decoder.start(torch.from_numpy(validation.read(items)))
            value, count = caption_loss(loop.decoder, memory, state, batch, 0.0)
            loss, tokens = loss + float(value) * count, tokens + count
    texts = list(caption_examples(loop.decoder, loop.vocabulary, validation, search_options(config)))
    candidates = {example.id: text for example, text in zip(validation.examples, texts, strict=True)}
    references = {example.id: example.references for example in validation.examples}
    metrics = score(candidates, references, split="val", beam=config.beam).metrics
    if metrics["CIDEr"] > position.best_score:
        position.best_score, position.best_epoch = metrics["CIDEr"], position.epoch + 1
        checkpoint.write_weights(loop.run / "best.safetensors", loop.decoder.state_dict())
    example = validation.examples[0]
    loop.progress(
        f"epoch {position.epoch + 1}: val CIDEr {metrics['CIDEr']:.3f}, {Path(example.id).name}: {texts[0]}",
        1,
        1,
    )
    return {
        "epoch": position.epoch + 1,
        "train_loss": round(position.loss / position.tokens, 6),
        "val_loss": round(loss / tokens, 6),
        **{name: round(metrics[name], 6) for name in ("CIDEr", "BLEU-4", "ROUGE-L", "distinct", "mean_length")},
        "train_seconds": round(position.seconds, 1),
        "val_seconds": round(time.perf_counter() - began, 1),
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


def _append_row(path: Path, row: dict[str, float | int | str]) -> None:
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)


# stopping and going on


def _save(loop: Loop, optimiser: torch.optim.Optimizer) -> None:
    state = {
        "identity": json.dumps(loop.identity, sort_keys=True),
        "position": asdict(loop.position),
        "decoder": loop.decoder.state_dict(),
        "optimiser": optimiser.state_dict(),
        "random": torch.get_rng_state(),
    }
    checkpoint.write_checkpoint(loop.run / "checkpoint.pt", state)


def _restore(loop: Loop, optimiser: torch.optim.Optimizer) -> None:
    state = checkpoint.read_checkpoint(loop.run / "checkpoint.pt")
    if state["identity"] != json.dumps(loop.identity, sort_keys=True):
        raise TrainingError(
            f"the checkpoint in {loop.run} is of a run with other settings or data; go on with the settings in its "
            "config.json, or give another directory"
        )
    loop.decoder.load_state_dict(state["decoder"])
    optimiser.load_state_dict(state["optimiser"])
    torch.set_rng_state(state["random"])
    loop.position = Position(**state["position"])
    _drop_rows_after(loop.run / "metrics.csv", loop.position.epoch)


def _drop_rows_after(path: Path, epoch: int) -> None:
    """Forgets the row of an epoch that was scored but not saved: it is trained again."""
    if path.exists():
        header, *rows = path.read_text("utf-8").splitlines(keepends=True)
        path.write_text("".join(chain([header], rows[:epoch])), "utf-8")


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
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
    return lambda batch: decoder.start(torch.from_numpy(store.read(rows[batch.items_B])))
