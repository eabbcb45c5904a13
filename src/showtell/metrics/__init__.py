"""Candidates and references, as text -> scores, equal to the COCO evaluation code without its Java.

`score` is the door; `read_candidates` and `read_references` bring in files. The parts (`tokenise_ptb`, `bleu`,
`rouge_l`, `cider`) work on tokens and also give each picture's score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from showtell.errors import DataError
from showtell.metrics.bleu import bleu
from showtell.metrics.cider import Cider, DocumentFrequencies, cider
from showtell.metrics.files import match_ids, read_candidates, read_references
from showtell.metrics.ptb import tokenise_ptb
from showtell.metrics.rouge import rouge_l
from showtell.records import Scores

__all__ = [
    "Cider",
    "DocumentFrequencies",
    "bleu",
    "cider",
    "match_ids",
    "read_candidates",
    "read_references",
    "rouge_l",
    "score",
    "tokenise_ptb",
]


def score(
    candidates: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    *,
    split: str | None = None,
    beam: int | None = None,
) -> Scores:
    """The scores of one caption a picture against what people wrote of it.

    `BLEU-1` … `BLEU-4` (of the corpus), `ROUGE-L` and `CIDEr` are those of the COCO evaluation code; its CIDEr is
    CIDEr-D. Beside them: `distinct` is the share of captions that differ from one another, `mean_length` the tokens a
    caption, and `constant_CIDEr` what the best single reference scores when it is said of every picture: a captioner
    below it has learned nothing from the pictures. An empty caption is allowed and scores what saying nothing earns.

    Args:
        split: What the pictures are (`val`, `test`), carried into the result; `beam` likewise.

    Raises:
        DataError: A picture lacks its candidate or its references, or there are no pictures. When no id is on both
            sides, ids are matched by file stem first (see `match_ids`).
    """
    candidates = match_ids(candidates, references)
    _check(candidates, references)
    known: dict[str, tuple[str, ...]] = {}
    said = [_tokens(candidates[image], known) for image in references]
    written = [[_tokens(caption, known) for caption in captions] for captions in references.values()]
    # The COCO code splits twice: for BLEU and CIDEr also at the no-break space that the tokeniser puts into `1 1/2`.
    said_words = [_words(tokens) for tokens in said]
    written_words = [[_words(tokens) for tokens in captions] for captions in written]
    consensus = Cider(written_words)
    metrics = {f"BLEU-{order}": float(value) for order, value in enumerate(bleu(said_words, written_words)[0], 1)}
    metrics["ROUGE-L"] = rouge_l(said, written)[0]
    metrics["CIDEr"] = consensus.score(said_words)[0]
    metrics["distinct"] = len(set(said)) / len(said)
    metrics["mean_length"] = sum(map(len, said)) / len(said)
    metrics["constant_CIDEr"] = consensus.best_constant()[1]
    return Scores(metrics=metrics, n=len(said), tokeniser="ptb", split=split, beam=beam)


def _check(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not references or not candidates:
        side = "candidates" if references else "references"
        raise DataError(f"there are no {side} to score; give one caption and at least one reference a picture")
    if missing := [image for image in references if image not in candidates]:
        raise DataError(
            f"{_count(missing)} no candidate ({_few(missing)}); "
            "caption them, or leave them out of the references: a score covers every picture"
        )
    if missing := [image for image in candidates if image not in references]:
        raise DataError(f"{_count(missing)} no references ({_few(missing)}); add theirs, or leave out the candidates")
    if missing := [image for image, captions in references.items() if not captions]:
        raise DataError(f"{_count(missing)} an empty list of references ({_few(missing)}); each needs one or more")
    for image, captions in references.items():
        if isinstance(captions, str):
            raise TypeError(f"the references of {image!r} are a string, not a list of strings")


def _count(images: Sequence[str]) -> str:
    return f"{len(images)} picture has" if len(images) == 1 else f"{len(images)} pictures have"


def _few(images: Iterable[str], limit: int = 3) -> str:
    names = [repr(image) for image in images]
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def _tokens(caption: str, known: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    if caption not in known:
        known[caption] = tuple(tokenise_ptb(caption))
    return known[caption]


def _words(tokens: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(tokens).split())
