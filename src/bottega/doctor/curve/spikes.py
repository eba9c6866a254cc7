"""Losses that leap up for some lines and come back: where, and the curve without them.

Other findings need the curve without: three short spikes would turn it six times, as an oscillation does, and widen
the interval that a late rise must leave.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bottega.doctor.curve.fine import FineSeries
from bottega.doctor.losses import F64

WINDOW_SHARE = 24
"""The level that a spike stands out from is the median of a window of this share of the log around it."""

MIN_WINDOW = 25
"""Lines in that window, at the least: of fewer a spike of some lines is itself the half."""

MEDIAN_OF = 65
"""Numbers of a window that its median is taken of, at the most."""

LEAST = math.log(1.6)
"""A spike matters from a factor of 1.6 up."""

BARS = {1: 14.0, 3: 9.0, 5: 7.0, 9: 6.0}
"""How many standard errors the mean of so many neighbours must be above the level. For a noise as skewed as an
exponential one, which a raw diffusion loss of one sample a step comes near, each bar is passed once in some 10^6 lines.
"""

EDGE = 2.0
"""Standard deviations that a line must be above the level to belong to a spike: a window reaches beyond its ends."""

MOST = 0.15
"""With a larger share of the lines in spikes, what is between them is no level."""

WARM_UP = 0.05
"""The share of the log that is left out at its beginning: there a loss falls from wherever it began."""

MIN_LINES = 60
"""Fewer lines have no spread to compare a spike with."""


@dataclass(frozen=True)
class Spike:
    """first, last: steps of its lines. factor: of its lines' mean above the level."""

    first: float
    last: float
    factor: float


@dataclass(frozen=True)
class Spikes:
    """found: the spikes, in their order. without: [M], the logarithms of the cells' losses, those in spikes replaced by
    the level around them."""

    found: Sequence[Spike]
    without: F64


def find_spikes(series: FineSeries) -> Spikes:
    """Of the logarithms of a log's losses, independent of each other but for their level."""
    values = series.means
    count = len(values)
    if count < MIN_LINES:
        return Spikes((), values)
    level = _local_medians(values, max(MIN_WINDOW, count // WINDOW_SHARE))
    above = values - level
    inside = _lines_in_spikes(above, begin=max(round(WARM_UP * count), 8))
    if inside.mean() > MOST:
        return Spikes((), values)

    without = values.copy()
    found = []
    for first, last in _runs(inside):
        rise = float(above[first : last + 1][inside[first : last + 1]].mean())
        if last - first + 1 > count // WINDOW_SHARE or not _came_back(above, first, last, rise):
            continue
        without[first : last + 1] = level[first : last + 1]
        if rise > LEAST:
            found.append(Spike(float(series.steps[first]), float(series.steps[last]), math.exp(min(rise, 700.0))))
    return Spikes(found, without)


def _lines_in_spikes(above: F64, begin: int) -> NDArray[np.bool_]:
    """Which lines belong to a spike, [N]; more than `MOST` of them where there is no level between them.

    Args:
        above: [N], how far each line is above its level.
        begin: the first line that counts.
    """
    inside = np.zeros(len(above), np.bool_)
    for _ in range(3):
        # The spread is that of the other lines: the second round leaves out what the first one found.
        before = inside
        usual = above[~inside]
        inside = _inside(above - usual.mean(), spread=float(usual.std()))
        inside[:begin] = False
        if inside.mean() > MOST or (before == inside).all():
            break
    return inside


def _came_back(above: F64, first: int, last: int, rise: float) -> bool:
    """Whether the lines after a spike are back at the level: else another finding is about the end of the log."""
    after = above[last + 1 : last + 1 + max(2 * (last - first + 1), 8)]
    return len(after) >= 4 and float(np.median(after)) <= rise / 3


def _inside(above: F64, spread: float) -> NDArray[np.bool_]:
    """Which lines belong to a spike, [N]: in a stretch whose mean is above the bar every line above half of it, and
    beyond the noise."""
    inside = np.zeros(len(above), np.bool_)
    for width, bar in BARS.items():
        least = max(bar * spread / math.sqrt(width), LEAST)
        means = np.convolve(above, np.full(width, 1 / width), mode="valid")
        for place in np.flatnonzero(means > least):
            inside[place : place + width] |= above[place : place + width] > max(least / 2, EDGE * spread)
    return inside


def _runs(inside: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last place of each stretch; two that the widest window can reach from one to the other are one."""
    found: list[tuple[int, int]] = []
    for place in map(int, np.flatnonzero(inside)):
        if found and place - found[-1][1] <= max(BARS):
            found[-1] = (found[-1][0], place)
        else:
            found.append((place, place))
    return found


def _local_medians(values: F64, width: int) -> F64:
    """[N], of the window around each; at the ends of the first and the last whole window."""
    width = min(width, len(values))
    stride = max(1, width // MEDIAN_OF)
    windows = np.lib.stride_tricks.sliding_window_view(values, width)[:, ::stride]
    medians = np.median(windows, axis=1)
    before = width // 2
    after = len(values) - len(medians) - before
    found: F64 = np.pad(medians, (before, after), mode="edge")
    return found
