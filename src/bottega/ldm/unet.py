"""The denoiser: a U-Net that sees the timestep and, where the recipe has text, the text by cross-attention.

Legend: B batch, C latent channels, H × W latents, D width of a level, E width of the timestep embedding, L text tokens,
F width of the text, N = H·W of a level, P channels of the pixel coordinates.

Ho et al. 2020, app. B, with later findings: the timestep as scale and shift of the second norm (Dhariwal & Nichol 2021,
sec. 4), every residual branch and the output layer start at zero (so the first prediction is 0), text by
cross-attention (Rombach et al. 2022, sec. 3.3), and pixel coordinates as input channels (Liu et al. 2018, CoordConv): a
convolution that knows the coordinates draws a circle in its position from the first steps on.

Names of layers (`enter`, `leave`, `modulate`, …) are keys of the checkpoints, so they never change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bottega.ldm.config import UNetConfig


class UNet(nn.Module):
    """x_t, t and text -> what the noise schedule's prediction type names, in x_t's shape.

    Args:
        config: the sizes.
        channels: C, of the latents.
        text_width: F; 0 for a network without text.
    """

    def __init__(self, config: UNetConfig, channels: int, text_width: int = 0) -> None:
        super().__init__()
        self.config = config
        self.channels = channels
        self.text_width = text_width
        widths = config.channels
        embedding = 4 * widths[0]
        self.time = nn.Sequential(
            nn.Linear(widths[0], embedding),
            nn.SiLU(),
            nn.Linear(embedding, embedding),
            nn.SiLU(),
        )
        self.enter = nn.Conv2d(channels + coord_channels(config.place_octaves), widths[0], 3, padding=1)

        def block(in_channels: int, level: int) -> ResAttnBlock:
            attends = level in config.attention_levels
            return ResAttnBlock(
                in_channels, widths[level], embedding, config.head_width, text_width if attends else None
            )

        levels = range(len(widths))
        width = widths[0]
        skips = []  # widths of the encoder's outputs, which the decoder concatenates
        self.down = nn.ModuleList()
        for level in levels:
            for _ in range(config.blocks):
                self.down.append(block(width, level))
                width = widths[level]
                skips.append(width)
        self.middle = block(width, len(widths) - 1)
        self.up = nn.ModuleList()
        for level in reversed(levels):
            for _ in range(config.blocks):
                self.up.append(block(width + skips.pop(), level))
                width = widths[level]
        self.leave = nn.Sequential(
            norm(width),
            nn.SiLU(),
            zero(nn.Conv2d(width, channels, 3, padding=1)),
        )

    def forward(self, x: Tensor, timesteps: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Predict for a batch.

        Args:
            x: [B, C, H, W]; H and W are divisible by 2^(levels - 1).
            timesteps: int64 [B].
            text: [B, L, F]; needed by a network with text.
            mask: bool [B, L], True where a token counts; None: all count.

        Returns:
            The prediction, [B, C, H, W].
        """
        embedding = self.time(timestep_embedding(timesteps, self.config.channels[0]))  # [B, E]
        if self.config.place_octaves:
            coords = coord_features(x, self.config.place_octaves)  # [1, P, H, W]
            x = torch.cat([x, coords.expand(len(x), -1, -1, -1)], dim=1)  # [B, C + P, H, W]

        h = self.enter(x)  # [B, D, H, W]
        skips = []
        for index, block in enumerate(self.down):
            if index and index % self.config.blocks == 0:
                h = F.avg_pool2d(h, 2)  # [B, D, H/2, W/2]
            h = block(h, embedding, text, mask)
            skips.append(h)
        h = self.middle(h, embedding, text, mask)
        for index, block in enumerate(self.up):
            if index and index % self.config.blocks == 0:
                h = F.interpolate(h, scale_factor=2.0, mode="nearest")  # [B, D, 2H, 2W]
            h = block(torch.cat([h, skips.pop()], dim=1), embedding, text, mask)
        return self.leave(h)  # type: ignore[no-any-return]


class ResAttnBlock(nn.Module):
    """A residual block, followed by attention where `text_width` is given.

    Args:
        in_channels: D before the block.
        width: D' after it.
        embedding: E.
        head_width: channels of an attention head.
        text_width: F; 0 for self-attention alone, None for no attention at all.
    """

    def __init__(self, in_channels: int, width: int, embedding: int, head_width: int, text_width: int | None) -> None:
        super().__init__()
        self.norm_1 = norm(in_channels)
        self.conv_1 = nn.Conv2d(in_channels, width, 3, padding=1)
        self.modulate = nn.Linear(embedding, 2 * width)
        self.norm_2 = norm(width)
        self.conv_2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, width, 1) if in_channels != width else nn.Identity()
        self.attention = Attention(width, head_width, text_width) if text_width is not None else None

    def forward(self, x: Tensor, embedding: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, D, H, W] and the timestep embedding [B, E] -> [B, D', H, W]."""
        h = self.conv_1(F.silu(self.norm_1(x)))  # [B, D', H, W]
        scale, shift = self.modulate(embedding)[:, :, None, None].chunk(2, dim=1)  # each [B, D', 1, 1]
        h = torch.addcmul(shift, self.norm_2(h), 1 + scale)  # [B, D', H, W]
        h = self.skip(x) + self.conv_2(F.silu(h))
        if self.attention is None:
            return h  # type: ignore[no-any-return]
        return self.attention(h, text, mask)  # type: ignore[no-any-return]


class Attention(nn.Module):
    """Self-attention over the pixels, then cross-attention to the text; both branches start at zero."""

    def __init__(self, width: int, head_width: int, text_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.norm_self = norm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out_self = zero(nn.Linear(width, width))
        self.text = text_width > 0
        if self.text:
            self.norm_text = norm(width)
            self.query = nn.Linear(width, width)
            self.key_value = nn.Linear(text_width, 2 * width)
            self.out_text = zero(nn.Linear(width, width))

    def forward(self, x: Tensor, text: Tensor | None, mask: Tensor | None) -> Tensor:
        """[B, D, H, W] -> the same shape."""
        q, k, v = self.qkv(_to_tokens(self.norm_self(x))).chunk(3, dim=-1)  # each [B, N, D]
        x = x + _to_picture(self.out_self(self._attend(q, k, v)), x)
        if not self.text:
            return x

        if text is None:
            raise ValueError("this network was built with text, so each call needs the tokens; received none")
        q = self.query(_to_tokens(self.norm_text(x)))  # [B, N, D]
        k, v = self.key_value(text).chunk(2, dim=-1)  # each [B, L, D]
        seen = None if mask is None else mask[:, None, None, :]  # [B, 1, 1, L]
        return x + _to_picture(self.out_text(self._attend(q, k, v, seen)), x)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Multi-head attention: q [B, N, D], k and v [B, ., D] -> [B, N, D]."""
        mixed = F.scaled_dot_product_attention(self._split(q), self._split(k), self._split(v), mask)
        return mixed.transpose(1, 2).flatten(2)  # [B, N, D]

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, D] -> [B, heads, N, D / heads]."""
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of int64 timesteps [B]: float32 [B, width]. Vaswani et al. 2017, sec. 3.5."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=timesteps.device) / half)  # [width/2]
    angles = timesteps.float()[:, None] * frequencies  # [B, width/2]
    return torch.cat([angles.cos(), angles.sin()], dim=-1)  # [B, width]


def coord_channels(octaves: int) -> int:
    """P: x and y, and for each octave but the first the sine and cosine of both; 0 for 0 octaves."""
    return 2 + 4 * (octaves - 1) if octaves else 0


def coord_features(like: Tensor, octaves: int) -> Tensor:
    """Pixel coordinates of latents [B, C, H, W] as channels: [1, P, H, W].

    First x and y, from -1 to 1 at the picture's edges; then their Fourier features with periods of 2, 1, ½ …
    """
    height, width = like.shape[-2:]
    y = torch.linspace(-1 + 1 / height, 1 - 1 / height, height, device=like.device)  # centres of the pixels
    x = torch.linspace(-1 + 1 / width, 1 - 1 / width, width, device=like.device)
    coords = torch.stack([x.expand(height, width), y[:, None].expand(height, width)])  # [2, H, W]
    features = [coords]
    for octave in range(octaves - 1):
        angles = math.pi * 2**octave * coords
        features.append(angles.sin())
        features.append(angles.cos())
    return torch.cat(features)[None].to(like.dtype)  # [1, P, H, W]


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation with at most 32 groups of at least 8 channels each; one group where there are fewer."""
    groups = 1
    for count in range(2, 33):
        if width % count == 0 and width // count >= 8:
            groups = count
    return nn.GroupNorm(groups, width)


def zero(layer: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    """The layer with its weights and bias set to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _to_tokens(x: Tensor) -> Tensor:
    """[B, D, H, W] -> [B, N, D]."""
    return x.flatten(2).transpose(1, 2)


def _to_picture(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, N, D] -> [B, D, H, W]."""
    return tokens.transpose(1, 2).reshape(like.shape)
