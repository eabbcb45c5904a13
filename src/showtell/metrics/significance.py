"""How sure a score is: bootstrap intervals, and a paired test between two systems on the same pictures.

Pictures are drawn with replacement as often as there are (Efron 1979), and every score is computed anew from what each
drawn picture contributes. Scores that are means (ROUGE-L, CIDEr-D) contribute a number a picture; BLEU its counts,
which are summed before it is computed (Koehn 2004). CIDEr-D's document frequencies stay those of the whole set: its
interval is that of the mean of the pictures' scores. The chance is that of the choice of pictures alone: neither that
of another training run nor that of other writers of references.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.metrics.bleu import ORDERS, BleuStatistics

Floats = NDArray[np.float64]

RESAMPLES = 1000
_BLOCK = 500_000  # pictures drawn at a time, over as many resamples as fit: some 12 MB with what is made of them
_SAME = 1e-12  # differences below it come from rounding


@dataclass(frozen=True)
class Contributions:
    """What each picture contributes to some scores, and how the scores come from the mean of what was drawn.

    Shape: `rows` (B, X); `combine` takes the means (S, X) of S resamples and gives (S, scores).
    """

    names: tuple[str, ...]
    rows: Floats
    combine: Callable[[Floats], Floats]

    @classmethod
    def of_means(cls, scores: Mapping[str, NDArray[Any]]) -> Contributions:
        """Scores that are means over pictures, each (B,)."""
        rows = np.stack([np.asarray(values, np.float64) for values in scores.values()], 1)
        return cls(tuple(scores), rows, lambda means: means)

    @classmethod
    def of_bleu(cls, statistics: BleuStatistics) -> Contributions:
        """BLEU-1 to BLEU-4; the shares of means are the shares of sums, which BLEU is made of."""
        rows = statistics.rows
        names = tuple(f"BLEU-{order}" for order in range(1, ORDERS + 1))
        return cls(names, rows, lambda means: BleuStatistics.combine(means * len(rows)))


@dataclass(frozen=True)
class Comparison:
    """One score of two systems on the same pictures.

    `difference` is ours less theirs, `low` and `high` its 95 % interval. `p_value` is two-sided, for "the systems are
    equally good": (1 + F) / (1 + resamples), F the resamples in which the difference, moved to have mean zero, is at
    least as far from zero as the one observed; so it is never 0, and 1 / (1 + resamples) at the least. `wins` is the
    share of resamples in which ours is higher, ties counted half. Each score is tested alone: of twenty tests between
    equal systems, one is expected below 0.05.

    Source: Davison & Hinkley 1997, sec. 4.4 (the test) and 4.2.3 (the added one); Koehn 2004 (`wins`).
    """

    ours: float
    theirs: float
    difference: float
    low: float
    high: float
    p_value: float
    wins: float
    n: int
    resamples: int

    def to_json(self) -> dict[str, float]:
        return {
            name: float(f"{value:.4g}") if name == "p_value" else round(value, 6) for name, value in vars(self).items()
        }


def intervals(
    parts: list[Contributions], *, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """The percentile interval of each score; the same draws serve all.

    Raises:
        ValueError: There are no pictures or resamples, or the parts are of different numbers of pictures.

    Source: Efron & Tibshirani 1993, ch. 13.
    """
    drawn = _resample(parts, resamples, seed)
    edges = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    names = [name for part in parts for name in part.names]
    return {name: (float(low), float(high)) for name, low, high in zip(names, *edges, strict=True)}


def compare(
    ours: list[Contributions], theirs: list[Contributions], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Comparison]:
    """Each score of two systems whose rows are the same pictures in the same order, and whether they differ.

    Raises:
        ValueError: The systems have different scores or numbers of pictures, or there are no pictures or resamples.
    """
    names = [name for part in ours for name in part.names]
    if names != [name for part in theirs for name in part.names]:
        raise ValueError("the two systems have different scores")
    if len(ours[0].rows) != len(theirs[0].rows):
        raise ValueError(f"{len(ours[0].rows)} pictures are compared with {len(theirs[0].rows)}; they must be the same")
    drawn = _resample([*ours, *theirs], resamples, seed)
    differences = drawn[:, : len(names)] - drawn[:, len(names) :]
    low, high = np.quantile(differences, [0.025, 0.975], axis=0)
    centred = np.abs(differences - differences.mean(0))
    wins = ((differences > _SAME).mean(0) + (differences >= -_SAME).mean(0)) / 2
    found = {}
    for column, (name, our, their) in enumerate(zip(names, _observed(ours), _observed(theirs), strict=True)):
        farther = int((centred[:, column] >= abs(our - their) - _SAME).sum())
        found[name] = Comparison(
            ours=our,
            theirs=their,
            difference=our - their,
            low=float(low[column]),
            high=float(high[column]),
            p_value=(1 + farther) / (1 + resamples),
            wins=float(wins[column]),
            n=len(ours[0].rows),
            resamples=resamples,
        )
    return found


def _observed(parts: list[Contributions]) -> list[float]:
    return [float(score) for part in parts for score in part.combine(part.rows.mean(0, keepdims=True))[0]]


def _resample(parts: list[Contributions], resamples: int, seed: int) -> Floats:
    """(resamples, scores): every score on every draw of pictures."""
    pictures = {len(part.rows) for part in parts}
    if len(pictures) != 1 or 0 in pictures:
        raise ValueError(f"scores are of {sorted(pictures)} pictures; give the same pictures, at least one, to each")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples; draw at least one (1000 are usual)")
    (count,) = pictures
    blocks = [
        np.concatenate([part.combine(shares @ part.rows) for part in parts], 1)
        for shares in _draws(count, resamples, seed)
    ]
    return np.concatenate(blocks)


def _draws(pictures: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of draws: how large a share of each resample every picture is, (S, B)."""
    rng = np.random.default_rng(seed)
    block = max(1, _BLOCK // pictures)
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        drawn = rng.integers(pictures, size=(count, pictures))
        drawn += pictures * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * pictures).reshape(count, pictures)
        yield times / pictures
