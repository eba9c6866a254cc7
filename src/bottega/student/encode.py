"""The three encoders of the feature cache, each loaded for its own pass and let go after it.

Pictures go in as uint8 [N, S, S, 3]; every encoder is deterministic: latents are the posterior's mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.models.loading import choose_device, load_pixart_parts, load_vae, weight_files
from bottega.models.weights import read_config
from bottega.runtime.errors import NonFiniteError
from bottega.runtime.files import sha256_file, sha256_json

Pictures = npt.NDArray[np.uint8]
_BLOB = re.compile(r"[0-9a-f]{64}")


class LatentEncoder:
    """The autoencoder of a PixArt folder, in float32, both ways."""

    def __init__(self, pixart: Path, device: str = "auto") -> None:
        self.device = choose_device(device)
        self.vae = load_vae(pixart / "vae", "float32").to(self.device).requires_grad_(False)
        self.scaling = float(self.vae.config.scaling_factor)
        self.shift = float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pictures: Pictures) -> torch.Tensor:
        """uint8 [N, S, S, 3] -> (z - shift) · scaling_factor, float32 [N, C, h, w] on the CPU; finite or
        NonFiniteError."""
        pixels = torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1.0  # [N, 3, S, S]
        out = self.vae.encode(pixels)
        latents = out.latent_dist.mean if hasattr(out, "latent_dist") else out.latents
        scaled: torch.Tensor = ((latents - self.shift) * self.scaling).float().cpu()
        if not bool(scaled.isfinite().all()):
            raise NonFiniteError("the autoencoder gave latents that are not finite; check its weights")
        return scaled

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> npt.NDArray[np.float32]:
        """Scaled latents [N, C, h, w] -> pictures, float32 [N, S, S, 3] in 0…1, clipped; NaN stays NaN."""
        pixels = self.vae.decode(latents.to(self.device).float() / self.scaling + self.shift).sample
        array: npt.NDArray[np.float32] = (pixels.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
        return array


class TextEncoder:
    """T5 with its tokenizer, of a PixArt folder. Captions are treated as the pipeline treats them: lower case,
    stripped."""

    def __init__(self, pixart: Path, tokens: int, dtype: str = "auto", device: str = "auto") -> None:
        parts = load_pixart_parts(pixart, ("tokenizer", "text_encoder"), dtype, device)
        self.tokenizer, self.model = parts["tokenizer"], parts["text_encoder"]
        self.limit = tokens

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """The states of each caption's own tokens, [m_i, P] on the CPU, in the model's dtype."""
        inputs = self.tokenizer(
            [clean(caption) for caption in captions],
            padding="longest",
            max_length=self.limit,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        ids, mask = (inputs[name].to(self.model.device) for name in ("input_ids", "attention_mask"))
        states = self.model(ids, attention_mask=mask).last_hidden_state.cpu()
        if not bool(states[mask.bool().cpu()].isfinite().all()):
            raise NonFiniteError("T5 gave states that are not finite (float16?); use models.dtype bfloat16 or float32")
        return [state[: int(length)].clone() for state, length in zip(states, mask.sum(1).cpu(), strict=True)]


def clean(caption: str) -> str:
    """A caption as PixArtAlphaPipeline passes it to T5 by default."""
    return caption.lower().strip()


def sizes(pixart: Path) -> dict[str, int]:
    """{pixels: side of a picture, cells: side of its latents, pixels_per_cell, channels} from the folder's
    configurations."""
    transformer = read_config(pixart / "transformer" / "config.json")
    vae = read_config(pixart / "vae" / "config.json")
    blocks = vae.get("block_out_channels") or vae["encoder_block_out_channels"]
    per_cell = 2 ** (len(blocks) - 1)
    cells = int(transformer["sample_size"])
    return {
        "pixels": cells * per_cell,
        "cells": cells,
        "pixels_per_cell": per_cell,
        "channels": int(transformer["in_channels"]),
    }


def model_hash(folder: Path) -> str:
    """A hash of a model's weights and configuration; a file of the Hugging Face cache is named by its hash already."""
    files = [*weight_files(folder), folder / "config.json"]
    return sha256_json({file.name: _file_hash(file) for file in files})


def folder_hash(folder: Path) -> str:
    """A hash of all files of a small folder, such as a tokenizer's."""
    return sha256_json({file.name: _file_hash(file) for file in sorted(folder.iterdir()) if file.is_file()})


def _file_hash(file: Path) -> str:
    target = file.resolve().name
    return target if file.is_symlink() and _BLOB.fullmatch(target) else sha256_file(file)


def encoder_hashes(pixart: Path, clip: Path) -> dict[str, str]:
    """The hash of what makes each kind of feature."""
    return {
        "latent": model_hash(pixart / "vae"),
        "text": sha256_json([model_hash(pixart / "text_encoder"), folder_hash(pixart / "tokenizer")]),
        "clip": model_hash(clip),
        "caption": sha256_json([model_hash(clip), *(_file_hash(file) for file in sorted(clip.glob("*token*")))]),
    }


def load_clip(clip: Path, device: str) -> Any:
    """CLIP's encoder in float32."""
    from bottega.models.encoders import ClipEncoder

    return ClipEncoder(clip, device=device)
