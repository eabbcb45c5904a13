"""The contract of all decoders: `start` once a picture, `step` once a word, teacher forcing for training.

`memory` is what stays the same for a picture (axis 0: pictures, never copied per hypothesis); `state` is what each
hypothesis owns (axis 0: hypotheses). With K hypotheses a picture, row n belongs to picture n // K.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from showtell.learn.cells import State
from showtell.learn.config import ModelConfig
from showtell.text import PAD

_OF_WORDS = ("words.weight", "output.weight", "output.bias")  # a row a word


class Step(NamedTuple):
    """Shape: logits (N, V); alpha (N, L), the attention over the grid, or None."""

    logits_NV: Tensor
    state: State
    alpha_NL: Tensor | None


class Forced(NamedTuple):
    """What teacher forcing gives.

    Shape: logits (M, V), after each of the M tokens that are not PAD, caption by caption; alpha (N, T, L), the
        attention at every place, or None.
    """

    logits_MV: Tensor
    alpha_NTL: Tensor | None


class Decoder(nn.Module):
    """What every decoder has: words going in, and an output layer over what the rest has `seen`.

    With `tie_words` the output layer is the embedding once more, behind a projection (Press & Wolf 2017).

    Args:
        vocabulary_size: V.
        seen: The width of what the output layer looks at.
    """

    attends = False
    growing: frozenset[str] = frozenset()  # parts of the state whose axis 1 has an entry for every word so far

    def __init__(self, config: ModelConfig, *, vocabulary_size: int, seen: int) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(vocabulary_size, config.embedding, padding_idx=PAD)
        self.dropout = nn.Dropout(config.dropout)
        self.narrow = nn.Linear(seen, config.embedding) if config.tie_words else None
        self.output = nn.Linear(config.embedding if config.tie_words else seen, vocabulary_size)
        with torch.no_grad():
            nn.init.uniform_(self.words.weight, -0.1, 0.1)
            self.words.weight[PAD].zero_()
            nn.init.uniform_(self.output.weight, -0.1, 0.1)
            self.output.bias.zero_()
        if config.tie_words:
            self.output.weight = self.words.weight

    def expect_words(self, counts_V: Tensor) -> None:
        """Starts the output layer's bias from how often each word is said, so that a new decoder knows that much."""
        with torch.no_grad():
            self.output.bias.copy_(torch.log((counts_V + 0.1) / (counts_V + 0.1).sum()))

    def load_words(self, embedding_VE: Tensor, *, tune: bool) -> None:
        """Starts the embedding of words somewhere else; unless `tune`, it stays there."""
        with torch.no_grad():
            self.words.weight.copy_(embedding_VE)
        self.words.requires_grad_(tune)

    # what each kind of decoder defines

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        """(memory, state) before the first word, one hypothesis a picture."""
        raise NotImplementedError

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        """(what the output layer sees, the new state, the attention) after one embedded word."""
        raise NotImplementedError

    # the same for all

    def step(self, tokens_N: Tensor, memory: State, state: State) -> Step:
        """The logits of the next word and the state after `tokens_N`."""
        seen_NX, state, alpha_NL = self.see(self.dropout(self.words(tokens_N)), memory, state)
        return Step(self.say(seen_NX), state, alpha_NL)

    def say(self, seen: Tensor) -> Tensor:
        """The logits of the words."""
        seen = self.dropout(seen)
        return self.output(seen if self.narrow is None else self.narrow(seen))

    def forward(self, memory: State, state: State, tokens_NT: Tensor, rows_N: Tensor) -> Forced:
        """Teacher forcing: the logits after each token.

        Args:
            memory: From `start`, B pictures.
            state: From `start`, B pictures.
            tokens_NT: N captions from START on, padded with PAD at the end.
            rows_N: The picture (0 to B - 1) of each caption; the references of a picture share its memory.
        """
        memory = {name: value[rows_N] for name, value in memory.items()}
        state = {name: value[rows_N] for name, value in state.items()}
        inputs_NTE = self.dropout(self.words(tokens_NT))
        seen, alphas = [], []
        for inputs_NE in inputs_NTE.unbind(1):
            seen_NX, state, alpha_NL = self.see(inputs_NE, memory, state)
            seen.append(seen_NX)
            alphas.append(alpha_NL)
        logits_MV = self.say(torch.stack(seen, 1)[tokens_NT != PAD])
        return Forced(logits_MV, torch.stack(alphas, 1) if self.attends else None)  # type: ignore[arg-type]


def keep_words(weights: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """A decoder's weights for the first `count` tokens of its vocabulary alone; their odds stay."""
    return {name: tensor[:count] if name in _OF_WORDS else tensor for name, tensor in weights.items()}


def spread(shared_BX: Tensor, rows: int) -> Tensor:
    """What the pictures share, for each of their hypotheses: (B, X) -> (rows, X)."""
    pictures, width = shared_BX.shape
    return shared_BX.unsqueeze(1).expand(-1, rows // pictures, -1).reshape(-1, width)
