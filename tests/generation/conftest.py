"""The miniature's SDXL as one engine, and LoRAs for it: small random ones, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bottega.generation.engine import SDXLEngine
from bottega.generation.modules import Modules, load_modules
from bottega.generation.records import PictureSettings

SETTINGS = PictureSettings(
    prompt="a red circle on a blue ground",
    negative_prompt="",
    width=64,
    height=64,
    steps=3,
    guidance_scale=3.0,
    guidance_rescale=0.0,
    sampler="euler",
    seed=3,
    count=1,
    clip_skip=2,
    strength=None,
    prediction_type="epsilon",
    profile="miniature_sdxl",
)
"""64 px and 3 steps: a tenth of a second a picture, and every module takes part."""


def settings(**changes: object) -> PictureSettings:
    """`SETTINGS` with changes."""
    return replace(SETTINGS, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def sdxl_modules() -> Modules:
    return load_modules("bottega:miniature/weights/sdxl", device="cpu")


@pytest.fixture(scope="session")
def shared_engine(sdxl_modules: Modules) -> SDXLEngine:
    return SDXLEngine(sdxl_modules)


@pytest.fixture
def engine(shared_engine: SDXLEngine) -> Iterator[SDXLEngine]:
    """The engine without LoRAs, before and after a test."""
    shared_engine.loras.clear()
    yield shared_engine
    shared_engine.loras.clear()


@pytest.fixture(scope="session")
def lora_files(sdxl_modules: Modules, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four LoRAs of different ranks: three for all components, one for the U-Net alone."""
    folder = tmp_path_factory.mktemp("loras")
    files = []
    for number, rank in enumerate((4, 2, 8, 4)):
        parts = ("unet",) if number == 3 else ("unet", "text_encoder", "text_encoder_2")
        file = folder / f"random{number}.safetensors"
        save_file(random_lora(sdxl_modules, rank, seed=number, parts=parts), file)
        files.append(file)
    return files


def random_lora(modules: Modules, rank: int, *, seed: int, parts: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """A LoRA of every attention projection, in diffusers' layout."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for part in parts:
        for name, module in modules.parts[part].named_modules():
            if isinstance(module, torch.nn.Linear) and "attn" in name:
                down = torch.randn(rank, module.in_features, generator=generator) * 0.1
                up = torch.randn(module.out_features, rank, generator=generator) * 0.1
                tensors[f"{part}.{name}.lora_A.weight"] = down
                tensors[f"{part}.{name}.lora_B.weight"] = up
    return tensors
