"""Every sampler that is offered arrives at the picture of a network that knows it, or is refused by name."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import numpy as np
import pytest
import torch

from bottega.generation.records import PredictionType
from bottega.generation.samplers import SAMPLERS, can_draw, make_scheduler, sampler_named
from bottega.runtime.errors import RequestError

Kind = Literal["epsilon", "v_prediction", "v_prediction, zero SNR", "flow"]
KINDS: tuple[Kind, ...] = ("epsilon", "v_prediction", "v_prediction, zero SNR", "flow")

SDXL = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "skip_prk_steps": True,
}
# diffusers 0.42 hands tensors to NumPy functions in some schedulers.
pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")

ENDS_AT_THE_LAST_ALPHA = {"ddim", "pndm", "deis"}
"""Their last step goes to the schedule's first noise level, not to none: σ = 0.029 of the noise is left, which is 0.103
of the largest of these values; the others leave none."""


def allowed_error(name: str, kind: Kind) -> float:
    if name in ENDS_AT_THE_LAST_ALPHA:
        return 0.12
    return 5e-3 if kind == "flow" else 1e-3  # diffusers rounds flow's timesteps to whole ones


def scheduler_of(name: str, kind: Kind) -> Any:
    predicted = kind.partition(",")[0]
    return make_scheduler(name, SDXL, _typed(predicted), zero_terminal_snr="zero" in kind)


def _typed(name: str) -> PredictionType:
    assert name in ("epsilon", "v_prediction", "flow")
    return name  # type: ignore[return-value]


class KnowsThePicture:
    """The output of a perfect network for one picture x0, at whatever timestep it is asked."""

    def __init__(self, x0: torch.Tensor, kind: Kind, scheduler: Any) -> None:
        self.x0, self.kind = x0, kind
        bar = scheduler.alphas_cumprod.double().clamp(min=2**-24).numpy()
        self.log_ratios = np.log(np.sqrt((1 - bar) / bar))  # of noise to signal, at the training's timesteps

    def __call__(self, x: torch.Tensor, timestep: float) -> torch.Tensor:
        if self.kind == "flow":
            share = timestep / 1000
            return (x - self.x0) / share
        # Between two timesteps as the samplers with their own noise levels read them: linear in the logarithm.
        ratio = float(np.exp(np.interp(timestep, np.arange(len(self.log_ratios)), self.log_ratios)))
        alpha, sigma = 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)
        noise = (x - alpha * self.x0) / sigma
        return noise if self.kind == "epsilon" else alpha * noise - sigma * self.x0


def draw(name: str, kind: Kind, x0: torch.Tensor, steps: int, given: Kind | None = None) -> torch.Tensor:
    """A picture by a sampler for one kind of network, and a network of that kind or of another that is given."""
    scheduler = scheduler_of(name, kind)
    scheduler.set_timesteps(steps)
    network = KnowsThePicture(x0, given or kind, scheduler)
    generator = torch.Generator().manual_seed(1)
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if takes_generator else {}
    x = torch.randn(x0.shape, generator=generator, dtype=torch.float64) * float(scheduler.init_noise_sigma)
    for timestep in scheduler.timesteps:
        output = network(scheduler.scale_model_input(x, timestep), float(timestep))
        x = scheduler.step(output, timestep, x, **options).prev_sample
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_perfect_network_is_drawn_exactly_or_the_sampler_is_refused(name: str, kind: Kind) -> None:
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predicted = _typed(kind.partition(",")[0])
    if not can_draw(name, predicted, zero_terminal_snr="zero" in kind):
        with pytest.raises(RequestError, match=rf"received {name}; use .*euler"):
            scheduler_of(name, kind)
        return
    for steps in (8, 25):
        error = float((draw(name, kind, x0, steps) - x0).abs().max())
        assert error < allowed_error(name, kind), steps


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_wrong_prediction_type_arrives_elsewhere(name: str) -> None:
    """So that the test above cannot hold by accident."""
    x0 = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = float((draw(name, "epsilon", x0, 8) - x0).abs().max())
    wrong = float((draw(name, "v_prediction", x0, 8, given="epsilon") - x0).abs().max())
    # Not far: at the last, nearly clean levels even a wrong reading hardly moves the picture.
    assert wrong > 1.3 * right + 1e-4


def test_each_request_gets_a_scheduler_of_its_own() -> None:
    first, second = scheduler_of("dpmpp_2m", "epsilon"), scheduler_of("dpmpp_2m", "epsilon")
    first.set_timesteps(4)
    first.step(torch.zeros(1, 4, 8, 8), first.timesteps[0], torch.zeros(1, 4, 8, 8))
    assert second.step_index is None
    assert second.model_outputs == [None, None]


def test_of_the_models_own_scheduler_only_the_noise_schedule_is_taken() -> None:
    config = {**SDXL, "prediction_type": "v_prediction", "use_karras_sigmas": True, "clip_sample": True}
    scheduler = make_scheduler("euler", config, "epsilon")
    assert scheduler.config.prediction_type == "epsilon"
    assert not scheduler.config.use_karras_sigmas
    assert scheduler.config.beta_end == 0.012


def test_zero_terminal_snr_begins_without_any_signal() -> None:
    scheduler = scheduler_of("ddim", "v_prediction, zero SNR")
    scheduler.set_timesteps(10)
    assert int(scheduler.timesteps[0]) == 999
    assert float(scheduler.alphas_cumprod[999]) < 1e-7


def test_an_unknown_name_is_told_with_those_that_there_are() -> None:
    with pytest.raises(RequestError, match=r"one of ddim, .*lcm.*received 'dpm3'"):
        sampler_named("dpm3")
