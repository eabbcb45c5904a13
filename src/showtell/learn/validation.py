"""A decoder under training and pictures of `val` -> captions by real beam search, and their scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.decoding import Arrays, SearchOptions, StepOutput, search
from showtell.learn.batches import CaptionTable
from showtell.learn.cells import State
from showtell.learn.config import TrainConfig
from showtell.learn.losses import caption_loss
from showtell.learn.steps import Decoder
from showtell.metrics import score
from showtell.records import Example
from showtell.text import Vocabulary, join_words


@dataclass(frozen=True)
class Validation:
    """The pictures that are captioned after each epoch."""

    examples: Sequence[Example]
    table: CaptionTable
    read: Callable[[NDArray[np.int64]], NDArray[np.float32]]  # picture numbers -> features (B, L, D)


@dataclass(frozen=True)
class Validated:
    """What an epoch's validation found.

    Units: `loss` is the cross-entropy of a reference's token in nats.
    """

    loss: float
    metrics: dict[str, float]
    captions: dict[str, str]  # by the picture's id


class TorchStep:
    """A decoder as the search wants it: numpy in, numpy out. It keeps nothing between calls."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder.eval()
        self._device = decoder.words.weight.device

    @torch.inference_mode()
    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        memory, state = self.decoder.start(torch.from_numpy(features_BLD).to(self._device))
        return _to_numpy(memory), _to_numpy(state)

    @torch.inference_mode()
    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        tokens = torch.from_numpy(tokens_N).to(self._device)
        step = self.decoder.step(tokens, self._to_torch(memory), self._to_torch(state))
        alpha = None if step.alpha_NL is None else step.alpha_NL.cpu().numpy()
        return StepOutput(step.logits_NV.log_softmax(-1).cpu().numpy(), _to_numpy(step.state), alpha)

    def _to_torch(self, arrays: Arrays) -> State:
        return {name: torch.from_numpy(array).to(self._device) for name, array in arrays.items()}


def _to_numpy(tensors: State) -> Arrays:
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def search_options(config: TrainConfig) -> SearchOptions:
    """The search by which a run is validated and its bundle speaks."""
    return SearchOptions(beam=config.beam, length_penalty=config.length_penalty)


def validate(decoder: Decoder, vocabulary: Vocabulary, validation: Validation, config: TrainConfig) -> Validated:
    """The loss on the references, and the scores of the captions that the search finds."""
    step, options = TorchStep(decoder), search_options(config)
    texts: list[str] = []
    loss = tokens = 0.0
    for items in validation.table.in_order(config.batch_pictures):
        features_BLD = validation.read(items)
        value, count = _reference_loss(decoder, features_BLD, validation.table, items)
        loss, tokens = loss + value * count, tokens + count
        texts += [join_words(vocabulary.decode(best[0].tokens)) for best in search(step, features_BLD, options)]
    candidates = {example.id: text for example, text in zip(validation.examples, texts, strict=True)}
    references = {example.id: example.references for example in validation.examples}
    metrics = score(candidates, references, split="val", beam=config.beam).metrics
    return Validated(loss / tokens, metrics, candidates)


@torch.inference_mode()
def _reference_loss(
    decoder: Decoder, features_BLD: NDArray[np.float32], table: CaptionTable, items: NDArray[np.int64]
) -> tuple[float, float]:
    device = decoder.words.weight.device
    batch = table.batch(items).to(device)
    memory, state = decoder.start(torch.from_numpy(features_BLD).to(device))
    value, count = caption_loss(decoder, memory, state, batch, 0.0)
    return float(value), count
