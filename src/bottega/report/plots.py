"""Curves as inline SVG that takes its colours from the page, so that one picture serves light and dark.

matplotlib draws; afterwards its colours become CSS variables, its fonts the page's, and its ids go.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
# What stands in the drawing for a colour of the page: matplotlib knows no CSS.
_VARIABLES = {_INK: "var(--ink-2)", _FAINT: "var(--line)"} | {c: f"var(--c{k})" for k, c in enumerate(_SERIES, start=1)}
_POINTS = 400  # more than a curve's width in pixels tells nothing


@dataclass(frozen=True)
class Curve:
    """Values over training steps; `label` names the line at its end."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Interval:
    """One line of `intervals`: a value with its bounds, which are None where there is no interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    strong: bool = False


def curves(lines: Sequence[Curve], title: str, unit: str, *, smooth: bool = False, zero: str | None = None) -> str:
    """Curves over steps as an `<svg>` element; empty where no line has two points.

    Args:
        title: what the picture shows, for those who cannot see it.
        unit: words beside the vertical axis.
        smooth: draw each value faintly and its exponential mean over a twentieth of the run on top.
        zero: words at a horizontal line through 0.
    """
    drawn = [line for line in lines if len(line.values) >= 2]
    if not drawn:
        return ""
    figure, axes = _figure(4.4, 2.6)
    for colour, line in zip(_SERIES * len(drawn), drawn, strict=False):
        steps, values = np.asarray(line.steps, float), np.asarray(line.values, float)
        shown = _smoothed(values) if smooth and len(values) > 20 else values
        if shown is not values:
            axes.plot(*_thinned(steps, values), color=colour, linewidth=0.7, alpha=0.28)
        marker = "o" if len(values) <= 12 else None
        axes.plot(*_thinned(steps, shown), color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=line.label)
    if zero is not None:
        axes.axhline(0, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(zero, (1, 0), xycoords=("axes fraction", "data"), ha="right", va="bottom", color=_INK, fontsize=9)
    elif smooth:
        _trim(axes, drawn)
    axes.set_xlabel("step", color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    if len(drawn) > 1:
        axes.legend(
            frameon=False,
            fontsize=9,
            labelcolor=_INK,
            ncols=min(3, len(drawn)),
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            borderaxespad=0.2,
        )
    return _svg(figure, title)


def intervals(lines: Sequence[Interval], title: str, unit: str) -> str:
    """Values with their bounds, one under the other, as an `<svg>` element; empty without lines."""
    if not lines:
        return ""
    figure, axes = _figure(3.7, 0.6 + 0.27 * len(lines))
    for place, line in enumerate(lines):
        colour = _SERIES[0] if line.strong else _SERIES[5]
        if line.low is not None and line.high is not None:
            axes.plot(
                [line.low, line.high],
                [place, place],
                color=colour,
                linewidth=2.4 if line.strong else 1.5,
                solid_capstyle="butt",
            )
        axes.plot([line.value], [place], "o", color=colour, markersize=6.5 if line.strong else 4.5)
    axes.set_yticks(range(len(lines)), [line.label for line in lines])
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_fontweight("bold" if line.strong else "normal")
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.set_xlabel(unit, color=_INK)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.margins(x=0.08)
    return _svg(figure, title)


def _figure(width: float, height: float) -> tuple[Any, Axes]:
    """A figure of `width` × `height` inches with bare axes, made without pyplot and its global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelcolor=_INK, length=0, labelsize=9)
    return figure, axes


def _smoothed(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Exponential mean over about a twentieth of the values, corrected for its start as Adam corrects its moments."""
    keep = 1 - 1 / max(5.0, len(values) / 20)
    mean, weight, out = 0.0, 0.0, np.empty(len(values))
    for k, value in enumerate(values):
        if math.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out[k] = mean / weight if weight else np.nan
    return out


def _thinned(
    steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most `_POINTS` points, evenly spaced, the last one always among them."""
    if len(steps) <= _POINTS:
        return steps, values
    kept = np.unique(np.linspace(0, len(steps) - 1, _POINTS).round().astype(int))
    return steps[kept], values[kept]


def _trim(axes: Axes, lines: Sequence[Curve]) -> None:
    """Keep a few early spikes from flattening the rest: the axis ends at the 99.5 % quantile."""
    values = np.concatenate([np.asarray(line.values, float) for line in lines])
    values = values[np.isfinite(values)]
    if len(values) > 50:
        low, high = float(values.min()), float(np.quantile(values, 0.995))
        if high > low:
            axes.set_ylim(low - 0.04 * (high - low), high + 0.04 * (high - low))


def _svg(figure: Any, title: str) -> str:
    from html import escape

    import matplotlib

    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title}
    with io.BytesIO() as stream, matplotlib.rc_context(settings):
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
        text = stream.getvalue().decode("utf-8")
    # matplotlib's style sheet would hold for the whole page, its metadata name its home.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL).replace(
        "xlink:href", "href"
    )
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r"font: (bold |700 )?([\d.]+px)[^;\"]*", _font, text)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert view is not None  # matplotlib always writes one
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {view[1]} {view[2]}">'
    return head + text[text.index(">") + 1 :].replace("\n", "").strip()


def _font(found: re.Match[str]) -> str:
    return f"font: {'600 ' if found[1] else ''}{found[2]} var(--sans)"
