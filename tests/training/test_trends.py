"""Trends against NumPy and SciPy: moments, Welch's error, the Theil–Sen slope and Sen's interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bottega.training.trends import BLOCKS, MIN_WINDOW, WINDOWS, Z95, Z99, Z999, Block, Blocks, Trend, change, slope


def stream(values: np.ndarray, first: int = 1) -> Blocks:
    blocks = Blocks()
    for step, value in enumerate(values, first):
        blocks.add(step, float(value))
    return blocks


def block(values: np.ndarray) -> Block:
    made = Block(0, 0.0, 0.0)
    for step, value in enumerate(values):
        made.take(float(step), float(value))
    return made


@pytest.mark.parametrize(("z", "level"), [(Z95, 0.95), (Z99, 0.99), (Z999, 0.999)])
def test_quantiles_are_those_of_the_normal_distribution(z: float, level: float) -> None:
    assert z == pytest.approx(stats.norm.ppf(0.5 + level / 2), abs=1e-6)


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000))
def test_blocks_taken_and_merged_have_numpys_moments(one: int, two: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(3, 2, one + two)
    first, second = block(values[:one]), block(values[one:])
    merged = first.merged(second)
    assert merged.count == one + two
    assert merged.mean == pytest.approx(values.mean())
    assert merged.squares == pytest.approx(((values - values.mean()) ** 2).sum())
    steps = np.concatenate([np.arange(one), np.arange(two)])
    assert merged.step == pytest.approx(steps.mean())


@pytest.mark.parametrize("count", [1, BLOCKS - 1, BLOCKS, BLOCKS + 1, 2 * BLOCKS, 2 * BLOCKS + 1, 1000])
def test_a_stream_keeps_every_number_in_at_most_so_many_even_blocks(count: int) -> None:
    values = np.random.default_rng(count).normal(0, 1, count)
    blocks = stream(values)
    assert blocks.count == count
    assert len(blocks.blocks) <= BLOCKS
    size = next(2**k for k in range(20) if -(-count // 2**k) <= BLOCKS)
    assert blocks.size == size
    for number, kept in enumerate(blocks.blocks):
        part = values[number * size : (number + 1) * size]
        assert (kept.count, kept.mean) == (len(part), pytest.approx(part.mean()))
        assert kept.step == pytest.approx(np.arange(number * size + 1, number * size + 1 + len(part)).mean())
        assert kept.squares == pytest.approx(((part - part.mean()) ** 2).sum(), abs=1e-12)
    extended = Blocks()
    for part in np.array_split(np.arange(count), 3):
        extended.extend(part + 1.0, values[part])
    assert [b.count for b in extended.blocks] == [b.count for b in blocks.blocks]
    assert [b.mean for b in extended.blocks] == pytest.approx([b.mean for b in blocks.blocks])


def test_windows_are_eighths_and_none_while_one_would_be_too_small() -> None:
    values = np.arange(WINDOWS * MIN_WINDOW * 3.0)
    windows = stream(values).windows()
    assert len(windows) == WINDOWS
    assert sum(w.count for w in windows) == len(values)
    assert [w.mean for w in windows] == sorted(w.mean for w in windows)
    assert all(MIN_WINDOW <= w.count < 2 * len(values) / WINDOWS for w in windows)
    assert stream(values[: WINDOWS * MIN_WINDOW - 1]).windows() == []


def test_a_change_has_welchs_error() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(1, 0.5, 30), rng.normal(1.4, 0.2, 50)
    found = change(block(before), block(after))
    error = math.sqrt(before.var(ddof=1) / 30 + after.var(ddof=1) / 50)
    welch = stats.ttest_ind(after, before, equal_var=False)
    assert found.value / error == pytest.approx(welch.statistic)
    assert (found.low, found.high) == (
        pytest.approx(found.value - stats.norm.ppf(0.995) * error, abs=1e-6),
        pytest.approx(found.value + stats.norm.ppf(0.995) * error, abs=1e-6),
    )


@pytest.mark.parametrize("count", [4, 5, 6, 7, 12, 33, 64])
@pytest.mark.parametrize(("z", "level"), [(Z95, 0.95), (Z99, 0.99)])
def test_a_slope_is_scipys(count: int, z: float, level: float) -> None:
    rng = np.random.default_rng(count)
    steps = np.cumsum(rng.integers(1, 9, count)).astype(float)
    values = 0.3 * steps + rng.normal(0, 4, count)
    expected = stats.theilslopes(values, steps, level)
    found = slope(steps.tolist(), values.tolist(), z)
    assert found.value == pytest.approx(expected.slope)
    if z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18) > count * (count - 1) / 2:
        assert (found.low, found.high) == (-math.inf, math.inf)
    else:
        assert (found.low, found.high) == (pytest.approx(expected.low_slope), pytest.approx(expected.high_slope))


def test_a_slope_needs_two_points_and_as_many_steps_as_values() -> None:
    assert slope([1.0, 3.0], [2.0, 8.0]).value == 3.0
    for steps, values in (([1.0], [1.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])):
        with pytest.raises(ValueError, match="a slope needs two points"):
            slope(steps, values)


@pytest.mark.parametrize(
    ("gradient", "noise", "level", "direction"),
    [
        (0.01, 0.02, 1.0, "rising"),
        (-0.01, 0.02, 1.0, "falling"),
        (0.0, 0.002, 1.0, "flat"),
        (0.0, 0.5, 1.0, "undecided"),
        (-0.0005, 0.0005, 1.0, "flat"),  # sure, and of 3 % of the median: it does not matter
        (-0.0005, 0.0005, 0.1, "falling"),  # the same fall, of 30 % of it
        (0.00002, 0.000001, 0.0, "flat"),  # 0.0013 in all, under the least that matters
        (0.00004, 0.000001, 0.0, "rising"),  # 0.0025 in all, above it
    ],
)
def test_a_trend_is_called_by_what_its_interval_leaves_out(
    gradient: float, noise: float, level: float, direction: str
) -> None:
    rng = np.random.default_rng(1)
    values = level + gradient * np.arange(64.0) + rng.normal(0, noise, 64)
    found = Trend.of(stream(values), since=0)
    assert found is not None
    assert found.direction == direction
    assert (found.first, found.last, found.points) == (1, 64, 64)
    theil = stats.theilslopes(values, np.arange(64.0), 0.95)
    assert found.change.value == pytest.approx(63 * theil.slope)


def test_a_trend_reads_only_what_came_after_and_needs_six_points() -> None:
    blocks = stream(np.concatenate([np.full(20, 9.0), 1 + np.arange(20.0)]))
    found = Trend.of(blocks, since=20)
    assert found is not None
    assert (found.first, found.points, found.direction) == (21, 20, "rising")
    assert Trend.of(blocks, since=34) is not None
    assert Trend.of(blocks, since=35) is None


def test_an_end_that_rises_above_all_before_it_is_found_and_a_swing_is_not() -> None:
    rng = np.random.default_rng(2)
    calm = rng.normal(0, 0.1, 3200)
    risen = calm.copy()
    risen[-200:] += 1.0
    assert set(stream(risen).ends(0.0)) == {"sixteenth", "thirty-second"}
    assert stream(calm).ends(0.0) == {}
    swing = risen.copy()
    swing[1000:1100] += 3.0
    assert stream(swing).ends(0.0) == {}
    assert set(stream(swing).ends(1200.0)) == {"sixteenth", "thirty-second"}
