"""The network in one call, for tests: `Backbone.prefix` and `Backbone.suffix` together."""

from __future__ import annotations

import torch

from bottega.student.adapter import StyleAdapter
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone


def forward(
    backbone: Backbone,
    adapter: StyleAdapter | None,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    text: torch.Tensor,
    mask: torch.Tensor,
    tokens: torch.Tensor | None = None,
    content: torch.Tensor | None = None,
    style_scale: float = 1.0,
) -> torch.Tensor:
    """Prefix and suffix in one call: the network's whole output [B, C_out, h, w].

    Arguments as in `Backbone.prefix` and `Backbone.suffix`; adapter None: the base model.
    """
    if adapter is None:
        state = backbone.prefix(latents, timesteps, text, mask, 0)
        return backbone.suffix(state, None)
    state = backbone.prefix(latents, timesteps, text, mask, adapter.first_block)
    attachment = Attachment(backbone.transformer, adapter)
    try:
        return backbone.suffix(state, attachment, tokens, timesteps, content, style_scale)
    finally:
        attachment.detach()
