"""One to three layers of LSTM or GRU: word by word for the search, or a whole caption at once for training.

The word-by-word equations are written out so that they export as two matrix products a layer; a whole caption runs in
PyTorch's fused kernel over the same weights.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

State = dict[str, Tensor]


class Cell(nn.Module):
    """A stack of LSTM (Hochreiter & Schmidhuber 1997) or GRU layers (Cho et al. 2014).

    State, a hypothesis a row, (N, H) each: `hidden` and, of an LSTM, `cell`; further layers have `hidden2`, `cell2`, …

    Args:
        width: What one input has.
        dropout: Between layers, in training.
        prefix: Put before the names of the state, for decoders with several cells.
    """

    def __init__(
        self,
        kind: Literal["lstm", "gru"],
        width: int,
        hidden: int,
        *,
        layers: int = 1,
        dropout: float = 0.0,
        prefix: str = "",
    ) -> None:
        super().__init__()
        self.kind, self.hidden, self.layers, self.prefix = kind, hidden, layers, prefix
        self.dropout = dropout if layers > 1 else 0.0
        build = nn.LSTM if kind == "lstm" else nn.GRU
        self.network = build(width, hidden, layers, batch_first=True, dropout=self.dropout)
        with torch.no_grad():
            for _, _, input_bias, hidden_bias in self.network.all_weights:
                input_bias.zero_()
                hidden_bias.zero_()
                if kind == "lstm":
                    input_bias[hidden : 2 * hidden] = 1.0  # remember at first (Jozefowicz et al. 2015)

    @property
    def names(self) -> list[str]:
        """The state's names, layer by layer."""
        parts = ("hidden", "cell") if self.kind == "lstm" else ("hidden",)
        return [f"{self.prefix}{part}{layer or ''}" for layer in (0, *range(2, self.layers + 1)) for part in parts]

    def zeros(self, like_BX: Tensor) -> State:
        """The state that knows nothing."""
        return {name: like_BX.new_zeros(like_BX.shape[0], self.hidden) for name in self.names}

    def unpack(self, values_BX: Tensor) -> State:
        """A state from one vector a row, as wide as all its parts; `hidden` is squashed as the cell would."""
        parts = values_BX.chunk(len(self.names), -1)
        return {
            name: part if "cell" in name else torch.tanh(part) for name, part in zip(self.names, parts, strict=True)
        }

    def top(self, state: State) -> Tensor:
        """What the last layer says, (N, H)."""
        return state[self.names[-2] if self.kind == "lstm" else self.names[-1]]

    def step(self, inputs_NX: Tensor, state: State) -> State:
        """The state after one input a row."""
        from_input, _, bias, _ = self.network.all_weights[0]
        return self.step_given(functional.linear(inputs_NX, from_input, bias), state)

    def step_given(self, given_NG: Tensor, state: State) -> State:
        """The same from what the input gives to the gates of the first layer: (N, 4H), of a GRU (N, 3H)."""
        names, after, seen_NH = self.names, {}, given_NG
        for layer, (from_input, from_hidden, input_bias, hidden_bias) in enumerate(self.network.all_weights):
            if layer and self.dropout:
                seen_NH = functional.dropout(seen_NH, self.dropout, self.training)
            if layer:
                given_NG = functional.linear(seen_NH, from_input, input_bias)
            if self.kind == "lstm":
                hidden, cell = names[2 * layer : 2 * layer + 2]
                old_NG = functional.linear(state[hidden], from_hidden, hidden_bias)
                after[hidden], after[cell] = _lstm(given_NG + old_NG, state[cell])
            else:
                hidden = names[layer]
                old_NG = functional.linear(state[hidden], from_hidden, hidden_bias)
                after[hidden] = _gru(given_NG, old_NG, state[hidden])
            seen_NH = after[hidden]
        return after

    def run(self, inputs_NTX: Tensor, state: State) -> Tensor:
        """What the last layer says after each input, (N, T, H)."""
        parts = [
            torch.stack([state[name] for name in self.names if part in name])
            for part in ("hidden", "cell")[: 1 + (self.kind == "lstm")]
        ]
        outputs_NTH, _ = self.network(inputs_NTX, tuple(parts) if self.kind == "lstm" else parts[0])
        return outputs_NTH


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    enter, keep, new, leave = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(enter) * torch.tanh(new)
    return torch.sigmoid(leave) * torch.tanh(cell), cell


def _gru(given: Tensor, old: Tensor, hidden: Tensor) -> Tensor:
    reset, update, new = given.chunk(3, -1)
    old_reset, old_update, old_new = old.chunk(3, -1)
    update = torch.sigmoid(update + old_update)
    new = torch.tanh(new + torch.sigmoid(reset + old_reset) * old_new)
    return (1 - update) * new + update * hidden
