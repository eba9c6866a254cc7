"""From pixels to scaled latents, in float32 whatever the autoencoder's dtype.

In float16 SDXL's encoder overflows as its decoder does, and in bfloat16 latents are off by 1 % (a random KL
autoencoder of the published layout), so that an adapter would be trained on other latents than it draws from. diffusers
encodes in float32 too wherever `force_upcast` is true, as it is in SDXL's own configuration.
"""

from __future__ import annotations

from typing import Any

import torch

from bottega.models.decoding import in_float32, latent_statistics, without_autocast


@torch.no_grad()
def encode(vae: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The posterior's mode of each picture, scaled.

    Args:
        vae: AutoencoderKL or AutoencoderTiny; its dtype is the same afterwards.
        pixels: float32 [N, 3, S, S] in -1…1, on the autoencoder's device.

    Returns:
        Float32 [N, C, h, w] on the CPU; NaN and infinity are left in, for the caller to name what they belong to.
    """
    with in_float32(vae), without_autocast(pixels.device):
        encoded = vae.encode(pixels)
    # AutoencoderTiny has no distribution, only latents.
    latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
    mean, std = latent_statistics(vae, latents)
    scaled: torch.Tensor = (latents.float() - mean) * vae.config.scaling_factor / std
    return scaled.cpu()
