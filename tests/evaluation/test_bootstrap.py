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
@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 2**32 - 1), st.floats(-100, 100))
def test_shifting_all_scores_shifts_the_interval_and_the_same_seed_repeats_it(
    contents: int, styles: int, seed: int, shift: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=(contents, styles))
    one, again, moved = (crossed_mean(values, draws=200, seed=3) for values in (scores, scores, scores + shift))
    assert one == again
    assert moved.value == pytest.approx(one.value + shift, abs=1e-9)
    assert (one.low is None) == (one.high is None) == (min(contents, styles) < 4) == bool(one.no_interval)
    if one.low is not None and one.high is not None:
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
    scores = crossed(np.random.default_rng(3), 6, 11)
    tail = stats.norm.cdf(-math.sqrt(6 / 5) * stats.t.ppf(0.975, 5))
    found = crossed_mean(scores, seed=5)
    means = _resampled_means(scores, found.draws, 5)
    assert (found.low, found.high) == (
        pytest.approx(np.quantile(means, tail), abs=2e-3),
        pytest.approx(np.quantile(means, 1 - tail), abs=2e-3),
    )


def test_the_interval_of_four_contents_begins_where_many_draws_say_and_not_where_two_thousand_end() -> None:
    """One content of four fails often: all four draws of it are one in 256, and 2 000 draws hardly hold the level."""
    rng = np.random.default_rng(8)
    scores = 100.0 * (rng.random((4, 24)) < np.array([0.999, 0.999, 0.999, 0.75])[:, None])
    found = crossed_mean(scores, seed=1)
    tail = _tail(0.05, 4)
    assert found.draws >= BEYOND / tail
    many = np.concatenate([_resampled_means(scores, 400_000, seed) for seed in (11, 12)])
    low, few = np.quantile(many, tail), np.quantile(_resampled_means(scores, 2000, 1), tail)
    assert found.low is not None
    assert found.low < few - 0.5
    assert abs(found.low - low) < 0.3 * abs(few - low)


@pytest.mark.parametrize(("contents", "styles", "level"), [(2, 20, 0.95), (3, 20, 0.95), (20, 3, 0.95), (5, 9, 0.99)])
def test_an_interval_that_no_number_of_draws_would_show_is_not_told_and_says_what_it_takes(
    contents: int, styles: int, level: float
) -> None:
    scores = np.random.default_rng(4).normal(size=(contents, styles))
    found = crossed_mean(scores, level=level)
    assert (found.low, found.high, found.draws) == (None, None, 0)
    enough = int(found.no_interval.split("it takes ")[1].split(" of either")[0])
    assert enough > min(contents, styles) and f"interval of {100 * level:g} %" in found.no_interval
    one_less, told = (crossed_mean(np.resize(scores, (n, n)), level=level) for n in (enough - 1, enough))
    assert one_less.low is None and told.low is not None
    gap = crossed_difference(scores, scores + 1, level=level)
    assert (gap.low, gap.probability, gap.probability_low) == (None, 0.0, None)
    assert gap.difference_record()["no_interval"] == found.no_interval


@pytest.mark.parametrize("n", [4, 5, 6, 8, 11, 20, 40])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_as_many_draws_as_the_level_needs_lie_beyond_each_end(n: int, level: float) -> None:
    scores = crossed(np.random.default_rng(n), n, n + 1)
    found = crossed_mean(scores, draws=200, level=level)
    means = _resampled_means(scores, found.draws, 0)
    assert found.low is not None and found.high is not None
    assert (means <= found.low).sum() >= BEYOND - 1 and (means >= found.high).sum() >= BEYOND - 1
    assert found.draws <= MOST_DRAWS
