"""Confidences and what became of them -> how honest they are (Guo et al. 2017)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from showtell.records import Caption

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """A reliability diagram: bins of equal width between 0 and 1, of which the upper edge belongs to the bin.

    Shape: `counts`, `confidence` and `accuracy` have an entry a bin; the means of an empty bin are NaN. `error` is the
    expected calibration error: the mean distance of confidence and accuracy, by count.
    """

    error: float
    n: int
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    def to_json(self) -> dict[str, Any]:
        bins = [
            {"count": int(count), "confidence": round(float(mean), 6), "accuracy": round(float(right), 6)}
            for count, mean, right in zip(self.counts, self.confidence, self.accuracy, strict=True)
            if count
        ]
        return {"error": round(self.error, 6), "n": self.n, "bins": bins}


def calibrate(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Calibration:
    """The calibration of confidences (N,), each between 0 and 1, of which `correct` (N,) says whether it held.

    Raises:
        ValueError: They are of different lengths or none, or a confidence is not between 0 and 1.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    if sure.shape != right.shape or sure.ndim != 1 or not len(sure):
        raise ValueError(f"confidences of shape {sure.shape} and answers of shape {right.shape}; give (N,) of each")
    if not ((sure >= 0) & (sure <= 1)).all():
        raise ValueError("a confidence is not between 0 and 1")
    bin_N = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(bin_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(bin_N, sure, bins) / counts
        share = np.bincount(bin_N, right, bins) / counts
    error = float(np.nansum(counts * np.abs(mean - share)) / len(sure))
    return Calibration(error, len(sure), counts.astype(np.int64), mean, share)


def calibrate_words(captions: Mapping[str, Caption], references: Mapping[str, Collection[str]]) -> Calibration:
    """How far the probability of a word is from the share of words that a reference of the picture has.

    That says whether a captioner knows what it does not know. It is not whether the word stands in its right place,
    and a true word that no writer chose counts as wrong.

    Args:
        references: The words of each picture's references, tokenised as the captioner does.

    Raises:
        ValueError: No caption has a word.
    """
    sure = [np.exp(np.minimum(caption.word_logprobs, 0)) for caption in captions.values()]
    right = [word in references[image] for image, caption in captions.items() for word in caption.words]
    return calibrate(np.concatenate(sure) if sure else [], right)
