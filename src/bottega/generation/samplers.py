"""The names that people use for samplers, mapped once to diffusers' schedulers.

`make_scheduler` makes a new scheduler for each request, since a scheduler holds the state of the picture that it is
drawing: two requests that shared one would disturb each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bottega.generation.records import PredictionType
from bottega.runtime.errors import RequestError


@dataclass(frozen=True)
class SamplerSpec:
    """How one sampler is built.

    scheduler: diffusers' class. options: what differs from the model's own scheduler configuration. flow: whether it
    can integrate rectified flow. zero_snr: whether its class can start from a noise level without any signal.
    evaluations: network evaluations a step. stochastic: draws noise while sampling.
    """

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    flow: bool = False
    zero_snr: bool = False
    evaluations: int = 1
    stochastic: bool = False


_KARRAS = {"use_karras_sigmas": True}
_ORDER_2 = {"algorithm_type": "dpmsolver++", "solver_order": 2}
_SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}

SAMPLERS: Mapping[str, SamplerSpec] = MappingProxyType(
    {
        "ddim": SamplerSpec("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False}, zero_snr=True),
        "ddpm": SamplerSpec("DDPMScheduler", {"clip_sample": False}, zero_snr=True, stochastic=True),
        "euler": SamplerSpec("EulerDiscreteScheduler", zero_snr=True, flow=True),
        "euler_karras": SamplerSpec("EulerDiscreteScheduler", _KARRAS),
        "euler_a": SamplerSpec("EulerAncestralDiscreteScheduler", zero_snr=True, stochastic=True),
        "heun": SamplerSpec("HeunDiscreteScheduler", evaluations=2),
        "heun_karras": SamplerSpec("HeunDiscreteScheduler", _KARRAS, evaluations=2),
        "lms": SamplerSpec("LMSDiscreteScheduler"),
        "lms_karras": SamplerSpec("LMSDiscreteScheduler", _KARRAS),
        "dpm2": SamplerSpec("KDPM2DiscreteScheduler", evaluations=2),
        "dpm2_karras": SamplerSpec("KDPM2DiscreteScheduler", _KARRAS, evaluations=2),
        "dpm2_a": SamplerSpec("KDPM2AncestralDiscreteScheduler", evaluations=2, stochastic=True),
        "dpm2_a_karras": SamplerSpec("KDPM2AncestralDiscreteScheduler", _KARRAS, evaluations=2, stochastic=True),
        "dpmpp_2m": SamplerSpec("DPMSolverMultistepScheduler", _ORDER_2, flow=True, zero_snr=True),
        "dpmpp_2m_karras": SamplerSpec("DPMSolverMultistepScheduler", {**_ORDER_2, **_KARRAS}),
        "dpmpp_2m_sde": SamplerSpec("DPMSolverMultistepScheduler", _SDE, flow=True, zero_snr=True, stochastic=True),
        "dpmpp_2m_sde_karras": SamplerSpec("DPMSolverMultistepScheduler", {**_SDE, **_KARRAS}, stochastic=True),
        "dpmpp_sde": SamplerSpec("DPMSolverSinglestepScheduler", {**_SDE, "lower_order_final": True}, stochastic=True),
        "dpmpp_sde_karras": SamplerSpec(
            "DPMSolverSinglestepScheduler", {**_SDE, **_KARRAS, "lower_order_final": True}, stochastic=True
        ),
        "unipc": SamplerSpec("UniPCMultistepScheduler", flow=True, zero_snr=True),
        "unipc_karras": SamplerSpec("UniPCMultistepScheduler", _KARRAS),
        "deis": SamplerSpec("DEISMultistepScheduler"),
        "pndm": SamplerSpec("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}),
        "lcm": SamplerSpec("LCMScheduler", {"clip_sample": False}, zero_snr=True, stochastic=True),
    }
)
"""By the name that a request has. Where the literature and AUTOMATIC1111 differ, AUTOMATIC1111's reading is taken:
`dpmpp_sde` is the single-step SDE solver, `dpmpp_2m_sde` the multistep one."""

# Euler on a straight path is the first order of DPM-Solver++, whose class knows flow sigmas; diffusers' own
# FlowMatchEulerDiscreteScheduler lacks scale_model_input, which SDXL's pipelines call.
_EULER_FLOW = SamplerSpec(
    "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 1}, flow=True
)

FLOW_SHIFT = 3.0
"""Timestep shift of rectified flow at 1024 px where the model does not say: the published SDXL flows take 3 to 8."""


def sampler_named(name: str) -> SamplerSpec:
    """The sampler of a name.

    Raises:
        RequestError: there is none of this name.
    """
    if name not in SAMPLERS:
        raise RequestError(f"sampler must be one of {', '.join(SAMPLERS)}, received {name!r}; choose one of them")
    return SAMPLERS[name]


def can_draw(name: str, prediction_type: PredictionType, *, zero_terminal_snr: bool = False) -> bool:
    """Whether a sampler can draw with a model of this kind."""
    sampler = sampler_named(name)
    if prediction_type == "flow":
        return sampler.flow
    return sampler.zero_snr or not zero_terminal_snr


def make_scheduler(
    name: str,
    model_config: Mapping[str, Any],
    prediction_type: PredictionType,
    *,
    zero_terminal_snr: bool = False,
    flow_shift: float = FLOW_SHIFT,
) -> Any:
    """A new scheduler for one request.

    Args:
        name: of `SAMPLERS`.
        model_config: the model's own scheduler configuration, for its noise schedule (betas, number of timesteps).
        prediction_type: what the network was measured to predict.
        zero_terminal_snr: the model was trained with a last noise level without any signal (arXiv 2305.08891).
        flow_shift: of rectified flow; 1 is none.

    Raises:
        RequestError: the sampler is unknown, or cannot draw with this kind of model.
    """
    import diffusers

    if not can_draw(name, prediction_type, zero_terminal_snr=zero_terminal_snr):
        raise _cannot(name, prediction_type, zero_terminal_snr=zero_terminal_snr)
    sampler = sampler_named(name)
    special: dict[str, object] = {"prediction_type": prediction_type}
    if prediction_type == "flow":
        if name == "euler":
            sampler = _EULER_FLOW
        special = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": flow_shift}
    elif zero_terminal_snr:
        # With leading or linspace spacing the last, signal-free timestep would be left out, and with it the darkest
        # and brightest pictures.
        special |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    kind = getattr(diffusers, sampler.scheduler)
    settings = {key: value for key, value in model_config.items() if key in _NOISE_SCHEDULE}
    return kind.from_config({**settings, **sampler.options, **special})


# Only the noise schedule is the model's: its other fields belong to another scheduler class (a `skip_prk_steps` of
# PNDM, a `final_sigmas_type` of Euler), and diffusers would take some of them over in silence.
_NOISE_SCHEDULE = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "steps_offset",
    "timestep_spacing",
    "rescale_betas_zero_snr",
)


def _cannot(name: str, prediction_type: PredictionType, *, zero_terminal_snr: bool) -> RequestError:
    what = "rectified flow" if prediction_type == "flow" else "zero terminal SNR"
    able = [other for other in SAMPLERS if can_draw(other, prediction_type, zero_terminal_snr=zero_terminal_snr)]
    return RequestError(f"a model of {what} needs a sampler that can do it, received {name}; use {', '.join(able)}")
