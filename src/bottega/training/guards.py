"""Stops before damage: a loss or gradient that is not finite never reaches the optimizer; memory that runs short or
rises without end stops the run while everything can still be saved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import linear_regression
from typing import TYPE_CHECKING

from bottega.runtime.errors import MemoryPressureError, NonFiniteError
from bottega.runtime.memory import Creep, Load, load, rss_mb, trim

if TYPE_CHECKING:
    import torch
    from torch import nn

_SHOWN = 8
"""Samples that a message names; the others are counted."""

_POINTS = 512
"""Memory readings kept of a run, from which its slope is computed; thinned by half when there are so many."""

_MB = 1024 * 1024


def check_losses(losses: torch.Tensor, *, step: int, sample_ids: Sequence[str], timesteps: Sequence[int]) -> None:
    """Raise NonFiniteError if any sample's loss, float [B], is not finite; names the step, samples and timesteps.

    The loop adds what to do (`bottega.training.replay.explain`).
    """
    bad = (~losses.detach().isfinite()).nonzero().flatten().tolist()
    if bad:
        named = name_samples([sample_ids[i] for i in bad], [timesteps[i] for i in bad])
        raise NonFiniteError(f"step {step}: the loss of {len(bad)} of {len(losses)} samples is not finite ({named})")


def name_samples(sample_ids: Sequence[str], timesteps: Sequence[int]) -> str:
    """`id5 at t=50, id6 at t=60`, and how many more there are."""
    shown = zip(sample_ids[:_SHOWN], timesteps[:_SHOWN], strict=True)
    named = ", ".join(f"{sample_id} at t={timestep}" for sample_id, timestep in shown)
    more = len(sample_ids) - _SHOWN
    return f"{named} and {more} more" if more > 0 else named


def clip_gradients(parameters: Sequence[tuple[str, nn.Parameter]], limit: float) -> torch.Tensor:
    """Scale all gradients down to an L2 norm of at most `limit`; returns the norm before, a scalar tensor.

    Takes a sequence on purpose: a generator that an optimizer has used up would clip nothing, silently.
    Raises ValueError when there is no gradient at all.
    """
    import torch

    gradients = [parameter.grad for _, parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError(f"none of {len(parameters)} parameters has a gradient: the loss does not depend on them")
    # In float32: in half precision the norm of a large gradient overflows though none of its entries does.
    norms = [torch.linalg.vector_norm(gradient.float()) for gradient in gradients]
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack(norms))
    # The factor stays a tensor, so that the GPU need not wait for the CPU to read it.
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


def check_gradients(norm: float, *, step: int) -> float:
    """The norm of a step's gradients; NonFiniteError if it is no finite number.

    Clipping by it has spoiled every gradient then, so which was the first is found by computing the step again.
    """
    if not math.isfinite(norm):
        raise NonFiniteError(f"step {step}: the gradient is not finite")
    return norm


class MemoryGuard:
    """RAM between two steps: does this process's own rise steadily, is the machine's nearly used up?

    Own memory is what is resident less what is mapped from files: the pages of a feature cache that was read are given
    back when they are needed, and would look like a leak for a whole epoch. A check takes some 30 µs.

    Args:
        limit: share of RAM in use, 0..1, by whomever, above which the run stops.
        every: steps between checks of the machine.
        creep: judges the rise, of one sample a step.
        measure: how full the machine is; for tests.
    """

    def __init__(
        self, limit: float, every: int, *, creep: Creep | None = None, measure: Callable[[], Load] = load
    ) -> None:
        import psutil

        self._limit = limit
        self._every = every
        self._measure = measure
        self._creep = creep or Creep()
        self._process = psutil.Process()
        self._points: list[tuple[int, float]] = []
        self._stride = 1

    def check(self, step: int) -> MemoryPressureError | None:
        """What must end the run after `step` (from 1) as soon as all is saved; None while nothing must."""
        own = self.own_mb()
        self._remember(step, own)
        rise = self._creep.add(own)
        if rise is not None:
            return MemoryPressureError(
                f"a training run's memory must level out, this one's rose steadily by {rise:.0f} MB: "
                f"{self._state(step)}; run the same command again, a fresh process begins low"
            )
        now = self._above_limit() if step % self._every == 0 else None
        if now is not None:
            return MemoryPressureError(
                f"at most {self._limit:.0%} of RAM may be in use, {now.ram:.0%} is, by whomever: {self._state(step)}; "
                "free memory and run the same command again, or raise loop.memory_limit"
            )
        return None

    def own_mb(self) -> float:
        """Resident memory of this process in MiB, less pages that are mapped from files or shared."""
        facts = self._process.memory_info()
        return float(facts.rss - getattr(facts, "shared", 0)) / _MB

    def slope(self) -> float | None:
        """How fast own memory rises, in MiB per 1000 steps, over the later half of the steps so far; None at the first
        step."""
        later = self._points[len(self._points) // 2 :]
        if len(later) < 2:
            return None
        steps, sizes = zip(*later, strict=True)
        return 1000 * linear_regression(steps, sizes).slope

    def _above_limit(self) -> Load | None:
        if self._measure().ram <= self._limit:
            return None
        # Freed memory that the allocator still holds counts as used: hand it back before stopping for it.
        trim()
        now = self._measure()
        return now if now.ram > self._limit else None

    def _state(self, step: int) -> str:
        slope = self.slope()
        rate = "" if slope is None else f" and changes by {slope:+.1f} MB per 1000 steps"
        return f"this process holds {rss_mb():.0f} MB{rate}; all is saved up to step {step}"

    def _remember(self, step: int, own: float) -> None:
        """Keep points evenly over the whole run, half of them each time that there are too many."""
        if step % self._stride == 0:
            self._points.append((step, own))
        if len(self._points) == _POINTS:
            self._points = self._points[::2]
            self._stride *= 2
