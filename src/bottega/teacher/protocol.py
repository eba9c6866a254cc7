"""DDIM as the protocol pins it, and the schedule that it really runs.

A sampler's configuration is half of a teacher: `DDIMScheduler()` clips samples and has linear betas, `trailing`
spacing starts img2img at another noise level. So all of it is set and checked, nothing is inherited from a model
folder but the prediction type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bottega.runtime.errors import RequestError

DDIM: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "trained_betas": None,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "thresholding": False,
    "timestep_spacing": "leading",
    "rescale_betas_zero_snr": False,
}


def unet_calls(steps: int, strength: float) -> int:
    """Denoising steps that img2img makes: `int(steps * strength)`, so that strength counts in units of 1 / steps."""
    return min(int(steps * strength), steps)


def strength_of(calls: int, steps: int) -> float:
    """The smallest strength, to 4 decimals, that makes exactly `calls` of `steps` steps."""
    strength = round(calls / steps, 4)
    while unet_calls(steps, strength) < calls:
        strength = round(strength + 1e-4, 4)
    return strength


def schedule(steps: int, strength: float) -> dict[str, Any]:
    """The effective schedule: U-Net calls, first and last timestep, and the first one's signal-to-noise ratio ᾱ / (1
    - ᾱ).
    """
    calls = unet_calls(steps, strength)
    spacing = DDIM["num_train_timesteps"] // steps
    first, last = (calls - 1) * spacing + DDIM["steps_offset"], DDIM["steps_offset"]
    betas = np.linspace(DDIM["beta_start"] ** 0.5, DDIM["beta_end"] ** 0.5, DDIM["num_train_timesteps"]) ** 2
    signal = float(np.cumprod(1 - betas)[first])
    return {
        "unet_calls": calls,
        "first_timestep": first,
        "last_timestep": last,
        "first_snr": round(signal / (1 - signal), 6),
    }


def pin(pipeline: Any) -> None:
    """Give the pipeline the protocol's DDIM; the prediction type stays the model's own."""
    from diffusers import DDIMScheduler

    prediction_type = pipeline.scheduler.config.get("prediction_type", "epsilon")
    pipeline.scheduler = DDIMScheduler(**DDIM, prediction_type=prediction_type)
    check(pipeline.scheduler)


def check(scheduler: Any) -> None:
    """Assert that a scheduler is the protocol's DDIM, field by field.

    Raises:
        RequestError: another class, or a field with another value; each is named.
    """
    if type(scheduler).__name__ != "DDIMScheduler":
        raise RequestError(
            f"the protocol samples with DDIMScheduler, received {type(scheduler).__name__}; call "
            "bottega.teacher.protocol.pin first"
        )
    wrong = {key: scheduler.config.get(key) for key, value in DDIM.items() if scheduler.config.get(key) != value}
    if wrong:
        told = ", ".join(f"{key}={value!r} (protocol: {DDIM[key]!r})" for key, value in wrong.items())
        raise RequestError(
            f"DDIM's configuration is pinned by the protocol, received {told}; call bottega.teacher.protocol.pin first"
        )
