"""Which samples stand in which step, also where the number of samples was changed on the way: a function of the step.

Epochs have floor(samples / batch) steps, the last partial batch is dropped, and which samples that leaves out changes
from epoch to epoch. A change of the number of samples begins a new stretch, with the next epoch.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any

from bottega.runtime.errors import RequestError
from bottega.training.sampling import Indices, epoch_order, stream_indices


@dataclass(frozen=True)
class Stretch:
    """From `step` on, where epoch number `epoch` (from 0) begins, there are so many samples."""

    step: int
    epoch: int
    samples: int


@dataclass(frozen=True)
class Place:
    """Where a step stands: its epoch (from 0), how many steps of it went before, and the stretch."""

    epoch: int
    before: int
    stretch: Stretch


class Course:
    """Stretches of a run that counts epochs of whole batches; the first begins at step 0."""

    def __init__(self, stretches: list[Stretch], batch: int) -> None:
        for stretch in stretches:
            if stretch.samples < batch:
                raise RequestError(
                    f"an epoch needs one whole batch, received {stretch.samples} training pictures for "
                    f"training.batch_size = {batch}; make the batch smaller, or give training.steps, not num_epochs"
                )
        self.stretches, self.batch = stretches, batch

    @classmethod
    def begin(cls, samples: int, batch: int) -> Course:
        """Of a run that has not begun."""
        return cls([Stretch(0, 0, samples)], batch)

    @classmethod
    def read(cls, kept: list[dict[str, Any]], batch: int) -> Course:
        """From what `record` gave."""
        return cls([Stretch(**stretch) for stretch in kept], batch)

    def record(self) -> list[dict[str, Any]]:
        """For a checkpoint, as JSON."""
        return [asdict(stretch) for stretch in self.stretches]

    def going_on(self, step: int, samples: int) -> Course:
        """From the checkpoint of `step` on with `samples`: an epoch that has begun is left where it stands."""
        last = self.stretches[-1]
        if samples == last.samples:
            return self
        place = self.at(step)
        epoch = place.epoch + (place.before > 0)
        kept = [stretch for stretch in self.stretches if stretch.step < step]
        return Course([*kept, Stretch(step, epoch, samples)], self.batch)

    def steps_per_epoch(self) -> int:
        """Of the last stretch."""
        return self.stretches[-1].samples // self.batch

    def steps(self, epochs: int) -> int:
        """Steps of a run of so many epochs in all. RequestError where they are fewer than have been begun."""
        last = self.stretches[-1]
        if epochs < last.epoch:
            raise RequestError(
                f"training.num_epochs = {epochs} lies before epoch {last.epoch}, which is done; ask for more"
            )
        return last.step + (epochs - last.epoch) * self.steps_per_epoch()

    def at(self, step: int) -> Place:
        """Where the step with index `step` (from 0) stands."""
        stretch = self.stretches[bisect_right([s.step for s in self.stretches], step) - 1]
        done, before = divmod(step - stretch.step, stretch.samples // self.batch)
        return Place(stretch.epoch + done, before, stretch)

    def indices(self, seed: int, step: int) -> Indices:
        """The samples of the step with index `step`, int64 [batch]; none stands in an epoch twice."""
        place = self.at(step)
        order = epoch_order(seed, "samples", place.epoch, place.stretch.samples)
        return order[place.before * self.batch : (place.before + 1) * self.batch]

    def name(self, step: int) -> str:
        """What the checkpoint after `step` steps is called: `epoch-118`, or amid an epoch `epoch-118-step-27`."""
        if step == 0:
            return "epoch-0"
        place = self.at(step - 1)
        return f"epoch-{place.epoch + 1}" if self._whole(place) else f"epoch-{place.epoch}-step-{place.before + 1}"

    def ends(self, step: int, epochs: int) -> bool:
        """Whether an epoch ends with the first `step` steps whose number is a multiple of `epochs`."""
        place = self.at(step - 1)
        return self._whole(place) and (place.epoch + 1) % epochs == 0

    def _whole(self, place: Place) -> bool:
        return place.before + 1 == place.stretch.samples // self.batch


class Stream:
    """The course of a run that counts steps: samples are read on and on, epochs end amid a batch."""

    def __init__(self, samples: int, batch: int) -> None:
        self.samples, self.batch = samples, batch

    def record(self) -> list[dict[str, Any]]:
        """Nothing is to be kept: all follows from the step."""
        return []

    def at(self, step: int) -> Place:
        """See `Course.at`; of the first sample of the step."""
        epoch, before = divmod(step * self.batch, self.samples)
        return Place(epoch, before // self.batch, Stretch(0, 0, self.samples))

    def indices(self, seed: int, step: int) -> Indices:
        """The samples of the step with index `step`, int64 [batch]."""
        return stream_indices(seed, "samples", step, self.batch, self.samples)

    def name(self, step: int) -> str:
        """What the checkpoint after `step` steps is called."""
        return f"step_{step:08d}"
