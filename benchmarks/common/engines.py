"""The miniature's SDXL as an engine, and small random LoRAs for it: what the benchmarks of generation share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from bottega.generation.engine import SDXLEngine
from bottega.generation.modules import Modules, load_modules
from bottega.generation.records import PictureSettings

MODEL = "bottega:miniature/weights/sdxl"
COMPONENTS = ("unet", "text_encoder", "text_encoder_2")

SETTINGS = PictureSettings(
    prompt="a red circle on a blue ground",
    negative_prompt="",
    width=64,
    height=64,
    steps=2,
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
"""64 px and 2 steps: every module takes part, in less than a tenth of a second."""


def open_miniature() -> SDXLEngine:
    """A new engine around modules of its own."""
    return SDXLEngine(load_modules(MODEL, device="cpu"))


def write_loras(
    modules: Modules, folder: Path, ranks: Sequence[int], parts: Sequence[Sequence[str]] | None = None
) -> list[Path]:
    """Random LoRAs of every attention projection, in diffusers' layout.

    Args:
        modules: whose shapes they fit.
        folder: where they go.
        ranks: one for each file.
        parts: the components of each file; None: all three in all of them.
    """
    files = []
    for number, rank in enumerate(ranks):
        generator = torch.Generator().manual_seed(number)
        tensors = {}
        for part in COMPONENTS if parts is None else parts[number]:
            for name, module in modules.parts[part].named_modules():
                if isinstance(module, torch.nn.Linear) and "attn" in name:
                    down = torch.randn(rank, module.in_features, generator=generator) * 0.1
                    up = torch.randn(module.out_features, rank, generator=generator) * 0.1
                    tensors[f"{part}.{name}.lora_A.weight"] = down
                    tensors[f"{part}.{name}.lora_B.weight"] = up
        files.append(folder / f"random{number}.safetensors")
        save_file(tensors, files[-1])
    return files


def layers_left(modules: Modules) -> int:
    """LoRA layers in the U-Net and both text encoders, counted without the manager."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    found: list[Any] = []
    for name in COMPONENTS:
        found += [module for module in modules.parts[name].modules() if isinstance(module, BaseTunerLayer)]
    return len(found)
