"""Curves and intervals, as inline SVG for a page and as braille dots for a terminal.

matplotlib draws the SVG; afterwards its colours become the page's CSS variables, so that one picture serves light and
dark, its fonts become the page's, and its ids go.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

F64 = NDArray[np.float64]

# matplotlib knows no CSS: these stand in the drawing for colours of the page, and are replaced in its SVG.
_INK, _FAINT = "#010101", "#020202"
_SERIES = ("#030301", "#030302", "#030303", "#030304", "#030305", "#030306")
_VARIABLES = {_INK: "var(--ink-2)", _FAINT: "var(--line)"}
_VARIABLES |= {colour: f"var(--c{number})" for number, colour in enumerate(_SERIES, start=1)}

MAX_POINTS = 400
"""Points of a curve: more than its width in pixels tells nothing."""

_FEW_POINTS = 12  # up to so many are marked
_BRAILLE_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # Unicode's patterns, by column and row of a cell
_BRAILLE_BLANK = 0x2800


@dataclass(frozen=True)
class Curve:
    """Values over training steps; `label` names the line in the legend."""

    label: str
    steps: Sequence[float]
    values: Sequence[float]


@dataclass(frozen=True)
class Interval:
    """One line of `draw_intervals`: a value with its bounds, which are None where there is no interval."""

    label: str
    value: float
    low: float | None
    high: float | None
    strong: bool = False


def draw_curves(
    curves: Sequence[Curve],
    title: str,
    unit: str,
    *,
    over: str = "step",
    smooth: bool = False,
    zero: str | None = None,
    log_scale: bool = False,
) -> str:
    """Draw curves as an `<svg>` element.

    Args:
        curves: one with fewer than two points is left out.
        title: what the picture shows, for those who cannot see it.
        unit: words beside the vertical axis.
        over: words below the horizontal axis.
        smooth: draw each value faintly and its exponential mean over a twentieth of the run on top.
        zero: words at a horizontal line through 0.
        log_scale: make the vertical axis logarithmic; all values must be above 0.

    Returns:
        The element; empty where no curve is left.
    """
    curves = [curve for curve in curves if len(curve.values) >= 2]
    if not curves:
        return ""

    # The lines, then what belongs to the vertical axis: at most one of a log scale, a zero line and a cut.
    figure, axes = _figure(4.4, 2.6)
    for number, curve in enumerate(curves):
        _draw_curve(axes, curve, _SERIES[number % len(_SERIES)], smooth=smooth)
    if log_scale:
        _use_log_scale(axes)
    elif zero is not None:
        axes.axhline(0, color=_INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            zero,
            (1, 0),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            color=_INK,
            fontsize=9,
        )
    elif smooth:
        _leave_out_spikes(axes, curves)

    # The frame. The legend stands above the axes: within them it would cover a curve.
    axes.set_xlabel(over, color=_INK)
    axes.set_ylabel(unit, color=_INK)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    if len(curves) > 1:
        axes.legend(
            frameon=False,
            fontsize=9,
            labelcolor=_INK,
            ncols=min(3, len(curves)),
            loc="lower left",
            bbox_to_anchor=(0, 1.0),
            borderaxespad=0.2,
        )
    return _svg(figure, title)


def draw_intervals(intervals: Sequence[Interval], title: str, unit: str) -> str:
    """Draw values with their bounds, one under the other, as an `<svg>` element; empty without intervals.

    Args:
        intervals: from top to bottom.
        title: what the picture shows, for those who cannot see it.
        unit: words below the horizontal axis.
    """
    if not intervals:
        return ""
    figure, axes = _figure(3.7, 0.6 + 0.27 * len(intervals))  # inches: a line of text needs 0.27
    for place, line in enumerate(intervals):
        _draw_interval(axes, place, line)
    axes.set_yticks(range(len(intervals)), [line.label for line in intervals])
    for label, line in zip(axes.get_yticklabels(), intervals, strict=True):
        label.set_fontweight("bold" if line.strong else "normal")
    axes.set_ylim(len(intervals) - 0.5, -0.5)  # downwards: the first line stands at the top
    axes.set_xlabel(unit, color=_INK)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8)
    axes.margins(x=0.08)
    return _svg(figure, title)


def _draw_interval(axes: Axes, place: int, line: Interval) -> None:
    """A dot on a bar without caps, which ends where the interval ends."""
    colour, bar_width, dot_size = _SERIES[5], 1.5, 4.5
    if line.strong:
        colour, bar_width, dot_size = _SERIES[0], 2.4, 6.5
    if line.low is not None and line.high is not None:
        axes.plot([line.low, line.high], [place, place], color=colour, linewidth=bar_width, solid_capstyle="butt")
    axes.plot([line.value], [place], "o", color=colour, markersize=dot_size)


def draw_braille(curve: Curve, width: int, over: str, *, rows: int = 10) -> list[str]:
    """Draw a curve as lines of text for a terminal, on a logarithmic axis where all values are above 0.

    Args:
        curve: with one point at least; where a resume went back, the later of two values shows.
        width: columns that the lines may take.
        over: word before the last step.
        rows: lines of the curve itself.
    """
    columns = max(10, min(width, 110) - 12)
    num_dots, height = 2 * columns, 4 * rows
    scale = math.log if min(curve.values) > 0 else float
    scaled = [scale(value) for value in curve.values]
    low, high = min(scaled), max(scaled)
    first, last = min(curve.steps), max(curve.steps)

    # The dots: one for each column of them, and all between it and the one before, so that a steep line has no gaps.
    cells = [[0] * columns for _ in range(rows)]
    before: int | None = None  # dots from the top, of the column before
    for dot in range(num_dots):
        y = _interpolate(curve.steps, scaled, first + (last - first) * dot / (num_dots - 1))
        down = height // 2
        if high > low:
            down = round((high - y) / (high - low) * (height - 1))
        if before is None:
            before = down
        for filled in range(min(down, before), max(down, before) + 1):
            cells[filled // 4][dot // 2] |= _BRAILLE_DOTS[dot % 2][filled % 4]
        before = down

    # The text: the extremes beside the first and the last row, the steps below.
    labels = {0: f"{max(curve.values):.4g}", rows - 1: f"{min(curve.values):.4g}"}
    lines = []
    for row, row_cells in enumerate(cells):
        dots = "".join(chr(_BRAILLE_BLANK + cell) for cell in row_cells)
        lines.append(f"{labels.get(row, ''):>9} ┤{dots}".rstrip(chr(_BRAILLE_BLANK)))
    left, right = f"{first:.0f}", f"{over} {last:.0f}"
    lines.append(f"{'':>11}{left}{right:>{columns - len(left)}}")
    return lines


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` × `height` inches with bare axes."""
    from matplotlib.figure import Figure  # not pyplot, which has a global state

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("none")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_FAINT)
    axes.tick_params(colors=_INK, labelcolor=_INK, length=0, labelsize=9)
    return figure, axes


def _draw_curve(axes: Axes, curve: Curve, colour: str, *, smooth: bool) -> None:
    steps, values = np.asarray(curve.steps, float), np.asarray(curve.values, float)
    shown = values
    if smooth and len(values) > 20:
        shown = _smoothed(values)
        axes.plot(*_thinned(steps, values), color=colour, linewidth=0.7, alpha=0.28)
    marker = "o" if len(values) <= _FEW_POINTS else None
    axes.plot(*_thinned(steps, shown), color=colour, linewidth=1.8, marker=marker, markersize=3.5, label=curve.label)


def _smoothed(values: F64) -> F64:
    """Exponential mean over about a twentieth of the values, corrected for its start as Adam corrects its moments."""
    keep = 1 - 1 / max(5.0, len(values) / 20)
    mean = weight = 0.0
    smoothed = np.empty(len(values))
    for place, value in enumerate(values):
        if math.isfinite(value):
            mean = keep * mean + (1 - keep) * value
            weight = keep * weight + (1 - keep)
        smoothed[place] = mean / weight if weight else np.nan
    return smoothed


def _thinned(steps: F64, values: F64) -> tuple[F64, F64]:
    """At most `MAX_POINTS` points, evenly spaced, the last one always among them."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    even = np.linspace(0, len(steps) - 1, MAX_POINTS)
    kept = np.unique(even.round().astype(int))
    return steps[kept], values[kept]


def _leave_out_spikes(axes: Axes, curves: Sequence[Curve]) -> None:
    """End the axis at the 99.5 % quantile."""
    # A few early spikes would flatten all the rest.
    values = np.concatenate([np.asarray(curve.values, float) for curve in curves])
    values = values[np.isfinite(values)]
    if len(values) > 50:
        low, high = float(values.min()), float(np.quantile(values, 0.995))
        if high > low:
            margin = 0.04 * (high - low)
            axes.set_ylim(low - margin, high + margin)


def _use_log_scale(axes: Axes) -> None:
    """A logarithmic axis whose labels are plain numbers: 0.1, 0.2, 0.5, 1, … or finer ones over a short span."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    is_short = high < 5 * low
    # 1, 2 and 5 of each decade are too few labels for a span of less than a factor of 5
    axes.yaxis.set_major_locator(MaxNLocator(4) if is_short else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:.3g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """The broken line through the points, at x; where a resume went back, the later one."""
    points = list(zip(xs, ys, strict=True))
    for (left, at_left), (right, at_right) in reversed(list(pairwise(points))):
        if left == x == right:
            return at_left
        if left <= x <= right:
            return at_left + (at_right - at_left) * (x - left) / (right - left)
    return ys[0]


def _svg(figure: Figure, title: str) -> str:
    """The figure as an element of a page, with the page's colours and fonts."""
    import matplotlib

    # text stays text, and the ids depend on the title alone: the same curve gives the same bytes
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": title}
    with io.BytesIO() as stream, matplotlib.rc_context(settings):
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
        text = stream.getvalue().decode("utf-8")
    text = text[text.index("<svg") :]
    # matplotlib's style sheet would hold for the whole page, its metadata name its home
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = text.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans)", text)
    text = re.sub(r"font: (bold |700 )?([\d.]+px)[^;\"]*", _page_font, text)
    # ids that nothing refers to would clash where a page holds several drawings
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([\w.-]+)"', lambda found: found[0] if found[1] in used else "", text)
    view = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert view is not None  # matplotlib always writes one
    head = f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {view[1]} {view[2]}">'
    return head + text[text.index(">") + 1 :].replace("\n", "").strip()


def _page_font(found: re.Match[str]) -> str:
    return f"font: {'600 ' if found[1] else ''}{found[2]} var(--sans)"
