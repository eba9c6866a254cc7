"""Pictures and captions as the networks in training read them: latents, CLIP embeddings, text states.

Dimensions: N pictures, B batch, L text tokens, D text width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bottega.visual.pictures import Pictures, to_signed

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Latents = npt.NDArray[np.float16]  # [N, 4, 32, 32], scaled


def to_clip(pictures: Pictures) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] with CLIP's mean and deviation."""
    mean = torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD).view(1, 3, 1, 1)
    return ((to_signed(pictures) + 1) / 2 - mean) / std


@torch.no_grad()
def encode(vae: Any, pictures: Pictures, scaling: float, batch: int = 32) -> Latents:
    """Pictures [N, 128, 128, 3] -> scaled latents [N, 4, 32, 32]."""
    parts = []
    for start in range(0, len(pictures), batch):
        parts.append(vae.encode(to_signed(pictures[start : start + batch])).latents * scaling)
    latents: Latents = torch.cat(parts).half().numpy()
    return latents


@torch.no_grad()
def embed(clip: Any, pictures: Pictures, batch: int = 64) -> npt.NDArray[np.float32]:
    """Pictures -> projected CLIP embeddings as the IP-Adapter receives them (not normalised), [N, D]."""
    parts = []
    for start in range(0, len(pictures), batch):
        pooled = clip.vision_model(pixel_values=to_clip(pictures[start : start + batch])).pooler_output
        parts.append(clip.visual_projection(pooled))
    embeddings: npt.NDArray[np.float32] = torch.cat(parts).numpy()
    return embeddings


class SDXLText(torch.nn.Module):
    """Both text encoders as SDXL's pipeline uses them: second to last states side by side, pooled from the second."""

    def __init__(self, tokenizer: Any, clip: Any, second: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.first = clip.text_model
        self.second = second

    @torch.no_grad()
    def forward(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> (states [B, 77, 2 D], pooled [B, D]); an empty caption gives zeros, as SDXL's pipeline does."""
        return read_captions(self.tokenizer, self.first, self.second, captions)


def read_captions(tokenizer: Any, first: Any, second: Any, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """What `SDXLText` gives, with gradients where the encoders are trained; `first` and `second` are the encoders."""
    tokens = tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    read = first(input_ids=tokens.input_ids, output_hidden_states=True)
    read_too = second(input_ids=tokens.input_ids, output_hidden_states=True)
    states = torch.cat([read.hidden_states[-2], read_too.hidden_states[-2]], -1)  # [B, 77, 2 D]
    keep = torch.tensor([[float(bool(caption))] for caption in captions])  # [B, 1]
    return states * keep[..., None], read_too.text_embeds * keep
