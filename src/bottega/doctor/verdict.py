"""`bottega doctor training`: from a log to a verdict, with the evidence, and what to do first, second, third.

Read `examine` from top to bottom. The log is read by `bottega.doctor.logs`, its curve judged by `bottega.doctor.curve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bottega.doctor.advice import ASIDE, Action, Case, actions
from bottega.doctor.answer import NotJudged
from bottega.doctor.curve import LossCurve, judge, unjudged
from bottega.doctor.curve.columns import judge_columns
from bottega.doctor.curve.loss_curve import MIN_LOSSES
from bottega.doctor.levels import TimestepBins, is_best, level
from bottega.doctor.logs import LogReader, LogSummary
from bottega.doctor.logs.decode import LONGEST_LINE
from bottega.doctor.progress import Outlook, PlanProgress, measure_progress, outlook
from bottega.runtime.findings import Finding, Severity, by_severity

NO_PICTURES = "level unknown: by the words in the log, what is trained does not draw pictures"

RUNNING_MEAN = 0.5
"""From this correlation of neighbours on a log holds a running mean, whatever it is called. Raw losses correlate by
about 0, as each draws its own timesteps and noise."""

MAX_ACTIONS = 5

ENDS = frozenset({"falling", "falling slowly", "plateaued", "flat throughout"})
"""How a loss may move at its best level for the run to be done."""

CURVE_POINTS = 64
"""Points of a validation's curve, about: as many as the loss has blocks."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a log.

    state: the name of the first of `findings`, which come with the most severe first; bottega's own paired validation,
    where there is one, goes before what is no fault. not_judged: faults of which the log shows neither the presence nor
    the absence. curve: (step, mean loss) of 64 stretches.
    """

    log: str
    trainer: str | None
    state: str
    findings: tuple[Finding, ...]
    progress: PlanProgress
    loss: float | None
    level: str
    bins: TimestepBins | None
    outlook: tuple[Outlook, ...]
    actions: tuple[Action, ...]
    notes: tuple[str, ...]
    not_judged: tuple[NotJudged, ...]
    curve: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]

    def record(self) -> dict[str, object]:
        """For JSON: what is not finite becomes null."""
        return {name: _as_json(value) for name, value in asdict(self).items()}


def examine(path: Path | str, *, prediction_type: str | None = None, one_picture: bool = False) -> Verdict:
    """Read a log and judge it.

    Args:
        path: a run directory, a metrics.jsonl, or what any trainer printed.
        prediction_type: epsilon, v_prediction, flow_prediction or sample, where the log does not say.
        one_picture: the network learns a single picture, whose loss has a meaning by itself.

    Raises:
        MissingError: there is no log.
        RequestError: it has no losses.
        StorageError: it cannot be read.
    """
    # Read the log, a batch of losses at a time: the summary is complete only after the last of them.
    reader = LogReader(path)
    curve = _read_curve(reader)
    log = reader.summary()
    if not curve.num_losses and not any(judge_columns(curve, log.unit)):
        raise reader.refusal()

    # Judge the curve. A running mean that is not called so would pass for a curve almost without noise.
    is_running_mean = curve.lag.correlation > RUNNING_MEAN
    is_average = log.is_average or is_running_mean
    starved = [finding for finding in log.findings if finding.name == "task starved"]
    found = judge(curve, log.unit, validations=log.validations, others=starved, is_average=is_average)
    progress = measure_progress(log)
    course = _course(found)
    marks = _marks_ahead(log, progress, curve, course)

    # Say what the loss means. At its best level a run is done, however its loss moves.
    loss = _last_loss(curve)
    bins = TimestepBins.of(log.timestep_bins)
    meaning = _level(log, loss, bins, prediction_type, one_picture=one_picture)
    found = [*_done(meaning, curve, found, progress), *found]

    # Say what to do.
    todo = actions(Case(log, curve, found, progress))
    if log.has_paired_validation and course.severity < Severity.WARNING:
        found = _with_paired_validation(log.findings, found)
        todo = (*_actions_of(log.findings), *todo)[:MAX_ACTIONS]

    # Say what could not be looked at.
    not_judged = _not_judged(log, curve, progress, is_average=is_average)

    return Verdict(
        log=str(path),
        trainer=log.trainer,
        state=found[0].name,
        findings=tuple(found),
        progress=progress,
        loss=loss,
        level=meaning,
        bins=bins,
        outlook=marks,
        actions=todo,
        notes=_notes(log, curve, is_running_mean),
        not_judged=not_judged,
        curve=_points(curve),
        validation=log.validations[:: max(1, len(log.validations) // CURVE_POINTS)],
    )


def _level(
    log: LogSummary, loss: float | None, bins: TimestepBins | None, prediction_type: str | None, *, one_picture: bool
) -> str:
    if not log.draws_pictures:
        return NO_PICTURES
    predicts = prediction_type or log.prediction_type
    return level(loss, predicts, one_picture or log.num_pictures == 1, bins, log.latent_range)


def _not_judged(
    log: LogSummary, curve: LossCurve, progress: PlanProgress, *, is_average: bool
) -> tuple[NotJudged, ...]:
    left_out = unjudged(curve, validations=log.validations, is_average=is_average)
    if progress.share is None:
        left_out.append(("how much of the plan is done", "the log names neither all its steps nor all its epochs"))
    return tuple(NotJudged(what, why) for what, why in left_out)


def _read_curve(reader: LogReader) -> LossCurve:
    """All losses of a log. Of several runs in one file the last counts: each new one begins a new curve."""
    curve = LossCurve()
    for batch in reader.batches():
        if batch.new_run:
            curve = LossCurve()
        curve.add(batch)
    curve.settle()
    return curve


def _last_loss(curve: LossCurve) -> float | None:
    """The mean loss of the last eighth of the log; None without a usable loss."""
    if not curve.count:
        return None
    _, loss, _ = curve.last_eighth()
    return loss


def _course(found: Sequence[Finding]) -> Finding:
    """The most severe finding about the loss's course."""
    for finding in found:
        if finding.name not in ASIDE:
            return finding
    return found[0]


def _done(meaning: str, curve: LossCurve, found: Sequence[Finding], progress: PlanProgress) -> list[Finding]:
    """That the level needs nothing more, where nothing is wrong but beside a course of the loss that can end."""
    others = [finding for finding in found if finding.name not in ASIDE]
    is_healthy = all(finding.severity < Severity.WARNING for finding in others)
    can_end = _course(found).name in ENDS and curve.count >= MIN_LOSSES
    if not is_best(meaning) or not is_healthy or not can_end:
        return []
    of_the_plan = "" if progress.share is None else f", with {progress.share:.0%} of the plan done"
    return [Finding("done", f"the loss has reached the best level there is{of_the_plan}: {meaning}")]


def _with_paired_validation(paired: Sequence[Finding], found: Sequence[Finding]) -> list[Finding]:
    """bottega's paired validation, where the noise cancels, knows better than a loss without fault: it goes first.

    Where a finding is about something else than the loss's course, all go by severity.
    """
    together = [*paired, *found]
    if any(finding.name in ASIDE for finding in together):
        return by_severity(together)
    return together


def _marks_ahead(log: LogSummary, progress: PlanProgress, curve: LossCurve, course: Finding) -> tuple[Outlook, ...]:
    """What the rest of the plan promises: a rule of thumb for text-to-image alone. course: the most severe finding
    about the loss's course."""
    if not log.draws_pictures or not log.reads_text or log.has_paired_validation:
        return ()
    is_falling = course.name in ("falling", "falling slowly")
    return outlook(progress, curve if is_falling else None)  # to extrapolate a flat or rising loss would mislead


def _actions_of(findings: tuple[Finding, ...]) -> list[Action]:
    return [Action(finding.advice, finding.evidence) for finding in findings if finding.needs_action]


def _points(curve: LossCurve) -> tuple[tuple[float, float], ...]:
    """(step, mean loss) of each block."""
    pairs = zip(curve.steps.blocks, curve.values.blocks, strict=True)
    return tuple((steps.mean, values.mean) for steps, values in pairs)


def _notes(log: LogSummary, curve: LossCurve, is_running_mean: bool) -> tuple[str, ...]:
    """What limits the verdict."""
    notes = _notes_on_reading(log)
    if is_running_mean and not log.is_average:
        notes.append("neighbouring losses are much alike, as those of a running mean, whose intervals are rough")
    elif log.is_average:
        notes.append("the log holds the trainer's own running mean: it lags behind, and intervals are rough")
    if curve.num_nonpositive:
        notes.append(f"{curve.num_nonpositive} losses are zero or negative and were left out")
    if log.resumes and not curve.jumps:
        notes.append(f"resumed {_how_often(len(log.resumes))}, without a significant jump")
    return tuple(notes)


def _notes_on_reading(log: LogSummary) -> list[str]:
    """What of the log was not read, or read in a way that may surprise."""
    notes = list(log.notes)
    if log.is_torn:
        notes.append("the last line is incomplete and was left out")
    if log.num_overlong:
        lines = "one line was" if log.num_overlong == 1 else f"{log.num_overlong} lines were"
        notes.append(f"{lines} longer than {LONGEST_LINE} bytes and left out")
    if log.num_runs > 1:
        notes.append(f"the steps start again {_how_often(log.num_runs - 1)} in the file: only the last run is judged")
    if log.unit == "loss line":
        notes.append("the log names neither steps nor epochs: its loss lines are counted")
    return notes


def _how_often(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _as_json(value: object) -> object:
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # NaN and Infinity are no JSON: a strict reader would refuse the whole document
    return value
