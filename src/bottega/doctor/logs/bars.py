"""Progress bars between the lines with losses, as transformers' Trainer has them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bottega.doctor.logs.lines import to_float

_BAR = re.compile(rb"%\|[^|\n]{0,400}\| *(\d{1,12})/(\d{1,12}) \[[\d:]+<[\d:?]+, *([\d.]+)(s/it|it/s)\]")

TAIL = 1 << 12
"""Bytes at the end of a block in which a bar without a loss is looked for."""

AGREES = 0.02
"""A bar is of the whole run where it stands as far as the epochs do, to this share of the plan."""


@dataclass(frozen=True)
class Bar:
    """Where a progress bar stands. steps: all that it counts to."""

    step: int
    steps: int
    seconds_per_step: float


class BarWatcher:
    """Keeps the longest bar of a log: that of the whole run, if any is."""

    def __init__(self) -> None:
        self._longest: Bar | None = None
        self._times_begun = 0

    def see(self, block: bytes) -> None:
        """Take note of the longest bar, where it stands at the block's end."""
        for found in _BAR.finditer(block[-TAIL:]):
            pace = to_float(found[3])
            longest = self._longest
            steps = int(found[2])
            least = longest.steps if longest else 1
            if not pace > 0 or steps < least:
                continue  # a bar of one validation, or of one download, is shorter than that of the run
            seconds_per_step = 1 / pace if found[4] == b"it/s" else pace
            bar = Bar(int(found[1]), steps, seconds_per_step)
            if longest is None or bar.steps > longest.steps or 2 * bar.step < longest.step:
                self._times_begun += 1  # one that begins again counts an epoch, not the run
            self._longest = bar

    def of_the_whole_run(self, epoch: float | None, epochs: int | None) -> Bar | None:
        """The bar of the whole run: it stands where the epochs do, or was begun once where no plan is known."""
        bar = self._longest
        if bar is None or not epoch:
            return None
        is_of_the_run = self._times_begun == 1
        if epochs:
            is_of_the_run = abs(bar.step / bar.steps - epoch / epochs) < AGREES
        return bar if is_of_the_run else None
