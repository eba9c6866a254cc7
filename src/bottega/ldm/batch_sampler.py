"""Which samples make up the batch of a step: a function of (seed, step), so that a resumed run needs no state for it.

`EpochSampler` counts epochs of floor(samples / batch) steps. The last partial batch is dropped, and which samples that
leaves out changes from epoch to epoch. The number of samples may change when a run resumes: a new `Segment` then begins
with the next epoch. `StepSampler` counts steps only, and its epochs end within a batch.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from typing_extensions import TypedDict

from bottega.runtime.errors import RequestError
from bottega.training.sampling import Indices, epoch_order, stream_indices


class SegmentRecord(TypedDict):
    """A segment as a checkpoint holds it."""

    step: int
    epoch: int
    samples: int


@dataclass(frozen=True)
class Segment:
    """From `step` on, where the epoch `epoch` (from 0) begins, an epoch has `samples` samples."""

    step: int
    epoch: int
    samples: int


@dataclass(frozen=True)
class Position:
    """The position of a step: its epoch (from 0), how many steps of that epoch came before, and its segment."""

    epoch: int
    before: int
    segment: Segment


class EpochSampler:
    """Batches of a run that counts epochs.

    Args:
        segments: in order; the first begins at step 0.
        batch: samples of one step.

    Raises:
        RequestError: a segment has fewer samples than one batch.
    """

    def __init__(self, segments: list[Segment], batch: int) -> None:
        for segment in segments:
            if segment.samples < batch:
                raise RequestError(
                    f"an epoch needs one whole batch, received {segment.samples} training pictures for "
                    f"training.batch_size = {batch}; make the batch smaller, or give training.steps, not num_epochs"
                )
        self.segments = segments
        self.batch = batch

    @classmethod
    def new(cls, samples: int, batch: int) -> EpochSampler:
        """For a run that begins."""
        return cls([Segment(step=0, epoch=0, samples=samples)], batch)

    @classmethod
    def from_record(cls, record: list[SegmentRecord], batch: int) -> EpochSampler:
        """From what `record` returned."""
        return cls([Segment(**segment) for segment in record], batch)

    def record(self) -> list[SegmentRecord]:
        """The segments as JSON, for a checkpoint."""
        return [SegmentRecord(step=s.step, epoch=s.epoch, samples=s.samples) for s in self.segments]

    def resumed(self, step: int, samples: int) -> EpochSampler:
        """The sampler of a run that resumes after `step` steps with `samples` samples.

        With another number of samples, an unfinished epoch ends early, and the next one begins.
        """
        if samples == self.segments[-1].samples:
            return self
        position = self.at(step)
        epoch = position.epoch
        if position.before > 0:
            epoch += 1
        kept = [segment for segment in self.segments if segment.step < step]
        return EpochSampler([*kept, Segment(step, epoch, samples)], self.batch)

    def steps_per_epoch(self) -> int:
        """Of the last segment."""
        return self.segments[-1].samples // self.batch

    def steps(self, epochs: int) -> int:
        """Steps of a run of `epochs` epochs in all.

        Raises:
            RequestError: fewer epochs than were already started.
        """
        last = self.segments[-1]
        if epochs < last.epoch:
            raise RequestError(
                f"training.num_epochs = {epochs} is before epoch {last.epoch}, which is done; ask for more"
            )
        return last.step + (epochs - last.epoch) * self.steps_per_epoch()

    def at(self, step: int) -> Position:
        """The position of the step with index `step` (from 0)."""
        starts = [segment.step for segment in self.segments]
        segment = self.segments[bisect_right(starts, step) - 1]
        epochs, before = divmod(step - segment.step, segment.samples // self.batch)
        return Position(segment.epoch + epochs, before, segment)

    def indices(self, seed: int, step: int) -> Indices:
        """The samples of the step with index `step`, int64 [batch]; no sample occurs twice in an epoch."""
        position = self.at(step)
        order = epoch_order(seed, "samples", position.epoch, position.segment.samples)
        first = position.before * self.batch
        return order[first : first + self.batch]

    def name(self, step: int) -> str:
        """Name of the checkpoint after `step` steps: `epoch-118`, or within an epoch `epoch-118-step-27`."""
        if step == 0:
            return "epoch-0"
        position = self.at(step - 1)
        if self._is_last_of_epoch(position):
            return f"epoch-{position.epoch + 1}"
        return f"epoch-{position.epoch}-step-{position.before + 1}"

    def ends(self, step: int, epochs: int) -> bool:
        """Whether after `step` steps an epoch has just ended whose number is a multiple of `epochs`."""
        position = self.at(step - 1)
        return self._is_last_of_epoch(position) and (position.epoch + 1) % epochs == 0

    def _is_last_of_epoch(self, position: Position) -> bool:
        return position.before + 1 == position.segment.samples // self.batch


class StepSampler:
    """Batches of a run that counts steps: epochs follow each other without a gap, so they may end within a batch."""

    def __init__(self, samples: int, batch: int) -> None:
        self.samples = samples
        self.batch = batch

    def record(self) -> list[SegmentRecord]:
        """Nothing: everything follows from the step."""
        return []

    def at(self, step: int) -> Position:
        """See `EpochSampler.at`; the position of the first sample of the step."""
        epoch, before = divmod(step * self.batch, self.samples)
        return Position(epoch, before // self.batch, Segment(step=0, epoch=0, samples=self.samples))

    def indices(self, seed: int, step: int) -> Indices:
        """The samples of the step with index `step`, int64 [batch]."""
        return stream_indices(seed, "samples", step, self.batch, self.samples)

    def name(self, step: int) -> str:
        """Name of the checkpoint after `step` steps."""
        return f"step_{step:08d}"
