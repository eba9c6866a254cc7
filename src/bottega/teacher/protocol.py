"""DDIM as the protocol pins it, and the schedule that it really runs.

A sampler's configuration is half of a teacher: `DDIMScheduler()` clips samples and has linear betas, `trailing`
spacing starts img2img at another noise level. So all of it is set and checked, nothing is inherited from a model
folder but the prediction type. Other samplers are pinned to the same betas and spacing. Euler's timesteps are then
DDIM's; DPM-Solver's `leading` spacing divides by one step more, so that the same strength begins at another noise
level. Taking another sampler departs from the protocol, and `cautions` says where it begins and what is known of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from bottega.diffusion.schedule import from_scheduler_config
from bottega.runtime.errors import RequestError
from bottega.teacher.config import PRESETS, Protocol

_TRAINED = 1000  # timesteps that SDXL was trained on
_OFFSET = 1  # added to every timestep
DDIM: Mapping[str, object] = {
    "num_train_timesteps": _TRAINED,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "steps_offset": _OFFSET,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "thresholding": False,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}
"""Every field that changes a picture, whatever the model folder says; the betas are Stable Diffusion's and SDXL's."""

_LEVELS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "timestep_spacing")
_LIKE_DDIM = {key: DDIM[key] for key in (*_LEVELS, "steps_offset")}
SAMPLERS: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "ddim": ("DDIMScheduler", DDIM),
    "euler": ("EulerDiscreteScheduler", {**_LIKE_DDIM, "use_karras_sigmas": False, "interpolation_type": "linear"}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", _LIKE_DDIM),
    "dpmpp_2m": (
        "DPMSolverMultistepScheduler",
        {**_LIKE_DDIM, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint"},
    ),
}
_KNOWN = {
    "euler": "Euler with img2img and an IP-Adapter gives more bad pictures than DDIM",
    "euler_ancestral": "an ancestral sampler draws noise at every step, so that less of the content is held, and Euler "
    "with img2img and an IP-Adapter gives more bad pictures than DDIM",
    "dpmpp_2m": "a multistep solver begins with order 1, and img2img makes few steps; not measured with an IP-Adapter",
}
_IP_SAFE = 0.35  # ip_adapter_scale above which ghosting and mesh are known (SDXL at 512 px)


def cautions(protocol: Protocol) -> list[str]:
    """One line for each value that departs from the named protocol, with what is known of it."""
    strongest = max(preset["strength"] for preset in PRESETS.values())
    lines = []
    for key, value in protocol.departures().items():
        line = f"teacher.{key} departs from `{protocol.name}`: {value['here']} instead of {value['protocol']}"
        if key == "sampler":
            line += f"; {_KNOWN[protocol.sampler]}{_other_start(protocol)}"
        if key == "ip_adapter_scale" and protocol.ip_adapter_scale > _IP_SAFE:
            line += f"; above {_IP_SAFE} ghosting and mesh are known (SDXL at 512 px)"
        if key == "strength" and protocol.strength > strongest:
            line += "; the more is redrawn, the more structure is lost"
        lines.append(line)
    return lines


def _other_start(protocol: Protocol) -> str:
    """Where the protocol's sampler begins, if DDIM begins elsewhere with the same steps and strength."""
    here = schedule(protocol.steps, protocol.strength, protocol.sampler)
    ddim = schedule(protocol.steps, protocol.strength)
    if here["first_timestep"] == ddim["first_timestep"]:
        return ""
    return (
        f"; it begins at t = {here['first_timestep']} (SNR {here['first_snr']:.3g}), where ddim begins at t = "
        f"{ddim['first_timestep']} (SNR {ddim['first_snr']:.3g}) with the same strength"
    )


def unet_calls(steps: int, strength: float) -> int:
    """Denoising steps that img2img makes: `int(steps * strength)`, so that strength counts in units of 1 / steps."""
    return min(int(steps * strength), steps)


def strength_of(calls: int, steps: int) -> float:
    """The smallest strength, to 4 decimals, that makes exactly `calls` of `steps` steps."""
    strength = round(calls / steps, 4)
    while unet_calls(steps, strength) < calls:
        strength = round(strength + 1e-4, 4)
    return strength


class EffectiveSchedule(TypedDict):
    """What the sampler really runs; `first_snr` is the signal-to-noise ratio ᾱ / (1 - ᾱ) of the first timestep."""

    unet_calls: int
    first_timestep: int
    last_timestep: int
    first_snr: float


def schedule(steps: int, strength: float, sampler: str = "ddim") -> EffectiveSchedule:
    """The schedule that img2img runs with these settings."""
    calls = unet_calls(steps, strength)
    if sampler == "ddim":  # in closed form: a plan is shown without importing diffusers, which takes seconds
        spacing = _TRAINED // steps
        last = _OFFSET
        first = (calls - 1) * spacing + last
    else:
        scheduler = make_scheduler(sampler, "epsilon")
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps[(steps - calls) * scheduler.order :]
        calls = len(timesteps)
        first, last = int(timesteps[0]), int(timesteps[-1])
    signal = from_scheduler_config(DDIM).alpha_bar_at(first)
    return {
        "unet_calls": calls,
        "first_timestep": first,
        "last_timestep": last,
        "first_snr": round(signal / (1 - signal), 6),
    }


def make_scheduler(sampler: str, prediction_type: str) -> Any:
    """The diffusers scheduler of a sampler, pinned to the protocol's betas and spacing."""
    import diffusers

    name, config = SAMPLERS[sampler]
    return getattr(diffusers, name)(**config, prediction_type=prediction_type)


def pin(pipeline: Any, sampler: str = "ddim") -> None:
    """Give the pipeline the protocol's sampler; the prediction type stays the model's own."""
    pipeline.scheduler = make_scheduler(sampler, pipeline.scheduler.config.get("prediction_type", "epsilon"))
    check(pipeline.scheduler, sampler)


def check(scheduler: Any, sampler: str = "ddim") -> None:
    """Assert that a scheduler is the protocol's, field by field.

    Raises:
        RequestError: another class, or a field with another value; each is named.
    """
    name, config = SAMPLERS[sampler]
    if type(scheduler).__name__ != name:
        raise RequestError(
            f"the protocol samples with {name}, received {type(scheduler).__name__}; call "
            "bottega.teacher.protocol.pin first"
        )
    wrong: list[str] = []
    for key, value in config.items():
        received = scheduler.config.get(key)
        if received != value:
            wrong.append(f"{key}={received!r} (protocol: {value!r})")
    if wrong:
        raise RequestError(
            f"{sampler}'s configuration is pinned by the protocol, received {', '.join(wrong)}; call "
            "bottega.teacher.protocol.pin first"
        )
