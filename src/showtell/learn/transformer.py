"""A small Transformer decoder over the grid, the modern yardstick (Vaswani et al. 2017, pre-norm)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from showtell.learn.cells import State
from showtell.learn.config import ModelConfig
from showtell.learn.steps import Decoder, Forced
from showtell.text import PAD

_WIDER = 4  # how much wider than H the layer between is


class TransformerDecoder(Decoder):
    """Self-attention over the words so far, attention over the grid, two linear layers; `layers` times.

    State: `past` (N, P, layers × 2H), the keys and values of the P words so far. alpha is that of the last layer, mean
    over its heads.
    """

    attends = True
    growing = frozenset({"past"})

    def __init__(self, config: ModelConfig, *, width: int, vocabulary_size: int) -> None:
        super().__init__(config, vocabulary_size=vocabulary_size, seen=config.hidden)
        hidden = config.hidden
        self.enter = nn.Linear(config.embedding, hidden)
        self.project = nn.Linear(width, hidden)
        self._stack = nn.ModuleList(_Block(hidden, config.heads, config.dropout) for _ in range(config.layers))
        self.norm = nn.LayerNorm(hidden)

    @property
    def blocks(self) -> list[_Block]:
        """The layers, from the first."""
        return [block for block in self._stack if isinstance(block, _Block)]

    def start(self, features_BLD: Tensor) -> tuple[State, State]:
        grid_BLH = self.project(features_BLD)
        parts = [part for block in self.blocks for part in block.remember(grid_BLH)]
        memory = {"grid": torch.cat(parts, -1)}
        return memory, {
            "past": features_BLD.new_zeros(features_BLD.shape[0], 0, 2 * self.config.hidden * len(self.blocks))
        }

    def see(self, inputs_NE: Tensor, memory: State, state: State) -> tuple[Tensor, State, Tensor | None]:
        past_NPX = state["past"]
        place = past_NPX.shape[1]
        x_N1H = (self.enter(inputs_NE) + _positions(1, self.config.hidden, inputs_NE, place))[:, None]
        rows, pictures = x_N1H.shape[0], memory["grid"].shape[0]
        grids, pasts = memory["grid"].chunk(2 * len(self.blocks), -1), past_NPX.chunk(len(self.blocks), -1)
        new, alpha_NL = [], None
        for number, block in enumerate(self.blocks):
            kept_N1X, x_N1H = block.listen(x_N1H, pasts[number], causal=False)
            new.append(kept_N1X)
            x_BKH = x_N1H.view(pictures, -1, x_N1H.shape[-1])  # the hypotheses of a picture ask its grid together
            x_BKH, alpha_BKL = block.look(x_BKH, grids[2 * number], grids[2 * number + 1])
            x_N1H = x_BKH.reshape(rows, 1, -1)
            alpha_NL = alpha_BKL.reshape(rows, -1)
        past_NPX = torch.cat((past_NPX, torch.cat(new, -1)), 1)
        return self.norm(x_N1H[:, 0]), {"past": past_NPX}, alpha_NL

    def forward(self, memory: State, state: State, tokens_NT: Tensor, rows_N: Tensor) -> Forced:
        inputs_NTE = self.dropout(self.words(tokens_NT))
        x_NTH = self.enter(inputs_NTE) + _positions(tokens_NT.shape[1], self.config.hidden, inputs_NTE, 0)
        grids = memory["grid"][rows_N].chunk(2 * len(self.blocks), -1)
        alpha_NTL = None
        for number, block in enumerate(self.blocks):
            _, x_NTH = block.listen(x_NTH, None, causal=True)
            x_NTH, alpha_NTL = block.look(x_NTH, grids[2 * number], grids[2 * number + 1])
        return Forced(self.say(self.norm(x_NTH[tokens_NT != PAD])), alpha_NTL)


class _Block(nn.Module):
    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.listens, self.looks, self.thinks = (nn.LayerNorm(hidden) for _ in range(3))
        self.query, self.told = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.keep = nn.Linear(hidden, 2 * hidden)  # keys and values of words
        self.grid_query, self.seen = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.grid_key, self.grid_value = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.wide, self.narrow = nn.Linear(hidden, _WIDER * hidden), nn.Linear(_WIDER * hidden, hidden)

    def remember(self, grid_BLH: Tensor) -> tuple[Tensor, Tensor]:
        return self.grid_key(grid_BLH), self.grid_value(grid_BLH)

    def listen(self, x_NTH: Tensor, past_NPX: Tensor | None, *, causal: bool) -> tuple[Tensor, Tensor]:
        """(keys and values of the new words, x after attending to the words so far)."""
        normal = self.listens(x_NTH)
        kept = self.keep(normal)
        all_NSX = kept if past_NPX is None else torch.cat((past_NPX, kept), 1)
        keys, values = all_NSX.chunk(2, -1)
        told, _ = self._attend(self.query(normal), keys, values, causal)
        return kept, x_NTH + self.dropout(self.told(told))

    def look(self, x_NTH: Tensor, keys_NLH: Tensor, values_NLH: Tensor) -> tuple[Tensor, Tensor]:
        """(x after attending to the grid and the two layers, the attention)."""
        seen, alpha = self._attend(self.grid_query(self.looks(x_NTH)), keys_NLH, values_NLH, False)
        x_NTH = x_NTH + self.dropout(self.seen(seen))
        return x_NTH + self.dropout(self.narrow(functional.gelu(self.wide(self.thinks(x_NTH))))), alpha

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        """(values, mean alpha) of multi-head attention; axis 0 is shared, axis 1 is places."""
        heads = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, keys, values)]
        scores = heads[0] @ heads[1].transpose(-1, -2) * heads[0].shape[-1] ** -0.5
        if causal:
            places = scores.shape[-1]
            later = torch.ones(places, places, dtype=torch.bool, device=scores.device).triu(1)
            scores = scores.masked_fill(later, -math.inf)
        alpha = scores.softmax(-1)
        return (alpha @ heads[2]).transpose(1, 2).flatten(-2), alpha.mean(1)


def _positions(count: int, hidden: int, like: Tensor, first: int) -> Tensor:
    """(count, H): sines and cosines of each place (Vaswani et al. 2017, sec. 3.5)."""
    rates = torch.exp(torch.arange(0, hidden, 2, dtype=like.dtype, device=like.device) * (-math.log(10_000.0) / hidden))
    places = torch.arange(count, dtype=like.dtype, device=like.device) + first
    angles = places[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), -1)[:, :hidden] * hidden**-0.5
