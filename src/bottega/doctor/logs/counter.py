"""Steps over the whole run, also from a log that counts them within each epoch."""

from __future__ import annotations

from bottega.doctor.logs.lines import LogLine
from bottega.doctor.logs.summary import TrainingLength
from bottega.doctor.losses import F64, Unit

NEARLY_DONE = 0.9
"""From this share of its length on, a bar that begins again has ended before: where a log prints every tenth step or
so, the last line of an epoch comes before its end."""


class StepCounter:
    """Counts on from loss line to loss line.

    unit: what the log counts by, once its first loss was seen. epoch: the last one that was named. step, num_losses:
    how far the run has come. in_epoch: the log counts its steps within each epoch. plan: learns the steps of an epoch.
    """

    def __init__(self, plan: TrainingLength) -> None:
        self.plan = plan
        self.unit: Unit | None = None
        self.epoch: float | None = None
        self.step = 0.0
        self.num_losses = 0
        self.in_epoch = False
        self.first_step: float | None = None
        self.step_total: int | None = None  # as a log that counts over the whole run states it
        self._first_epoch: float | None = None  # the number that the log gives its first epoch
        self._last_epoch = 0.0  # of the last loss line
        self._epoch_starts: list[tuple[float, float]] = []  # (epoch, its first step): the first and the last

    def begin_new_run(self) -> None:
        """Another run follows in the same file."""
        self._epoch_starts = []

    def count(self, row: LogLine, before: LogLine, *, resumed: bool) -> float:
        """The step of a loss line over the whole run; it is not taken for done yet.

        Args:
            row: the line.
            before: the loss line before it.
            resumed: a line in between says that the run was resumed.
        """
        if self.unit == "epoch":
            return self._epoch_now
        if self.unit != "step" or row.step is None:
            return self.num_losses + 1.0
        if self._first_epoch is None:
            self._first_epoch = 1.0 if self.epoch else 0.0
        began_again = self._count_within_epochs(row, row.step, before, resumed)
        if self.in_epoch:
            return self._count_over_epochs(row, row.step, before, began_again)
        self.step_total = row.step_total or self.step_total
        self._last_epoch = self._epoch_now
        return float(row.step)

    @property
    def _epoch_now(self) -> float:
        """0 where no line has named one."""
        return self.epoch or 0.0

    def _count_over_epochs(self, row: LogLine, step: int, before: LogLine, began_again: bool) -> float:
        """A step within its epoch, with all steps of the epochs before."""
        self._learn_steps_per_epoch(row, step, before, began_again)
        is_same_epoch = self.epoch in (None, self._last_epoch)
        if began_again and is_same_epoch and row.epoch is None:
            self.epoch = self._last_epoch + 1  # a bar within epochs that bear no number
        self._last_epoch = self._epoch_now
        epochs_before = self._last_epoch - (self._first_epoch or 0.0)
        return step + epochs_before * (self.plan.per_epoch or 0)

    def begins_again(self, step: float) -> bool:
        """Whether a step is that of another run, which begins where the first one began."""
        return self.first_step is not None and step <= self.first_step and 2 * step <= self.step

    def take_one(self, step: float) -> None:
        """The run has come to that step."""
        if self.first_step is None:
            self.first_step = step
        if self.unit == "step" and self.epoch is not None:
            self.mark_epoch(self.epoch, step)
        self.step = step
        self.num_losses += 1

    def count_many(self, steps: F64, epochs: F64 | None) -> F64 | None:
        """The same for many lines at once, [N]; None where it takes their epochs, which they do not name."""
        if not self.in_epoch:
            return steps
        if epochs is None:
            return None
        return steps + (epochs - (self._first_epoch or 0.0)) * (self.plan.per_epoch or 0)

    def take_many(self, steps: F64, epoch: float | None) -> None:
        """The run has come to the last of these steps, [N]. epoch: of the last one, where the lines name it."""
        if epoch is not None:
            self.epoch = self._last_epoch = epoch
        self.num_losses += len(steps)
        self.step = float(steps[-1])

    def mark_epoch(self, epoch: float, step: float) -> None:
        """A loss at that step belongs to an epoch of that number."""
        is_new = not self._epoch_starts or epoch != self._epoch_starts[-1][0]
        if is_new and epoch == int(epoch):
            self._epoch_starts = [*self._epoch_starts[:1], (epoch, step)]

    @property
    def steps_per_epoch(self) -> int | None:
        """Measured where epochs begin, in a log that numbers them as whole ones beside its steps."""
        if len(self._epoch_starts) < 2 or self._epoch_starts[1][0] <= self._epoch_starts[0][0]:
            return None
        (first, begin), (last, end) = self._epoch_starts
        return round((end - begin) / (last - first))

    def _count_within_epochs(self, row: LogLine, step: int, before: LogLine, resumed: bool) -> bool:
        """Find out whether the log counts within epochs; returns whether its count began again in this line."""
        if before.step is None:
            return False
        fell = self.num_losses > 0 and step < before.step and not resumed
        if self.in_epoch:
            return fell

        starts_over = self._starts_over(step, before.step)
        is_later_epoch = self._last_epoch < self._epoch_now
        if is_later_epoch and step == before.step == row.step_total:  # a line an epoch: 52/52
            self.in_epoch = True
            return starts_over
        if fell and starts_over:
            # A resume goes back, too: only an epoch that is named, or a bar that had reached its end, proves epochs.
            self.in_epoch = is_later_epoch or _is_next_bar(row, before)
            return True
        return False

    def _starts_over(self, step: int, before: int) -> bool:
        """Whether a step that fell is near the beginning of the count, not somewhere on the way."""
        return step <= (self.first_step or 0.0) or 2 * step <= before

    def _learn_steps_per_epoch(self, row: LogLine, step: int, before: LogLine, began_again: bool) -> None:
        """The longest count that was seen, from 0 or from 1 on; or the length that the line names."""
        longest = row.step_total or step
        if began_again and not row.step_total:
            longest = max(longest, (before.step or 0) + 1)
        self.plan.per_epoch = max(self.plan.per_epoch or 1, longest)


def _is_next_bar(row: LogLine, before: LogLine) -> bool:
    """Whether a line without an epoch follows a bar that was as good as done; its last steps may not be printed."""
    if row.epoch is not None or before.step is None or before.step_total is None:
        return False
    return before.step >= NEARLY_DONE * before.step_total
