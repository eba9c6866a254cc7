"""The ideal denoiser against the definition summed term by term, and the floor against what is known of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bottega.diffusion.ideal import IdealDenoiser, loss_floor
from bottega.diffusion.schedule import named_schedule
from bottega.runtime.errors import RequestError

SETS = [("linear", "epsilon"), ("cosine", "v_prediction"), ("cosine_continuous", "v_prediction"), ("flow", "sample")]


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("name", "kind"), [*SETS, ("flow", "flow_prediction")])
def test_it_is_the_mean_of_the_pictures_weighed_by_their_likelihood(name: str, kind: str) -> None:
    schedule, pictures, x = named_schedule(name, 1000, kind), _normal(5, 2, 2), _normal(3, 2, 2, seed=1)
    times = torch.tensor([10, 600, 998])
    found = IdealDenoiser(schedule, pictures).clean(x, times)
    for b, timestep in enumerate(times.tolist()):
        alpha, sigma = schedule.at(timestep)
        powers = [-float((x[b] - alpha * picture).square().sum()) / (2 * sigma**2) for picture in pictures]
        weights = [math.exp(power - max(powers)) for power in powers]
        mean = sum(w * picture for w, picture in zip(weights, pictures, strict=True)) / sum(weights)
        assert float((found[b] - mean).abs().max()) < 1e-12


def test_it_stays_finite_and_picks_the_right_picture_where_the_exponents_are_in_the_millions() -> None:
    schedule = named_schedule("linear", 1000, "sample")
    pictures = 100 * _normal(4, 3, 16, 16)
    alpha, sigma = schedule.at(0)
    x = (alpha * pictures[2] + sigma * _normal(3, 16, 16, seed=2)).float()[None]
    out = IdealDenoiser(schedule, pictures)(x, torch.tensor([0]))
    assert out.dtype == torch.float32 and torch.equal(out[0], pictures[2].float())


def test_in_pure_noise_it_sees_the_mean_picture() -> None:
    schedule, pictures = named_schedule("flow", 1000, "sample"), _normal(4, 2, 2)
    out = IdealDenoiser(schedule, pictures)(_normal(1, 2, 2, seed=3), torch.tensor([999]))
    assert float((out[0] - pictures.mean(0)).abs().max()) < 1e-15


@pytest.mark.parametrize(("name", "kind"), [*SETS, ("flow", "flow_prediction")])
def test_the_floor_of_one_picture_is_exactly_zero(name: str, kind: str) -> None:
    floor = loss_floor(named_schedule(name, 1000, kind), _normal(1, 3, 4), _normal(8, 3, 4, seed=1))
    assert floor.shape == (10,) and np.all(floor == 0.0)


@pytest.mark.parametrize(("name", "kind"), [("cosine", "v_prediction"), ("flow", "flow_prediction")])
def test_the_floor_of_two_points_is_that_of_the_integral(name: str, kind: str) -> None:
    """x_0 = ±1 in one dimension: E[x_0|x] = tanh(αx/σ²), and the floor an integral over x that quadrature gives."""
    schedule = named_schedule(name, 10, kind)
    pictures = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    quantiles = torch.special.ndtri((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
    found = loss_floor(schedule, pictures, quantiles[:, None], bins=10)
    grid = np.linspace(-8, 8, 20_001)
    density = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
    for timestep, value in enumerate(found):
        alpha, sigma = schedule.at(timestep)
        error = 1 - np.tanh(alpha * (alpha + sigma * grid) / sigma**2)
        slope = (alpha + sigma) / sigma if kind == "flow_prediction" else 1 / sigma
        wanted = float(np.sum(density * (slope * error) ** 2) * (grid[1] - grid[0]))
        assert value == pytest.approx(wanted, rel=2e-3, abs=2e-3)


def test_a_bin_is_spread_over_all_its_timesteps() -> None:
    schedule, pictures, noise = (
        named_schedule("flow", 12, "flow_prediction"),
        0.2 * _normal(3, 2),
        _normal(60_000, 2, seed=1),
    )
    single, bins = loss_floor(schedule, pictures, noise, bins=12), loss_floor(schedule, pictures, noise, bins=4)
    assert np.max(np.abs(bins / single.reshape(4, 3).mean(1) - 1)) < 0.05
    uneven = loss_floor(schedule, pictures, noise, bins=5)  # 3, 2, 3, 2, 2 timesteps
    assert uneven[1] == pytest.approx(single[3:5].mean(), rel=0.05)
    assert uneven[4] == pytest.approx(single[10:].mean(), rel=0.05)


def test_floors_in_units_of_epsilon_do_not_depend_on_the_prediction() -> None:
    pictures, noise = _normal(3, 2, 2), _normal(60, 2, 2, seed=1)
    floors = [
        loss_floor(named_schedule("cosine", 1000, kind), pictures, noise, prediction_type="epsilon")
        for kind in ("epsilon", "v_prediction", "sample")
    ]
    assert np.max(np.abs(floors[1] - floors[0])) == 0.0 == np.max(np.abs(floors[2] - floors[0]))


def test_no_guess_is_better_than_the_floor() -> None:
    """The mean picture, always: at high noise as good, elsewhere worse."""
    schedule, pictures, noise = (
        named_schedule("cosine_continuous", 1000, "sample"),
        _normal(6, 2, 2),
        _normal(600, 2, 2, seed=4),
    )
    guess = float((pictures - pictures.mean(0)).square().mean())
    floor = loss_floor(schedule, pictures, noise)
    assert np.all(floor < guess * 1.05) and np.all(np.diff(floor) > -1e-3 * guess) and floor[0] < 0.01 * guess


def test_told_its_caption_a_picture_is_one_of_those_that_share_it() -> None:
    schedule, pictures = named_schedule("flow", 100, "sample"), _normal(6, 2, 2)
    noise = _normal(60, 2, 2, seed=4)
    told = loss_floor(schedule, pictures, noise, captions=torch.tensor([0, 1, 2, 0, 1, 2]))
    pairs = [
        loss_floor(schedule, pictures[[i, i + 3]], noise[[6 * k + i + 3 * j for k in range(10) for j in (0, 1)]])[9]
        for i in range(3)
    ]  # in the last bin, where all is noise, timesteps hardly matter
    assert told[9] == pytest.approx(np.mean(pairs), rel=0.05)
    assert np.all(told <= loss_floor(schedule, pictures, noise) + 1e-12)
    assert np.max(loss_floor(schedule, pictures, noise, captions=torch.arange(6))) < 1e-20
    everyone = loss_floor(schedule, pictures, noise, captions=torch.zeros(6, dtype=torch.int64))
    assert np.array_equal(everyone, loss_floor(schedule, pictures, noise))


def test_shapes_and_bins_that_do_not_fit_are_refused() -> None:
    schedule = named_schedule("flow", 10, "sample")
    with pytest.raises(RequestError, match="shape"):
        loss_floor(schedule, _normal(2, 4), _normal(2, 5))
    with pytest.raises(RequestError, match="bins"):
        loss_floor(schedule, _normal(2, 4), _normal(2, 4), bins=11)
    with pytest.raises(RequestError, match="at least one"):
        IdealDenoiser(schedule, _normal(0, 4))
