"""The step schedule: the factor on the style's gates at a timestep, one function for training and sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bottega.student.config import StepScheduleConfig


def style_factor(config: StepScheduleConfig, timesteps: torch.Tensor, total: int) -> torch.Tensor:
    """Factor in 0…1 for each timestep, float32 [B], from integer timesteps [B] of 0 … total-1.

    piecewise: 1 where begin ≤ t/T ≤ end, else `low`. cosine: low + (1-low)·½(1 + cos(π t/T)), which lets the style in
    late, when texture is drawn, and the content early, when the layout is.
    """
    import torch

    part = timesteps.float() / total
    if config.kind == "piecewise":
        inside = (part >= config.begin) & (part <= config.end)
        return torch.where(inside, 1.0, config.low)
    if config.kind == "cosine":
        return config.low + (1 - config.low) * 0.5 * (1 + torch.cos(torch.pi * part))
    return torch.ones_like(part)
