"""Text states of equal size in every direction, so that a long training learns all words at the same pace.

In the states of the miniature's text encoders the word for a shape moves a token by 12, the word for a colour by 45,
and what all captions share is 60 long. A linear layer learns what is small last: after 120 000 captions the wrong word
for a shape raised the error of a prediction by 2 %, no caption at all by 22 %. So the trainings multiply the states by
a matrix M, and the weights that read them hold W M⁻¹ meanwhile. The product is the same network, and the exported
weights are W.

Dimensions: B batch, L text tokens, D width of both encoders together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bottega.miniature.builder.encoding import SDXLText
from bottega.miniature.painters import painter
from bottega.miniature.ranges import LONG_TRAINING_PAINTERS
from bottega.miniature.scenes import scene
from bottega.miniature.words import STYLE_PHRASE

CAPTIONS = 256  # whose states are measured; 77 tokens each
LEAST = 0.02  # of the mean square of a direction, added to every one's: what hardly varies is not blown up


class TextScaling(torch.nn.Module):
    """The matrix M and its inverse, both symmetric, [D, D]; buffers, so that a state holds them.

    Args:
        text: both text encoders.
    """

    matrix: torch.Tensor
    inverse: torch.Tensor

    def __init__(self, text: SDXLText) -> None:
        super().__init__()
        states, _ = text(_captions())
        tokens = states.flatten(0, 1).double()  # [B L, D]
        squares, directions = torch.linalg.eigh(tokens.T @ tokens / len(tokens))
        squares = squares.clamp(min=0)
        sizes = (squares + LEAST * squares.mean()).sqrt()
        self.register_buffer("matrix", (directions / sizes @ directions.T).float())
        self.register_buffer("inverse", (directions * sizes @ directions.T).float())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States [B, L, D] as the weights in training read them."""
        return states @ self.matrix

    def enter(self, unet: Any) -> None:
        """Turn a U-Net that reads text states into one that reads scaled ones."""
        self._multiply(unet, self.inverse)

    @contextmanager
    @torch.no_grad()
    def left(self, unet: Any) -> Iterator[None]:
        """Turn it into one that reads text states, and afterwards back into what it was, to the bit.

        Another product with M⁻¹ would round: a test's weights came back more than 1e-5 of the largest from what they
        were.
        """
        layers = _readers_of_text(unet)
        kept = [layer.weight.clone() for layer in layers]
        self._multiply(unet, self.matrix)
        try:
            yield
        finally:
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)

    @staticmethod
    @torch.no_grad()
    def _multiply(unet: Any, matrix: torch.Tensor) -> None:
        for layer in _readers_of_text(unet):
            layer.weight.copy_(layer.weight @ matrix)


def _readers_of_text(unet: Any) -> list[torch.nn.Linear]:
    """Layers whose input is text states."""
    layers = []
    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            layers += [module.to_k, module.to_v]
    return layers


class ScaledText:
    """Both text encoders, their states scaled; for the gates of a U-Net in training."""

    def __init__(self, text: SDXLText, scaling: TextScaling) -> None:
        self.text, self.scaling = text, scaling

    def __call__(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Captions -> (scaled states [B, 77, D], pooled [B, D / 2])."""
        states, pooled = self.text(captions)
        return self.scaling(states), pooled


def _captions() -> list[str]:
    captions = []
    for index in range(CAPTIONS):
        content = scene(index).caption(index)
        style = painter(LONG_TRAINING_PAINTERS + index).words
        captions.append(f"{content} {STYLE_PHRASE} {style}" if index % 4 == 0 else content)
    return captions
