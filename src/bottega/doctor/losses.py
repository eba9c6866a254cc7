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
class LossBatch:
    """Losses in the order of the log, those that are not finite among them. N is their number.

    steps: [N], counted over the whole run, also where the log counts within an epoch; epochs or loss lines where it
    gives no steps (`Unit`). losses: [N]. learning_rates: [N], NaN where the log gives none. resumed: the first loss
    follows a resume. new_run: the first loss is that of another run in the same file.
    """

    steps: F64
    losses: F64
    learning_rates: F64
    resumed: bool
    new_run: bool = False
