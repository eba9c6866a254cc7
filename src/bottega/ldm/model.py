"""The whole model: a denoiser, and the word encoder that learns with it; checkpoints hold both."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bottega.ldm.config import LDMRecipe
from bottega.ldm.text import ClipText, WordEncoder
from bottega.ldm.unet import UNet
from bottega.runtime.seeds import derive

Condition = tuple[Tensor | None, Tensor | None]
"""States of the text [B, L, F] and which tokens count, bool [B, L]; both None without text."""


class LatentDiffusion(nn.Module):
    """What is trained.

    Weights are a function of the recipe's seed; the state of torch's generator stays as it was.

    Args:
        recipe: its sections `text` and `unet`, and the seed.
        channels: C of the latents.
        vocabulary: the known words, for text.kind words.
        clip: the frozen encoder, for text.kind clip; it is no part of the state.
    """

    def __init__(
        self, recipe: LDMRecipe, channels: int, vocabulary: Sequence[str] = (), clip: ClipText | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("ldm weights", recipe.seed))
            self.words = WordEncoder(recipe.text, vocabulary) if recipe.text.kind == "words" else None
            text = self.words or clip
            self.unet = UNet(recipe.unet, channels, text.width if text is not None else 0)
        self.clip = clip

    def condition(self, captions: Sequence[str]) -> Condition:
        """The text of B captions as the denoiser takes it."""
        if self.words is not None:
            tokens = self.words.tokens(captions).to(self.words.place.device)
            states: Condition = self.words(tokens)
            return states
        if self.clip is not None:
            return self.clip(captions)
        return None, None

    def forward(self, x: Tensor, timesteps: Tensor, condition: Condition = (None, None)) -> Tensor:
        """x_t [B, C, h, w] at timesteps int64 [B] -> what the recipe's prediction_type names, in x's shape."""
        text, mask = condition
        predicted: Tensor = self.unet(x, timesteps, text, mask)
        return predicted
