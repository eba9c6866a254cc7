"""The first weights of PixArt: before any training the output is what the preconditioning says, and stays so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bottega.diffusion.schedule import from_scheduler_config
from bottega.miniature.builder import architectures
from bottega.miniature.builder.open_path import open_path


@pytest.fixture
def opened() -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    transformer = architectures.pixart()
    signal = torch.from_numpy(from_scheduler_config(architectures.pixart_scheduler()).alpha_bar)
    open_path(transformer, signal)
    return transformer, signal


def _noise(transformer: Any, x: torch.Tensor, moments: torch.Tensor) -> torch.Tensor:
    """ε̂ of x [B, 4, 32, 32] at the timesteps [B], with random text."""
    text = torch.randn(len(x), 7, architectures.WIDTH)
    nothing = {"resolution": None, "aspect_ratio": None}
    out = transformer(x, encoder_hidden_states=text, timestep=moments, added_cond_kwargs=nothing).sample
    noise: torch.Tensor = out[:, : architectures.CHANNELS]
    return noise


def test_the_untrained_output_is_the_skip_alone(opened: tuple[Any, torch.Tensor]) -> None:
    """x̂0 = ᾱ² x, so ε̂ = x (1 − α ᾱ²) / σ; the LayerNorms are linear to about two per cent."""
    transformer, signal = opened
    moments = torch.tensor([60, 250, 500, 750, 950])
    x = torch.randn(5, architectures.CHANNELS, architectures.LATENT, architectures.LATENT)
    now = signal[moments].float()
    wanted = x * ((1 - now.sqrt() * now**2) / (1 - now).sqrt()).view(-1, 1, 1, 1)
    with torch.no_grad():
        error = (_noise(transformer, x, moments) - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    assert error.max() < 0.04, error


def test_training_leaves_the_channel_as_it_was(opened: tuple[Any, torch.Tensor]) -> None:
    transformer, _ = opened
    width = transformer.inner_dim
    first, last = transformer.pos_embed.proj.weight, transformer.proj_out.weight
    before = {name: value.detach().clone() for name, value in transformer.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in transformer.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.0)
    for _ in range(3):
        x = torch.randn(2, architectures.CHANNELS, architectures.LATENT, architectures.LATENT)
        loss = (_noise(transformer, x, torch.tensor([300, 800])) - torch.randn_like(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    kept = (first - before["pos_embed.proj.weight"]).flatten(1).abs().amax(1) == 0
    assert kept.sum() == width // 2
    for block in range(len(transformer.transformer_blocks)):
        for layer in ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2"):
            name = f"transformer_blocks.{block}.{layer}.weight"
            rows = (transformer.get_parameter(name) - before[name]).abs().amax(1)
            assert torch.equal(rows == 0, kept), name  # what the blocks write stays out of the channel
    assert ((last - before["proj_out.weight"]).abs().amax(0) == 0)[kept].all()
    assert (last != before["proj_out.weight"]).any()
