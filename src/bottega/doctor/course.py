"""The course of a loss, kept in bounded memory, and what can surely be said of it.

All of it is judged on the logarithm: what matters is by which factor a loss falls, and the timesteps' noise is then
even.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from statistics import mean, median, stdev

import numpy as np

from bottega.doctor.likeness import Likeness
from bottega.doctor.logs import F64, Log, Points
from bottega.runtime.findings import LOSS_BLOWN, LOSS_RISE, Finding, Severity, by_severity
from bottega.training.trends import TREND_POINTS, Z95, Z99, Z999, Block, Blocks, Estimate, change, slope

FEWEST = 2 * TREND_POINTS
"""Losses, at the least: half of them must make a trend."""

FLAT = math.log(1.10)
"""A change of less than a tenth over half a run, a twentieth over a quarter, is none: from a blur to a sharp picture
the loss falls tenfold (0.02 to 0.002), which would take more than ten times as long again."""

SLOW = math.log(1.01)
"""From a hundredth over half a run on a sure fall is told from none: so learns what has a least possible loss above
nought, as a set of pictures has, or a language."""

SWING = math.log(1.25)
"""A swing or a jump matters from a quarter up: a fresh optimizer alone costs some percent, for some hundred steps."""

REVERSALS = 5
"""Turns that make an oscillation. One spike makes two, two spikes four: those are accidents."""

RECENT = 200
"""Losses compared on either side of a resume, at the most, and no more than an eighth of those before it."""

NEAR = 8
"""Fewer beside a resume are not compared: their variance means nothing."""

AGREED = 0.9
"""However long its noise lasts, a course is a trend where 95 % of all pairs of blocks agree, so that 90 % of them, the
middle ones, leave nought out."""

CEILING = 1e100
"""Losses above count as this in means: the squares of many still fit into a double."""

VALIDATION_RISE = 1.05
"""An overfitting run's last validations all lie above its best by this factor, besides surely rising."""


@dataclass(frozen=True)
class Jump:
    """What a resume did to the loss, as a difference of logarithms; place: how many losses came before."""

    step: float
    place: int
    size: Estimate


@dataclass(frozen=True)
class Move:
    """How the loss moved over a window of the log, in logarithms: falling, maybe slowly, flat, rising or undecided."""

    change: Estimate
    first: float
    last: float
    direction: str

    def __str__(self) -> str:
        ends = sorted((math.expm1(min(self.change.low, 9.0)), math.expm1(min(self.change.high, 9.0))))
        return f"{math.expm1(min(self.change.value, 9.0)):+.1%} (95 % interval {ends[0]:+.1%} to {ends[1]:+.1%})"


class Course:
    """All that is kept of a log's losses: their blocks, extremes, and what stood around the last resumes."""

    def __init__(self) -> None:
        self.count = 0  # finite, positive losses; their number is the abscissa of all blocks
        self.logs, self.values, self.steps, self.likeness = Blocks(), Blocks(), Blocks(), Likeness()
        self.low, self.high = math.inf, -math.inf
        self.rate = self.peak_rate = math.nan
        self.broken = self.broken_since = 0  # not finite: in all, at the end without a break
        self.odd = self.odd_since = 0  # not positive: the same
        self.broken_step: float | None = None
        self.jumps: list[Jump] = []
        self.tail: deque[float] = deque(maxlen=RECENT)  # logarithms
        self._before: F64 | None = None
        self._after: list[float] = []
        self._resumed_at, self._place = 0.0, 0

    def take(self, points: Points) -> None:
        """The next losses of the log."""
        if points.resumed:
            self.settle()
            self._before, self._after, self._resumed_at = np.array(self.tail), [], float(points.steps[0])
            self._place = self.count
            self.tail.clear()
        finite = np.isfinite(points.losses)
        if not finite.all():
            first = int(np.argmin(finite))
            self.broken_step = float(points.steps[first]) if self.broken_step is None else self.broken_step
            self.broken += int((~finite).sum())
        behind = int(np.argmax(finite[::-1])) if finite.any() else len(finite)
        self.broken_since = behind if finite.any() else self.broken_since + behind
        good = finite & (points.losses > 0)
        self.odd += int((finite & ~good).sum())
        if finite.any():
            kept = good[finite]
            behind = int(np.argmax(kept[::-1])) if kept.any() else len(kept)
            self.odd_since = behind if kept.any() else self.odd_since + behind
        rates = points.rates[np.isfinite(points.rates)]
        if len(rates):
            self.rate, self.peak_rate = float(rates[-1]), float(np.fmax(self.peak_rate, rates.max()))
        if good.any():
            self._keep(points.steps[good], points.losses[good])

    def _keep(self, steps: F64, losses: F64) -> None:
        places = np.arange(self.count + 1.0, self.count + 1.0 + len(losses))
        logs: F64 = np.log(losses)
        self.count += len(losses)
        for blocks, numbers in ((self.logs, logs), (self.values, np.minimum(losses, CEILING)), (self.steps, steps)):
            blocks.extend(places, numbers)
        self.likeness.take(logs)
        self.low, self.high = min(self.low, float(losses.min())), max(self.high, float(losses.max()))
        self.tail.extend(logs[-RECENT:].tolist())
        if self._before is not None and len(self._after) < RECENT:
            self._after += logs[: RECENT - len(self._after)].tolist()

    def settle(self) -> None:
        """Compare what lies on the two sides of the last resume, once both are known."""
        before, after = self._before, np.array(self._after)
        self._before = None
        if before is not None and min(len(before), len(after)) >= NEAR:
            near = max(self._place // 8, NEAR)
            size = change(_block(before[-near:]), _block(after[:near]))
            if size.low > SWING:
                self.jumps = [*self.jumps, Jump(self._resumed_at, self._place, size)][-8:]

    def step_at(self, place: float) -> float:
        """The step of the log in which the loss of that number stood, about."""
        blocks = [b for b in zip(self.logs.blocks, self.steps.blocks, strict=True) if b[0].step <= place]
        return (blocks[-1][1] if blocks else self.steps.blocks[0]).mean

    def whole_blocks(self, since: float = 0.0) -> list[tuple[Block, Block]]:
        """Blocks of log losses and of their steps after a place; the last one only where it is half full."""
        pairs = zip(self.logs.blocks, self.steps.blocks, strict=True)
        return [p for p in pairs if p[0].step > since and 2 * p[0].count >= self.logs.size]

    def move(self) -> Move | None:
        """Over the last quarter where that decides, else over the last half; from the last jump on, where enough
        came after it to tell."""
        since = self.jumps[-1].place if self.jumps else 0
        since = since if self.count - since >= max(FEWEST, self.count // 8) else 0
        left = self.count - since
        quarter, half, most = (self._move(since + (1 - part) * left, part) for part in (0.25, 0.5, 0.75))
        if most is not None and most.direction != "flat":
            most = None  # what fell before the last half says nothing of now; what did not move since is flat
        if quarter and half and quarter.direction == "flat" and half.direction.startswith("falling"):
            quarter = quarter if quarter.change.value > half.change.value / 4 else None  # it goes on as before
        return next((m for m in (quarter, half, most) if m is not None and m.direction != "undecided"), half)

    def _move(self, since: float, part: float) -> Move | None:
        least, slow = 2 * part * FLAT, 2 * part * SLOW
        window = self.whole_blocks(since)
        if len(window) < TREND_POINTS:
            return None
        places, values = [b.step for b, _ in window], [b.mean for b, _ in window]
        length = places[-1] - places[0]
        moved, surer = (_slope(places, values, z).scaled(length) for z in (Z95, Z99))
        direction = "undecided"
        if moved.low > -least and moved.high < least:
            direction = "falling slowly" if surer.high < 0.0 and moved.value < -slow else "flat"
        elif moved.high < 0.0:
            direction = "falling"
        elif surer.low > 0.0:  # rising accuses
            direction = "rising"
        return Move(moved, window[0][1].mean, window[-1][1].mean, direction)

    def exponent(self) -> Estimate | None:
        """p of loss ~ step^p over the last half: the slope of one logarithm over the other."""
        window = [(math.log(s.mean), b.mean) for b, s in self.whole_blocks(self.count / 2) if s.mean > 0]
        if len(window) < TREND_POINTS or any(b[0] <= a[0] for a, b in pairwise(window)):
            return None
        places, values = [w[0] for w in window], [w[1] for w in window]
        return _slope(places, values, Z95)

    def last_eighth(self) -> tuple[float, float, float]:
        """Of the last eighth of the log: the mean step, the mean loss, and the mean's relative standard error."""
        pairs = list(zip(self.steps.blocks, self.values.blocks, strict=True))
        late = [pair for pair in pairs if pair[1].step > 0.875 * self.count] or pairs[-1:]
        steps, values = (reduce(Block.merged, blocks) for blocks in zip(*late, strict=True))
        error = math.sqrt(values.squares / max(values.count - 1, 1) / values.count) / values.mean
        return steps.mean, values.mean, error


def findings(course: Course, log: Log, *, averaged: bool) -> list[Finding]:
    """All that is so, the most severe first; the advice is left to `bottega.doctor.advice`. averaged: the log holds the
    trainer's running mean, whose neighbours are nearly the same."""
    move = course.move()
    found = [
        _broken(course, log),
        _diverging(course, move, log.unit),
        _overfitting(log, move),
        _oscillating(course, log.unit, averaged=averaged),
        _jumped(course, log.unit),
        *(f for f in log.watcher.findings(ended=True) if f.name == "task starved"),
        _course(course, move, log.unit),
    ]
    present = by_severity(found)
    return [finding for finding in present if finding.severity > Severity.UNKNOWN] or present


def _broken(course: Course, log: Log) -> Finding | None:
    if not course.broken:
        return None
    since = (
        "and none has been finite since"
        if course.broken_since == course.broken
        else (
            f"{course.broken} in all, the last {course.broken_since} without a break"
            if course.broken_since
            else f"{course.broken} in all; the loss is finite again"
        )
    )
    at = f"{log.unit} {course.broken_step:.0f}"
    return Finding("not finite", f"the loss is NaN or infinite for the first time at {at}, {since}")


def _diverging(course: Course, move: Move | None, unit: str | None) -> Finding | None:
    """The last eighth surely lies above the lowest one before it, and the loss still rises or has doubled."""
    rising = move is not None and move.direction == "rising"
    windows = course.logs.windows()
    if course.jumps:
        windows = []  # that the loss is higher is the resume's doing; what followed it is in the trend
    if windows:
        lowest, alike = min(windows[:-1], key=lambda w: w.mean), course.likeness.correlation
        for end, last in {"eighth": windows[-1], **course.logs.ends(lowest.step)}.items():
            # the lowest of seven is low by chance: hence 99.9 %; a running mean has fewer numbers of its own
            rise, wide = (change(lowest, last, Z999 * z).exp() for z in (1.0, math.sqrt((1 + alike) / (1 - alike))))
            if rise.low > LOSS_BLOWN or (wide.low > LOSS_RISE and (rising or end == "sixteenth")):
                where = f"around {unit} {course.step_at(lowest.step):.0f}"
                return Finding(
                    "diverging", f"the last {end} of the log lies {_times(rise)} above the lowest one, {where}"
                )
    elif course.count >= FEWEST:
        values = [b.mean for b, _ in course.whole_blocks()]
        early, late = values[:-3], values[-3:]
        # that the three largest of twelve come last by chance happens once in 220 runs
        if min(late) > max(early) and min(late) > median(early) + math.log(LOSS_BLOWN) and not course.jumps:
            factor = math.exp(median(late) - median(early))
            return Finding("diverging", f"the last three losses are the largest of all, {factor:.3g} times the median")
        if rising and move is not None and move.change.low > math.log(LOSS_RISE):
            return Finding("diverging", f"{_span(move, unit)} the loss moves by {move}")
    return None


def _overfitting(log: Log, move: Move | None) -> Finding | None:
    """Validation surely rises, and lies above its best, while the training loss does not rise."""
    rows = [(step, math.log(loss)) for step, loss in log.validations if math.isfinite(loss) and loss > 0]
    window = rows[-max(TREND_POINTS, len(rows) // 2) :]
    if len(window) < TREND_POINTS or (move is not None and move.direction == "rising"):
        return None
    best = min(rows, key=lambda row: row[1])
    values = [value for _, value in window]
    rise = slope([float(i) for i in range(len(window))], values, Z99)
    if rise.low <= 0 or min(values[-3:]) < best[1] + math.log(VALIDATION_RISE):
        return None
    above = math.expm1(median(values[-3:]) - best[1])
    return Finding(
        "overfitting",
        f"the validation loss was best, {math.exp(best[1]):.4g}, at {log.unit} {best[0]:.0f} and surely rises since: "
        f"by {above:.0%}, while the training loss does not",
    )


def _oscillating(course: Course, unit: str | None, *, averaged: bool) -> Finding | None:
    """The blocks' means go up and down again and again, by more than their noise and by a quarter at least."""
    blocks = [b for b, _ in course.whole_blocks()]
    if len(blocks) < 2 * FEWEST:
        return None
    values = [b.mean for b in blocks]
    if course.logs.size >= NEAR and not averaged:
        noise = math.sqrt(median(b.squares / (b.count - 1) / b.count for b in blocks))
    else:  # from neighbours' differences, whose median minds no outlier: it is 0.6745 deviations of a normal
        near = [b - a for a, b in pairwise(values)]
        apart = near if averaged else [b - a for a, b in pairwise(near)]  # twice, so that slow swings are not counted
        noise = median(map(abs, apart)) / 0.6745 / math.sqrt(2 if averaged else 6)
    least = max(SWING, Z999 * math.sqrt(2) * noise)
    high = low = values[0]
    turns, sizes, way = [], [], 0
    for place, value in enumerate(values):
        high, low = max(high, value), min(low, value)
        if (way >= 0 and high - value > least) or (way <= 0 and value - low > least):
            way = -1 if high - value > value - low else 1
            turns.append(place)
            sizes.append(max(high - value, value - low))
            high = low = value
    if len(turns) < REVERSALS + 1 or turns[-1] < len(values) * 2 // 3:  # the first move is no turn yet
        return None
    first, last = (course.step_at(blocks[place].step) for place in (turns[0], turns[-1]))
    evidence = (
        f"between {unit} {first:.0f} and {last:.0f} the loss turned {len(turns) - 1} times, each time by a factor of "
        f"{math.exp(median(sizes)):.2g} or so, beyond its noise"
    )
    return Finding("oscillating", evidence)


def _jumped(course: Course, unit: str | None) -> Finding | None:
    if not course.jumps:
        return None
    jump = max(course.jumps, key=lambda j: j.size.low)
    return Finding(
        "resumed with a jump",
        f"after the resume at {unit} {jump.step:.0f} the loss is {_times(jump.size.exp())} what it was before",
    )


def _course(course: Course, move: Move | None, unit: str | None) -> Finding:
    """How the loss moves at the end of the log."""
    if course.count < FEWEST and course.odd_since < FEWEST:
        few = f"{course.count} usable losses; at least {FEWEST} are needed, some hundreds are better"
        return Finding("not enough to tell", few)
    if course.odd_since >= FEWEST:
        return Finding(
            "constant", f"the last {course.odd_since} losses are nought or negative, so that nothing is told"
        )
    if course.low == course.high:
        return Finding("constant", f"all {course.count} losses are exactly {course.low:.6g}")
    if move is None or move.direction == "undecided":
        said = "too few blocks" if move is None else f"{_span(move, unit)} it moved by {move}, which leaves it open"
        fallen = math.expm1(-_first_fall(course))
        said += f"; from the beginning to the last half it fell, by {-fallen:.0%} at least" if -fallen > 0.1 else ""
        return Finding("not enough to tell", f"the loss is too noisy for its {course.count} values: {said}")
    evidence = f"{_span(move, unit)} the loss moved by {move}"
    if move.direction != "flat":
        return Finding(move.direction, evidence)
    if _first_fall(course) < FLAT:
        return Finding("flat throughout", f"{evidence}; nor did it surely fall before")
    return Finding("plateaued", evidence)


def _first_fall(course: Course) -> float:
    """By how much the last half surely lies below the first sixteenth of the log, or three blocks. The noise is that of
    the last half: what falls scatters by its fall, too."""
    values = [b.mean for b, _ in course.whole_blocks()]
    first, last = values[: max(len(values) // 16, 3)], values[len(values) // 2 :]
    error = stdev(last) * math.sqrt(1 / len(first) + 1 / len(last))
    return mean(first) - mean(last) - Z99 * error


def _slope(places: list[float], values: list[float], z: float) -> Estimate:
    """Theil–Sen, its interval widened where what is left beside the line lasts from one block to the next: by
    √((1+r)/(1−r)), r the correlation of neighbours (Bartlett 1935 for an autoregressive noise). What is bent, and not
    noisy, looks so too: hence never wider than `AGREED` of all pairs."""
    tilt = slope(places, values).value
    rest = [v - tilt * p for p, v in zip(places, values, strict=True)]
    centre = sum(rest) / len(rest)
    total = sum((x - centre) ** 2 for x in rest)
    both = sum((a - centre) * (b - centre) for a, b in pairwise(rest))
    r = min(max(both / total, 0.0), 0.9) if total > 0 else 0.0
    n = len(values)
    widest = AGREED * n * (n - 1) / 2 / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return slope(places, values, min(z * math.sqrt((1 + r) / (1 - r)), max(widest, z)))


def _block(values: F64) -> Block:
    return Block(len(values), 0.0, float(values.mean()), float(((values - values.mean()) ** 2).sum()))


def _times(rise: Estimate) -> str:
    return f"{rise.value:.3g} times (at least {rise.low:.3g})"


def _span(move: Move, unit: str | None) -> str:
    return f"from {unit} {move.first:.0f} to {move.last:.0f}"
