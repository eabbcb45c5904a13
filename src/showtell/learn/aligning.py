"""Train an alignment model on the stored features of a frozen encoder: epochs over pictures -> the best weights.

A run's directory holds what `training` lists; metrics.csv has recall in place of CIDEr. An epoch that was not finished
is trained again, to the same numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.errors import TrainingError
from showtell.learn import checkpoint
from showtell.learn.alignment import Alignment, alignment_loss
from showtell.learn.batches import CaptionTable
from showtell.learn.config import RunConfig
from showtell.learn.features import FeatureStore
from showtell.learn.progress import Progress, silent
from showtell.learn.training import (
    Row,
    Watch,
    anonymous_memory_mb,
    append_row,
    drop_rows_after,
    schedule,
    stop_signals,
    unwatched,
)
from showtell.metrics.retrieval import retrieval
from showtell.text import PAD

_PICTURES = 256  # of `val` that are looked at together


@dataclass(frozen=True)
class Captions:
    """The distinct captions of some pictures, without START and END.

    Attributes:
        table: Their tokens.
        ids: For each picture the number of each of its captions; captions that are told in the same words, of whatever
            picture, have the same number.
        weights: How many references each stands for.
    """

    table: list[list[NDArray[np.int64]]]
    ids: list[NDArray[np.int64]]
    weights: list[NDArray[np.float64]]

    @classmethod
    def of(cls, captions: CaptionTable) -> Captions:
        numbers: dict[tuple[int, ...], int] = {}
        table, ids, weights = [], [], []
        for item in range(len(captions)):
            found = [(tokens[1:-1], weight) for tokens, weight in captions.captions_of(item) if len(tokens) > 2]
            table.append([tokens for tokens, _ in found])
            ids.append(np.array([numbers.setdefault(tuple(tokens.tolist()), len(numbers)) for tokens, _ in found]))
            weights.append(np.array([weight for _, weight in found]))
        return cls(table, ids, weights)

    def draw(self, items: NDArray[np.int64], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One caption of each picture, by weight: (tokens (B, T), which caption is wrong of which picture (B, B))."""
        chosen = [rng.choice(len(self.ids[i]), p=self.weights[i] / self.weights[i].sum()) for i in items]
        numbers_B = np.array([self.ids[i][c] for i, c in zip(items, chosen, strict=True)])
        wrong_BB = ~np.stack([np.isin(numbers_B, self.ids[i]) for i in items])
        return pad([self.table[i][c] for i, c in zip(items, chosen, strict=True)]), torch.from_numpy(wrong_BB)


def pad(captions: Sequence[NDArray[np.int64]]) -> Tensor:
    """Captions as rows of one length, (N, T)."""
    tokens_NT = np.full((len(captions), max(map(len, captions))), PAD, np.int64)
    for row, tokens in zip(tokens_NT, captions, strict=True):
        row[: len(tokens)] = tokens
    return torch.from_numpy(tokens_NT)


@dataclass
class AlignmentLoop:
    """A training under way.

    Args:
        rows: Of the store, for the pictures of `captions`; `val_rows` for those of `val`.
        identity: What must be the same for a checkpoint to be of this run.
    """

    config: RunConfig
    model: Alignment
    run: Path
    store: FeatureStore
    captions: Captions
    rows: NDArray[np.int64]
    val: Captions
    val_rows: NDArray[np.int64]
    identity: dict[str, Any]
    watch: Watch = unwatched
    progress: Progress = silent
    epoch: int = 0  # finished ones
    best_epoch: int = 0
    best_score: float = -1.0
    scores: dict[str, float] = field(default_factory=dict)  # of the best epoch


def align(loop: AlignmentLoop, *, resume: bool) -> dict[str, float]:
    """Trains, leaves the best weights in the model and in best.safetensors, and returns their recall on `val`.

    Raises:
        TrainingError: The loss is not a number, or the checkpoint is of another run.
        KeyboardInterrupt: SIGINT or SIGTERM came; the epochs before this one are in the checkpoint.
    """
    config = loop.config.train
    optimiser = torch.optim.AdamW(
        [parameter for parameter in loop.model.parameters() if parameter.requires_grad],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )
    if resume:
        _restore(loop, optimiser)
    else:
        (loop.run / "metrics.csv").unlink(missing_ok=True)
    with stop_signals() as stop:
        while loop.epoch < config.epochs and loop.epoch - loop.best_epoch < config.patience:
            row = _train_epoch(loop, optimiser, stop)
            _finish_epoch(loop, row)
            _save(loop, optimiser)
    loop.model.load_state_dict(checkpoint.read_weights(loop.run / "best.safetensors"))
    return loop.scores


def _train_epoch(loop: AlignmentLoop, optimiser: torch.optim.Optimizer, stop: Any) -> Row:
    assert loop.config.alignment is not None
    config, began = loop.config.train, perf_counter()
    rng = np.random.default_rng((config.seed, loop.epoch))
    torch.manual_seed(1000 * config.seed + loop.epoch)
    order = rng.permutation(np.flatnonzero([len(ids) for ids in loop.captions.ids]))
    batches = [order[i : i + config.batch_pictures] for i in range(0, len(order), config.batch_pictures)]
    device, shown = loop.model.pool_RL.device, 0.0
    loop.model.train()
    for number, items in enumerate(batches):
        tokens_BT, wrong_BB = loop.captions.draw(items, rng)
        features_BLD = torch.from_numpy(loop.store.read(loop.rows[items])).to(device)
        loss = alignment_loss(
            loop.model.see(features_BLD),
            loop.model.read(tokens_BT.to(device)),
            torch.arange(len(items), device=device),
            wrong_BB.to(device),
            loop.config.alignment,
            warm=loop.epoch >= loop.config.alignment.sum_epochs,
        )
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {loss.item()} in step {number + 1} of epoch {loop.epoch + 1}; lower learning_rate, or "
                "look for damaged features"
            )
        step = loop.epoch * len(batches) + number
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * schedule(step, config.warmup_steps, config.epochs * len(batches))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loop.model.parameters(), config.clip_norm)
        optimiser.step()
        shown += loss.item()
        loop.progress(
            f"epoch {loop.epoch + 1}/{config.epochs}, loss {shown / (number + 1):.3f}", number + 1, len(batches)
        )
        if stop():
            raise KeyboardInterrupt
    return {
        "epoch": loop.epoch + 1,
        "phase": "alignment",
        "train_loss": round(shown / len(batches), 6),
        "train_seconds": round(perf_counter() - began, 1),
    }


def _finish_epoch(loop: AlignmentLoop, row: Row) -> None:
    began = perf_counter()
    scores = recall(loop.model, loop.store, loop.val_rows, loop.val)
    if scores["mean recall"] > loop.best_score:
        loop.best_score, loop.best_epoch, loop.scores = scores["mean recall"], loop.epoch + 1, scores
        checkpoint.write_weights(loop.run / "best.safetensors", loop.model.state_dict())
    numbers = {name: round(value, 6) for name, value in scores.items()}
    timing = {"val_seconds": round(perf_counter() - began, 1), "memory_mb": anonymous_memory_mb()}
    row = {**row, **numbers, **timing}
    append_row(loop.run / "metrics.csv", row)
    loop.watch(row, {})
    loop.progress(f"epoch {loop.epoch + 1}: val mean recall {scores['mean recall']:.3f}", 1, 1)
    loop.epoch += 1


@torch.inference_mode()
def recall(model: Alignment, store: FeatureStore, rows: NDArray[np.int64], captions: Captions) -> dict[str, float]:
    """Recall and median rank of pictures and sentences in both directions, and `mean recall` of the six R@K.

    References that say the same of a picture count as often as they are there.
    """
    model.eval()
    device = model.pool_RL.device
    told = np.flatnonzero([len(ids) for ids in captions.ids])
    pictures = [
        model.see(torch.from_numpy(store.read(rows[part])).to(device)).pictures_BE.cpu()
        for part in np.array_split(told, -(-len(told) // _PICTURES))
    ]
    texts = [(place, tokens) for place, item in enumerate(told) for tokens in captions.table[item]]
    sentences = [
        model.read(pad([tokens for _, tokens in texts[i : i + _PICTURES]]).to(device)).sentences_NE.cpu()
        for i in range(0, len(texts), _PICTURES)
    ]
    repeats = np.concatenate([captions.weights[item] for item in told]).astype(np.int64)
    owner_N = np.repeat([place for place, _ in texts], repeats)
    similarity_BN = np.repeat((torch.cat(pictures) @ torch.cat(sentences).T).numpy(), repeats, axis=1)
    return retrieval(similarity_BN, owner_N)


# stopping and going on


def _save(loop: AlignmentLoop, optimiser: torch.optim.Optimizer) -> None:
    state = {
        "identity": json.dumps(loop.identity, sort_keys=True),
        "position": [loop.epoch, loop.best_epoch, loop.best_score],
        "scores": loop.scores,
        "weights": loop.model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    checkpoint.write_checkpoint(loop.run / "checkpoint.pt", state)


def _restore(loop: AlignmentLoop, optimiser: torch.optim.Optimizer) -> None:
    state = checkpoint.read_checkpoint(loop.run / "checkpoint.pt")
    if state.get("identity") != json.dumps(loop.identity, sort_keys=True) or "scores" not in state:
        raise TrainingError(
            f"the checkpoint in {loop.run} is of a run with other settings or data; go on with the settings in its "
            "config.json, or give another directory"
        )
    loop.epoch, loop.best_epoch, loop.best_score = state["position"]
    loop.scores = state["scores"]
    loop.model.load_state_dict(state["weights"])
    optimiser.load_state_dict(state["optimiser"])
    drop_rows_after(loop.run / "metrics.csv", loop.epoch)
