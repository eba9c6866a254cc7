"""Samplers as functions of (denoiser, schedule, plan, start, seeds): from noise to clean latents, and what was seen.

Every sampler works on x̂_0 and on x alone, so all prediction types and schedules share it: the prediction becomes x̂_0,
x̂_0 is tested and thresholded, and ε̂ = (x - αx̂_0)/σ is derived from what is left. If the network's own ε were kept, the
step would point at another picture than x̂_0.

Legend: B pictures, [B, …] latents; (α, σ) here, (α', σ') after the step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bottega.diffusion.plan import Sampling, Thresholding
from bottega.diffusion.predictions import to_clean
from bottega.diffusion.schedule import NoiseSchedule
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import torch_generator

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Level = tuple[float, float]


@dataclass(frozen=True)
class Moments:
    """Of all values of a tensor; std is that of the values themselves (divided by their number)."""

    min: float
    max: float
    mean: float
    std: float
    absmax: float


@dataclass(frozen=True)
class StepStatistics:
    """What a sampler saw at one step.

    Attributes:
        step: counts from 1.
        timestep: of the schedule.
        x: the latents before the step.
        clean: x̂_0 before thresholding.
        clamped: the share of the values of x̂_0 that thresholding clamped, 0 … 1.
    """

    step: int
    timestep: int
    x: Moments
    clean: Moments
    clamped: float


def moments(values: torch.Tensor) -> Moments:
    """Statistics of a tensor of any shape, computed in float32 or better."""
    if values.dtype != torch.float64:
        values = values.float()
    low, high = (float(v) for v in values.aminmax())
    absmax = max(abs(low), abs(high))
    return Moments(low, high, float(values.mean()), float(values.std(correction=0)), absmax)


def seeded_noise(seeds: Sequence[int], step: int, like: torch.Tensor | Sequence[int]) -> torch.Tensor:
    """Standard normal [B, …], a function of each picture's seed and the step alone; step 0 is the start.

    Args:
        seeds: one a picture.
        step: of the sampler, from 1; 0 for the noise that it starts from.
        like: the shape of one picture (float32 on the CPU), or a batch whose shape, dtype and device are taken.
    """
    shape = like.shape[1:] if isinstance(like, torch.Tensor) else like
    draws = []
    for seed in seeds:
        generator = torch_generator("sampling", seed, step)
        draws.append(torch.randn(*shape, generator=generator))
    noise = torch.stack(draws)
    return noise.to(like) if isinstance(like, torch.Tensor) else noise


@torch.no_grad()
def sample(
    denoise: Denoiser,
    schedule: NoiseSchedule,
    plan: Sampling,
    start: torch.Tensor,
    seeds: Sequence[int],
    watch: Callable[[StepStatistics], None] | None = None,
) -> torch.Tensor:
    """Noise to clean latents; a picture depends on its own seed and start alone.

    Args:
        denoise: the network, (x [B, …], timesteps int64 [B]) -> what the schedule's prediction type names, [B, …].
        schedule: of its training.
        plan: sampler, steps, spacing and thresholding.
        start: standard normal [B, …], `seeded_noise(seeds, 0, shape)`.
        seeds: one a picture, for the noise of later steps.
        watch: called at every step with what was seen.

    Returns:
        Latents [B, …] in the dtype of `start`.

    Raises:
        NonFiniteError: x̂_0 is not finite; tested before any clamp could hide it.
    """
    if len(seeds) != len(start):
        raise RequestError(f"each picture has a seed of its own; received {len(start)} pictures and {len(seeds)} seeds")
    times = plan.timesteps(schedule)
    eta = 1.0 if plan.sampler == "ddpm" else plan.eta
    x, before = start, None
    for step, (now, after) in enumerate(itertools.pairwise([*times, -1]), start=1):
        here, there = schedule.at(now), schedule.at(after)
        prediction = denoise(x, torch.full((len(x),), now, device=x.device))
        raw = to_clean(schedule.prediction_type, prediction, x, *here)
        # Before the clamp, which would turn an infinity into a plausible value.
        _refuse_non_finite(raw, x, f"step {step} of {len(times)}, timestep {now}")
        clean, share = threshold(raw, plan.thresholding)
        if watch is not None:
            watch(StepStatistics(step, now, moments(x), moments(raw), float(share)))
        if plan.sampler == "dpmsolver++":
            x = multistep(x, clean, here, there, before)
            before = (clean, here)
        elif plan.sampler in ("ddpm", "ddim"):
            # None in the last step: nothing would take that noise out of the picture again.
            noise = seeded_noise(seeds, step, x) if eta and after >= 0 else None
            x = ancestral_step(x, clean, here, there, eta, noise)
        else:  # a name that was added to SAMPLERS alone would otherwise draw by DDIM in silence
            raise RequestError(f"the sampler {plan.sampler!r} has a name but no step; add one to diffusion/sampling.py")
    return x


def ancestral_step(
    x: torch.Tensor, clean: torch.Tensor, here: Level, there: Level, eta: float, noise: torch.Tensor | None
) -> torch.Tensor:
    """x' = α'x̂_0 + √(σ'² - s²) ε̂ + s z, with s = η (σ'/σ) √(σ² - (α/α')² σ'²). Song et al. 2021, eq. 12 and 16.

    η = 0 is DDIM; η = 1 is DDPM with the posterior's variance β̃ (Ho et al. 2020, eq. 7), on any schedule (Kingma et al.
    2021, app. A). The part of the noise that is kept, σ'² - s² = σ'²(1 - η² + η²(ασ'/α'σ)²), is free of cancellation.
    noise: standard normal z; None where s = 0: at η = 0, and in the step to the clean picture, which returns x̂_0.
    """
    (alpha, sigma), (alpha_next, sigma_next) = here, there
    kept = (alpha * sigma_next / (alpha_next * sigma)) ** 2
    epsilon = (x - alpha * clean) / sigma
    result = alpha_next * clean + sigma_next * math.sqrt(1.0 - eta**2 + eta**2 * kept) * epsilon
    return result if noise is None else result + sigma_next * eta * math.sqrt(1.0 - kept) * noise


def multistep(
    x: torch.Tensor, clean: torch.Tensor, here: Level, there: Level, before: tuple[torch.Tensor, Level] | None
) -> torch.Tensor:
    """x' = (σ'/σ) x + (α' - ασ'/σ) D, D = x̂_0 + (h/2h_0)(x̂_0 - x̂_0 before): DPM-Solver++(2M), midpoint.

    Lu et al. 2022, arXiv 2211.01095, alg. 2; α' - ασ'/σ is their -α'(e^-h - 1), λ = ln(α/σ), h and h_0 the
    strides in λ of this step and the last. The first step and the step to the clean picture (h = ∞) are of first
    order, and so is the one after a start at α = 0 (h_0 = ∞).
    before: x̂_0 and (α, σ) of the step before; None in the first.
    """
    (alpha, sigma), (alpha_next, sigma_next) = here, there
    direction = clean
    if before is not None and sigma_next > 0.0:
        last, (alpha_last, sigma_last) = before
        stride_last = math.inf if alpha_last == 0.0 else math.log(alpha / sigma) - math.log(alpha_last / sigma_last)
        stride = math.log(alpha_next / sigma_next) - math.log(alpha / sigma)
        direction = clean + 0.5 * stride / stride_last * (clean - last)
    return (sigma_next / sigma) * x + (alpha_next - alpha * sigma_next / sigma) * direction


def threshold(clean: torch.Tensor, thresholding: Thresholding) -> tuple[torch.Tensor, torch.Tensor]:
    """x̂_0 [B, …] -> within its range, and the share of its values that were clamped; see `Thresholding`."""
    limit = thresholding.limit
    if thresholding.mode == "off":
        return clean, torch.zeros(())
    if thresholding.mode == "static":
        return clean.clamp(-limit, limit), (clean.abs() > limit).float().mean()
    bound = clean.abs().flatten(1).quantile(thresholding.quantile, dim=1).clamp(min=limit)  # [B]
    bound = bound.reshape(-1, *(1,) * (clean.dim() - 1))
    return clean.clamp(-bound, bound) * (limit / bound), (clean.abs() > bound).float().mean()


def _refuse_non_finite(clean: torch.Tensor, x: torch.Tensor, place: str) -> None:
    finite = torch.isfinite(clean)
    if bool(finite.all()):
        return
    bad, seen = int((~finite).sum()), moments(x)
    raise NonFiniteError(
        f"x̂_0 is finite at every step; at {place}, {bad} of {clean.numel()} values are NaN or infinite. "
        f"The latents there: min {seen.min:.4g}, max {seen.max:.4g}, mean {seen.mean:.4g}, "
        f"std {seen.std:.4g}, absmax {seen.absmax:.4g}. Sample in float32, "
        "lower the guidance scale, and look for non-finite weights or losses in the training"
    )
