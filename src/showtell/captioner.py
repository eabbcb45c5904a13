"""A bundle and pictures -> captions, with ONNX Runtime; no PyTorch.

Pictures are read in threads while the networks run, a bounded number ahead, so that a list of a million paths takes no
more memory than one of a hundred. Every picture gives a `Caption` or a `Failure`, in the order they came.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from showtell.bundle import GRAPHS, Bundle, Manifest, read_bundle
from showtell.decoding import Arrays, Hypothesis, SearchOptions, StepOutput, search
from showtell.errors import BundleError, ImageError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Source, read_ahead
from showtell.occlusion import occlusion_maps
from showtell.records import Caption, Failure
from showtell.text import Vocabulary, join_words


class Runtime:
    """The three graphs of a bundle as functions; the `StepFunction` of the search. It keeps nothing between calls.

    Args:
        threads: Of each graph (None: ONNX Runtime's choice, one a physical core).
        lean: Start sooner and with half the memory, and take longer for each picture: right for a few. The graphs
            run as they are written, so numbers differ in their last digits.
        encodes: Whether `encode` will be called; without, its graph is not opened.
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, lean: bool = False, encodes: bool = True) -> None:
        self.manifest = bundle.manifest
        if "step" not in bundle.graphs:
            raise BundleError(
                f"{bundle.manifest.name!r} aligns pictures with sentences and writes no captions; give a captioner, "
                "such as 'default'"
            )
        self._sessions = {
            graph: open_graph(graph, bundle, threads, lean) for graph in GRAPHS if encodes or graph != "encoder"
        }
        state = self.manifest.state
        self._outputs = [
            "logprobs",
            *(f"{name}_next" for name in state),
            *(["alpha"] if self.manifest.attends else []),
        ]

    def encode(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, L, D) of pictures (B, size, size, 3)."""
        features: NDArray[np.float32] = self._sessions["encoder"].run(["features"], {"pixels": pixels_BHWC})[0]
        return features

    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        names = (*self.manifest.memory, *self.manifest.state)
        arrays = dict(zip(names, self._sessions["start"].run(names, {"features": features_BLD}), strict=True))
        return (
            {name: arrays[name] for name in self.manifest.memory},
            {name: arrays[name] for name in self.manifest.state},
        )

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays) -> StepOutput:
        outputs = self._sessions["step"].run(self._outputs, {"tokens": tokens_N, **memory, **state})
        new_state = dict(zip(self.manifest.state, outputs[1:], strict=False))
        return StepOutput(outputs[0], new_state, outputs[-1] if self.manifest.attends else None)


def open_graph(graph: str, bundle: Bundle, threads: int | None, lean: bool) -> Any:
    """A graph of a bundle, ready to run; arguments as `Runtime`.

    Raises:
        BundleError: ONNX Runtime does not take it.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors; what concerns the user comes as an exception
    # Each graph has threads of its own; waiting in a loop, one graph's would take the cores from the next's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if lean:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    prefix = "encoder/" if graph == "wide" else f"{graph}/"
    mine = {name.removeprefix(prefix): array for name, array in bundle.weights.items() if name.startswith(prefix)}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in mine.values()]
    try:
        options.add_external_initializers(list(mine), values)
        return onnxruntime.InferenceSession(bundle.graphs[graph], options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no public root
        raise BundleError(f"ONNX Runtime refuses {graph}.onnx of {bundle.manifest.name!r}: {error}") from error


class Captioner:
    """Says what it sees in pictures.

    Example:
        >>> from showtell import Captioner
        >>> captioner = Captioner.load("default")
        >>> captioner.caption(["photo.jpg"])[0].text  # doctest: +SKIP
        'a dog runs through the grass'
    """

    def __init__(self, bundle: Bundle, *, threads: int | None = None, lean: bool = False) -> None:
        if {"wide", "step"} <= bundle.graphs.keys():
            raise BundleError(
                f"{bundle.manifest.name!r} is an alignment model that captions regions; use showtell regions "
                "(RegionCaptioner), or give a captioner, such as 'default'"
            )
        self.runtime = Runtime(bundle, threads=threads, lean=lean)
        self.vocabulary = bundle.vocabulary
        self._readers = threads or os.cpu_count() or 1

    @classmethod
    def load(cls, source: str | Path = "default", *, threads: int | None = None, lean: bool = False) -> Captioner:
        """A captioner from a bundle's directory or zip, or from one that comes with the package (see `Runtime`).

        Raises:
            BundleError: There is no such bundle, or it is damaged or newer than this package.
        """
        return cls(read_bundle(source), threads=threads, lean=lean)

    @property
    def manifest(self) -> Manifest:
        return self.runtime.manifest

    def options(self, **changes: int | float) -> SearchOptions:
        """The search that suits the model, with changes.

        Raises:
            ConfigError: A value is out of its range.
        """
        return SearchOptions(**{**self.manifest.search, **changes})  # type: ignore[arg-type]

    def caption(
        self,
        images: Sequence[Source],
        options: SearchOptions | None = None,
        *,
        batch: int = 16,
        maps: bool = False,
    ) -> list[Caption | Failure]:
        """A caption, or the reason why there is none, for each picture, in order.

        Args:
            images: Paths, or the bytes of picture files.
            options: How to search; `self.options()` when absent.
            batch: Pictures that go through the networks together.
            maps: Find out where each word comes from, of a model without attention too: by occlusion, which takes
                several times as long as the caption.
        """
        return list(self.caption_stream(images, options, batch=batch, maps=maps))

    def caption_stream(
        self,
        images: Iterable[Source],
        options: SearchOptions | None = None,
        *,
        batch: int = 16,
        maps: bool = False,
        limits: ImageLimits | None = None,
    ) -> Iterator[Caption | Failure]:
        """The same one by one, for any number of pictures in bounded memory."""
        if isinstance(images, str | bytes | os.PathLike):
            raise TypeError(f"give a list of pictures: [{images!r:.60}]")
        options = options or self.options()
        labelled = (
            (f"picture {number}" if isinstance(source, bytes) else os.fspath(source), source)
            for number, source in enumerate(images, 1)
        )
        pictures = read_ahead(
            labelled,
            self.manifest.preprocessing,
            readers=self._readers,
            ahead=2 * batch,
            limits=limits or DEFAULT_LIMITS,
        )
        while group := list(islice(pictures, batch)):
            yield from self.caption_pixels(group, options, maps=maps)

    def caption_pixels(
        self,
        group: Sequence[tuple[str, NDArray[np.uint8] | ImageError]],
        options: SearchOptions,
        *,
        maps: bool = False,
    ) -> Iterator[Caption | Failure]:
        """The same of pictures that were read already, labelled, as one batch; see `images.read_ahead`."""
        readable = [pixels for _, pixels in group if not isinstance(pixels, ImageError)]
        found: Iterator[tuple[NDArray[np.float32], list[Hypothesis]]] = iter(())
        if readable:
            features_BLD = self.runtime.encode(np.stack(readable))
            found = zip(features_BLD, search(self.runtime, features_BLD, options), strict=True)
        for name, pixels in group:
            if isinstance(pixels, ImageError):
                yield Failure(name, str(pixels))
                continue
            features_LD, (best, *others) = next(found)
            caption = self._caption(name, best)
            if maps and caption.maps is None:
                caption = replace(caption, maps=self._occlude(features_LD, best, len(caption.words)))
            yield replace(caption, alternatives=tuple(self._caption(name, other) for other in others))

    def _caption(self, name: str, hypothesis: Hypothesis) -> Caption:
        words = tuple(self.vocabulary.decode(hypothesis.tokens))
        maps = hypothesis.alpha_TL
        if maps is not None:
            maps = maps[: len(words)].reshape(-1, self.manifest.rows, self.manifest.columns)
        return Caption(name, join_words(words), hypothesis.logprob, words, hypothesis.token_logprobs, maps)

    def _occlude(self, features_LD: NDArray[np.float32], said: Hypothesis, words: int) -> NDArray[np.float32] | None:
        grid = self.manifest.rows, self.manifest.columns
        return occlusion_maps(self.runtime, features_LD, said.tokens[:words], *grid)


__all__ = ["Captioner", "Runtime", "Vocabulary"]
