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
from bottega.teacher.protocol import (
    DDIM,
    SAMPLERS,
    cautions,
    check,
    make_scheduler,
    schedule,
    strength_of,
    unet_calls,
)
from bottega.teacher.retry import direction, next_settings, rung_weight


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


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("strength", [0.4, 0.45, 0.8])
def test_a_sampler_that_begins_elsewhere_than_ddim_says_where(sampler: str, strength: float) -> None:
    said = "\n".join(cautions(Protocol(sampler=sampler, strength=strength)))
    first, ddim = (schedule(25, strength, name)["first_timestep"] for name in (sampler, "ddim"))
    assert (f"begins at t = {first}" in said and f"ddim begins at t = {ddim}" in said) == (first != ddim)
    assert (first != ddim) == (sampler == "dpmpp_2m" and strength < 0.5)  # at 0.8 both begin at 761


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
        plan = next_settings(causes, base, tried, Ladder())
        if plan is None:
            assert direction(causes) == "weak"
            break
        tried.append(plan[1])
    assert len({(s.effective, s.noise) for s in tried}) == len(tried)
    assert all(1 <= s.effective[1] <= steps for s in tried)


def test_structure_goes_down_the_ladder_and_the_rest_draws_new_noise() -> None:
    base = Settings.of(Protocol())
    rung, first = next_settings(["edge_64"], base, [base], Ladder())
    assert (rung, first.strength, first.guidance_scale, first.ip_adapter_scale) == ("structure 1", 0.32, 3.2, 0.30)
    rung, second = next_settings(["edge_64"], base, [base, first], Ladder())
    assert (rung, second.strength, second.guidance_scale, second.ip_adapter_scale) == ("structure 2", 0.32, 3.0, 0.25)
    _, fresh = next_settings(["black"], base, [base], Ladder())
    assert (fresh.noise, fresh.with_(noise=0)) == (1, base)
    assert direction(["edge_64", "unchanged"]) == "noise"


def test_too_little_change_draws_new_noise_once_and_never_takes_strength_away() -> None:
    base = Settings.of(Protocol())
    rung, fresh = next_settings(["unchanged"], base, [base], Ladder())
    assert (rung, fresh) == ("noise 1", base.with_(noise=1))
    assert next_settings(["unchanged"], base, [base, fresh], Ladder()) is None


def test_a_deep_rung_weighs_less_and_new_noise_does_not() -> None:
    weights = [rung_weight(rung, Ladder()) for rung in ("first", "noise 1", "noise 2", "structure 1", "structure 2")]
    assert weights == pytest.approx([1, 1, 1, 0.8, 0.64])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize(("steps", "strength"), [(25, 0.4), (20, 0.45)])
def test_any_sampler_records_the_timesteps_that_it_runs(sampler: str, steps: int, strength: float) -> None:
    scheduler = make_scheduler(sampler, "epsilon")
    check(scheduler, sampler)
    scheduler.set_timesteps(steps)
    run = scheduler.timesteps[steps - int(steps * strength) :]
    found = schedule(steps, strength, sampler)
    assert (found["unet_calls"], found["first_timestep"]) == (len(run), int(run[0]))
    assert found["last_timestep"] == int(run[-1])


def test_what_departs_says_so_with_what_is_known_of_it() -> None:
    assert cautions(Protocol()) == []
    said = "\n".join(cautions(Protocol(sampler="euler", ip_adapter_scale=0.5, guidance_scale=3.0)))
    assert "Euler with img2img and an IP-Adapter gives more bad pictures" in said
    assert "ghosting and mesh" in said
    assert "teacher.guidance_scale departs from `stabilised`: 3.0 instead of 3.5" in said


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


@pytest.mark.parametrize(
    ("causes", "likely", "where"),
    [
        (["damage"], "geometry", "structure"),
        (["damage"], "noise", "structure"),
        (["damage"], "colour", "noise"),
        (["damage", "distance"], "geometry", "structure"),
        (["distance"], "", "noise"),
        (["damage"], "", "noise"),  # the eye is not sure: new noise
        (["mesh", "damage"], "colour", "structure"),  # a detector names a cause
        (["unchanged", "damage"], "", "weak"),
        (["black", "damage"], "geometry", "noise"),
    ],
)
def test_the_eyes_cause_decides_where_no_detector_names_one(causes: list[str], likely: str, where: str) -> None:
    assert direction(causes, likely) == where
