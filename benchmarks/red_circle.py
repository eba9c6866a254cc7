"""Claim: a red circle on 2 cores without a GPU, from random weights: from the start of `bottega train ldm` to a sampled
PNG of 256 px that is the target as the mock VAE gives it back (pixel MSE < 1e-4 on 0 … 1, SSIM > 0.97) in the
processor's time of 2,250 plain steps of diffusers' UNet2DModel (60 s when first measured), for each of 5 seeds. To that
quality at least 10 times faster than a plain trainer of ε on diffusers' classes with the same size of network and data,
and no slower than that network with bottega's objective.

python benchmarks/red_circle.py [--full] [--json] [--seeds N] [--turns N] [--threads 2]

First `bottega train ldm --config recipes/red_circle.yaml` and `bottega generate --checkpoint …` for each seed, each a
process of its own: seconds include start, imports, the recipe's validations, sample pictures and checkpoint.

Then the time to quality of three ways, in this process, on the same latents of the one picture, 4 of them a batch, in
float32, with AdamW (fused) and gradients clipped at 1:

    own        the recipe: bottega's U-Net, the flow path, the sample predicted, its rate and cosine; by bottega's own
               `train` with its guards and log.
    objective  the same, also by `train`, but diffusers' UNet2DModel of the same size in place of bottega's U-Net: the
               rest of the recipe is as it is, so this network learns from the same timesteps and noise.
    plain      the same UNet2DModel in the usual script: DDPMScheduler(beta_schedule="linear"), uniform timesteps, mean
               squared error of ε, AdamW as torch has it, a constant rate; no guards, log or checkpoint. Of the rates
               3e-4, 1e-3 and 4e-3 the one that gets there first counts; where none does, the one that comes nearest.

UNet2DModel has three levels as ours, a block a level, no attention, as many parameters to 15 %. It is not told where a
pixel lies: it has no such option. Every 20 steps a picture is drawn from the same noise in 20 steps of DDIM, spacing
trailing, with x̂_0 held within the latents' range, decoded and compared; the first that matches ends the run. own and
objective draw by bottega's sampler; plain by diffusers' DDIMScheduler with clip_sample, once with ε as predicted and
once with ε derived again from the clamped x̂_0 (use_clipped_model_output), and the better picture counts. Drawing and
comparing is not in the time, nor is building the network. own and objective are measured by turns with 3 seeds, their
medians compared; plain, with one seed, is given ten times the median of own.

The machine must have nothing else to do: threads of torch spin while they wait for each other, so with one core taken
two threads are many times slower than one; the load before it began is in the result. --quick, for trying it: one seed,
one rate of plain, which stops after three times our time and is not judged.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common.bench import Arguments, conclude, say, verdict
from common.bench import run as run_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from bottega.ldm.config import LDMRecipe
    from bottega.ldm.objective import LatentWorkload
    from bottega.training.config import LoopConfig

    Picture = npt.NDArray[np.float32]

RECIPE = Path(__file__).parents[1] / "recipes" / "red_circle.yaml"
PLAIN_STEPS, MSE, SSIM = 2_250, 1e-4, 0.97
FASTER, NO_SLOWER = 10.0, 1.0
SHORT_CAP = 3.0  # times our own time, for the plain way of the short form
SAME_SIZE = 0.15
EVERY = 20  # steps between checks
RATES = (1e-3, 4e-3, 3e-4)  # of the plain trainer
WIDTHS, GROUPS = (16, 24, 48), 8  # of UNet2DModel


class Target:
    """What is to be drawn: the red circle after the mock VAE. limit: the range of its latents."""

    def __init__(self) -> None:
        from bottega.ldm.autoencoder import open_autoencoder
        from bottega.ldm.data import red_circle

        recipe = read_recipe(0)
        self.autoencoder = open_autoencoder(recipe.autoencoder, "cpu")
        self.latents = self.autoencoder.encode(red_circle(recipe.data.size)[None])  # [1, 3, h, w]
        self.limit = float(self.latents.abs().max())
        self.picture = self.autoencoder.decode(self.latents)[0]

    def compare(self, picture: Picture) -> dict[str, float]:
        """Mean squared error and SSIM of a picture in 0 … 1, [S, S, 3]."""
        import numpy as np
        from skimage.metrics import structural_similarity

        error = float(np.square(picture.astype(np.float64) - self.picture).mean())
        similar = structural_similarity(picture, self.picture, channel_axis=2, data_range=1.0)
        return {"mse": error, "ssim": float(similar)}

    def compare_latents(self, latents: torch.Tensor) -> dict[str, float]:
        """The same of latents [1, 3, h, w]."""
        return self.compare(self.autoencoder.decode(latents)[0])


def matches(found: dict[str, float]) -> bool:
    """Whether a picture is the target."""
    return found["mse"] < MSE and found["ssim"] > SSIM


class EnoughError(Exception):
    """A run has got there, or its time is up."""


class Watch:
    """The time of one run without that of its checks, and how near it came. cap: seconds after which it ends."""

    def __init__(self, draw: Callable[[], list[dict[str, float]]], cap: float) -> None:
        self.draw, self.cap = draw, cap
        self.seconds, self.cpu_seconds, self.steps = 0.0, 0.0, 0
        self.nearest: dict[str, float] = {"mse": float("inf"), "ssim": 0.0}
        self.reached = False
        self.go_on()

    def go_on(self) -> None:
        """Let the clock run."""
        self._began = time.perf_counter(), time.process_time()

    def look(self, step: int) -> None:
        """Stop the clock, draw and compare, and let it run on. EnoughError where the run is to end."""
        self.seconds += time.perf_counter() - self._began[0]
        self.cpu_seconds += time.process_time() - self._began[1]
        self.steps = step
        found = min(self.draw(), key=lambda found: found["mse"])
        self.reached = matches(found)
        if self.reached or found["mse"] < self.nearest["mse"]:
            self.nearest = found
        if self.reached or self.seconds >= self.cap:
            raise EnoughError
        self.go_on()

    def result(self) -> dict[str, Any]:
        """Numbers of the run; nearest: the picture that matched, or of all its checks the one with the least error."""
        names = ("reached", "seconds", "cpu_seconds", "steps", "nearest")
        return {name: getattr(self, name) for name in names}


def read_recipe(seed: int) -> LDMRecipe:
    """recipes/red_circle.yaml."""
    from bottega.ldm.recipe import load_recipe

    return load_recipe(RECIPE, [f"seed={seed}"])


def their_network(seed: int) -> Any:
    """diffusers' UNet2DModel, as large as ours."""
    import torch
    from diffusers import UNet2DModel

    torch.manual_seed(seed)
    return UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=WIDTHS,
        layers_per_block=1,
        norm_num_groups=GROUPS,
        add_attention=False,
        down_block_types=("DownBlock2D",) * len(WIDTHS),
        up_block_types=("UpBlock2D",) * len(WIDTHS),
    )


def borrowed(seed: int) -> Any:
    """diffusers' UNet2DModel, to be called as bottega calls its model."""
    from torch import nn

    class Borrowed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unet = their_network(seed)

        def condition(self, captions: Any) -> tuple[None, None]:
            return None, None

        def forward(self, x: torch.Tensor, timesteps: torch.Tensor, condition: Any = None) -> torch.Tensor:
            predicted: torch.Tensor = self.unet(x, timesteps).sample
            return predicted

    return Borrowed()


def by_our_loop(target: Target, seed: int, cap: float, *, own_network: bool) -> dict[str, Any]:
    """Time to quality of the recipe, with bottega's network or diffusers'."""
    from bottega.ldm.stage import prepare

    with tempfile.TemporaryDirectory() as folder:
        job = prepare(read_recipe(seed), Path(folder))
        work, loop = job.work, job.config
        if not own_network:
            work.module = work.model = borrowed(seed)
        return trained(target, work, loop, Path(folder), cap)


def trained(target: Target, work: LatentWorkload, loop: LoopConfig, folder: Path, cap: float) -> dict[str, Any]:
    """Time to quality of a workload: checks take the place of its validations and sample pictures."""
    from bottega.ldm.drawing import draw_latents
    from bottega.training.loop import train

    plan, shape = work.recipe.sampling.plan(target.limit), target.latents.shape[1:]

    def draw() -> list[dict[str, float]]:
        latents = draw_latents(work.model, work.schedule, plan, shape, [""], [0])
        work.model.train()
        return [target.compare_latents(latents)]

    def write_samples(directory: Path, step: int) -> list[Path]:
        watch.look(step)
        return []

    watch = Watch(draw, cap)
    try:
        config = loop.model_copy(update={"validate_every": EVERY, "threads": None})
        train(work, config, folder, write_samples=write_samples)
    except EnoughError:
        pass  # it has got there, or its time is up; else all steps were done without
    return watch.result()


def plain(target: Target, seed: int, cap: float, rate: float) -> dict[str, Any]:
    """Time to quality of the usual script."""
    import torch
    from diffusers import DDPMScheduler
    from torch.nn import functional as F

    network, recipe = their_network(seed), read_recipe(seed)
    scheduler = DDPMScheduler(beta_schedule="linear")
    clean = target.latents.expand(recipe.training.batch_size, -1, -1, -1).contiguous()
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, fused=True)
    watch = Watch(lambda: [target.compare_latents(latents) for latents in drawn_by_diffusers(target, network)], cap)
    step = 0
    try:
        while True:
            noise = torch.randn_like(clean)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(clean),))
            noised = scheduler.add_noise(clean, noise, timesteps)
            loss = F.mse_loss(network(noised, timesteps).sample, noise)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            step += 1
            if step % EVERY == 0:
                watch.look(step)
    except EnoughError:
        return {"rate": rate, **watch.result()}


def drawn_by_diffusers(target: Target, network: Any) -> list[torch.Tensor]:
    """A picture in 20 steps of diffusers' DDIM, with ε as predicted and as it follows from the clamped x̂_0."""
    import torch
    from diffusers import DDIMScheduler

    from bottega.diffusion.sampling import seeded_noise

    config = {"clip_sample": True, "clip_sample_range": target.limit, "timestep_spacing": "trailing"}
    scheduler = DDIMScheduler(beta_schedule="linear", **config)
    scheduler.set_timesteps(read_recipe(0).sampling.steps)
    drawn = []
    with torch.no_grad():
        for derived in (False, True):
            x = seeded_noise([0], 0, target.latents.shape[1:])
            for timestep in scheduler.timesteps:
                epsilon = network(x, timestep).sample
                x = scheduler.step(epsilon, timestep, x, use_clipped_model_output=derived).prev_sample
            drawn.append(x)
    return drawn


def whole(target: Target, seed: int, threads: int) -> dict[str, Any]:
    """Train and draw by the commands that a user has: seconds of both processes, and the PNG compared."""
    import numpy as np
    from PIL import Image

    with tempfile.TemporaryDirectory() as temporary:
        run, pictures = Path(temporary) / "run", Path(temporary) / "pictures"
        bottega = [sys.executable, "-m", "bottega"]
        train = [*bottega, *("train", "ldm", "--config", str(RECIPE), "--set", f"seed={seed}")]
        generate = [*bottega, *("generate", "--checkpoint", str(run), "--output-dir", str(pictures))]
        began, taken, before = time.perf_counter(), [], os.times()
        for words in ([*train, "--output-dir", str(run)], generate):
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            run_command(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
            taken.append(time.perf_counter() - began - sum(taken))
        (file,) = pictures.glob("*.png")
        with Image.open(file) as image:
            drawn = np.asarray(image.convert("RGB"), np.float32) / 255
    found = target.compare(drawn)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    seconds = {"seconds": sum(taken), "train_seconds": taken[0], "generate_seconds": taken[1], "cpu_seconds": cpu}
    return {"seed": seed, **seconds, **found}


def to_quality(target: Target, turns: int, *, full: bool) -> dict[str, Any]:
    """Time to quality of all ways."""
    runs: dict[str, list[dict[str, Any]]] = {"own": [], "objective": [], "plain": []}
    for seed in range(turns):
        for name in ("own", "objective"):
            runs[name].append(by_our_loop(target, seed, float("inf"), own_network=name == "own"))
            report_run(name, runs[name][-1])
    cap = median(run["seconds"] for run in runs["own"]) * (FASTER if full else SHORT_CAP)
    for rate in RATES if full else RATES[:1]:
        runs["plain"].append(plain(target, 0, cap, rate))
        report_run("plain", runs["plain"][-1])
    return {"cap": cap, **runs}


def report_run(name: str, run: dict[str, Any]) -> None:
    """A line on the way."""
    say(
        f"{name}: {run['steps']} steps, {run['cpu_seconds']:.1f} s of CPU, {'there' if run['reached'] else 'not there'}"
    )


def judged(processes: list[dict[str, Any]], runs: dict[str, Any], *, full: bool) -> dict[str, Any]:
    """Ratios to our median, and whether all holds; a way that did not get there took at least as long as it ran.

    full: the plain way was given as long as the claim says; else it is only held to need longer than it was given.
    """
    own, objective = runs["own"], runs["objective"]
    ours, theirs = (median(run["seconds"] for run in made) for made in (own, objective))
    best = min(runs["plain"], key=lambda run: (not run["reached"], run["seconds"] if run["reached"] else 0, error(run)))
    ratios = {"plain": best["seconds"] / ours, "objective": theirs / ours}
    step = median(run["cpu_seconds"] / run["steps"] for run in runs["plain"])
    times = FASTER if full else SHORT_CAP
    held = {
        f"{len(processes)} seeds in {PLAIN_STEPS:,} plain steps": bool(processes)
        and all(matches(run) and run["cpu_seconds"] <= PLAIN_STEPS * step for run in processes),
        "own gets there": all(run["reached"] for run in own),
        f"{times:g} times faster than plain": ratios["plain"] >= times,
        "no slower than diffusers' network": ratios["objective"] >= NO_SLOWER,
    }
    medians = {"own": ours, "objective": theirs, "plain": best["seconds"]}
    reached = {"own": held["own gets there"], "objective": all(run["reached"] for run in objective)}
    reached["plain"] = best["reached"]
    found = {"seconds": medians, "reached": reached, "ratio": ratios, "plain_rate": best["rate"]}
    return {**found, "plain_step_cpu_seconds": step, "held_each": held}


def error(run: dict[str, Any]) -> float:
    """Of the nearest picture."""
    return float(run["nearest"]["mse"])


def sizes() -> dict[str, int]:
    """Parameters of both networks. RuntimeError where they are not of one size."""
    from bottega.ldm.model import LatentDiffusion

    networks = {"own": LatentDiffusion(read_recipe(0), 3), "theirs": their_network(0)}
    count = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    if abs(count["theirs"] / count["own"] - 1) > SAME_SIZE:
        raise RuntimeError(f"the networks are to be of one size, to {SAME_SIZE:.0%}; they have {count} parameters")
    return count


def warm_up(target: Target) -> None:
    """What is done once in a process: imports, and the kernels that are chosen at first use."""
    for own_network in (True, False):
        by_our_loop(target, 0, 0.0, own_network=own_network)
    plain(target, 0, 0.0, RATES[0])


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--seeds", short=1, full=5, help="of the whole command")
    arguments.add_size("--turns", short=1, full=3, help="seeds of the time to quality")
    arguments.add_argument("--threads", type=int, default=2, help="of torch, on all sides")
    asked = arguments.parse()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from bottega.runtime.memory import keep_heap

    torch.set_num_threads(asked.threads)
    keep_heap()
    logging.disable(logging.WARNING)
    load = round(os.getloadavg()[0], 2)
    target, count = Target(), sizes()
    processes = []
    for seed in range(asked.seeds):
        say(f"the whole command, seed {seed}")
        processes.append(whole(target, seed, asked.threads))
    say("time to quality")
    warm_up(target)
    runs = to_quality(target, asked.turns, full=asked.full)
    found = judged(processes, runs, full=asked.full)
    found["held"] = all(found["held_each"].values())
    setting = {"threads": asked.threads, "load_before": load, "parameters": count}
    claim = {"plain steps": PLAIN_STEPS, "mse": MSE, "ssim": SSIM, "over plain": FASTER, "over objective": NO_SLOWER}
    lines = [f"claim: {claim}; {setting}"]
    for run in processes:
        parts = f"{run['train_seconds']:.1f} + {run['generate_seconds']:.1f}"
        lines.append(
            f"seed {run['seed']}: {run['seconds']:5.1f} s ({parts}), {run['cpu_seconds']:.1f} s of CPU, "
            f"MSE {run['mse']:.2e}, SSIM {run['ssim']:.4f}"
        )
    lines.append(f"a plain step: {1000 * found['plain_step_cpu_seconds']:.1f} ms of CPU")
    for name, ratio in ({"own": 1.0} | found["ratio"]).items():
        seconds = ", ".join(
            f"{run['seconds']:.1f} s / {run['steps']} steps" + (f" at {run['rate']:g}" if "rate" in run else "")
            for run in runs[name]
        )
        nearest = min(error(run) for run in runs[name])
        at_least = "" if found["reached"][name] else "not reached, at least "
        lines.append(f"{name:9} {at_least}{ratio:.1f} x own; {seconds}; nearest MSE {nearest:.2e}")
    lines += [f"{what}: {verdict(held)}" for what, held in found["held_each"].items()]
    return conclude(asked, {"claim": claim, **setting, "whole": processes, "to_quality": runs, **found}, lines)


if __name__ == "__main__":
    sys.exit(main())
