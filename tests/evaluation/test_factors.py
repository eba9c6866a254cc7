"""Intervals of contents × styles × seeds: what they cover, what they are made of, and what they refuse to say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bottega.evaluation.factors import (
    FACTORS,
    analyse,
    complete_block,
    crossed_seeds_difference,
    crossed_seeds_mean,
)


def cubes(
    rng: np.random.Generator, shape: tuple[int, int, int], sizes: dict[str, float], experiments: int
) -> np.ndarray:
    """Experiments of true mean 0, [N, C, S, T]: normal effects of each source, by its name."""
    contents, styles, seeds = shape
    shapes = {
        "content": (contents, 1, 1),
        "style": (1, styles, 1),
        "seed": (1, 1, seeds),
        "content_style": (contents, styles, 1),
        "content_seed": (contents, 1, seeds),
        "style_seed": (1, styles, seeds),
        "residual": shape,
    }
    scores = np.zeros((experiments, *shape))
    for name, size in sizes.items():
        scores += rng.normal(0, size, (experiments, *shapes[name]))
    return scores


SIZES = {"content": 0.05, "style": 0.05, "seed": 0.03, "residual": 0.06}
ALL = {"content": 5.0, "style": 4.0, "seed": 3.0, "content_style": 2.5, "content_seed": 2.0, "style_seed": 1.5}


@pytest.mark.parametrize("shape", [(20, 20, 3), (4, 12, 3), (8, 8, 5), (4, 4, 4)])
def test_the_interval_covers_the_truth_and_that_of_one_training_does_not(shape: tuple[int, int, int]) -> None:
    scores = cubes(np.random.default_rng(1), shape, {**SIZES, "seed": 0.05}, 2000)
    found = analyse(scores)
    covered = np.mean(np.abs(found.means) <= found.half_widths())
    assert 0.93 <= covered <= 0.97
    # Pairs as independent samples, and contents and styles alone: what is usually reported.
    plain = 1.96 * scores.std((1, 2, 3)) / math.sqrt(math.prod(shape))
    assert np.mean(np.abs(found.means) <= plain) < 0.6
    alone = analyse(scores[..., :1])
    assert np.mean(np.abs(alone.means) <= alone.half_widths()) < 0.92


def test_mean_squares_are_those_of_nested_least_squares() -> None:
    """A source's sum of squares is what its term adds to the fit of a linear model with all smaller terms."""
    rng = np.random.default_rng(2)
    shape = (3, 4, 2)
    scores = rng.normal(size=shape)
    found = analyse(scores[None])
    level = [index.ravel() for index in np.indices(shape)]

    def residual(sources: list[tuple[int, ...]]) -> float:
        columns = [np.ones(scores.size)]
        for source in sources:
            key = np.zeros(scores.size, int)
            for axis in source:
                key = key * shape[axis] + level[axis]
            columns += [(key == k).astype(float) for k in range(key.max() + 1)]
        fit = np.stack(columns, 1)
        rest = scores.ravel() - fit @ np.linalg.lstsq(fit, scores.ravel(), rcond=None)[0]
        return float(rest @ rest)

    order = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
    for k, source in enumerate(order):
        explained = residual(order[:k]) - residual(order[: k + 1])
        assert found.squares[source][0] == pytest.approx(explained / found.freedoms[source])


def test_variances_are_estimated_without_bias_and_the_means_too() -> None:
    sizes = {**ALL, "residual": 1.0}
    shape = (6, 5, 4)
    found = analyse(cubes(np.random.default_rng(3), shape, sizes, 20_000))
    sources = {"content": (0,), "style": (1,), "seed": (2,), "content_style": (0, 1), "residual": (0, 1, 2)}
    for name, source in sources.items():
        assert found.component(source).mean() == pytest.approx(sizes[name] ** 2, rel=0.05)
    assert found.variances().mean() == pytest.approx(found.means.var(), rel=0.05)


def test_one_factor_alone_gives_students_own_interval() -> None:
    scores = np.random.default_rng(4).normal(3, 1, 7)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 7
        found = crossed_seeds_mean(scores.reshape(shape), level=0.9)
        test = stats.ttest_1samp(scores, 0)
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.9)), rel=1e-5)
        assert found.p_value() == pytest.approx(test.pvalue, rel=1e-3)
        assert found.degrees_of_freedom == pytest.approx(6)
        assert "only" in found.note


def test_one_training_uses_contents_and_styles_alone_and_says_so() -> None:
    scores = cubes(np.random.default_rng(5), (20, 30, 1), SIZES, 1)[0]
    found = crossed_seeds_mean(scores)
    assert found.note == "for this one training only: what another would change is not in the interval"
    assert found.variances.seed is None and found.variances.content_seed is None
    assert found.variances.content_style is None and found.variances.residual is not None
    rows, columns = scores[..., 0].mean(1), scores[..., 0].mean(0)
    rest = scores[..., 0] - rows[:, None] - columns + scores.mean()
    unbiased = rows.var(ddof=1) / 20 + columns.var(ddof=1) / 30 - (rest**2).sum() / (19 * 29) / 600
    assert found.standard_error == pytest.approx(math.sqrt(unbiased))


def test_two_seeds_say_that_their_interval_is_wide() -> None:
    sizes = {**SIZES, "seed": 0.2}
    two, ten = (crossed_seeds_mean(cubes(np.random.default_rng(6), (20, 20, seeds), sizes, 1)[0]) for seeds in (2, 10))
    assert "wide: most of the spread is between only 2 seeds" in two.note
    assert ten.note == ""
    assert two.low is not None and two.high is not None and ten.low is not None and ten.high is not None
    assert two.high - two.low > 5 * (ten.high - ten.low)


def test_a_paired_difference_leaves_out_what_both_share() -> None:
    rng = np.random.default_rng(7)
    shape = (12, 10, 3)
    base = cubes(rng, shape, SIZES, 1)[0]
    better = base + 0.02 + cubes(rng, shape, {"residual": 0.02}, 1)[0]
    paired = crossed_seeds_difference(better, base)
    assert paired.value == pytest.approx((better - base).mean())
    assert paired.low is not None and paired.low > 0
    apart = crossed_seeds_mean(better)
    assert apart.standard_error is not None and paired.standard_error is not None
    assert apart.standard_error > 5 * paired.standard_error


def test_the_interval_at_the_p_value_touches_zero() -> None:
    for k in range(20):
        scores = cubes(np.random.default_rng(k), (5, 6, 3), SIZES, 1)[0] + 0.03
        found = crossed_seeds_mean(scores)
        p = found.p_value()
        assert p is not None
        interval = found.interval(1 - p)
        assert interval is not None
        assert min(abs(interval[0]), abs(interval[1])) < 1e-6
        assert (p < 0.05) == (found.low is not None and found.high is not None and (found.low > 0 or found.high < 0))


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4)), st.integers(0, 2**32 - 1), st.floats(-50, 50)
)
def test_shifting_the_scores_or_turning_the_cube_changes_nothing_else(
    shape: tuple[int, int, int], seed: int, shift: float
) -> None:
    scores = np.random.default_rng(seed).normal(size=shape)
    found, moved = crossed_seeds_mean(scores), crossed_seeds_mean(scores + shift)
    turned = crossed_seeds_mean(scores.transpose(2, 0, 1))
    assert moved.value == pytest.approx(found.value + shift, abs=1e-9)
    assert (found.low is None) == (math.prod(shape) == 1) == bool(found.no_interval)
    if found.standard_error is not None:
        assert moved.standard_error == pytest.approx(found.standard_error, abs=1e-9)
        assert turned.standard_error == pytest.approx(found.standard_error)
        assert (turned.seeds, turned.contents, turned.styles) == shape[1:] + shape[:1]


def test_an_empty_content_counts_nowhere() -> None:
    scores = cubes(np.random.default_rng(8), (6, 5, 3), SIZES, 1)[0]
    with_gap = np.concatenate([scores, np.full((1, 5, 3), np.nan)])
    assert crossed_seeds_mean(with_gap) == crossed_seeds_mean(scores)


def test_scattered_gaps_leave_the_largest_complete_block_and_are_counted() -> None:
    scores = cubes(np.random.default_rng(9), (10, 9, 3), SIZES, 1)[0]
    scores[4, 2, 1] = scores[4, 7, 0] = np.nan
    found = crossed_seeds_mean(scores)
    assert (found.contents, found.styles, found.seeds, found.n) == (9, 9, 3, 243)
    assert found.value == pytest.approx(np.delete(scores, 4, 0).mean())
    assert "25 scores are left out" in found.note


def test_a_cube_of_gaps_has_a_mean_and_no_interval() -> None:
    scores = np.full((6, 6, 2), np.nan)
    scores[np.arange(6), np.arange(6)] = 1.0 + np.arange(12.0).reshape(6, 2)
    found = crossed_seeds_mean(scores)
    assert (found.value, found.low, found.n, found.contents) == (pytest.approx(6.5), None, 12, 6)
    assert found.no_interval == "no complete contents × styles × seeds holds 50% of the 12 scores"


def test_equal_scores_have_no_interval_rather_than_one_of_no_width() -> None:
    found = crossed_seeds_mean(np.full((4, 4, 3), 100.0))
    assert (found.value, found.low, found.p_value()) == (100.0, None, None)
    assert "all scores are equal" in found.no_interval


def test_factors_whose_means_agree_still_have_a_width() -> None:
    found = crossed_seeds_mean(np.array([[1.0, -1.0], [-1.0, 1.0]])[..., None])
    assert found.standard_error is not None and found.standard_error > 0.2


def test_one_score_gives_a_mean_and_no_interval() -> None:
    found = crossed_seeds_mean(np.full((1, 1, 1), 3.0))
    assert (found.value, found.low, found.n) == (3.0, None, 1)
    assert found.record()["no_interval"] == "one content, one style and one training show no spread"


def test_the_record_holds_every_factor_and_negative_variances_as_they_came() -> None:
    record = crossed_seeds_mean(cubes(np.random.default_rng(10), (4, 4, 3), {"residual": 1.0}, 1)[0]).record()
    raw = []
    for name in FACTORS:
        component = record["variances"][name]
        assert component is not None
        assert component["estimate"] == max(component["raw"], 0)
        raw.append(component["raw"])
    assert min(raw) < 0


def test_no_score_an_infinite_one_and_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one score, got a 2 × 2 × 1 cube"):
        crossed_seeds_mean(np.full((2, 2, 1), np.nan))
    with pytest.raises(ValueError, match="infinite"):
        crossed_seeds_mean(np.full((2, 2, 1), np.inf))
    with pytest.raises(ValueError, match="infinite"):
        crossed_seeds_difference(np.full((2, 2, 1), np.inf), np.full((2, 2, 1), np.inf))
    with pytest.raises(ValueError, match="2 axes"):
        crossed_seeds_mean(np.ones((2, 2)))
    with pytest.raises(ValueError, match="same contents × styles × seeds"):
        crossed_seeds_difference(np.ones((2, 2, 1)), np.ones((2, 2, 2)))


def test_a_complete_block_is_itself() -> None:
    scores = np.ones((3, 2, 2))
    assert complete_block(scores) is scores
