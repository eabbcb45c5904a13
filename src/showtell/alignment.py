"""An alignment model and pictures, boxes or sentences -> vectors that are near where they belong together; no PyTorch.

A picture and a sentence are compared by the product of their vectors, a cosine; a region and a word by the product of
theirs. How the spaces are learned is in `showtell.learn.alignment`. Of the bundle's weights,

    alignment/words          (V, W), a word's entry
    alignment/reader         a GRU of H units in either direction, as PyTorch names and orders its parts
    alignment/word, sentence (E, 2H) and bias
    alignment/region, picture (E, D) and bias
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.boxes import pool_weights, to_grid
from showtell.bundle import Bundle, read_bundle
from showtell.captioner import open_graph
from showtell.errors import BundleError, DataError
from showtell.images import Preprocessing
from showtell.text import UNK, tokenise

Floats = NDArray[np.float32]


class Aligner:
    """Pictures, regions, sentences and words as vectors. It keeps nothing between calls.

    Attributes:
        model: Which weights these are; vectors of different ones cannot be compared.
        width: E.
        preprocessing: Of whole pictures.
        wide: Of pictures whose regions are looked at.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, lean: bool = False) -> None:
        if "wide" not in bundle.graphs:
            raise BundleError(
                f"{bundle.manifest.name!r} is a captioner and aligns nothing; give an alignment model (a configuration "
                "with [alignment] trains one)"
            )
        self.manifest, self.vocabulary = bundle.manifest, bundle.vocabulary
        self.preprocessing = bundle.manifest.preprocessing
        self.wide: Preprocessing = replace(self.preprocessing, size=bundle.manifest.wide, fit="squash")
        prefix = "alignment/"
        self._weights = {
            name.removeprefix(prefix): array.astype(np.float32)
            for name, array in bundle.weights.items()
            if name.startswith(prefix)
        }
        self.model = _identity(bundle)
        self.width = len(self._weights["picture.bias"])
        self._bundle, self._options = bundle, (threads, lean)
        self._graphs: dict[str, Any] = {}

    @classmethod
    def load(cls, source: str | Path, *, threads: int | None = None, lean: bool = False) -> Aligner:
        """An aligner from a bundle's directory or zip; arguments as `Captioner.load`.

        Raises:
            BundleError: There is no such bundle, it is damaged or newer than this package, or it is a captioner.
        """
        return cls(read_bundle(source), threads=threads, lean=lean)

    def embed_pictures(self, pixels_BHWC: NDArray[np.uint8]) -> Floats:
        """Whole pictures, (B, size, size, 3) of `preprocessing` -> (B, E), of length 1."""
        return _unit(self._linear("picture", self.encode(pixels_BHWC).mean(1)))

    def encode(self, pixels_BHWC: NDArray[np.uint8]) -> Floats:
        """The features (B, L, D) of whole pictures, of `preprocessing`."""
        return self._run("encoder", pixels_BHWC)

    def pool_regions(self, pixels_HWC: NDArray[np.uint8], boxes: ArrayLike, width: float, height: float) -> Floats:
        """The features (R, D) of regions of one picture, cut from the grid of its `wide` pixels.

        Args:
            boxes: (R, 4), in pixels of the original.
            width, height: Of the original.
        """
        grid_LD = self.encode_wide(pixels_HWC)
        side = math.isqrt(len(grid_LD))
        features_RD: Floats = pool_weights(to_grid(boxes, width, height, side, side), side, side) @ grid_LD
        return features_RD

    def encode_wide(self, pixels_HWC: NDArray[np.uint8]) -> Floats:
        """The features (L, D) of the cells of one picture's `wide` pixels, a square grid row by row."""
        grid_LD: Floats = self._run("wide", pixels_HWC[None])[0]
        return grid_LD

    def embed_regions(self, features_RD: Floats) -> Floats:
        """The vectors (R, E) of regions by their features, of length 1."""
        return _unit(self._linear("region", features_RD))

    def knows(self, text: str) -> bool:
        """Whether a text has a word that the model knows."""
        return any(self.vocabulary.id_of(word) != UNK for word in tokenise(text))

    def embed_words(self, text: str) -> tuple[list[str], Floats]:
        """(the T words of a text as the model reads them, their vectors (T, E)).

        Raises:
            DataError: The model knows none of its words.
        """
        words, ids = self._look_up(text)
        return words, self.embed_ids(ids)

    def embed_ids(self, ids: Sequence[int]) -> Floats:
        """The vectors (T, E) of one word or more of the model's own vocabulary."""
        return self._linear("word", self._read([ids])[0])

    def embed_sentence(self, text: str) -> Floats:
        """A text as a whole, (E,), of length 1.

        Raises:
            DataError: The model knows none of its words.
        """
        vector_E: Floats = self.embed_sentences([text])[0]
        return vector_E

    def embed_sentences(self, texts: Sequence[str]) -> Floats:
        """Texts as wholes, (N, E), of length 1; faster than one by one.

        Raises:
            DataError: The model knows no word of one of them.
        """
        states = self._read([self._look_up(text)[1] for text in texts])
        return _unit(self._linear("sentence", np.stack([states_TH.mean(0) for states_TH in states])))

    # how

    def _look_up(self, text: str) -> tuple[list[str], list[int]]:
        words = tokenise(text)
        ids = [self.vocabulary.id_of(word) for word in words]
        if all(index == UNK for index in ids):
            unknown = f"knows none of the words {', '.join(map(repr, words[:5]))}" if words else "was given no words"
            raise DataError(
                f"the model {self.manifest.name!r} {unknown}; it knows {len(self.vocabulary) - 4:,}, those of its "
                "training captions"
            )
        return words, ids

    def _read(self, texts: Sequence[Sequence[int]]) -> list[Floats]:
        """What the reader makes of each word in its place, (T, 2H) of each text."""
        lengths = [len(ids) for ids in texts]
        ids_NT = np.zeros((len(texts), max(lengths)), np.int64)
        for row, ids in zip(ids_NT, texts, strict=True):
            row[: len(ids)] = ids
        back_NT = np.arange(ids_NT.shape[1])[None] * np.ones((len(texts), 1), np.int64)
        for row, length in zip(back_NT, lengths, strict=True):  # what follows the last word stays there
            row[:length] = row[:length][::-1]
        ahead_NTH = self._pass(ids_NT, "")
        back_NTH = self._pass(np.take_along_axis(ids_NT, back_NT, 1), "_reverse")
        back_NTH = np.take_along_axis(back_NTH, back_NT[..., None], 1)
        both_NTH = np.concatenate((ahead_NTH, back_NTH), 2)
        return [states_TH[:length] for states_TH, length in zip(both_NTH, lengths, strict=True)]

    def _pass(self, ids_NT: NDArray[np.int64], direction: str) -> Floats:
        """One direction of a GRU (Cho et al. 2014, in PyTorch's form: the reset gate acts after the product)."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        inward, onward, inward_bias, onward_bias = (self._weights[f"reader.{name}_l0{direction}"] for name in names)
        state_NH = np.zeros((len(ids_NT), onward.shape[1]), np.float32)
        states = []
        for ids_N in ids_NT.T:
            given_N3H = self._weights["words.weight"][ids_N] @ inward.T + inward_bias
            reset_in, update_in, new_in = np.split(given_N3H, 3, axis=1)
            reset_on, update_on, new_on = np.split(state_NH @ onward.T + onward_bias, 3, axis=1)
            update = _sigmoid(update_in + update_on)
            new = np.tanh(new_in + _sigmoid(reset_in + reset_on) * new_on)
            state_NH = (1 - update) * new + update * state_NH
            states.append(state_NH)
        return np.stack(states, 1)

    def _linear(self, name: str, inputs: Floats) -> Floats:
        out: Floats = inputs @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return out

    def _run(self, graph: str, pixels_BHWC: NDArray[np.uint8]) -> Floats:
        if graph not in self._graphs:
            self._graphs[graph] = open_graph(graph, self._bundle, *self._options)
        features: Floats = self._graphs[graph].run(["features"], {"pixels": pixels_BHWC})[0]
        return features


def _identity(bundle: Bundle) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(bundle.weights.items()):
        digest.update(name.encode())
        digest.update(array.tobytes())
    digest.update(bundle.vocabulary.to_json().encode())
    digest.update(repr(bundle.manifest.preprocessing).encode())
    return digest.hexdigest()[:32]


def _sigmoid(values: Floats) -> Floats:
    out: Floats = 0.5 + 0.5 * np.tanh(0.5 * values)  # does not overflow
    return out


def _unit(vectors: Floats) -> Floats:
    out: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return out
