"""A verdict in plain words, for the terminal and for a page."""

from __future__ import annotations

from bottega.doctor.levels import TimestepBins
from bottega.doctor.progress import PlanProgress
from bottega.doctor.verdict import Verdict
from bottega.visual.curves import Curve, draw_braille


def as_text(verdict: Verdict, width: int = 80) -> str:
    """What the terminal shows. width: columns of the terminal."""
    # The verdict and what it rests on.
    lines = [_source(verdict), f"verdict: {verdict.state.upper()}", ""]
    for finding in verdict.findings:
        lines.append(f"  {finding.name}: {finding.evidence}")

    # How far the run is, and what its loss means.
    lines += ["", f"  done:  {describe_progress(verdict.progress)}"]
    if verdict.loss is not None:
        lines.append(f"  loss:  {verdict.loss:.4g} in the last eighth of the log; {verdict.level}")
    if verdict.bins is not None:
        lines += ["", "  by timestep, from clean to noise, at the last validation:", *_bin_rows(verdict.bins)]
    for note in verdict.notes:
        lines.append(f"  note:  {note}")
    lines.append("")

    # The curve so far, and the marks ahead.
    if len(verdict.curve) > 1:
        steps, losses = zip(*verdict.curve, strict=True)
        lines += [*draw_braille(Curve("loss", steps, losses), width, verdict.progress.unit), ""]
    if verdict.outlook:
        lines.append("the plan, by a rule of thumb for text-to-image, and the loss if the trend continues:")
        lines += [*_marks(verdict), ""]

    lines += ["what to do:", *_action_lines(verdict)]

    # What was not looked at must not pass for what is in order.
    if verdict.not_judged:
        lines += ["", "not judged:"]
        for item in verdict.not_judged:
            lines.append(f"  {item.what}: {item.why}")
    return "\n".join(lines)


def _action_lines(verdict: Verdict) -> list[str]:
    """What to do; the command is on a line of its own, so that it can be copied whole."""
    lines = []
    for number, action in enumerate(verdict.actions, start=1):
        lines.append(f"  {number}. {action.do}{_about(action.hours)}: {action.why}")
        if action.command:
            lines.append(f"       {action.command}")
    return lines


def _source(verdict: Verdict) -> str:
    if not verdict.trainer:
        return verdict.log
    return f"{verdict.log}, as {verdict.trainer} prints"


def _bin_rows(bins: TimestepBins) -> list[str]:
    """A table with aligned columns, a row for each kind of loss."""
    lines = []
    for name, values in bins.rows():
        cells = "".join(f" {value:>6}" for value in values)
        lines.append(f"  {name:8}{cells}")
    return lines


def _marks(verdict: Verdict) -> list[str]:
    """The marks of the plan, those that the run has passed ticked off."""
    lines = []
    for mark, text in zip(verdict.outlook, describe_outlook(verdict), strict=True):
        tick = "✓" if mark.passed else " "
        lines.append(f"  {tick} {text}")
    return lines


def describe_progress(progress: PlanProgress) -> str:
    """`59% of the plan: 118 of 200 epochs, 52 steps an epoch, step 6136 of 10400; 24 min left`."""
    parts = []
    if progress.epoch is not None and progress.epochs:
        parts.append(f"{progress.epoch:.4g} of {progress.epochs} epochs")
    elif progress.epoch is not None:
        parts.append(f"epoch {progress.epoch:.4g}")
    if progress.steps_per_epoch:
        parts.append(f"{progress.steps_per_epoch} steps an epoch")
    if progress.unit != "epoch":
        of = f" of {progress.steps}" if progress.steps else ""
        parts.append(f"{progress.unit} {progress.step:.0f}{of}")
    share = "the plan is not known"
    if progress.share is not None:
        share = f"{progress.share:.0%} of the plan"
    left = ""
    if progress.hours_left:
        left = f"; {describe_hours(progress.hours_left)} left"
    return f"{share}: {', '.join(parts)}{left}"


def describe_outlook(verdict: Verdict) -> list[str]:
    """`59 % (epoch 118): common prompts come out …; loss 0.04 (0.03 to 0.05)`, for each mark of the plan."""
    unit = "epoch" if verdict.progress.epochs else verdict.progress.unit
    texts = []
    for mark in verdict.outlook:
        text = f"{mark.percent} % ({unit} {mark.at:.0f}): {mark.expect}"
        if mark.loss is not None:
            text += f"; loss {mark.loss.value:.3g} ({mark.loss.low:.3g} to {mark.loss.high:.3g})"
        texts.append(text)
    return texts


def describe_hours(hours: float) -> str:
    """`2.5 h`, or `12 min` below one."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def _about(hours: float | None) -> str:
    return "" if hours is None else f" (about {describe_hours(hours)})"
