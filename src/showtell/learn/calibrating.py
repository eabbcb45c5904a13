"""Captions of pictures with references -> what tells how probable it is that a caption is good.

A caption is good where its CIDEr-D is above the lower quartile of people's: of the CIDEr-D that each reference of these
pictures has against the other ones of its picture, without copies of itself. What is fitted has two numbers (Platt
1999, with his targets) and the mean and principal directions of the pictures (`showtell.confidence`), so a few hundred
pictures are enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from showtell.bundle import Bundle
from showtell.captioner import Captioner
from showtell.confidence import Floats, Judge, knownness, logistic, measure, pool
from showtell.errors import DataError, ImageError
from showtell.images import read_ahead
from showtell.learn.progress import Progress, silent
from showtell.metrics import Cider, DocumentFrequencies, tokenise_ptb
from showtell.metrics.calibration import calibrate_by_count
from showtell.records import Caption, Example

BINS = 5  # of as many pictures each: more of them would measure chance, with a few hundred pictures
LEAST = 50  # pictures, of which at least `FEWEST` have a good caption, and as many a bad one
FEWEST = 10
SPLITS = 20  # into folds, at most; their errors differ by chance, and are averaged
_SPLIT = 4000  # pictures in all the splits: of many pictures chance is small, and fits take long
# Of 8, 16, 32 and 64 as good as the best at telling the 176 of `coco` val from aerial pictures and drawings. Of more
# pictures more is known: RSICD's 1,966 are told from photographs at an AUROC of 0.59 by 16 directions, 0.90 by 128.
_DIRECTIONS, _MOST_DIRECTIONS = 16, 128
_EACH = 16  # pictures for each direction above the least
_FOLDS = 8
_ROUNDS = 12  # of the search for the principal directions
_STEPS = 100  # of the fit, at most; ten are enough as a rule
_NOISE = 100  # pictures
_BATCH = 16

Rounded = dict[str, float | int | str]


@dataclass(frozen=True)
class Evidence:
    """What is known of captioned pictures; shape: `sure_N` (mean log-probability of a word), `good_N` 0 or 1."""

    sure_N: Floats
    vectors_ND: NDArray[np.float32]
    good_N: Floats
    good_from: float  # CIDEr-D


def calibrate_bundle(
    bundle: Bundle,
    examples: Sequence[Example],
    captions: Mapping[str, Caption],
    *,
    progress: Progress = silent,
) -> Bundle:
    """The bundle with a confidence that is calibrated on these captions; its card is not written anew.

    Its manifest says how well: `ECE` is the mean over up to `SPLITS` cross-validations, `ECE before` that of the
    geometric mean of the words' probabilities, `ECE by chance` what honest probabilities have on so few pictures.

    Args:
        captions: What the bundle says of the examples' pictures, by id; others are left out.

    Raises:
        DataError: As `gather`.
    """
    evidence = gather(Captioner(bundle), examples, captions, progress=progress)
    judge = fit_judge(evidence)
    splits = max(1, min(SPLITS, _SPLIT // len(evidence.good_N)))
    honest_SN = np.stack([cross_validate(evidence, seed) for seed in range(splits)])
    honest_N, good_N = honest_SN[0], evidence.good_N
    settings: Rounded = {
        **judge.settings(),
        "good_from": evidence.good_from,
        "pictures": len(good_N),
        "good": float(good_N.mean()),
        "ECE before": calibrate_by_count(np.exp(evidence.sure_N), good_N, BINS).error,
        "ECE": float(np.mean([calibrate_by_count(one_N, good_N, BINS).error for one_N in honest_SN])),
        "ECE by chance": chance_error(honest_N),
        "AUROC good": auroc(honest_N[good_N == 1], honest_N[good_N == 0]),
    }
    weights = {**bundle.weights, **judge.weights()}
    calibrated = replace(bundle, manifest=replace(bundle.manifest, confidence=settings), weights=weights)
    settings["AUROC noise"] = auroc(honest_N, _judge_noise(Captioner(calibrated)))
    rounded = {key: round(value, 6) if isinstance(value, float) else value for key, value in settings.items()}
    return replace(calibrated, manifest=replace(calibrated.manifest, confidence=rounded))


def gather(
    captioner: Captioner,
    examples: Sequence[Example],
    captions: Mapping[str, Caption],
    *,
    progress: Progress = silent,
) -> Evidence:
    """What is known of the examples that have a caption with words.

    Raises:
        DataError: There are too few of them, or too few good or bad captions, or one reference a picture; or a picture
            that was captioned cannot be read any more.
    """
    chosen = [one for one in examples if one.references and one.id in captions and captions[one.id].words]
    if len(chosen) < LEAST:
        raise DataError(f"{len(chosen)} pictures with captions; confidence is calibrated on at least {LEAST}")
    references = [[tokenise_ptb(text) for text in example.references] for example in chosen]
    good_from = people_score(references)
    worth_N = Cider(references).score([tokenise_ptb(captions[one.id].text) for one in chosen])[1]
    good_N = (worth_N > good_from).astype(np.float64)
    if not FEWEST <= good_N.sum() <= len(good_N) - FEWEST:
        raise DataError(
            f"{int(good_N.sum())} of {len(good_N)} captions are good (CIDEr-D above {good_from:.3f}); confidence is "
            f"calibrated where at least {FEWEST} are and {FEWEST} are not"
        )
    sure_N = np.array([np.mean(captions[one.id].word_logprobs) for one in chosen])
    return Evidence(np.minimum(sure_N, 0), _read_vectors(captioner, chosen, progress), good_N, good_from)


def people_score(references: Sequence[Sequence[Sequence[str]]]) -> float:
    """The lower quartile of the CIDEr-D of tokenised references, each against the others of its picture.

    Raises:
        DataError: No picture has two different references.
    """
    cases = [
        (held_out, others)
        for captions in references
        for held_out in captions
        if (others := [other for other in captions if other != held_out])
    ]
    if not cases:
        raise DataError("no picture has two different references, so it cannot be said how good people's captions are")
    cider = Cider([others for _, others in cases], DocumentFrequencies.count(references))
    return float(np.quantile(cider.score([held_out for held_out, _ in cases])[1], 0.25))


def fit_judge(evidence: Evidence) -> Judge:
    """The judge that suits all of the evidence best."""
    mean_D, directions_RD = _principal(evidence.vectors_ND)
    away_N = _measure_each(evidence.vectors_ND)
    centre, spread = float(away_N.mean()), max(float(away_N.std()), 1e-6)
    known_N = knownness((away_N - centre) / spread)
    intercept, slope = fit_logistic(evidence.sure_N, known_N, evidence.good_N)
    return Judge(intercept, slope, centre, spread, mean_D, directions_RD)


def cross_validate(evidence: Evidence, seed: int = 0) -> Floats:
    """P(good) (N,) of each picture, by a judge that was fitted to the pictures of the other folds."""
    honest_N = np.empty(len(evidence.good_N))
    for held_N in _folds(len(honest_N), seed):
        rest = Evidence(
            evidence.sure_N[~held_N], evidence.vectors_ND[~held_N], evidence.good_N[~held_N], evidence.good_from
        )
        judge = fit_judge(rest)
        honest_N[held_N] = judge.judge_each(evidence.sure_N[held_N], evidence.vectors_ND[held_N])
    return honest_N


def fit_logistic(sure_N: Floats, known_N: Floats, good_N: Floats) -> tuple[float, float]:
    """(intercept, slope) of `known * logistic(intercept + slope * sure)` at its greatest likelihood.

    By Fisher's scoring, with steps halved while they lead down. Source: Platt 1999, sec. 2.2, for the targets, which
    keep the numbers finite where the good and the bad can be told apart.
    """
    positives = float(good_N.sum())
    aims_N = np.where(good_N == 1, (positives + 1) / (positives + 2), 1 / (len(good_N) - positives + 2))
    centre, scale = sure_N.mean(), sure_N.std() or 1.0
    inputs_N2 = np.stack([np.ones_like(sure_N), (sure_N - centre) / scale], axis=1)

    def predict(weights: Floats) -> Floats:
        return np.clip(known_N * logistic(inputs_N2 @ weights), 1e-9, 1 - 1e-9)

    def likelihood(weights: Floats) -> float:
        p_N = predict(weights)
        return float((aims_N * np.log(p_N) + (1 - aims_N) * np.log1p(-p_N)).sum())

    weights = np.zeros(2)
    for _ in range(_STEPS):
        p_N = predict(weights)
        change_N = p_N * (1 - logistic(inputs_N2 @ weights))  # of p with the logit
        worth_N = 1 / (p_N * (1 - p_N))
        gradient = inputs_N2.T @ ((aims_N - p_N) * worth_N * change_N)
        information = (inputs_N2 * (worth_N * change_N**2)[:, None]).T @ inputs_N2
        step = np.linalg.solve(information + 1e-9 * np.eye(2), gradient)
        before = likelihood(weights)
        while likelihood(weights + step) < before and np.abs(step).max() > 1e-9:
            step = step / 2
        weights = weights + step
        if np.abs(step).max() < 1e-7:
            break
    slope = float(weights[1] / scale)
    return float(weights[0] - slope * centre), slope


def chance_error(p_N: Floats, draws: int = 1000) -> float:
    """The mean calibration error that these probabilities would have on as many pictures if they were the truth."""
    rng = np.random.default_rng(0)
    return float(np.mean([calibrate_by_count(p_N, rng.random(len(p_N)) < p_N, BINS).error for _ in range(draws)]))


def auroc(higher: Floats, lower: Floats) -> float:
    """The probability that a number of the first kind is above one of the second; of equal ones half."""
    order = np.sort(lower)
    below = np.searchsorted(order, higher, "left") + np.searchsorted(order, higher, "right")
    return float(below.mean() / (2 * len(order)))


def draw_noise(count: int, size: int) -> list[NDArray[np.uint8]]:
    """Pictures of noise, of cells from one pixel up to a quarter of the picture, hard and soft in turn."""
    rng = np.random.default_rng(0)
    filters = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    pictures = []
    for number in range(count):
        cells = int(np.exp(rng.uniform(np.log(4), np.log(size))))
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        pictures.append(np.asarray(noise.resize((size, size), filters[number % 2])))
    return pictures


def _judge_noise(captioner: Captioner) -> Floats:
    group = [(str(number), one) for number, one in enumerate(draw_noise(_NOISE, captioner.manifest.preprocessing.size))]
    said = captioner.caption_pixels(group, captioner.options())
    return np.array([one.confidence for one in said if isinstance(one, Caption)], np.float64)


def _read_vectors(captioner: Captioner, examples: Sequence[Example], progress: Progress) -> NDArray[np.float32]:
    sources = ((example.id, str(example.image)) for example in examples)
    threads = captioner.runtime.threads
    pictures = read_ahead(sources, captioner.manifest.preprocessing, readers=threads, ahead=2 * _BATCH)
    parts: list[NDArray[np.float32]] = []
    while group := list(islice(pictures, _BATCH)):
        for name, pixels in group:
            if isinstance(pixels, ImageError):
                raise DataError(f"{name} was captioned and cannot be read any more: {pixels}")
        readable = [pixels for _, pixels in group if not isinstance(pixels, ImageError)]
        parts.append(pool(captioner.runtime.encode_each(readable)))
        progress("calibrating confidence", sum(map(len, parts)), len(examples))
    return np.concatenate(parts)


def _measure_each(vectors_ND: NDArray[np.float32]) -> Floats:
    """How far each picture is from the others, which is what a picture is that nobody has seen."""
    away_N = np.empty(len(vectors_ND))
    for held_N in _folds(len(vectors_ND), 0):
        away_N[held_N] = measure(vectors_ND[held_N], *_principal(vectors_ND[~held_N]))
    return away_N


def _principal(vectors_ND: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The mean (D,) and the principal directions (R, D), by orthogonal iteration: a few of many cost little."""
    mean_D = vectors_ND.mean(axis=0)
    away_ND = vectors_ND - mean_D
    wanted = max(_DIRECTIONS, min(len(vectors_ND) // _EACH, _MOST_DIRECTIONS))
    count = min(wanted, len(vectors_ND) // 4, vectors_ND.shape[1] // 2)
    directions_DR = np.random.default_rng(0).standard_normal((vectors_ND.shape[1], count)).astype(np.float32)
    for _ in range(_ROUNDS):
        directions_DR = np.linalg.qr(away_ND.T @ (away_ND @ directions_DR))[0]
    return mean_D, np.ascontiguousarray(directions_DR.T)


def _folds(count: int, seed: int) -> list[NDArray[np.bool_]]:
    """Masks (N,) of the pictures that each fold holds out."""
    fold_N = np.random.default_rng(seed).permutation(count) % _FOLDS
    return [fold_N == fold for fold in range(_FOLDS)]
