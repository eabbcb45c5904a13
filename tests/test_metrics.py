"""Scores equal pycocoevalcap's, and pictures without a caption are named."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics import (
    Cider,
    DocumentFrequencies,
    bleu,
    cider,
    read_references,
    rouge_l,
    score,
    tokenise_ptb,
)
from showtell.metrics.rouge import common_length

Tokens = list[list[str]]
WORDS = st.lists(st.sampled_from(["cat", "dog", "red", "runs", "sits", "the"]), max_size=6)
PICTURES = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=6)


def held_out(folder: Path, pictures: int = 700) -> tuple[Tokens, list[Tokens]]:
    """The last reference of real pictures against the others, tokenised; every third candidate is another picture's."""
    groups = list(read_references(folder / "coco/annotations/captions_val2017.json").values())[:pictures]
    tokens = [[tokenise_ptb(caption) for caption in group] for group in groups]
    said = [group[-1] for group in tokens]
    for index in range(0, len(said), 3):
        said[index] = tokens[(index + 7) % len(tokens)][0]
    said[5] = []
    return said, [group[:-1] for group in tokens]


def with_coco(said: Tokens, written: list[Tokens], module: str, name: str, *args: Any, **kwargs: Any) -> Any:
    scorer = getattr(pytest.importorskip(f"pycocoevalcap.{module}.{module}"), name)(*args)
    gts = {i: [" ".join(words) for words in group] for i, group in enumerate(written)}
    return scorer.compute_score(gts, {i: [" ".join(words)] for i, words in enumerate(said)}, **kwargs)


def test_bleu_equals_the_coco_code(shared_data: Path) -> None:
    said, written = held_out(shared_data)
    corpus, each = bleu(said, written)
    theirs, theirs_each = with_coco(said, written, "bleu", "Bleu", 4, verbose=0)
    np.testing.assert_allclose(corpus, theirs, atol=1e-6)
    np.testing.assert_allclose(each.T, theirs_each, atol=1e-6)
    assert corpus[3] > 0.05


def test_rouge_equals_the_coco_code(shared_data: Path) -> None:
    said, written = held_out(shared_data)
    written[9] = [[], ["a", "dog"]]
    mean, each = rouge_l(said, written)
    theirs, theirs_each = with_coco(said, written, "rouge", "Rouge")
    np.testing.assert_allclose(each, theirs_each, atol=1e-6)
    assert mean == pytest.approx(theirs, abs=1e-6)


def test_cider_equals_the_coco_code(shared_data: Path) -> None:
    said, written = held_out(shared_data)
    mean, each = cider(said, written)
    theirs, theirs_each = with_coco(said, written, "cider", "Cider")
    np.testing.assert_allclose(each, theirs_each, atol=1e-6)
    assert mean == pytest.approx(theirs, abs=1e-6)
    assert mean > 0.3


def test_bleu_by_hand() -> None:
    corpus, each = bleu([["the", "the", "cat"]], [[["the", "cat", "sat", "down"], ["a", "cat"]]])
    # Closest length: 3 is as far from 4 as from 2, and the shorter counts, so there is no penalty.
    assert each[0, 0] == pytest.approx(2 / 3)
    assert corpus[1] == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    assert corpus[2] < 1e-4
    short, _ = bleu([["cat"]], [[["the", "cat"]]])
    assert short[0] == pytest.approx(math.exp(1 - 2))


def test_rouge_by_hand() -> None:
    assert common_length("abcbdab", "bdcaba") == 4
    mean, _ = rouge_l([["a", "dog", "runs"]], [[["a", "dog", "now", "runs", "off"]]])
    assert mean == pytest.approx((1 + 1.44) * 1 * 0.6 / (0.6 + 1.44 * 1))


def test_cider_by_hand() -> None:
    # Two pictures: every n-gram is in one of them and weighs log 2. Unigrams: cosine 1/2; the one bigram: 0; no longer.
    _, each = cider([["red", "dog"], ["blue", "bird"]], [[["red", "cat"]], [["blue", "bird"]]])
    assert each == pytest.approx([10 * (0.5 + 0) / 4, 10 * (1 + 1) / 4])


def test_cider_with_frequencies_from_elsewhere() -> None:
    references = [[["red", "cat"]]]
    assert cider([["red", "cat"]], references)[0] == 0  # one picture: every weight is log 1
    elsewhere = DocumentFrequencies.count([[["red", "dog"]], [["red", "hat"]], [["a", "cat"]]])
    _, each = cider([["red", "hen"]], references, elsewhere)
    red, cat = math.log(3 / 2), math.log(3)
    assert each[0] == pytest.approx(10 / 4 * red**2 / (red**2 + cat**2))
    assert Cider(references, elsewhere).score_one(["red", "hen"], 0) == pytest.approx(each[0])


@given(PICTURES)
@settings(max_examples=60, deadline=None)
def test_best_constant_is_the_best_of_all_references(pictures: list[tuple[list[str], Tokens]]) -> None:
    consensus = Cider([written for _, written in pictures])
    best = max(consensus.score([caption] * len(pictures))[0] for _, written in pictures for caption in written)
    caption, value = consensus.best_constant()
    assert value == pytest.approx(best, abs=1e-9)
    assert consensus.score([caption] * len(pictures))[0] == pytest.approx(best, abs=1e-9)


@given(PICTURES, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_scores_do_not_depend_on_order(pictures: list[tuple[list[str], Tokens]], rng: random.Random) -> None:
    def of(items: list[tuple[str, tuple[list[str], Tokens]]]) -> dict[str, float]:
        said = {image: " ".join(words) for image, (words, _) in items}
        written = {image: [" ".join(words) for words in group] for image, (_, group) in items}
        return score(dict(sorted(said.items())), written).metrics

    items = [(str(index), picture) for index, picture in enumerate(pictures)]
    shuffled = [(image, (words, rng.sample(group, len(group)))) for image, (words, group) in items]
    rng.shuffle(shuffled)
    assert of(items) == pytest.approx(of(shuffled), abs=1e-9)


@given(st.lists(WORDS.filter(lambda words: len(words) >= 4), min_size=1, max_size=5))
def test_a_perfect_candidate_scores_one(captions: Tokens) -> None:
    said = {str(index): " ".join(words) for index, words in enumerate(captions)}
    metrics = score(said, {image: [caption] for image, caption in said.items()}).metrics
    for name in ("BLEU-1", "BLEU-4", "ROUGE-L"):
        assert metrics[name] == pytest.approx(1, abs=1e-6)
    assert metrics["CIDEr"] <= 10 + 1e-9


def test_score_counts_and_carries_what_was_scored() -> None:
    references = {"a": ["A dog runs.", "The dog is running"], "b": ["A red bus"], "c": ["Một con chó"]}
    scores = score({"a": "a dog runs", "b": "A dog runs!", "c": ""}, references, split="val", beam=3)
    assert (scores.n, scores.split, scores.beam, scores.tokeniser) == (3, "val", 3, "ptb")
    assert scores.metrics["distinct"] == pytest.approx(2 / 3)
    assert scores.metrics["mean_length"] == 2
    assert scores.metrics["constant_CIDEr"] > 0
    assert list(scores.metrics) == [
        "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr", "CIDEr-plain", "distinct", "distinct-2",
        "mBLEU-4", "vocabulary", "mean_length", "constant_CIDEr",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("candidates", "references", "sentence"),
    [
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, r"1 picture has no candidate \('b'\)"),
        ({"a": "x", "b": "y", "c": "z"}, {"a": ["x"]}, r"2 pictures have no references \('b', 'c'\)"),
        ({"a": "x"}, {"a": []}, r"1 picture has an empty list of references \('a'\)"),
        ({}, {"a": ["x"]}, "there are no candidates to score"),
        (
            {"x/a.jpg": "x", "y/a.jpg": "x"},
            {"a": ["x"]},
            "'x/a.jpg' and 'y/a.jpg' of the candidates have one file name",
        ),
    ],
)
def test_unmatched_pictures_are_named(candidates: Any, references: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        score(candidates, references)
