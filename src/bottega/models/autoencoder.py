"""An autoencoder of a diffusion model, both ways: pictures to scaled latents and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bottega.models.encoding import encode
from bottega.models.loading import choose_device, load_vae
from bottega.runtime.errors import NonFiniteError
from bottega.visual.pictures import from_signed, to_signed


class LatentEncoder:
    """An AutoencoderKL or AutoencoderTiny from its folder, in float32, both ways; latents are the posterior's mean."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.vae = load_vae(folder, "float32").to(self.device).requires_grad_(False)
        self.scaling = float(self.vae.config.scaling_factor)
        self.shift = float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
        """uint8 [N, S, S, 3] -> (z - shift) · scaling_factor, float32 [N, C, h, w] on the CPU.

        Raises:
            NonFiniteError: a latent is NaN or infinite.
        """
        scaled = encode(self.vae, to_signed(pictures, self.device))
        if not bool(scaled.isfinite().all()):
            raise NonFiniteError("an autoencoder must give finite latents, received NaN or infinity; check its weights")
        return scaled

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> npt.NDArray[np.float32]:
        """Scaled latents [N, C, h, w] -> pictures, float32 [N, S, S, 3] in 0…1, clipped; NaN stays NaN."""
        unscaled = latents.to(self.device).float() / self.scaling + self.shift
        return from_signed(self.vae.decode(unscaled).sample)
