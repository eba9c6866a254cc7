"""From the noised start to the target: which noise a training picture gets, and where sampling starts.

    content mode               x_t                     training timesteps
    sdedit                     α z_target + σ ε        0 … T-1
    paired                     α z_target + σ ε̃        0 … s
    latent, start: content     as paired
    latent, start: noise       as sdedit, s = T-1

s is the start timestep, given by the img2img strength. ε̃ = ε + (α_s/σ_s)(z_content - z_target) makes the noised
content a noised target at s, see `bottega.diffusion.process.effective_noise`: sampling that starts from the content
then ends at the target.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottega.diffusion.process import effective_noise

if TYPE_CHECKING:
    import torch

    from bottega.diffusion.schedule import NoiseSchedule
    from bottega.student.config import AdapterConfig


@dataclass(frozen=True)
class NoisingTrajectory:
    """How training pictures are noised.

    Args:
        start: s, the timestep at which sampling starts.
        paired: whether the noise depends on the content (ε̃); it is then right for this start alone.
    """

    start: int
    paired: bool

    @classmethod
    def of(cls, config: AdapterConfig, schedule: NoiseSchedule) -> NoisingTrajectory:
        """For an adapter's content mode, start and strength."""
        start = schedule.timesteps - 1 if config.start == "noise" else schedule.start_timestep(config.strength)
        paired = config.content_mode != "sdedit" and config.start == "content"
        return cls(start, paired)

    def last(self, schedule: NoiseSchedule) -> int:
        """The noisiest timestep of training: s where the noise depends on it, else T-1."""
        return self.start if self.paired else schedule.timesteps - 1

    def noise(
        self, schedule: NoiseSchedule, noise: torch.Tensor, content: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """ε̃ where it is paired, else ε; all float32 [B, C, h, w]."""
        if not self.paired:
            return noise
        bar = schedule.alpha_bar_at(self.start)
        effective: torch.Tensor = effective_noise(noise, content, target, bar**0.5, (1.0 - bar) ** 0.5)
        return effective
