"""Decoders that look at the picture's grid before or after every word.

    attention   soft attention of the state before the word, gated (Xu et al. 2015, sec. 4.2)
    concepts+grid  the same, told the confidences of content words at every word too
    adaptive    attention of the state after the word, beside a sentinel that stands for not looking (Lu et al. 2017)
    topdown     one cell that looks and one that speaks (Anderson et al. 2018, sec. 3.2)

All differ from the papers in the attention's score, a scaled dot product in place of a perceptron, so that the
hypotheses of a picture share its keys in one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from showtell.learn.cells import Cell, State
from showtell.learn.concept_context import ConceptContext
from showtell.learn.config import ModelConfig
from showtell.learn.steps import Decoder, spread


class GridAttention(nn.Module):
    """Where to look: a query a hypothesis against the keys of its picture's grid.

    Args:
        width: D, of a grid cell.
        asked: The width of what the query is made from.
        values: The width of what comes back.
    """

    def __init__(self, width: int, asked: int, keys: int, values: int) -> None:
        super().__init__()
        self.keys = nn.Linear(width, keys)
        self.values = nn.Linear(width, values)
        self.query = nn.Linear(asked, keys)

    def remember(self, features_BLD: Tensor) -> State:
        """What is computed once a picture: keys (B, L, A) and values (B, L, X)."""
        return {"keys": self.keys(features_BLD), "values": self.values(features_BLD)}

    def score(self, asked_NX: Tensor, memory: State) -> Tensor:
        """(B, K, L): how well each cell fits each hypothesis."""
        keys_BLA = memory["keys"]
        pictures, _, width = keys_BLA.shape
        query_BKA = self.query(asked_NX).view(pictures, -1, width)
        return query_BKA @ keys_BLA.transpose(1, 2) * width**-0.5

    def look(self, scores_BKL: Tensor, memory: State) -> tuple[Tensor, Tensor]:
        """(context (N, X), alpha (N, L)) of the scores."""
        alpha_BKL = scores_BKL.softmax(-1)
        values_BLX = memory["values"]
        context_NX = (alpha_BKL @ values_BLX).reshape(-1, values_BLX.shape[-1])
        return context_NX, alpha_BKL.reshape(-1, values_BLX.shape[1])


class AttentionDecoder(Decoder):
    """Soft attention with the gating scalar beta (Xu et al. 2015, sec. 4.2.1); state from the mean feature.

    Args:
        concepts: C, the content words that `concepts+grid` predicts; 0: none.
    """

    attends = True

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int, concepts: int = 0) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden + config.attention)
        assert config.cell != "transformer"
        inputs = config.embedding * (2 if concepts else 1) + config.attention
        self.cell = Cell(config.cell, inputs, config.hidden, layers=config.layers, dropout=config.dropout)
        self.initial = nn.Linear(width, len(self.cell.names) * config.hidden)
        self.attention = GridAttention(width, config.hidden, config.attention, config.attention)
        self.gate = nn.Linear(config.hidden, 1)
        if concepts:
            self.concepts = ConceptContext(width, concepts, config.embedding)
            self.absent = nn.Parameter(torch.zeros(width))  # the grid of captions without pictures, one cell

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        if hasattr(self, "concepts"):
            return self.start_from_concepts(self.concepts.head(features_BLD.mean(1)), features_BLD)
        return self.attention.remember(features_BLD), self.cell.unpack(self.initial(features_BLD.mean(1)))

    def start_from_concepts(self, logits_BC: Tensor, features_BLD: Tensor | None) -> tuple[State, State]:
        """The same from the content words' logits; captions without pictures have no features."""
        if features_BLD is None:
            features_BLD = self.absent.expand(len(logits_BC), 1, -1)
        memory = {**self.attention.remember(features_BLD), "context": torch.tanh(self.concepts(logits_BC))}
        return memory, self.cell.unpack(self.initial(features_BLD.mean(1)))

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        before_NH = self.cell.top(state)
        context_NA, alpha_NL = self.attention.look(self.attention.score(before_NH, memory), memory)
        context_NA = torch.sigmoid(self.gate(before_NH)) * context_NA
        inputs = [inputs_NE, context_NA]
        if "context" in memory:
            inputs.append(spread(memory["context"], inputs_NE.shape[0]))
        state = self.cell.step(torch.cat(inputs, -1), state)
        return torch.cat((self.cell.top(state), context_NA), -1), state, alpha_NL


class AdaptiveDecoder(Decoder):
    """Adaptive attention with a visual sentinel (Lu et al. 2017, eq. 6 to 13).

    alpha is over the grid alone and sums to 1; how much the sentinel takes (beta) is in what the output layer sees.
    """

    attends = True

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden)
        assert config.cell == "lstm"
        inputs = 2 * config.embedding
        self.cell = Cell("lstm", inputs, config.hidden, layers=config.layers, dropout=config.dropout)
        self.project = nn.Linear(width, config.embedding)
        self.initial = nn.Linear(width, len(self.cell.names) * config.hidden)
        self.attention = GridAttention(width, config.hidden, config.attention, config.hidden)
        self.sentinel = nn.Linear(inputs + config.hidden, config.hidden)
        self.sentinel_key = nn.Linear(config.hidden, config.attention)

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        pooled_BD = features_BLD.mean(1)
        memory = {**self.attention.remember(features_BLD), "context": torch.tanh(self.project(pooled_BD))}
        return memory, self.cell.unpack(self.initial(pooled_BD))

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        inputs_NX = torch.cat((inputs_NE, spread(memory["context"], inputs_NE.shape[0])), -1)
        gate_NH = torch.sigmoid(self.sentinel(torch.cat((inputs_NX, self.cell.top(state)), -1)))
        state = self.cell.step(inputs_NX, state)
        hidden_NH = self.cell.top(state)
        sentinel_NH = gate_NH * torch.tanh(state[self.cell.names[-1]])
        scores_BKL = self.attention.score(hidden_NH, memory)
        query_NA = self.attention.query(hidden_NH)
        scale = query_NA.shape[-1] ** -0.5
        sentinel_N1 = (query_NA * self.sentinel_key(sentinel_NH)).sum(-1, keepdim=True) * scale
        context_NH, alpha_NL = self.attention.look(scores_BKL, memory)
        most_N1 = scores_BKL.logsumexp(-1).reshape(-1, 1)
        beta_N1 = torch.sigmoid(sentinel_N1 - most_N1)  # the sentinel's share of a softmax over the grid and itself
        return hidden_NH + beta_N1 * sentinel_NH + (1 - beta_N1) * context_NH, state, alpha_NL


class TopDownDecoder(Decoder):
    """Two cells: the first sees the mean feature and where the second is, and looks; the second speaks.

    Source: Anderson et al. 2018, eq. 1 to 6, over grid cells in place of detected regions.
    """

    attends = True

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden)
        assert config.cell != "transformer"
        self.project = nn.Linear(width, config.embedding)
        self.looking = Cell(config.cell, 2 * config.embedding + config.hidden, config.hidden, prefix="looking_")
        self.speaking = Cell(config.cell, config.attention + config.hidden, config.hidden, prefix="speaking_")
        self.attention = GridAttention(width, config.hidden, config.attention, config.attention)

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        pooled_BD = features_BLD.mean(1)
        memory = {**self.attention.remember(features_BLD), "context": torch.tanh(self.project(pooled_BD))}
        return memory, {**self.looking.zeros(pooled_BD), **self.speaking.zeros(pooled_BD)}

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        shared_NE = spread(memory["context"], inputs_NE.shape[0])
        looking = self.looking.step(torch.cat((self.speaking.top(state), shared_NE, inputs_NE), -1), state)
        hidden_NH = self.looking.top(looking)
        context_NA, alpha_NL = self.attention.look(self.attention.score(hidden_NH, memory), memory)
        speaking = self.speaking.step(torch.cat((context_NA, hidden_NH), -1), state)
        return self.speaking.top(speaking), {**looking, **speaking}, alpha_NL
