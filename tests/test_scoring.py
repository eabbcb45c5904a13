"""All scores of one system, and of two against each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from showtell.errors import DataError
from showtell.metrics import Cider, ScoreOptions, compare_systems, read_references, score, tokenise_ptb
from showtell.metrics.java import unavailable

REFERENCES = {
    "1": ["A dog runs.", "The brown dog is running fast"],
    "2": ["A red bus on a street", "a bus"],
    "3": ["Two cats sleep on a bed", "cats on the bed"],
    "4": ["A man rides a horse", "the man on a horse"],
}
OURS = {"1": "a dog runs", "2": "a red bus", "3": "two dogs on a bed", "4": "a man rides a horse"}
THEIRS = {"1": "a bus", "2": "a red cat", "3": "a dog", "4": "a man"}


def held_out(folder: Path, pictures: int) -> tuple[dict[str, str], dict[str, str], dict[str, list[str]]]:
    """One reference of real pictures, the first of the next picture, and the other references."""
    found = read_references(folder / "coco/annotations/captions_val2017.json")
    groups = {image: captions for image, captions in list(found.items())[:pictures] if len(captions) > 1}
    ours = {image: captions[-1] for image, captions in groups.items()}
    theirs = dict(zip(groups, [*list(ours.values())[1:], ours[next(iter(ours))]], strict=True))
    return ours, theirs, {image: captions[:-1] for image, captions in groups.items()}


def test_pictures_whose_references_differ_are_scored_by_themselves_too() -> None:
    rng = np.random.default_rng(0)
    written = {str(n): [" ".join(rng.choice(list("abcdefgh"), 4)) for _ in range(3)] for n in range(70)}
    apart = {name: written[name] for name in list(written)[:30]}
    repeated = {name: captions if name in apart else [*captions, captions[0]] for name, captions in written.items()}
    said = {name: captions[1] for name, captions in written.items()}
    found = score(said, repeated).metrics
    assert found["CIDEr-differing"] == pytest.approx(score({n: said[n] for n in apart}, apart).metrics["CIDEr"])
    assert "CIDEr-differing" not in score(said, written).metrics  # no picture repeats any
    fewer = {name: [*captions, captions[0].upper()] if name == "0" else captions for name, captions in repeated.items()}
    assert "CIDEr-differing" not in score(said, fewer).metrics  # 29 pictures are too few


def test_plain_cider_is_the_cosine_of_the_paper() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(6)]
    written = [[tuple(rng.choice(words, 5)) for _ in range(3)] for _ in range(8)]
    said = [tuple(rng.choice(words, rng.integers(0, 7))) for _ in range(8)]

    def grams(caption: tuple[str, ...], order: int) -> list[tuple[str, ...]]:
        return [caption[at : at + order] for at in range(len(caption) - order + 1)]

    def vector(caption: tuple[str, ...], order: int) -> dict[tuple[str, ...], float]:
        found = grams(caption, order)
        out = {}
        for gram in set(found):
            documents = sum(any(gram in grams(one, order) for one in group) for group in written)
            out[gram] = found.count(gram) * np.log(8 / max(1, documents))
        return out

    expected = []
    for caption, group in zip(said, written, strict=True):
        total = 0.0
        for order in range(1, 5):
            ours = vector(caption, order)
            for one in group:
                theirs = vector(one, order)
                length = np.sqrt(sum(v * v for v in ours.values()) * sum(v * v for v in theirs.values()))
                product = sum(ours[gram] * theirs.get(gram, 0) for gram in ours)
                total += product / length if product else 0
        expected.append(10 * total / 4 / len(group))
    mean, each = Cider(written).score_plain(said)
    np.testing.assert_allclose(each, expected, rtol=1e-9)
    assert mean == pytest.approx(np.mean(expected))


def test_intervals_stand_around_the_scores() -> None:
    scores = score(OURS, REFERENCES, options=ScoreOptions(resamples=200))
    assert set(scores.intervals) == {*(f"BLEU-{n}" for n in range(1, 5)), "ROUGE-L", "CIDEr", "CIDEr-plain"}
    for name, (low, high) in scores.intervals.items():
        assert low <= scores.metrics[name] <= high
    assert score(OURS, REFERENCES).intervals == {}
    assert scores.metrics == score(OURS, REFERENCES).metrics
    assert scores.to_json()["intervals"]["CIDEr"] == [round(value, 6) for value in scores.intervals["CIDEr"]]


def test_two_systems_on_real_captions(shared_data: Path) -> None:
    ours, theirs, references = held_out(shared_data, 300)
    options = ScoreOptions(resamples=300)
    scores, found = compare_systems(ours, theirs, references, options=options)
    assert scores == score(ours, references, options=options)
    one, other = scores.metrics, score(theirs, references).metrics
    for name, comparison in found.items():
        assert comparison.ours == pytest.approx(one[name], abs=1e-9)
        assert comparison.theirs == pytest.approx(other[name], abs=1e-9)
        assert comparison.low > 0
        assert comparison.p_value < 0.01
    _, again = compare_systems(theirs, ours, references, options=options)
    assert again["CIDEr"].difference == pytest.approx(-found["CIDEr"].difference)


def test_novel_captions_are_counted_against_those_of_training() -> None:
    known = ["A dog runs .", "A man rides a horse!", "something else"]
    assert score(OURS, REFERENCES, options=ScoreOptions(known=known)).metrics["novel"] == 0.5


def test_objects_that_are_not_there_are_counted() -> None:
    objects = {
        "000000000001.jpg": ["dog"],
        "000000000002.jpg": ["bus"],
        "000000000003.jpg": ["cat", "bed"],
        "9.jpg": [],
    }
    scores = score(OURS, REFERENCES, options=ScoreOptions(objects=objects))
    assert scores.metrics["CHAIR-s"] == pytest.approx(1 / 3)  # the dogs of the third
    assert scores.metrics["CHAIR-i"] == pytest.approx(1 / 4)
    with pytest.raises(DataError, match="the objects are of none of the pictures"):
        score(OURS, REFERENCES, options=ScoreOptions(objects={"77.jpg": ["dog"]}))


def test_what_java_cannot_score_is_said_and_the_rest_is_scored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    scores = score(OURS, REFERENCES, options=ScoreOptions(java=("METEOR", "SPICE")))
    assert len(scores.missing) == 2
    assert all("install" in sentence for sentence in scores.missing)
    assert scores.metrics == score(OURS, REFERENCES).metrics


def test_meteor_stands_beside_the_others(shared_data: Path) -> None:
    reason = unavailable("METEOR")
    if reason is not None:
        pytest.skip(reason)
    from pycocoevalcap.meteor.meteor import Meteor

    ours, theirs, references = held_out(shared_data, 60)
    options = ScoreOptions(java=("METEOR",), resamples=100)
    scores, compared = compare_systems(ours, theirs, references, options=options)
    gts = {image: [" ".join(tokenise_ptb(text)) for text in group] for image, group in references.items()}
    reference = Meteor()
    expected, _ = reference.compute_score(gts, {image: [" ".join(tokenise_ptb(text))] for image, text in ours.items()})
    reference.meteor_p.kill()
    assert scores.metrics["METEOR"] == pytest.approx(expected, abs=1e-6)
    low, high = scores.intervals["METEOR"]
    assert low < expected < high
    assert compared["METEOR"].low > 0


def test_options_cannot_be_misspelt() -> None:
    with pytest.raises(TypeError):
        ScoreOptions(resample=3)  # type: ignore[call-arg]
    assert dataclasses.is_dataclass(ScoreOptions)
