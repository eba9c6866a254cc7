"""Streams that are kept number by number, and the spikes that are found in them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bottega.doctor.curve.fine import CELLS, FineSeries
from bottega.doctor.curve.spikes import find_spikes
from bottega.doctor.losses import F64
from bottega.runtime.seeds import numpy_rng


def series_of(values: F64, batch: int = 1 << 20) -> FineSeries:
    series = FineSeries()
    for at in range(0, len(values), batch):
        part = values[at : at + batch]
        series.extend(np.arange(at + 1.0, at + 1.0 + len(part)), part)
    return series


@pytest.mark.parametrize("count", [5, CELLS, CELLS + 1, 5 * CELLS + 3])
def test_a_stream_in_batches_of_any_size_is_the_same_stream(count: int) -> None:
    values = numpy_rng("fine", count).standard_normal(count)
    whole, parts = series_of(values), series_of(values, 7)
    assert whole.count == count and len(whole.means) <= CELLS + 1
    for name in ("steps", "means", "peaks"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    highest = int(whole.peaks.argmax())
    assert whole.peaks[highest] == values.max() and whole.steps[highest] == values.argmax() + 1


def test_what_is_absent_is_left_out_and_what_is_infinite_is_counted() -> None:
    values = np.array([1.0, math.nan, 2.0, math.inf, 3.0, math.nan, math.inf, math.inf])
    series = series_of(values, 3)
    assert series.means.tolist() == [1.0, 2.0, 3.0] and series.steps.tolist() == [1.0, 3.0, 5.0]
    assert (series.num_infinite, series.num_infinite_at_end, series.first_infinite) == (3, 2, 4.0)


def with_spikes(seed: int, spread: float, *places: int, factor: float) -> F64:
    values = spread * numpy_rng("spikes", seed).standard_normal(1200)
    for place in places:
        values[place : place + 6] += math.log(factor)
    return values


@pytest.mark.parametrize(("spread", "factor"), [(0.05, 2.0), (0.1, 3.0), (0.5, 10.0)])
def test_spikes_are_found_where_they_are_and_taken_out(spread: float, factor: float) -> None:
    for seed in range(8):
        found = find_spikes(series_of(with_spikes(seed, spread, 300, 700, factor=factor)))
        firsts = [spike.first for spike in found.found]
        assert len(firsts) == 2 and abs(firsts[0] - 301) <= 4 and abs(firsts[1] - 701) <= 4
        sizes = [math.log(spike.factor) for spike in found.found]
        assert (
            sizes == [pytest.approx(math.log(factor), abs=max(0.3, 1.6 * spread))] * 2
        )  # of six lines, the ends uncertain
        assert found.without.std() == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize("draw", ["normal", "exponential"])
def test_noise_without_a_spike_has_none_however_skewed(draw: str) -> None:
    rng = numpy_rng("no spike", draw)
    for _ in range(100):
        values = 0.4 * (rng.standard_normal(1200) if draw == "normal" else rng.exponential(size=1200))
        assert not find_spikes(series_of(values)).found


def test_what_does_not_come_back_is_no_spike() -> None:
    values = with_spikes(0, 0.05, factor=1.0)
    values[900:] += 1.0
    assert not find_spikes(series_of(values)).found
    values[900:] -= 1.0
    values[-3:] += 1.0  # nor is it known what comes after the last lines
    assert not find_spikes(series_of(values)).found
