"""A caption's words and its picture's features -> the probability that the caption is good, of a calibrated bundle.

    P(good) = P(known) · P(good | known)

P(good | known) is a logistic function of the mean log-probability of the caption's words (Platt 1999). P(known) falls
where the picture is unlike those that the bundle was calibrated on: its distance from them is the part of its vector
that their mean and principal directions do not explain (the residual of Wang et al. 2022, "ViM", sec. 3). One
picture in five is taken to be of another kind, three standard deviations further out, in logarithms; of those no
caption is good.

The bundle has the numbers in `confidence` of its manifest and the weights `confidence/mean` (D,) and
`confidence/directions` (R, D), float16. What "good" means, and the fit, is in `showtell.learn.calibrating`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from showtell.errors import BundleError

_APART = 3.0  # standard deviations between the pictures that are known and others
_OTHERS = 0.2  # of all pictures
_SMALLEST = 1e-12  # of a norm or a distance, so that it can be divided by and has a logarithm
_NUMBERS = ("intercept", "slope", "centre", "spread")
_ARRAYS = ("confidence/mean", "confidence/directions")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """What P(good) is made of.

    Shape: `mean_D`, `directions_RD` (orthonormal rows).
    Units: `slope` is of the mean log-probability in nats; `centre` and `spread` are the mean and the standard deviation
        of the logarithm of the distance.
    """

    intercept: float
    slope: float
    centre: float
    spread: float
    mean_D: NDArray[Any]
    directions_RD: NDArray[Any]

    @classmethod
    def read(cls, settings: Mapping[str, Any], weights: Mapping[str, NDArray[Any]], name: str) -> Judge | None:
        """That of a bundle, from its manifest's `confidence` and its weights; None where it is not calibrated.

        Raises:
            BundleError: Numbers or arrays are missing or do not fit; `name` is how the sentence calls the bundle.
        """
        if "intercept" not in settings:  # never calibrated, or `skipped` says why it could not be
            return None
        try:
            intercept, slope, centre, spread = numbers = [float(settings[key]) for key in _NUMBERS]
            mean_D, directions_RD = (weights[key] for key in _ARRAYS)
            fits = directions_RD.shape[1:] == mean_D.shape and np.isfinite(numbers).all() and spread > 0
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"the confidence of {name!r} lacks a part ({error}); calibrate it again: showtell calibrate"
            ) from error
        if not fits:
            raise BundleError(
                f"the confidence of {name!r} has numbers {numbers} and arrays of {mean_D.shape} and "
                f"{directions_RD.shape} that do not fit; calibrate it again: showtell calibrate"
            )
        return cls(intercept, slope, centre, spread, mean_D.astype(np.float32), directions_RD.astype(np.float32))

    def settings(self) -> dict[str, float]:
        """The numbers, for the manifest."""
        return {name: getattr(self, name) for name in _NUMBERS}

    def weights(self) -> dict[str, NDArray[np.float16]]:
        """The arrays, for the bundle."""
        arrays = (self.mean_D, self.directions_RD)
        return {name: array.astype(np.float16) for name, array in zip(_ARRAYS, arrays, strict=True)}

    def judge(self, logprobs_B: Sequence[Sequence[float]], features_BLD: NDArray[np.float32]) -> list[float]:
        """P(good) of captions, from their words' log-probabilities and their pictures; 0 of one without words."""
        sure_B = np.array([np.mean(words or 0) for words in logprobs_B])
        good_B = self.judge_each(sure_B, pool(features_BLD))
        return [float(good) if words else 0.0 for good, words in zip(good_B, logprobs_B, strict=True)]

    def judge_each(self, sure_B: Floats, vectors_BD: NDArray[np.float32]) -> Floats:
        """P(good) (B,) of captions by the mean log-probability of their words and the vectors of their pictures."""
        away_B = (measure(vectors_BD, self.mean_D, self.directions_RD) - self.centre) / self.spread
        return knownness(away_B) * logistic(self.intercept + self.slope * sure_B)


def pool(features_BLD: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors of pictures (B, D): the mean of the directions of their cells.

    It is long where the cells are alike, as in noise, drawings and views from above.
    """
    norms_BL = np.sqrt(np.einsum("bld,bld->bl", features_BLD, features_BLD))  # no array of the grids' size is made
    weights_BL = 1 / (np.maximum(norms_BL, _SMALLEST) * features_BLD.shape[1])
    vectors: NDArray[np.float32] = np.einsum("bl,bld->bd", weights_BL, features_BLD)
    return vectors


def measure(vectors_BD: NDArray[np.float32], mean_D: NDArray[Any], directions_RD: NDArray[Any]) -> Floats:
    """The logarithms (B,) of the squared lengths of what the mean and the directions leave of vectors."""
    away_BD = vectors_BD - mean_D
    along_BR1 = directions_RD @ away_BD[:, :, None]  # one by one: the same to the last bit whatever the batch
    left_BD = away_BD - (directions_RD.T @ along_BR1)[:, :, 0]
    squares_B: Floats = np.square(left_BD, dtype=np.float64).sum(axis=1)
    return np.log(np.maximum(squares_B, _SMALLEST))


def knownness(deviations: Floats) -> Floats:
    """P(known) of distances in standard deviations, by Bayes' rule from two normal distributions `_APART` apart."""
    return logistic(math.log(1 / _OTHERS - 1) + _APART**2 / 2 - _APART * deviations)


def logistic(logits: Floats) -> Floats:
    """1 / (1 + exp(-logits)), without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * logits))
