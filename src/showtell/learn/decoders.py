"""The decoder: features -> words, with the picture entering where `conditioning` says (Tanti et al. 2018).

Words, cells and output layer are the same for every conditioning; they differ in what `start` computes once a picture
and in what one step adds to the word:

    conditioning   start                                         every step
    init           state from the mean feature                   -
    first          the projected mean feature is the first input -
    every          the projected mean feature -> context         the context
    merge          the projected mean feature                    - (it meets the cell's output before the words)
    concepts       confidences of content words -> context       the context
    attention, adaptive, topdown: see `learn.attending`; with cell `transformer`: see `learn.transformer`

`memory` is what stays the same for a picture (axis 0: pictures, never copied per hypothesis); `state` is what each
hypothesis owns (axis 0: hypotheses). With K hypotheses a picture, row n belongs to picture n // K.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from showtell.learn.cells import Cell, State
from showtell.learn.config import ModelConfig
from showtell.text import PAD


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


def spread(shared_BX: Tensor, rows: int) -> Tensor:
    """What the pictures share, for each of their hypotheses: (B, X) -> (rows, X)."""
    pictures, width = shared_BX.shape
    return shared_BX.unsqueeze(1).expand(-1, rows // pictures, -1).reshape(-1, width)


class VectorDecoder(Decoder):
    """A recurrent decoder that is given one vector a picture: `init`, `first`, `every`, `merge` or `concepts`.

    Source: Karpathy & Fei-Fei 2015, eq. 13 to 15, and Vinyals et al. 2015, eq. 10 to 12, for `first`; Tanti et al. 2018
        for `init`, `every` ("par-inject") and `merge`; Wu et al. 2016 for `concepts`.

    Args:
        width: D, the features of one grid cell.
        concepts: C, the content words that `concepts` predicts.
    """

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden)
        embedding, hidden, conditioning = config.embedding, config.hidden, config.conditioning
        assert config.cell != "transformer"
        added = embedding if conditioning in ("every", "concepts") else 0
        self.cell = Cell(config.cell, embedding + added, hidden, layers=config.layers, dropout=config.dropout)
        if conditioning in ("init", "concepts"):
            source = width if conditioning == "init" else embedding
            self.initial = nn.Linear(source, len(self.cell.names) * hidden)
        if conditioning in ("first", "every", "merge"):
            self.project = nn.Linear(width, embedding)
        if conditioning == "merge":
            self.merge = nn.Linear(hidden + embedding, hidden)
        if conditioning == "concepts":
            self.head = nn.Linear(width, concepts)
            self.context = nn.Linear(concepts, embedding)

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        pooled_BD = features_BLD.mean(1)
        match self.config.conditioning:
            case "init":
                return {}, self.cell.unpack(self.initial(pooled_BD))
            case "first":
                return {}, self.cell.step(self.project(pooled_BD), self.cell.zeros(pooled_BD))
            case "every":
                return {"context": torch.tanh(self.project(pooled_BD))}, self.cell.zeros(pooled_BD)
            case "merge":
                return {"picture": torch.tanh(self.project(pooled_BD))}, self.cell.zeros(pooled_BD)
        return self.start_from_concepts(self.head(pooled_BD))

    def start_from_concepts(self, logits_BC: Tensor) -> tuple[State, State]:
        """The same from the content words' logits, for captions that have no picture.

        The square root spreads the small probabilities that most content words have. It is taken of the logarithm,
        since ONNX Runtime's sigmoid is off by 1e-7, which is 3e-4 after a root near zero.
        """
        roots_BC = torch.exp(-0.5 * functional.softplus(-logits_BC))
        context_BE = torch.tanh(self.context(roots_BC))
        return {"context": context_BE}, self.cell.unpack(self.initial(context_BE))

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        if "context" in memory:
            inputs_NE = torch.cat((inputs_NE, spread(memory["context"], inputs_NE.shape[0])), -1)
        state = self.cell.step(inputs_NE, state)
        seen_NH = self.cell.top(state)
        if "picture" in memory:
            seen_NH = self._merge(seen_NH, spread(memory["picture"], seen_NH.shape[0]))
        return seen_NH, state, None

    def _merge(self, seen: Tensor, picture: Tensor) -> Tensor:
        return torch.relu(self.merge(torch.cat((self.dropout(seen), picture), -1)))

    def forward(self, memory: State, state: State, tokens_NT: Tensor, rows_N: Tensor) -> Forced:
        inputs_NTE = self.dropout(self.words(tokens_NT))
        shared_NTE = {
            name: value[rows_N].unsqueeze(1).expand(-1, tokens_NT.shape[1], -1) for name, value in memory.items()
        }
        if "context" in memory:
            inputs_NTE = torch.cat((inputs_NTE, shared_NTE["context"]), -1)
        seen_NTH = self.cell.run(inputs_NTE, {name: value[rows_N] for name, value in state.items()})
        real_NT = tokens_NT != PAD
        seen_MH = seen_NTH[real_NT]
        if "picture" in memory:
            seen_MH = self._merge(seen_MH, shared_NTE["picture"][real_NT])
        return Forced(self.say(seen_MH), None)


def build_decoder(config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> Decoder:
    """The decoder that a configuration asks for.

    Args:
        width: D, the features of one grid cell.
        vocabulary_size: V.
        concepts: C, the content words that `concepts` conditioning predicts (0 for the others).
    """
    from showtell.learn.attending import AdaptiveDecoder, AttentionDecoder, TopDownDecoder
    from showtell.learn.transformer import TransformerDecoder

    if config.cell == "transformer":
        return TransformerDecoder(config, width=width, vocabulary_size=vocabulary_size)
    attending = {"attention": AttentionDecoder, "adaptive": AdaptiveDecoder, "topdown": TopDownDecoder}
    if config.conditioning in attending:
        return attending[config.conditioning](config, width=width, vocabulary_size=vocabulary_size)
    return VectorDecoder(config, width=width, vocabulary_size=vocabulary_size, concepts=concepts)
