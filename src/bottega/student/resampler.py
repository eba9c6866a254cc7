"""Resampler: N learned queries read CLIP's patch tokens of a style picture and become N style tokens.

    x  = W_x norm(patches)
    q ← q + Attention(norm(q), [norm(x), norm(q)])        in each of `resampler_depth` layers
    q ← q + W_2 gelu(W_1 norm(q))

After Jaegle et al. 2021 (Perceiver) and Alayrac et al. 2022 (Flamingo). Keys and values are made of the patch tokens
and of the queries, one after the other: so a query also sees what the others hold, for N more keys besides T, and the
layers need no self-attention of their own. CLIP's tokens hold their positions already, so none are added.

Legend: B samples, T patch tokens of width F, N queries of width W, H heads of width E, X the width of a style token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from bottega.runtime.errors import RequestError

MAX_WIDTH = 512
"""Width where the recipe names none and CLIP's tokens are wider: two layers then have six million weights, fewer than
the keys and values of four of PixArt's blocks."""
_EXPANSION = 4


class Resampler(nn.Module):
    """Patch tokens [B, T, F] -> what `count` style tokens are normed from, [B, N, X].

    Args:
        source_width: F.
        target_width: X.
        count: N.
        depth: layers.
        width: W; None for F, but at most MAX_WIDTH.
        heads: H.

    Raises:
        RequestError: the heads do not divide the width.
    """

    def __init__(
        self, source_width: int, target_width: int, *, count: int, depth: int, width: int | None, heads: int
    ) -> None:
        super().__init__()
        inner = min(source_width, MAX_WIDTH) if width is None else width
        if inner % heads:
            raise RequestError(
                f"the resampler's width must be a multiple of its heads, got {inner} and {heads}; set "
                f"adapter.resampler_width or adapter.resampler_heads"
            )
        # Small against what the first layer reads: with entries of 1, the tokens of all styles start nearly equal.
        self.queries = nn.Parameter(torch.randn(count, inner) * inner**-0.5)  # [N, W]
        self.enter = nn.Sequential(nn.LayerNorm(source_width), nn.Linear(source_width, inner))
        self.layers = nn.ModuleList(_Layer(inner, heads) for _ in range(depth))
        self.out = nn.Linear(inner, target_width)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """patches [B, T, F] in any float dtype -> [B, N, X] in the module's."""
        seen = self.enter(patches.to(self.queries.dtype))  # [B, T, W]
        queries = self.queries.expand(len(seen), -1, -1)  # [B, N, W]
        for layer in self.layers:
            queries = layer(queries, seen)
        return self.out(queries)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """Cross-attention and feed-forward, both with a norm before and a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_seen = nn.LayerNorm(width)
        self.norm_queries = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        for projection in (self.to_q, self.to_k, self.to_v, self.to_out):
            # keeps the variance of what passes; torch's own start divides it by 3
            nn.init.normal_(projection.weight, std=width**-0.5)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, _EXPANSION * width),
            nn.GELU(),
            nn.Linear(_EXPANSION * width, width),
        )

    def forward(self, queries: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        """queries [B, N, W], seen [B, T, W] -> [B, N, W]."""
        normed = self.norm_queries(queries)  # [B, N, W]
        sources = torch.cat([self.norm_seen(seen), normed], dim=1)  # [B, T + N, W]
        q = self._split(self.to_q(normed))  # [B, H, N, E]
        k = self._split(self.to_k(sources))  # [B, H, T + N, E]
        v = self._split(self.to_v(sources))  # [B, H, T + N, E]
        read = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # [B, N, W]
        queries = queries + self.to_out(read)
        return queries + self.feed_forward(queries)  # type: ignore[no-any-return]

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # [B, ., W] -> [B, H, ., E]
