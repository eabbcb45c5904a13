"""The decoder that a configuration asks for: features -> words, with the picture entering where `conditioning` says.

    conditioning   start                                         every step
    init           state from the mean feature                   -
    first          the projected mean feature is the first input -
    every          the projected mean feature -> context         the context
    merge          the projected mean feature                    - (it meets the cell's output before the words)
    concepts       confidences of content words -> context       the context
    concepts+vector  those and the projected mean -> context     the context
    attention, adaptive, topdown, concepts+grid: see `learn.attending`; with cell `transformer`: see `learn.transformer`

Words, cells and output layer are the same for every conditioning (`learn.steps`, `learn.cells`); they differ in what
`start` computes once a picture and in what one step adds to the word (Tanti et al. 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from showtell.learn.attending import AdaptiveDecoder, AttentionDecoder, TopDownDecoder
from showtell.learn.cells import Cell, State
from showtell.learn.concept_context import ConceptContext
from showtell.learn.config import LOOKS_AT_GRID, ModelConfig
from showtell.learn.steps import Decoder, Forced, Step, spread
from showtell.learn.transformer import TransformerDecoder
from showtell.text import PAD

_ATTENDING = {"attention": AttentionDecoder, "adaptive": AdaptiveDecoder, "topdown": TopDownDecoder}
_TOLD = ("concepts", "concepts+vector")


class VectorDecoder(Decoder):
    """A recurrent decoder that is given one vector a picture: `init`, `first`, `every`, `merge`, `concepts` or
    `concepts+vector`.

    Source: Karpathy & Fei-Fei 2015, eq. 13 to 15, and Vinyals et al. 2015, eq. 10 to 12, for `first`; Tanti et al. 2018
        for `init`, `every` ("par-inject") and `merge`; Wu et al. 2016 for `concepts`.

    Args:
        width: D, the features of one grid cell.
        concepts: C, the content words that are predicted.
    """

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden)
        embedding, hidden, conditioning = config.embedding, config.hidden, config.conditioning
        assert config.cell != "transformer"
        added = embedding if conditioning in ("every", *_TOLD) else 0
        self.cell = Cell(config.cell, embedding + added, hidden, layers=config.layers, dropout=config.dropout)
        if conditioning in ("init", *_TOLD):
            source = width if conditioning == "init" else embedding
            self.initial = nn.Linear(source, len(self.cell.names) * hidden)
        if conditioning in ("first", "every", "merge", "concepts+vector"):
            self.project = nn.Linear(width, embedding)
        if conditioning == "merge":
            self.merge = nn.Linear(hidden + embedding, hidden)
        if conditioning in _TOLD:
            self.concepts = ConceptContext(width, concepts, embedding)
        if conditioning == "concepts+vector":
            self.absent = nn.Parameter(torch.zeros(embedding))

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
        return self.start_from_concepts(self.concepts.head(pooled_BD), features_BLD)

    def start_from_concepts(self, logits_BC: Tensor, features_BLD: Tensor | None) -> tuple[State, State]:
        """The same from the content words' logits; captions without pictures have no features."""
        context_BE = self.concepts(logits_BC)
        if self.config.conditioning == "concepts+vector":
            context_BE = context_BE + (self.absent if features_BLD is None else self.project(features_BLD.mean(1)))
        context_BE = torch.tanh(context_BE)
        return {"context": context_BE}, self.cell.unpack(self.initial(context_BE))

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        if "context" in memory:
            inputs_NE = torch.cat((inputs_NE, spread(memory["context"], inputs_NE.shape[0])), -1)
        return self.look(memory, self.cell.step(inputs_NE, state))

    def look(self, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        """What `see` gives, from the cell's new state."""
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


class LookupDecoder(Decoder):
    """The same function as a `VectorDecoder`, for the search alone, with less to compute for each word.

    What a word adds to the gates of the first layer is looked up; what the context adds is computed at the start.

    Source: Devlin 2017, "Sharp Models on Dull Hardware", "pre-computed embeddings".
    """

    def __init__(self, decoder: VectorDecoder) -> None:
        super(Decoder, self).__init__()  # the layers are the other decoder's
        self.decoder = decoder
        words_VE = decoder.words.weight.detach()
        from_input_GX, _, bias_G, _ = (weights.detach() for weights in decoder.cell.network.all_weights[0])
        words_width = words_VE.shape[1]
        self.words = nn.Embedding.from_pretrained(functional.linear(words_VE, from_input_GX[:, :words_width], bias_G))
        self.from_context_GE = from_input_GX[:, words_width:].clone()

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        memory, state = self.decoder.start(features_BLD)
        if "context" in memory:
            memory = {"gates": functional.linear(memory["context"], self.from_context_GE)}
        return memory, state

    def step(self, tokens_N: Tensor, memory: State, state: State) -> Step:
        given_NG = self.words(tokens_N)
        if "gates" in memory:
            given_NG = given_NG + spread(memory["gates"], given_NG.shape[0])
        seen_NH, state, _ = self.decoder.look(memory, self.decoder.cell.step_given(given_NG, state))
        return Step(self.decoder.say(seen_NH), state, None)


def looks_at_grid(config: ModelConfig) -> bool:
    """Whether the decoder of a configuration needs more than the mean feature."""
    return config.conditioning in LOOKS_AT_GRID


def build_decoder(config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> Decoder:
    """The decoder that a configuration asks for.

    Args:
        width: D, the features of one grid cell.
        vocabulary_size: V.
        concepts: C, the content words that `concepts` conditionings predict (0 for the others).
    """
    if config.cell == "transformer":
        return TransformerDecoder(config, width=width, vocabulary_size=vocabulary_size)
    if config.conditioning == "concepts+grid":
        return AttentionDecoder(config, width=width, vocabulary_size=vocabulary_size, concepts=concepts)
    if config.conditioning in _ATTENDING:
        return _ATTENDING[config.conditioning](config, width=width, vocabulary_size=vocabulary_size)
    return VectorDecoder(config, width=width, vocabulary_size=vocabulary_size, concepts=concepts)
