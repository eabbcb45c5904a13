"""Examples without splits -> the same examples in train, val and test; and which pictures are in two of them.

Splits are made of groups of pictures that are the same one (`datasets.duplicates`), so that no picture is trained on
and scored. Groups are put in an order that depends on the seed and on their pictures' ids alone, and that order is cut
at the shares: the splits are the same on every machine and in whatever order the pictures come, and when pictures are
added, only groups near the two cuts change sides.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from showtell.errors import ConfigError, DataError
from showtell.records import SPLITS, Example, Split

Shares = tuple[float, float, float]  # of train, val and test; they sum to 1

DEFAULT_SHARES: Shares = (0.8, 0.1, 0.1)

_TOLERANCE = 1e-6


class Leak(NamedTuple):
    """A group of pictures that are the same one and are in more than one split.

    `members` are (id, split), the first of each split before the second of any.
    """

    group: Hashable
    members: tuple[tuple[str, Split], ...]


def parse_shares(text: str) -> Shares:
    """The shares of train, val and test that `80/10/10` or `0.8,0.1,0.1` says.

    Raises:
        ConfigError: There are not three numbers, one is negative, or they do not sum to 1 or to 100.
    """
    try:
        train, val, test = (float(part) for part in re.split("[/,]", text))
    except ValueError as error:
        raise ConfigError(
            f"shares {text!r} are not three numbers; write those of train, val and test as 80/10/10 or 0.8,0.1,0.1"
        ) from error
    percent = abs(train + val + test - 100) <= 100 * _TOLERANCE
    shares = (train / 100, val / 100, test / 100) if percent else (train, val, test)
    _check_shares(shares)
    return shares


def make_splits(
    examples: Sequence[Example],
    groups: Iterable[Hashable] | None = None,
    shares: Shares = DEFAULT_SHARES,
    seed: int = 1,
) -> list[Example]:
    """The examples in their order, those without a split in one that is made.

    Examples of one id, one picture or one group stay together. One that has a split keeps it, and those of its group
    that have none follow it (where it is in several, into the first of train, val and test). The other groups are cut
    at the shares of their pictures, which are met as nearly as one cut between two groups can; groups larger than the
    smallest split go to the largest. Of two groups or more one is in val, of three one in test, where these have a
    share and are empty. Captions without a picture go to train.

    Args:
        groups: The group of each example, as `group_duplicates` numbers them; None where each is its own.
        shares: Of train, val and test.

    Raises:
        ConfigError: A share is negative or they do not sum to 1.
        DataError: There are too few different pictures for these splits.
    """
    _check_shares(shares)
    members = _gather(examples, groups)
    made: dict[int, Split] = {row: "train" for row, example in enumerate(examples) if example.image is None}
    free: list[list[int]] = []
    for rows in members:
        taken = {examples[row].split for row in rows}
        split = next((split for split in SPLITS if split in taken), None)
        if split is None:
            free.append(rows)
        else:
            made.update(dict.fromkeys(rows, split))
    filled = {example.split for example in examples if example.image is not None}
    for split, part in _cut(_order(examples, free, shares, seed), shares, filled - {None}).items():
        made.update((row, split) for rows in part for row in rows)
    return [
        example if example.split is not None else replace(example, split=made[row])
        for row, example in enumerate(examples)
    ]


def find_leaks(examples: Sequence[Example], groups: Iterable[Hashable]) -> list[Leak]:
    """The groups of which one example is in a split and another in another, in the order of their first examples.

    Examples without a split are in none.
    """
    members: dict[Hashable, dict[Split, list[str]]] = {}
    for example, group in zip(examples, groups, strict=True):
        if example.split is not None:
            members.setdefault(group, {}).setdefault(example.split, []).append(example.id)
    return [Leak(group, _interleave(by_split)) for group, by_split in members.items() if len(by_split) > 1]


def _interleave(by_split: dict[Split, list[str]]) -> tuple[tuple[str, Split], ...]:
    placed = [
        (place, SPLITS.index(split), name) for split, names in by_split.items() for place, name in enumerate(names)
    ]
    return tuple((name, SPLITS[split]) for _, split, name in sorted(placed))


def _check_shares(shares: Sequence[float]) -> None:
    told = "/".join(f"{share:g}" for share in shares)
    if len(shares) != len(SPLITS) or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise ConfigError(f"shares {told} cannot be used; give one of 0 or more to each of train, val and test")
    if abs(sum(shares) - 1) > _TOLERANCE:
        raise ConfigError(f"shares {told} sum to {sum(shares):g}; those of train, val and test must sum to 1 or to 100")


def _gather(examples: Sequence[Example], groups: Iterable[Hashable] | None) -> list[list[int]]:
    """The rows of the examples with a picture, those of one id, one picture or one group together."""
    given = [None] * len(examples) if groups is None else list(groups)
    parent = list(range(len(examples)))

    def find(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[tuple[str, Hashable], int] = {}
    for row, (example, group) in enumerate(zip(examples, given, strict=True)):
        if example.image is None:
            continue
        keys: list[tuple[str, Hashable]] = [("id", example.id), ("image", example.image)]
        for key in keys if groups is None else [*keys, ("group", group)]:
            parent[find(row)] = find(first.setdefault(key, row))
    members: dict[int, list[int]] = {}
    for row, example in enumerate(examples):
        if example.image is not None:
            members.setdefault(find(row), []).append(row)
    return list(members.values())


def _order(examples: Sequence[Example], groups: list[list[int]], shares: Shares, seed: int) -> list[list[int]]:
    """The groups that are larger than the smallest split, then the rest, both shuffled by a hash of seed and id."""
    smallest = min(share for share in shares if share > 0) * sum(map(len, groups))

    def key(rows: list[int]) -> tuple[bool, bytes]:
        name = f"{seed} {min(examples[row].id for row in rows)}"
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        return len(rows) <= max(1, smallest), digest

    return sorted(groups, key=key)


def _cut(groups: list[list[int]], shares: Shares, filled: set[Split | None]) -> dict[Split, list[list[int]]]:
    """The part of each split, the largest first, cut where the sums of sizes are nearest to the shares."""
    wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0 and split not in filled]
    if not filled and len(groups) < min(2, len(wanted)):
        raise DataError(
            f"{len(groups)} different pictures (duplicates count once) cannot be split into {', '.join(wanted)}; "
            f"at least {min(2, len(wanted))} are needed: add pictures or give a split the share 0"
        )
    needed = wanted[: len(groups)]
    order = sorted(range(len(SPLITS)), key=lambda place: -shares[place])
    least = [int(SPLITS[place] in needed) for place in order]
    ends = np.cumsum([0, *map(len, groups)])
    first = int(np.abs(ends - shares[order[0]] * ends[-1]).argmin())
    second = int(np.abs(ends - (1 - shares[order[2]]) * ends[-1]).argmin())
    first = min(max(first, least[0]), len(groups) - least[1] - least[2])
    second = min(max(second, first + least[1]), len(groups) - least[2])
    parts = (groups[:first], groups[first:second], groups[second:])
    return {SPLITS[place]: part for place, part in zip(order, parts, strict=True)}
