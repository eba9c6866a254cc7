"""Prompts to pictures with a model: guidance, the sampler, the autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bottega.diffusion.paths import Path
from bottega.diffusion.plan import Sampling
from bottega.diffusion.sampling import StepStatistics, sample, seeded_noise
from bottega.ldm.model import LatentDiffusion

AT_ONCE = 64
"""Pictures that are drawn together; each depends on its own prompt and seed alone, to 1e-5."""


@torch.no_grad()
def draw_latents(
    model: LatentDiffusion,
    path: Path,
    plan: Sampling,
    shape: Sequence[int],
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float = 1.0,
    watch: Callable[[StepStatistics], None] | None = None,
) -> torch.Tensor:
    """Latents, float32 [N, C, h, w] on the CPU, of N prompts with a seed each; shape is (C, h, w).

    guidance_scale: classifier-free, prediction = empty + scale · (prompt - empty); 1 asks the network once a step. Ho &
    Salimans 2022, eq. 6. watch: called at every step of every `AT_ONCE` pictures.
    Raises NonFiniteError, see `bottega.diffusion.sampling.sample`.
    """
    device = next(model.parameters()).device
    model.eval()
    drawn = []
    for first in range(0, len(prompts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        start = seeded_noise(seeds[part], 0, shape).to(device)
        denoise = guided(model, prompts[part], guidance_scale)
        drawn.append(sample(denoise, path, plan, start, seeds[part], watch).cpu())
    return torch.cat(drawn)


def guided(
    model: LatentDiffusion, prompts: Sequence[str], scale: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The model as a sampler takes it, for these prompts: (x [B, …], timesteps [B]) -> prediction."""
    guides = scale != 1.0
    condition = model.condition([""] * len(prompts) + list(prompts) if guides else prompts)
    if not guides or condition[0] is None:
        return lambda x, t: model(x, t, condition)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        without, with_prompt = model(torch.cat([x, x]), torch.cat([t, t]), condition).chunk(2)
        return without + scale * (with_prompt - without)  # type: ignore[no-any-return]

    return denoise
