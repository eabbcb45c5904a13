"""Captions -> one HTML page that needs nothing beside it: all pictures, and what is said again and again.

Of an evaluated captioner it has scores and curves too, and good, median and worst captions. Pictures are ranked by the
CIDEr-D of their captions, as the CIDEr of the whole set counts it.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from showtell.errors import DataError, ImageError
from showtell.images import Preprocessing, shown_box
from showtell.metrics import Cider, tokenise_ptb
from showtell.records import Caption, Example, Failure, Scores
from showtell.report.curves import Drawing, curves_of
from showtell.report.page import COLOUR, draw_svg, read_thumbnail, write_page
from showtell.report.sheet import MOST, Seen, Shown, sheet_rows

if TYPE_CHECKING:
    from showtell.evaluation import Evaluation

Look = Callable[[Caption, str, int, int], Seen | None]

_SENTENCES = 10  # rows of the table of sentences
_FAILURES = 200  # and of that of failures
_MOSTLY, _OFTEN = 0.5, 0.2  # shares of the pictures of which one sentence is said: it fails, it is odd
_BINS = 30

_MEANINGS = {
    "BLEU-1": "words that a reference has too",
    "BLEU-2": "words and pairs of words",
    "BLEU-3": "runs of up to three words",
    "BLEU-4": "runs of up to four words",
    "ROUGE-L": "longest common sequence of words",
    "CIDEr": "CIDEr-D: runs of words, the telling ones weighing more",
    "CIDEr-plain": "CIDEr without its -D",
    "METEOR": "words, stems and synonyms, in order",
    "SPICE": "objects, attributes and relations",
    "distinct": "share of captions that differ from one another",
    "distinct-2": "share of different pairs of words",
    "mBLEU-4": "likeness of the captions to each other; lower is more varied",
    "vocabulary": "different words that were said",
    "mean_length": "words a caption",
    "novel": "share of captions that training did not have",
    "constant_CIDEr": "what the best single sentence scores when it is said of every picture",
    "CIDEr-differing": "CIDEr of the pictures whose references all differ",
    "ECE": "distance of the words' probabilities from how often they are right",
}


def unseen(caption: Caption, picture: str, width: int, height: int) -> Seen | None:
    """Nothing: of these captions it is not known where their words are."""


def look_by(preprocessing: Preprocessing) -> Look:
    """The maps of captions that have them (`Caption.maps`), made by a model that sees pictures so."""

    def look(caption: Caption, picture: str, width: int, height: int) -> Seen | None:
        if caption.maps is None:
            return None
        return caption.words, caption.maps, shown_box(width, height, preprocessing)

    return look


@dataclass(frozen=True)
class Card:
    """A picture of the galleries: what was said of it, how good that is, and what people wrote, with how often.

    `jpeg` is base64; where the picture cannot be read any more it is empty and `error` says why.
    """

    id: str
    said: str
    cider: float
    references: list[tuple[str, int]]
    jpeg: str
    error: str

    @property
    def alt(self) -> str:
        """What the picture shows, in the words of most people: what was said of it may be wrong."""
        return max(self.references, key=lambda reference: reference[1])[0]


@dataclass(frozen=True)
class Sentence:
    """What was said of several pictures, or of one: of how many, and its mean CIDEr-D there."""

    text: str
    count: int
    share: float
    cider: float


@dataclass(frozen=True)
class Gallery:
    """Some of the pictures, ranked from good to bad."""

    title: str
    note: str
    cards: list[Card]


def write_gallery(
    evaluation: Evaluation,
    examples: Sequence[Example],
    path: str | Path,
    *,
    title: str,
    metrics: Path | None = None,
    each: int = 12,
    look: Look = unseen,
    most: int = MOST,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Writes the page of an evaluation.

    Args:
        examples: Those that were evaluated; others are passed over.
        title: The page's heading.
        metrics: The metrics.csv of the run, for the learning curves.
        each: Pictures in each of the three galleries; fewer, where that would show one twice.
        look, most: As `write_captions`.

    Raises:
        BackendError: matplotlib or Jinja2 is not installed.
        DataError: A picture that was captioned is not among the examples, the metrics cannot be read, or the file
            cannot be written.
    """
    if each < 1:
        raise ValueError(f"each is {each}; a gallery has at least one picture")
    found = _captioned(evaluation, examples)
    ciders = score_pictures(evaluation, examples)
    sentences = rank_sentences({name: caption.text for name, caption in evaluation.captions.items()}, ciders)
    cards = []
    for name, caption in _drawn(evaluation.captions.items(), most):
        example, picture = found[name], str(found[name].image)
        cards.append(Shown(name, caption, picture, ciders[name], _counted(example), partial(look, caption, picture)))
    write_page(
        path,
        "gallery.html",
        script="sheet.js",
        title=title,
        scores=evaluation.scores,
        meanings=_MEANINGS,
        tiles=_tiles(evaluation.scores, sentences),
        verdict=_verdict(evaluation.scores, sentences[0]),
        curves=curves_of(metrics) if metrics is not None else [],
        histogram=_histogram(np.array(list(ciders.values()))),
        sentences=sentences[:_SENTENCES],
        distinct=len(sentences),
        count=len(ciders),
        galleries=_galleries(evaluation, found, ciders, each),
        rows=sheet_rows(cards, lambda done: progress("making pictures small", done, len(cards))),
        shown=len(cards),
        failures=evaluation.failures,
        failed=len(evaluation.failures),
    )


def write_captions(
    captions: Iterable[Caption | Failure],
    path: str | Path,
    *,
    title: str,
    pictures: Sequence[Path] = (),
    look: Look = unseen,
    most: int = MOST,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> None:
    """Writes the page of captions that nobody scored, however many there are.

    Args:
        pictures: Folders in which pictures are that are not where their names say.
        look: Tells where in a picture, of a width and a height, the words of its caption are.
        most: Pictures to show; of more, these are drawn by chance, but the same each time.

    Raises:
        BackendError: Jinja2 is not installed.
        DataError: There is no caption, or the file cannot be written.
    """
    said: Counter[str] = Counter()
    failures: list[Failure] = []
    failed = 0

    def captioned() -> Iterator[tuple[str, Caption]]:
        nonlocal failed
        for one in captions:
            if isinstance(one, Caption):
                said[one.text] += 1
                yield one.image, one
            else:
                failed += 1
                if failed <= _FAILURES:
                    failures.append(one)

    kept = _drawn(captioned(), most)
    count = said.total()
    if not count:
        raise DataError(f"{title} holds no caption; give what showtell batch or caption --json has written")
    sentences = [Sentence(text, times, times / count, 0.0) for text, times in said.most_common(_SENTENCES)]
    cards = []
    for name, caption in kept:
        picture = find_picture(name, pictures)
        cards.append(Shown(name, caption, picture, look=partial(look, caption, picture)))
    tiles = [("pictures", f"{count:,}"), ("that could not be read", f"{failed:,}")]
    write_page(
        path,
        "gallery.html",
        script="sheet.js",
        title=title,
        tiles=[*tiles, *_repeats(len(said), sentences[0])],
        sentences=sentences,
        distinct=len(said),
        count=count,
        rows=sheet_rows(cards, lambda done: progress("making pictures small", done, len(cards))),
        shown=len(cards),
        failures=failures,
        failed=failed,
    )


def find_picture(name: str, folders: Sequence[Path]) -> str:
    """The path of a picture: its name, or what that is in the first of the folders that has it."""
    inside = (str(folder / way) for folder in folders for way in (name, Path(name).name))
    return next(filter(os.path.exists, (name, *inside)), name)  # False of what can be no path, which pathlib raises


def _drawn(captions: Iterable[tuple[str, Caption]], most: int) -> list[tuple[str, Caption]]:
    """At most so many of them, in their order; which does not change from run to run."""
    ranked = (
        (zlib.crc32(name.encode("utf-8", "replace")), place, name, one) for place, (name, one) in enumerate(captions)
    )
    return [(name, one) for _, place, name, one in sorted(nsmallest(most, ranked), key=lambda row: row[1])]


def score_pictures(evaluation: Evaluation, examples: Sequence[Example]) -> dict[str, float]:
    """The CIDEr-D of each picture's caption; their mean is the evaluation's CIDEr.

    Raises:
        DataError: A picture that was captioned is not among the examples.
    """
    found = _captioned(evaluation, examples)
    references = [[_words(text) for text in example.references] for example in found.values()]
    scores = Cider(references).score([_words(evaluation.captions[name].text) for name in found])[1]
    return dict(zip(found, scores.tolist(), strict=True))


def choose_pictures(ciders: Mapping[str, float], each: int) -> tuple[list[str], list[str], list[str]]:
    """The best, the median and the worst pictures by CIDEr-D, each list from good to bad.

    No picture is in two of them: of fewer than three times `each` pictures, they get a third each.
    """
    # Of equals, any might be shown. By name they would often be of one kind; and equals differ in their last digits.
    ranked = sorted(
        ciders, key=lambda name: (-round(ciders[name], 9), zlib.crc32(name.encode("utf-8", "replace")), name)
    )
    each = min(each, max(1, len(ranked) // 3))
    good, rest = ranked[:each], ranked[each:]
    last = max(0, len(rest) - each)
    start = max(0, (last - each) // 2)
    return good, rest[start : min(start + each, last)], rest[last:]


def rank_sentences(said: Mapping[str, str], ciders: Mapping[str, float]) -> list[Sentence]:
    """All sentences, from the one that was said of the most pictures on; both arguments are by picture."""
    pictures: defaultdict[str, list[str]] = defaultdict(list)
    for name, text in said.items():
        pictures[text].append(name)
    sentences = [
        Sentence(text, len(names), len(names) / len(said), sum(ciders[name] for name in names) / len(names))
        for text, names in pictures.items()
    ]
    return sorted(sentences, key=lambda sentence: (-sentence.count, sentence.text))


def _captioned(evaluation: Evaluation, examples: Sequence[Example]) -> dict[str, Example]:
    """The example of each caption, in the captions' order."""
    split = evaluation.scores.split
    known = {example.id: example for example in examples if split in (None, example.split) and example.references}
    if missing := [name for name in evaluation.captions if name not in known]:
        of_split = f" of {split!r}" if split else ""
        raise DataError(
            f"{missing[0]!r} was captioned but is not among the {len(known)} examples{of_split} with references; "
            "give the examples that were evaluated"
        )
    return {name: known[name] for name in evaluation.captions}


def _words(text: str) -> list[str]:
    # The COCO code splits twice: also at the no-break space that its tokeniser puts in `1 1/2`.
    return " ".join(tokenise_ptb(text)).split()


def _tiles(scores: Scores, sentences: Sequence[Sentence]) -> list[tuple[str, str]]:
    tiles: list[tuple[str, str]] = [(name, f"{scores.metrics[name]:.3f}") for name in ("CIDEr", "BLEU-4", "ROUGE-L")]
    tiles += [("pictures", f"{scores.n:,}")]
    tiles += [("split", scores.split)] if scores.split else []
    tiles += [("beam", str(scores.beam))] if scores.beam else []
    return [
        *tiles,
        *_repeats(len(sentences), sentences[0]),
    ]


def _repeats(distinct: int, commonest: Sentence) -> list[tuple[str, str]]:
    return [("distinct sentences", f"{distinct:,}"), ("share of the commonest sentence", f"{commonest.share:.1%}")]


def _counted(example: Example) -> list[tuple[str, int]]:
    return Counter(example.references).most_common()


def _verdict(scores: Scores, commonest: Sentence) -> tuple[str, str]:
    """(class, sentence): whether it looks at the pictures at all."""
    repeats = f"It says one sentence of {commonest.share:.0%} of the pictures: “{commonest.text or 'nothing'}”."
    if commonest.count > 1 and commonest.share >= _MOSTLY:
        return "bad", repeats
    ours, constant = scores.metrics["CIDEr"], scores.metrics["constant_CIDEr"]
    if ours <= constant:
        return "bad", f"One sentence said of every picture would do as well: CIDEr {constant:.3f}, this has {ours:.3f}."
    if commonest.count > 1 and commonest.share >= _OFTEN:
        return "warn", repeats
    return "good", f"CIDEr {ours:.3f}; the best single sentence, said of every picture, has {constant:.3f}."


def _histogram(ciders: NDArray[np.float64]) -> Drawing:
    mean, median = float(ciders.mean()), float(np.median(ciders))

    def draw(axes: Any) -> None:
        axes.hist(ciders, bins=_BINS, range=(0, max(1.0, float(ciders.max()))), color=COLOUR)
        axes.axvline(mean, color="#c2571a", linewidth=1.2, label=f"mean {mean:.2f}")
        axes.axvline(median, color="#c2571a", linewidth=1.2, linestyle=":", label=f"median {median:.2f}")
        axes.set(title="CIDEr-D of the pictures", xlabel="CIDEr-D", ylabel="pictures")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)

    zero = float((ciders < 0.005).mean())
    text = f"Histogram of the pictures' CIDEr-D: mean {mean:.2f}, median {median:.2f}, {zero:.0%} have none."
    return Drawing(draw_svg(draw), text)


def _galleries(
    evaluation: Evaluation, examples: Mapping[str, Example], ciders: Mapping[str, float], each: int
) -> list[Gallery]:
    good, median, worst = choose_pictures(ciders, each)
    shown = (
        ("Good captions", "the highest CIDEr-D", good),
        ("Median captions", "half of the pictures are better, half are worse", median),
        ("Worst captions", "the lowest CIDEr-D, the worst last", worst),
    )
    return [
        Gallery(title, note, [_card(name, evaluation, examples[name], ciders[name]) for name in names])
        for title, note, names in shown
        if names
    ]


def _card(name: str, evaluation: Evaluation, example: Example, cider: float) -> Card:
    jpeg = error = ""
    try:
        jpeg = read_thumbnail(str(example.image))
    except ImageError as unreadable:
        error = str(unreadable)
    return Card(name, evaluation.captions[name].text, cider, _counted(example), jpeg, error)
