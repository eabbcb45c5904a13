"""Splits that are made: exact shares, no duplicates apart, the same on every machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from showtell.datasets.splits import find_leaks, make_splits, parse_shares
from showtell.errors import ConfigError, DataError
from showtell.records import Example


def pictures(count: int) -> list[Example]:
    return [Example(f"{number:04}.jpg", None, ("a",), None) for number in range(count)]


def counts(examples: list[Example]) -> tuple[int, ...]:
    found = Counter(example.split for example in examples)
    return tuple(found[split] for split in ("train", "val", "test"))


@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (1000, (0.8, 0.1, 0.1), (800, 100, 100)),
        (10, (0.8, 0.1, 0.1), (8, 1, 1)),
        (3, (0.8, 0.1, 0.1), (1, 1, 1)),
        (7, (0.5, 0.5, 0.0), (3, 4, 0)),
        (5, (1.0, 0.0, 0.0), (5, 0, 0)),
    ],
)
def test_shares_are_met(count: int, shares: tuple[float, float, float], expected: tuple[int, ...]) -> None:
    found = counts(make_splits(pictures(count), None, shares))
    assert found == expected or (count == 7 and sorted(found) == sorted(expected))


@given(
    st.lists(st.integers(0, 30), min_size=12, max_size=80),
    st.integers(0, 5),
    st.randoms(use_true_random=False),
)
def test_groups_stay_together_whatever_the_order(groups: list[int], seed: int, shuffle: object) -> None:
    if len(set(groups)) < 3:
        return
    examples = pictures(len(groups))
    made = make_splits(examples, groups, seed=seed)
    assert [(one.id, one.references) for one in made] == [(one.id, one.references) for one in examples]
    assert find_leaks(made, groups) == []
    assert all(counts(made))
    rows = list(range(len(groups)))
    shuffle.shuffle(rows)  # type: ignore[attr-defined]
    again = make_splits([examples[row] for row in rows], [groups[row] for row in rows], seed=seed)
    assert {one.id: one.split for one in again} == {one.id: one.split for one in made}


def test_another_seed_is_another_split_and_a_new_picture_moves_few() -> None:
    examples = pictures(500)
    first = {one.id: one.split for one in make_splits(examples)}
    assert {one.id: one.split for one in make_splits(examples, seed=2)} != first
    more = {one.id: one.split for one in make_splits([*examples, Example("new.jpg", None, ("a",), None)])}
    assert sum(first[name] != more[name] for name in first) <= 3


def test_splits_that_are_given_stay_and_pull_their_duplicates() -> None:
    examples = pictures(40)
    examples[3] = replace(examples[3], split="test")
    groups = [3 if number in (3, 17) else number for number in range(40)]
    made = make_splits(examples, groups)
    assert made[3].split == made[17].split == "test"
    assert sum(counts(made)) == 40


def test_leaks_are_found() -> None:
    examples = [
        replace(one, split=split) for one, split in zip(pictures(4), ("train", "val", "val", None), strict=True)
    ]
    (leak,) = find_leaks(examples, [1, 1, 2, 2])
    assert leak.members == (("0000.jpg", "train"), ("0001.jpg", "val"))


def test_the_same_everywhere() -> None:
    code = (
        "from showtell.datasets.splits import make_splits\nfrom showtell.records import Example\n"
        "made = make_splits([Example(f'{n}.jpg', None, ('a',), None) for n in range(30)])\n"
        "print(''.join(one.split[1] for one in made))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize("text", ["80/10/10", "0.8,0.1,0.1", "0.8/0.1/0.1", " 80 / 10 / 10 "])
def test_shares_are_parsed(text: str) -> None:
    assert parse_shares(text) == pytest.approx((0.8, 0.1, 0.1))


@pytest.mark.parametrize("text", ["80/20", "a/b/c", "50/30/30", "", "120/-10/-10", "nan/1/0", "1/0/0/0"])
def test_shares_that_make_no_whole_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shares"):
        parse_shares(text)


def test_too_few_pictures_are_said() -> None:
    with pytest.raises(DataError, match=r"2 pictures \(duplicates counted once\) cannot be split into 3 parts"):
        make_splits(pictures(4), [0, 0, 1, 1])
    with pytest.raises(ConfigError, match="sum to 1"):
        make_splits(pictures(4), None, (0.5, 0.1, 0.1))
