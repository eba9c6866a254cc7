"""Signal and noise of the base's timesteps, as the trainings of SDXL and of its variants need them.

Dimensions: B batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures

HIGH_NOISE_RATIO = 30.0  # most that (σ/α)² counts: 212 at the last timestep would drown all others


class NoiseLevels:
    """α and σ of a schedule's timesteps."""

    def __init__(self, alpha_bar: npt.NDArray[np.float64]) -> None:
        self.alpha_bar = alpha_bar
        self._alpha, self._sigma = np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)

    @classmethod
    def of_epsilon(cls) -> NoiseLevels:
        """The schedule of the base."""
        return cls(from_scheduler_config(architectures.teacher_scheduler()).alpha_bar)

    @classmethod
    def of_v(cls) -> NoiseLevels:
        """The same, rescaled so that the last timestep is pure noise."""
        from diffusers import DDIMScheduler

        schedule = DDIMScheduler(**architectures.teacher_scheduler(), rescale_betas_zero_snr=True)
        return cls(schedule.alphas_cumprod.double().numpy())

    def at(self, timestep: npt.NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """α and σ, each [B, 1, 1, 1]."""
        return column(self._alpha[timestep]), column(self._sigma[timestep])

    def ratio(self, timestep: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """α / σ, [B]."""
        ratio: npt.NDArray[np.float64] = self._alpha[timestep] / self._sigma[timestep]
        return ratio

    def weight(self, timestep: npt.NDArray[np.int64]) -> torch.Tensor:
        """What a squared error of ε counts, as it moves x̂0 and by 1/max(σ, 0.5)², [B]."""
        noise = self._sigma[timestep]
        weight = np.minimum((noise / self._alpha[timestep]) ** 2, HIGH_NOISE_RATIO) / np.maximum(noise, 0.5) ** 2
        return torch.from_numpy(np.maximum(weight, 0.05)).float()


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise, float32."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def column(values: npt.NDArray[Any]) -> torch.Tensor:
    """Numbers a sample [B] as float32 [B, 1, 1, 1]."""
    return torch.from_numpy(np.asarray(values, np.float32)).view(-1, 1, 1, 1)
