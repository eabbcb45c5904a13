"""Making splits: what holds whatever the groups are, and what stays when pictures come or their order changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from showtell.datasets.splits import DEFAULT_SHARES, Shares, find_leaks, make_splits, parse_shares
from showtell.errors import ConfigError, DataError
from showtell.records import SPLITS, Example, Split


def picture(name: str, split: Split | None = None) -> Example:
    return Example(name, f"images/{name}", ("a picture",), split)


def pictures(count: int) -> list[Example]:
    return [picture(f"{number:05}.jpg") for number in range(count)]


def by_id(examples: list[Example]) -> dict[str, Split | None]:
    return {example.id: example.split for example in examples}


def count(examples: list[Example]) -> list[int]:
    counts = Counter(example.split for example in examples)
    assert None not in counts
    return [counts[split] for split in SPLITS]


@st.composite
def shares_that_sum(draw: st.DrawFn) -> Shares:
    weights = draw(st.lists(st.integers(0, 20), min_size=3, max_size=3).filter(any))
    return tuple(weight / sum(weights) for weight in weights)  # type: ignore[return-value]


@st.composite
def grouped_sets(draw: st.DrawFn) -> tuple[list[Example], list[int]]:
    """Some examples and the group of each; of half of the sets, some have a split already."""
    groups = draw(st.lists(st.integers(0, 12), min_size=1, max_size=60))
    choices: list[Split | None] = [None] * 6
    splits = st.sampled_from([*choices, *SPLITS] if draw(st.booleans()) else choices)
    return [picture(f"{row}.jpg", draw(splits)) for row in range(len(groups))], groups


# ---- what always holds ----


@settings(max_examples=300)
@given(grouped=grouped_sets(), shares=shares_that_sum(), seed=st.integers(0, 5))
def test_every_example_gets_a_split_and_none_is_changed_otherwise(
    grouped: tuple[list[Example], list[int]], shares: Shares, seed: int
) -> None:
    examples, groups = grouped
    try:
        made = make_splits(examples, groups, shares, seed)
    except DataError:
        different = len(set(groups))
        assert all(example.split is None for example in examples)
        assert different < 2 <= sum(share > 0 for share in shares)
        return
    assert [replace(example, split=None) for example in made] == [replace(example, split=None) for example in examples]
    for before, after in zip(examples, made, strict=True):
        assert after.split in SPLITS
        assert before.split in (None, after.split)


@settings(max_examples=300)
@given(grouped=grouped_sets(), shares=shares_that_sum(), seed=st.integers(0, 5))
def test_no_group_is_in_two_splits_unless_it_was_before(
    grouped: tuple[list[Example], list[int]], shares: Shares, seed: int
) -> None:
    examples, groups = grouped
    if len(set(groups)) < 2:
        return
    leaks_before = {leak.group for leak in find_leaks(examples, groups)}
    leaks = {leak.group for leak in find_leaks(make_splits(examples, groups, shares, seed), groups)}
    assert leaks == leaks_before


@settings(max_examples=300)
@given(grouped=grouped_sets(), shares=shares_that_sum(), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_examples_and_the_names_of_the_groups_change_nothing(
    grouped: tuple[list[Example], list[int]], shares: Shares, shuffle: object
) -> None:
    examples, groups = grouped
    if len(set(groups)) < 2:
        return
    rows = list(range(len(examples)))
    shuffle.shuffle(rows)  # type: ignore[attr-defined]
    shuffled = make_splits([examples[row] for row in rows], [f"group {groups[row]}" for row in rows], shares)
    assert by_id(shuffled) == by_id(make_splits(examples, groups, shares))


@settings(max_examples=200)
@given(sizes=st.lists(st.integers(1, 6), min_size=3, max_size=60), shares=shares_that_sum(), seed=st.integers(0, 5))
def test_shares_are_met_up_to_the_size_of_a_group_and_no_wanted_split_is_empty(
    sizes: list[int], shares: Shares, seed: int
) -> None:
    groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    counts = count(make_splits(pictures(len(groups)), groups, shares, seed))
    for found, share in zip(counts, shares, strict=True):
        assert (found > 0) == (share > 0)
        # A cut is at most half a group from where it should be; keeping one group for a split may move it by two more.
        assert abs(found - share * len(groups)) <= 3 * max(sizes)


@pytest.mark.parametrize(
    "shares", [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1), (0.5, 0.0, 0.5), (0.1, 0.2, 0.7), (1.0, 0.0, 0.0)]
)
@pytest.mark.parametrize("total", [10, 100, 1000])
def test_single_pictures_meet_round_shares_exactly(total: int, shares: Shares) -> None:
    assert count(make_splits(pictures(total), None, shares)) == [round(share * total) for share in shares]


# ---- determinism ----


def test_the_same_seed_gives_the_same_splits_on_every_machine() -> None:
    made = make_splits(pictures(20), None, (0.5, 0.25, 0.25), seed=1)
    numbers = {split: [row for row, example in enumerate(made) if example.split == split] for split in ("val", "test")}
    assert numbers == {"val": [0, 10, 13, 17, 18], "test": [2, 3, 6, 9, 15]}
    assert by_id(make_splits(pictures(20), None, (0.5, 0.25, 0.25), seed=2)) != by_id(made)


def test_the_hash_seed_of_the_process_changes_nothing() -> None:
    script = (
        "import json\n"
        "from showtell.datasets.splits import make_splits\n"
        "from showtell.records import Example\n"
        "examples = [Example(f'{n}.jpg', f'{n}.jpg', ('a',), None) for n in range(200)]\n"
        "made = make_splits(examples, [f'group {n % 90}' for n in range(200)])\n"
        "print(json.dumps([example.split for example in made]))\n"
    )
    outputs = []
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
        )
        outputs.append(json.loads(run.stdout))
    assert outputs[0] == outputs[1] == outputs[2]
    assert set(outputs[0]) == set(SPLITS)


def test_adding_pictures_moves_few_of_the_others() -> None:
    before = by_id(make_splits(pictures(1000)))
    after = by_id(make_splits(pictures(1050)))
    moved = sum(after[name] != split for name, split in before.items())
    assert moved <= 15  # the cuts move by less than the pictures that were added on one side of them


def test_seeds_give_different_splits_with_about_the_overlap_of_chance() -> None:
    tests = [
        {name for name, split in by_id(make_splits(pictures(1000), seed=seed)).items() if split == "test"}
        for seed in (1, 2)
    ]
    assert 0 <= len(tests[0] & tests[1]) <= 25  # 10 are expected


# ---- what keeps together ----


def test_examples_of_one_id_or_one_picture_stay_together_without_groups() -> None:
    examples = pictures(40)
    again = [replace(example, image=f"elsewhere/{example.id}") for example in examples]
    linked = [Example(f"copy of {example.id}", example.image, ("a copy",), None) for example in examples]
    made = make_splits([*examples, *again, *linked])
    assert [example.split for example in made[:40]] == [example.split for example in made[40:80]]
    assert [example.split for example in made[:40]] == [example.split for example in made[80:]]


def test_a_cut_does_not_go_through_examples_of_one_id() -> None:
    examples = [replace(example, image=f"{copy}/{example.id}") for copy in "ab" for example in pictures(5)]
    made = make_splits(examples, None, (0.5, 0.5, 0.0))
    assert find_leaks(made, [example.id for example in made]) == []
    assert sorted(count(made)) == [0, 4, 6]


def test_groups_that_share_a_picture_are_one() -> None:
    examples = [*pictures(30), replace(picture("00000.jpg"), id="other name")]
    made = make_splits(examples, [*range(30), 29])
    assert made[0].split == made[29].split == made[30].split


def test_a_group_larger_than_the_small_splits_goes_to_the_largest() -> None:
    examples = pictures(100)
    groups = [0] * 30 + list(range(1, 71))
    for seed in range(20):
        made = make_splits(examples, groups, DEFAULT_SHARES, seed)
        assert {example.split for example in made[:30]} == {"train"}
        assert count(made) == [80, 10, 10]
        assert {example.split for example in make_splits(examples, groups, (0.1, 0.1, 0.8), seed)[:30]} == {"test"}


@pytest.mark.parametrize(("groups", "expected"), [(2, [1, 1, 0]), (3, [1, 1, 1])])
def test_few_groups_go_to_train_and_val_first(groups: int, expected: list[int]) -> None:
    examples = pictures(groups * 4)
    made = make_splits(examples, [row % groups for row in range(len(examples))])
    assert count(made) == [4 * part for part in expected]


# ---- splits that are given ----


def test_given_splits_are_kept_and_draw_their_duplicates() -> None:
    examples = [picture("a", "test"), picture("b"), picture("c", "val"), picture("d"), *pictures(50)]
    made = make_splits(examples, ["x", "x", "y", "y", *range(50)])
    assert [example.split for example in made[:4]] == ["test", "test", "val", "val"]
    assert count(made[4:]) == [40, 5, 5]


def test_a_group_that_is_in_several_splits_draws_its_others_into_the_first() -> None:
    examples = [picture("a", "test"), picture("b", "train"), picture("c"), picture("d", "val"), picture("e", "val")]
    made = make_splits(examples, [1, 1, 1, 2, 3])
    assert [example.split for example in made] == ["test", "train", "train", "val", "val"]


def test_one_picture_can_be_added_to_a_set_with_splits() -> None:
    given = [picture("a", "train"), picture("b", "val"), picture("c", "test")]
    assert make_splits([*given, picture("d")])[3].split == "train"
    assert make_splits([given[0], picture("d")])[1].split == "val"  # which training needs
    assert make_splits(given) == given


def test_captions_without_a_picture_are_for_training() -> None:
    words = [Example(f"line {number}", None, ("words",), None) for number in range(50)]
    made = make_splits([*words, *pictures(10)], [0] * 50 + list(range(1, 11)))
    assert {example.split for example in made[:50]} == {"train"}
    assert count(made[50:]) == [8, 1, 1]


def test_names_that_are_not_text_can_be_shuffled() -> None:
    assert count(make_splits([picture(f"caf\udce9 {number}.jpg") for number in range(10)])) == [8, 1, 1]


# ---- leaks ----


def test_a_leak_shows_one_picture_of_each_split_first() -> None:
    splits: list[Split | None] = ["train", "train", "test", "val", None, "train", "test"]
    examples = [picture(name, split) for name, split in zip("abcdefg", splits, strict=True)]
    leaks = find_leaks(examples, [7, 7, 7, 8, 7, 8, 9])
    assert [leak.group for leak in leaks] == [7, 8]
    assert leaks[0].members == (("a", "train"), ("c", "test"), ("b", "train"))
    assert leaks[1].members == (("f", "train"), ("d", "val"))


def test_there_is_no_leak_where_each_group_is_in_one_split() -> None:
    examples = [picture("a", "train"), picture("b", "train"), picture("c", "val"), picture("d")]
    assert find_leaks(examples, [1, 1, 2, 2]) == []


# ---- shares ----


@pytest.mark.parametrize("text", ["80/10/10", "0.8,0.1,0.1", "80, 10, 10", " 0.8 / 0.1 / 0.1 "])
def test_shares_are_read_as_percent_or_fractions(text: str) -> None:
    assert parse_shares(text) == pytest.approx((0.8, 0.1, 0.1))


def test_a_third_each_can_be_written() -> None:
    assert sum(parse_shares("33.3333/33.3333/33.3334")) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80/20", "not three numbers"),
        ("", "not three numbers"),
        ("a/b/c", "not three numbers"),
        ("8/1/1", "sum to 10"),
        ("0.8,0.1,0.2", "must sum to 1 or to 100"),
        ("120/-10/-10", "0 or more"),
        ("nan/50/50", "0 or more"),
        ("inf/1/1", "0 or more"),
    ],
)
def test_other_shares_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_shares(text)


def test_shares_are_checked_where_splits_are_made() -> None:
    with pytest.raises(ConfigError, match=r"sum to 0\.9"):
        make_splits(pictures(9), None, (0.7, 0.1, 0.1))
    with pytest.raises(ConfigError, match="0 or more"):
        make_splits(pictures(9), None, (1.2, -0.1, -0.1))


@pytest.mark.parametrize("copies", [0, 1, 5])
def test_too_few_different_pictures_are_refused(copies: int) -> None:
    expected = f"{min(copies, 1)} different pictures .* cannot be split into train, val, test; at least 2 are needed"
    with pytest.raises(DataError, match=expected):
        make_splits(pictures(copies), [1] * copies)


def test_one_picture_is_enough_for_one_split() -> None:
    assert count(make_splits(pictures(1), None, (0.0, 0.0, 1.0))) == [0, 0, 1]


def test_groups_must_be_one_an_example() -> None:
    with pytest.raises(ValueError, match="shorter"):
        make_splits(pictures(3), [1, 2])
