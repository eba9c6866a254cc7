"""Counter-based sampling: where a run was stopped can't be seen in what it draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.runtime.seeds import numpy_rng
from bottega.training.sampling import interleave, stratified_timesteps, stream_indices


@settings(deadline=None)
@given(count=st.integers(1, 40), slots=st.integers(1, 30))
def test_every_epoch_shows_every_sample_once(count: int, slots: int) -> None:
    steps = -(-3 * count // slots)
    seen = np.concatenate([stream_indices(7, "main", step, slots, count) for step in range(steps)])
    for epoch in range(3):
        assert sorted(seen[epoch * count : (epoch + 1) * count].tolist()) == list(range(count))


def test_epochs_and_streams_have_orders_of_their_own() -> None:
    first, second, other = (
        stream_indices(7, "main", 0, 50, 50),
        stream_indices(7, "main", 1, 50, 50),
        stream_indices(7, "fill50k", 0, 50, 50),
    )
    assert first.tolist() != second.tolist() and first.tolist() != other.tolist()


@settings(deadline=None)
@given(st.integers(1, 64), st.data())
def test_the_second_stream_has_its_share_in_every_window_evenly_spread(slots: int, data: st.DataObject) -> None:
    second = data.draw(st.integers(0, slots))
    where = interleave(slots, second)
    assert where.sum() == second
    if slots % 4 == 0:
        assert all(interleave(slots, slots // 4)[k : k + 4].sum() == 1 for k in range(0, slots, 4))


@settings(deadline=None)
@given(st.integers(1, 33), st.integers(0, 999))
def test_timesteps_lie_in_their_range(slots: int, last: int) -> None:
    times = stratified_timesteps(numpy_rng(1), slots, 0, last)
    assert times.min() >= 0 and times.max() <= last


def test_each_slots_timestep_is_uniform_and_the_window_is_spread() -> None:
    drawn = np.stack([stratified_timesteps(numpy_rng(3, step), 8, 0, 262) for step in range(4000)])
    for slot in range(8):
        counts = np.histogram(drawn[:, slot], bins=8, range=(0, 263))[0]
        assert counts == pytest.approx(np.full(8, 500), abs=100)  # 4.8 standard deviations
    assert drawn.mean(axis=1).std() < 0.2 * 262 / np.sqrt(12 * 8)  # independent draws would give the factor 1
