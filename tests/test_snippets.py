"""Words drawn together into snippets: the best assignment of all, and the runs in it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from showtell.snippets import align_words, snippets

SMALL = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=4)
HALVES = st.integers(-6, 6).map(lambda number: number / 2)  # sums of them are exact, so ties are ties
QUICK = settings(deadline=None, max_examples=60)


def value(scores: NDArray[np.float64], assignment: tuple[int, ...], beta: float) -> float:
    """What an assignment is worth, by its definition."""
    agreeing = sum(one == other for one, other in itertools.pairwise(assignment))
    return float(sum(scores[word, region] for word, region in enumerate(assignment))) + beta * agreeing


@given(arrays(np.float64, SMALL, elements=HALVES), st.integers(0, 8).map(lambda number: number / 2))
@QUICK
def test_no_assignment_is_worth_more(scores: NDArray[np.float64], beta: float) -> None:
    words, regions = scores.shape
    every = itertools.product(range(regions), repeat=words)
    best = max(value(scores, assignment, beta) for assignment in every)
    found = align_words(scores, beta)
    assert found.shape == (words,)
    assert value(scores, tuple(found.tolist()), beta) == best


@given(arrays(np.float64, SMALL, elements=st.floats(-5, 5, width=32), unique=True))
@QUICK
def test_without_a_reward_each_word_takes_its_best_region(scores: NDArray[np.float64]) -> None:
    assert align_words(scores, 0).tolist() == scores.argmax(axis=1).tolist()


@given(arrays(np.float64, SMALL, elements=HALVES))
@QUICK
def test_a_large_reward_leaves_the_one_best_region(scores: NDArray[np.float64]) -> None:
    found = align_words(scores, 1e6)
    assert set(found.tolist()) == {int(scores.sum(axis=0).argmax())}


def test_a_reward_draws_a_stray_word_in() -> None:
    scores = np.array([[3.0, 0.0], [1.0, 1.5], [3.0, 0.0], [0.0, 4.0]])
    assert align_words(scores, 0).tolist() == [0, 1, 0, 1]
    assert align_words(scores, 0.5).tolist() == [0, 0, 0, 1]
    assert align_words(scores, 10).tolist() == [0, 0, 0, 0]


def test_ties_go_to_the_word_after_and_then_to_the_lowest() -> None:
    assert align_words(np.zeros((3, 4)), 0).tolist() == [0, 0, 0]
    assert align_words([[1.0, 1.0, 1.0], [0.0, 0.0, 2.0]], 0).tolist() == [2, 2]
    assert align_words([[0.0, 1.0, 1.0], [5.0, 0.0, 0.0]], 0).tolist() == [1, 0]


def test_long_texts_keep_their_digits() -> None:
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3000, 5)) + 1e4
    assert align_words(scores, 0).tolist() == scores.argmax(axis=1).tolist()


def test_runs_of_one_region_by_hand() -> None:
    words = ["a", "dog", "on", "the", "grass"]
    assert snippets(words, [4, 4, 4, 2, 2]) == [(0, 3, 4), (3, 5, 2)]
    assert snippets(words, [4, 4, 4, 2, 2], hanging={"on", "the"}) == [(0, 2, 4), (3, 5, 2)]
    assert snippets(words, [1, 0, 0, 1, 1], shortest=2) == [(1, 3, 0), (3, 5, 1)]
    assert snippets(words, [0, 0, 7, 7, 1], hanging={"on", "the"}) == [(0, 2, 0), (4, 5, 1)]
    assert snippets([], []) == []


@given(st.lists(st.integers(0, 2), max_size=12))
@QUICK
def test_snippets_cover_each_word_once(assignment: list[int]) -> None:
    found = snippets(["word"] * len(assignment), assignment)
    covered = [(word, snippet.region) for snippet in found for word in range(snippet.start, snippet.stop)]
    assert covered == list(enumerate(assignment))
    assert all(one.region != other.region for one, other in itertools.pairwise(found))


def test_no_words_have_no_regions() -> None:
    assert align_words(np.zeros((0, 3)), 1).tolist() == []


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scores of shape \(3,\) align nothing; give \(words, regions\)"):
        align_words([1, 2, 3], 1)
    with pytest.raises(ValueError, match=r"scores of shape \(2, 0\) align nothing"):
        align_words(np.zeros((2, 0)), 1)
    with pytest.raises(ValueError, match="the score of word 1 and region 0 is nan; give finite scores"):
        align_words([[0.0, 1.0], [math.nan, 1.0]], 1)
    for beta in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"beta is {beta}; it must be a number from 0 up"):
            align_words([[0.0]], beta)
    with pytest.raises(ValueError, match=r"an assignment of shape \(2,\) for 1 words"):
        snippets(["dog"], [1, 2])
    with pytest.raises(ValueError, match="shortest is 0"):
        snippets(["dog"], [1], shortest=0)
