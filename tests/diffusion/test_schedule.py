"""The schedule against diffusers' own tables, and strengths that mean the same in two models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from diffusers import DDIMScheduler, DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.diffusion.schedule import from_scheduler_config, matching_timestep
from bottega.runtime.errors import RequestError

PIXART = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SDXL = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_table_equals_diffusers_within_its_float32(kind: str) -> None:
    ours = from_scheduler_config({**PIXART, "beta_schedule": kind})
    theirs = DDPMScheduler(1000, 1e-4, 0.02, kind).alphas_cumprod.double().numpy()
    # diffusers multiplies 1000 float32 factors: a relative error of T·2⁻²⁴ = 6e-5, and a little on top near β = 0.999
    assert np.max(np.abs(np.log(ours.alpha_bar) - np.log(theirs))) < 2e-3
    assert np.max(np.abs(ours.alpha_bar - theirs)) < 2e-5


def test_alpha_bar_of_pixart_and_of_stable_diffusion_differ_as_published() -> None:
    linear, scaled = from_scheduler_config(PIXART), from_scheduler_config(SDXL)
    assert linear.alpha_bar[[250, 500]] == pytest.approx([0.521, 0.078], abs=1.5e-3)
    assert scaled.alpha_bar[[250, 500]] == pytest.approx([0.674, 0.276], abs=1.5e-3)


def test_teacher_timestep_361_is_as_noisy_as_student_timestep_263() -> None:
    teacher, student = from_scheduler_config(SDXL), from_scheduler_config(PIXART)
    assert matching_timestep(teacher, 361, student) == 263
    assert abs(matching_timestep(student, 263, teacher) - 361) <= 1


@settings(deadline=None)
@given(st.integers(0, 999))
def test_matching_a_schedule_with_itself_changes_nothing(timestep: int) -> None:
    schedule = from_scheduler_config(PIXART)
    assert matching_timestep(schedule, timestep, schedule) == timestep
    assert schedule.start_timestep(schedule.strength(timestep)) == timestep


@settings(deadline=None)
@given(st.integers(0, 999), st.integers(1, 60))
def test_sampling_timesteps_fall_strictly_from_the_start_and_never_below_zero(start: int, steps: int) -> None:
    times = from_scheduler_config(PIXART).sampling_timesteps(start, steps)
    assert times[0] == start and times[-1] >= 0
    assert all(a > b for a, b in itertools.pairwise(times))
    assert len(times) == min(steps, start + 1)


def test_strength_agrees_with_the_teachers_protocol_to_one_step() -> None:
    scheduler = DDIMScheduler(**SDXL, steps_offset=1, timestep_spacing="leading")
    scheduler.set_timesteps(25)
    assert int(scheduler.timesteps[25 - int(25 * 0.40)]) == 361


@pytest.mark.parametrize(
    "change", [{"beta_schedule": "sigmoid"}, {"prediction_type": "flow"}, {"rescale_betas_zero_snr": True}]
)
def test_what_is_not_known_is_refused_by_name(change: dict[str, object]) -> None:
    with pytest.raises(RequestError, match=next(iter(change))):
        from_scheduler_config({**PIXART, **change})


@pytest.mark.parametrize("strength", [0.0, -0.1, 1.01, float("nan")])
def test_strength_outside_its_range_is_refused(strength: float) -> None:
    with pytest.raises(RequestError, match="strength"):
        from_scheduler_config(PIXART).start_timestep(strength)


@pytest.mark.parametrize(("start", "steps"), [(-1, 5), (1000, 5), (10, 0), (10, -1)])
def test_a_start_outside_of_the_schedule_is_refused_however_many_steps_are_asked(start: int, steps: int) -> None:
    with pytest.raises(RequestError, match="0…999"):
        from_scheduler_config(PIXART).sampling_timesteps(start, steps)
