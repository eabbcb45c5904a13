"""Confidences that are honest have no error, and dishonest ones the error that they have."""

from __future__ import annotations

import math

import numpy as np
import pytest

from showtell.metrics.calibration import calibrate, calibrate_words
from showtell.records import Caption


def test_a_diagram_by_hand() -> None:
    found = calibrate([0.0, 0.1, 0.2, 0.21, 0.9, 1.0], [0, 0, 1, 1, 1, 0], bins=5)
    assert found.counts.tolist() == [3, 1, 0, 0, 2]
    np.testing.assert_allclose(found.confidence, [0.1, 0.21, np.nan, np.nan, 0.95])
    np.testing.assert_allclose(found.accuracy, [1 / 3, 1, np.nan, np.nan, 0.5])
    assert found.error == pytest.approx((3 * abs(0.1 - 1 / 3) + 0.79 + 2 * 0.45) / 6)
    assert [row["count"] for row in found.to_json()["bins"]] == [3, 1, 2]


def test_honest_confidences_have_little_error_and_boastful_ones_much() -> None:
    rng = np.random.default_rng(0)
    sure = rng.random(50_000)
    right = rng.random(50_000) < sure
    assert calibrate(sure, right).error < 0.01
    assert calibrate(np.sqrt(sure), right).error == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


def test_what_is_no_confidence_is_refused() -> None:
    for sure, right in (([0.5, 1.2], [1, 0]), ([float("nan")], [1]), ([-0.1], [0])):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            calibrate(sure, right)
    for sure, right in (([0.5], [1, 0]), ([], [])):
        with pytest.raises(ValueError, match="give"):
            calibrate(sure, right)


def test_words_are_right_when_a_reference_has_them() -> None:
    captions = {
        "a.jpg": Caption("a.jpg", "a dog", -1.0, ("a", "dog"), (math.log(0.9), math.log(0.4))),
        "b.jpg": Caption("b.jpg", "a cat", -1.0, ("a", "cat"), (math.log(0.8), math.log(0.3))),
    }
    found = calibrate_words(captions, {"a.jpg": {"a", "cat"}, "b.jpg": {"a", "cat"}})
    expected = calibrate([0.9, 0.4, 0.8, 0.3], [1, 0, 1, 1])
    assert found.error == pytest.approx(expected.error)
    assert found.n == 4
