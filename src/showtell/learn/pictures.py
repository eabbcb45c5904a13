"""Pictures of examples -> the encoder, a batch at a time, for training from pixels."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from showtell.errors import ImageError, TrainingError
from showtell.images import read_pixels
from showtell.learn.augment import Sides, draw_views, show
from showtell.learn.batches import Batch
from showtell.learn.config import FinetuneConfig
from showtell.learn.encoders import Encoder
from showtell.learn.steps import Decoder
from showtell.learn.training import Started
from showtell.records import Example

_READERS = 4  # threads that decode the pictures of a batch


def read_batch(examples: Sequence[Example], encoder: Encoder) -> tuple[Tensor, NDArray[np.int64]]:
    """(pixels of the pictures that can be read (B, size, size, 3) uint8, their places in `examples`)."""

    def read(example: Example) -> NDArray[np.uint8] | None:
        try:
            return read_pixels(str(example.image), encoder.preprocessing)
        except ImageError:
            return None

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(read, examples))
    places = [place for place, pixels in enumerate(found) if pixels is not None]
    size = encoder.preprocessing.size
    stacked = np.stack([found[place] for place in places]) if places else np.zeros((0, size, size, 3), np.uint8)  # type: ignore[misc]
    return torch.from_numpy(stacked), np.asarray(places, np.int64)


@dataclass(frozen=True)
class Pixels:
    """Pictures that start a decoder through an encoder under training: new views of them each time."""

    examples: Sequence[Example]  # all of them can be read
    encoder: Encoder
    decoder: Decoder
    config: FinetuneConfig
    sides: Sides = field(repr=False)

    def start(self, batch: Batch, rng: np.random.Generator) -> Started:
        """Views of the batch's pictures, and its captions with the words of the mirrored ones exchanged."""
        device = batch.tokens_NT.device
        pixels = self._read(batch.items_B)
        views = draw_views(self.config, *self.sides.find(batch.tokens_NT, batch.rows_N, len(pixels)), rng)
        mirrored_N = torch.from_numpy(views.mirrored_B).to(device)[batch.rows_N]
        batch = batch._replace(tokens_NT=self.sides.mirror(batch.tokens_NT, mirrored_N))
        return Started(batch, *self.decoder.start(self.encoder.encode(show(pixels.to(device), views))))

    @torch.inference_mode()
    def read(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features of some pictures as they are, from the encoder as it is now."""
        features_BLD: Tensor = self.encoder.encode(self._read(items).to(self.encoder.mean.device))
        return features_BLD.cpu().contiguous().numpy()

    def _read(self, items: NDArray[np.int64]) -> Tensor:
        chosen = [self.examples[item] for item in items]
        pixels, places = read_batch(chosen, self.encoder)
        lost = sorted({*range(len(chosen))} - {*places.tolist()})
        if lost:
            raise TrainingError(
                f"{chosen[lost[0]].image} could be read when the run began and cannot be now; put it back and go on "
                "with --resume"
            )
        return pixels
