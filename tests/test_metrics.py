"""Scores equal pycocoevalcap's, and files of captions are read or refused with a sentence."""

from __future__ import annotations

import json
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
    match_ids,
    read_candidates,
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


def test_ids_match_by_stem_only_when_none_matches_as_it_is() -> None:
    assert match_ids({"out/a.png": "x", "000042.jpg": "y"}, {"a.jpg": [], "42": []}) == {"a.jpg": "x", "42": "y"}
    assert match_ids({"a.png": "x", "b": "y"}, {"a.jpg": [], "b": []}) == {"a.png": "x", "b": "y"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("results.json", '[{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": ""}]'),
        ("plain.json", '{"1": "x", "2": ""}'),
        (
            "coco.json",
            '{"images": [], "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": ""}]}',
        ),
        ("lines.jsonl", '{"image": "1", "caption": "x"}\n\n{"image": "2", "caption": "", "logprob": -1}\n'),
        ("lines.txt", '\ufeff{"image": "1", "caption": "x"}\n{"image": "2", "caption": ""}'),
    ],
)
def test_every_form_of_candidates_is_read(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert read_candidates(tmp_path / name) == {"1": "x", "2": ""}


def test_every_form_of_references_is_read(tmp_path: Path, shared_data: Path) -> None:
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({"a": ["x", "y"], "b": "z"}), "utf-8")
    assert read_references(plain) == {"a": ["x", "y"], "b": ["z"]}
    assert {
        len(group) >= 5 for group in read_references(shared_data / "coco/annotations/captions_val2017.json").values()
    } == {True}
    assert "images/airport_1.webp" in read_references(shared_data / "rsicd/captions.jsonl")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "", r"a\.json:1 is empty; accepted are COCO results"),
        ("a.json", '[{"image_id": 1,\n "caption": "x"', r"a\.json:2 is not JSON \(Expecting"),
        ("a.jsonl", '{"image": "1", "caption": "x"}\n{"image": ', r"a\.jsonl:2 is not JSON"),
        ("a.jsonl", '{"image": "1", "caption": "x"}\n[3]', r"a\.jsonl:2 is list, not an object"),
        ("a.json", "[3]", r"a\.json, entry 1, is int, not an object"),
        ("a.json", "7", r"a\.json:1 is int, not captions"),
        ("a.json", "[]", r"a\.json:1 holds no captions"),
        ("a.json", "[" * 100_000, r"a\.json:1 is not JSON"),
        ("a.json", '[{"caption": "x"}]', 'entry 1, has no "image" or "image_id"'),
        ("a.json", '[{"image_id": 1, "caption": 3}]', "has no caption of '1' that is text"),
        ("a.json", '{"1": ["x", "y"]}', "gives '1' more than one caption"),
        ("a.json", '[{"image_id": 1, "caption": "x"}, {"image_id": "1", "caption": "y"}]', "entry 2, gives '1' more"),
        ("a.jsonl", '{"image": "1", "error": "broken"}\n{"image": "2", "caption": "x"}',
         r"1 picture has an error instead of a caption \('1' at .*a\.jsonl:1\)"),
    ],
)  # fmt: skip
def test_broken_files_are_refused_with_a_sentence(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=sentence) as caught:
        read_candidates(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_and_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*none\.json: No such file"):
        read_references(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'{"a": "caf\xe9"}')
    with pytest.raises(DataError, match=r"latin\.json is not UTF-8 text"):
        read_references(tmp_path / "latin.json")
    (tmp_path / "empty.json").write_text('{"a": []}')
    with pytest.raises(DataError, match="gives 'a' no caption"):
        read_references(tmp_path / "empty.json")
