"""The denoiser: a U-Net with time, and where asked for with text by cross-attention. Readable from top to bottom.

Legend: B batch, C latent channels, H × W latents, D width of a level, E width of the time embedding, L text tokens,
F width of the text, N = H·W of a level.

Ho et al. 2020, app. B, with what was learned since: time as scale and shift of the second norm (Dhariwal & Nichol 2021,
sec. 4), every residual branch and the output begin at zero (so that the first prediction is 0), text by cross-attention
(Rombach et al. 2022, sec. 3.3), and the pixel's own place as input channels (Liu et al. 2018, CoordConv), because a
convolution that knows its place draws a circle where it belongs from the first steps on.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottega.ldm.config import UNetConfig


class UNet(nn.Module):
    """x_t, t and text -> what the path's prediction type names, of x_t's shape.

    config: sizes. channels: C, of the latents. text_width: F, or 0 for a network without text.
    """

    def __init__(self, config: UNetConfig, channels: int, text_width: int = 0) -> None:
        super().__init__()
        self.config, self.channels, self.text_width = config, channels, text_width
        widths, wide = config.channels, 4 * config.channels[0]
        self.time = nn.Sequential(nn.Linear(config.channels[0], wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.enter = nn.Conv2d(channels + place_channels(config.place_octaves), widths[0], 3, padding=1)

        def stage(before: int, level: int) -> Stage:
            attends = text_width if level in config.attention_levels else None
            return Stage(before, widths[level], wide, config.head_width, attends)

        levels = range(len(widths))
        self.down, skips, width = nn.ModuleList(), [], widths[0]
        for level in levels:
            for _ in range(config.blocks):
                self.down.append(stage(width, level))
                width = widths[level]
                skips.append(width)
        self.middle = stage(width, len(widths) - 1)
        self.up = nn.ModuleList()
        for level in reversed(levels):
            for _ in range(config.blocks):
                self.up.append(stage(width + skips.pop(), level))
                width = widths[level]
        self.leave = nn.Sequential(norm(width), nn.SiLU(), zero(nn.Conv2d(width, channels, 3, padding=1)))

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """[B, C, H, W], int64 [B], and where there is text [B, L, F] with bool [B, L], True where a token counts.

        H and W are divisible by 2^(levels - 1).
        """
        emb = self.time(waves(timesteps, self.config.channels[0]))  # [B, E]
        if self.config.place_octaves:
            place = places(x, self.config.place_octaves)  # [1, P, H, W]
            x = torch.cat([x, place.expand(len(x), -1, -1, -1)], dim=1)
        h, skips = self.enter(x), []
        for index, block in enumerate(self.down):
            if index and index % self.config.blocks == 0:
                h = F.avg_pool2d(h, 2)  # [B, D, H/2, W/2]
            h = block(h, emb, text, mask)
            skips.append(h)
        h = self.middle(h, emb, text, mask)
        for index, block in enumerate(self.up):
            if index and index % self.config.blocks == 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")  # [B, D, 2H, 2W]
            h = block(torch.cat([h, skips.pop()], dim=1), emb, text, mask)
        return self.leave(h)  # type: ignore[no-any-return]


class Stage(nn.Module):
    """A residual block, and after it attention where `text_width` is not None (0: to itself alone)."""

    def __init__(self, before: int, width: int, embedding: int, head_width: int, text_width: int | None) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = norm(before), nn.Conv2d(before, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.norm_2, self.conv_2 = norm(width), zero(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(before, width, 1) if before != width else nn.Identity()
        self.attention = Attention(width, head_width, text_width) if text_width is not None else None

    def forward(self, x: Tensor, emb: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, D, H, W], [B, E] -> [B, D', H, W]."""
        h = self.conv_1(F.silu(self.norm_1(x)))
        scale, shift = self.modulate(emb)[:, :, None, None].chunk(2, dim=1)  # each [B, D', 1, 1]
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)
        h = self.skip(x) + self.conv_2(F.silu(h))
        return h if self.attention is None else self.attention(h, text, mask)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Each place looks at all places, then at the text; both branches begin at zero."""

    def __init__(self, width: int, head_width: int, text_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm_self, self.qkv, self.out_self = (
            norm(width),
            nn.Linear(width, 3 * width),
            zero(nn.Linear(width, width)),
        )
        self.text = text_width > 0
        if self.text:
            self.norm_text, self.query = norm(width), nn.Linear(width, width)
            self.key_value, self.out_text = nn.Linear(text_width, 2 * width), zero(nn.Linear(width, width))

    def forward(self, x: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, D, H, W] -> the same shape."""
        q, k, v = (self._split(part) for part in self.qkv(_tokens(self.norm_self(x))).chunk(3, dim=-1))
        x = x + _picture(self.out_self(_merge(F.scaled_dot_product_attention(q, k, v))), x)
        if not self.text:
            return x
        if text is None:
            raise ValueError("this network was built with text, so each call needs the tokens; received none")
        q = self._split(self.query(_tokens(self.norm_text(x))))
        k, v = (self._split(part) for part in self.key_value(text).chunk(2, dim=-1))
        seen = None if mask is None else mask[:, None, None, :]  # [B, 1, 1, L]
        return x + _picture(self.out_text(_merge(F.scaled_dot_product_attention(q, k, v, seen))), x)

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def waves(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of timesteps, float32 [B, width]. Vaswani et al. 2017, sec. 3.5."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def place_channels(octaves: int) -> int:
    """How many channels `places` has: x and y, and the sine and cosine of each octave of either; 0 for 0 octaves."""
    return 2 + 4 * (octaves - 1) if octaves else 0


def places(like: Tensor, octaves: int) -> Tensor:
    """Where the latents [B, C, H, W] lie in the picture, [1, P, H, W]: x and y in -1 … 1, then waves of period 2, 1, ½
    … in them."""
    height, width = like.shape[-2:]
    y, x = (torch.linspace(-1 + 1 / n, 1 - 1 / n, n, device=like.device) for n in (height, width))
    axes = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # [2, H, W]
    parts = [axes]
    for octave in range(octaves - 1):
        parts += [(math.pi * 2**octave * axes).sin(), (math.pi * 2**octave * axes).cos()]
    return torch.cat(parts)[None].to(like.dtype)


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation with groups of at least 8 channels, at most 32 of them."""
    groups = max(g for g in range(1, 33) if width % g == 0 and (width // g >= 8 or g == 1))
    return nn.GroupNorm(groups, width)


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer, its weights and bias nought."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _tokens(x: Tensor) -> Tensor:
    """[B, D, H, W] -> [B, N, D]."""
    return x.flatten(2).transpose(1, 2)


def _picture(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, N, D] -> [B, D, H, W]."""
    return tokens.transpose(1, 2).reshape(like.shape)


def _merge(x: Tensor) -> Tensor:
    """[B, heads, N, D / heads] -> [B, N, D]."""
    return x.transpose(1, 2).flatten(2)
