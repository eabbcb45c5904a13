"""A picture and boxes -> a caption of each, and where the words of a sentence are; no PyTorch.

With an alignment model, regions share one pass of the encoder over the enlarged picture: each takes its features from
the grid (RoI-align), and a caption counts as much as its words are sure and near to the box. With a captioner, or where
that is asked for, each box is cut out and captioned as a picture of its own. Either way all are one batch. Words are
grounded as Karpathy & Fei-Fei 2015 (section 3.1.4) make snippets: neighbours like to point at the same box.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from showtell.alignment import Aligner, Floats
from showtell.boxes import area, nms, pool_weights, to_grid
from showtell.bundle import Bundle, read_bundle
from showtell.captioner import Runtime
from showtell.decoding import Hypothesis, SearchOptions, search
from showtell.errors import BundleError, DataError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Source, fit_pixels, read_sized, shown_box
from showtell.occlusion import occlusion_maps
from showtell.proposals import Proposer, windows
from showtell.records import Box, Grounding, RegionCaption
from showtell.safewords import SafeWords
from showtell.snippets import align_words, snippets, spread_of
from showtell.text import START, UNK, join_words, tokenise

_CROPS = 16  # that go through the encoder together


@dataclass(frozen=True)
class _View:
    """A picture whose regions are looked at; boxes (R, 4) in pixels of the upright original."""

    image: Image.Image  # may be smaller than the original
    width: int
    height: int
    boxes_R4: NDArray[np.float64]


@dataclass(frozen=True)
class WordMaps:
    """Where the words of a sentence are in a picture.

    Shape: `maps_TRC` (T words, rows, columns), higher where the word is.
    Units: `box`, what the maps cover, in pixels of the upright original; it may reach out of it.
    """

    words: tuple[str, ...]
    maps_TRC: Floats
    box: Box


class RegionCaptioner:
    """Describes regions, and with an alignment model finds words in pictures. It keeps nothing between calls.

    Args:
        crops: Cut regions out and encode each by itself with an alignment model too: slower by far.
        runtime: The captioner's networks, where they are open already.
        words: What captions may not say, as `Captioner`.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        crops: bool = False,
        threads: int | None = None,
        lean: bool = False,
        runtime: Runtime | None = None,
        words: SafeWords | None = None,
    ) -> None:
        self.manifest, self.vocabulary = bundle.manifest, bundle.vocabulary
        self._restrictions = (words or SafeWords()).restrict(bundle.vocabulary, bundle.manifest.once)
        aligns, writes = "wide" in bundle.graphs, "step" in bundle.graphs
        self.aligner = Aligner(bundle, threads=threads, lean=lean) if aligns else None
        if runtime is None and writes:
            runtime = Runtime(bundle, threads=threads, lean=lean, encodes=not aligns)
        self.runtime = runtime
        self._crops = crops

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        crops: bool = False,
        threads: int | None = None,
        lean: bool = False,
        words: SafeWords | None = None,
    ) -> RegionCaptioner:
        """One from a bundle's directory or zip; arguments as `Captioner.load`.

        Raises:
            BundleError: There is no such bundle, it is damaged or newer than this package, or aligns nothing.
        """
        return cls(read_bundle(source), crops=crops, threads=threads, lean=lean, words=words)

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

        Of regions that overlap by more than `overlap`, or of which one is described in no words but another's, the best
        one stays; one whose words are not of it goes. The user's own boxes all stay, in their order.

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
        view = _with_boxes(self._open(source, limits), boxes, propose)
        vectors_RE: Floats | None = None
        if self.aligner is None:
            features_RLD = self._encode_crops(view)
        else:
            features_RD = self._pool(view)
            features_RLD, vectors_RE = features_RD[:, None], self.aligner.embed_regions(features_RD)
        options = options or SearchOptions(**self.manifest.search)  # type: ignore[arg-type]

        def find(runtime: Runtime, rows: Sequence[Floats]) -> list[list[Hypothesis]]:
            return search(runtime, np.stack(rows), options, self._restrictions)

        found = next(self.runtime.spread(find, [list(features_RLD)]))
        said = [
            self._caption(hypotheses[0], box, None if vectors_RE is None else vectors_RE[row])
            for row, (hypotheses, box) in enumerate(zip(found, view.boxes_R4, strict=True))
        ]
        if boxes is not None:
            return said
        kept = [said[row] for row in nms(view.boxes_R4, [one.score for one in said], overlap) if said[row].score > 0]
        return _said_once(kept)[:top]

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
        text: str | None = None,
        *,
        boxes: ArrayLike | None = None,
        propose: Proposer | None = None,
        smoothing: float = 0.3,
        limits: ImageLimits = DEFAULT_LIMITS,
    ) -> list[Grounding]:
        """Where the words of a sentence are, in their order: each run of words with one box.

        An alignment model says how near words and boxes are; of a captioner, a box scores by what it has of the
        word's map beyond its share of the picture: of the attention while the captioner is led along the sentence, or,
        where it does not attend, of what hiding each part takes from the word (see `occlusion`).

        Args:
            text: The sentence; by default what the model says of the picture.
            boxes, propose: As `describe`.
            smoothing: What neighbours that point at the same box are worth, in units of the spread of the words' best
                scores; 0 lets each word choose for itself.

        Raises:
            ImageError: The picture cannot be read.
            DataError: The model knows none of the words.
            BundleError: The model sees a picture as one vector, or writes no captions and is given none.
        """
        whole = self._open(source, limits)
        view = _with_boxes(whole, boxes, propose)
        if self.aligner is not None:
            words, words_TE = self.aligner.embed_words(self._said(whole, text))
            scores_TR = words_TE @ self.aligner.embed_regions(self._pool(view)).T
        else:
            words, maps_TL = self._attend(whole, text)
            left, top, right, bottom = shown_box(view.width, view.height, self.manifest.preprocessing)
            grid = self.manifest.rows, self.manifest.columns
            cells_R4 = to_grid(view.boxes_R4 - [left, top, left, top], right - left, bottom - top, *grid)
            scores_TR = (maps_TL @ pool_weights(cells_R4, *grid).T - 1 / maps_TL.shape[1]) * area(cells_R4)
        return [
            Grounding(
                join_words(words[start:stop]),
                start,
                stop,
                _edges(view.boxes_R4[region]),
                float(scores_TR[start:stop, region].sum()),
            )
            for start, stop, region in snippets(words, align_words(scores_TR, smoothing * spread_of(scores_TR)))
        ]

    def map_words(self, source: Source, text: str | None = None, *, limits: ImageLimits = DEFAULT_LIMITS) -> WordMaps:
        """A map of the picture for each word of a sentence; arguments and errors as `ground`."""
        whole = self._open(source, limits)
        if self.aligner is None:
            words, maps_TL = self._attend(whole, text)
            box = shown_box(whole.width, whole.height, self.manifest.preprocessing)
            return WordMaps(tuple(words), maps_TL.reshape(-1, self.manifest.rows, self.manifest.columns), box)
        words, words_TE = self.aligner.embed_words(self._said(whole, text))
        cells_LE = self.aligner.embed_regions(self.aligner.encode_wide(fit_pixels(whole.image, self.aligner.wide)))
        side = math.isqrt(len(cells_LE))
        return WordMaps(tuple(words), (words_TE @ cells_LE.T).reshape(-1, side, side), _edges(whole.boxes_R4[0]))

    def _said(self, whole: _View, text: str | None) -> str:
        """The sentence, or what the model says of the whole picture."""
        if text is not None:
            return text
        if self.runtime is None:
            raise BundleError(f"{self.manifest.name!r} writes no captions; give the sentence to look for")
        features_1LD = self._encode_crops(whole) if self.aligner is None else self._pool(whole)[:, None]
        options = SearchOptions(**self.manifest.search)  # type: ignore[arg-type]
        found = search(self.runtime, features_1LD, options, self._restrictions)
        return join_words(self.vocabulary.decode(found[0][0].tokens))

    def _attend(self, whole: _View, text: str | None) -> tuple[list[str], Floats]:
        """(the T words of a sentence, how much of each comes from each cell (T, L): attention, or by occlusion)."""
        assert self.runtime is not None
        words = tokenise(self._said(whole, text))
        ids = [self.vocabulary.id_of(word) for word in words]
        if all(index == UNK for index in ids):
            raise DataError(f"the model {self.manifest.name!r} knows none of the words of {text!r}")
        features_1LD = self.runtime.encode(fit_pixels(whole.image, self.manifest.preprocessing)[None])
        if not self.manifest.attends:
            maps_TRC = occlusion_maps(self.runtime, features_1LD[0], ids, self.manifest.rows, self.manifest.columns)
            if maps_TRC is None:
                raise BundleError(
                    f"{self.manifest.name!r} sees a picture as one vector, which says nothing of where; give an "
                    "alignment model, or a captioner whose encoder gives a grid"
                )
            return words, maps_TRC.reshape(len(words), -1)
        memory, state = self.runtime.start(features_1LD)
        maps = []
        for index in [START, *ids[:-1]]:
            output = self.runtime.step(np.array([index]), memory, state)
            assert output.alpha_NL is not None
            maps.append(output.alpha_NL[0])
            state = output.state
        return words, np.stack(maps)

    def _open(self, source: Source, limits: ImageLimits) -> _View:
        """The picture, with the whole of it as the one box."""
        size = (self.aligner.wide if self.aligner is not None else self.manifest.preprocessing).size
        image, (width, height) = read_sized(source, limits=limits, draft=2 * size)
        return _View(image, width, height, np.array([[0, 0, width, height]], np.float64))

    def _pool(self, view: _View) -> Floats:
        """The features (R, D) of regions."""
        assert self.aligner is not None
        if self._crops:
            features_RD: Floats = self._encode_crops(view).mean(1)
            return features_RD
        pixels = fit_pixels(view.image, self.aligner.wide)
        return self.aligner.pool_regions(pixels, view.boxes_R4, view.width, view.height)

    def _encode_crops(self, view: _View) -> Floats:
        """The features (R, L, D) of regions, each encoded by itself."""
        network = self.aligner or self.runtime
        assert network is not None
        crops = []
        for box in view.boxes_R4 * np.array(view.image.size * 2) / np.array([view.width, view.height] * 2):
            left, top = (min(math.floor(edge), side - 1) for edge, side in zip(box[:2], view.image.size, strict=True))
            right, bottom = max(left + 1, math.ceil(box[2])), max(top + 1, math.ceil(box[3]))
            crops.append(fit_pixels(view.image.crop((left, top, right, bottom)), self.manifest.preprocessing))
        parts: list[Floats] = [network.encode(np.stack(crops[i : i + _CROPS])) for i in range(0, len(crops), _CROPS)]
        return np.concatenate(parts)


def _said_once(regions: Sequence[RegionCaption]) -> list[RegionCaption]:
    """Those that say something beside what better ones say: "the grass" goes after "in the grass"."""
    kept: list[tuple[set[str], RegionCaption]] = []
    for one in regions:
        words = set(one.text.split())
        if not any(words <= others or others <= words for others, _ in kept):
            kept.append((words, one))
    return [one for _, one in kept]


def _with_boxes(view: _View, boxes: ArrayLike | None, propose: Proposer | None) -> _View:
    if boxes is not None:
        return replace(view, boxes_R4=np.asarray(boxes, np.float64).reshape(-1, 4))
    found = (propose or windows())(np.asarray(view.image))  # on the picture as it was decoded
    return replace(view, boxes_R4=found * np.array([view.width, view.height] * 2) / np.array(view.image.size * 2))


def _edges(box: NDArray[np.float64]) -> Box:
    left, top, right, bottom = box.tolist()
    return left, top, right, bottom
