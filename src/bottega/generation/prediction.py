"""What a diffusion network predicts, measured instead of believed.

At the last timestep of a noise schedule the input is noise and hardly anything else. So a network that predicts ε
gives back its input (correlation near 1); one that predicts v = α ε − σ x₀ with α near 0 gives minus its guess of the
picture, which no noise determines (near 0); and one that predicts rectified flow's ε − x₀ is between: the variances of
ε and x₀ add up, so with pictures of deviation s the correlation is 1/√(1 + s²), 0.7 for s = 1.

A label in a file or a folder says what somebody believed. A v-prediction model sampled as ε draws noise, and an ε model
sampled as v draws fog.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bottega.generation.records import PredictionType
from bottega.runtime.errors import NonFiniteError

Network = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x [B, C, h, w], timesteps [B]) -> the network's output [B, C, h, w], unconditional."""

EPSILON_FROM = 0.87
FLOW_FROM = 0.40
"""Borders of the correlation, midway between what the miniatures of each kind show (benchmarks/prediction_type.py)."""

SAMPLES = 4  # noises that the correlation is averaged over; one alone scatters by 0.02 on latents of 16 x 16 cells


@dataclass(frozen=True)
class MeasuredPrediction:
    """What was measured.

    correlation: of input and output, −1 to 1. distance: how far it is from the nearest border; below 0.05 the verdict
    is a guess.
    """

    prediction_type: PredictionType
    correlation: float

    @property
    def distance(self) -> float:
        """How far the correlation is from the nearest border between two types."""
        return min(abs(self.correlation - EPSILON_FROM), abs(self.correlation - FLOW_FROM))


@torch.no_grad()
def measure_prediction_type(
    network: Network, shape: tuple[int, int, int], *, timestep: int, dtype: torch.dtype, device: torch.device
) -> MeasuredPrediction:
    """Tell ε, v and rectified flow apart by one pass on pure noise.

    Args:
        network: the U-Net or transformer with its conditions filled in; an empty prompt is best.
        shape: of one latent, (C, h, w).
        timestep: the last one of the training schedule, 999.
        dtype: of the network's input.
        device: of the network's input.

    Raises:
        NonFiniteError: the network's output is NaN or infinite.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    noise = torch.randn((SAMPLES, *shape), generator=generator)
    timesteps = torch.full((SAMPLES,), timestep, device=device)
    output = network(noise.to(device, dtype), timesteps).float().cpu()
    if not bool(output.isfinite().all()):
        raise NonFiniteError(
            "a network must answer noise with finite numbers, received NaN or infinity; its weights are broken, or "
            "overflow in this dtype: try bfloat16 or float32"
        )
    correlation = _correlation(noise, output)
    return MeasuredPrediction(_type_of(correlation), correlation)


def _type_of(correlation: float) -> PredictionType:
    if correlation >= EPSILON_FROM:
        return "epsilon"
    if correlation >= FLOW_FROM:
        return "flow"
    return "v_prediction"


def _correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Pearson's correlation, the mean over samples."""
    x = (a - a.mean((1, 2, 3), keepdim=True)).flatten(1)
    y = (b - b.mean((1, 2, 3), keepdim=True)).flatten(1)
    scale = x.norm(dim=1) * y.norm(dim=1)
    return float(((x * y).sum(1) / scale).mean())
