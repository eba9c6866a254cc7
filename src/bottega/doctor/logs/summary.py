"""What a log says beside its losses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bottega.doctor.logs.bars import Bar
from bottega.doctor.losses import Unit
from bottega.runtime.findings import Finding


@dataclass
class TrainingLength:
    """How long a training is to be, as far as the log says. per_epoch: steps an epoch."""

    epochs: int | None = None
    steps: int | None = None
    per_epoch: int | None = None

    def update(self, lengths: Mapping[str, int | None]) -> None:
        """Take over the lengths that are known, by the names of the fields."""
        for name, length in lengths.items():
            if length:
                setattr(self, name, length)


@dataclass(frozen=True)
class LogSummary:
    """A log, read to its end. Where several runs are in one file, it is about the last.

    unit, step: what its losses are counted by, and the last count. epoch: the last one that was named; epochs_done: how
    many are done, to the step, where files beside the log tell. plan: how long it is to be. seconds_per_step: of late.
    seconds_left: as the last loss line says. bar: of the whole run, between loss lines. steps_per_epoch: measured where
    epochs begin.

    validations: (step, loss). resumes: (step before, step after), the first 32. num_runs: in the file. is_average: the
    losses are the trainer's own running mean. is_torn: the last line breaks off. num_overlong: lines that were
    too long to be read. notes: on how it was read. findings: what bottega's own columns
    tell of tasks and of the paired validation (`has_paired_validation`).

    draws_pictures, reads_text: of what is trained, as far as can be known. num_pictures: in the training set.
    timestep_bins: the last row of metrics.jsonl with losses by timestep. latent_range: from the least to the greatest
    number of the latents. recipe: of a run of `bottega train ldm`.
    """

    path: Path
    trainer: str | None
    unit: Unit
    step: float
    epoch: float | None
    epochs_done: float | None
    plan: TrainingLength
    seconds_per_step: float | None
    seconds_left: float | None
    bar: Bar | None
    steps_per_epoch: int | None
    validations: tuple[tuple[float, float], ...]
    resumes: tuple[tuple[float, float], ...]
    num_runs: int
    is_average: bool
    is_torn: bool
    num_overlong: int
    findings: tuple[Finding, ...]
    has_paired_validation: bool
    draws_pictures: bool
    num_pictures: int | None
    prediction_type: str | None
    timestep_bins: Mapping[str, object] | None
    notes: tuple[str, ...] = ()
    reads_text: bool = True
    latent_range: float | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
