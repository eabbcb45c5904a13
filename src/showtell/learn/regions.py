"""Captions of whole pictures -> snippets of regions, from which a captioner of regions learns.

An alignment model says which window of a picture each word tells of; neighbouring words of one window are a snippet,
and the snippets of a window are its references. Where the data has regions that people described, those are learned
instead. A region's features are pooled from the grid, and start the decoder as those of a whole picture would. Source:
Karpathy & Fei-Fei 2015, sections 3.1.4 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from showtell.boxes import clip, is_valid, pool_weights, to_grid
from showtell.errors import ImageError
from showtell.images import read_sized
from showtell.learn.aligning import Captions
from showtell.learn.alignment import Alignment
from showtell.learn.batches import Batch
from showtell.learn.config import RegionsConfig
from showtell.learn.features import FeatureStore
from showtell.learn.steps import Decoder
from showtell.learn.training import StartBatch, Started
from showtell.records import Example
from showtell.snippets import align_words, snippets, spread_of
from showtell.text import UNK, Vocabulary, join_words


@dataclass(frozen=True)
class DescribedRegions:
    """Regions with what is said of them.

    Shape: rows (N,), the row of each region's picture in the store; pools (N, L) float32, how it gathers the grid.
    """

    examples: list[Example]  # one a region
    rows: NDArray[np.int64]
    pools_NL: NDArray[np.float32]

    def read(self, store: FeatureStore, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """The features of some regions, (B, 1, D)."""
        return np.einsum("bl,bld->bd", self.pools_NL[items], store.read(self.rows[items]))[:, None]

    def first(self, regions: int) -> DescribedRegions:
        """The first so many."""
        return DescribedRegions(self.examples[:regions], self.rows[:regions], self.pools_NL[:regions])

    def start(self, store: FeatureStore, decoder: Decoder) -> StartBatch:
        """What starts the decoder from the regions of a batch."""

        def start(batch: Batch, rng: np.random.Generator) -> Started:
            features_B1D = torch.from_numpy(self.read(store, batch.items_B)).to(batch.tokens_NT.device)
            return Started(batch, *decoder.start(features_B1D))

        return start


def cut_snippets(
    model: Alignment,
    store: FeatureStore,
    rows: NDArray[np.int64],
    examples: Sequence[Example],
    captions: Captions,
    vocabulary: Vocabulary,
    config: RegionsConfig,
) -> DescribedRegions:
    """The windows of pictures with the snippets that tell of them; the whole frame, window 0, has the captions too."""
    model.eval()
    device = model.pool_RL.device
    hanging = frozenset(config.hanging.split())
    found, at, pools = [], [], []
    pool_RL = model.pool_RL.cpu().numpy()
    for item, example in enumerate(examples):
        texts: dict[int, list[str]] = {0: list(example.references)}
        with torch.inference_mode():
            regions_RE = model.see(torch.from_numpy(store.read(rows[item : item + 1])).to(device)).regions_BRE[0]
            scores = [
                (model.read(torch.from_numpy(tokens)[None].to(device)).words_NTE[0] @ regions_RE.T).cpu().numpy()
                for tokens in captions.table[item]
            ]
        for tokens, scores_TR in zip(captions.table[item], scores, strict=True):
            words = [vocabulary.words[token] for token in tokens]
            assignment = align_words(scores_TR, config.smoothing * spread_of(scores_TR))
            for start, stop, region in snippets(words, assignment, shortest=config.shortest, hanging=hanging):
                if region and UNK not in tokens[start:stop]:
                    texts.setdefault(region, []).append(join_words(words[start:stop]))
        for region, said in texts.items():
            if any(said):
                found.append(Example(f"{example.id}#{region}", example.image, tuple(filter(None, said)), example.split))
                at.append(rows[item])
                pools.append(pool_RL[region])
    return DescribedRegions(found, np.array(at, np.int64), np.array(pools, np.float32))


def given_regions(
    store: FeatureStore, rows: NDArray[np.int64], examples: Sequence[Example], grid: tuple[int, int]
) -> DescribedRegions:
    """The regions that people described, and the whole frame with its captions.

    Args:
        grid: Rows and columns of the encoder's.
    """
    found, at, pools = [], [], []
    whole = pool_weights(to_grid([[0, 0, 1, 1]], 1, 1, *grid), *grid)[0]
    for row, example in zip(rows, examples, strict=True):
        if example.references:
            found.append(example)
            at.append(row)
            pools.append(whole)
        described = [region for region in example.regions if region.phrases]
        size = _size(example) if described else None
        if size is None:
            continue
        boxes_R4 = clip([region.box for region in described], *size)
        for number, region in enumerate(described):
            if is_valid(boxes_R4[number : number + 1])[0]:
                found.append(Example(f"{example.id}#{number}", example.image, region.phrases, example.split))
                at.append(row)
                pools.append(pool_weights(to_grid(boxes_R4[number : number + 1], *size, *grid), *grid)[0])
    return DescribedRegions(found, np.array(at, np.int64), np.array(pools, np.float32))


def _size(example: Example) -> tuple[int, int] | None:
    try:
        return read_sized(str(example.image), draft=1)[1]
    except ImageError:
        return None
