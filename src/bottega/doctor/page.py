"""A verdict as one offline HTML page."""

from __future__ import annotations

from pathlib import Path

from bottega.doctor.text import describe_hours, describe_outlook, describe_progress
from bottega.doctor.verdict import Verdict
from bottega.runtime.findings import Severity
from bottega.visual.curves import Curve, draw_curves
from bottega.visual.page import render

_TONES = {
    Severity.CRITICAL: "bad",
    Severity.ERROR: "bad",
    Severity.WARNING: "mixed",
    Severity.INFO: "good",
    Severity.UNKNOWN: "wait",
}
"""How the page colours a severity."""


def render_page(verdict: Verdict) -> str:
    """The page, with everything inside the one file."""
    return render(
        Path(__file__).with_name("verdict.html"),
        verdict=verdict,
        tone=_TONES[verdict.findings[0].severity],
        progress=describe_progress(verdict.progress),
        curve=_curve(verdict),
        outlook=list(zip(verdict.outlook, describe_outlook(verdict), strict=True)),
        describe_hours=describe_hours,
    )


def _curve(verdict: Verdict) -> str:
    """Mean loss of each stretch, and the validation's, on a logarithmic axis; empty for fewer than two points."""
    curves = []
    for label, points in (("loss", verdict.curve), ("validation", verdict.validation)):
        steps = []
        losses = []
        for step, loss in points:
            if loss > 0:  # zero has no place on a logarithmic axis
                steps.append(step)
                losses.append(loss)
        curves.append(Curve(label, steps, losses))
    if len(curves[0].values) < 2:
        return ""
    unit = verdict.progress.unit
    return draw_curves(curves, f"loss over {unit}s", "mean loss, logarithmic", over=unit, log_scale=True)
