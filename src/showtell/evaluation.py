"""A model and examples -> scores: a captioner captions each picture, an alignment model finds captions and pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from showtell.alignment import Aligner
from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import DataError, ImageError
from showtell.images import read_ahead
from showtell.metrics import ScoreOptions, calibrate_words, score
from showtell.metrics.calibration import Calibration
from showtell.records import Caption, Example, Failure, Scores
from showtell.text import tokenise

_BATCH = 16  # pictures that go through the network together
_SENTENCES = 64  # captions that are read together


@dataclass(frozen=True)
class Evaluation:
    """Scores, and what was said of each picture; pictures that could not be read are in `failures` and not scored.

    `scores` has `ECE` beside the metrics of text: the expected calibration error of `calibration` (None where not one
    word was said).
    """

    scores: Scores
    captions: dict[str, Caption]
    failures: tuple[Failure, ...]
    calibration: Calibration | None


def evaluate(
    captioner: Captioner,
    examples: Sequence[Example],
    split: str,
    *,
    options: SearchOptions | None = None,
    scoring: ScoreOptions | None = None,
    maps: bool = False,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluation:
    """Scores a captioner on the examples of one split.

    Args:
        maps: Find out where in its picture each word comes from, as `Captioner.caption`.

    Raises:
        DataError: The split has no example, or none of its pictures can be read.
    """
    chosen = _of_split(examples, split)
    options = options or captioner.options()
    captions: dict[str, Caption] = {}
    failures: list[Failure] = []
    paths = [str(example.image) for example in chosen.values()]
    said = captioner.caption_stream(paths, options, maps=maps)
    for number, (name, result) in enumerate(zip(chosen, said, strict=True), 1):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            captions[name] = result
        progress(f"captioning {split}", number, len(paths))
    if not captions:
        raise DataError(f"none of the {len(paths)} pictures of {split!r} can be read; the first: {failures[0].error}")
    candidates = {name: caption.text for name, caption in captions.items()}
    references = {name: chosen[name].references for name in captions}
    scores = score(candidates, references, split=split, beam=options.beam, options=scoring)
    scores = replace(scores, words=captioner.words.describe(captioner.restrictions))
    words = {name: {word for text in references[name] for word in tokenise(text)} for name in captions}
    calibration = calibrate_words(captions, words) if any(caption.words for caption in captions.values()) else None
    if calibration is not None:
        scores = replace(scores, metrics={**scores.metrics, "ECE": calibration.error})
    return Evaluation(scores, captions, tuple(failures), calibration)


@dataclass(frozen=True)
class Comparison:
    """How near each picture is to each caption, as cosines; pictures that could not be read are in `failures`.

    Shape: similarity_BN (B pictures, N captions); owner_N, the picture that each caption is of, from 0.
    """

    images: tuple[str, ...]
    captions: tuple[str, ...]
    similarity_BN: NDArray[np.float32]
    owner_N: NDArray[np.int64]
    failures: tuple[Failure, ...]


def compare(
    aligner: Aligner,
    examples: Sequence[Example],
    split: str,
    *,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Comparison:
    """Compares the pictures of one split with all of their captions; `metrics.retrieval` scores what comes back.

    A caption without a word that the model knows is as near to all pictures.

    Raises:
        DataError: The split has no example, or none of its pictures can be read.
    """
    chosen = _of_split(examples, split)
    sources = ((name, str(example.image)) for name, example in chosen.items())
    pictures = read_ahead(sources, aligner.preprocessing, readers=os.cpu_count() or 1, ahead=2 * _BATCH)
    images: list[str] = []
    failures: list[Failure] = []
    parts: list[NDArray[np.float32]] = []
    while group := list(islice(pictures, _BATCH)):
        readable = {name: pixels for name, pixels in group if not isinstance(pixels, ImageError)}
        failures += [Failure(name, str(error)) for name, error in group if isinstance(error, ImageError)]
        if readable:
            images += readable
            parts.append(aligner.embed_pictures(np.stack(list(readable.values()))))
        progress(f"looking at {split}", len(images) + len(failures), len(chosen))
    if not images:
        raise DataError(f"none of the {len(chosen)} pictures of {split!r} can be read; the first: {failures[0].error}")
    captions = [text for name in images for text in chosen[name].references]
    known = [number for number, text in enumerate(captions) if aligner.knows(text)]
    sentences_NE = np.zeros((len(captions), aligner.width), np.float32)
    for start in range(0, len(known), _SENTENCES):
        group_of = known[start : start + _SENTENCES]
        sentences_NE[group_of] = aligner.embed_sentences([captions[number] for number in group_of])
        progress(f"reading the captions of {split}", start + len(group_of), len(known))
    similarity_BN = np.concatenate(parts) @ sentences_NE.T
    owner_N = np.repeat(np.arange(len(images)), [len(chosen[name].references) for name in images])
    return Comparison(tuple(images), tuple(captions), similarity_BN, owner_N, tuple(failures))


def _of_split(examples: Sequence[Example], split: str) -> dict[str, Example]:
    """The captioned pictures of a split by their ids."""
    chosen = {
        example.id: example
        for example in examples
        if example.split == split and example.image is not None and example.references
    }
    if not chosen:
        splits = sorted({str(example.split) for example in examples})
        raise DataError(f"the data has no picture in the split {split!r}; it has {', '.join(splits)}")
    return chosen
