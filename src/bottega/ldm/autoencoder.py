"""Pictures to latents and back: by interpolation, or by a real autoencoder, behind one small interface.

Legend: N pictures, S pixels of a side, C × h × w latents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from bottega.ldm.config import AutoencoderConfig
from bottega.visual.pictures import from_signed, to_signed

_DECODE_BATCH = 4
"""Pictures that a real autoencoder decodes at once: at 512 px each takes a gigabyte and more."""

Pictures = npt.NDArray[np.uint8]
FloatPictures = npt.NDArray[np.float32]


class Autoencoder(ABC):
    """Encodes and decodes; `facts` is JSON that the latents depend on, for the fingerprint."""

    facts: dict[str, str | int]

    @abstractmethod
    def encode(self, pictures: Pictures) -> torch.Tensor:
        """uint8 [N, S, S, 3] -> latents, float32 [N, C, h, w] on the CPU."""

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> FloatPictures:
        """Latents [N, C, h, w] -> pictures, float32 [N, S, S, 3] in 0…1, clipped; NaN stays NaN."""


class MockVAE(Autoencoder):
    """Latents are the picture itself in -1 … 1, made smaller by `factor`: averaged to encode, bicubic to decode.

    Nothing is learned, so a fault of the diffusion model cannot hide behind one of the autoencoder. Detail finer than a
    latent is lost.
    """

    def __init__(self, factor: int) -> None:
        self.factor = factor
        self.facts = {"kind": "mock", "factor": factor}

    def encode(self, pictures: Pictures) -> torch.Tensor:
        """See `Autoencoder`; C = 3, h = w = S / factor."""
        return F.avg_pool2d(to_signed(pictures), self.factor)  # [N, 3, S/factor, S/factor]

    def decode(self, latents: torch.Tensor) -> FloatPictures:
        """See `Autoencoder`."""
        pixels = F.interpolate(latents.float().cpu(), scale_factor=float(self.factor), mode="bicubic")  # [N, 3, S, S]
        return from_signed(pixels)


class DiffusersVAE(Autoencoder):
    """An AutoencoderKL or AutoencoderTiny of diffusers; its latents are scaled as its config.json says."""

    def __init__(self, model: str, device: str = "auto") -> None:
        from bottega.models.autoencoder import LatentEncoder
        from bottega.models.hashes import model_hash
        from bottega.models.names import resolve

        folder = resolve(model)
        self.encoder = LatentEncoder(folder, device)
        self.facts = {"kind": "diffusers", "weights": model_hash(folder)}

    def encode(self, pictures: Pictures) -> torch.Tensor:
        """See `Autoencoder`; the mean of the posterior, scaled."""
        return self.encoder.encode(pictures)

    def decode(self, latents: torch.Tensor) -> FloatPictures:
        """See `Autoencoder`."""
        pictures = []
        for first in range(0, len(latents), _DECODE_BATCH):
            pictures.append(self.encoder.decode(latents[first : first + _DECODE_BATCH]))
        return np.concatenate(pictures)


def open_autoencoder(config: AutoencoderConfig, device: str = "auto") -> Autoencoder:
    """The autoencoder that a recipe names.

    Raises:
        MissingError: its weights are not on this machine.
    """
    if config.kind == "mock":
        return MockVAE(config.factor)
    return DiffusersVAE(str(config.model), device)
