"""Variety is counted, and the likeness of captions to each other equals a comparison of each with each."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.metrics.bleu import bleu
from showtell.metrics.diversity import diversity, mutual_bleu

CAPTION = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=8).map(tuple)


def of(*texts: str) -> list[list[tuple[str, ...]]]:
    return [[tuple(text.split())] for text in texts]


def test_everything_of_a_small_set() -> None:
    found = diversity(of("a dog runs", "a dog runs", "a cat sits here"), {("a", "dog", "runs")})
    assert found == {
        "distinct": 2 / 3,
        "distinct-2": 5 / 7,
        "mBLEU-4": pytest.approx(mutual_bleu(of("a dog runs", "a dog runs", "a cat sits here"))),
        "vocabulary": 6,
        "mean_length": 10 / 3,
        "novel": 1 / 3,
    }
    assert "novel" not in diversity(of("a"))


def test_one_sentence_for_all_is_as_alike_as_can_be() -> None:
    assert mutual_bleu(of(*["a dog runs over the grass"] * 5)) == pytest.approx(1)
    assert mutual_bleu(of("a b c d e", "f g h i j")) == pytest.approx(0, abs=1e-3)
    assert mutual_bleu(of("a b c d e")) == 0


@given(st.lists(CAPTION, min_size=2, max_size=8))
def test_a_set_is_compared_as_each_with_each(captions: list[tuple[str, ...]]) -> None:
    expected = np.mean(
        [bleu([caption], [[*captions[:row], *captions[row + 1 :]]])[0][3] for row, caption in enumerate(captions)]
    )
    assert mutual_bleu([[caption] for caption in captions]) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.lists(CAPTION, min_size=2, max_size=4), min_size=1, max_size=3))
def test_several_captions_of_a_picture_are_compared_within_it(groups: list[list[tuple[str, ...]]]) -> None:
    each = [
        bleu([caption], [[*group[:row], *group[row + 1 :]]])[0][3]
        for group in groups
        for row, caption in enumerate(group)
    ]
    assert mutual_bleu(groups) == pytest.approx(np.mean(each), abs=1e-12)
    assert mutual_bleu([*groups, [("a", "b")]]) == pytest.approx(mutual_bleu(groups))  # it has no others


def test_a_set_of_any_size_takes_no_quadratic_work() -> None:
    rng = np.random.default_rng(0)

    def lines(count: int) -> int:
        """How many lines of Python run."""
        made = [[tuple(map(str, rng.zipf(1.5, 10) % 500))] for _ in range(count)]
        ran = 0

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            nonlocal ran
            ran += event == "line"
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            mutual_bleu(made)
        finally:
            sys.settrace(before)
        return ran

    assert lines(2000) < 15 * lines(200)  # linear: 10, quadratic: 100


def test_no_captions_have_no_variety() -> None:
    for nothing in ([], [[]]):
        with pytest.raises(ValueError, match="there are no captions"):
            diversity(nothing)
