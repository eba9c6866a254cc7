"""A small task for the trainer; as a program, what each process of `accelerate launch` does: `line.py FOLDER`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from bottega.miniature.builder.trainer import MicrobatchLosses, Trainer, TrainingPlan
from bottega.training.processes import joined

PLAN = TrainingPlan(learning_rate=0.05, warm_up=2, measure_every=4)


class Line:
    """Learns to sum 36 numbers, in two parts a step; `spoilt` is the step whose loss is not finite.

    Its weights lie in memory as those of a convolutional network on a CPU do.
    """

    name = "line"

    def __init__(self, spoilt: int | None = None) -> None:
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(4, 1, 3).to(memory_format=torch.channels_last)
        self.modules = {"layer": self.layer}
        self.spoilt = spoilt

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        return [functools.partial(self._part, step, part) for part in range(2)]

    def measure(self) -> Mapping[str, float]:
        return {"weight": float(self.layer.weight.detach().sum())}

    def _part(self, step: int, part: int) -> MicrobatchLosses:
        x = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2 * step + part))
        error = (self.layer(x) - x.sum((1, 2, 3), keepdim=True)).square().mean()
        if step == self.spoilt:
            error = error * float("nan")
        return MicrobatchLosses({f"part{part}": error}, len(x))


def main() -> None:
    """Train until a signal comes."""
    with joined("cpu") as processes:
        Trainer(Line(), Path(sys.argv[1]), PLAN, processes=processes).train()


if __name__ == "__main__":
    main()
