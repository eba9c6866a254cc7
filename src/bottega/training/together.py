"""Several trainings in one process, in turns: a step of each, then the next step of each.

Each is `bottega.training.loop.train` with its own state, folder, log and checkpoints, and comes out as if it had been
trained alone. What they may share is for their workloads to know.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bottega.runtime.errors import Interrupted, MemoryPressureError, NonFiniteError
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.training.job import TrainingJob, TrainingSummary
from bottega.training.loop import train_by_steps
from bottega.training.workload import Workload

Outcome = TrainingSummary | NonFiniteError
"""Of a training among others: what it came to, or why it could not go on."""


@dataclass
class _Turn:
    """A training that is under way: its steps, and how many are done."""

    folder: Path
    steps: Generator[int, None, TrainingSummary]
    done: int


def train_together(jobs: Mapping[Path, TrainingJob[Workload]]) -> dict[Path, Outcome]:
    """Train all jobs to their ends, each from its newest checkpoint, in lockstep.

    Args:
        jobs: by the folder of each training. They must not share anything that training changes.

    Returns:
        By folder what `train` returns, or the error of a training whose numbers were no longer finite: the others do
        not depend on it, and go on.

    Raises:
        Interrupted: somebody asked to stop; there is a checkpoint of each.
        MemoryPressureError: memory runs short; there is a checkpoint of each.
        FingerprintError: a checkpoint is of another run; nothing was trained.
        ValueError: the jobs ask for different numbers of threads.
    """
    if len({job.config.threads for job in jobs.values()}) > 1:
        raise ValueError("trainings in one process share torch's threads: their loop.threads must be equal")
    total = sum(job.config.steps for job in jobs.values())
    with ExitStack() as opened:
        interruption = opened.enter_context(Interruption())
        under_way = _UnderWay(_begin(jobs, interruption, opened), interruption)
        done = sum(turn.done for turn in under_way.turns)
        progress = opened.enter_context(Progress(total, f"training {len(jobs)} together", "steps", done=done))
        while under_way.turns:
            progress.update(under_way.round())
        if under_way.stopped is not None:
            raise under_way.stopped
    return under_way.outcomes


class _UnderWay:
    """The trainings that have steps left, and what has become of the others."""

    def __init__(self, turns: list[_Turn], interruption: Interruption) -> None:
        self.turns = turns
        self.outcomes: dict[Path, Outcome] = {}
        self.stopped: Interrupted | MemoryPressureError | None = None
        self._interruption = interruption

    def round(self) -> int:
        """One step of each training that is behind; returns how many steps were done."""
        # Those that resumed from an earlier step catch up first: what is shared belongs to one step.
        behind = min(turn.done for turn in self.turns)
        done = 0
        for turn in [turn for turn in self.turns if turn.done == behind]:
            self._take(turn)
            done += turn.done - behind
        return done

    def _take(self, turn: _Turn) -> None:
        """One step of a training, or its end."""
        try:
            turn.done = next(turn.steps)
            return
        except StopIteration as ended:
            self.outcomes[turn.folder] = ended.value
        except NonFiniteError as error:
            self.outcomes[turn.folder] = error
        except (Interrupted, MemoryPressureError) as error:
            self.stopped = self.stopped or error
            # The others save as well, each after its next step.
            self._interruption.signum = self._interruption.signum or signal.SIGTERM
        self.turns.remove(turn)


def _begin(jobs: Mapping[Path, TrainingJob[Workload]], interruption: Interruption, opened: ExitStack) -> list[_Turn]:
    """All trainings, resumed; their logs are open until `opened` is closed, or they end."""
    turns: list[_Turn] = []
    for folder, job in jobs.items():
        steps = train_by_steps(job, folder, interruption=interruption)
        opened.callback(steps.close)
        turns.append(_Turn(folder, steps, next(steps)))
    return turns
