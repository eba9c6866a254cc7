"""What a diffusion network predicts, measured instead of believed.

At the last timestep of a noise schedule the input x is noise and hardly anything else, so no network can know the
picture: its guess of x₀ is the mean of all pictures. What it gives out then tells what it was trained for:

    ε           x again: the slope of the output over x is 1, and nothing else is in it
    flow        ε − x₀: the slope is 1, and the mean picture is in it, of deviation 0.3 to 0.5 in latents
    v           α ε − σ x₀: the slope is α, 0.07 for SDXL's schedule and 0 for zero terminal SNR

So the slope tells v from the others, and the correlation, which the mean picture lowers, ε from flow. The correlation
alone would not do: of a v network it depends on how flat its mean picture is (0.35 to 0.76 in a short training), and
the flow of a trained network has 0.90 to 0.95, where one of unit deviation would have 0.7.

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

EPSILON_FROM = 0.98
"""Correlation from which a network predicts ε. What the input does not explain, 1 − r², is 0.016 of the miniature's ε,
0 of its PixArt and 0.1 and more of its flows: the border, 0.04, is midway between as a ratio."""

SLOPE_FROM = 0.65
"""Slope below which a network predicts v: midway between the miniature's v networks (0.2 to 0.3) and its ε (1.0), see
benchmarks/prediction_type.py."""

SAMPLES = 4  # noises that the correlation is averaged over; one alone scatters by 0.02 on latents of 16 x 16 cells


@dataclass(frozen=True)
class MeasuredPrediction:
    """What was measured.

    correlation: of input and output, −1 to 1. slope: of the output over the input, by least squares.
    """

    prediction_type: PredictionType
    correlation: float
    slope: float

    @property
    def is_clear(self) -> bool:
        """Whether it is well away from the borders between two types; else the verdict is a guess."""
        if abs(self.slope - SLOPE_FROM) < 0.1:
            return False
        unexplained = (1 - self.correlation**2) / (1 - EPSILON_FROM**2)
        return self.prediction_type == "v_prediction" or not 0.8 < unexplained < 1.25


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
    correlation, slope = _correlation_and_slope(noise, output)
    return MeasuredPrediction(_type_of(correlation, slope), correlation, slope)


def _type_of(correlation: float, slope: float) -> PredictionType:
    if slope < SLOPE_FROM:
        return "v_prediction"
    return "epsilon" if correlation >= EPSILON_FROM else "flow"


def _correlation_and_slope(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """Pearson's correlation, and the slope of y over x; means over samples [B, C, h, w]."""
    x = (x - x.mean((1, 2, 3), keepdim=True)).flatten(1)
    y = (y - y.mean((1, 2, 3), keepdim=True)).flatten(1)
    product = (x * y).sum(1)
    correlation = product / (x.norm(dim=1) * y.norm(dim=1)).clamp(min=1e-12)  # an output of zeros correlates with none
    return float(correlation.mean()), float((product / x.square().sum(1)).mean())
