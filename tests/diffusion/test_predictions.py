"""Conversions between predictions: exact both ways over whole tables, and refused where nothing could be exact."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.diffusion.predictions import convert, error_scale, to_clean, to_noise
from bottega.diffusion.process import add_noise, as_epsilon, prediction_target
from bottega.diffusion.schedule import PREDICTION_TYPES, SCHEDULES, named_schedule
from bottega.runtime.errors import RequestError

PATHS = [named_schedule(name, 1000, "sample") for name in SCHEDULES]


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(PATHS), st.integers(0, 2**31))
def test_every_conversion_and_its_way_back_are_exact_at_every_timestep(schedule, seed: int) -> None:
    """To 1e-12; only with ε where σ/α > 100, the growth of an error that the equation itself has, to 1e-14 of that."""
    keep = schedule.alpha > 0
    alpha, sigma = schedule.alpha[keep][:, None], schedule.sigma[keep][:, None]
    clean, noise = np.random.default_rng(seed).standard_normal((2, len(alpha), 16))
    noised = add_noise(clean, noise, alpha, sigma)
    truth = {kind: prediction_target(kind, clean, noise, alpha, sigma) for kind in PREDICTION_TYPES}
    for source, target in itertools.product(PREDICTION_TYPES, repeat=2):
        there = convert(source, target, truth[source], noised, alpha, sigma)
        back = convert(target, source, there, noised, alpha, sigma)
        for found, wanted in ((there, truth[target]), (back, truth[source])):
            growth = np.maximum(1.0, sigma / alpha / 100) if "epsilon" in (source, target) else 1.0
            assert np.max(np.abs(found - wanted) / growth) < 1e-12, (schedule.name, source, target)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from(PATHS), st.sampled_from(["v_prediction", "flow_prediction"]), st.integers(0, 2**31))
def test_velocities_give_both_parts_back_to_1e12_even_where_only_noise_is_left(schedule, kind: str, seed: int) -> None:
    alpha, sigma = schedule.alpha[:, None], schedule.sigma[:, None]
    clean, noise = np.random.default_rng(seed).standard_normal((2, len(alpha), 16))
    noised = add_noise(clean, noise, alpha, sigma)
    prediction = prediction_target(kind, clean, noise, alpha, sigma)
    assert np.max(np.abs(to_clean(kind, prediction, noised, alpha, sigma) - clean)) < 1e-12
    assert np.max(np.abs(to_noise(kind, prediction, noised, alpha, sigma) - noise)) < 1e-12


@pytest.mark.parametrize("target", ["sample", "v_prediction", "flow_prediction"])
def test_epsilon_is_refused_where_nothing_of_the_picture_is_left(target: str) -> None:
    with pytest.raises(RequestError, match="α = 0"):
        convert("epsilon", target, 1.0, 1.0, 0.0, 1.0)
    with pytest.raises(RequestError, match="α = 0"):
        convert("epsilon", target, torch.ones(2), torch.ones(2), torch.tensor([0.5, 0.0]), torch.tensor([0.8, 1.0]))
    assert convert("epsilon", "epsilon", 1.0, 1.0, 0.0, 1.0) == 1.0


def test_the_noise_in_a_clean_picture_is_refused() -> None:
    with pytest.raises(RequestError, match="σ = 0"):
        convert("sample", "epsilon", 1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("call", [to_clean, to_noise])
def test_an_unknown_type_is_refused_by_name(call) -> None:
    with pytest.raises(RequestError, match="noise"):
        call("noise", 1.0, 1.0, 0.8, 0.6)
    with pytest.raises(RequestError, match="noise"):
        convert("noise", "noise", 1.0, 1.0, 0.8, 0.6)
    with pytest.raises(RequestError, match="noise"):
        error_scale("noise", 0.8, 0.6)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_where_the_variance_is_kept_the_noise_is_that_of_the_student(kind: str) -> None:
    assert to_noise(kind, 0.3, 0.7, 0.8, 0.6) == pytest.approx(as_epsilon(kind, 0.3, 0.7, 0.8, 0.6), abs=1e-15)


@pytest.mark.parametrize(("schedule", "kind"), [*itertools.product(PATHS, PREDICTION_TYPES)])
def test_the_error_scale_is_what_a_wrong_picture_makes_of_the_prediction(schedule, kind: str) -> None:
    for timestep in (0, 500, 998):
        alpha, sigma = schedule.at(timestep)
        right, wrong = (convert("sample", kind, clean, 0.4, alpha, sigma) for clean in (0.5, 0.75))
        assert abs(wrong - right) == pytest.approx(0.25 * error_scale(kind, alpha, sigma), rel=1e-9)
