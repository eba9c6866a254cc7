"""How much of a training's plan is done, and what its marks ahead promise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bottega.doctor.curve import LossCurve
from bottega.doctor.logs import LogSummary
from bottega.doctor.losses import Unit
from bottega.training.trends import Z95, Estimate

MARKS = (
    (25, "colours and broad layout; prompts are hardly followed"),
    (50, "shapes can be recognised; much is soft or misplaced"),
    (59, "common prompts come out, rare ones do not; more sampling steps still help"),
    (75, "most prompts come out; fine detail is uneven"),
    (100, "what the plan was made for"),
    (150, "worth it only where the loss still falls at 100 %; few pictures are memorised by then"),
)
"""Percent of a plan's epochs, and what to expect of a text-to-image model then: a rule of thumb, no measurement."""


@dataclass(frozen=True)
class PlanProgress:
    """How much of the plan is done; None where the log does not tell."""

    unit: Unit
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
    """A mark of the plan: its epoch, what to expect, and the loss there if the trend of the last half continues."""

    percent: int
    at: float
    expect: str
    passed: bool
    loss: Estimate | None


def measure_progress(log: LogSummary) -> PlanProgress:
    """From the plan that the log, its head or the files beside it name."""
    if log.bar and log.epoch:
        return _by_bar(log, log.epoch)
    return _by_steps(log) if log.unit == "step" else _by_epochs(log)


def _by_steps(log: LogSummary) -> PlanProgress:
    """Of a log that counts steps."""
    per_epoch = _steps_per_epoch(log)
    steps, epochs = log.plan.steps, log.plan.epochs
    if steps is None and epochs and per_epoch:
        steps = epochs * per_epoch
    epoch = log.step / per_epoch if per_epoch else log.epoch
    if log.epochs_done is not None:
        epoch = log.epochs_done
    share = _share(epoch, epochs)
    if steps:  # to the step, where epochs are known to a whole one only
        share = log.step / steps
    hours_left = _hours_left(log, steps, log.seconds_per_step)
    return PlanProgress("step", log.step, steps, epoch, epochs, per_epoch, share, log.seconds_per_step, hours_left)


def _by_epochs(log: LogSummary) -> PlanProgress:
    """Of a log that counts epochs or its own lines."""
    plan = log.plan
    epoch = log.epoch if log.epochs_done is None else log.epochs_done
    whole = plan.epochs if log.unit == "epoch" else None
    return PlanProgress(
        log.unit,
        log.step,
        plan.steps,
        epoch,
        plan.epochs,
        plan.per_epoch,
        _share(epoch, plan.epochs),
        log.seconds_per_step,
        _hours_left(log, whole, log.seconds_per_step),
    )


def _by_bar(log: LogSummary, epoch: float) -> PlanProgress:
    """Of a log that counts epochs in its loss lines and steps in a bar between them."""
    assert log.bar is not None
    per_epoch = max(round(log.bar.step / epoch), 1)
    epochs = log.plan.epochs or round(log.bar.steps / per_epoch)
    seconds = log.bar.seconds_per_step * per_epoch  # of an epoch, which is what the log counts by
    return PlanProgress(
        log.unit,
        log.step,
        log.bar.steps,
        epoch,
        epochs,
        per_epoch,
        log.bar.step / log.bar.steps,
        seconds,
        _hours_left(log, epochs, seconds),
    )


def _steps_per_epoch(log: LogSummary) -> int | None:
    if log.plan.per_epoch or log.epochs_done is not None:
        return log.plan.per_epoch
    if not log.epoch or not 1 <= log.epoch < log.step:
        return None
    if log.epoch != int(log.epoch):
        return round(log.step / log.epoch)
    # whole numbers say in which epoch it is, not how much of it is done: it is measured where they begin
    return log.steps_per_epoch


def _share(epoch: float | None, epochs: int | None) -> float | None:
    if epoch is None or not epochs:
        return None
    return epoch / epochs


def _hours_left(log: LogSummary, whole: int | None, seconds: float | None) -> float | None:
    """whole: the length of the plan in the log's own unit. seconds: of one such unit."""
    if whole is not None and seconds is not None:
        return max(whole - log.step, 0.0) * seconds / 3600
    return None if log.seconds_left is None else log.seconds_left / 3600


def outlook(progress: PlanProgress, curve: LossCurve | None) -> tuple[Outlook, ...]:
    """The marks of the plan; empty without a plan.

    Args:
        progress: how much of it is done.
        curve: where the loss falls, so that it can be extrapolated as loss ~ step^p from its last eighth; the interval
            holds the errors of both.
    """
    share = progress.share
    if share is None or share <= 0:
        return ()
    marks = []
    for percent, expect in MARKS:
        passed = share * 100 >= percent - 0.5  # 58.6 % is shown as 59 %
        loss = None
        if curve is not None and not passed:
            loss = _loss_at(curve, percent / 100 / share * progress.step)
        at = percent / 100 * (progress.epochs or progress.steps or 0)
        marks.append(Outlook(percent, at, expect, passed, loss))
    return tuple(marks)


def _loss_at(curve: LossCurve, step: float) -> Estimate | None:
    """The loss at a step ahead if the trend continues; None where the log holds too little to extrapolate it."""
    power = curve.exponent()
    if power is None or not math.isfinite(power.low):
        return None
    last_step, loss, error = curve.last_eighth()
    moved = power.scaled(math.log(step / last_step))
    return Estimate(moved.value, moved.low - Z95 * error, moved.high + Z95 * error).exp().scaled(loss)
