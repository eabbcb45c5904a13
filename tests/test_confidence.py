"""Confidence: what is fitted is found again, pictures of another kind get less of it, bundles carry it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import COLOURS, SHAPES, Run, draw_toy
from showtell import Caption, Captioner
from showtell.bundle import Bundle, read_bundle, write_bundle
from showtell.confidence import Judge, knownness, logistic, measure, pool
from showtell.datasets import read_native
from showtell.errors import BundleError, DataError
from showtell.evaluation import evaluate
from showtell.learn.calibrating import (
    Evidence,
    auroc,
    calibrate_bundle,
    chance_error,
    cross_validate,
    draw_noise,
    fit_judge,
    fit_logistic,
    gather,
    people_score,
)
from showtell.metrics.calibration import calibrate_by_count
from showtell.records import Example


@pytest.fixture(scope="module")
def mixed_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 toy pictures of `val`, of which every second has captions of something else."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for number in range(72):
        colour, shape = list(COLOURS)[number % 6], SHAPES[number // 6 % 4]
        picture = draw_toy(colour, shape).rotate(float(rng.uniform(-4, 4)), fillcolor=(128, 128, 128))
        picture.save(folder / f"images/{number}.png")
        right = [f"a {colour} {shape} on grey paper", f"there is one {shape} painted in {colour} on paper"]
        wrong = ["two dogs sleep under trees", "dogs sleep under two old trees"]
        captions = wrong if number // 6 % 2 else right
        lines.append(json.dumps({"image": f"images/{number}.png", "captions": captions, "split": "val"}) + "\n")
    (folder / "captions.jsonl").write_text("".join(lines), "utf-8")
    return folder


@pytest.fixture(scope="module")
def examples(mixed_data: Path) -> list[Example]:
    return read_native(mixed_data)


@pytest.fixture(scope="module")
def bundle(toy_run: Path) -> Bundle:
    return read_bundle(toy_run / "bundle")


@pytest.fixture(scope="module")
def captions(bundle: Bundle, examples: list[Example]) -> dict[str, Caption]:
    return evaluate(Captioner(bundle), examples, "val").captions


@pytest.fixture(scope="module")
def calibrated(bundle: Bundle, examples: list[Example], captions: dict[str, Caption]) -> Bundle:
    return calibrate_bundle(bundle, examples, captions)


def draw_evidence(count: int, seed: int, width: int = 40) -> Evidence:
    """Pictures in a few directions, and captions that are good by a known law of the mean log-probability."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(5).standard_normal((6, width))
    vectors_ND = rng.standard_normal((count, 6)) @ directions + 0.1 * rng.standard_normal((count, width))
    sure_N = rng.uniform(-2, 0, count)
    good_N = (rng.random(count) < logistic(3 + 4 * sure_N)).astype(float)
    return Evidence(sure_N, vectors_ND.astype(np.float32), good_N, 0.5)


# the fit


def test_the_law_by_which_captions_are_good_is_found_again() -> None:
    rng = np.random.default_rng(1)
    sure_N, known_N = rng.uniform(-2, 0, 40_000), rng.uniform(0.2, 1, 40_000)
    good_N = (rng.random(40_000) < known_N * logistic(3 + 4 * sure_N)).astype(float)
    assert fit_logistic(sure_N, known_N, good_N) == pytest.approx((3, 4), abs=0.25)


def test_a_judge_is_calibrated_where_the_words_are_not() -> None:
    judge, fresh = fit_judge(draw_evidence(2000, 0)), draw_evidence(2000, 1)
    honest = calibrate_by_count(judge.judge_each(fresh.sure_N, fresh.vectors_ND), fresh.good_N, 5).error
    before = calibrate_by_count(np.exp(fresh.sure_N), fresh.good_N, 5).error
    assert honest < 0.05 < before


def test_cross_validation_never_shows_a_judge_what_it_judges() -> None:
    evidence = draw_evidence(80, 2)
    chance = replace(evidence, good_N=np.random.default_rng(3).permutation(evidence.good_N))
    honest_N = cross_validate(chance)
    assert auroc(honest_N[chance.good_N == 1], honest_N[chance.good_N == 0]) < 0.65
    np.testing.assert_array_equal(honest_N, cross_validate(chance))
    assert not np.array_equal(honest_N, cross_validate(chance, seed=1))


def test_the_numbers_stay_finite_where_good_and_bad_can_be_told_apart() -> None:
    sure_N = np.linspace(-2, 0, 40)
    intercept, slope = fit_logistic(sure_N, np.ones(40), (sure_N > -1).astype(float))
    assert 1 < slope < 100
    assert -intercept / slope == pytest.approx(-1, abs=0.05)


def test_honest_probabilities_have_the_error_of_chance() -> None:
    p_N = np.full(400, 0.5)
    assert chance_error(p_N) == pytest.approx(np.sqrt(2 / np.pi) * 0.5 / np.sqrt(80), rel=0.1)  # of normal bins
    assert chance_error(np.repeat([0.0, 1.0], 50)) == 0


def test_pictures_away_from_all_known_directions_are_unknown() -> None:
    judge = fit_judge(draw_evidence(400, 0))
    fresh, rng = draw_evidence(400, 1), np.random.default_rng(2)
    strange_ND = fresh.vectors_ND + rng.standard_normal((400, 40)).astype(np.float32)
    known, strange = (judge.judge_each(np.full(400, -0.1), one) for one in (fresh.vectors_ND, strange_ND))
    assert np.median(known) > 0.85
    assert strange.max() < 0.01
    assert auroc(known, strange) == 1


def test_one_picture_in_five_is_taken_to_be_of_another_kind() -> None:
    density = np.exp(-(np.array([0.0, 3.0]) ** 2) / 2)  # at no deviation: of the known, and of those three further out
    assert knownness(np.zeros(1))[0] == pytest.approx(0.8 * density[0] / (0.8 * density[0] + 0.2 * density[1]))
    assert knownness(np.full(1, 1e6))[0] == 0


def test_a_vector_is_the_mean_of_the_directions_of_the_cells() -> None:
    features_BLD = np.array([[[3, 4], [0, 2]], [[0, 0], [1, 0]]], np.float32)
    np.testing.assert_allclose(pool(features_BLD), [[0.3, 0.9], [0.5, 0]])


def test_a_distance_leaves_out_mean_and_directions() -> None:
    mean_D, directions_RD = np.array([1.0, 1, 1]), np.array([[0.0, 1, 0]])
    np.testing.assert_allclose(measure(np.array([[3, 9, 1]], np.float32), mean_D, directions_RD), [np.log(4)])


# what is good


def test_people_are_scored_against_others_but_never_against_copies_of_themselves() -> None:
    dog, cat = [["a", "dog", "runs"], ["a", "dog", "runs"], ["one", "dog"]], [["a", "cat"], ["two", "cats"]]
    once = people_score([dog[1:], cat])
    assert 0 <= once < 5
    assert people_score([[dog[1], dog[1]], cat]) == people_score([cat, [dog[1], dog[1]]])
    with pytest.raises(DataError, match="no picture has two different references"):
        people_score([[["a", "dog"], ["a", "dog"]], [["a", "cat"]]])


def test_evidence_says_which_captions_are_good(
    bundle: Bundle, examples: list[Example], captions: dict[str, Caption]
) -> None:
    evidence = gather(Captioner(bundle), examples, captions)
    wrong = np.array(["dogs" in one.references[0] for one in examples])
    assert not evidence.good_N[wrong].any()
    assert evidence.good_N[~wrong].mean() > 0.8
    assert evidence.sure_N == pytest.approx([np.mean(captions[one.id].word_logprobs) for one in examples], abs=1e-6)


def test_too_few_pictures_or_kinds_of_captions_are_refused(
    bundle: Bundle, examples: list[Example], captions: dict[str, Caption]
) -> None:
    captioner = Captioner(bundle)
    with pytest.raises(DataError, match="49 pictures with captions; confidence is calibrated on at least 50"):
        gather(captioner, examples[:49], captions)
    right = [replace(one, references=(captions[one.id].text, "two dogs")) for one in examples]
    with pytest.raises(
        DataError, match=r"72 of 72 captions are good \(CIDEr-D above .* at least 10 are and 10 are not"
    ):
        gather(captioner, right, captions)
    gone = [replace(examples[0], image="gone.png"), *examples[1:]]
    with pytest.raises(DataError, match=r"images/0\.png was captioned and cannot be read any more: .*gone\.png"):
        gather(captioner, gone, captions)


# bundles


def test_a_bundle_carries_its_confidence(
    bundle: Bundle, calibrated: Bundle, examples: list[Example], captions: dict[str, Caption], tmp_path: Path
) -> None:
    write_bundle(calibrated, tmp_path)
    captioner = Captioner.load(tmp_path)
    paths = [str(one.image) for one in examples]
    for one, said in zip(examples, captioner.caption(paths), strict=True):
        assert isinstance(said, Caption)
        assert said.confidence is not None
        assert 0 <= said.confidence <= 1
        assert said.to_json()["confidence"] == round(said.confidence, 4)
        before = captions[one.id]
        assert before.confidence is None
        assert "confidence" not in before.to_json()
        assert replace(said, image=before.image, confidence=None) == before
    assert sum(array.nbytes for name, array in calibrated.weights.items() if name.startswith("confidence/")) < 200_000
    fitted = captioner.manifest.confidence
    assert (fitted["pictures"], fitted["good"]) == (72, pytest.approx(0.5, abs=0.11))
    assert fitted["ECE"] < fitted["ECE before"]
    again = calibrate_bundle(calibrated, examples, captions)
    assert again.manifest == calibrated.manifest


def test_noise_gets_less_confidence_than_pictures_like_the_known(calibrated: Bundle, examples: list[Example]) -> None:
    captioner = Captioner(calibrated)
    noise = [(str(number), pixels) for number, pixels in enumerate(draw_noise(12, 64))]
    said = [*captioner.caption_pixels(noise, captioner.options()), *captioner.caption([str(e.image) for e in examples])]
    sure_N = np.array([one.confidence for one in said if isinstance(one, Caption)], float)
    assert auroc(sure_N[12:], sure_N[:12]) > 0.95
    assert calibrated.manifest.confidence["AUROC noise"] > 0.95


def test_a_run_with_few_pictures_says_why_it_is_not_calibrated(bundle: Bundle, examples: list[Example]) -> None:
    assert bundle.manifest.confidence == {
        "skipped": "6 pictures with captions; confidence is calibrated on at least 50"
    }
    assert "Not calibrated: 6 pictures with captions" in bundle.card
    (said,) = Captioner(bundle).caption([str(examples[0].image)])
    assert isinstance(said, Caption)
    assert said.confidence is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda settings, weights: settings.pop("slope"),
            r"lacks a part \('slope'\); calibrate it again: showtell cal",
        ),
        (lambda settings, weights: settings.update(slope="steep"), r"lacks a part \(could not convert .* 'steep'"),
        (lambda settings, weights: settings.update(spread=0), "that do not fit"),
        (lambda settings, weights: weights.pop("confidence/mean"), r"lacks a part \('confidence/mean'\)"),
        (lambda settings, weights: weights.update({"confidence/mean": np.zeros(3, np.float16)}), "that do not fit"),
    ],
)
def test_a_confidence_that_is_not_whole_is_named(
    calibrated: Bundle, change: Callable[[dict[str, Any], dict[str, Any]], None], sentence: str
) -> None:
    settings, weights = dict(calibrated.manifest.confidence), dict(calibrated.weights)
    change(settings, weights)
    broken = replace(calibrated, manifest=replace(calibrated.manifest, confidence=settings), weights=weights)
    with pytest.raises(BundleError, match=f"the confidence of 'toy' .*{sentence}"):
        Captioner(broken)


def test_a_caption_without_words_is_never_sure(calibrated: Bundle) -> None:
    judge = Judge.read(calibrated.manifest.confidence, calibrated.weights, "toy")
    assert judge is not None
    features_BLD = np.ones((2, 4, len(judge.mean_D)), np.float32)
    unsaid, said = judge.judge([(), (-0.1, -0.2)], features_BLD)
    assert unsaid == 0
    assert said == pytest.approx(judge.judge_each(np.array([-0.15]), pool(features_BLD[1:]))[0], rel=1e-5)


def test_a_confidence_is_the_same_to_the_last_bit_whatever_the_batch(calibrated: Bundle) -> None:
    judge = Judge.read(calibrated.manifest.confidence, calibrated.weights, "toy")
    assert judge is not None
    features_BLD = np.random.default_rng(0).random((33, 4, len(judge.mean_D)), np.float32)
    logprobs_B = [(-0.1 - number / 40, -0.2) for number in range(33)]
    together = judge.judge(logprobs_B, features_BLD)
    assert len(set(together)) > 10
    for size in (1, 2, 16):
        starts = range(0, 33, size)
        apart = [judge.judge(logprobs_B[at : at + size], features_BLD[at : at + size]) for at in starts]
        assert [one for some in apart for one in some] == together


# the commands


def test_calibrate_writes_a_bundle_that_knows_how_sure_it_is(
    run: Run, toy_run: Path, mixed_data: Path, tmp_path: Path
) -> None:
    toy = read_bundle(toy_run / "bundle")
    write_bundle(replace(toy, card=toy.card + "\n## Failures\n\nSquares.\n"), tmp_path / "noted")
    made = run("calibrate", tmp_path / "noted", "--data", mixed_data, "--out", tmp_path / "sure.zip", "--json")
    assert made.code == 0, made.err
    (told,) = made.rows
    assert told["confidence"]["pictures"] == 72
    card = read_bundle(tmp_path / "sure.zip").card
    assert "error, by cross-validation in bins" in card
    assert card.endswith("\n## Failures\n\nSquares.\n")
    pictures = [mixed_data / f"images/{number}.png" for number in range(4)]
    rows = run("caption", *pictures, "-m", tmp_path / "sure.zip", "--json").rows
    floor = sorted(row["confidence"] for row in rows)[2] - 1e-4
    some = run("caption", *pictures, "-m", tmp_path / "sure.zip", "--min-confidence", str(floor))
    kept = [row for row in rows if row["confidence"] >= floor]
    assert (some.code, some.lines) == (0, [f"{row['image']}: {row['caption']}" for row in kept])
    assert 0 < len(kept) < 4
    assert some.err.count("showtell: not sure enough of ") == 4 - len(kept)


def test_calibrate_refuses_what_it_cannot_learn_from(run: Run, toy_run: Path, toy_data: Path, tmp_path: Path) -> None:
    refused = run("calibrate", toy_run / "bundle", "--data", toy_data, "--out", tmp_path / "sure")
    assert (refused.code, refused.out) == (1, "")
    assert "6 pictures with captions; confidence is calibrated on at least 50" in refused.err
    assert not (tmp_path / "sure").exists()
