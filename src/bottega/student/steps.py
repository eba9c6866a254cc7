"""The step schedule: the factor on the style's gates at a timestep, one function for training and sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bottega.student.config import StepScheduleConfig


def style_factor(config: StepScheduleConfig, timesteps: torch.Tensor, total: int) -> torch.Tensor:
    """The factor at each timestep.

    piecewise: 1 where begin ≤ t/T ≤ end, else `low`. cosine: low + (1-low)·½(1 + cos(π t/T)), which lets the style in
    late, when texture is drawn, and the content early, when the layout is.

    Args:
        config: the kind of schedule, and where it begins and ends.
        timesteps: int [B], 0 … total-1.
        total: T.

    Returns:
        float32 [B], 0…1.
    """
    import torch

    time = timesteps.float() / total  # [B]
    if config.kind == "piecewise":
        inside = (time >= config.begin) & (time <= config.end)
        return torch.where(inside, 1.0, config.low)
    if config.kind == "cosine":
        return config.low + (1 - config.low) * 0.5 * (1 + torch.cos(torch.pi * time))
    return torch.ones_like(time)
