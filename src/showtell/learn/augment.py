"""Views of training pictures: mirrored, turned, cropped, recoloured, with the words of their captions to match."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from showtell.learn.config import FinetuneConfig
from showtell.text import Vocabulary

_GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True)
class Views:
    """How each picture of a batch is shown.

    Shape: mirrored (B,) bool; placed (B, 2, 3), from the view's coordinates to the picture's, both -1 to 1; colour
        (B, 3), factors of brightness, contrast and saturation.
    """

    mirrored_B: NDArray[np.bool_]
    placed_B23: NDArray[np.float32]
    colour_B3: NDArray[np.float32]


class Sides:
    """The words that change places in a mirror, such as left and right.

    A side whose counterpart is no word of the vocabulary keeps its pictures from being mirrored.
    """

    def __init__(self, pairs: Sequence[tuple[str, str]], vocabulary: Vocabulary) -> None:
        self._partner_V = torch.arange(len(vocabulary))
        self._lonely_V = torch.zeros(len(vocabulary), dtype=torch.bool)
        known = set(vocabulary.words)
        for pair in pairs:
            one, other = (vocabulary.id_of(word) for word in pair)
            if known >= set(pair):
                self._partner_V[[one, other]] = torch.tensor([other, one])
            for word in known & set(pair) if not known >= set(pair) else ():
                self._lonely_V[vocabulary.id_of(word)] = True
        self._named_V = self._lonely_V | (self._partner_V != torch.arange(len(vocabulary)))

    def find(self, tokens_NT: Tensor, rows_N: Tensor, pictures: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(which pictures' captions name a side, which name one without a counterpart), (B,) each."""
        found = []
        for words_V in (self._named_V, self._lonely_V):
            has_N = words_V.to(tokens_NT.device)[tokens_NT].any(1)
            found.append(np.isin(np.arange(pictures), rows_N[has_N].cpu().numpy()))
        return found[0], found[1]

    def mirror(self, tokens_NT: Tensor, mirrored_N: Tensor) -> Tensor:
        """The captions with sides exchanged where the picture is mirrored."""
        return torch.where(mirrored_N[:, None], self._partner_V.to(tokens_NT.device)[tokens_NT], tokens_NT)


def draw_views(
    config: FinetuneConfig,
    named_B: NDArray[np.bool_],
    lonely_B: NDArray[np.bool_],
    rng: np.random.Generator,
) -> Views:
    """Views at random; pictures whose captions name a side are not turned, nor mirrored when it has no counterpart."""
    count = len(named_B)
    mirrored_B = (rng.random(count) < 0.5 * config.flip) & ~lonely_B
    turns_B = np.where(named_B, 0, rng.integers(4 if config.turn else 1, size=count)) * (math.pi / 2)
    area_B = rng.uniform(config.crop, 1, count)
    stretch_B = np.exp(rng.uniform(-1, 1, count) * np.minimum(0.2, -0.5 * np.log(area_B)))  # within the picture
    scale_B2 = np.sqrt(area_B)[:, None] * np.stack((stretch_B, 1 / stretch_B), 1)
    shift_B2 = rng.uniform(-1, 1, (count, 2)) * (1 - scale_B2)
    cos_B, sin_B = np.cos(turns_B), np.sin(turns_B)
    turned_B22 = np.stack((np.stack((cos_B, -sin_B), 1), np.stack((sin_B, cos_B), 1)), 1)
    turned_B22[:, :, 0] *= np.where(mirrored_B, -1, 1)[:, None]
    placed_B23 = np.concatenate((scale_B2[:, :, None] * turned_B22, shift_B2[:, :, None]), 2)
    colour_B3 = 1 + rng.uniform(-config.colour, config.colour, (count, 3))
    return Views(mirrored_B, placed_B23.astype(np.float32), colour_B3.astype(np.float32))


def show(pixels_BHWC: Tensor, views: Views) -> Tensor:
    """The views of pictures; all changes of place are one interpolation.

    Shape: (B, H, W, 3), 0 to 255, any type -> the same in float32.
    """
    device = pixels_BHWC.device
    grid = functional.affine_grid(
        torch.from_numpy(views.placed_B23).to(device), list(pixels_BHWC.permute(0, 3, 1, 2).shape), align_corners=False
    )
    channels_first = pixels_BHWC.permute(0, 3, 1, 2).float()
    placed = functional.grid_sample(channels_first, grid, padding_mode="border", align_corners=False)
    placed = placed.permute(0, 2, 3, 1).contiguous()  # an encoder is twice as fast on channels that lie together
    brightness, contrast, saturation = torch.from_numpy(views.colour_B3).to(device).view(-1, 3, 1, 1, 1).unbind(1)
    grey = (placed * torch.tensor(_GREY, device=device)).sum(-1, keepdim=True)
    mean = grey.mean((1, 2), keepdim=True)
    recoloured = grey + saturation * (placed - grey)
    return (brightness * (mean + contrast * (recoloured - mean))).clamp(0, 255)
