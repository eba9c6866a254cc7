"""What the columns beside the loss say: learning rate, gradient's norm, seconds a step, waiting for data, memory.

Each function looks for one finding and returns it, or None. `judge_columns` asks them all, `unjudged_columns` says
which of them had nothing to look at.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from bottega.doctor.curve.fine import FineSeries
from bottega.doctor.curve.loss_curve import MIN_LOSSES, LossCurve
from bottega.doctor.losses import F64, Unit
from bottega.runtime.findings import Finding

ZERO_SHARE = 0.05
"""A rate that is zero for less of the log is the end of a schedule, or the first step of a warm-up."""

GRADIENT_LEAP = 10.0
"""A gradient's norm leaps from this factor over its level so far on. Healthy norms scatter by up to five."""

GRADIENT_SIGMAS = 5.0
"""It must also be so many standard deviations of its logarithm above: some losses have wilder gradients."""

BROKEN_SHARE = 0.1
"""Norms that are not finite matter from this share on, or at the end: a float16 scaler skips single steps by them."""

SKIPPED_SHARE = 0.3
"""Steps left out matter from this share on in the last tenth of the log. A float16 scaler leaves out some of the first
steps, and later one in some thousand."""

DATA_SHARE = 0.3
"""Waiting for data matters from this share of the step on: without it the run would take less than 70 % of the time."""

SLOWER = 1.5
"""The last fifth of the steps must take this many times what the first half took."""

SLOW_STEP = 3.0
"""A slow step takes this many times the median step."""

SLOW_COST = 0.15
"""Slow steps matter where they cost this share of the run beyond what as many ordinary steps take. Checkpoints and
validations cost less."""

GROWTH = 1.2
"""Memory must grow by this factor over the log, without a warm-up's, and still grow in its last half."""

FEW = 20
"""Numbers of a column below which nothing is said about it."""


def judge_columns(curve: LossCurve, unit: Unit, *, falls: bool = False) -> list[Finding | None]:
    """All that the columns show. falls: the loss falls by a tenth at the least."""
    return [
        _rate_zero(curve, unit, falls=falls),
        _gradient_not_finite(curve, unit),
        _no_gradient(curve, unit, falls=falls),
        _steps_skipped(curve.skips, unit),
        _gradient_leaps(curve.grad_norms, unit),
        _waits_for_data(curve.data_shares),
        _slowed_down(curve.step_times, unit),
        _slow_steps(curve.step_times, unit),
        _memory_grows(curve.memory, unit),
    ]


def unjudged_columns(curve: LossCurve) -> list[tuple[str, str]]:
    """(what, why) of each column that was not judged, or not wholly."""
    found = []
    for what, series, column in (
        ("the learning rate", curve.rates, "learning rate (lr, learning_rate), or only one rounded to zero"),
        ("the gradient's norm", curve.grad_norms, "gradient norm (grad_norm)"),
        ("skipped steps", curve.skips, "count of skipped steps (skipped, number of skipped iterations)"),
        ("the time of a step", curve.step_times, "seconds a step (step_time, seconds)"),
        ("waiting for data", curve.data_shares, "seconds of waiting for data beside those of a step (data_time)"),
        ("memory", curve.memory, "memory in use (rss_mb, gpu_memory)"),
    ):
        if not series.count and not series.num_infinite:
            found.append((what, f"the log has no {column}"))
        elif series.count + series.num_infinite < FEW:
            found.append((what, f"{series.count} values; at least {FEW} are needed"))
        elif curve.num_with_sides < curve.num_losses:
            share = curve.num_with_sides / curve.num_losses
            found.append((f"{what} in all lines", f"of so long a log it was read in {share:.0%} of them"))
    return found


def rate_rose(curve: LossCurve, step: float) -> float | None:
    """By which factor the learning rate had risen by that step, where it still rose; else None."""
    before = curve.rates.means[curve.rates.steps <= step]
    before = before[before > 0]
    if len(before) < MIN_LOSSES or before[-1] < 3 * before[0] or before[-1] < before.max():
        return None
    is_rising = before[-1] > before[-max(len(before) // 10, 2)]
    return float(before[-1] / before[0]) if is_rising else None


def _rate_zero(curve: LossCurve, unit: Unit, *, falls: bool) -> Finding | None:
    """It is zero in the whole log, or in a stretch of it; what has a rate of zero changes no weight."""
    rates, steps = curve.rates.means, curve.rates.steps
    if curve.rates.count < FEW:
        return None
    if not rates.any():
        if falls:
            return None  # then the column is not the rate that trains
        return Finding("learning rate zero", f"the learning rate is 0 in all {curve.rates.count} lines that name it")
    first, last = _longest(rates == 0)
    length = last - first
    if length < max(ZERO_SHARE * len(rates), MIN_LOSSES / curve.rates.size):
        return None
    share = length / len(rates)
    where = f"from {unit} {steps[first]:.0f} to {steps[last - 1]:.0f}"
    if last == len(rates):
        where = f"from {unit} {steps[first]:.0f} to the end"
    return Finding("learning rate zero", f"the learning rate is 0 {where}, {share:.0%} of the log")


def _steps_skipped(series: FineSeries, unit: Unit) -> Finding | None:
    """At the end of the log the optimizer leaves many steps out, as a float16 scaler does while gradients overflow."""
    values, steps = series.means, series.steps
    if series.count < FEW:
        return None
    share = float(values[-max(len(values) // 10, MIN_LOSSES) :].mean())
    if share < SKIPPED_SHARE:
        return None
    since = _since(values, SKIPPED_SHARE / 2)
    return Finding(
        "steps skipped",
        f"in the last tenth of the log the optimizer left out {share:.0%} of the steps, and has done so since {unit} "
        f"{steps[since]:.0f} or so: they change no weight",
    )


def _longest(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Begin and end of the longest stretch that is true, (0, 0) where none is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    begins, ends = edges[::2], edges[1::2]
    if not len(begins):
        return 0, 0
    place = int((ends - begins).argmax())
    return int(begins[place]), int(ends[place])


def _gradient_not_finite(curve: LossCurve, unit: Unit) -> Finding | None:
    norms = curve.grad_norms
    count = norms.count + norms.num_infinite
    lasts = norms.num_infinite_at_end >= 3
    if curve.num_nonfinite or count < FEW or not (lasts or norms.num_infinite > BROKEN_SHARE * count):
        return None
    until = "and none has been finite since" if lasts else "with finite ones between"
    return Finding(
        "gradient not finite",
        f"the gradient's norm is NaN or infinite in {norms.num_infinite} of {count} lines, for the first time at "
        f"{unit} {norms.first_infinite:.0f}, {until}",
    )


def _no_gradient(curve: LossCurve, unit: Unit, *, falls: bool) -> Finding | None:
    norms, steps = curve.grad_norms.means, curve.grad_norms.steps
    if curve.grad_norms.count < FEW or falls:
        return None  # a loss that falls has a gradient, whatever the column holds
    first, last = _longest(norms == 0)
    if last < len(norms) or last - first < max(ZERO_SHARE * len(norms), MIN_LOSSES / curve.grad_norms.size):
        return None
    since = "in the whole log" if not first else f"since {unit} {steps[first]:.0f}"
    return Finding("no gradient", f"the gradient's norm is exactly 0 {since}: no weight changes")


def _gradient_leaps(series: FineSeries, unit: Unit) -> Finding | None:
    """Single norms, or all at the end, far above the median of those before."""
    peaks, steps = series.peaks, series.steps
    there = peaks > 0
    values, steps = np.log(peaks[there]), steps[there]
    # the first norms of a run are large, and are no level
    begin = max(len(values) // 20, 5)
    values, steps = values[begin:], steps[begin:]
    if len(values) < FEW:
        return None
    level = _medians_so_far(values)
    spread = 1.4826 * float(np.median(np.abs(np.diff(values)))) / math.sqrt(2)  # of neighbours: a slow course is none
    leaps = np.flatnonzero(values - level > max(math.log(GRADIENT_LEAP), GRADIENT_SIGMAS * spread))
    leaps = leaps[leaps >= 8]
    if not len(leaps):
        return None
    worst = int(leaps[(values - level)[leaps].argmax()])
    factor = math.exp(min(float(values[worst] - level[worst]), 700.0))
    count = "once" if len(leaps) == 1 else f"{len(leaps)} times"
    return Finding(
        "gradient leaps",
        f"the gradient's norm is {count} more than {GRADIENT_LEAP:.0f} times its median until then, for the first time "
        f"at {unit} {steps[leaps[0]]:.0f}; most, {math.exp(min(float(values[worst]), 700.0)):.3g}, {factor:.3g} times, "
        f"at {unit} {steps[worst]:.0f}",
    )


def _medians_so_far(values: F64) -> F64:
    """[N], of all numbers before; in steps of a sixty-fourth of them."""
    stretch = max(len(values) // 64, 1)
    found = np.empty(len(values))
    for begin in range(0, len(values), stretch):
        before = values[: max(begin, min(8, len(values)))]
        found[begin : begin + stretch] = np.median(before)
    return found


def _waits_for_data(series: FineSeries) -> Finding | None:
    if series.count < FEW:
        return None
    late = series.means[len(series.means) // 2 :]
    share = float(np.median(late))
    if share <= DATA_SHARE:
        return None
    return Finding(
        "waits for data", f"in the last half of the log the median step waits {share:.0%} of its time for data"
    )


def _slowed_down(series: FineSeries, unit: Unit) -> Finding | None:
    """The last fifth against the first half, without the first steps, which compile and fill caches."""
    values, steps = series.means, series.steps
    begin = len(values) // 20
    values, steps = values[begin:], steps[begin:]
    if series.count < FEW or len(values) < FEW:
        return None
    early = float(np.median(values[: len(values) // 2]))
    late = values[-max(len(values) // 5, 4) :]
    # nearly all late steps must be slower than the ordinary one: a few stalls among them are another finding
    if float(np.median(late)) < SLOWER * early or float(np.quantile(late, 0.25)) < 1.2 * early:
        return None
    since = _since(values, early * math.sqrt(SLOWER))
    return Finding(
        "slowed down",
        f"a step takes {float(np.median(late)):.3g} s in the last fifth of the log and took {early:.3g} s in its first "
        f"half; slower since {unit} {steps[since]:.0f} or so",
    )


def _since(values: F64, bar: float) -> int:
    """From where on the numbers are above the bar for the most part: the place that parts them with least error."""
    above = np.where(values > bar, 1, -1)
    return int(np.concatenate([[0], np.cumsum(above)[:-1]]).argmin())


def _slow_steps(series: FineSeries, unit: Unit) -> Finding | None:
    """Single steps that take much longer than the others, and cost much of the time."""
    if series.count < FEW or series.size > 1:
        return None  # the means of several steps hide one
    begin = len(series.means) // 20
    values, steps = series.means[begin:], series.steps[begin:]
    usual = float(np.median(values))
    slow = values > SLOW_STEP * usual
    cost = float((values[slow] - usual).sum() / values.sum())
    if int(slow.sum()) < 3 or cost < SLOW_COST or _longest(slow)[1] - _longest(slow)[0] > len(values) // 20:
        return None
    return Finding(
        "slow steps",
        f"{int(slow.sum())} of {len(values)} steps take more than {SLOW_STEP:.0f} times the usual {usual:.3g} s "
        f"and cost {cost:.0%} of the time{_period(steps[slow], unit)}",
    )


def _period(steps: F64, unit: Unit) -> str:
    """Whether what happened at these steps, [N], does so again and again, in words."""
    gaps = [after - before for before, after in pairwise(steps)]
    usual = float(np.median(gaps))
    near = sum(abs(gap - usual) <= 1 for gap in gaps)
    if usual > 2 and near >= 0.7 * len(gaps):
        return f", every {usual:.0f} {unit}s"
    return ""


def _memory_grows(series: FineSeries, unit: Unit) -> Finding | None:
    values, steps = series.means, series.steps
    begin = len(values) // 10
    values, steps = values[begin:], steps[begin:]
    if series.count < FEW or len(values) < FEW:
        return None
    quarters = [float(np.median(part)) for part in np.array_split(values, 4)]
    if quarters[3] < GROWTH * quarters[0]:
        return None
    # what a cache takes until it is full comes early and then ends: growth goes on in each quarter
    rises = [after / before - 1 for before, after in pairwise(quarters)]
    if min(rises) < (quarters[3] / quarters[0] - 1) / 10:
        return None
    return Finding(
        "memory grows",
        f"memory in use rose by {quarters[3] / quarters[0] - 1:.0%}, from {quarters[0]:.4g} to {quarters[3]:.4g}, "
        f"between {unit} {steps[0]:.0f} and {steps[-1]:.0f}, and rises in each quarter of the log",
    )
