"""The models of a server and the queue in front of them: decoded pictures -> captions, regions, pictures found.

Nothing here knows of HTTP. Pictures are decoded in threads of `readers`, in whatever order they come; the models run in
the batcher's threads alone. What comes out is what the command line gives for the same picture.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.alignment import Aligner
from showtell.bundle import Bundle, Manifest, read_bundle
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import BundleError, ConfigError, ShowtellError
from showtell.images import DEFAULT_LIMITS, MEBIBYTE, ImageLimits, read_image, read_pixels, read_sized, shown_box
from showtell.proposals import check_boxes
from showtell.records import Box, RegionCaption
from showtell.regions import RegionCaptioner
from showtell.safewords import SafeWords
from showtell.search import Match, PictureIndex, check_model, read_about
from showtell.web.batching import Batcher
from showtell.web.metrics import Metrics

Pixels = NDArray[np.uint8]
Boxes = tuple[Box, ...]


@dataclass(frozen=True, kw_only=True)
class ServiceLimits:
    """What a server takes upon itself.

    Units: `body` and `held` in bytes, of one request and of all that are being answered; `seconds` for the upload of a
        request, and again for its answer; `queue` in pictures; `sentence` in characters.
    """

    pictures: ImageLimits = DEFAULT_LIMITS
    body: int = 64 * MEBIBYTE
    held: int = 256 * MEBIBYTE
    files: int = 16
    seconds: float = 30.0
    queue: int = 64
    batch: int = 16
    wait: float = 0.005
    beam: int = 10
    regions: int = 100  # given of a picture, or described in the user's own boxes
    found: int = 200
    sentence: int = 1000
    thumbnail: int = 1024

    def __post_init__(self) -> None:
        for name in ("body", "files", "queue", "batch", "beam", "regions", "found", "sentence", "thumbnail"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be at least 1")
        if not self.seconds > 0 or self.wait < 0:
            raise ConfigError(f"seconds is {self.seconds!r}, wait {self.wait!r}; give numbers above 0")
        if self.queue < self.files:
            raise ConfigError(f"queue is {self.queue}; it must have room for the {self.files} files of one request")
        if self.held < self.body:
            raise ConfigError(f"held is {self.held}; it must have room for the {self.body} bytes of one request")


@dataclass(frozen=True)
class CaptionTask:
    """The key of pictures that are captioned together; their items are (name, pixels)."""

    options: SearchOptions
    maps: bool


@dataclass(frozen=True)
class RegionTask:
    """The key of a picture whose regions are described; its item is the bytes of the file."""

    top: int
    boxes: Boxes | None
    options: SearchOptions


@dataclass(frozen=True)
class SearchTask:
    """The key of queries to the index; their items are sentences or pixels."""

    top: int


@dataclass(frozen=True)
class Catalogue:
    """An index and the model that it was made with.

    Raises: ConfigError when it was made with another.
    """

    index: PictureIndex
    aligner: Aligner
    pictures: int = field(init=False)

    def __post_init__(self) -> None:
        check_model(self.index.directory, self.index.model, self.index.width, self.aligner)
        object.__setattr__(self, "pictures", len(self.index))

    def embed(self, query: str | Pixels) -> NDArray[np.float32]:
        """(E,) of a sentence or of a picture.

        Raises:
            DataError: The model knows none of the words.
        """
        if isinstance(query, str):
            return self.aligner.embed_sentence(query)
        vector: NDArray[np.float32] = self.aligner.embed_pictures(query[None])[0]
        return vector


class Service:
    """Models that answer many who ask at once.

    Args:
        bundle: The captioner's, for regions; without it, there are none.
        report: A page about the model that `showtell report` has written.
    """

    def __init__(
        self,
        captioner: Captioner,
        *,
        bundle: Bundle | None = None,
        catalogue: Catalogue | None = None,
        limits: ServiceLimits | None = None,
        threads: int | None = None,
        report: Path | None = None,
    ) -> None:
        self.captioner, self.catalogue, self.report = captioner, catalogue, report
        self.limits = limits or ServiceLimits()
        self.metrics = Metrics()
        self._bundle, self._threads = bundle, threads
        self._describer: RegionCaptioner | None = None
        self._opening = threading.Lock()
        self.readers = ThreadPoolExecutor(threads or os.cpu_count() or 1, "showtell-read")
        self.batcher = Batcher(
            self._run,
            workers=threads or os.cpu_count() or 1,
            size=self.limits.batch,
            wait=self.limits.wait,
            limit=self.limits.queue,
            observe=self.metrics.count_batch,
        )

    @classmethod
    def load(
        cls,
        model: str | Path = "default",
        *,
        index: Path | None = None,
        index_model: str | None = None,
        threads: int | None = None,
        limits: ServiceLimits | None = None,
        report: Path | None = None,
        words: SafeWords | None = None,
    ) -> Service:
        """A service of a bundle, and of an index with its alignment model (by default the one that it names).

        Raises:
            BundleError: A bundle is missing, damaged or newer than this package, or writes no captions.
            DataError: There is no index, or it is damaged.
            ConfigError: The index names no model, or was made with another one; the words are of another language.
        """
        bundle = read_bundle(model)
        captioner = Captioner(bundle, threads=threads, words=words)
        catalogue = None
        if index is not None:
            pictures = PictureIndex(index)
            about = read_about(index)
            source = index_model or (about.source if about is not None else "")
            if not source:
                raise ConfigError("name the alignment model of the index with --index-model: a bundle or its zip file")
            catalogue = Catalogue(pictures, Aligner.load(source, threads=threads))
        return cls(captioner, bundle=bundle, catalogue=catalogue, limits=limits, threads=threads, report=report)

    @property
    def manifest(self) -> Manifest:
        return self.captioner.manifest

    def options(self, beam: int | None, top: int, length_penalty: float | None = None) -> SearchOptions:
        """The search that suits the model, with changes; as on the command line, a `top` alone widens the beam.

        Raises:
            ConfigError: A value is out of its range.
        """
        changes: dict[str, int | float] = {"top": top}
        if beam is not None:
            changes["beam"] = beam
        elif top > self.captioner.options().beam:
            changes["beam"] = top
        if length_penalty is not None:
            changes["length_penalty"] = length_penalty
        return self.captioner.options(**changes)

    def read_picture(self, data: bytes, name: str) -> Pixels:
        """The pixels that the captioner takes; call it in `readers`.

        Raises:
            ImageError: They are no picture, or one that is not accepted.
        """
        return read_pixels(data, self.manifest.preprocessing, limits=self.limits.pictures, name=name)

    def place_maps(self, data: bytes, name: str) -> Box | None:
        """What maps cover of the picture, in shares of its width and height; None: all of it. Call it in `readers`.

        Raises:
            ImageError: As `read_picture`.
        """
        preprocessing = self.manifest.preprocessing
        if preprocessing.fit == "squash":
            return None
        _, (width, height) = read_sized(data, limits=self.limits.pictures, draft=1, name=name)
        left, top, right, bottom = shown_box(width, height, preprocessing)
        return left / width, top / height, right / width, bottom / height

    def read_example(self, data: bytes, name: str) -> Pixels:
        """The pixels that the index's model takes; as `read_picture`."""
        assert self.catalogue is not None
        return read_pixels(data, self.catalogue.aligner.preprocessing, limits=self.limits.pictures, name=name)

    def check_boxes(self, data: bytes, name: str, boxes: Boxes | None) -> Boxes | None:
        """The boxes, cut to their picture, or None where none are given; call it in `readers`.

        Raises:
            ImageError: As `read_picture`.
            ConfigError: A box is not one of the picture.
        """
        _, (width, height) = read_sized(data, limits=self.limits.pictures, draft=1, name=name)
        if boxes is None:
            return None
        kept, findings = check_boxes(np.array(boxes), width, height)
        broken = [finding.message for finding in findings if finding.breaks]
        if broken:
            raise ConfigError("; ".join(broken))
        return tuple((left, top, right, bottom) for left, top, right, bottom in kept.tolist())

    def thumbnail(self, path: str, side: int) -> bytes:
        """A JPEG of a picture, no side longer than `side`; call it in `readers`.

        Raises:
            ImageError: The picture is gone, or cannot be read any more.
        """
        picture = read_image(path, limits=self.limits.pictures, draft=side)
        picture.thumbnail((side, side))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=85)
        return out.getvalue()

    def close(self, timeout: float | None = None) -> bool:
        """Whether everything that was accepted is answered; nothing more is accepted."""
        finished = self.batcher.close(timeout)
        self.readers.shutdown(wait=finished, cancel_futures=True)
        return finished

    def _run(self, key: Any, items: Sequence[Any]) -> Iterator[Any]:
        if isinstance(key, CaptionTask):
            return self.captioner.caption_pixels(items, key.options, maps=key.maps)
        if isinstance(key, RegionTask):
            return iter([self._describe(data, key) for data in items])
        return self._search(items, key.top)

    def _describe(self, data: bytes, task: RegionTask) -> list[RegionCaption] | ShowtellError:
        try:
            with self._opening:
                if self._bundle is None:
                    raise BundleError("this service was made without the captioner's bundle and describes no regions")
                if self._describer is None:
                    runtime, words = self.captioner.runtime, self.captioner.words
                    self._describer = RegionCaptioner(self._bundle, threads=self._threads, runtime=runtime, words=words)
            return self._describer.describe(
                data, boxes=task.boxes, top=task.top, options=task.options, limits=self.limits.pictures
            )
        except ShowtellError as error:
            return error

    def _search(self, queries: Sequence[str | Pixels], top: int) -> Iterator[list[Match] | ShowtellError]:
        assert self.catalogue is not None
        vectors: list[NDArray[np.float32] | ShowtellError] = []
        for query in queries:
            try:
                vectors.append(self.catalogue.embed(query))
            except ShowtellError as error:
                vectors.append(error)
        known = [vector for vector in vectors if not isinstance(vector, ShowtellError)]
        found = iter(self.catalogue.index.search(np.stack(known), top) if known else [])
        for vector in vectors:
            yield vector if isinstance(vector, ShowtellError) else next(found)
