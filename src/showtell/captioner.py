"""A bundle and pictures -> captions, with ONNX Runtime; no PyTorch.

Pictures are read in threads while the networks run, a bounded number ahead, so that a list of a million paths takes no
more memory than one of a hundred. Every picture gives a `Caption` or a `Failure`, in the order they came.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from showtell.bundle import GRAPHS, Bundle, Manifest, read_bundle
from showtell.confidence import Judge
from showtell.decoding import Arrays, Hypothesis, SearchOptions, StepOutput, search
from showtell.errors import BackendError, BundleError, ImageError
from showtell.images import DEFAULT_LIMITS, ImageLimits, Source, read_ahead
from showtell.occlusion import occlusion_maps
from showtell.records import Caption, Failure
from showtell.safewords import SafeWords
from showtell.text import Vocabulary, join_words

_TOGETHER = 8  # pictures that the encoder gets at a time

Item = TypeVar("Item")
Result = TypeVar("Result")


class Runtime:
    """The three graphs of a bundle as functions; the `StepFunction` of the search. It keeps nothing between calls.

    Args:
        threads: At most so many compute at a time (None: one a core); as many others read pictures ahead of them.
        lean: Start sooner and with half the memory, and take longer for each picture: right for a few. The
            encoder runs as it is written, so numbers differ in their last digits.
        encodes: Whether `encode` will be called; without, its graph is not opened.
        cuda: Compute on a CUDA device, with what ONNX Runtime has for it.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        lean: bool = False,
        encodes: bool = True,
        cuda: bool = False,
    ) -> None:
        self.manifest = bundle.manifest
        if "step" not in bundle.graphs:
            raise BundleError(
                f"{bundle.manifest.name!r} aligns pictures with sentences and writes no captions; give a captioner, "
                "such as 'default'"
            )
        self.threads = threads or os.cpu_count() or 1
        self._bundle, self._lean, self._cuda = bundle, lean, cuda
        self._sessions = {
            graph: open_graph(graph, bundle, threads, lean, cuda) for graph in GRAPHS if encodes or graph != "encoder"
        }
        self._ranks = "best" in {given.name for given in self._sessions["step"].get_inputs()}
        self._single: tuple[Runtime, ThreadPoolExecutor] | None = None
        self._lock = threading.Lock()
        self._working = 0  # groups or shares of them, of all callers

    def spread(
        self, work: Callable[[Runtime, Sequence[Item]], list[Result]], groups: Iterable[Sequence[Item]]
    ) -> Iterator[list[Result]]:
        """What `work` makes of each group, in order; as many groups beside each other as threads, one thread each.

        That is faster than all threads on one group: they never wait for each other within a network, and one computes
        while another chooses words. The last group is shared out, where nobody else's is worked on.
        """
        rest = iter(groups)
        group, after = next(rest, None), next(rest, None)
        few = group is not None and after is None and len(group) < self.threads and not self._working
        if self._lean or self._cuda or self.threads == 1 or few:
            yield from (self._count(work, self, each) for each in chain((group, after), rest) if each)
            return
        single, pool = self._open_single()
        waiting: deque[list[Future[list[Result]]]] = deque()
        try:
            while group:
                own = sum(not share.done() for shared in waiting for share in shared)
                shares = 1 if after or self._working > own else self.threads
                bounds = pairwise(len(group) * share // shares for share in range(shares + 1))
                parts = [group[begin:end] for begin, end in bounds if begin < end]
                waiting.append([pool.submit(self._count, work, single, part) for part in parts])
                if len(waiting) > self.threads:
                    yield [one for share in waiting.popleft() for one in share.result()]
                group, after = after, next(rest, None)
            while waiting:
                yield [one for share in waiting.popleft() for one in share.result()]
        finally:
            for shared in waiting:
                for future in shared:
                    future.cancel()

    def _count(
        self, work: Callable[[Runtime, Sequence[Item]], list[Result]], runtime: Runtime, items: Sequence[Item]
    ) -> list[Result]:
        """The work on some items, counted while it lasts."""
        with self._lock:
            self._working += 1
        try:
            return work(runtime, items)
        finally:
            with self._lock:
                self._working -= 1

    def _open_single(self) -> tuple[Runtime, ThreadPoolExecutor]:
        """(the graphs with one thread each, the threads to run them in)."""
        with self._lock:
            if self._single is None:
                single = Runtime(self._bundle, threads=1, encodes="encoder" in self._sessions, cuda=self._cuda)
                self._single = single, ThreadPoolExecutor(self.threads, "showtell")
        return self._single

    def encode(self, pixels_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features (B, L, D) of pictures (B, size, size, 3)."""
        features: NDArray[np.float32] = self._sessions["encoder"].run(["features"], {"pixels": pixels_BHWC})[0]
        return features

    def encode_each(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The same of any number of pictures, a few at a time: the processor's caches hold what is between layers."""
        starts = range(0, len(pictures), _TOGETHER)
        parts = [self.encode(np.stack(pictures[start : start + _TOGETHER])) for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, 0, 0), np.float32)

    def start(self, features_BLD: NDArray[Any]) -> tuple[Arrays, Arrays]:
        names = (*self.manifest.memory, *self.manifest.state)
        arrays = dict(zip(names, self._sessions["start"].run(names, {"features": features_BLD}), strict=True))
        return (
            {name: arrays[name] for name in self.manifest.memory},
            {name: arrays[name] for name in self.manifest.state},
        )

    def step(self, tokens_N: NDArray[np.int64], memory: Arrays, state: Arrays, best: int | None = None) -> StepOutput:
        given = {"tokens": tokens_N, **memory, **state}
        if self._ranks:  # a graph of before it did says all
            given["best"] = np.array([1 if best is None else min(best, len(self._bundle.vocabulary))])
        said = ["best_logprobs", "best_tokens"] if self._ranks and best is not None else ["logprobs"]
        names = [
            *said,
            *(f"{name}_next" for name in self.manifest.state),
            *(["alpha"] if self.manifest.attends else []),
        ]
        outputs = dict(zip(names, self._sessions["step"].run(names, given), strict=True))
        new_state = {name: outputs[f"{name}_next"] for name in self.manifest.state}
        return StepOutput(outputs[said[0]], new_state, outputs.get("alpha"), outputs.get("best_tokens"))


def open_graph(graph: str, bundle: Bundle, threads: int | None, lean: bool, cuda: bool = False) -> Any:
    """A graph of a bundle, ready to run; arguments as `Runtime`.

    Raises:
        BundleError: ONNX Runtime does not take it.
        BackendError: This ONNX Runtime has nothing for CUDA devices.
    """
    providers = ["CPUExecutionProvider"]
    if cuda:
        providers.insert(0, "CUDAExecutionProvider")
        if providers[0] not in onnxruntime.get_available_providers():
            raise BackendError(
                "this ONNX Runtime knows no CUDA device; where there is one, run: pip uninstall onnxruntime, "
                "pip install onnxruntime-gpu, or leave --gpus-per-actor out"
            )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3  # errors; what concerns the user comes as an exception
    # Each graph has threads of its own; waiting in a loop, one graph's would take the cores from the next's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if lean:
        levels = onnxruntime.GraphOptimizationLevel
        once = graph in ("encoder", "wide")  # the others run for each word, and cast their weights before the first
        options.graph_optimization_level = levels.ORT_DISABLE_ALL if once else levels.ORT_ENABLE_BASIC
        options.enable_cpu_mem_arena = False
        options.enable_mem_pattern = False
        options.add_session_config_entry("session.disable_prepacking", "1")
    prefix = "encoder/" if graph == "wide" else f"{graph}/"
    mine = {name.removeprefix(prefix): array for name, array in bundle.weights.items() if name.startswith(prefix)}
    values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in mine.values()]
    try:
        options.add_external_initializers(list(mine), values)
        return onnxruntime.InferenceSession(bundle.graphs[graph], options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no public root
        raise BundleError(f"ONNX Runtime refuses {graph}.onnx of {bundle.manifest.name!r}: {error}") from error


class Captioner:
    """Says what it sees in pictures.

    Args:
        words: What captions may not say; the package's list by default (see `showtell.safewords`).

    Example:
        >>> from showtell import Captioner
        >>> captioner = Captioner.load("default")
        >>> captioner.caption(["photo.jpg"])[0].text  # doctest: +SKIP
        'a dog runs through the grass'
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int | None = None,
        lean: bool = False,
        cuda: bool = False,
        words: SafeWords | None = None,
    ) -> None:
        if {"wide", "step"} <= bundle.graphs.keys():
            raise BundleError(
                f"{bundle.manifest.name!r} is an alignment model that captions regions; use showtell regions "
                "(RegionCaptioner), or give a captioner, such as 'default'"
            )
        self.runtime = Runtime(bundle, threads=threads, lean=lean, cuda=cuda)
        self.vocabulary = bundle.vocabulary
        self.words = words or SafeWords()
        self.restrictions = self.words.restrict(bundle.vocabulary, bundle.manifest.once)
        self._judge = Judge.read(bundle.manifest.confidence, bundle.weights, bundle.manifest.name)

    @classmethod
    def load(
        cls,
        source: str | Path = "default",
        *,
        threads: int | None = None,
        lean: bool = False,
        words: SafeWords | None = None,
    ) -> Captioner:
        """A captioner from a bundle's directory or zip, or from one that comes with the package (see `Runtime`).

        Raises:
            BundleError: There is no such bundle, or it is damaged or newer than this package.
            ConfigError: The words are of another language than the bundle.
        """
        return cls(read_bundle(source), threads=threads, lean=lean, words=words)

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
        yield from self.caption_labelled(labelled, options, batch=batch, maps=maps, limits=limits)

    def caption_labelled(
        self,
        labelled: Iterable[tuple[str, Source | Callable[[], bytes]]],
        options: SearchOptions,
        *,
        batch: int = 16,
        maps: bool = False,
        limits: ImageLimits | None = None,
        readers: int | None = None,
    ) -> Iterator[Caption | Failure]:
        """The same of pictures with the names that they have in results; see `images.read_ahead`.

        Args:
            readers: Threads that read pictures; as many as compute when None.
        """
        pictures = read_ahead(
            labelled,
            self.manifest.preprocessing,
            readers=readers or self.runtime.threads,
            ahead=max(2, self.runtime.threads) * batch,
            limits=limits or DEFAULT_LIMITS,
        )
        groups = iter(lambda: list(islice(pictures, batch)), [])
        for done in self.runtime.spread(partial(self._caption_share, options=options, maps=maps), groups):
            yield from done

    def caption_pixels(
        self,
        group: Sequence[tuple[str, NDArray[np.uint8] | ImageError]],
        options: SearchOptions,
        *,
        maps: bool = False,
    ) -> Iterator[Caption | Failure]:
        """The same of pictures that were read already, labelled, as one batch; see `images.read_ahead`."""
        for done in self.runtime.spread(partial(self._caption_share, options=options, maps=maps), [group]):
            yield from done

    def _caption_share(
        self,
        runtime: Runtime,
        group: Sequence[tuple[str, NDArray[np.uint8] | ImageError]],
        options: SearchOptions,
        maps: bool,
    ) -> list[Caption | Failure]:
        readable = [pixels for _, pixels in group if not isinstance(pixels, ImageError)]
        features_BLD = runtime.encode_each(readable)
        found = search(runtime, features_BLD, options, self.restrictions)
        confidences: Sequence[float | None] = [None] * len(found)
        if self._judge is not None and found:
            confidences = self._judge.judge([best.token_logprobs for best, *_ in found], features_BLD)
        rest = zip(features_BLD, found, confidences, strict=True)
        said: list[Caption | Failure] = []
        for name, pixels in group:
            if isinstance(pixels, ImageError):
                said.append(Failure(name, str(pixels)))
                continue
            features_LD, (best, *others), confidence = next(rest)
            alternatives = tuple(self._caption(name, other) for other in others)
            caption = replace(self._caption(name, best), confidence=confidence, alternatives=alternatives)
            if maps and caption.maps is None:
                grid = self.manifest.rows, self.manifest.columns
                where = occlusion_maps(runtime, features_LD, best.tokens[: len(caption.words)], *grid)
                caption = replace(caption, maps=where)
            said.append(caption)
        return said

    def _caption(self, name: str, hypothesis: Hypothesis) -> Caption:
        words = tuple(self.vocabulary.decode(hypothesis.tokens))
        maps = hypothesis.alpha_TL
        if maps is not None:
            maps = maps[: len(words)].reshape(-1, self.manifest.rows, self.manifest.columns)
        return Caption(name, join_words(words), hypothesis.logprob, words, hypothesis.token_logprobs, maps)


__all__ = ["Captioner", "Runtime", "Vocabulary"]
