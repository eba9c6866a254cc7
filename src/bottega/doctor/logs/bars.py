"""Progress bars between the lines with losses, as transformers' Trainer has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bottega.doctor.logs.lines import to_float

_BAR = re.compile(rb"%\|[^|\n]{0,400}\| *(\d{1,12})/(\d{1,12}) \[[\d:]+<[\d:?]+, *([\d.]+)(s/it|it/s)\]")

TAIL = 1 << 12
"""Bytes at the end of a block in which a bar without a loss is looked for."""

AGREES = 0.02
"""A bar is of the whole run where it is as far as the epochs are, to this share of the plan."""


@dataclass(frozen=True)
class Bar:
    """How far a progress bar is. steps: all that it counts to."""

    step: int
    steps: int
    seconds_per_step: float


class BarWatcher:
    """Keeps the longest bar of a log: that of the whole run, if any is."""

    def __init__(self) -> None:
        self._longest: Bar | None = None
        self._times_started = 0

    def see(self, block: bytes) -> None:
        """Take note of the longest bar, as it is at the block's end."""
        for found in _BAR.finditer(block[-TAIL:]):
            pace = to_float(found[3])
            longest = self._longest or Bar(0, 1, 0.0)
            step, steps = int(found[1]), int(found[2])
            if not pace > 0 or steps < longest.steps:
                continue  # a bar of one validation, or of one download, is shorter than that of the run
            if found[4] == b"it/s":
                pace = 1 / pace
            if self._longest is None or steps > longest.steps or 2 * step < longest.step:
                self._times_started += 1  # one that starts again counts an epoch, not the run
            self._longest = Bar(step, steps, pace)

    def of_the_whole_run(self, epoch: float | None, epochs: int | None) -> Bar | None:
        """The bar of the whole run: it is as far as the epochs are, or was started once where no plan is known."""
        bar = self._longest
        if bar is None or not epoch:
            return None
        is_of_the_run = self._times_started == 1
        if epochs:
            is_of_the_run = abs(bar.step / bar.steps - epoch / epochs) < AGREES
        return bar if is_of_the_run else None
