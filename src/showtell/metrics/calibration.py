"""Confidences and what became of them -> how honest they are (Naeini et al. 2015; Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.records import Caption

BINS = 15
_ROUNDING = 1e-4  # how far above 0 float32 may carry the logarithm of a probability of 1


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: bins between 0 and 1, of which the upper edge belongs to the bin.

    `error` is the expected calibration error: the mean distance of confidence and accuracy, by count.

    Shape: `counts`, `confidence` (its mean) and `accuracy` have an entry a bin, `edges` one more; the means of an
        empty bin are NaN.

    Source: Naeini et al. 2015; Guo et al. 2017, sec. 2.
    """

    error: float
    n: int
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    edges: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        """Plain values; empty bins are left out."""
        columns = (self.edges[:-1], self.edges[1:], self.confidence, self.accuracy)
        names = ("low", "high", "confidence", "accuracy")
        bins = [
            {"count": int(count)} | {name: round(float(value), 6) for name, value in zip(names, row, strict=True)}
            for count, *row in zip(self.counts, *columns, strict=True)
            if count
        ]
        return {"error": round(self.error, 6), "n": self.n, "bins": bins}


def calibrate(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Calibration:
    """The calibration of confidences (N,), each between 0 and 1, of which `correct` (N,) says whether it held.

    The bins are of equal width.

    Raises:
        ValueError: They are of different lengths or none, a confidence is not between 0 and 1, an answer is neither
            true nor false, or there are no bins.
    """
    sure, right = _check(confidence, correct, bins)
    edges = np.arange(bins + 1) / bins
    return _fill(sure, right, np.maximum(np.searchsorted(edges, sure) - 1, 0), edges)


def calibrate_by_count(confidence: ArrayLike, correct: ArrayLike, bins: int) -> Calibration:
    """The same with bins of as many confidences each (one more or less): so each is known equally well.

    Equal confidences may come into different bins, in the order they came.

    Raises:
        ValueError: As `calibrate`, or there are more bins than confidences.

    Source: Nguyen and O'Connor 2015, sec. 4.1 (adaptive binning).
    """
    sure, right = _check(confidence, correct, bins)
    if bins > len(sure):
        raise ValueError(f"{bins} bins for {len(sure)} confidences; give at most as many bins")
    order = np.argsort(sure, kind="stable")
    bin_N = np.empty(len(sure), np.int64)
    bin_N[order] = np.arange(len(sure)) * bins // len(sure)
    last = np.searchsorted(bin_N[order], np.arange(bins - 1), "right")
    between = (sure[order][last - 1] + sure[order][last]) / 2
    return _fill(sure, right, bin_N, np.concatenate([[0.0], between, [1.0]]))


def _check(confidence: ArrayLike, correct: ArrayLike, bins: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.shape != right.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"confidences of shape {sure.shape} and answers of shape {right.shape}; give (N,) of each")
    if not (fits := (sure >= 0) & (sure <= 1)).all():
        place = int(np.argmin(fits))
        raise ValueError(f"confidence {place} is {sure[place]}, not between 0 and 1")
    if not (fits := (right == 0) | (right == 1)).all():
        place = int(np.argmin(fits))
        raise ValueError(f"answer {place} is {right[place]}; give true or false (1 or 0)")
    if bins < 1:
        raise ValueError(f"{bins} bins; give at least one")
    return sure, right


def _fill(
    sure: NDArray[np.float64], right: NDArray[np.float64], bin_N: NDArray[np.int64], edges: NDArray[np.float64]
) -> Calibration:
    bins = len(edges) - 1
    counts = np.bincount(bin_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_N, sure, bins) / counts
        share = np.bincount(bin_N, right, bins) / counts
    error = float(np.nansum(counts * np.abs(mean - share)) / len(sure))
    return Calibration(error, len(sure), counts.astype(np.int64), mean, share, edges)


def calibrate_words(captions: Mapping[str, Caption], references: Mapping[str, Collection[str]]) -> Calibration:
    """How far the probability of a word is from the share of words that a reference of the picture has.

    That says whether a captioner knows what it does not know. It is not whether the word stands in its right place,
    `a` and `of` are right almost everywhere, and a true word that no writer chose counts as wrong.

    Args:
        references: The words of each picture's references, tokenised as the captioner does.

    Raises:
        ValueError: A picture has no references or not one log-probability a word, a log-probability is above 0 or not
            a number, or no caption has a word.
    """
    logprobs: list[float] = []
    right: list[bool] = []
    for image, caption in captions.items():
        if image not in references:
            raise ValueError(f"{image!r} has a caption and no references; give the words of them")
        if len(caption.words) != len(caption.word_logprobs):
            raise ValueError(
                f"the caption of {image!r} has {len(caption.words)} words and {len(caption.word_logprobs)} "
                "log-probabilities; each word needs one"
            )
        if not all(value <= _ROUNDING for value in caption.word_logprobs):
            raise ValueError(f"a log-probability of {image!r} is above 0 or not a number: {caption.word_logprobs}")
        logprobs += caption.word_logprobs
        right += [word in references[image] for word in caption.words]
    if not logprobs:
        raise ValueError("no caption has a word; there is nothing to calibrate")
    return calibrate(np.exp(np.minimum(logprobs, 0)), right)
