"""Confidences that are honest have no error, and dishonest ones the error that they have."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.metrics.calibration import calibrate, calibrate_by_count, calibrate_words
from showtell.records import Caption


def test_a_diagram_by_hand() -> None:
    found = calibrate([0.0, 0.1, 0.2, 0.21, 0.9, 1.0], [0, 0, 1, 1, 1, 0], bins=5)
    assert found.counts.tolist() == [3, 1, 0, 0, 2]
    np.testing.assert_allclose(found.confidence, [0.1, 0.21, np.nan, np.nan, 0.95])
    np.testing.assert_allclose(found.accuracy, [1 / 3, 1, np.nan, np.nan, 0.5])
    assert found.error == pytest.approx((3 * abs(0.1 - 1 / 3) + 0.79 + 2 * 0.45) / 6)
    np.testing.assert_allclose(found.edges, [0, 0.2, 0.4, 0.6, 0.8, 1])
    assert found.to_json()["bins"][1:] == [
        {"count": 1, "low": 0.2, "high": 0.4, "confidence": 0.21, "accuracy": 1.0},
        {"count": 2, "low": 0.8, "high": 1.0, "confidence": 0.95, "accuracy": 0.5},
    ]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_error_is_that_of_the_bins_taken_one_by_one(answers: list[tuple[float, bool]], bins: int) -> None:
    found = calibrate([sure for sure, _ in answers], [right for _, right in answers], bins)
    expected = 0.0
    for place, (low, high) in enumerate(pairwise(found.edges)):
        inside = [(sure, right) for sure, right in answers if low < sure <= high or place == sure == 0]
        assert found.counts[place] == len(inside)
        expected += abs(sum(sure - right for sure, right in inside)) / len(answers)
    assert found.counts.sum() == len(answers)
    assert found.error == pytest.approx(expected, abs=1e-12)


def test_an_edge_belongs_to_the_bin_below_it() -> None:
    for bins in range(1, 120):
        edges = [place / bins for place in range(bins + 1)]
        assert calibrate(edges, [1] * len(edges), bins).counts.tolist() == [2, *[1] * (bins - 1)]


def test_honest_confidences_have_little_error_and_boastful_ones_much() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(50_000)
    right = rng.random(50_000) < sure
    assert calibrate(sure, right).error < 0.01
    assert calibrate(np.sqrt(sure), right).error == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


def test_bins_of_as_many_confidences_each() -> None:
    found = calibrate_by_count([0.9, 0.1, 0.5, 0.3, 0.2], [1, 0, 1, 0, 1], 2)
    assert found.counts.tolist() == [3, 2]  # 0.1, 0.2, 0.3 and 0.5, 0.9
    np.testing.assert_allclose(found.confidence, [0.2, 0.7])
    np.testing.assert_allclose(found.accuracy, [1 / 3, 1])
    np.testing.assert_allclose(found.edges, [0, 0.4, 1])
    assert found.error == pytest.approx((3 * (1 / 3 - 0.2) + 2 * 0.3) / 5)
    with pytest.raises(ValueError, match="3 bins for 2 confidences; give at most as many"):
        calibrate_by_count([0.5, 0.6], [0, 1], 3)


def test_what_is_no_confidence_is_refused() -> None:
    for sure, right in (([0.5, 1.2], [1, 0]), ([float("nan")], [1]), ([-0.1], [0])):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            calibrate(sure, right)
    for sure, right in (([0.5], [1, 0]), ([], []), ([[0.5]], [[1]])):
        with pytest.raises(ValueError, match=r"give \(N,\) of each"):
            calibrate(sure, right)
    for answer in (2, 0.5, float("nan")):
        with pytest.raises(ValueError, match=r"answer 1 is .*; give true or false"):
            calibrate([0.5, 0.5], [1, answer])
    with pytest.raises(ValueError, match="0 bins"):
        calibrate([0.5], [1], bins=0)


def test_words_are_right_when_a_reference_has_them() -> None:
    captions = {
        "a.jpg": Caption("a.jpg", "a dog", -1.0, ("a", "dog"), (math.log(0.9), math.log(0.4))),
        "b.jpg": Caption("b.jpg", "a cat", -1.0, ("a", "cat"), (math.log(0.8), math.log(0.3))),
    }
    found = calibrate_words(captions, {"a.jpg": {"a", "cat"}, "b.jpg": {"a", "cat"}})
    expected = calibrate([0.9, 0.4, 0.8, 0.3], [1, 0, 1, 1])
    assert found.error == pytest.approx(expected.error)
    assert found.n == 4
    silent = Caption("b.jpg", "", -1.0, (), ())
    assert calibrate_words({**captions, "b.jpg": silent}, {"a.jpg": {"a"}, "b.jpg": set()}).n == 2


@pytest.mark.parametrize(
    ("words", "logprobs", "references", "sentence"),
    [
        (("a",), (-0.1,), {}, "'a.jpg' has a caption and no references"),
        (("a",), (-0.1, -0.2), {"a.jpg": {"a"}}, "has 1 words and 2 log-probabilities"),
        (("a",), (0.5,), {"a.jpg": {"a"}}, "a log-probability of 'a.jpg' is above 0"),
        (("a",), (math.nan,), {"a.jpg": {"a"}}, "a log-probability of 'a.jpg' is above 0 or not a number"),
        ((), (), {"a.jpg": {"a"}}, "no caption has a word"),
    ],
)
def test_captions_that_cannot_be_calibrated(words: Any, logprobs: Any, references: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        calibrate_words({"a.jpg": Caption("a.jpg", "a", -1.0, words, logprobs)}, references)


def test_a_sure_word_may_be_rounded_above_one() -> None:
    caption = Caption("a.jpg", "a", 0.0, ("a",), (3e-7,))
    assert calibrate_words({"a.jpg": caption}, {"a.jpg": {"a"}}).error == 0
