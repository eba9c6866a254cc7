"""`bottega doctor training`: from a log to a verdict, with the evidence, and what to do first, second, third.

Read `examine` from top to bottom. What is found is in `bottega.doctor.course`, what to do in `bottega.doctor.advice`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bottega.doctor.advice import Action, Case, actions
from bottega.doctor.course import Course, findings
from bottega.doctor.levels import Bins, level
from bottega.doctor.logs import Log
from bottega.runtime.findings import Finding, Severity
from bottega.training.trends import Z95, Estimate

MARKS = (
    (25, "colours and broad layout; prompts are hardly followed"),
    (50, "shapes can be recognised; much is soft or misplaced"),
    (59, "common prompts come out, rare ones do not; more sampling steps still help"),
    (75, "most prompts come out; fine detail is uneven"),
    (100, "what the plan was made for"),
    (150, "worth it only where the loss still falls at 100 %; with few pictures they are learned by heart"),
)
"""Percent of a plan's epochs, and what to expect of a text-to-image model then: a rule of thumb, no measurement."""

_AVERAGE = 2
"""`lines.Row.rank` of a trainer's own running mean."""

NO_PICTURES = "level unknown: by the words of the log, what is trained draws no pictures"

ALIKE = 0.5
"""From this correlation of neighbours on a log holds a running mean, whatever it is called."""


@dataclass(frozen=True)
class Progress:
    """How much of the plan is done; None where the log does not tell."""

    unit: str
    step: float
    steps: int | None
    epoch: float | None
    epochs: int | None
    steps_per_epoch: int | None
    share: float | None
    seconds_per_step: float | None
    hours_left: float | None


@dataclass(frozen=True)
class Outlook:
    """A mark of the plan: its epoch, what to expect, and the loss there if it goes on as in the last half."""

    percent: int
    at: float
    expect: str
    passed: bool
    loss: Estimate | None


@dataclass(frozen=True)
class Verdict:
    """What is said of a log.

    state: the name of the first of `findings`, which come with the most severe first; bottega's own paired
    validation, where there is one, goes before what is no fault. curve: (step, mean loss) of 64 stretches.
    """

    log: str
    trainer: str | None
    state: str
    findings: tuple[Finding, ...]
    progress: Progress
    loss: float | None
    level: str
    bins: Bins | None
    outlook: tuple[Outlook, ...]
    actions: tuple[Action, ...]
    notes: tuple[str, ...]
    curve: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]

    def record(self) -> dict[str, Any]:
        """For JSON: what is not finite becomes null."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def examine(path: Path | str, *, prediction_type: str | None = None, one_picture: bool = False) -> Verdict:
    """Read a log and judge it.

    Args:
        path: a run directory, a metrics.jsonl, or what any trainer printed.
        prediction_type: epsilon, v_prediction, flow_prediction or sample, where the log does not say.
        one_picture: the network learns a single picture, whose loss has a meaning by itself.

    Raises MissingError for no log, RequestError for one without losses, StorageError where it cannot be read.
    """
    log, course = Log(path), Course()
    for points in log.points():
        course = Course() if points.anew else course
        course.take(points)
    course.settle()
    alike = course.likeness.correlation > ALIKE
    averaged = log.rank == _AVERAGE or alike
    found = findings(course, log, averaged=averaged)
    paired = log.watcher.findings(ended=True) if "val_gain" in log.watcher.validation else []
    progress = measure_progress(log)
    loss = course.last_eighth()[1] if course.count else None
    kind, bins, one = prediction_type or log.prediction_type, Bins.of(log.validated), one_picture or log.pictures == 1
    case = Case(log, course, found, progress.share, progress.seconds_per_step, progress.steps, progress.epochs)
    todo = actions(case)
    falling = course if case.state in ("falling", "falling slowly") else None
    marks = outlook(progress, falling) if log.prompted and log.draws and not paired else ()
    if paired and found[0].severity < Severity.WARNING:  # the noise cancels there: it knows better
        found = [*paired, *found]
        todo = (*(Action(f.advice, f.evidence) for f in paired if f.needs_action), *todo)[:5]
    return Verdict(
        log=str(path),
        trainer=log.trainer,
        state=found[0].name,
        findings=tuple(found),
        progress=progress,
        loss=loss,
        level=level(loss, kind, one, bins, log.span) if log.draws else NO_PICTURES,
        bins=bins,
        outlook=marks,
        actions=todo,
        notes=_notes(log, course, averaged, alike),
        curve=tuple((s.mean, v.mean) for s, v in zip(course.steps.blocks, course.values.blocks, strict=True)),
        validation=tuple(log.validations)[:: max(1, len(log.validations) // 64)],
    )


def measure_progress(log: Log) -> Progress:
    """From the plan that the log, its head or the files beside it name."""
    plan, unit = log.plan, log.unit or "loss line"
    epochs, steps, per_epoch = plan.get("epochs"), plan.get("steps"), plan.get("per_epoch")
    if unit == "step" and (per_epoch or log.epochs_done) is None and log.epoch and 1 <= log.epoch < log.step:
        per_epoch = log.steps_an_epoch if log.epoch == int(log.epoch) else round(log.step / log.epoch)
    if steps is None and epochs and per_epoch and unit == "step":
        steps = epochs * per_epoch
    epoch = log.step / per_epoch if unit == "step" and per_epoch else log.epoch
    epoch = epoch if log.epochs_done is None else log.epochs_done
    share = None
    if unit == "step" and steps:
        share = log.step / steps
    elif epochs and epoch is not None:
        share = epoch / epochs
    seconds = log.seconds_per_step
    if log.bar and epoch:
        done, steps, pace = log.bar
        per_epoch = max(round(done / epoch), 1)
        epochs, share, seconds = epochs or round(steps / per_epoch), done / steps, pace * per_epoch
    whole = steps if unit == "step" else epochs if unit == "epoch" else None
    left = None if whole is None or seconds is None else max(whole - log.step, 0.0) * seconds / 3600
    if left is None and log.left is not None:
        left = log.left / 3600
    return Progress(unit, log.step, steps, epoch, epochs, per_epoch, share, seconds, left)


def outlook(progress: Progress, course: Course | None) -> tuple[Outlook, ...]:
    """The marks of the plan; empty without a plan. course: where the loss falls, so that it can be drawn out as
    loss ~ step^p from its last eighth; the interval holds the errors of both."""
    if progress.share is None or progress.share <= 0:
        return ()
    power = None if course is None else course.exponent()
    marks = []
    for percent, expect in MARKS:
        passed, there = progress.share * 100 >= percent - 0.5, None
        if course is not None and power is not None and math.isfinite(power.low) and not passed:
            step, loss, error = course.last_eighth()
            moved = power.scaled(math.log(percent / 100 / progress.share * progress.step / step))
            there = Estimate(moved.value, moved.low - Z95 * error, moved.high + Z95 * error).exp().scaled(loss)
        marks.append(Outlook(percent, percent / 100 * (progress.epochs or progress.steps or 0), expect, passed, there))
    return tuple(marks)


def _notes(log: Log, course: Course, averaged: bool, alike: bool) -> tuple[str, ...]:
    """What limits the verdict."""
    notes = []
    if log.torn:
        notes.append("the last line breaks off and was left out")
    if log.runs > 1:
        often = f"{log.runs - 1} times" if log.runs > 2 else "once"
        notes.append(f"the steps begin anew {often} in the file: only the last run is judged")
    if alike and log.rank != _AVERAGE:
        notes.append("neighbouring losses are much alike, as those of a running mean, whose intervals are rough")
    elif averaged:
        notes.append("the log holds the trainer's own running mean: it lags behind, and intervals are rough")
    if course.odd:
        notes.append(f"{course.odd} losses are nought or negative and were left out")
    if log.unit == "loss line":
        notes.append("the log names neither steps nor epochs: its loss lines are counted")
    if log.resumes and not course.jumps:
        notes.append(f"resumed {len(log.resumes)} times, with no jump that matters")
    return tuple(notes)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
