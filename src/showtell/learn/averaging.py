"""The moving average of weights under training, which is often better than the weights themselves (Polyak 1992)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class MovingAverage:
    """An exponential average of parameters, young at first so that it forgets where they began.

    Args:
        decay: Of the old average at an update; in the n-th it is at most (1 + n) / (10 + n). 0: the last values.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters, self._decay, self._updates = parameters, decay, 0
        self._values = [parameter.detach().clone() for parameter in parameters] if decay else []

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the parameters as they are now."""
        self._updates += 1
        decay = min(self._decay, (1 + self._updates) / (10 + self._updates))
        for value, parameter in zip(self._values, self._parameters, strict=False):
            value.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the average for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for value, parameter in zip(self._values, self._parameters, strict=False):
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        return {"updates": self._updates, "values": self._values}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        updates, values = state["updates"], state["values"]
        assert isinstance(updates, int)
        assert isinstance(values, list)
        self._updates = updates
        with torch.no_grad():
            for value, kept in zip(self._values, values, strict=True):
                value.copy_(kept)
