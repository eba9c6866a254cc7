"""Paths from a clean picture to noise, x_t = α_t x_0 + σ_t ε, by name, with what their network predicts.

Legend: T timesteps 0 … T-1, the clean picture stands at -1; α, σ float64 [T].

    name                 α_t, σ_t                                    predictions                     at T-1
    linear               √ᾱ, √(1-ᾱ); β from 1e-4 to 0.02             epsilon, v_prediction, sample   α = 0.0064
    scaled_linear        √ᾱ, √(1-ᾱ); √β from √0.00085 to √0.012      epsilon, v_prediction, sample   α = 0.068
    cosine               √ᾱ, √(1-ᾱ); ᾱ a squared cosine, β ≤ 0.999   epsilon, v_prediction, sample   α = 4.9e-5
    cosine_continuous    cos(πτ/2), sin(πτ/2), τ = (t+1)/T           v_prediction, sample            α = 0
    flow                 1-τ, τ                                      flow_prediction, sample         α = 0

All but `flow` keep the variance (α² + σ² = 1); on `flow` it dips to 1/2 in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bottega.diffusion.schedule import from_scheduler_config
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

SCHEDULES = ("linear", "scaled_linear", "cosine", "cosine_continuous", "flow")
PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")
LARGEST_LAST_ALPHA = 0.1  # above it, x_T shows the picture; latent diffusion's own schedule ends at 0.068
_BETAS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},  # Ho et al. 2020, sec. 4
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},  # Rombach 2022
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},  # Nichol & Dhariwal 2021, eq. 17
}


@dataclass(frozen=True, eq=False)
class Path:
    """A table of α and σ and the prediction type of the network that is trained on it.

    alpha: float64 [T], falling, in [0, 1). sigma: float64 [T], rising, in (0, 1].
    Raises RequestError for a prediction that cannot work on this path.
    """

    name: str
    alpha: npt.NDArray[np.float64]
    sigma: npt.NDArray[np.float64]
    prediction_type: str

    def __post_init__(self) -> None:
        kind = self.prediction_type
        if kind not in PREDICTIONS:
            raise RequestError(f"prediction_type is one of {', '.join(PREDICTIONS)}, received {kind!r}")
        if kind == "epsilon" and self.zero_terminal_snr:
            raise RequestError(
                f"ε needs a signal at every timestep, for x̂_0 = (x - σε)/α; received prediction_type epsilon with the "
                f"schedule {self.name}, whose last α is 0; predict {self._cure()}, or take the schedule cosine"
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

    def _cure(self) -> str:
        return "v_prediction or sample" if self.variance_preserving else "flow_prediction or sample"

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
        """Whether α² + σ² = 1 all along."""
        return bool(np.max(np.abs(self.alpha**2 + self.sigma**2 - 1.0)) < 1e-9)

    def at(self, timestep: int) -> tuple[float, float]:
        """(α, σ) at 0 … T-1; -1 is the clean picture, (1, 0)."""
        return (1.0, 0.0) if timestep < 0 else (float(self.alpha[timestep]), float(self.sigma[timestep]))

    def coefficients(self, timesteps: torch.Tensor, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """α and σ at int64 timesteps [B], each [B, 1, …] in the dtype of `like` [B, …], on its device."""
        import torch

        shape, where = (-1,) + (1,) * (like.dim() - 1), timesteps.to(like.device)
        alpha, sigma = (torch.from_numpy(table).to(like.dtype).to(like.device) for table in (self.alpha, self.sigma))
        return alpha[where].reshape(shape), sigma[where].reshape(shape)


def schedule(name: str, timesteps: int, prediction_type: str) -> Path:
    """The path of this name with `timesteps` steps (T ≥ 2; 1000 is the field's) for this prediction type.

    Raises RequestError for an unknown name, a prediction that cannot work there, and a T at which linear betas do not
    reach noise.
    """
    if name not in SCHEDULES:
        raise RequestError(f"a schedule is one of {', '.join(SCHEDULES)}, received {name!r}")
    if timesteps < 2:
        raise RequestError(f"a schedule has at least 2 timesteps, received {timesteps}; 1000 is the field's number")
    if name in _BETAS:
        bar = from_scheduler_config({**_BETAS[name], "num_train_timesteps": timesteps}, name=name).alpha_bar
        if bar[-1] ** 0.5 > LARGEST_LAST_ALPHA:
            raise RequestError(
                f"a path ends in noise, α ≤ {LARGEST_LAST_ALPHA} at the last timestep; {name} with {timesteps} "
                f"timesteps ends at α = {bar[-1] ** 0.5:.2f}; take timesteps = 1000, or a schedule that is independent "
                "of their number: cosine, cosine_continuous, flow"
            )
        return Path(name, np.sqrt(bar), np.sqrt(1.0 - bar), prediction_type)
    time = np.arange(1, timesteps + 1, dtype=np.float64) / timesteps  # τ in (0, 1]; the clean picture is τ = 0
    if name == "flow":  # Liu et al. 2022, arXiv 2209.03003, eq. 1, with the time turned round
        return Path(name, 1.0 - time, time, prediction_type)
    alpha = np.cos(time * np.pi / 2)  # Salimans & Ho 2022, sec. 4
    alpha[-1] = 0.0  # cos(π/2) is 6e-17 in floating point
    return Path(name, alpha, np.sin(time * np.pi / 2), prediction_type)
