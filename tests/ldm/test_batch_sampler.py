"""The batch of each step: a plain count through the epochs gives the same, also where the number of samples changed."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.ldm.batch_sampler import EpochSampler, Segment, StepSampler
from bottega.runtime.errors import RequestError


def numbers(name: str) -> tuple[int, ...]:
    """As checkpoints are ordered."""
    return tuple(map(int, re.findall(r"\d+", name)))


sizes = st.tuples(st.integers(1, 9), st.integers(0, 40)).map(
    lambda pair: (pair[0], pair[0] + pair[1])
)  # batch, samples


@given(sizes, st.integers(0, 5))
def test_an_epoch_holds_whole_batches_and_no_sample_twice(size: tuple[int, int], seed: int) -> None:
    batch, samples = size
    sampler = EpochSampler.new(samples, batch)
    steps = samples // batch
    assert sampler.steps(3) == 3 * steps
    for epoch in range(3):
        drawn = [sampler.indices(seed, step) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert all(part.shape == (batch,) for part in drawn)
        flat = np.concatenate(drawn).tolist()
        assert len(set(flat)) == len(flat) == steps * batch and set(flat) <= set(range(samples))
        assert [sampler.at(step).epoch for step in range(epoch * steps, (epoch + 1) * steps)] == [epoch] * steps


def test_5000_samples_make_52_whole_batches_of_96_and_what_is_left_out_changes() -> None:
    sampler = EpochSampler.new(5000, 96)
    assert sampler.steps_per_epoch() == 52 and sampler.steps(500) == 26_000
    left = []
    for epoch in range(2):
        seen = np.concatenate([sampler.indices(0, epoch * 52 + k) for k in range(52)])
        left.append(set(range(5000)) - set(seen.tolist()))
    assert [len(out) for out in left] == [8, 8] and left[0] != left[1]


def test_checkpoints_are_named_after_whole_epochs_and_within_one_by_its_step() -> None:
    sampler = EpochSampler.new(5000, 96)
    assert sampler.name(118 * 52) == "epoch-118"
    assert sampler.name(117 * 52 + 27) == "epoch-117-step-27"
    assert sampler.name(0) == "epoch-0" and sampler.name(1) == "epoch-0-step-1"


changes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), max_size=4)


@given(st.integers(1, 5), st.integers(0, 20), changes)
def test_with_changed_sizes_it_equals_a_plain_count_through_the_epochs(
    batch: int, more: int, walk: list[tuple[int, int]]
) -> None:
    """walk: train so many steps, stop, and resume with so many samples."""
    sampler, samples = EpochSampler.new(batch + more, batch), batch + more
    step, epoch, before, seen = 0, 0, 0, []
    for strides, extra in [*walk, (9, more)]:
        for _ in range(strides):
            seen.append((step, epoch, before, samples))
            step, before = step + 1, before + 1
            if before == samples // batch:
                epoch, before = epoch + 1, 0
        if batch + extra != samples:
            samples = batch + extra
            if before:
                epoch, before = epoch + 1, 0
        sampler = EpochSampler.from_record(json.loads(json.dumps(sampler.record())), batch).resumed(step, samples)
    for at, its_epoch, its_before, its_samples in seen:
        place = sampler.at(at)
        assert (place.epoch, place.before, place.segment.samples) == (its_epoch, its_before, its_samples)
        assert sampler.indices(1, at).max() < its_samples
    names = [numbers(sampler.name(k)) for k in range(step + 30)]
    assert all(a < b for a, b in itertools.pairwise(names))
    assert sampler.steps(epoch + 7) == step + 7 * (samples // batch) - before


def test_within_an_epoch_another_number_of_samples_begins_the_next_epoch() -> None:
    sampler = EpochSampler.new(24, 8).resumed(4, 40)  # one step of the second epoch is done
    assert sampler.segments == [Segment(0, 0, 24), Segment(4, 2, 40)]
    assert [sampler.at(step).epoch for step in (2, 3, 4, 8, 9)] == [0, 1, 2, 2, 3]
    assert sampler.steps(3) == 9  # five steps of 40 samples
    whole = EpochSampler.new(24, 8).resumed(6, 40)
    assert whole.segments[-1] == Segment(6, 2, 40)  # between epochs nothing is left out


def test_a_number_that_is_changed_before_a_step_was_made_with_it_leaves_no_trace() -> None:
    sampler = EpochSampler.new(24, 8).resumed(6, 40).resumed(6, 32)
    assert sampler.segments == [Segment(0, 0, 24), Segment(6, 2, 32)]
    assert EpochSampler.new(24, 8).resumed(4, 24).segments == [Segment(0, 0, 24)]


@given(sizes, changes)
def test_what_is_recorded_is_read_back(size: tuple[int, int], walk: list[tuple[int, int]]) -> None:
    batch, samples = size
    sampler, step = EpochSampler.new(samples, batch), 0
    for strides, extra in walk:
        step += strides
        sampler = sampler.resumed(step, batch + extra)
    kept = EpochSampler.from_record(json.loads(json.dumps(sampler.record())), batch)
    assert kept.segments == sampler.segments and kept.name(step + 5) == sampler.name(step + 5)


def test_fewer_samples_than_a_batch_and_fewer_epochs_than_are_done_are_refused() -> None:
    with pytest.raises(RequestError, match=r"received 7 training pictures for training\.batch_size = 8"):
        EpochSampler.new(7, 8)
    with pytest.raises(RequestError, match="received 7"):
        EpochSampler.new(24, 8).resumed(4, 7)
    with pytest.raises(RequestError, match=r"num_epochs = 1 is before epoch 2, which is done"):
        EpochSampler.new(24, 8).resumed(6, 40).steps(1)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 5))
def test_a_step_sampler_gives_each_sample_once_an_epoch(batch: int, samples: int, seed: int) -> None:
    sampler = StepSampler(samples, batch)
    steps = -(-3 * samples // batch)
    flat = np.concatenate([sampler.indices(seed, step) for step in range(steps)]).tolist()
    for epoch in range(3):
        assert sorted(flat[epoch * samples : (epoch + 1) * samples]) == list(range(samples))
    assert [sampler.at(step).epoch for step in range(steps)] == [step * batch // samples for step in range(steps)]
    names = [numbers(sampler.name(step)) for step in range(steps)]
    assert all(a < b for a, b in itertools.pairwise(names)) and sampler.record() == []
