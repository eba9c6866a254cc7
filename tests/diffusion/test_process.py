"""The forward process and the DDIM step against closed forms and against diffusers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from bottega.diffusion.process import (
    add_noise,
    as_epsilon,
    clean_estimate,
    ddim_step,
    effective_noise,
    min_snr_weight,
    prediction_target,
)
from bottega.diffusion.schedule import from_scheduler_config
from bottega.runtime.errors import RequestError

PIXART = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCHEDULE = from_scheduler_config(PIXART)


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("start", [40, 263, 399, 999])
@pytest.mark.parametrize("steps", [1, 7, 25])
def test_ddim_with_the_perfect_network_goes_from_the_noised_content_to_the_target(start: int, steps: int) -> None:
    content, target, noise = (_normal(4, 8, 8, seed=s) for s in (1, 2, 3))
    bar = SCHEDULE.alpha_bar_at(start)
    epsilon = effective_noise(noise, content, target, bar**0.5, (1 - bar) ** 0.5)
    x = add_noise(content, noise, bar**0.5, (1 - bar) ** 0.5)  # the use begins with the noised content …
    times = [*SCHEDULE.sampling_timesteps(start, steps), -1]
    for now, after in itertools.pairwise(times):
        here = SCHEDULE.alpha_bar_at(now)
        on_path = add_noise(target, epsilon, here**0.5, (1 - here) ** 0.5)
        assert np.max(np.abs(x - on_path)) < 1e-9  # … stays on the path of the training …
        x = ddim_step(x, epsilon, here, SCHEDULE.alpha_bar_at(after))
    assert np.max(np.abs(x - target)) < 1e-9  # … and ends at the target


def test_ddim_steps_equal_diffusers() -> None:
    scheduler = DDIMScheduler(**PIXART, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    scheduler.set_timesteps(50)
    x = torch.from_numpy(_normal(2, 4, 8, 8)).float()
    y = x.clone()
    for t in scheduler.timesteps:
        epsilon = torch.from_numpy(_normal(2, 4, 8, 8, seed=int(t))).float()
        x = scheduler.step(epsilon, t, x).prev_sample
        y = ddim_step(y, epsilon, SCHEDULE.alpha_bar_at(int(t)), SCHEDULE.alpha_bar_at(int(t) - 20))
    assert float((x - y).abs().max()) < 1e-3 * float(x.abs().max())  # their float32 table against float64


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_gives_the_noise_back(kind: str) -> None:
    clean, noise = _normal(3, 4), _normal(3, 4, seed=1)
    alpha, sigma = 0.8, 0.6
    noised = add_noise(clean, noise, alpha, sigma)
    target = prediction_target(kind, clean, noise, alpha, sigma)
    back = as_epsilon(kind, target, noised, alpha, sigma)
    assert np.max(np.abs(back - noise)) < 1e-12
    assert np.max(np.abs(clean_estimate(noised, back, alpha, sigma) - clean)) < 1e-12


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(RequestError, match="flow"):
        prediction_target("flow", 1.0, 1.0, 1.0, 1.0)


def test_coefficients_are_those_of_the_table_to_float32() -> None:
    times = torch.tensor([0, 263, 999])
    alpha, sigma = SCHEDULE.coefficients(times, torch.zeros(3, 4, 8, 8))
    assert alpha.shape == (3, 1, 1, 1) and alpha.dtype == torch.float32
    assert np.max(np.abs(sigma.flatten().numpy() / np.sqrt(1 - SCHEDULE.alpha_bar[[0, 263, 999]]) - 1)) < 1e-7


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_counts_an_error_of_the_clean_picture_alike_for_every_target(kind: str) -> None:
    """Whatever the network returns, the same wrong x̂_0 costs min(SNR, γ) times its square."""
    alpha = torch.tensor([0.99, 0.8, 0.5, 0.1], dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    clean, noise, error = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noised = add_noise(clean, noise, alpha, sigma)
    wrong = (noised - alpha * (clean + error)) / sigma  # the ε that belongs to the wrong picture
    right, made = (prediction_target(kind, x, e, alpha, sigma) for x, e in ((clean, noise), (clean + error, wrong)))
    cost = min_snr_weight(kind, alpha, sigma, 2.0) * (made - right) ** 2
    assert torch.allclose(cost, (alpha / sigma).square().clamp(max=2.0) * error**2)
