"""The three encoders of the feature cache, each loaded for its own pass and freed after it.

Pictures go in as uint8 [N, S, S, 3]; every encoder is deterministic: latents are the posterior's mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from bottega.models.hashes import file_hash, folder_hash, model_hash
from bottega.models.loading import load_pixart_parts
from bottega.models.weights import FETCH_AGAIN
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import sha256_json
from bottega.runtime.records import read_record

Pictures = npt.NDArray[np.uint8]


class TextEncoder:
    """T5 with its tokenizer, of a PixArt folder.

    Args:
        pixart: the folder.
        tokens: of a caption at most; the rest is cut.
        dtype: of T5.
        device: of T5.
    """

    def __init__(self, pixart: Path, tokens: int, dtype: str = "auto", device: str = "auto") -> None:
        parts = load_pixart_parts(pixart, ("tokenizer", "text_encoder"), dtype, device)
        self.tokenizer = parts["tokenizer"]
        self.model = parts["text_encoder"]
        self.limit = tokens

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> list[torch.Tensor]:
        """The states of each caption's own tokens, [m_i, P] on the CPU, in the model's dtype.

        Raises:
            NonFiniteError: T5 overflowed, as it does in float16.
        """
        inputs = self.tokenizer(
            [clean(caption) for caption in captions],
            padding="longest",
            max_length=self.limit,
            truncation=True,
            add_special_tokens=True,
            return_tensors="pt",
        )
        ids = inputs["input_ids"].to(self.model.device)  # [B, M]
        mask = inputs["attention_mask"].to(self.model.device)  # [B, M]
        states = self.model(ids, attention_mask=mask).last_hidden_state.cpu()  # [B, M, P]
        if not bool(states[mask.bool().cpu()].isfinite().all()):
            raise NonFiniteError("T5 gave states that are not finite (float16?); use models.dtype bfloat16 or float32")
        lengths = mask.sum(1).tolist()  # tokens of each caption
        return [state[:length].clone() for state, length in zip(states, lengths, strict=True)]

    def read(self, caption: str) -> str:
        """What of a caption is read: itself, or its beginning where it has more tokens than the limit."""
        text = clean(caption)
        if len(self.tokenizer(text, verbose=False)["input_ids"]) <= self.limit:
            return caption
        kept = self.tokenizer(text, max_length=self.limit, truncation=True)["input_ids"]
        return str(self.tokenizer.decode(kept, skip_special_tokens=True))


def clean(caption: str) -> str:
    """A caption as PixArtAlphaPipeline passes it to T5 with `clean_caption=False`.

    By default too where bs4 and ftfy are not installed; with them it takes out more, such as links and hashes.
    """
    return caption.lower().strip()


class Sizes(TypedDict):
    """Of a PixArt model: side of a picture and of its latents, their ratio, and channels of the latents."""

    pixels: int
    cells: int
    pixels_per_cell: int
    channels: int


_Blocks = Annotated[list[int], Field(min_length=1, max_length=8)]


@dataclass(frozen=True)
class _TransformerFile:
    """What is read of transformer/config.json."""

    sample_size: Annotated[int, Field(gt=0, le=4096)]
    in_channels: Annotated[int, Field(gt=0, le=4096)]


@dataclass(frozen=True)
class _AutoencoderFile:
    """What is read of vae/config.json."""

    block_out_channels: _Blocks | None = None
    encoder_block_out_channels: _Blocks | None = None


def sizes(pixart: Path) -> Sizes:
    """The sizes of a PixArt folder, from its configurations."""
    transformer = read_record(pixart / "transformer" / "config.json", _TransformerFile, FETCH_AGAIN)
    vae_file = pixart / "vae" / "config.json"
    vae = read_record(vae_file, _AutoencoderFile, FETCH_AGAIN)
    blocks = vae.block_out_channels or vae.encoder_block_out_channels  # AutoencoderKL, AutoencoderTiny
    if blocks is None:
        raise RequestError(f"{vae_file}: block_out_channels says the latents' scale, it is absent; {FETCH_AGAIN}")
    per_cell = 2 ** (len(blocks) - 1)
    cells = transformer.sample_size
    return {
        "pixels": cells * per_cell,
        "cells": cells,
        "pixels_per_cell": per_cell,
        "channels": transformer.in_channels,
    }


def encoder_hashes(pixart: Path, clip: Path) -> dict[str, str]:
    """The hash of what makes each kind of feature."""
    tokenizer = [file_hash(file) for file in sorted(clip.glob("*token*"))]
    return {
        "latent": model_hash(pixart / "vae"),
        "text": sha256_json([model_hash(pixart / "text_encoder"), folder_hash(pixart / "tokenizer")]),
        "clip": model_hash(clip),
        "caption": sha256_json([model_hash(clip), *tokenizer]),
    }


def load_clip(clip: Path, device: str) -> Any:
    """CLIP's encoder in float32."""
    from bottega.models.encoders import ClipEncoder

    return ClipEncoder(clip, device=device)
