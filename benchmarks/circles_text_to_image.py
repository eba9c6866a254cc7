"""Claim: `recipes/circles_text_to_image.yaml`, in 1.6 times the processor's time of as many plain steps of diffusers'
UNet2DModel (about 10 minutes on two cores), learns to draw pairs of colours that it has never seen: on 400 prompts or
more both colours are right (ΔE00 < 10, inside and outside) in 90 % of the pictures, and a circle is there (IoU ≥ 0.9
with its own best-fit circle) in 90 %.

python benchmarks/circles_text_to_image.py [--full] [--json] [--seeds 1] [--epochs N] [--steps N] [--keep DIR]

A process of its own trains by `bottega train ldm`; its time counts from its start, drawing the 5 000 pictures, its
validations and checkpoints included. The plain step is a forward and backward pass of a U-Net of the same widths on a
batch of as many latents, without text, log or average. Then every held-out pair of colours is drawn once. Beside it:
the same by DDIM, which adds no noise on its way; the drawn truth as the mock VAE gives it back (the ceiling of this
measure); and the pictures judged by another prompt's colours (what chance gives). The short form trains for 8 epochs of
48, and asks only whether the colours follow the prompt more often than chance.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common.bench import Arguments, conclude, cpu_seconds, run, say
from common.circles import Seen, look, share

from bottega.data.circles import circle_prompt
from bottega.ldm.autoencoder import MockVAE
from bottega.ldm.checkpoint import open_trained
from bottega.ldm.config import LDMSamplingConfig
from bottega.ldm.data import held_out_pairs, read_samples
from bottega.ldm.drawing import draw_latents
from bottega.ldm.recipe import load_recipe
from bottega.runtime.files import read_json
from bottega.visual.pictures import to_uint8

RECIPE = Path(__file__).parents[1] / "recipes" / "circles_text_to_image.yaml"
RATIO, PLAIN_STEPS = 1.6, 5
LEAST = 0.90
PROMPTS = 400


def train(seed: int, directory: Path, sets: list[str]) -> dict[str, float]:
    """Seconds of the clock and of the processor, from the start of the process to its end. SystemExit if it failed."""
    words = [sys.executable, "-m", "bottega", "train", "ldm", "--config", str(RECIPE), "--output-dir", str(directory)]
    for item in (f"seed={seed}", *sets):
        words += ["--set", item]
    began, before = time.monotonic(), os.times()
    done = run(words, stdout=sys.stderr)
    if done.returncode:
        raise SystemExit(f"the training ended with {done.returncode}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    steps = int(read_json(directory / "summary.json")["steps"])
    return {"seconds": time.monotonic() - began, "cpu_seconds": cpu, "optimizer_steps": steps}


def plain_step() -> float:
    """CPU seconds of one step of the usual script: diffusers' UNet2DModel of our widths on one batch of latents."""
    import torch
    from diffusers import UNet2DModel

    recipe = load_recipe(RECIPE)
    widths = recipe.unet.channels
    side = recipe.data.size // recipe.autoencoder.factor
    blocks = {
        "down_block_types": tuple("AttnDownBlock2D" if i == 2 else "DownBlock2D" for i in range(len(widths))),
        "up_block_types": tuple("AttnUpBlock2D" if i == 0 else "UpBlock2D" for i in range(len(widths))),
    }
    network = UNet2DModel(side, 3, 3, block_out_channels=widths, layers_per_block=1, norm_num_groups=8, **blocks)
    optimizer = torch.optim.AdamW(network.parameters())
    latents = torch.randn(recipe.training.batch_size, 3, side, side)
    timesteps = torch.randint(0, 1000, (len(latents),))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(network(latents, timesteps).sample, latents).backward()
        optimizer.step()

    step()
    return float(median(cpu_seconds(step) for _ in range(PLAIN_STEPS)))


def judged(seen: list[Seen]) -> dict[str, Any]:
    """Shares with their 95 % intervals, and medians."""
    return {
        "pictures": len(seen),
        "colours": share([s.colours for s in seen]),
        "circle": share([s.circle for s in seen]),
        "delta_e_inside": median(s.inside for s in seen),
        "delta_e_outside": median(s.outside for s in seen),
        "iou": median(s.iou for s in seen),
    }


def measure(directory: Path, steps: int | None, guidance: float | None) -> dict[str, Any]:
    """Draw and judge every held-out pair of colours, beside the ceiling and chance."""
    trained = open_trained(directory)
    config = trained.recipe.sampling
    config = config.model_copy(update={k: v for k, v in (("steps", steps), ("guidance_scale", guidance)) if v})
    pairs = held_out_pairs(trained.recipe.data.held_out)
    prompts = [circle_prompt(*pair) for pair in pairs]

    def draw(config: LDMSamplingConfig) -> list[Any]:
        plan, path, scale = config.plan(trained.absmax), trained.recipe.diffusion.noise_schedule, config.guidance_scale
        latents = draw_latents(trained.model, path, plan, trained.shape, prompts, list(range(len(prompts))), scale)
        return [to_uint8(picture, non_finite="magenta", exact=True) for picture in trained.autoencoder.decode(latents)]

    began = time.monotonic()
    drawn = draw(config)
    seconds = time.monotonic() - began
    by_ddim = draw(config.model_copy(update={"scheduler": "ddim"}))
    samples = read_samples(trained.recipe.data, trained.recipe.seed, directory).held_out
    vae = MockVAE(trained.recipe.autoencoder.factor)
    truth = [to_uint8(vae.decode(vae.encode(np.stack([sample.picture()])))[0], exact=True) for sample in samples]
    return {
        "drawn": judged([look(p, *pair) for p, pair in zip(drawn, pairs, strict=True)]),
        "by_ddim": judged([look(p, *pair) for p, pair in zip(by_ddim, pairs, strict=True)]),
        "truth": judged([look(p, *pair) for p, pair in zip(truth, pairs, strict=True)]),
        "other_prompt": judged([look(p, *pair) for p, pair in zip(drawn, pairs[7:] + pairs[:7], strict=True)]),
        "sampler": f"{config.scheduler} in {config.steps} steps, guidance {config.guidance_scale:g}",
        "seconds_a_picture": seconds / len(prompts),
    }


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    colours, circle = ("{:5.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in found[k])) for k in ("colours", "circle"))
    inside, outside = found["delta_e_inside"], found["delta_e_outside"]
    return f"{name:24} {colours:22} {circle:22} {inside:6.2f} {outside:6.2f} {found['iou']:6.3f}"


def held(run: dict[str, Any], *, full: bool) -> bool:
    """Whether a run holds the claim; a short one, whether its colours follow the prompt at all."""
    if not full:
        return bool(run["drawn"]["colours"][1] > run["other_prompt"]["colours"][2])
    drawn = run["drawn"]
    good = drawn["pictures"] >= PROMPTS and drawn["colours"][0] >= LEAST and drawn["circle"][0] >= LEAST
    return bool(good and run["ratio"] <= RATIO)


def main() -> int:
    """Run and print; 1 where a bar is missed."""
    arguments = Arguments(__doc__)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_size("--epochs", short=8, full=48)
    arguments.add_argument("--steps", type=int, help="sampling steps, in place of the recipe's")
    arguments.add_argument("--guidance", type=float, help="guidance scale, in place of the recipe's")
    arguments.add_argument("--set", action="append", default=[], help="override of the recipe")
    arguments.add_argument("--keep", type=Path, help="keep the run there; one that is done is only judged")
    asked = arguments.parse()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(asked.seeds):
            directory = (asked.keep or Path(temporary)) / f"seed_{seed}"
            say(f"seed {seed}: training for {asked.epochs} epochs")
            cpu = train(seed, directory, [f"training.num_epochs={asked.epochs}", *asked.set])
            say("drawing and judging")
            found = {"seed": seed, **cpu, **measure(directory, asked.steps, asked.guidance)}
            found["plain_cpu_seconds"] = found["optimizer_steps"] * plain_step()
            found["ratio"] = found["cpu_seconds"] / found["plain_cpu_seconds"]
            results.append(found)
    lines = [f"{'':24} {'both colours, %':22} {'a circle, %':22} {'ΔE in':>6} {'ΔE out':>6} {'IoU':>6}"]
    for r in results:
        lines.append(row(f"seed {r['seed']}, {r['seconds'] / 60:.1f} min", r["drawn"]))
        lines.append(row("  drawn by DDIM", r["by_ddim"]))
        lines.append(row("  judged by other prompt", r["other_prompt"]))
        lines.append(row("  drawn truth (ceiling)", r["truth"]))
        lines.append(f"  {r['sampler']}, {1000 * r['seconds_a_picture']:.0f} ms a picture")
        lines.append(f"  {r['cpu_seconds']:.0f} s of CPU, {r['ratio']:.2f} times as many plain steps of UNet2DModel")
    if asked.full:
        lines.append(f"bars: {RATIO:g} times the plain steps, {LEAST:.0%} and {LEAST:.0%} of at least {PROMPTS}")
    else:
        lines.append("bar of the short form: colours follow the prompt more often than chance (95 % intervals apart)")
    claim = (__doc__ or "").split("\n\n")[0]
    whole = all(held(run, full=asked.full) for run in results)
    return conclude(asked, {"claim": claim, "held": whole, "results": results}, lines)


if __name__ == "__main__":
    sys.exit(main())
