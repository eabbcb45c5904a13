"""One caption a picture against its references -> every score at once, of one system or of two."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Self

from showtell.errors import DataError
from showtell.metrics.bleu import BleuStatistics
from showtell.metrics.cider import Cider
from showtell.metrics.diversity import diversity
from showtell.metrics.files import match_ids
from showtell.metrics.hallucination import ObjectNames, chair
from showtell.metrics.java import JavaMetric, Meteor, rate_meteor, spice, unavailable
from showtell.metrics.ptb import tokenise_ptb
from showtell.metrics.rouge import rouge_l
from showtell.metrics.significance import RESAMPLES, Comparison, Contributions, compare, intervals
from showtell.records import Scores

Words = tuple[str, ...]

_FEWEST = 30  # pictures that a score of some of them is given for


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is scored beside the metrics that are always there.

    `known` are the captions that the system was trained on (`novel`), `objects` the categories of what is in each
    picture (CHAIR), `java` the metrics that need Java. With `resamples`, intervals are drawn from so many.
    """

    known: Collection[str] | None = None
    objects: Mapping[str, Collection[str]] | None = None
    java: tuple[JavaMetric, ...] = ()
    resamples: int = 0
    seed: int = 0


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    split: str | None = None,
    beam: int | None = None,
    options: ScoreOptions | None = None,
) -> Scores:
    """The scores of one caption a picture against what people wrote of it.

    `BLEU-1` … `BLEU-4` (of the corpus), `ROUGE-L` and `CIDEr` are those of the COCO evaluation code; its CIDEr is
    CIDEr-D, and `CIDEr-plain` is the one without -D. `CIDEr-differing` is that of the pictures whose references all
    differ, where others repeat some (30 pictures or more). Beside them stand the captions' variety (see `diversity`)
    and `constant_CIDEr`, what the best single reference scores when it is said of every picture: a captioner below it
    has learned nothing from the pictures. An empty caption is allowed and scores what saying nothing earns.

    Args:
        split: What the pictures are (`val`, `test`), carried into the result; `beam` likewise.

    Raises:
        DataError: A picture lacks its candidate or its references, or there are no pictures. When no id is on both
            sides, ids are matched by file stem first (see `match_ids`).
    """
    options = options or ScoreOptions()
    with _Scorer(references, options) as scorer:
        return _report(scorer.read(candidates), len(references), options, split, beam)


def compare_systems(
    ours: Mapping[str, str],
    theirs: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    split: str | None = None,
    options: ScoreOptions | None = None,
) -> tuple[Scores, dict[str, Comparison]]:
    """Our scores, and each against another system's on the same pictures with a paired bootstrap test.

    Raises:
        DataError: As `score`, of either system.
    """
    options = options or ScoreOptions()
    with _Scorer(references, options) as scorer:
        one, other = scorer.read(ours), scorer.read(theirs)
    compared = compare(one.parts, other.parts, resamples=options.resamples or RESAMPLES, seed=options.seed)
    return _report(one, len(references), options, split, None), compared


@dataclass(frozen=True)
class _System:
    metrics: dict[str, float]
    parts: list[Contributions]  # of the scores that are means or sums over pictures
    missing: tuple[str, ...]


def _report(system: _System, n: int, options: ScoreOptions, split: str | None, beam: int | None) -> Scores:
    drawn = intervals(system.parts, resamples=options.resamples, seed=options.seed) if options.resamples else {}
    return Scores(system.metrics, n, "ptb", split, beam, drawn, system.missing)


class _Scorer:
    """References, tokenised once for all systems that are scored against them, and what Java keeps between them."""

    def __init__(self, references: Mapping[str, Sequence[str]], options: ScoreOptions) -> None:
        self._references = references
        self._options = options
        self._stack = ExitStack()
        self._meteor = self._stack.enter_context(Meteor())
        self._cider: Cider | None = None
        self._parses: str | None = None  # the folder of SPICE's
        self._known: dict[str, Words] = {}
        for image, captions in references.items():
            if isinstance(captions, str):
                raise TypeError(f"the references of {image!r} are a string, not a list of strings")
        self._written = [[self._tokens(caption) for caption in captions] for captions in references.values()]
        # The COCO code splits twice: for BLEU and CIDEr also at the no-break space that its tokeniser puts in `1 1/2`.
        self._words = [[_split(tokens) for tokens in captions] for captions in self._written]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def read(self, candidates: Mapping[str, str]) -> _System:
        """All scores of one system."""
        candidates = match_ids(candidates, self._references)
        _check(candidates, self._references)
        self._cider = self._cider or Cider(self._words)
        said = [self._tokens(candidates[image]) for image in self._references]
        words = [_split(tokens) for tokens in said]
        parts = [
            Contributions.of_bleu(BleuStatistics.count(words, self._words)),
            Contributions.of_means(
                {
                    "ROUGE-L": rouge_l(said, self._written)[1],
                    "CIDEr": self._cider.score(words)[1],
                    "CIDEr-plain": self._cider.score_plain(words)[1],
                }
            ),
        ]
        missing = [sentence for metric in self._options.java if (sentence := unavailable(metric)) is not None]
        parts += [self._java(metric, said) for metric in self._options.java if unavailable(metric) is None]
        metrics: dict[str, float] = {}
        for part in parts:
            values = part.combine(part.rows.mean(0, keepdims=True))[0]
            metrics.update({name: float(value) for name, value in zip(part.names, values, strict=True)})
        known = self._options.known
        metrics |= diversity([[tokens] for tokens in said], None if known is None else set(map(self._tokens, known)))
        metrics["constant_CIDEr"] = self._cider.best_constant()[1]
        metrics |= self._where_references_differ(words)
        metrics |= self._hallucination(candidates)
        return _System(metrics, parts, tuple(missing))

    def _where_references_differ(self, said: Sequence[Words]) -> dict[str, float]:
        """CIDEr-D of the pictures without a repeated reference, where others have some: repeats drive it up."""
        rows = [row for row, captions in enumerate(self._words) if len(set(captions)) == len(captions)]
        if not _FEWEST <= len(rows) < len(said):
            return {}
        return {"CIDEr-differing": Cider([self._words[row] for row in rows]).score([said[row] for row in rows])[0]}

    def _java(self, metric: JavaMetric, said: Sequence[Words]) -> Contributions:
        if metric == "SPICE":
            if self._parses is None:
                self._parses = self._stack.enter_context(TemporaryDirectory(prefix="showtell-spice-"))
            return Contributions.of_means({"SPICE": spice(said, self._written, cache=self._parses)[1]})
        counts = self._meteor.count(said, self._written)
        return Contributions(("METEOR",), counts, lambda means: rate_meteor(means * len(counts))[:, None])

    def _hallucination(self, candidates: Mapping[str, str]) -> dict[str, float]:
        if self._options.objects is None:
            return {}
        objects = _under_our_ids(self._options.objects, self._references)
        captions = {image: candidates[image] for image in self._references if image in objects}
        if not captions:
            raise DataError("the objects are of none of the pictures that are scored; give those of the same pictures")
        categories = {category for group in self._options.objects.values() for category in group}
        names = ObjectNames.of(sorted(categories))
        found = chair(captions, objects, {image: self._references[image] for image in captions}, names)
        return {"CHAIR-s": found.chair_s, "CHAIR-i": found.chair_i, "object_recall": found.recall}

    def _tokens(self, caption: str) -> Words:
        if caption not in self._known:
            self._known[caption] = tuple(tokenise_ptb(caption))
        return self._known[caption]


def _under_our_ids(
    objects: Mapping[str, Collection[str]], references: Mapping[str, Sequence[str]]
) -> dict[str, Collection[str]]:
    """The objects under the references' ids, which may be numbers where theirs are file names."""
    names = match_ids({image: image for image in objects}, references)
    return {ours: objects[theirs] for ours, theirs in names.items()}


def _split(tokens: Words) -> Words:
    return tuple(" ".join(tokens).split())


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not references or not candidates:
        side = "candidates" if references else "references"
        raise DataError(f"there are no {side} to score; give one caption and at least one reference a picture")
    if missing := [image for image in references if image not in candidates]:
        raise DataError(
            f"{_count(missing)} no candidate ({_few(missing)}); "
            "caption them, or leave them out of the references (see --split): a score covers every picture"
        )
    if missing := [image for image in candidates if image not in references]:
        raise DataError(f"{_count(missing)} no references ({_few(missing)}); add theirs, or leave out the candidates")
    if missing := [image for image, captions in references.items() if not captions]:
        raise DataError(f"{_count(missing)} an empty list of references ({_few(missing)}); each needs one or more")


def _count(images: Sequence[str]) -> str:
    return f"{len(images)} picture has" if len(images) == 1 else f"{len(images)} pictures have"


def _few(images: Iterable[str], limit: int = 10) -> str:
    names = [repr(image) for image in images]
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
