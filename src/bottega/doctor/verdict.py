"""`bottega doctor training`: from a log to a verdict, with the evidence, and what to do first, second, third.

Read `examine` from top to bottom. The log is read by `bottega.doctor.logs`, its curve judged by `bottega.doctor.curve`.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bottega.doctor.advice import Action, Case, actions
from bottega.doctor.curve import LossCurve, judge
from bottega.doctor.levels import TimestepBins, level
from bottega.doctor.logs import LogReader, LogSummary
from bottega.doctor.progress import Outlook, PlanProgress, measure_progress, outlook
from bottega.runtime.findings import Finding, Severity

NO_PICTURES = "level unknown: by the words in the log, what is trained does not draw pictures"

RUNNING_MEAN = 0.5
"""From this correlation of neighbours on a log holds a running mean, whatever it is called."""

MAX_ACTIONS = 5

CURVE_POINTS = 64
"""Points of a validation's curve, about: as many as the loss has blocks."""


@dataclass(frozen=True)
class Verdict:
    """What is said of a log.

    state: the name of the first of `findings`, which come with the most severe first; bottega's own paired validation,
    where there is one, goes before what is no fault. curve: (step, mean loss) of 64 stretches.
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
    curve: tuple[tuple[float, float], ...]
    validation: tuple[tuple[float, float], ...]

    def record(self) -> dict[str, Any]:
        """For JSON: what is not finite becomes null."""
        plain: dict[str, Any] = _as_json(asdict(self))
        return plain


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
    # Read the log, a batch of losses at a time; of several runs in one file the last counts.
    reader = LogReader(path)
    curve = LossCurve()
    for batch in reader.batches():
        if batch.new_run:
            curve = LossCurve()
        curve.add(batch)
    curve.settle()
    log = reader.summary()

    # Judge the curve. bottega's paired validation, where the noise cancels, knows better than a loss without fault.
    is_running_mean = curve.lag.correlation > RUNNING_MEAN
    found = judge(
        curve,
        log.unit,
        validations=log.validations,
        others=[finding for finding in log.findings if finding.name == "task starved"],
        is_average=log.is_average or is_running_mean,
    )
    progress = measure_progress(log)
    case = Case(log, curve, found, progress)
    todo = actions(case)
    is_falling = found[0].name in ("falling", "falling slowly")
    if log.has_paired_validation and found[0].severity < Severity.WARNING:
        paired = [Action(f.advice, f.evidence) for f in log.findings if f.needs_action]
        found = [*log.findings, *found]
        todo = (*paired, *todo)[:MAX_ACTIONS]

    # Say what the loss means, and what the rest of the plan promises: a rule of thumb for text-to-image.
    loss = curve.last_eighth()[1] if curve.count else None
    bins = TimestepBins.of(log.timestep_bins)
    meaning = NO_PICTURES
    marks: tuple[Outlook, ...] = ()
    if log.draws_pictures:
        is_one_picture = one_picture or log.num_pictures == 1
        meaning = level(loss, prediction_type or log.prediction_type, is_one_picture, bins, log.latent_range)
        if log.reads_text and not log.has_paired_validation:
            marks = outlook(progress, curve if is_falling else None)

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
        curve=tuple((s.mean, v.mean) for s, v in zip(curve.steps.blocks, curve.values.blocks, strict=True)),
        validation=log.validations[:: max(1, len(log.validations) // CURVE_POINTS)],
    )


def _notes(log: LogSummary, curve: LossCurve, is_running_mean: bool) -> tuple[str, ...]:
    """What limits the verdict."""
    notes = []
    if log.is_torn:
        notes.append("the last line is incomplete and was left out")
    if log.num_runs > 1:
        often = f"{log.num_runs - 1} times" if log.num_runs > 2 else "once"
        notes.append(f"the steps start again {often} in the file: only the last run is judged")
    if is_running_mean and not log.is_average:
        notes.append("neighbouring losses are much alike, as those of a running mean, whose intervals are rough")
    elif log.is_average:
        notes.append("the log holds the trainer's own running mean: it lags behind, and intervals are rough")
    if curve.num_nonpositive:
        notes.append(f"{curve.num_nonpositive} losses are zero or negative and were left out")
    if log.unit == "loss line":
        notes.append("the log names neither steps nor epochs: its loss lines are counted")
    if log.resumes and not curve.jumps:
        notes.append(f"resumed {len(log.resumes)} times, without a significant jump")
    return tuple(notes)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_json(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
