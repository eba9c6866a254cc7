"""A verdict for people: plain words with a curve of braille dots for the terminal, one offline page for a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import pairwise

from bottega.doctor.progress import PlanProgress
from bottega.doctor.verdict import Verdict

Curve = Sequence[tuple[float, float]]
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # Unicode's braille patterns, by column and row of a cell


def words(verdict: Verdict, width: int = 80) -> str:
    """What the terminal shows; width: columns of the terminal."""
    by = f", as {verdict.trainer} prints" if verdict.trainer else ""
    lines = [f"{verdict.log}{by}", f"verdict: {verdict.state.upper()}", ""]
    lines += [f"  {found.name}: {found.evidence}" for found in verdict.findings]
    lines += ["", f"  done:  {progress_words(verdict.progress)}"]
    if verdict.loss is not None:
        lines.append(f"  loss:  {verdict.loss:.4g} in the last eighth of the log; {verdict.level}")
    if verdict.bins is not None:
        lines += ["", "  by timestep, from clean to noise, at the last validation:"]
        lines += [f"  {name:8}" + "".join(f" {v:>6}" for v in values) for name, values in verdict.bins.rows()]
    lines += [f"  note:  {note}" for note in verdict.notes]
    lines += ["", *braille(verdict.curve, width, verdict.progress.unit), ""] if len(verdict.curve) > 1 else [""]
    if verdict.outlook:
        lines.append("the plan, by a rule of thumb for text-to-image, and the loss if it goes on so:")
        lines += [f"  {' ✓'[mark.passed]} {_mark(verdict, i)}" for i, mark in enumerate(verdict.outlook)] + [""]
    lines.append("what to do:")
    for place, action in enumerate(verdict.actions, start=1):
        hours = "" if action.hours is None else f" (about {hours_words(action.hours)})"
        lines.append(f"  {place}. {action.do}{hours}: {action.why}")
        lines += [f"       {action.command}"] if action.command else []
    return "\n".join(lines)


def progress_words(progress: PlanProgress) -> str:
    """`118 of 200 epochs (59 %), 52 steps an epoch, step 6136 of 10400; 0.4 h left`."""
    said = []
    if progress.epoch is not None and progress.epochs:
        said.append(f"{progress.epoch:.4g} of {progress.epochs} epochs")
    elif progress.epoch is not None:
        said.append(f"epoch {progress.epoch:.4g}")
    said += [f"{progress.steps_per_epoch} steps an epoch"] if progress.steps_per_epoch else []
    if progress.unit != "epoch":
        said.append(f"{progress.unit} {progress.step:.0f}" + (f" of {progress.steps}" if progress.steps else ""))
    share = "the plan is not known" if progress.share is None else f"{progress.share:.0%} of the plan"
    left = "" if not progress.hours_left else f"; {hours_words(progress.hours_left)} left"
    return f"{share}: {', '.join(said)}{left}"


def hours_words(hours: float) -> str:
    """`2.5 h`, or `12 min` below one."""
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def braille(curve: Curve, width: int, unit: str, rows: int = 10) -> list[str]:
    """A curve of (step, loss) as lines of at most `width` columns; the loss on a logarithmic axis where all are > 0."""
    columns = max(10, min(width, 110) - 12)
    height, span = 4 * rows, 2 * columns
    scale = math.log if min(loss for _, loss in curve) > 0 else float
    ys = [scale(loss) for _, loss in curve]
    low, high = min(ys), max(ys)
    left, right = min(s for s, _ in curve), max(s for s, _ in curve)
    cells = [[0] * columns for _ in range(rows)]
    before = None
    for dot in range(span):
        y = _between([s for s, _ in curve], ys, left + (right - left) * dot / (span - 1))
        down = round((high - y) / (high - low) * (height - 1)) if high > low else height // 2
        before = down if before is None else before
        for filled in range(min(down, before), max(down, before) + 1):
            cells[filled // 4][dot // 2] |= _DOTS[dot % 2][filled % 4]
        before = down
    names = {0: max(loss for _, loss in curve), rows - 1: min(loss for _, loss in curve)}
    lines = [
        f"{f'{names[row]:.4g}' if row in names else '':>9} ┤" + "".join(chr(0x2800 + cell) for cell in cells[row])
        for row in range(rows)
    ]
    ends = f"{left:.0f}", f"{unit} {right:.0f}"
    return [line.rstrip("\u2800") for line in lines] + [f"{'':>11}{ends[0]}{ends[1]:>{columns - len(ends[0])}}"]


def page(verdict: Verdict) -> str:
    """One offline HTML page."""
    rows = "".join(
        f"<tr{' class=passed' if mark.passed else ''}><td>{escape(_mark(verdict, i))}</td></tr>"
        for i, mark in enumerate(verdict.outlook)
    )
    todo = "".join(
        f"<li><b>{escape(a.do)}</b>{'' if a.hours is None else f' (about {hours_words(a.hours)})'}: {escape(a.why)}"
        + (f"<pre>{escape(a.command)}</pre>" if a.command else "")
        + "</li>"
        for a in verdict.actions
    )
    found = "".join(f"<li><b>{escape(f.name)}</b>: {escape(f.evidence)}</li>" for f in verdict.findings)
    notes = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
    notes = f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""
    loss = (
        "" if verdict.loss is None else f"<p>Loss {verdict.loss:.4g} in the last eighth; {escape(verdict.level)}.</p>"
    )
    bins = "".join(
        f"<tr><th>{name}</th>{''.join(f'<td>{v}</td>' for v in values)}</tr>"
        for name, values in (verdict.bins.rows() if verdict.bins else ())
    )
    loss += (
        f"<p>By timestep, from clean to noise, at the last validation:</p><div class=wide><table>{bins}</table></div>"
        if bins
        else ""
    )
    plan = f"<h2>The plan</h2><p>A rule of thumb for text-to-image.</p><table>{rows}</table>" if rows else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{escape(verdict.state)}</title>'
        f"<style>{_CSS}</style><h1>{escape(verdict.state)}</h1><p>{escape(verdict.log)}</p><ul>{found}</ul>"
        f"<p>{escape(progress_words(verdict.progress))}.</p>{loss}{svg(verdict)}"
        f"<h2>What to do</h2><ol>{todo}</ol>{plan}{notes}</html>\n"
    )


def svg(verdict: Verdict) -> str:
    """The curve, and the validation's, as an inline picture with logarithmic loss; empty for fewer than two points."""
    curves = [[(s, math.log(loss)) for s, loss in c if loss > 0] for c in (verdict.curve, verdict.validation)]
    if len(curves[0]) < 2:
        return ""
    every = [point for curve in curves for point in curve]
    left, right = min(s for s, _ in every), max(s for s, _ in every)
    low, high = min(y for _, y in every), max(y for _, y in every)
    lines = "".join(
        f'<polyline class="c{k}" points="'
        + " ".join(
            f"{60 + 620 * (s - left) / ((right - left) or 1):.1f},{10 + 220 * (high - y) / ((high - low) or 1):.1f}"
            for s, y in curve
        )
        + '"/>'
        for k, curve in enumerate(curves)
        if curve
    )
    marks = (
        f'<text x="54" y="16" class="e">{math.exp(high):.3g}</text><text x="54" y="232" class="e">{math.exp(low):.3g}'
        f'</text><text x="60" y="250">{left:.0f}</text><text x="680" y="250" class="e">'
        f"{escape(verdict.progress.unit)} {right:.0f}</text>"
    )
    legend = "dashed: validation" if curves[1] else ""
    return (
        f'<div class=wide><svg viewBox="0 0 700 256" role="img" '
        f'aria-label="loss over {escape(verdict.progress.unit)}s">{lines}{marks}'
        f'</svg></div><p class="small">Mean loss of each stretch, on a logarithmic axis. {legend}</p>'
    )


_CSS = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 760px; margin: 2em auto; padding: 0 1em;
  overflow-wrap: anywhere }
svg { width: 100%; min-width: 520px; height: auto } .wide, pre { overflow-x: auto }
text { font-size: 12px; fill: currentColor } .e { text-anchor: end }
polyline { fill: none; stroke: #b5472c; stroke-width: 2 } .c1 { stroke: #2c6aa0; stroke-dasharray: 6 4 }
th { text-align: left } td { padding-right: .7em } .passed, .small { opacity: .6 }
@media (prefers-color-scheme: dark) { polyline { stroke: #e8805f } .c1 { stroke: #6fb1e8 } }
"""


def _mark(verdict: Verdict, place: int) -> str:
    """`59 % (epoch 118): common prompts come out …; loss 0.04 (0.03 to 0.05)`."""
    mark, unit = verdict.outlook[place], "epoch" if verdict.progress.epochs else verdict.progress.unit
    loss = "" if mark.loss is None else f"; loss {mark.loss.value:.3g} ({mark.loss.low:.3g} to {mark.loss.high:.3g})"
    return f"{mark.percent} % ({unit} {mark.at:.0f}): {mark.expect}{loss}"


def _between(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The broken line through the points, at x; where a resume went back, the later one."""
    points = list(zip(xs, ys, strict=True))
    for (a, fa), (b, fb) in reversed(list(pairwise(points))):
        if a <= x <= b:
            return fa if a == b else fa + (fb - fa) * (x - a) / (b - a)
    return ys[0]
