"""The pinned sampler and its effective schedule, against diffusers itself."""

from __future__ import annotations

import pytest
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bottega.runtime.errors import RequestError
from bottega.teacher.config import Ladder, Protocol, TeacherConfig
from bottega.teacher.items import Item, Settings
from bottega.teacher.protocol import DDIM, check, schedule, strength_of, unet_calls
from bottega.teacher.retry import direction, next_settings


def test_the_stabilised_protocol_makes_ten_calls_from_timestep_361() -> None:
    found = schedule(25, 0.40)
    assert (found["unet_calls"], found["first_timestep"], found["last_timestep"]) == (10, 361, 1)


@pytest.mark.parametrize(("steps", "strength"), [(25, 0.4), (25, 0.45), (25, 0.32), (50, 0.3), (20, 1.0), (7, 0.5)])
def test_the_effective_schedule_is_what_diffusers_runs(steps: int, strength: float) -> None:
    scheduler = DDIMScheduler(**DDIM)
    scheduler.set_timesteps(steps)
    calls = min(int(steps * strength), steps)
    timesteps = scheduler.timesteps[max(steps - calls, 0) :]
    alpha = float(scheduler.alphas_cumprod[timesteps[0]])
    found = schedule(steps, strength)
    assert (found["unet_calls"], found["first_timestep"]) == (len(timesteps), int(timesteps[0]))
    assert found["last_timestep"] == int(timesteps[-1])
    assert found["first_snr"] == pytest.approx(alpha / (1 - alpha), rel=1e-4)


def test_a_scheduler_that_departs_in_one_field_is_refused_by_that_field() -> None:
    check(DDIMScheduler(**DDIM))
    for field, value in {
        "clip_sample": True,
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "beta_schedule": "linear",
    }.items():
        with pytest.raises(RequestError, match=field):
            check(DDIMScheduler(**{**DDIM, field: value}))
    with pytest.raises(RequestError, match="EulerDiscreteScheduler"):
        check(EulerDiscreteScheduler())


def test_protocols_differ_by_name_and_departures_are_named() -> None:
    assert Protocol().departures() == {}
    assert (Protocol(name="published").guidance_scale, Protocol(name="published").strength) == (3.8, 0.45)
    assert Protocol(strength=0.6).departures() == {"strength": {"protocol": 0.40, "here": 0.6}}


def test_a_strength_that_makes_no_step_is_refused_with_the_least_that_does() -> None:
    with pytest.raises(ValidationError, match=r"0\.040"):
        TeacherConfig(strength=0.03)
    with pytest.raises(ValidationError, match="different"):
        TeacherConfig(seeds=(1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.data())
def test_strength_of_gives_back_exactly_that_many_steps(steps: int, data: st.DataObject) -> None:
    calls = data.draw(st.integers(1, steps))
    assert unet_calls(steps, strength_of(calls, steps)) == calls


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 50),
    st.floats(0.02, 1),
    st.lists(
        st.sampled_from(["edge_64", "frequency", "content", "unchanged", "style", "black", "finite", "blur"]),
        max_size=3,
    ),
    st.integers(1, 6),
)
def test_no_rung_repeats_a_try_in_effect(steps: int, strength: float, causes: list[str], retries: int) -> None:
    base = Settings(steps, max(strength, 1 / steps + 1e-9), 3.5, 0.3)
    tried = [base]
    for _ in range(retries):
        tried.append(next_settings(causes, base, tried, Ladder())[1])
    assert len({(s.effective, s.noise) for s in tried}) == len(tried)
    assert all(1 <= s.effective[1] <= steps for s in tried)


def test_structure_goes_down_the_ladder_weakness_up_and_the_rest_draws_new_noise() -> None:
    base = Settings.of(Protocol())
    rung, first = next_settings(["edge_64"], base, [base], Ladder())
    assert (rung, first.strength, first.guidance_scale, first.ip_adapter_scale) == ("structure 1", 0.32, 3.2, 0.30)
    rung, second = next_settings(["edge_64"], base, [base, first], Ladder())
    assert (rung, second.strength, second.guidance_scale, second.ip_adapter_scale) == ("structure 2", 0.32, 3.0, 0.25)
    _, stronger = next_settings(["unchanged", "style"], base, [base], Ladder())
    assert (stronger.strength, stronger.ip_adapter_scale, stronger.noise) == (0.40, 0.35, 0)
    _, fresh = next_settings(["black"], base, [base], Ladder())
    assert (fresh.noise, fresh.with_(noise=0)) == (1, base)
    assert direction(["edge_64", "style"]) == "noise"


def test_noise_depends_on_what_the_picture_is_and_on_nothing_else() -> None:
    import numpy as np

    blank = np.zeros((16, 16, 3), np.uint8)
    item = Item("c_s", "c", "s", "a", 0, blank, blank)
    seeds = {
        item.noise_seed,
        Item("c_s", "c", "s", "a", 1, blank, blank).noise_seed,
        Item("c_t", "c", "t", "a", 0, blank, blank).noise_seed,
        Item("c_s", "c", "s", "a", 0, blank, blank, settings=Settings(25, 0.4, 3.5, 0.3, noise=1)).noise_seed,
    }
    assert len(seeds) == 4
    assert Item("other", "c", "s", "b", 0, blank, blank).noise_seed == item.noise_seed
