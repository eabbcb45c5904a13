"""Ranks and recalls of cross-modal search, against sorting by hand; ties never flatter."""

from __future__ import annotations

import math
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.errors import DataError
from showtell.metrics.retrieval import retrieval, retrieval_ranks


def slow_ranks(similarity: np.ndarray, owner: list[int]) -> tuple[list[int], list[int]]:
    """Sort the answers of each query, the wrong ones first among equals, and look for the right one."""
    texts = []
    for picture, row in enumerate(similarity):
        order = sorted(range(len(owner)), key=lambda caption: (-row[caption], owner[caption] == picture))
        texts.append(1 + min(place for place, caption in enumerate(order) if owner[caption] == picture))
    images = []
    for caption, column in enumerate(similarity.T):
        order = sorted(range(len(column)), key=lambda picture: (-column[picture], picture == owner[caption]))
        images.append(1 + order.index(owner[caption]))
    return texts, images


@st.composite
def searches(draw: st.DrawFn) -> tuple[np.ndarray, list[int]]:
    pictures = draw(st.integers(1, 6))
    owner = draw(st.permutations([*range(pictures), *draw(st.lists(st.integers(0, pictures - 1), max_size=8))]))
    values = st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0])  # few values, so that ties are common
    rows = draw(
        st.lists(st.lists(values, min_size=len(owner), max_size=len(owner)), min_size=pictures, max_size=pictures)
    )
    return np.array(rows), owner


def test_by_hand() -> None:
    # Two captions of picture 0, one of picture 1.
    scores = retrieval([[0.9, 0.1, 0.5], [0.2, 0.8, 0.7]], [0, 0, 1])
    assert retrieval_ranks([[0.9, 0.1, 0.5], [0.2, 0.8, 0.7]], [0, 0, 1])[0].tolist() == [1, 2]
    assert retrieval_ranks([[0.9, 0.1, 0.5], [0.2, 0.8, 0.7]], [0, 0, 1])[1].tolist() == [1, 2, 1]
    assert scores == {
        "image to text R@1": 0.5,
        "image to text R@5": 1.0,
        "image to text R@10": 1.0,
        "image to text median rank": 1.0,  # between 1 and 2, rounded down as the authors' code does
        "text to image R@1": pytest.approx(2 / 3),
        "text to image R@5": 1.0,
        "text to image R@10": 1.0,
        "text to image median rank": 1.0,
        "mean recall": pytest.approx((0.5 + 4 + 2 / 3) / 6),
    }


@given(searches())
@settings(max_examples=200)
def test_ranks_equal_sorting(search: tuple[np.ndarray, list[int]]) -> None:
    texts, images = retrieval_ranks(*search)
    assert (texts.tolist(), images.tolist()) == slow_ranks(*search)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 40, (23, 60)).astype(np.float32)
    owner = np.concatenate([np.arange(23), rng.integers(0, 23, 37)])
    expected = slow_ranks(similarity, owner.tolist())
    monkeypatch.setattr(sys.modules[retrieval.__module__], "_BLOCK", block)
    texts, images = retrieval_ranks(similarity, owner)
    assert (texts.tolist(), images.tolist()) == expected


def test_without_ties_the_scores_are_the_papers() -> None:
    # As the authors compute it: five captions a picture, in order, ranks from an argsort.
    rng = np.random.default_rng(1)
    pictures = 60
    similarity = rng.normal(size=(pictures, 5 * pictures))
    owner = np.repeat(np.arange(pictures), 5)
    similarity[owner, np.arange(5 * pictures)] += 1.5
    texts = np.array(
        [np.isin(np.argsort(-row), np.flatnonzero(owner == b)).argmax() for b, row in enumerate(similarity)]
    )
    images = np.array([list(np.argsort(-column)).index(owner[n]) for n, column in enumerate(similarity.T)])
    scores = retrieval(similarity, owner)
    for direction, ranks in (("image to text", texts), ("text to image", images)):
        for depth in (1, 5, 10):
            assert scores[f"{direction} R@{depth}"] == pytest.approx((ranks < depth).mean())
        assert scores[f"{direction} median rank"] == np.floor(np.median(ranks)) + 1
    assert 0 < scores["image to text R@1"] < scores["image to text R@10"] < 1


def test_a_model_that_finds_everything_alike_finds_nothing() -> None:
    scores = retrieval(np.ones((20, 100), np.float32), np.repeat(np.arange(20), 5))
    assert scores["image to text R@1"] == scores["image to text R@10"] == 0
    assert scores["text to image R@1"] == scores["text to image R@10"] == 0
    assert scores["image to text median rank"] == 96  # the 95 captions of others stand before its own
    assert scores["text to image median rank"] == 20


def test_a_perfect_model_finds_everything() -> None:
    owner = np.array([2, 0, 1, 1])
    scores = retrieval(np.arange(3)[:, None] == owner, owner)
    assert {value for name, value in scores.items() if "R@" in name} == {1.0}
    assert scores["image to text median rank"] == scores["text to image median rank"] == 1


def test_infinite_similarities_are_ranked() -> None:
    texts, images = retrieval_ranks([[math.inf, -math.inf], [math.inf, -math.inf]], [0, 1])
    assert texts.tolist() == [1, 2]
    assert images.tolist() == [2, 2]


def test_large_searches_read_a_memory_map_in_blocks(tmp_path: Path) -> None:
    pictures, captions = 1000, 5000
    path = tmp_path / "similarity.npy"
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (pictures, captions))
    stored[:] = np.random.default_rng(2).random((pictures, captions), np.float32)
    owner = np.repeat(np.arange(pictures), 5)
    stored[owner, np.arange(captions)] += 0.98
    del stored
    tracemalloc.start()
    scores = retrieval(np.load(path, mmap_mode="r"), owner)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.9 < scores["text to image R@10"] < 1
    assert peak < 12e6 < 4 * pictures * captions


@pytest.mark.parametrize(
    ("similarity", "owner", "error", "sentence"),
    [
        ([[0.1, math.nan], [0, 1]], [0, 1], DataError, "similarity of picture 0 and caption 1 is not a number"),
        ([[0.1, 0.2], [math.nan, 1]], [0, 1], DataError, "similarity of picture 1 and caption 0 is not a number"),
        ([[0.1, 0.2], [0, 1]], [0, 0], DataError, r"1 of 2 pictures have no caption to look for \(the first is 1\)"),
        ([0.1, 0.2], [0, 1], ValueError, r"similarities of shape \(2,\)"),
        (np.zeros((0, 0)), [], ValueError, r"similarities of shape \(0, 0\)"),
        ([["a", "b"]], [0, 0], ValueError, "give real numbers, one row a picture"),
        ([[0.1, 0.2]], [0], ValueError, r"owners of shape \(1,\) .* for 2 captions"),
        ([[0.1, 0.2]], [0.0, 0.0], ValueError, "owners of shape .* type float64"),
        ([[0.1, 0.2]], [0, 1], ValueError, "caption 1 belongs to picture 1, but there are 1 pictures"),
        ([[0.1, 0.2]], [-1, 0], ValueError, "caption 0 belongs to picture -1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(similarity: Any, owner: Any, error: type, sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        retrieval(similarity, owner)
