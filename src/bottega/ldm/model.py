"""The whole model: a denoiser, and the words that it learns with it; saved in checkpoints and drawn with alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bottega.ldm.config import LDMRecipe
from bottega.ldm.text import ClipText, Words
from bottega.ldm.unet import UNet
from bottega.runtime.seeds import derive

Condition = tuple[Tensor | None, Tensor | None]


class LatentDiffusion(nn.Module):
    """What is trained. channels: C of the latents. vocabulary: for text.kind words. clip: for text.kind clip; it is
    frozen, so it is no part of the state.

    Weights are a function of the recipe's seed; the state of torch's generator is left as it was.
    """

    def __init__(
        self, recipe: LDMRecipe, channels: int, vocabulary: Sequence[str] = (), clip: ClipText | None = None
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive("ldm weights", recipe.seed))
            self.words = Words(recipe.text, vocabulary) if recipe.text.kind == "words" else None
            text = self.words or clip
            self.unet = UNet(recipe.unet, channels, text.width if text is not None else 0)
        self._clip = [clip]  # in a list, so that it is no part of this module

    def condition(self, captions: Sequence[str]) -> Condition:
        """The text of B captions as the denoiser takes it: states [B, L, F] and bool [B, L]; None without text."""
        clip = self._clip[0]
        if self.words is not None:
            tokens = self.words.tokens(captions).to(self.words.place.device)
            states: Condition = self.words(tokens)
            return states
        return clip(captions) if clip is not None else (None, None)

    def forward(self, x: Tensor, timesteps: Tensor, condition: Condition = (None, None)) -> Tensor:
        """[B, C, h, w], int64 [B] -> what the recipe's prediction_type names, of x's shape."""
        predicted: Tensor = self.unet(x, timesteps, *condition)
        return predicted
