"""Attention for the long trainings on a CPU: its backward pass is a few matrix products.

PyTorch's own backward of `scaled_dot_product_attention` on a CPU takes a third of a training step of the miniature's
U-Net (9 ms a layer at 16 × 256 tokens in bfloat16, AMX); the products here take 3. The forward pass is PyTorch's.

Dimensions: B batch, h heads, N query tokens, L key tokens, d width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class _Attention(torch.autograd.Function):
    """softmax(q kᵀ / √d) v for queries [B, h, N, d], keys and values [B, h, L, d], without a mask."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        result, _ = forward(query, key, value)  # [B, h, N, d]
        ctx.save_for_backward(query, key, value)
        attended: torch.Tensor = result
        return attended

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value = ctx.saved_tensors
        (gradient,) = gradients
        scale = query.shape[-1] ** -0.5
        # In float32: bfloat16 rounds a score of 100 by up to 0.25. Less the forward pass's logarithm of their sum, such
        # scores made weights that did not sum to 1, and gradients a thousand times too large.
        scores = torch.matmul(query.float(), key.float().transpose(-1, -2))
        weights = scores.mul_(scale).softmax(-1)  # [B, h, N, L]
        of_value = torch.matmul(weights.to(query.dtype).transpose(-1, -2), gradient)
        of_weights = torch.matmul(gradient, value.transpose(-1, -2)).float()
        # Of each row, what changes nothing because the weights sum to 1.
        shared = (weights * of_weights).sum(-1, keepdim=True)
        of_scores = weights.mul_(of_weights.sub_(shared)).mul_(scale).to(query.dtype)
        of_query = torch.matmul(of_scores, key)
        of_key = torch.matmul(of_scores.transpose(-1, -2), query)
        return of_query, of_key, of_value


def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`scaled_dot_product_attention` without mask and dropout, cheaper to train through on a CPU.

    Args:
        query: [B, h, N, d].
        key: [B, h, L, d].
        value: [B, h, L, d].

    Returns:
        [B, h, N, d].
    """
    if not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(query, key, value)
    attended: torch.Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return attended


class SelfAttention:
    """Attention processor of diffusers for self-attention and for cross-attention without an IP-Adapter."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        attended = attention(query, _heads(attn.to_k(source), attn.heads), _heads(attn.to_v(source), attn.heads))
        projected: torch.Tensor = attn.to_out[0](_joined(attended))
        return projected


class MaskedAttention:
    """Attention processor of PixArt's blocks: their own, as plain products, with the mask of the text.

    The backward pass of PyTorch's fused attention takes 64 % of a training step of PixArt at 16 tokens on a CPU; with
    these products the step takes a third of the time, at 64 tokens half of it.
    """

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)  # [B, h, N, d]
        key, value = _heads(attn.to_k(source), attn.heads), _heads(attn.to_v(source), attn.heads)  # [B, h, L, d]
        scores = torch.matmul(query, key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
        if attention_mask is not None:
            scores = scores + attention_mask[:, None]  # [B, 1, 1, L], 0 or -10 000
        weights = scores.softmax(-1).to(value.dtype)
        projected: torch.Tensor = attn.to_out[0](_joined(torch.matmul(weights, value)))
        return projected


class IPAdapterAttention(nn.Module):
    """Attention processor for text and the tokens of one style picture, with parameters named as in diffusers.

    Attributes:
        scale: of the style picture's share, a list of one: a number, or one number a sample [B, 1, 1].
    """

    def __init__(self, loaded: Any) -> None:
        """Takes over the projections of diffusers' `IPAdapterAttnProcessor2_0`."""
        super().__init__()
        self.to_k_ip = loaded.to_k_ip
        self.to_v_ip = loaded.to_v_ip
        self.num_tokens = loaded.num_tokens
        self.scale: list[float | torch.Tensor] = [1.0]

    def forward(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: tuple[torch.Tensor, list[torch.Tensor]],
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        text, (style,) = encoder_hidden_states
        query = _heads(attn.to_q(hidden_states), attn.heads)
        attended = attention(query, _heads(attn.to_k(text), attn.heads), _heads(attn.to_v(text), attn.heads))
        joined = _joined(attended)
        (scale,) = self.scale
        if isinstance(scale, torch.Tensor) or scale != 0:
            tokens = style.flatten(1, -2)
            key = _heads(self.to_k_ip[0](tokens), attn.heads)
            value = _heads(self.to_v_ip[0](tokens), attn.heads)
            if isinstance(scale, torch.Tensor):
                scale = scale.to(joined.dtype)
            joined = joined + scale * _joined(attention(query, key, value))
        projected: torch.Tensor = attn.to_out[0](joined)
        return projected


def train_through(unet: Any) -> None:
    """Give a U-Net with an IP-Adapter the attention of this module; its parameters and their names stay."""
    processors: dict[str, IPAdapterAttention | SelfAttention] = {}
    for name, processor in unet.attn_processors.items():
        if hasattr(processor, "to_k_ip"):
            processors[name] = IPAdapterAttention(processor)
        else:
            processors[name] = SelfAttention()
    unet.set_attn_processor(processors)


def _heads(tokens: torch.Tensor, heads: int) -> torch.Tensor:
    """[B, N, h·d] -> [B, h, N, d]."""
    return tokens.view(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _joined(attended: torch.Tensor) -> torch.Tensor:
    """[B, h, N, d] -> [B, N, h·d]."""
    return attended.transpose(1, 2).flatten(2)
