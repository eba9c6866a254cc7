"""The few lines of docs/training-a-style.md: a trained adapter in diffusers' own PixArtAlphaPipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.models.loading import load_pixart_parts
from bottega.runtime.errors import RequestError
from bottega.student.adapter import Geometry, StyleAdapter
from bottega.student.backbone import Backbone, read_schedule
from bottega.student.config import AdapterConfig
from bottega.student.export import load_adapter, save_adapter
from bottega.student.pipeline import styled

from .reference import forward

Embeddings = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def pipe(tiny_models: Path) -> Any:
    from diffusers import PixArtAlphaPipeline

    pipeline = PixArtAlphaPipeline(**load_pixart_parts(tiny_models / "pixart", dtype="float32", device="cpu"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def embeddings() -> Embeddings:
    draw = torch.Generator().manual_seed(4)
    one, two = torch.nn.functional.normalize(torch.randn(2, 1, 128, generator=draw), dim=-1)
    return one, two


def adapter_of(pipe: Any, folder: Path, **config: Any) -> StyleAdapter:
    geometry = Geometry.of(pipe.transformer, 1000, 128)
    made = StyleAdapter.from_transformer(pipe.transformer, AdapterConfig(initial_gate=0.5, **config), geometry)
    if made.content is not None:
        torch.nn.init.normal_(made.content.out.weight, std=0.1)
    save_adapter(folder / "adapter.safetensors", made, {})
    return load_adapter(folder / "adapter.safetensors")[0]


def draw(pipe: Any) -> np.ndarray:
    result = pipe(
        "a red circle",
        num_inference_steps=2,
        guidance_scale=2.0,
        height=128,
        width=128,
        use_resolution_binning=False,
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    )
    return np.asarray(result.images[0])


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)  # diffusers
def test_the_pipeline_draws_in_the_style_and_afterwards_as_before(
    pipe: Any, embeddings: Embeddings, tmp_path: Path
) -> None:
    plain = draw(pipe)
    with styled(pipe.transformer, adapter_of(pipe, tmp_path), *embeddings):
        changed = draw(pipe)
    assert float(np.abs(changed - plain).max()) > 1e-3
    assert float(np.abs(draw(pipe) - plain).max()) == 0.0


@pytest.mark.parametrize(("mode", "octaves"), [("paired", 0), ("latent", 2)])
def test_it_injects_what_the_students_own_forward_injects(
    pipe: Any, embeddings: Embeddings, tmp_path: Path, mode: str, octaves: int
) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode=mode, place_octaves=octaves)
    for layer in adapter.style_layers() if octaves else []:
        torch.nn.init.normal_(layer.to_place.weight)  # type: ignore[union-attr]
    backbone = Backbone(pipe.transformer, read_schedule(pipe.scheduler), 4)
    latents, content = torch.randn(2, 4, 32, 32), torch.randn(1, 4, 32, 32)
    text, mask, times = torch.randn(2, 5, 128), torch.ones(2, 5), torch.tensor([300])
    with torch.no_grad():
        tokens = adapter.style(*embeddings, torch.tensor([False]))[0]
        own = forward(
            backbone, adapter, latents, times.expand(2), text, mask, tokens.repeat(2, 1, 1), content.repeat(2, 1, 1, 1)
        )
        with styled(pipe.transformer, adapter, *embeddings, content_latents=content):
            theirs = pipe.transformer(latents, text, timestep=times.expand(2), encoder_attention_mask=mask).sample
    assert float((own - theirs).abs().max()) < 1e-5


def test_what_it_needs_is_asked_for(pipe: Any, embeddings: Embeddings, tmp_path: Path) -> None:
    adapter = adapter_of(pipe, tmp_path, content_mode="latent")
    with pytest.raises(RequestError, match="content_latents"), styled(pipe.transformer, adapter, *embeddings):
        pass
