"""Paths by name: their tables against diffusers and closed forms; what cannot work is refused before anything runs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from bottega.diffusion.schedule import SCHEDULES, NoiseSchedule, named_schedule
from bottega.runtime.errors import RequestError

DIFFUSERS = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    "scaled_linear": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_tables_of_betas_equal_diffusers_within_its_float32(name: str) -> None:
    theirs = DDPMScheduler(1000, **DIFFUSERS[name]).alphas_cumprod.double().numpy()
    ours = named_schedule(name, 1000, "sample")
    assert np.max(np.abs(ours.alpha - np.sqrt(theirs))) < 2e-5
    assert np.max(np.abs(ours.sigma - np.sqrt(1 - theirs))) < 3e-5


def test_the_flow_table_is_that_of_diffusers_and_its_variance_dips_to_a_half() -> None:
    schedule = named_schedule("flow", 1000, "flow_prediction")
    theirs = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000).sigmas.double().numpy()[::-1]
    assert np.max(np.abs(schedule.sigma - theirs)) < 1e-7
    assert np.max(np.abs(schedule.alpha + schedule.sigma - 1)) < 1e-15
    assert np.min(schedule.alpha**2 + schedule.sigma**2) == pytest.approx(0.5)
    assert not schedule.variance_preserving


@pytest.mark.parametrize("timesteps", [2, 10, 1000])
def test_the_continuous_cosine_keeps_the_variance_and_ends_in_noise_alone(timesteps: int) -> None:
    schedule = named_schedule("cosine_continuous", timesteps, "v_prediction")
    assert np.max(np.abs(schedule.alpha**2 + schedule.sigma**2 - 1)) < 1e-15
    assert schedule.zero_terminal_snr and schedule.at(timesteps - 1) == (0.0, 1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_path_loses_the_picture_step_by_step(name: str) -> None:
    schedule = named_schedule(name, 1000, "sample")
    ratio = schedule.alpha / schedule.sigma
    assert np.all(np.diff(ratio) < 0) and ratio[-1] < 0.1 and schedule.at(-1) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "timesteps", "kind", "rule"),
    [
        ("cosine_continuous", 1000, "epsilon", "last α is 0"),
        ("flow", 1000, "epsilon", "last α is 0.*flow_prediction"),
        ("flow", 1000, "v_prediction", "flow_prediction"),
        ("linear", 1000, "flow_prediction", "straight path"),
        ("cosine_continuous", 1000, "flow_prediction", "straight path"),
        ("linear", 100, "epsilon", "ends at α = 0.60"),
        ("cosine", 1, "v_prediction", "at least 2"),
        ("sigmoid", 1000, "epsilon", "sigmoid"),
        ("linear", 1000, "noise", "'noise'"),
    ],
)
def test_what_cannot_work_is_refused_with_a_cure(name: str, timesteps: int, kind: str, rule: str) -> None:
    with pytest.raises(RequestError, match=rule):
        named_schedule(name, timesteps, kind)


def test_epsilon_is_refused_on_any_table_that_ends_in_zero() -> None:
    alpha = np.array([0.8, 0.0])
    with pytest.raises(RequestError, match="ε needs a signal"):
        NoiseSchedule.from_alpha_bar("mine", alpha**2, "epsilon")


def test_coefficients_are_the_tables_in_the_dtype_of_the_latents() -> None:
    schedule = named_schedule("cosine_continuous", 1000, "v_prediction")
    times = torch.tensor([0, 500, 999])
    alpha, sigma = schedule.coefficients(times, torch.zeros(3, 4, 8, 8))
    assert alpha.shape == sigma.shape == (3, 1, 1, 1) and alpha.dtype == torch.float32
    assert np.max(np.abs(sigma.flatten().numpy() - schedule.sigma[[0, 500, 999]])) < 1e-7


def test_a_recipe_can_be_checked_without_torch() -> None:
    code = "import sys, bottega.diffusion.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
