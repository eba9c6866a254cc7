"""Crossed intervals: what they cover, what they pair, and what they refuse to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bottega.evaluation.bootstrap import (
    BEYOND,
    MOST_DRAWS,
    _resampled_means,
    _student,
    _tail,
    crossed_difference,
    crossed_mean,
)


def crossed(rng: np.random.Generator, contents: int, styles: int) -> np.ndarray:
    """Scores with a content's effect, a style's effect and a residual, true mean 0."""
    effects = rng.normal(0, 0.05, (contents, 1)) + rng.normal(0, 0.05, (1, styles))
    return effects + rng.normal(0, 0.06, (contents, styles))


def test_the_crossed_interval_covers_the_truth_and_the_naive_one_does_not() -> None:
    rng = np.random.default_rng(0)
    covered = naive = 0
    for k in range(400):
        scores = crossed(rng, 20, 40)
        found = crossed_mean(scores, draws=500, seed=k)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0 <= found.high
        naive += abs(scores.mean()) < 1.96 * scores.std(ddof=1) / math.sqrt(scores.size)
    assert 0.93 <= covered / 400 <= 0.97  # 0.95 is meant; the standard error of 400 trials is 0.011
    assert naive / 400 < 0.45


def test_resampled_means_are_those_of_resampled_matrices() -> None:
    """The vectorised draws have the mean and spread of the plain way: pick rows and columns, take the sub-matrix."""
    rng = np.random.default_rng(1)
    scores = crossed(rng, 7, 9)
    fast = _resampled_means(scores, 20_000, 0)
    slow = [scores[np.ix_(rng.integers(7, size=7), rng.integers(9, size=9))].mean() for _ in range(20_000)]
    assert abs(fast.mean() - np.mean(slow)) < 1e-3
    assert abs(fast.std() / np.std(slow) - 1) < 0.03


@pytest.mark.parametrize("nu", [1, 2, 3, 4, 7, 19, 100])
def test_students_quantile_is_scipys(nu: int) -> None:
    assert _student(0.975, nu) == pytest.approx(stats.t.ppf(0.975, nu), rel=2e-3)


@pytest.mark.parametrize("p", [0.9, 0.975, 0.995])
def test_every_term_of_the_series_for_students_quantile_counts(p: float) -> None:
    """The next term would be of order nu⁻⁵: a wrong coefficient of any of the four shows at one of these."""
    for nu, error in ((10, 5e-5), (20, 2e-6), (40, 1e-7), (100, 1e-9)):
        assert _student(p, nu) == pytest.approx(stats.t.ppf(p, nu), rel=error)


def test_a_paired_difference_is_much_narrower_than_two_means() -> None:
    rng = np.random.default_rng(2)
    base = crossed(rng, 20, 20)
    better = base + 0.02 + rng.normal(0, 0.01, base.shape)
    paired = crossed_difference(better, base)
    apart = crossed_mean(better)
    assert paired.low is not None
    assert paired.high is not None
    assert apart.low is not None
    assert apart.high is not None
    assert paired.value == pytest.approx((better - base).mean())
    assert paired.low > 0
    assert (apart.high - apart.low) > 3 * (paired.high - paired.low)
    assert paired.probability == pytest.approx((better > base).mean())


def test_equal_scores_improve_with_probability_one_half() -> None:
    scores = np.ones((4, 4))
    assert crossed_difference(scores, scores).probability == 0.5


def test_a_missing_cell_counts_nowhere() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    scores[0, 0] = np.nan
    found = crossed_mean(scores)
    assert (found.value, found.n, found.contents, found.styles) == (6.0, 11, 3, 4)


def test_a_content_without_any_score_is_no_content() -> None:
    scores = np.ones((3, 4))
    scores[1] = np.nan
    assert crossed_mean(scores).contents == 2


def test_one_content_gives_a_mean_and_no_interval() -> None:
    found = crossed_mean(np.array([[1.0, 2.0, 3.0]]))
    assert (found.value, found.low, found.high, found.draws) == (2.0, None, None, 0)
    assert found.no_interval == "1 contents × 3 styles: one of either says nothing about others"


def test_no_score_at_all_is_refused_rather_than_zero() -> None:
    with pytest.raises(ValueError, match="at least one score"):
        crossed_mean(np.full((2, 2), np.nan))


def test_an_infinite_score_is_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        crossed_mean(np.array([[1.0, np.inf], [1.0, 1.0]]))


def test_matrices_of_different_pairs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same contents × styles"):
        crossed_difference(np.ones((2, 3)), np.ones((3, 2)))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 22), st.integers(2, 22), st.integers(0, 2**32 - 1), st.floats(-100, 100))
def test_shifting_all_scores_shifts_the_interval_and_the_same_seed_repeats_it(
    contents: int, styles: int, seed: int, shift: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=(contents, styles))
    one, again, moved = (crossed_mean(values, draws=200, seed=3) for values in (scores, scores, scores + shift))
    assert one == again
    assert moved.value == pytest.approx(one.value + shift, abs=1e-9)
    assert one.low is not None and one.high is not None
    assert moved.low == pytest.approx(one.low + shift, abs=1e-9)
    assert moved.high == pytest.approx(one.high + shift, abs=1e-9)
    assert one.low <= one.value <= one.high


@pytest.mark.parametrize("p", [0.9, 0.975, 0.995])
@pytest.mark.parametrize("nu", [5, 6, 9, 14, 30, 200])
def test_the_series_for_students_quantile_has_all_its_terms(p: float, nu: int) -> None:
    """Each term left out, or one coefficient changed by a tenth, is off by more than this at 5 degrees of freedom."""
    tolerance = {0.9: 2e-5, 0.975: 4e-4, 0.995: 4e-3}[p] * (5 / nu) ** 4 + 1e-7
    assert _student(p, nu) == pytest.approx(stats.t.ppf(p, nu), rel=tolerance)


@pytest.mark.parametrize("n", [2, 3, 5, 20, 400])
def test_the_tails_are_hesterbergs_expanded_percentiles(n: int) -> None:
    expected = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1))
    assert _tail(0.05, n) == pytest.approx(expected, rel=1e-2)


def test_an_interval_ends_at_the_expanded_percentiles_of_the_resampled_means() -> None:
    scores = crossed(np.random.default_rng(3), 20, 23)
    tail = stats.norm.cdf(-math.sqrt(20 / 19) * stats.t.ppf(0.975, 19))
    found = crossed_mean(scores, seed=5)
    means = _resampled_means(scores, found.draws, 5)
    assert (found.low, found.high) == (
        pytest.approx(np.quantile(means, tail), abs=2e-3),
        pytest.approx(np.quantile(means, 1 - tail), abs=2e-3),
    )


@pytest.mark.parametrize(("contents", "styles"), [(4, 20), (8, 8), (20, 6)])
def test_few_contents_or_styles_are_covered_as_often_as_said_and_percentiles_cover_too_much(
    contents: int, styles: int
) -> None:
    rng = np.random.default_rng(5)
    few = covered = 0
    for _ in range(600):
        scores = crossed(rng, contents, styles)
        found = crossed_mean(scores)
        assert found.low is not None and found.high is not None and found.draws == 0
        covered += found.low <= 0 <= found.high
    assert 0.93 <= covered / 600 <= 0.975  # 0.95 is meant; the standard error of 600 trials is 0.009
    tail = _tail(0.05, min(contents, styles))
    for k in range(100):
        means = _resampled_means(crossed(rng, contents, styles), 4000, k)
        few += np.quantile(means, tail) <= 0 <= np.quantile(means, 1 - tail)
    assert few >= 94


def test_few_equal_scores_have_an_interval_without_width_as_resampling_gives() -> None:
    found = crossed_mean(np.full((3, 5), 100.0))
    assert (found.low, found.high, found.no_interval) == (100.0, 100.0, "")


def test_few_scores_with_gaps_keep_the_mean_of_all_and_the_width_of_what_is_complete() -> None:
    scores = crossed(np.random.default_rng(6), 6, 6)
    scores[2, 3] = np.nan
    found = crossed_mean(scores)
    block = crossed_mean(np.delete(scores, 2, 0))
    assert found.value == pytest.approx(np.nanmean(scores)) and found.n == 35
    assert found.low is not None and block.low is not None
    assert found.value - found.low == pytest.approx(block.value - block.low)
    sparse = np.full((6, 6), np.nan)
    np.fill_diagonal(sparse, np.arange(6.0))
    assert "no complete contents" in crossed_mean(sparse).no_interval


def test_the_probability_of_improvement_of_few_stays_a_share() -> None:
    rng = np.random.default_rng(7)
    found = crossed_difference(rng.normal(0.8, 0.5, (4, 5)), np.zeros((4, 5)))
    assert found.probability_low is not None and found.probability_high is not None
    assert 0 <= found.probability_low <= found.probability_high <= 1


@pytest.mark.parametrize("n", [20, 26, 40])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_as_many_draws_as_the_level_needs_lie_beyond_each_end(n: int, level: float) -> None:
    scores = crossed(np.random.default_rng(n), n, n + 1)
    found = crossed_mean(scores, draws=200, level=level)
    means = _resampled_means(scores, found.draws, 0)
    assert found.low is not None and found.high is not None
    assert (means <= found.low).sum() >= BEYOND - 1 and (means >= found.high).sum() >= BEYOND - 1
    assert found.draws <= MOST_DRAWS


def test_a_level_that_would_take_too_many_draws_is_left_to_random_effects() -> None:
    found = crossed_mean(crossed(np.random.default_rng(9), 20, 20), level=0.99999)
    assert found.draws == 0 and found.low is not None


def test_an_interval_of_few_contents_ends_where_the_mean_could_not_be() -> None:
    values = np.full((4, 6), 100.0)
    values[0, :] = 70.0
    free = crossed_mean(values)
    bounded = crossed_mean(values, within=(0.0, 100.0))
    assert free.high is not None and free.high > 100
    assert (bounded.low, bounded.high, bounded.value) == (free.low, 100.0, free.value)
