"""Examples without splits -> train, val and test: seeded, and with duplicates together.

Groups are ordered by a hash of the seed and the group's smallest id, and cut at the shares. So the splits do not depend
on the order of the examples, the machine or Python's own hashing, and a picture that is added moves few others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from showtell.errors import ConfigError, DataError
from showtell.records import SPLITS, Example, Split

Shares = tuple[float, float, float]
DEFAULT_SHARES: Shares = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class Leak:
    """Pictures that are duplicates of each other and stand in more than one split: their ids and splits."""

    members: tuple[tuple[str, Split], ...]


def make_splits(
    examples: Sequence[Example],
    groups: Sequence[int] | None = None,
    shares: Shares = DEFAULT_SHARES,
    seed: int = 1,
) -> list[Example]:
    """The examples in their order, each with a split.

    Those that have one keep it, and a group that holds such a picture goes where its first one is. The others are
    dealt out so that each split has its share of them, as nearly as whole groups allow.

    Args:
        groups: The group of each picture, which no split takes apart; None: every picture is its own.
        shares: Of train, val and test; they sum to 1.

    Raises:
        ConfigError: The shares are not three numbers from 0 to 1 that sum to 1.
        DataError: There are too few groups for each share to get one.
    """
    _check(shares)
    owner = list(groups) if groups is not None else list(range(len(examples)))
    members: dict[int, list[int]] = {}
    for row, group in enumerate(owner):
        members.setdefault(group, []).append(row)
    decided: dict[int, Split] = {}
    for group, rows in members.items():
        fixed = next((split for row in rows if (split := examples[row].split) is not None), None)
        if fixed is not None:
            decided[group] = fixed
    open_groups = [group for group in members if group not in decided]
    ids = {group: min(examples[row].id for row in members[group]) for group in open_groups}
    open_groups.sort(key=lambda group: (_hash(seed, ids[group]), ids[group]))
    decided |= _deal(open_groups, {group: len(members[group]) for group in open_groups}, shares)
    return [
        example if example.split is not None else replace(example, split=decided[group])
        for example, group in zip(examples, owner, strict=True)
    ]


def find_leaks(examples: Sequence[Example], groups: Sequence[int]) -> list[Leak]:
    """The groups of duplicates that stand in more than one split."""
    members: dict[int, list[tuple[str, Split]]] = {}
    for example, group in zip(examples, groups, strict=True):
        if example.split is not None:
            members.setdefault(group, []).append((example.id, example.split))
    return [Leak(tuple(found)) for found in members.values() if len({split for _, split in found}) > 1]


def parse_shares(text: str) -> Shares:
    """The shares that `80/10/10` or `0.8,0.1,0.1` says.

    Raises:
        ConfigError: It is not three numbers that make a whole.
    """
    try:
        values = [float(part) for part in text.replace(",", "/").split("/")]
        total = math.fsum(values)
    except ValueError as error:
        raise ConfigError(f"shares {text!r} are not numbers; accepted are train/val/test, such as 80/10/10") from error
    if len(values) != 3 or not (abs(total - 100) < 1e-6 or abs(total - 1) < 1e-6):
        raise ConfigError(
            f"shares {text!r} are {len(values)} numbers that sum to {total:g}; give three that sum to 100"
        )
    train, val, test = (value / total for value in values)
    _check((train, val, test))
    return train, val, test


def _check(shares: Shares) -> None:
    if any(not 0 <= share <= 1 for share in shares) or abs(math.fsum(shares) - 1) > 1e-6:
        raise ConfigError(f"shares {shares} are not three numbers from 0 to 1 that sum to 1; give such, as 0.8,0.1,0.1")


def _deal(groups: Sequence[int], sizes: dict[int, int], shares: Shares) -> dict[int, Split]:
    """Each group to the split that lacks most of its share, the small splits first."""
    wanted: list[tuple[Split, float]] = [(split, share) for split, share in zip(SPLITS, shares, strict=True) if share]
    if groups and len(groups) < len(wanted):
        raise DataError(
            f"{len(groups)} pictures (duplicates counted once) cannot be split into {len(wanted)} parts; "
            "add pictures, or give a part the share 0"
        )
    total = sum(sizes.values())
    dealt: dict[int, Split] = {}
    place = 0
    for number, (split, share) in enumerate(sorted(wanted, key=lambda part: part[1])):
        left = len(wanted) - number - 1
        if not left:
            dealt.update(dict.fromkeys(groups[place:], split))
            break
        room, taken = share * total, 0
        while place < len(groups) - left:
            size = sizes[groups[place]]
            if taken and abs(taken + size - room) > abs(taken - room):
                break
            dealt[groups[place]] = split
            taken += size
            place += 1
    return dealt


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(name.encode("utf-8", "surrogateescape"), key=str(seed).encode(), digest_size=8).digest()
