"""Claim: each choice of `recipes/red_circle.yaml` is worth its place: undone alone, the picture takes longer to come
out right, or does not come out within the recipe's 800 steps.

python benchmarks/red_circle_choices.py [--full] [--json] [--seeds N] [--cap SECONDS]

Trained, checked and timed as in red_circle.py (MSE < 1e-4 and SSIM > 0.97, a check every 20 steps that is not in the
time), by turns, in seconds of the processor, which other work on the machine hardly moves. Means over the seeds.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from common.bench import Arguments, conclude, say
from red_circle import RECIPE, Target, trained

CHOICES = {
    "the recipe": [],
    "the flow's velocity predicted": ["diffusion.prediction_type=flow_prediction"],
    "v predicted, on the cosine path": [
        "diffusion.prediction_type=v_prediction",
        "diffusion.schedule=cosine_continuous",
    ],
    "ε predicted, on the linear schedule": ["diffusion.prediction_type=epsilon", "diffusion.schedule=linear"],
    "not told where a pixel lies": ["unet.place_octaves=0"],
    "a learning rate of 1e-3": ["training.learning_rate=1e-3"],
    "batches of 16": ["training.batch_size=16"],
    "twice the channels": ["unet.channels=[32, 64, 128]"],
}


def run(target: Target, seed: int, sets: list[str], cap: float) -> dict[str, Any]:
    """One training, to its quality or its end."""
    from bottega.ldm.recipe import load_recipe
    from bottega.ldm.stage import prepare

    with tempfile.TemporaryDirectory() as folder:
        quiet = ["validation.samples=0", "training.device=cpu", f"seed={seed}"]
        job = prepare(load_recipe(RECIPE, [*quiet, *sets]), Path(folder))
        return trained(target, job.work, job.config, Path(folder), cap)


def main() -> int:
    """Run and print; 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--seeds", short=1, full=2)
    arguments.add_size("--cap", short=24.0, full=120.0, help="seconds of one training without its checks")
    asked = arguments.parse()
    import torch

    torch.set_num_threads(1)
    target = Target()
    run(target, 99, ["training.steps=20"], asked.cap)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CHOICES}
    for seed in range(asked.seeds):
        for name, sets in CHOICES.items():
            runs[name].append(run(target, seed, sets, asked.cap))
            last = runs[name][-1]
            say(f"{name}, seed {seed}: {last['steps']} steps, {last['cpu_seconds']:.1f} s of CPU")
    rows = {
        name: {
            "reached": all(r["reached"] for r in found),
            "steps": mean(r["steps"] for r in found),
            "cpu_seconds": mean(r["cpu_seconds"] for r in found),
            "mse": mean(r["nearest"]["mse"] for r in found),
            "ssim": mean(r["nearest"]["ssim"] for r in found),
        }
        for name, found in runs.items()
    }
    own = rows["the recipe"]
    others = (row for name, row in rows.items() if name != "the recipe")
    held = own["reached"] and all(not row["reached"] or row["cpu_seconds"] > own["cpu_seconds"] for row in others)
    lines = ["undone alone, each choice costs time:", f"{'':38} {'steps':>6} {'CPU s':>7} {'MSE':>9} {'SSIM':>6}"]
    for name, row in rows.items():
        steps = f"{row['steps']:6.0f}" if row["reached"] else f">{row['steps']:5.0f}"
        lines.append(f"{name:38} {steps} {row['cpu_seconds']:7.1f} {row['mse']:9.2g} {row['ssim']:6.3f}")
    return conclude(asked, {"claim": (__doc__ or "").split("\n\n")[0], "held": held, "rows": rows}, lines)


if __name__ == "__main__":
    sys.exit(main())
