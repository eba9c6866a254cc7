"""Stops before damage: a loss or gradient that is not finite never reaches the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bottega.runtime.errors import NonFiniteError

if TYPE_CHECKING:
    import torch
    from torch import nn

_SHOWN = 8


def check_losses(losses: torch.Tensor, *, step: int, sample_ids: Sequence[str], timesteps: Sequence[int]) -> None:
    """Raise NonFiniteError if any sample's loss, float [B], is not finite; names the step, samples and timesteps."""
    bad = (~losses.detach().isfinite()).nonzero().flatten().tolist()
    if bad:
        named = ", ".join(f"{sample_ids[i]} at t={timesteps[i]}" for i in bad[:_SHOWN])
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise NonFiniteError(
            f"step {step}: the loss of {len(bad)} of {len(losses)} samples is not finite ({named}{more}); the weights "
            f"are untouched since the step before: look at these samples' features, or lower the learning rate"
        )


def clip_gradients(parameters: Sequence[tuple[str, nn.Parameter]], limit: float) -> torch.Tensor:
    """Scale all gradients down to an L2 norm of at most `limit`; returns the norm before, a scalar tensor.

    Takes a sequence on purpose: a generator that an optimizer has used up clips nothing and says so to nobody.
    Raises ValueError when there is no gradient at all.
    """
    import torch

    gradients = [parameter.grad for _, parameter in parameters if parameter.grad is not None]
    if not gradients:
        raise ValueError(f"none of {len(parameters)} parameters has a gradient: the loss does not depend on them")
    norm: torch.Tensor = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g.float()) for g in gradients]))
    factor = (limit / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, factor)
    return norm


def check_gradients(
    norm: torch.Tensor, parameters: Sequence[tuple[str, nn.Parameter]], *, step: int, sample_ids: Sequence[str]
) -> float:
    """The norm as a number; NonFiniteError, naming the first bad parameter, the step and the samples, if it is none."""
    value = float(norm)
    if value == value and abs(value) != float("inf"):
        return value
    bad = [name for name, parameter in parameters if parameter.grad is not None and not parameter.grad.isfinite().all()]
    first = bad[0] if bad else "their norm overflows"
    named = ", ".join(list(sample_ids)[:_SHOWN]) + (" …" if len(sample_ids) > _SHOWN else "")
    raise NonFiniteError(
        f"step {step}: the gradient is not finite (first: {first}; samples: {named}); the weights are untouched since "
        f"the step before: look at these samples' features, or lower the learning rate"
    )
