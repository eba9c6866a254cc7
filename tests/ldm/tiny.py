"""A recipe of a quarter of a second a run, and how its variants are made."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bottega.ldm.config import LDMRecipe
from bottega.ldm.objective import LatentWorkload
from bottega.ldm.recipe import read_recipe
from bottega.training.workload import ALL_MICROBATCHES, Microbatch

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 3,
    "data": {"kind": "circles", "size": 32, "num_samples": 24, "held_out": 0.01},
    "autoencoder": {"kind": "mock", "factor": 4},
    "text": {"kind": "words", "width": 16, "layers": 1},
    "unet": {"channels": [8, 16], "attention_levels": [1], "head_width": 8, "place_octaves": 2},
    "diffusion": {"schedule": "flow", "prediction_type": "sample", "timesteps": 100},
    "training": {
        "num_epochs": 2,
        "save_every_epochs": 1,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "schedule": "constant",
        "warmup_steps": 0,
        "ema_decay": 0.9,
        "log_every": 1,
        "tensorboard": False,
        "device": "cpu",
    },
    "sampling": {"steps": 4, "guidance_scale": 2.0},
    "validation": {"pictures": 4, "samples": 2},
}
"""Circles of 32 px as latents of 8 × 8, 24 of them and 13 held out: epochs of 3 steps."""

TEXTLESS: dict[str, Any] = {
    "name": "textless",
    "data": {"kind": "red_circle", "num_samples": None, "held_out": 0.0},
    "text": {"kind": "none"},
    "unet": {"attention_levels": []},
    "training": {"num_epochs": None, "steps": 4, "batch_size": 4},
    "sampling": {"guidance_scale": 1.0},
}


def plain(**changes: Any) -> dict[str, Any]:
    """The tiny recipe as plain data; `unet={"blocks": 2}` changes one value of a section."""
    return _merged(TINY, changes)


def tiny(**changes: Any) -> LDMRecipe:
    return read_recipe(plain(**changes), Path(), "tiny")


def textless(**changes: Any) -> LDMRecipe:
    return read_recipe(_merged(plain(**TEXTLESS), changes), Path(), "textless")


def _merged(data: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(data)
    for name, value in changes.items():
        result[name] = {**data[name], **value} if isinstance(value, dict) else value
    return result


class Stopped(LatentWorkload):
    """Asks to be stopped, as SIGTERM does, when the step after `kill_at` steps is asked for."""

    kill_at = 0

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        if step == self.kill_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().microbatches(step, share)


def alive(module: torch.nn.Module, scale: float = 0.3) -> None:
    """Every parameter a number of its own, so that no branch is silent because it begins at zero."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=draw))


def tensors(directory: Path, name: str) -> dict[str, torch.Tensor]:
    """All that the checkpoint `name` of a run holds."""
    from bottega.training import checkpoint as checkpoints

    found = checkpoints.read(directory / "checkpoints" / name)
    assert found is not None
    return checkpoints.read_tensors(found)


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
