"""Noise schedules: tables of α and σ, by name for training from scratch or read from a checkpoint's scheduler.

The forward process is x_t = α_t x_0 + σ_t ε. Legend: T training timesteps 0 … T-1, the clean picture stands at -1;
α, σ and ᾱ = α² are float64 [T]; SNR_t = α_t² / σ_t².

    name                 α_t, σ_t                                    prediction types                α at T-1
    linear               √ᾱ, √(1-ᾱ); β from 1e-4 to 0.02             epsilon, v_prediction, sample   0.0064
    scaled_linear        √ᾱ, √(1-ᾱ); √β from √0.00085 to √0.012      epsilon, v_prediction, sample   0.068
    cosine               √ᾱ, √(1-ᾱ); ᾱ a squared cosine, β ≤ 0.999   epsilon, v_prediction, sample   4.9e-5
    cosine_continuous    cos(πτ/2), sin(πτ/2), τ = (t+1)/T           v_prediction, sample            0
    flow                 1-τ, τ                                      flow_prediction, sample         0

All but `flow` keep the variance (α² + σ² = 1); on `flow` it dips to 1/2 in the middle.

The tables are float64 because diffusers' own are float32 and off by up to 1.4e-4 in a sampler's coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

Table = npt.NDArray[np.float64]  # [T]

SCHEDULES = ("linear", "scaled_linear", "cosine", "cosine_continuous", "flow")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")

# What published checkpoints state in scheduler_config.json.
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
CHECKPOINT_PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")

# Above it the last x shows the picture, and sampling from pure noise starts where training never was. Latent
# diffusion's own schedule ends at 0.068.
LARGEST_LAST_ALPHA = 0.1

_BETAS: dict[str, dict[str, str | float]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},  # Ho et al. 2020, sec. 4
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},  # Rombach 2022
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},  # Nichol & Dhariwal 2021, eq. 17
}


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The forward process x_t = α_t x_0 + σ_t ε and what the network that is trained on it predicts.

    Attributes:
        name: one of `SCHEDULES`, or what messages call a checkpoint's scheduler.
        alpha: float64 [T], falling, in [0, 1).
        sigma: float64 [T], rising, in (0, 1].
        alpha_bar: float64 [T], ᾱ = α²; kept beside `alpha`, for squaring a root again loses the last bit.
        prediction_type: one of `PREDICTION_TYPES`.

    Raises:
        RequestError: a prediction type that cannot work on this schedule.
    """

    name: str
    alpha: Table
    sigma: Table
    alpha_bar: Table
    prediction_type: str

    @classmethod
    def from_alpha_bar(cls, name: str, alpha_bar: Table, prediction_type: str) -> NoiseSchedule:
        """The variance-preserving schedule of a table ᾱ, float64 [T], falling in [0, 1)."""
        return cls(name, np.sqrt(alpha_bar), np.sqrt(1.0 - alpha_bar), alpha_bar, prediction_type)

    def __post_init__(self) -> None:
        kind = self.prediction_type
        if kind not in PREDICTION_TYPES:
            raise RequestError(f"prediction_type is one of {', '.join(PREDICTION_TYPES)}, received {kind!r}")
        if kind == "epsilon" and self.zero_terminal_snr:
            other = "v_prediction" if self.variance_preserving else "flow_prediction"
            raise RequestError(
                f"ε needs a signal at every timestep, for x̂_0 = (x - σε)/α; received prediction_type epsilon with the "
                f"schedule {self.name}, whose last α is 0; predict {other} or sample, or take the schedule cosine"
            )
        if kind == "v_prediction" and not self.variance_preserving:
            raise RequestError(
                f"v = αε - σx_0 is the velocity where α² + σ² = 1; received v_prediction with the schedule "
                f"{self.name}; predict flow_prediction, or take the schedule cosine_continuous"
            )
        if kind == "flow_prediction" and self.variance_preserving:
            raise RequestError(
                f"ε - x_0 is the velocity of the straight path only; received flow_prediction with the schedule "
                f"{self.name}; take the schedule flow, or predict v_prediction"
            )

    @property
    def timesteps(self) -> int:
        """T, the number of training timesteps."""
        return len(self.alpha)

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether x at T-1 is noise alone, α = 0. Lin et al. 2024, arXiv 2305.08891."""
        return bool(self.alpha[-1] == 0.0)

    @property
    def variance_preserving(self) -> bool:
        """Whether α² + σ² = 1 at every timestep."""
        return bool(np.max(np.abs(self.alpha**2 + self.sigma**2 - 1.0)) < 1e-9)

    def at(self, timestep: int) -> tuple[float, float]:
        """(α, σ) at 0 … T-1; -1 is the clean picture, (1, 0)."""
        if timestep < 0:
            return 1.0, 0.0
        return float(self.alpha[timestep]), float(self.sigma[timestep])

    def alpha_bar_at(self, timestep: int) -> float:
        """ᾱ at 0 … T-1; -1 is the clean picture, ᾱ = 1."""
        return 1.0 if timestep < 0 else float(self.alpha_bar[timestep])

    def coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α and σ at int64 timesteps [B], each [B, 1, …] in the dtype of `like` [B, …], on its device."""
        import torch

        # Rounded to the dtype on the CPU: not every device has float64.
        alpha = torch.from_numpy(self.alpha).to(like.dtype).to(like.device)  # [T]
        sigma = torch.from_numpy(self.sigma).to(like.dtype).to(like.device)  # [T]
        where = timesteps.to(like.device)
        shape = (-1,) + (1,) * (like.dim() - 1)
        return alpha[where].reshape(shape), sigma[where].reshape(shape)

    def log_snr(self) -> Table:
        """ln(α_t² / σ_t²), float64 [T], strictly falling; -inf where α = 0. Kingma et al. 2021, eq. 3."""
        with np.errstate(divide="ignore"):
            return np.asarray(2.0 * (np.log(self.alpha) - np.log(self.sigma)), np.float64)

    def start_timestep(self, strength: float) -> int:
        """The timestep from which img2img redraws a picture at `strength` in (0, 1]: 1.0 is pure noise, t = T-1."""
        if not 0.0 < strength <= 1.0:
            raise RequestError(f"strength lies in (0, 1], received {strength}: 0 would leave the picture as it is")
        return max(round(strength * self.timesteps) - 1, 0)

    def strength(self, timestep: int) -> float:
        """The strength whose start is `timestep`; the inverse of `start_timestep`."""
        return (timestep + 1) / self.timesteps

    def sampling_timesteps(self, start: int, steps: int) -> list[int]:
        """Timesteps of a sampler that goes from `start` to the clean picture in `steps` even strides, falling.

        Never more than start + 1 of them; the stride after the last one ends at the clean picture.
        """
        if not 0 <= start < self.timesteps or steps < 1:
            raise RequestError(
                f"a sampler starts at 0…{self.timesteps - 1} and takes at least 1 step, received {start} and {steps}"
            )
        count = min(steps, start + 1)
        return [round((start + 1) * (count - i) / count) - 1 for i in range(count)]


def named_schedule(name: str, timesteps: int, prediction_type: str) -> NoiseSchedule:
    """One of `SCHEDULES`, with `timesteps` steps (T ≥ 2; 1000 is the field's), for this prediction type.

    Raises:
        RequestError: an unknown name, a prediction type that cannot work there, or a T at which linear betas do not
            reach noise.
    """
    if name not in SCHEDULES:
        raise RequestError(f"a schedule is one of {', '.join(SCHEDULES)}, received {name!r}")
    if timesteps < 2:
        raise RequestError(f"a schedule has at least 2 timesteps, received {timesteps}; 1000 is the field's number")
    if name in _BETAS:
        return _schedule_of_betas(name, timesteps, prediction_type)

    time = np.arange(1, timesteps + 1, dtype=np.float64) / timesteps  # τ in (0, 1]; the clean picture is τ = 0
    if name == "flow":  # Liu et al. 2022, arXiv 2209.03003, eq. 1, with time reversed
        alpha, sigma = 1.0 - time, time
    else:  # cosine_continuous: Salimans & Ho 2022, sec. 4
        alpha, sigma = np.cos(time * np.pi / 2), np.sin(time * np.pi / 2)
        alpha[-1] = 0.0  # cos(π/2) is 6e-17 in floating point
    return NoiseSchedule(name, alpha, sigma, alpha**2, prediction_type)


def _schedule_of_betas(name: str, timesteps: int, prediction_type: str) -> NoiseSchedule:
    alpha_bar = _alpha_bar({**_BETAS[name], "num_train_timesteps": timesteps}, name)
    last = alpha_bar[-1] ** 0.5
    if last > LARGEST_LAST_ALPHA:
        raise RequestError(
            f"a schedule ends in noise, α ≤ {LARGEST_LAST_ALPHA} at the last timestep; {name} with {timesteps} "
            f"timesteps ends at α = {last:.2f}; take timesteps = 1000, or a schedule that is independent of their "
            "number: cosine, cosine_continuous, flow"
        )
    return NoiseSchedule.from_alpha_bar(name, alpha_bar, prediction_type)


def from_scheduler_config(config: Mapping[str, Any], *, name: str = "scheduler") -> NoiseSchedule:
    """Read a diffusers scheduler configuration; what it does not state is diffusers' default.

    Raises:
        RequestError: a beta schedule or prediction type that is not known here. A wrong guess would train silently on
            another noise level: at t = 500 Stable Diffusion's betas keep ᾱ = 0.28 where PixArt-α's keep 0.08.
    """
    prediction = str(config.get("prediction_type", "epsilon"))
    if prediction not in CHECKPOINT_PREDICTION_TYPES:
        raise RequestError(
            f"{name}: prediction_type is one of {', '.join(CHECKPOINT_PREDICTION_TYPES)}, received {prediction!r}"
        )
    if config.get("rescale_betas_zero_snr"):
        raise RequestError(f"{name}: rescale_betas_zero_snr is not supported: SNR 0 has no ε to predict; turn it off")
    return NoiseSchedule.from_alpha_bar(name, _alpha_bar(config, name), prediction)


def _alpha_bar(config: Mapping[str, Any], name: str) -> Table:
    """ᾱ_t = Π (1 - β), float64 [T]. Ho et al. 2020, eq. 4."""
    return np.asarray(np.cumprod(1.0 - _betas(config, name)), np.float64)


def _betas(config: Mapping[str, Any], name: str) -> Table:
    """β_t, float64 [T], of the three families that published checkpoints use (or the table that the file states)."""
    if config.get("trained_betas") is not None:
        return np.asarray(config["trained_betas"], dtype=np.float64)
    count = int(config.get("num_train_timesteps", 1000))
    kind = str(config.get("beta_schedule", "linear"))
    first, last = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    if kind == "linear":
        return np.linspace(first, last, count, dtype=np.float64)
    if kind == "scaled_linear":
        return np.linspace(math.sqrt(first), math.sqrt(last), count, dtype=np.float64) ** 2
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021, eq. 17
        curve = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * np.pi / 2) ** 2
        # β stays below 1: the curve ends at 0, and where ᾱ = 0 an ε gives no x_0.
        return np.asarray(np.minimum(1.0 - curve[1:] / curve[:-1], 0.999), np.float64)
    raise RequestError(f"{name}: beta_schedule is one of {', '.join(BETA_SCHEDULES)}, received {kind!r}")


def matching_timestep(source: NoiseSchedule, timestep: int, target: NoiseSchedule) -> int:
    """The timestep of `target` whose signal-to-noise ratio is nearest (in log) to `source`'s at `timestep`.

    Only so does a strength mean the same for two models: SDXL's t = 361 is as noisy as PixArt-α's t = 263.
    """
    if not 0 <= timestep < source.timesteps:
        raise RequestError(f"{source.name}: a timestep lies in 0…{source.timesteps - 1}, received {timestep}")
    return int(np.argmin(np.abs(target.log_snr() - source.log_snr()[timestep])))
