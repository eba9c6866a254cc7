"""The noise schedule of a checkpoint: the table ᾱ_t in float64, and how one model's noise level maps onto another's.

Legend: T timesteps (0 … T-1); α_t = √ᾱ_t, σ_t = √(1-ᾱ_t), SNR_t = ᾱ_t / (1-ᾱ_t).
The tables are float64 because diffusers' own are float32 and off by up to 1.4e-4 in the sampler's coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bottega.runtime.errors import RequestError

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """A variance-preserving forward process x_t = α_t x_0 + σ_t ε and what its network predicts.

    alpha_bar: float64 [T], falling in (0, 1). prediction_type: one of `PREDICTION_TYPES`, from the checkpoint.
    """

    alpha_bar: npt.NDArray[np.float64]
    prediction_type: str
    name: str

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alpha_bar)

    def log_snr(self) -> npt.NDArray[np.float64]:
        """ln(ᾱ_t / (1-ᾱ_t)), float64 [T], strictly falling. Kingma et al. 2021, eq. 3."""
        return np.log(self.alpha_bar) - np.log1p(-self.alpha_bar)

    def start_timestep(self, strength: float) -> int:
        """The timestep from which a picture is redrawn at `strength` in (0, 1]: 1.0 is pure noise, t = T-1."""
        if not 0.0 < strength <= 1.0:
            raise RequestError(f"strength lies in (0, 1], received {strength}: 0 would leave the picture as it is")
        return max(round(strength * self.timesteps) - 1, 0)

    def strength(self, timestep: int) -> float:
        """The strength whose start is `timestep`; the inverse of `start_timestep`."""
        return (timestep + 1) / self.timesteps

    def sampling_timesteps(self, start: int, steps: int) -> list[int]:
        """Timesteps of a sampler that goes from `start` to the clean picture in `steps` even strides, falling.

        Never more than start + 1 of them; the stride after the last one ends at ᾱ = 1.
        """
        if not 0 <= start < self.timesteps or steps < 1:
            raise RequestError(
                f"a sampler starts at 0…{self.timesteps - 1} and takes at least 1 step, received {start} and {steps}"
            )
        count = min(steps, start + 1)
        return [round((start + 1) * (count - i) / count) - 1 for i in range(count)]

    def alpha_bar_at(self, timestep: int) -> float:
        """ᾱ at `timestep`; -1 stands for the clean picture, ᾱ = 1."""
        return 1.0 if timestep < 0 else float(self.alpha_bar[timestep])


def from_scheduler_config(config: Mapping[str, Any], *, name: str = "scheduler") -> NoiseSchedule:
    """Read a diffusers scheduler configuration; what it does not state is diffusers' default, what is unknown is
    refused.

    Raises RequestError for a beta schedule or prediction type that is not known here: a wrong guess would train
    silently on another noise level (at t = 500 Stable Diffusion's betas keep ᾱ = 0.28 where PixArt-α's keep 0.08).
    """
    count = int(config.get("num_train_timesteps", 1000))
    betas = _betas(config, count, name)
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in PREDICTION_TYPES:
        raise RequestError(f"{name}: prediction_type is one of {', '.join(PREDICTION_TYPES)}, received {prediction!r}")
    alpha_bar = np.asarray(np.cumprod(1.0 - betas), np.float64)
    if config.get("rescale_betas_zero_snr"):
        raise RequestError(f"{name}: rescale_betas_zero_snr is not supported: SNR 0 has no ε to predict; turn it off")
    return NoiseSchedule(alpha_bar, prediction, name)


def _betas(config: Mapping[str, Any], count: int, name: str) -> npt.NDArray[np.float64]:
    """β_t, float64 [T], of the three families that published checkpoints use (or the table that the file states)."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    kind = str(config.get("beta_schedule", "linear"))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return np.linspace(first, last, count, dtype=np.float64)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(first), math.sqrt(last), count, dtype=np.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17
        curve = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        return np.asarray(np.minimum(1.0 - curve[1:] / curve[:-1], 0.999), np.float64)
    raise RequestError(f"{name}: beta_schedule is one of {', '.join(BETA_SCHEDULES)}, received {kind!r}")


def matching_timestep(source: NoiseSchedule, timestep: int, target: NoiseSchedule) -> int:
    """The timestep of `target` whose signal-to-noise ratio is nearest (in log) to `source`'s at `timestep`.

    Strength means the same between models only so: SDXL's t = 361 is as noisy as PixArt-α's t = 263.
    """
    if not 0 <= timestep < source.timesteps:
        raise RequestError(f"{source.name}: a timestep lies in 0…{source.timesteps - 1}, received {timestep}")
    return int(np.argmin(np.abs(target.log_snr() - source.log_snr()[timestep])))
