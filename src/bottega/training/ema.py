"""The exponential moving average of trained parameters: a ← d·a + (1 - d)·θ after every step of the optimizer.

d = min(decay, (1 + n)/(10 + n)) at step n (from 1), so that an average of many steps is not still full of the start
when there have been few; a function of the step alone, so that resuming needs nothing but the averages. They begin as
the parameters, in float32. Buffers are not averaged: nothing trains them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn


def decay_at(step: int, decay: float) -> float:
    """The share of the old average that `step` (from 1) keeps, 0..decay."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The averages of named parameters.

    Args:
        parameters: all that are trained.
        decay: the largest share of the old average that a step keeps, in (0, 1).
    """

    def __init__(self, parameters: Sequence[tuple[str, nn.Parameter]], decay: float) -> None:
        self.decay = decay
        self._parameters = list(parameters)
        self._averages = [parameter.detach().float().clone() for _, parameter in self._parameters]

    def update(self, step: int) -> None:
        """Enter the parameters as they are after `step` (from 1)."""
        import torch

        # Averaged in float32: at a decay of 0.999 a step's share is below the rounding of bfloat16.
        new = [parameter.detach().float() for _, parameter in self._parameters]
        torch._foreach_lerp_(self._averages, new, 1.0 - decay_at(step, self.decay))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this block the parameters hold the averages; after it they are themselves again, to the bit."""
        kept = [parameter.detach().clone() for _, parameter in self._parameters]
        self.copy_to_module()
        try:
            yield
        finally:
            self._write(kept)

    def copy_to_module(self) -> None:
        """Write the averages into the parameters, for good."""
        self._write(self._averages)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages by the parameters' names, float32 copies on the CPU."""
        names = [name for name, _ in self._parameters]
        return {name: average.cpu().clone() for name, average in zip(names, self._averages, strict=True)}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continue from `tensors`."""
        for (name, _), average in zip(self._parameters, self._averages, strict=True):
            average.copy_(tensors[name])

    def _write(self, values: Sequence[torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for (_, parameter), value in zip(self._parameters, values, strict=True):
                parameter.copy_(value)
