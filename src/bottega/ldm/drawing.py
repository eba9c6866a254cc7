"""Prompts to latents with a model: guidance and the sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bottega.diffusion.plan import Sampling
from bottega.diffusion.sampling import StepStatistics, sample, seeded_noise
from bottega.diffusion.schedule import NoiseSchedule
from bottega.ldm.model import LatentDiffusion

BATCH = 64
"""Pictures that are drawn together; to 1e-5 each depends on its own prompt and seed alone."""


@torch.no_grad()
def draw_latents(
    model: LatentDiffusion,
    schedule: NoiseSchedule,
    plan: Sampling,
    shape: Sequence[int],
    prompts: Sequence[str],
    seeds: Sequence[int],
    guidance_scale: float = 1.0,
    watch: Callable[[StepStatistics], None] | None = None,
) -> torch.Tensor:
    """Draw a latent for each of N prompts.

    Args:
        model: in whatever mode; it is in evaluation mode afterwards.
        schedule: the noise schedule that it was trained on.
        plan: sampler, steps and thresholding.
        shape: (C, h, w) of a latent.
        prompts: N texts.
        seeds: one for each prompt.
        guidance_scale: classifier-free, prediction = empty + scale · (prompt - empty), Ho & Salimans 2022, eq. 6;
            at 1 the network is asked once a step.
        watch: called at every step of every `BATCH` pictures.

    Returns:
        Latents, float32 [N, C, h, w] on the CPU.

    Raises:
        NonFiniteError: see `bottega.diffusion.sampling.sample`.
    """
    device = next(model.parameters()).device
    model.eval()
    latents = []
    for first in range(0, len(prompts), BATCH):
        batch = slice(first, first + BATCH)
        noise = seeded_noise(seeds[batch], 0, shape).to(device)  # [B, C, h, w]
        denoise = guided(model, prompts[batch], guidance_scale)
        latents.append(sample(denoise, schedule, plan, noise, seeds[batch], watch).cpu())
    return torch.cat(latents)  # [N, C, h, w]


def guided(
    model: LatentDiffusion, prompts: Sequence[str], scale: float
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The model for these B prompts as a sampler calls it: (x [B, C, h, w], timesteps [B]) -> prediction."""
    if scale == 1.0:
        condition = model.condition(prompts)
        return lambda x, t: model(x, t, condition)

    doubled = model.condition([""] * len(prompts) + list(prompts))  # [2 B, L, F]
    if doubled[0] is None:  # without text there is nothing to guide by
        return lambda x, t: model(x, t, doubled)

    def denoise(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        prediction = model(torch.cat([x, x]), torch.cat([t, t]), doubled)  # [2 B, C, h, w]
        without, with_prompt = prediction.chunk(2)  # each [B, C, h, w]
        return without + scale * (with_prompt - without)  # type: ignore[no-any-return]

    return denoise
