"""From latents to pixels, and which precision it took.

The autoencoder of SDXL overflows in float16, and a cast to uint8 makes black of the NaN that comes out. So decoding is
done here and not in a pipeline, whose clamp hides infinite values: values that are not finite stay, the picture is
decoded again in float32 where the first try was not finite, and the answer says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.visual.pictures import from_signed


@dataclass(frozen=True, eq=False)
class Decoded:
    """One decoded picture.

    pixels: float32 [H, W, 3] in 0..1 where finite; NaN and infinity are left in. finite_latents: share of the latent's
    values that are finite. dtype: in which it was decoded, in torch's name without the prefix. again: whether that was
    the second try, in float32.
    """

    pixels: npt.NDArray[np.float32]
    finite_latents: float
    dtype: str
    again: bool


@torch.no_grad()
def decode(vae: Any, latent: torch.Tensor) -> Decoded:
    """Decode one latent; where a value is not finite, again in float32.

    Args:
        vae: AutoencoderKL or AutoencoderTiny.
        latent: scaled, [1, C, h, w], on the autoencoder's device.
    """
    return decode_batch(vae, latent)[0]


@torch.no_grad()
def decode_batch(vae: Any, latents: torch.Tensor) -> list[Decoded]:
    """Decode latents [B, C, h, w] together, and those that do not become finite again in float32; see `decode`."""
    dtype = vae.dtype
    found: list[Decoded] = []
    for latent, pixels in zip(latents, _decode_once(vae, latents), strict=True):
        share = float(latent.isfinite().float().mean())
        finite = share == 1.0 and bool(np.isfinite(pixels).all())
        again = not finite and dtype != torch.float32
        if again:
            with in_float32(vae):
                pixels = _decode_once(vae, latent[None])[0]
        used = torch.float32 if again else dtype
        found.append(Decoded(pixels, share, str(used).removeprefix("torch."), again))
    return found


def _decode_once(vae: Any, latents: torch.Tensor) -> npt.NDArray[np.float32]:
    mean, std = latent_statistics(vae, latents)
    unscaled = latents.float() * std / vae.config.scaling_factor + mean
    with without_autocast(latents.device):
        pixels = vae.decode(unscaled.to(vae.dtype), return_dict=False)[0]
    pictures: npt.NDArray[np.float32] = from_signed(pixels, keep_infinite=True)
    return pictures


def latent_statistics(vae: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of the latents a channel, [1, C, 1, 1]; 0 and 1 for most autoencoders."""
    channels = like.shape[1]
    mean, std = getattr(vae.config, "latents_mean", None), getattr(vae.config, "latents_std", None)
    if mean is None or std is None:
        shift = float(getattr(vae.config, "shift_factor", None) or 0.0)
        mean, std = [shift] * channels, [1.0] * channels

    def shaped(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=like.device).view(1, channels, 1, 1)

    return shaped(mean), shaped(std)


@contextmanager
def in_float32(vae: Any) -> Iterator[None]:
    """The autoencoder in float32 for a moment. Every fp16 or bf16 value is an fp32 value: casting back is exact."""
    dtype = vae.dtype
    if dtype == torch.float32:
        yield
        return
    # torch's own `to`: diffusers' warns at each cast that layers may be meant to stay in float32.
    torch.nn.Module.to(vae, torch.float32)
    try:
        yield
    finally:
        torch.nn.Module.to(vae, dtype)


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast would run the autoencoder in the very precision that it must be kept from."""
    return torch.autocast(device.type, enabled=False)
