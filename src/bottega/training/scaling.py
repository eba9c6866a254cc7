"""A loss scale: a gradient that passes through a network in float16 must neither underflow nor overflow.

float16 holds nothing between 0 and 6e-8 and nothing above 65504. So the loss is multiplied by S before the backward
pass and the gradients of the trained float32 parameters by 1/S after it. S is a power of two, hence neither rounds:
where nothing under- or overflows, scaling changes no bit.

torch's GradScaler is not used on purpose. It skips a step whose gradient overflows: that step's samples are lost, and
schedule and step number part. Here samples, timesteps and noise are functions of (seed, step), so the same step is
computed again with half the scale, and none is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

START = 2.0**16
"""torch's GradScaler begins with the same value; where it is too large, the first step halves it until it fits."""

GROW_AFTER = 2000
"""Good steps in a row after which the scale is doubled; GradScaler's default as well."""


class LossScale:
    """The scale and how it moves: doubled after `GROW_AFTER` good steps in a row, halved on overflow, never below 1.

    Args:
        value: a power of two, at least 1.
        good_steps: steps since it last changed.
    """

    def __init__(self, value: float = START, good_steps: int = 0) -> None:
        self.value = value
        self.good_steps = good_steps
        self._first = value

    def unscale(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Divide the gradients of named parameters by the scale, in place."""
        import torch

        gradients = [parameter.grad for _, parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1.0 / self.value)

    def halve(self) -> bool:
        """Halve the scale after an overflow; False at 1, where what is not finite is not the scale's doing."""
        if self.value <= 1.0:
            return False
        self.value /= 2.0
        self.good_steps = 0
        return True

    def update(self) -> str | None:
        """Count a step whose gradient was finite; a line for people where it had to be computed again."""
        message = None
        if self.value < self._first:
            message = (
                f"the gradient overflowed with a loss scale of {self._first:g}; the same step was computed again with "
                f"{self.value:g}, nothing is skipped"
            )
        self.good_steps += 1
        if self.good_steps == GROW_AFTER:
            self.value *= 2.0
            self.good_steps = 0
        self._first = self.value
        return message

    def state(self) -> dict[str, int | float]:
        """What the next step depends on, for the checkpoint."""
        return {"value": self.value, "good_steps": self.good_steps}

    def load(self, state: Mapping[str, float]) -> None:
        """Continue from a `state`."""
        self.value = float(state["value"])
        self.good_steps = int(state["good_steps"])
        self._first = self.value
