"""Bootstrap intervals cover what they should, and the paired test is honest."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest

from showtell.metrics.bleu import BleuStatistics, bleu
from showtell.metrics.significance import Comparison, Contributions, compare, intervals

Captions = list[tuple[str, ...]]


def means(*columns: np.ndarray) -> list[Contributions]:
    return [Contributions.of_means({f"score {number}": column for number, column in enumerate(columns)})]


def captions(count: int, seed: int, noise: float = 0.4) -> tuple[Captions, list[Captions]]:
    """Made-up candidates and two references each."""
    rng = np.random.default_rng(seed)
    words = np.array([f"w{number}" for number in range(30)])
    written = [[tuple(rng.choice(words, rng.integers(4, 9))) for _ in range(2)] for _ in range(count)]
    said = [tuple(word if rng.random() > noise else rng.choice(words) for word in group[0]) for group in written]
    return said, written


def test_the_interval_of_a_mean_is_its_normal_one() -> None:
    values = np.random.default_rng(1).exponential(size=3000)
    ((low, high),) = intervals(means(values), resamples=2000).values()
    error = values.std() / math.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for seed in range(300):
        ((low, high),) = intervals(means(rng.gamma(2, size=200)), resamples=400, seed=seed).values()
        covered += low <= 2 <= high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300) - 0.01 < covered / 300 < 1  # 3 standard errors; skewed, so a bit low


def test_bleu_of_a_draw_is_bleu_of_the_captions_drawn() -> None:
    said, written = captions(40, 3)
    part = Contributions.of_bleu(BleuStatistics.count(said, written))
    drawn = np.random.default_rng(4).integers(40, size=40)
    shares = np.bincount(drawn, minlength=40)[None] / 40
    expected = bleu([said[row] for row in drawn], [written[row] for row in drawn])[0]
    np.testing.assert_allclose(part.combine(shares @ part.rows)[0], expected, rtol=1e-12)
    found = intervals([part], resamples=300)
    whole = bleu(said, written)[0]
    assert list(found) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]
    assert all(low < value < high for (low, high), value in zip(found.values(), whole, strict=True))


def test_the_interval_of_bleu_is_that_of_captions_drawn_one_by_one() -> None:
    said, written = captions(40, 11)
    rng = np.random.default_rng(12)
    drawn = [rng.integers(40, size=40) for _ in range(800)]
    literal = np.array([bleu([said[row] for row in rows], [written[row] for row in rows])[0] for rows in drawn])
    found = intervals([Contributions.of_bleu(BleuStatistics.count(said, written))], resamples=4000)
    # A 2.5 % quantile of 800 draws has a standard error of about 0.1 standard deviations.
    tolerance = 0.4 * literal.std(0)
    ends = np.quantile(literal, [0.025, 0.975], axis=0).T
    assert (np.abs(np.array(list(found.values())) - ends) < tolerance[:, None]).all()


def test_memory_does_not_grow_with_the_number_of_resamples() -> None:
    parts = means(np.random.default_rng(13).random(200_000))
    tracemalloc.start()
    try:
        intervals(parts, resamples=40)  # as one matrix: 64 MB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 24e6


def test_the_same_seed_gives_the_same_numbers() -> None:
    values = np.random.default_rng(5).random(100)
    assert intervals(means(values)) == intervals(means(values))
    assert intervals(means(values)) != intervals(means(values), seed=1)


def test_p_values_of_equal_systems_are_uniform() -> None:
    rng = np.random.default_rng(6)
    p_values = []
    for seed in range(300):
        one, other = rng.random((2, 120))
        (found,) = compare(means(one), means(other), resamples=400, seed=seed).values()
        p_values.append(found.p_value)
    for share in (0.05, 0.2, 0.5, 0.8):
        error = math.sqrt(share * (1 - share) / 300)
        assert np.mean(np.array(p_values) <= share) == pytest.approx(share, abs=3 * error + 0.01)


def test_p_values_of_bleu_are_uniform_when_the_systems_are_shuffled() -> None:
    said, written = captions(2000, 14)
    other, _ = captions(2000, 14, noise=0.6)
    pool = np.stack([BleuStatistics.count(each, written).rows for each in (said, other)])
    rng = np.random.default_rng(15)
    p_values = []
    for seed in range(300):
        rows, flip = rng.integers(2000, size=150), rng.integers(2, size=150)
        pair = [np.split(pool[side, rows], [4, 8], 1) for side in (flip, 1 - flip)]
        parts = [[Contributions.of_bleu(BleuStatistics(*statistics))] for statistics in pair]
        p_values.append([found.p_value for found in compare(*parts, resamples=300, seed=seed).values()])
    for share in (0.05, 0.2, 0.5, 0.8):
        error = math.sqrt(share * (1 - share) / 300)
        assert (np.array(p_values) <= share).mean(0) == pytest.approx(np.full(4, share), abs=3 * error + 0.02)


def test_a_small_steady_difference_is_found_by_pairing() -> None:
    rng = np.random.default_rng(7)
    theirs = rng.random(500) * 10
    ours = theirs + 0.1 + rng.normal(0, 0.3, 500)
    found = compare(means(ours), means(theirs))["score 0"]
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert (found.ours, found.theirs) == (pytest.approx(ours.mean()), pytest.approx(theirs.mean()))
    assert 0 < found.low < found.difference < found.high
    assert found.p_value == pytest.approx(1 / 1001)
    assert (found.wins, found.n, found.resamples) == (1, 500, 1000)
    other_way = compare(means(theirs), means(ours))["score 0"]
    assert (other_way.difference, other_way.low, other_way.high) == (-found.difference, -found.high, -found.low)
    assert (other_way.p_value, other_way.wins) == (found.p_value, 0)
    unpaired = intervals(means(ours))["score 0"], intervals(means(theirs))["score 0"]
    assert unpaired[0][0] < unpaired[1][1]  # their intervals overlap


def test_a_system_compared_with_itself() -> None:
    said, written = captions(60, 8)
    parts = [Contributions.of_bleu(BleuStatistics.count(said, written)), *means(np.random.default_rng(9).random(60))]
    for found in compare(parts, parts).values():
        assert (found.difference, found.low, found.high, found.p_value, found.wins) == (0, 0, 0, 1, 0.5)


def test_wins_are_as_many_as_the_difference_is_sure() -> None:
    rng = np.random.default_rng(16)
    gains = rng.normal(0, 1, 400)
    gains += 1 / 20 - gains.mean()  # a mean of one standard error: the normal distribution gives 84 %
    found = compare(means(gains), means(np.zeros(400)), resamples=4000)["score 0"]
    assert found.wins == pytest.approx(0.841, abs=0.03)
    assert found.p_value == pytest.approx(0.317, abs=0.05)
    error = gains.std() / 20
    assert (found.low, found.high) == pytest.approx((0.05 - 1.96 * error, 0.05 + 1.96 * error), abs=0.15 * error)


def test_a_small_p_value_is_never_written_as_zero() -> None:
    comparison = Comparison(1, 0, 1, 1, 1, p_value=1 / 5_000_001, wins=1, n=10, resamples=5_000_000)
    assert comparison.to_json()["p_value"] == 2e-7
    assert comparison.to_json()["n"] == 10


def test_the_better_system_wins_in_bleu() -> None:
    said, written = captions(200, 10)
    worse, _ = captions(200, 10, noise=0.8)
    found = compare(*([Contributions.of_bleu(BleuStatistics.count(each, written))] for each in (said, worse)))
    assert found["BLEU-4"].difference > 0
    assert found["BLEU-4"].low > 0
    assert found["BLEU-4"].p_value < 0.01


def test_pictures_must_be_the_same() -> None:
    with pytest.raises(ValueError, match=r"scores are of \[5, 6\] pictures"):
        intervals([*means(np.ones(5)), *means(np.ones(6))])
    with pytest.raises(ValueError, match="5 pictures are compared with 6"):
        compare(means(np.ones(5)), means(np.ones(6)))
    with pytest.raises(ValueError, match="different scores"):
        compare(means(np.ones(5)), means(np.ones(5), np.ones(5)))
    with pytest.raises(ValueError, match="at least one"):
        intervals(means(np.ones(0)))
    with pytest.raises(ValueError, match="0 resamples; draw at least one"):
        intervals(means(np.ones(5)), resamples=0)
