"""What goes into a training and what comes out: the job that a stage prepares, and the summary.

A stage writes one function that prepares a job, from nothing but its configuration and folders. There are three uses of
it, all within `with closing(job)`:

    training.loop.train             train it
    training.verify.verify_resume   train it three times: is a resumed run equal to an uninterrupted one?
    training.replay.replay          compute a step again that was not finite
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12, see `student.records`

from bottega.training.config import LoopConfig
from bottega.training.workload import Metrics, Validate, Workload, WriteSamples

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


class TrainingSummary(TypedDict):
    """What a training came to. `loss` is that of the last step; None where no step was run and none is logged.
    `validation` is empty in all processes but the first, and where there is none."""

    steps: int
    resumed_from: int
    seconds: float
    loss: float | None
    validation: Metrics
