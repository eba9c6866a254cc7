"""The losses of a log in batches: all that the reader of a log and the judgement of its curve have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

Unit = Literal["step", "epoch", "loss line"]
"""What a log counts its losses by; loss lines where it names neither steps nor epochs."""


@dataclass(frozen=True)
class SideColumns:
    """What lines have beside their losses, [M] each: NaN where a line has none, infinite where it is not finite.

    steps: of the lines, some of which may have no loss. rates: the learning rate as that line names it. grad_norms: of
    the gradient. step_times, data_times: in seconds. memory: in the log's own unit. skipped: steps that the optimizer
    left out since the line before; skipped_in_all: since the run began.
    """

    steps: F64
    rates: F64
    grad_norms: F64
    step_times: F64
    data_times: F64
    memory: F64
    skipped: F64
    skipped_in_all: F64


@dataclass(frozen=True)
class LossBatch:
    """Losses in the order of the log, those that are not finite among them. N is their number.

    steps: [N], counted over the whole run, also where the log counts within an epoch; epochs or loss lines where it
    gives no steps (`Unit`). losses: [N]. learning_rates: [N], NaN where the log gives none. resumed: the first loss
    follows a resume. new_run: the first loss is that of another run in the same file. sides: None where they were not
    read, as in most blocks of a very long log.
    """

    steps: F64
    losses: F64
    learning_rates: F64
    resumed: bool
    new_run: bool = False
    sides: SideColumns | None = None
