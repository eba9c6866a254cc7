"""Is a resumed run equal to an uninterrupted one? Shown for this workload on this machine, by training a few steps.

In a folder beside the output, and never in it, the same steps are trained twice: in one go, and stopped in the middle
and finished by a freshly loaded workload. Then the two last checkpoints are compared, tensor by tensor.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bottega.runtime.errors import RequestError, WorkError
from bottega.runtime.memory import trim
from bottega.training import checkpoint as checkpoints
from bottega.training.config import VERIFY_STEPS
from bottega.training.job import TrainingJob, TrainingSummary
from bottega.training.loop import train
from bottega.training.workload import Workload

GPU_TOLERANCE = 1e-2
"""The largest relative difference of a tensor (see `relative_difference`) that is allowed on a GPU.

There attention's gradient adds up in an order that changes from run to run; in bfloat16, with a rounding of 4e-3, that
may move AdamW's moments by some 1e-3 of their largest entry. What a checkpoint can lack shows far above it: without its
moments, or with other samples after the stop, the moments differ by the order of 1. The bound is estimated, not
measured, and a wrong learning rate stays below it; on the CPU, where only equality to the bit passes, nothing does.
"""


@dataclass(frozen=True)
class Comparison:
    """Two final checkpoints: of `steps` in one go, and of as many with a stop after `stopped`.

    Args:
        tensors: how many were compared.
        unequal: how many of them are not equal to the bit.
        worst: the one with the largest relative difference.
        difference: how large that is.
        device: torch's kind of it, such as `cpu`.
    """

    steps: int
    stopped: int
    tensors: int
    unequal: int
    worst: str
    difference: float
    device: str

    @property
    def allowed(self) -> float:
        """The largest relative difference that passes."""
        return 0.0 if self.device == "cpu" else GPU_TOLERANCE

    def __str__(self) -> str:
        how = f"{self.steps} steps on {self.device}, in one go and stopped after {self.stopped}"
        if not self.unequal:
            return f"equal to the bit: all {self.tensors} tensors of the checkpoint ({how})"
        return (
            f"largest relative difference {self.difference:.2e}, in {self.worst}; {self.unequal} of {self.tensors} "
            f"tensors of the checkpoint are not equal to the bit ({how}; allowed: {self.allowed:g})"
        )

    def require(self) -> None:
        """Raise WorkError unless the checkpoints are equal: to the bit on the CPU, within GPU_TOLERANCE elsewhere."""
        if self.unequal and (self.device == "cpu" or not self.difference <= self.allowed):
            raise WorkError(
                f"a resumed run must equal an uninterrupted one, this one does not: {self}; do not stop this run, and "
                "look for what its steps depend on beside seed, step, parameters and moments"
            )


def verify_resume(fresh: Callable[[], TrainingJob[Workload]], output: Path, steps: int = VERIFY_STEPS) -> Comparison:
    """Train `steps` steps in one go and again with a stop in the middle, and compare the checkpoints.

    Args:
        fresh: prepares the job from the beginning, three times in all; of its configuration, only the length and the
            intervals are made shorter.
        output: the run's folder; nothing in it is touched.
        steps: how many, two at least.

    Raises:
        RequestError: for fewer than two steps.
        BottegaError: whatever `train` raises. A difference is no error here: see `Comparison.require`.
    """
    if steps < 2:
        raise RequestError(
            f"a run is stopped in the middle of 2 steps or more, {steps} was asked for; ask for {VERIFY_STEPS}"
        )
    with _folder_beside(output) as folder:
        whole = folder / "whole"
        cut = folder / "cut"
        stop = steps // 2
        job = fresh()
        device = next(job.work.module.parameters()).device.type
        _train(job, steps, whole)
        del job
        trim()  # a full-size backbone is not held twice
        _train(fresh(), steps, cut, until=stop)
        trim()
        resumed_from = _train(fresh(), steps, cut)["resumed_from"]
        if resumed_from != stop:
            raise WorkError(
                f"the second half must begin at step {stop}, it began at {resumed_from}: no checkpoint was whole"
            )
        one = _final_tensors(whole)
        other = _final_tensors(cut)
    names = sorted(one.keys() | other.keys())
    unequal: dict[str, float] = {}
    for name in names:
        difference = relative_difference(one.get(name), other.get(name))
        if difference is not None:
            unequal[name] = difference
    worst = max(unequal, key=lambda name: unequal[name], default="")
    return Comparison(steps, stop, len(names), len(unequal), worst, unequal.get(worst, 0.0), device)


def _train(job: TrainingJob[Workload], steps: int, directory: Path, until: int | None = None) -> TrainingSummary:
    """Train a job with its length and intervals made as short as `steps`."""
    short = job.config.model_copy(update={"steps": steps, "checkpoint_every": steps, "validate_every": steps})
    with closing(job):
        return train(job.work, short, directory, validate=job.validate, write_samples=job.write_samples, until=until)


def relative_difference(one: torch.Tensor | None, other: torch.Tensor | None) -> float | None:
    """max|a - b| / max(|a|, |b|) over two tensors; None where they are equal to the bit.

    Infinite where one is absent, of another shape or dtype, or not finite.
    """
    if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
        return math.inf
    # As bytes: `torch.equal` on floats calls 0 and -0 equal, and NaN different from itself.
    bytes_of_one = one.reshape(-1).view(torch.uint8)
    bytes_of_other = other.reshape(-1).view(torch.uint8)
    if torch.equal(bytes_of_one, bytes_of_other):
        return None
    a = one.double()
    b = other.double()
    scale = float(torch.maximum(a.abs(), b.abs()).max())
    distance = float((a - b).abs().max())
    if not (math.isfinite(scale) and math.isfinite(distance)):
        return math.inf
    return distance / scale if scale else 0.0  # 0 and -0 differ in a bit


def _final_tensors(directory: Path) -> dict[str, torch.Tensor]:
    found = checkpoints.latest(directory / "checkpoints")
    if found is None:
        raise WorkError(f"a finished training must leave a whole checkpoint, {directory} has none; check its disk")
    return checkpoints.read_tensors(found)


@contextmanager
def _folder_beside(output: Path) -> Iterator[Path]:
    """An empty folder that is deleted afterwards; one that a killed process left is deleted before."""
    output = output.resolve()
    folder = output.with_name(f".{output.name}.verify")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
