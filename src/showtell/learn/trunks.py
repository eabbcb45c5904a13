"""The lower part of an encoder, whose outputs are stored once, and the rest of it, which learns from them.

Tuning the last stages of a network would read the pictures and compute the frozen stages again in every epoch, which is
most of the work. `Trunk` is an encoder that ends where they do, so that `features.extract_features` keeps what it says;
`encode_rest` goes on from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from showtell.learn.encoders import Encoder

_TOKEN_SIZE = 32  # pixels of the pictures that stand in while the rest runs: a fiftieth of the work of 224


class _ReachedError(Exception):
    """The end of the trunk has said something; the rest need not run."""


class Trunk(Encoder):
    """An encoder without its last stages, perhaps of mirrored pictures.

    Shape: pixels (B, size, size, 3) uint8 -> (B, L, D) float32 of its own grid; without any stage left, the normalised
        pixels, D = 3.

    Args:
        stages: That are missing; 0: none, and the features are the encoder's.
    """

    def __init__(self, encoder: Encoder, stages: int, *, mirrored: bool = False) -> None:
        self.stages, self.mirrored = stages, mirrored
        mean, deviation = encoder.mean, encoder.deviation
        super().__init__(
            encoder.network,
            f"{encoder.name} without {stages} stages{', mirrored' if mirrored else ''}",
            encoder.preprocessing,
        )
        self.mean, self.deviation = mean, deviation

    def _grid(self, pixels_BHWC: Tensor) -> Tensor:
        pixels_BHWC = pixels_BHWC.flip(2) if self.mirrored else pixels_BHWC
        if self.stages == 0:
            return super()._grid(pixels_BHWC)
        inputs = (pixels_BHWC.permute(0, 3, 1, 2).float() - self.mean) / self.deviation
        end = self.end_of_frozen(self.stages)
        if end is None:
            return inputs
        said: list[Tensor] = []

        def keep(module: nn.Module, given: Any, output: Tensor) -> None:
            said.append(output)
            raise _ReachedError

        with contextlib.suppress(_ReachedError), _hook(end, keep):
            self.network.forward_features(inputs)  # type: ignore[operator]
        return said[0]


def encode_rest(encoder: Encoder, trunk: Trunk, lower_BLD: Tensor) -> Tensor:
    """The features (B, L, D) that the encoder makes of what its trunk says; gradients are kept."""
    lower_BDHW = lower_BLD.transpose(1, 2).unflatten(2, (trunk.rows, trunk.columns))
    lower_BDHW = lower_BDHW.contiguous(memory_format=torch.channels_last)
    end = encoder.end_of_frozen(trunk.stages)
    if end is None:
        grid = encoder.network.forward_features(lower_BDHW)  # type: ignore[operator]
    else:
        with _hook(end, lambda module, given, output: lower_BDHW):
            token = lower_BDHW.new_zeros(len(lower_BDHW), 3, _TOKEN_SIZE, _TOKEN_SIZE)
            grid = encoder.network.forward_features(token)  # type: ignore[operator]
    features_BLD: Tensor = grid.flatten(2).transpose(1, 2)
    return features_BLD


@contextlib.contextmanager
def _hook(module: nn.Module, call: Callable[[nn.Module, Any, Tensor], Tensor | None]) -> Iterator[None]:
    """A forward hook that is there for a while."""
    handle = module.register_forward_hook(call)
    try:
        yield
    finally:
        handle.remove()
