"""Start a PixArt transformer so that it predicts x̂0 from its first step, though its output is ε.

A patch of 4 × 4 latent cells holds 64 numbers of noise, and ε̂ must hand them through a width of 160 and a LayerNorm: at
high noise the last per cent of them is the whole signal, and a network that begins with random weights spends its
budget on that. Here half of the width is a clean channel for the patch itself, the other half is where the blocks
work, and the last modulation by time joins the two. With F read from where the blocks work,

    x̂0 = ᾱ_t² x + √(1 − ᾱ_t⁴) F   (preconditioning as in EDM, arXiv 2206.00364; the skip fades faster than its α_t)
    ε̂  = (x − α_t x̂0) / σ_t       (x = α_t x0 + σ_t ε solved for ε)

At high noise F is x̂0 itself, which lies on a low-dimensional manifold as noise does not (arXiv 2511.13720); at low
noise F is a small correction. The architecture stays PixArt's: all of this is a choice of first weights, and of which
of them are trained.

The LayerNorms are made linear by a large constant, +c on the channel's dimensions and −c on the others:
LN(h) ≈ h / c. The patch is embedded orthogonally to that constant and to what the position embedding varies there, so
that neither leaks into ε̂.
"""

from __future__ import annotations

from typing import Any

import torch

CONSTANT = 16.0  # c: LN's error is about Σu / (160 c), u being what the blocks have written
SLOW = 0.02  # radians a timestep


@torch.no_grad()
def open_path(transformer: Any, signal: torch.Tensor) -> torch.Tensor:
    """Set the first weights, ᾱ of every timestep given as `signal` [T], and hold those that make the channel.

    The weights of the channel keep their values because hooks set their gradients to zero: train without weight decay.
    Gradients along the constant are taken out where it is read (cross-attention's queries have no norm, the modulation
    by time sees it through e(t)): Adam would move these outputs a hundred times faster than all others.
    Returns the constant [D] that every hidden state holds.
    """
    width = transformer.inner_dim
    patch = transformer.pos_embed.proj.weight[0].numel()  # 64 numbers a patch
    half = width // 2
    position = transformer.pos_embed.pos_embed[0].float()  # [tokens, D]
    order = position.var(0).argsort()
    channel, work = order[:half].sort().values, order[half:].sort().values
    leaves_out = torch.cat([torch.ones(1, half), _principal(position[:, channel], half - patch - 1)])
    embedding = torch.linalg.svd(leaves_out, full_matrices=True)[2][-patch:].T  # [half, patch], orthonormal columns

    first = transformer.pos_embed.proj
    first.weight[channel] = embedding.view(half, *first.weight.shape[1:])
    first.bias[channel] = CONSTANT - position[:, channel].mean(0)
    first.bias[work] = -CONSTANT
    _hold(first.weight, channel)
    _hold(first.bias, channel)

    sign = torch.ones(width)
    sign[work] = -1
    for block in transformer.transformer_blocks:
        table = block.scale_shift_table
        for shift, scale, gate in ((0, 1, 2), (3, 4, 5)):  # what a block reads: LN(h) c ∓ c = patch and u
            table[shift], table[scale], table[gate] = -CONSTANT * sign, CONSTANT - 1, 0.3
        block.attn2.to_q.bias -= block.attn2.to_q.weight @ (CONSTANT * sign)
        block.attn2.to_q.weight.register_hook(lambda gradient: gradient - torch.outer(gradient @ sign, sign) / width)
        block.attn2.to_out[0].weight.mul_(0.3)
        for write in (block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]):
            write.weight[channel], write.bias[channel] = 0, 0
            _hold(write.weight, channel)
            _hold(write.bias, channel)
    modulation = transformer.adaln_single.linear
    torch.nn.init.zeros_(modulation.weight)
    torch.nn.init.zeros_(modulation.bias)
    reads = torch.zeros(width)
    reads[work] = 1  # the channel's e(t) hardly changes
    modulation.weight.register_hook(lambda gradient: gradient * reads)

    offset = torch.linspace(-3, 2.2 * CONSTANT, width - half)  # thresholds of the SiLU that blocks see time by
    table = transformer.scale_shift_table  # the last modulation: (e + table[1] + 1) LN(h) + e + table[0]
    table.zero_()
    table[1] = -1
    table[0, work], table[1, work] = offset, offset - 1
    _time(transformer, signal, channel, work, offset)
    table.requires_grad_(False)

    out = transformer.proj_out
    out.weight.zero_()
    out.bias.zero_()
    rows, columns = _places(transformer.config.patch_size, first.weight.shape[1], transformer.out_channels)
    out.weight[rows[:, None], channel[None]] = embedding.T[columns]
    held = torch.zeros_like(out.weight)
    held[:, channel] = 1
    out.weight.register_hook(lambda gradient: gradient * (1 - held))
    return CONSTANT * sign


def _principal(position: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` directions in which the position embedding varies most over the tokens, [count, dimensions]."""
    directions: torch.Tensor = torch.linalg.svd(position - position.mean(0), full_matrices=True)[2]
    return directions[:count]


def _hold(parameter: torch.Tensor, rows: torch.Tensor) -> None:
    mask = torch.ones(len(parameter), *[1] * (parameter.ndim - 1))
    mask[rows] = 0
    parameter.register_hook(lambda gradient: gradient * mask)  # type: ignore[no-untyped-call]


def _places(side: int, channels: int, out_channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """For ε's outputs: rows in `proj_out` (row, column, channel) and places in a patch (channel, row, column)."""
    c, p, q = torch.meshgrid(torch.arange(channels), torch.arange(side), torch.arange(side), indexing="ij")
    return ((p * side + q) * out_channels + c).flatten(), ((c * side + p) * side + q).flatten()


def _time(
    transformer: Any, signal: torch.Tensor, channel: torch.Tensor, work: torch.Tensor, offset: torch.Tensor
) -> None:
    """Solve the time embedding's last layer for e(t): c times what the channel and the blocks' part are scaled by."""
    embedder = transformer.adaln_single.emb
    alpha, sigma = signal.sqrt().float(), (1 - signal).sqrt().float()
    skip, part = signal.float() ** 2, (1 - signal**4).sqrt().float()
    steps = torch.arange(len(signal))
    waves = embedder.timestep_embedder.linear_1.weight  # inputs: 128 cosines, 128 sines, from fast to slow
    frequency = 10_000 ** (-torch.arange(waves.shape[1] // 2) / (waves.shape[1] // 2)).repeat(2)
    waves.mul_(torch.where(frequency < SLOW, 4.0, 0.0))  # fast waves would ripple on what must be smooth
    hidden = embedder.timestep_embedder.act(embedder.timestep_embedder.linear_1(embedder.time_proj(steps)))  # [T, D]
    wanted = torch.empty(len(steps), transformer.inner_dim)
    wanted[:, channel] = (CONSTANT * (1 - alpha * skip) / sigma)[:, None]
    wanted[:, work] = (CONSTANT * alpha * part / sigma)[:, None] - offset
    inputs = torch.cat([hidden, torch.ones(len(steps), 1)], 1).double()
    weight = (1 / (alpha + 0.01)).double()[:, None]  # an error in ε counts as much as it moves x̂0
    normal = inputs.T @ (weight * inputs) + torch.eye(inputs.shape[1], dtype=torch.float64)
    solved = torch.linalg.solve(normal, inputs.T @ (weight * wanted.double())).float()
    embedder.timestep_embedder.linear_2.weight.copy_(solved[:-1].T)
    embedder.timestep_embedder.linear_2.bias.copy_(solved[-1])
    embedder.timestep_embedder.requires_grad_(False)
