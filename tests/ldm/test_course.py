"""Which samples stand in which step: a plain walk through the epochs says the same, also where their number changed."""

from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.ldm.course import Course, Stream, Stretch
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
    course = Course.begin(samples, batch)
    steps = samples // batch
    assert course.steps(3) == 3 * steps
    for epoch in range(3):
        drawn = [course.indices(seed, step) for step in range(epoch * steps, (epoch + 1) * steps)]
        assert all(part.shape == (batch,) for part in drawn)
        flat = np.concatenate(drawn).tolist()
        assert len(set(flat)) == len(flat) == steps * batch and set(flat) <= set(range(samples))
        assert [course.at(step).epoch for step in range(epoch * steps, (epoch + 1) * steps)] == [epoch] * steps


def test_5000_samples_make_52_whole_batches_of_96_and_what_is_left_out_changes() -> None:
    course = Course.begin(5000, 96)
    assert course.steps_per_epoch() == 52 and course.steps(500) == 26_000
    left = []
    for epoch in range(2):
        seen = np.concatenate([course.indices(0, epoch * 52 + k) for k in range(52)])
        left.append(set(range(5000)) - set(seen.tolist()))
    assert [len(out) for out in left] == [8, 8] and left[0] != left[1]


def test_checkpoints_are_called_after_whole_epochs_and_amid_one_by_its_step() -> None:
    course = Course.begin(5000, 96)
    assert course.name(118 * 52) == "epoch-118"
    assert course.name(117 * 52 + 27) == "epoch-117-step-27"
    assert course.name(0) == "epoch-0" and course.name(1) == "epoch-0-step-1"


changes = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), max_size=4)


@given(st.integers(1, 5), st.integers(0, 20), changes)
def test_changed_on_the_way_it_is_the_walk_of_someone_who_counts_epochs(
    batch: int, more: int, walk: list[tuple[int, int]]
) -> None:
    """walk: go on for so many steps, stop, and go on with so many samples."""
    course, samples = Course.begin(batch + more, batch), batch + more
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
        course = Course.read(json.loads(json.dumps(course.record())), batch).going_on(step, samples)
    for at, its_epoch, its_before, its_samples in seen:
        place = course.at(at)
        assert (place.epoch, place.before, place.stretch.samples) == (its_epoch, its_before, its_samples)
        assert course.indices(1, at).max() < its_samples
    names = [numbers(course.name(k)) for k in range(step + 30)]
    assert all(a < b for a, b in itertools.pairwise(names))
    assert course.steps(epoch + 7) == step + 7 * (samples // batch) - before


def test_amid_an_epoch_another_number_begins_the_next_one() -> None:
    course = Course.begin(24, 8).going_on(4, 40)  # one step of the second epoch is done
    assert course.stretches == [Stretch(0, 0, 24), Stretch(4, 2, 40)]
    assert [course.at(step).epoch for step in (2, 3, 4, 8, 9)] == [0, 1, 2, 2, 3]
    assert course.steps(3) == 9  # five steps of 40 samples
    whole = Course.begin(24, 8).going_on(6, 40)
    assert whole.stretches[-1] == Stretch(6, 2, 40)  # between epochs nothing is left out


def test_a_number_that_is_changed_before_a_step_was_made_with_it_leaves_no_trace() -> None:
    course = Course.begin(24, 8).going_on(6, 40).going_on(6, 32)
    assert course.stretches == [Stretch(0, 0, 24), Stretch(6, 2, 32)]
    assert Course.begin(24, 8).going_on(4, 24).stretches == [Stretch(0, 0, 24)]


@given(sizes, changes)
def test_what_is_recorded_is_read_back(size: tuple[int, int], walk: list[tuple[int, int]]) -> None:
    batch, samples = size
    course, step = Course.begin(samples, batch), 0
    for strides, extra in walk:
        step += strides
        course = course.going_on(step, batch + extra)
    kept = Course.read(json.loads(json.dumps(course.record())), batch)
    assert kept.stretches == course.stretches and kept.name(step + 5) == course.name(step + 5)


def test_fewer_samples_than_a_batch_and_fewer_epochs_than_are_done_are_refused() -> None:
    with pytest.raises(RequestError, match=r"received 7 training pictures for training\.batch_size = 8"):
        Course.begin(7, 8)
    with pytest.raises(RequestError, match="received 7"):
        Course.begin(24, 8).going_on(4, 7)
    with pytest.raises(RequestError, match=r"num_epochs = 1 lies before epoch 2, which is done"):
        Course.begin(24, 8).going_on(6, 40).steps(1)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 5))
def test_a_stream_sees_every_sample_of_an_epoch_once_before_any_again(batch: int, samples: int, seed: int) -> None:
    stream = Stream(samples, batch)
    steps = -(-3 * samples // batch)
    flat = np.concatenate([stream.indices(seed, step) for step in range(steps)]).tolist()
    for epoch in range(3):
        assert sorted(flat[epoch * samples : (epoch + 1) * samples]) == list(range(samples))
    assert [stream.at(step).epoch for step in range(steps)] == [step * batch // samples for step in range(steps)]
    names = [numbers(stream.name(step)) for step in range(steps)]
    assert all(a < b for a, b in itertools.pairwise(names)) and stream.record() == []
