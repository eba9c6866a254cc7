"""What two processes of `accelerate launch` do for test_processes.py: `together.py OUT [CASE …]`.

Each process writes what became of each case to OUT/<case>/outcome_<rank>.json, and the threads that it has after all of
them to OUT/threads_<rank>.json.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bottega.runtime.errors import BottegaError, MemoryPressureError
from bottega.runtime.seeds import torch_generator
from bottega.training import loop
from bottega.training.config import LoopConfig
from bottega.training.guards import MemoryGuard
from bottega.training.processes import ALONE, Processes, joined
from bottega.training.workload import ALL_MICROBATCHES, Microbatch, Workload

CONFIG = LoopConfig(
    steps=8, learning_rate=0.05, warmup_steps=2, checkpoint_every=3, log_every=2, validate_every=4, tensorboard=False
)
PARTS = 5


class Toy(Workload):
    """Five parts of two samples through two layers, one of which only the parts 1 and 3 use; a third is never used.

    What goes wrong does so at step 3 (from 0), in part 3: with two processes, in the one with rank 1. `wrong`:
    interrupt, loss (NaN), error, overflow (of a loss scale above 1024), or, of the first process, validation.
    """

    def __init__(self, wrong: str = "", seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.module = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("all", "some", "none")})
        self.fingerprint = {"parts": PARTS}
        self.wrong = wrong
        self.loss_scaling = wrong == "overflow"

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.module.parameters()), "weight_decay": 0.1, "lr_multiplier": 1.0}]

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        x = torch.randn(2 * PARTS, 3, generator=torch_generator("toy", step))
        for k in range(PARTS)[share]:
            hidden = self.module["all"](x[2 * k : 2 * k + 2])
            if k in (1, 3):
                hidden = self.module["some"](hidden).tanh()
            losses = (hidden - 1).square().mean(dim=1)
            if step == 3 and k == 3:
                losses = self._go_wrong(losses)
            ids = [f"s{step}-{2 * k + i}" for i in range(2)]
            yield Microbatch(losses.sum() / (2 * PARTS), losses, ids, [k, k], ["even", "odd"], {"part": float(k)})

    def validate(self) -> dict[str, Any]:
        if self.wrong == "validation":
            raise ValueError("no disk")
        return {"val_gain": 0.5}

    def _go_wrong(self, losses: torch.Tensor) -> torch.Tensor:
        if self.wrong == "interrupt":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.wrong == "loss":
            return losses * torch.tensor([1.0, float("nan")])
        elif self.wrong == "error":
            raise ValueError("no such thing")
        elif self.wrong == "overflow":
            losses.register_hook(lambda g: torch.where(g > 1024 / (2 * PARTS), torch.inf, g))
        return losses


class Endless(Toy):
    """Tells by a file when the fifth step has begun."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        if step == 4:
            (self.directory / f"begun_{os.environ['RANK']}").touch()
        return super().microbatches(step, share)


class Full(MemoryGuard):
    """In the second process, memory is short after step 4."""

    def __init__(self, rank: int) -> None:
        super().__init__(1.0, 1)
        self.rank = rank

    def check(self, step: int) -> MemoryPressureError | None:
        return MemoryPressureError("memory is short in rank 1") if step == 4 and self.rank == 1 else None


def train(work: Toy, config: LoopConfig, directory: Path, **options: Any) -> dict[str, Any]:
    """Train a toy with its own validation."""
    return loop.train(work, config, directory, validate=work.validate, **options)


def perform(case: str, directory: Path, processes: Processes = ALONE) -> dict[str, Any]:
    """One case in this process."""
    if case == "order":
        return {"parts": processes.gather_in_order(list(range(PARTS))[processes.share])}
    if case == "other weights":
        return train(Toy(seed=processes.rank), CONFIG, directory, processes=processes)
    if case == "memory":
        return train(Toy(), CONFIG, directory, processes=processes, guard=Full(processes.rank))
    if case == "resumed":
        train(Toy(), CONFIG, directory, processes=processes, until=5)
    if case == "apart":
        train(Toy(), CONFIG, directory, processes=processes, until=3)
        own = directory if processes.first else directory / "elsewhere"
        return train(Toy(), CONFIG, own, processes=processes)
    if case == "endless":
        config = CONFIG.model_copy(update={"steps": 10**6, "checkpoint_every": 10**6, "validate_every": 10**6})
        return train(Endless(directory), config, directory, processes=processes)
    return train(Toy("" if case in ("sound", "resumed") else case), CONFIG, directory, processes=processes)


def main() -> None:
    """Every case in turn; this process's outcome of each."""
    out = Path(sys.argv[1])
    with joined("cpu") as processes:
        for case in sys.argv[2:]:
            (out / case).mkdir(exist_ok=True)
            work_done = {"count": processes.count}
            try:
                work_done |= perform(case, out / case, processes)
            except (BottegaError, ValueError) as error:
                work_done |= {"error": type(error).__name__, "text": str(error)}
            (out / case / f"outcome_{processes.rank}.json").write_text(json.dumps(work_done))
    threads = [file.read_text().strip() for file in Path("/proc/self/task").glob("*/comm")]
    (out / f"threads_{processes.rank}.json").write_text(json.dumps(threads))


if __name__ == "__main__":
    main()
