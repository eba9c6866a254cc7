"""What a stage that trains prepares, and the three ways to run it: train, verify, replay.

A stage writes one function that prepares a job, from nothing but its configuration and folders, and then

    result = train_job(job, directory, processes=processes)      # run
    compared = verify_resume(prepare_job, directory, steps)       # bottega.training.verify, prepares it three times
    seen = replay_job(job, file)                                  # a step that was not finite, computed again
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from bottega.training.config import LoopConfig
from bottega.training.processes import ALONE, Processes
from bottega.training.workload import Validate, Workload, WriteSamples

if TYPE_CHECKING:
    from bottega.training.loop import TrainingSummary
    from bottega.training.replay import Examination

W = TypeVar("W", bound=Workload, covariant=True)


def _nothing_to_close() -> None:
    pass


@dataclass(frozen=True)
class TrainingJob(Generic[W]):
    """Everything that a training needs besides a folder.

    Args:
        work: what is trained.
        config: how long and how fast.
        validate: returns the numbers of a validation; None where there is none.
        write_samples: draws sample pictures after a validation; None where none are wanted.
        close: undoes what the job did to models that are used after it, such as hooks in a frozen backbone.
    """

    work: W
    config: LoopConfig
    validate: Validate | None = None
    write_samples: WriteSamples | None = None
    close: Callable[[], None] = _nothing_to_close


def train_job(
    job: TrainingJob[Workload],
    directory: Path,
    *,
    config: LoopConfig | None = None,
    until: int | None = None,
    processes: Processes = ALONE,
) -> TrainingSummary:
    """Train a job in `directory` and close it, see `bottega.training.loop.train`; `config` in place of the job's."""
    from bottega.training.loop import train

    try:
        return train(
            job.work,
            job.config if config is None else config,
            directory,
            validate=job.validate,
            write_samples=job.write_samples,
            until=until,
            processes=processes,
        )
    finally:
        job.close()


def replay_job(job: TrainingJob[Workload], file: Path) -> Examination:
    """Compute the step that a stopped training left in `file` again, and close the job; see
    `bottega.training.replay`."""
    from bottega.training.replay import replay

    try:
        return replay(job.work, file)
    finally:
        job.close()
