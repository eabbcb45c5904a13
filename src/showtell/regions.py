"""A picture and boxes -> a caption of each, and where the words of a sentence are; no PyTorch.

With an alignment model, regions share one pass of the encoder over the enlarged picture: each takes its features from
the grid (RoI-align), and a caption counts as much as its words are sure and near to the box. With a captioner, each box
is cut out and captioned as a picture of its own. Either way all are one batch. Words are grounded as Karpathy & Fei-Fei
2015 (section 3.1.4) make snippets: neighbours like to point at the same box.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from showtell.alignment import Aligner, Floats
from showtell.boxes import nms
from showtell.bundle import Bundle, read_bundle
from showtell.captioner import Runtime
from showtell.decoding import Hypothesis, SearchOptions, search
from showtell.errors import BundleError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Source, fit_pixels, read_sized
from showtell.proposals import Proposer, windows
from showtell.records import Box, Grounding, RegionCaption
from showtell.snippets import align_words, snippets
from showtell.text import join_words

_CROPS = 16  # that go through the encoder together


@dataclass(frozen=True)
class _View:
    """A picture whose regions are looked at; boxes (R, 4) in pixels of the upright original."""

    image: Image.Image  # may be smaller than the original
    width: int
    height: int
    boxes_R4: NDArray[np.float64]


class RegionCaptioner:
    """Describes regions, and with an alignment model finds words in pictures. It keeps nothing between calls."""

    def __init__(self, bundle: Bundle, *, threads: int | None = None, lean: bool = False) -> None:
        self.manifest, self.vocabulary = bundle.manifest, bundle.vocabulary
        aligns, writes = "wide" in bundle.graphs, "step" in bundle.graphs
        self.aligner = Aligner(bundle, threads=threads, lean=lean) if aligns else None
        self.runtime = Runtime(bundle, threads=threads, lean=lean) if writes else None

    @classmethod
    def load(cls, source: str | Path, *, threads: int | None = None, lean: bool = False) -> RegionCaptioner:
        """One from a bundle's directory or zip; arguments as `Captioner.load`.

        Raises:
            BundleError: There is no such bundle, it is damaged or newer than this package, or aligns nothing.
        """
        return cls(read_bundle(source), threads=threads, lean=lean)

    def describe(
        self,
        source: Source,
        *,
        boxes: ArrayLike | None = None,
        propose: Proposer | None = None,
        top: int = 10,
        overlap: float = 0.4,
        options: SearchOptions | None = None,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[RegionCaption]:
        """The best described regions of a picture, best first.

        Of regions that overlap by more than `overlap`, or that are described in the same words, the best one stays. The
        user's own boxes all stay, in their order.

        Args:
            boxes: (R, 4) in pixels of the upright original, valid and inside of it (`proposals.check_boxes`).
            propose: What finds boxes where none are given; a pyramid of windows by default.
            options: How captions are searched; the model's own way by default.

        Raises:
            ImageError: The picture cannot be read.
            BundleError: The model aligns, but writes no captions.
        """
        if self.runtime is None:
            raise BundleError(
                f"{self.manifest.name!r} aligns regions with words and writes no captions; give a captioner, or an "
                "alignment model whose [regions] has epochs"
            )
        view = self._look(source, boxes, propose, limits)
        vectors_RE: Floats | None = None
        if self.aligner is None:
            features_RLD = self._encode_crops(view)
        else:
            features_RD = self._pool(view)
            features_RLD, vectors_RE = features_RD[:, None], self.aligner.embed_regions(features_RD)
        options = options or SearchOptions(**self.manifest.search)  # type: ignore[arg-type]
        said = [
            self._caption(hypotheses[0], box, None if vectors_RE is None else vectors_RE[row])
            for row, (hypotheses, box) in enumerate(
                zip(search(self.runtime, features_RLD, options), view.boxes_R4, strict=True)
            )
        ]
        if boxes is not None:
            return said
        kept = [said[row] for row in nms(view.boxes_R4, [one.score for one in said], overlap)]
        first = {one.text: one for one in reversed(kept)}
        return [one for one in kept if first[one.text] is one][:top]

    def _caption(self, hypothesis: Hypothesis, box: NDArray[np.float64], vector_E: Floats | None) -> RegionCaption:
        text = join_words(self.vocabulary.decode(hypothesis.tokens))
        probability = math.exp(hypothesis.logprob / max(1, len(hypothesis.tokens) + hypothesis.ended))
        if self.aligner is None or vector_E is None:
            return RegionCaption(_edges(box), text, probability, probability)
        alignment = 0.0
        if text:
            alignment = max(0.0, float((self.aligner.embed_ids(hypothesis.tokens) @ vector_E).mean()))
        return RegionCaption(_edges(box), text, probability * alignment, probability, alignment)

    def ground(
        self,
        source: Source,
        text: str,
        *,
        boxes: ArrayLike | None = None,
        propose: Proposer | None = None,
        smoothing: float = 1.0,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[Grounding]:
        """Where the words of a sentence are, in their order: each run of words with one box.

        Args:
            boxes, propose: As `describe`.
            smoothing: What neighbours that point at the same box are worth, in units of the spread of the words' best
                scores; 0 lets each word choose for itself.

        Raises:
            ImageError: The picture cannot be read.
            DataError: The model knows none of the words.
            BundleError: The model is a captioner and aligns nothing.
        """
        if self.aligner is None:
            raise BundleError(f"{self.manifest.name!r} is a captioner and aligns nothing; give an alignment model")
        words, words_TE = self.aligner.embed_words(text)
        view = self._look(source, boxes, propose, limits)
        scores_TR = words_TE @ self.aligner.embed_regions(self._pool(view)).T
        spread = float((scores_TR.max(1) - scores_TR.mean(1)).mean())
        assignment = align_words(scores_TR, smoothing * spread)
        return [
            Grounding(
                join_words(words[start:stop]),
                start,
                stop,
                _edges(view.boxes_R4[region]),
                float(scores_TR[start:stop, region].sum()),
            )
            for start, stop, region in snippets(words, assignment)
        ]

    def _look(self, source: Source, boxes: ArrayLike | None, propose: Proposer | None, limits: ImageLimits) -> _View:
        size = (self.aligner.wide if self.aligner is not None else self.manifest.preprocessing).size
        image, (width, height) = read_sized(source, limits=limits, draft=2 * size)
        if boxes is not None:
            boxes_R4 = np.asarray(boxes, np.float64).reshape(-1, 4)
        else:  # on the picture as it was decoded
            found = (propose or windows())(np.asarray(image))
            boxes_R4 = found * np.array([width, height] * 2) / np.array(image.size * 2)
        return _View(image, width, height, boxes_R4)

    def _pool(self, view: _View) -> Floats:
        """The features (R, D) of regions, from one pass over the picture."""
        assert self.aligner is not None
        pixels = fit_pixels(view.image, self.aligner.wide)
        return self.aligner.pool_regions(pixels, view.boxes_R4, view.width, view.height)

    def _encode_crops(self, view: _View) -> Floats:
        """The features (R, L, D) of regions, each encoded by itself."""
        assert self.runtime is not None
        crops = []
        for box in view.boxes_R4 * np.array(view.image.size * 2) / np.array([view.width, view.height] * 2):
            left, top = (min(math.floor(edge), side - 1) for edge, side in zip(box[:2], view.image.size, strict=True))
            right, bottom = max(left + 1, math.ceil(box[2])), max(top + 1, math.ceil(box[3]))
            crops.append(fit_pixels(view.image.crop((left, top, right, bottom)), self.manifest.preprocessing))
        parts = [self.runtime.encode(np.stack(crops[i : i + _CROPS])) for i in range(0, len(crops), _CROPS)]
        return np.concatenate(parts)


def _edges(box: NDArray[np.float64]) -> Box:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom
