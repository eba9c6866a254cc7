"""A floor under the shipped weights: far below what the gates measured, far above what broken weights could reach."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bottega.miniature

WEIGHTS = Path(bottega.miniature.__file__).parent / "weights"
FLOORS = {"vae_plain": 30.0, "vae_painted": 25.0, "classifier": 0.95, "found": 0.8}


def measure() -> dict[str, float]:
    """Autoencoder, style classifier and scene reader on a handful of scenes and painters that no model has seen."""
    import torch
    from transformers import AutoModelForImageClassification, AutoModelForSemanticSegmentation

    from bottega.miniature.builder import gates
    from bottega.miniature.ranges import GATE_PAINTERS, GATE_SCENES
    from bottega.miniature.world import KINDS, painter, render, scene

    torch.set_num_threads(1)
    views = [scene(GATE_SCENES + 700 + i) for i in range(24)]
    plain = np.stack([render(v, None) for v in views])
    painted = np.stack([render(v, painter(GATE_PAINTERS + i)) for i, v in enumerate(views)])
    classifier = AutoModelForImageClassification.from_pretrained(
        WEIGHTS / "style_classifier", dtype=torch.float32
    ).eval()
    reader = AutoModelForSemanticSegmentation.from_pretrained(WEIGHTS / "scene_reader", dtype=torch.float32).eval()
    from diffusers import AutoencoderTiny

    vae = AutoencoderTiny.from_pretrained(WEIGHTS / "sdxl" / "vae").float()
    read = gates.labels_of(reader, painted)
    overlaps: list[float] = []
    for view, found in zip(views, read, strict=True):
        overlaps += gates.object_overlaps(found, view)
    kinds = np.array([(GATE_PAINTERS + i) % len(KINDS) for i in range(24)])
    return {
        "vae_plain": float(gates.psnr(plain, gates.reconstruct(vae, plain)).mean()),
        "vae_painted": float(gates.psnr(painted, gates.reconstruct(vae, painted)).mean()),
        "classifier": float((gates.kinds_of(classifier, painted) == kinds).mean()),
        "found": float(np.mean(np.array(overlaps) >= 0.5)),
    }


@pytest.mark.parametrize("instructions", ["all", "AVX2"])
def test_the_shipped_weights_hold_their_floor_also_on_processors_without_matrix_units(instructions: str) -> None:
    limits = {} if instructions == "all" else {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, **limits, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    measured = json.loads(done.stdout.splitlines()[-1])
    for name, floor in FLOORS.items():
        assert measured[name] >= floor, measured


def test_the_shipped_weights_are_small_half_precision_safetensors_with_cards() -> None:
    from safetensors import safe_open

    files = list(WEIGHTS.rglob("*.safetensors"))
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) <= 60 * 2**20
    assert not [f for f in WEIGHTS.rglob("*") if f.suffix in {".bin", ".pt", ".ckpt", ".pth"}]
    for file in files:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file
    for folder in (p for p in WEIGHTS.iterdir() if p.is_dir()):
        card = (folder / "README.md").read_text()
        assert "trained from scratch" in card or "Trained with peft by `bottega miniature" in card  # LoRAs have a base


if __name__ == "__main__":
    print(json.dumps(measure()))
