"""A captioner and examples -> scores: every picture is captioned by real search and compared with its references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from showtell.captioner import Captioner
from showtell.decoding import SearchOptions
from showtell.errors import DataError
from showtell.metrics import ScoreOptions, calibrate_words, score
from showtell.metrics.calibration import Calibration
from showtell.records import Caption, Example, Failure, Scores
from showtell.text import tokenise


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
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Evaluation:
    """Scores a captioner on the examples of one split.

    Raises:
        DataError: The split has no example, or none of its pictures can be read.
    """
    chosen = {
        example.id: example
        for example in examples
        if example.split == split and example.image is not None and example.references
    }
    if not chosen:
        splits = sorted({str(example.split) for example in examples})
        raise DataError(f"the data has no picture in the split {split!r}; it has {', '.join(splits)}")
    options = options or captioner.options()
    captions: dict[str, Caption] = {}
    failures: list[Failure] = []
    paths = [str(example.image) for example in chosen.values()]
    for number, (name, result) in enumerate(zip(chosen, captioner.caption_stream(paths, options), strict=True), 1):
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
    words = {name: {word for text in references[name] for word in tokenise(text)} for name in captions}
    calibration = calibrate_words(captions, words) if any(caption.words for caption in captions.values()) else None
    if calibration is not None:
        scores = replace(scores, metrics={**scores.metrics, "ECE": calibration.error})
    return Evaluation(scores, captions, tuple(failures), calibration)
