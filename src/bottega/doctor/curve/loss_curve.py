"""A loss curve, kept in bounded memory.

All of it is judged on the logarithm: what matters is by which factor a loss falls, and the timesteps' noise is then
even.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from bottega.doctor.curve.fine import FineSeries
from bottega.doctor.curve.lag_correlation import LagCorrelation
from bottega.doctor.losses import F64, LossBatch, SideColumns
from bottega.training.trends import TREND_POINTS, Z95, Z99, Z999, Block, Blocks, Estimate, change, slope

MIN_LOSSES = 2 * TREND_POINTS
"""Losses, at the least: half of them must make a trend."""

FLAT = math.log(1.10)
"""A change of less than a tenth over half a run, a twentieth over a quarter, is none: from a blur to a sharp picture
the loss falls tenfold (0.02 to 0.002), which would take more than ten times as long again."""

SLOW = math.log(1.01)
"""From a hundredth over half a run on a significant fall is a finding of its own: what has a least possible loss above
zero, as a set of pictures has, or a language, learns so slowly near it."""

SWING = math.log(1.25)
"""A swing or a jump matters from a quarter up: a fresh optimizer alone costs some percent, for some hundred steps."""

RECENT = 200
"""Losses compared on either side of a resume, at the most, and no more than an eighth of those before it."""

MAX_JUMPS = 8
"""Jumps that are kept, the last ones: memory does not grow with the resumes."""

NEAR = 8
"""Fewer beside a resume are not compared: their variance means nothing."""

AGREED = 0.9
"""However long its noise lasts, a curve is a trend where 95 % of all pairs of blocks agree, so that 90 % of them, the
middle ones, leave zero out."""

CEILING = 1e100
"""Losses above count as this in means: the squares of many still fit into a double."""


@dataclass(frozen=True)
class Jump:
    """What a resume did to the loss.

    step: of the resume. place: how many losses came before. size: a difference of logarithms.
    """

    step: float
    place: int
    size: Estimate


@dataclass(frozen=True)
class Move:
    """How the loss moved over a window of the log.

    change: of its logarithm. first, last: the steps at which the window begins and ends. direction: falling, falling
    slowly, flat, rising or undecided. surely_rises: with 99.9 %, as an accusation by itself needs: of healthy runs one
    in a hundred rises with 99 %, as chance has it.
    """

    change: Estimate
    first: float
    last: float
    direction: str
    surely_rises: bool

    def __str__(self) -> str:
        value = _as_share(self.change.value)
        low = _as_share(self.change.low)
        high = _as_share(self.change.high)
        return f"{value:+.1%} (95 % interval {low:+.1%} to {high:+.1%})"


class LossCurve:
    """All that is kept of a log's losses: their blocks, extremes, and what came before and after the last resumes.

    count: finite, positive losses; their number is the abscissa of all blocks. logs, values, steps: of the logarithm,
    the loss itself, and its step. num_nonfinite, num_nonpositive: losses that are neither kept nor in a block; the same
    with `_at_end`: at the end without a break. first_nonfinite: the step of the first. rate, peak_rate: the learning
    rate now, and its highest; NaN where the log has none. fine: of the logarithm, each by itself in a log that is not
    long. rates, grad_norms, step_times, data_shares, memory: columns beside the loss; skips: the share of the steps
    that the optimizer left out; data_shares: of a step's time
    that was waited for data. num_with_sides: losses whose other columns were read. num_uncompared:
    resumes with too few losses on either side.
    """

    def __init__(self) -> None:
        self.count = 0
        self.logs = Blocks()
        self.values = Blocks()
        self.steps = Blocks()
        self.lag = LagCorrelation()
        self.fine = FineSeries()
        self.rates = FineSeries()
        self.grad_norms = FineSeries()
        self.step_times = FineSeries()
        self.data_shares = FineSeries()
        self.memory = FineSeries()
        self.skips = FineSeries()
        self._skipped_in_all: float | None = None
        self._skips_known_at = 0.0
        self.num_losses = 0
        self.num_with_sides = 0
        self.low = math.inf
        self.high = -math.inf
        self.rate = math.nan
        self.peak_rate = math.nan
        self.num_nonfinite = 0
        self.num_nonfinite_at_end = 0
        self.num_nonpositive = 0
        self.num_nonpositive_at_end = 0
        self.first_nonfinite: float | None = None
        self.jumps: list[Jump] = []
        self.num_uncompared = 0
        self._tail: deque[float] = deque(maxlen=RECENT)  # logarithms
        self._before: F64 | None = None  # the tail at the last resume, until it is compared
        self._after: list[float] = []  # logarithms since
        self._resumed_at = 0.0
        self._place = 0

    def add(self, batch: LossBatch) -> None:
        """The next losses of the log."""
        if batch.sides is not None:
            self._keep_sides(batch.sides)
        self.num_losses += len(batch.steps)
        if not len(batch.steps):
            return  # only lines without a loss
        if batch.resumed:
            self._begin_resume(float(batch.steps[0]))
        finite = np.isfinite(batch.losses)
        positive = finite & (batch.losses > 0)

        # What can't be kept is counted: where it began, how much, and whether it lasts to the end.
        if self.first_nonfinite is None and not finite.all():
            self.first_nonfinite = float(batch.steps[np.argmin(finite)])
        self.num_nonfinite += int((~finite).sum())
        self.num_nonfinite_at_end = _failures_at_end(finite, self.num_nonfinite_at_end)
        self.num_nonpositive += int((finite & ~positive).sum())
        self.num_nonpositive_at_end = _failures_at_end(positive[finite], self.num_nonpositive_at_end)

        rates = batch.learning_rates[np.isfinite(batch.learning_rates)]
        if len(rates):
            self.rate = float(rates[-1])
            self.peak_rate = float(np.fmax(self.peak_rate, rates.max()))  # fmax: the peak is NaN before the first

        if positive.any():
            self._keep(batch.steps[positive], batch.losses[positive])

    def settle(self) -> None:
        """Compare the losses before and after the last resume, once both are known: after the last loss."""
        before, after = self._before, np.array(self._after)
        self._before = None
        if before is None:
            return
        if min(len(before), len(after)) < NEAR:
            self.num_uncompared += 1
            return
        # early in a run the loss falls by much within `RECENT` losses, which would hide a jump
        near = max(self._place // 8, NEAR)
        size = change(_block(before[-near:]), _block(after[:near]))
        if size.low > SWING:
            self.jumps = [*self.jumps, Jump(self._resumed_at, self._place, size)][-MAX_JUMPS:]

    def _begin_resume(self, step: float) -> None:
        self.settle()
        self._before = np.array(self._tail)
        self._after = []
        self._resumed_at = step
        self._place = self.count
        self._tail.clear()

    def _keep_sides(self, sides: SideColumns) -> None:
        steps = sides.steps
        self.num_with_sides += len(steps)
        rates = sides.rates[np.isfinite(sides.rates)]
        if len(rates):
            self.rate = float(rates[-1])
            self.peak_rate = float(np.fmax(self.peak_rate, rates.max()))
        self.skips.extend(steps, self._skip_shares(sides))
        self.rates.extend(steps, sides.rates)
        self.grad_norms.extend(steps, sides.grad_norms)
        self.step_times.extend(steps, _positive(sides.step_times))
        self.memory.extend(steps, _positive(sides.memory))
        self.data_shares.extend(steps, _data_shares(sides))

    def _skip_shares(self, sides: SideColumns) -> F64:
        """The share of the steps since the line before that the optimizer left out, [M]; NaN where no line says it."""
        steps, totals = sides.steps, sides.skipped_in_all
        known = np.isfinite(totals)
        skipped = np.where(np.isfinite(sides.skipped), sides.skipped, np.nan)
        if known.any():
            # a total that falls is that of a new run
            skipped[known] = np.maximum(np.diff(totals[known], prepend=self._skipped_in_all or totals[known][0]), 0.0)
            self._skipped_in_all = float(totals[known][-1])
        there = np.isfinite(skipped)
        if not there.any():
            return skipped
        passed = np.maximum(np.diff(steps[there], prepend=self._skips_known_at), 1.0)
        self._skips_known_at = float(steps[there][-1])
        shares = np.full(len(steps), np.nan)
        shares[there] = np.clip(skipped[there] / passed, 0.0, 1.0)
        return shares

    def _keep(self, steps: F64, losses: F64) -> None:
        places = np.arange(self.count + 1.0, self.count + 1.0 + len(losses))
        logs: F64 = np.log(losses)
        self.count += len(losses)
        self.logs.extend(places, logs)
        self.values.extend(places, np.minimum(losses, CEILING))
        self.steps.extend(places, steps)
        self.fine.extend(steps, logs)
        self.lag.add(logs)
        self.low = min(self.low, float(losses.min()))
        self.high = max(self.high, float(losses.max()))
        self._tail.extend(logs[-RECENT:].tolist())
        if self._before is not None and len(self._after) < RECENT:
            self._after += logs[: RECENT - len(self._after)].tolist()

    # What the judgement asks for.

    def step_at(self, place: float) -> float:
        """The step of the log at which the loss of that number is, about."""
        # steps may be uneven or go back at a resume: the place is looked up in the blocks and not interpolated
        steps = self.steps.blocks[0]
        for block, block_steps in zip(self.logs.blocks, self.steps.blocks, strict=True):
            if block.step <= place:
                steps = block_steps
        return steps.mean

    def whole_blocks(self, since: float = 0.0) -> list[tuple[Block, Block]]:
        """Blocks of log losses and of their steps after a place; the last one only where it is half full."""
        found = []
        for block, block_steps in zip(self.logs.blocks, self.steps.blocks, strict=True):
            if block.step > since and 2 * block.count >= self.logs.size:
                found.append((block, block_steps))
        return found

    def move(self) -> Move | None:
        """Over the last quarter where that decides, else over the last half; from the last jump on, where enough came
        after it to tell. None where there are too few blocks."""
        since = self._place_after_the_last_jump()
        quarter = self._move(since, 0.25)
        half = self._move(since, 0.5)
        # what fell before the last half says nothing of now; what did not move since is flat
        most = _if_flat(self._move(since, 0.75))
        whole = _if_flat(self._move(since, 1.0))
        if quarter is not None and half is not None and _keeps_falling(quarter, half):
            quarter = None

        for move in (quarter, half, most, whole):
            if move is not None and move.direction != "undecided":
                return move
        return half

    def _place_after_the_last_jump(self) -> int:
        """0 without a jump, or where too little came after it to tell how the loss moves."""
        if not self.jumps:
            return 0
        place = self.jumps[-1].place
        return place if self.count - place >= max(MIN_LOSSES, self.count // 8) else 0

    def _move(self, begin: int, part: float) -> Move | None:
        """Over the last part of the losses after a place."""
        since = begin + (1 - part) * (self.count - begin)
        window = self.whole_blocks(since)
        if len(window) < TREND_POINTS:
            return None
        places = [block.step for block, _ in window]
        values = [block.mean for block, _ in window]
        length = places[-1] - places[0]
        moved = _slope(places, values, Z95).scaled(length)
        surer = _slope(places, values, Z99).scaled(length)
        surely_rises = _slope(places, values, Z999).low > 0.0
        return Move(moved, window[0][1].mean, window[-1][1].mean, _direction(moved, surer, part), surely_rises)

    def exponent(self) -> Estimate | None:
        """p of loss ~ step^p over the last half: the slope of one logarithm over the other."""
        log_steps = []
        log_losses = []
        for block, block_steps in self.whole_blocks(self.count / 2):
            if block_steps.mean > 0:
                log_steps.append(math.log(block_steps.mean))
                log_losses.append(block.mean)
        # after a resume that went back, two losses belong to one step, and no power of the steps fits
        steps_rise = all(before < after for before, after in pairwise(log_steps))
        if len(log_steps) < TREND_POINTS or not steps_rise:
            return None
        return _slope(log_steps, log_losses, Z95)

    def last_eighth(self) -> tuple[float, float, float]:
        """Of the last eighth of the log: the mean step, the mean loss, and the mean's relative standard error."""
        pairs = list(zip(self.steps.blocks, self.values.blocks, strict=True))
        late = [pair for pair in pairs if pair[1].step > 0.875 * self.count] or pairs[-1:]
        late_steps, late_values = zip(*late, strict=True)
        steps = reduce(Block.merged, late_steps)
        values = reduce(Block.merged, late_values)
        error = math.sqrt(values.squares / max(values.count - 1, 1) / values.count) / values.mean
        return steps.mean, values.mean, error


def _positive(values: F64) -> F64:
    """NaN for what is no duration and no size, [N]."""
    return np.where((values > 0) & np.isfinite(values), values, np.nan)


def _data_shares(sides: SideColumns) -> F64:
    """Which share of a step is waiting for data, [N]; NaN where either time is absent."""
    waited, step = sides.data_times, _positive(sides.step_times)
    # some trainers count the waiting as part of the step, some do not: then it may be longer than the step
    whole = np.where(waited > step, waited + step, step)
    return np.where(np.isfinite(waited) & (waited >= 0), waited / whole, np.nan)


def _as_share(log_change: float) -> float:
    """A difference of logarithms as a share, e - 1 = +172 % for 1; above e^9 its digits mean nothing."""
    return math.expm1(min(log_change, 9.0))


def _if_flat(move: Move | None) -> Move | None:
    if move is None or move.direction != "flat":
        return None
    return move


def _keeps_falling(quarter: Move, half: Move) -> bool:
    """Whether a last quarter that looks flat falls no slower than half as fast as the falling half that it ends: it is
    then too short to show the fall."""
    if quarter.direction != "flat" or not half.direction.startswith("falling"):
        return False
    return quarter.change.value <= half.change.value / 4


def _direction(moved: Estimate, surer: Estimate, part: float) -> str:
    """What a move is called.

    Args:
        moved: with its 95 % interval.
        surer: the same with 99 %.
        part: of the log that it spans; the bars are those of a half.
    """
    flat, slow = 2 * part * FLAT, 2 * part * SLOW
    if moved.low > -flat and moved.high < flat:
        falls_slowly = surer.high < 0.0 and moved.value < -slow
        return "falling slowly" if falls_slowly else "flat"
    # a quarter is looked at first, so that a chance there is one more: hence 99 %, too
    if (surer if part < 0.5 else moved).high < 0.0:
        return "falling"
    if surer.low > 0.0:  # to call a loss rising accuses the run: hence 99 %
        return "rising"
    return "undecided"


def _failures_at_end(passed: NDArray[np.bool_], before: int) -> int:
    """How many at the end fail without a break. passed: [N], of the new ones; before: at the end of the ones before."""
    if passed.any():
        return int(np.argmax(passed[::-1]))
    return before + len(passed)


def _slope(places: list[float], values: list[float], z: float) -> Estimate:
    """Theil–Sen, its interval widened where what is left beside the line lasts from one block to the next: by
    √((1+r)/(1−r)), r the correlation of neighbours (Bartlett 1935 for an autoregressive noise)."""
    tilt = slope(places, values).value
    r = _correlation_of_neighbours([v - tilt * p for p, v in zip(places, values, strict=True)])
    wider = z * math.sqrt((1 + r) / (1 - r))

    # A bent curve without noise has such a correlation as well: hence never wider than `AGREED` of all pairs. That is
    # the z at which an interval holds the middle ones; the root is Sen's (1968) standard deviation.
    n = len(values)
    deviation = math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    widest = AGREED * n * (n - 1) / 2 / deviation
    return slope(places, values, min(wider, max(widest, z)))


def _correlation_of_neighbours(values: list[float]) -> float:
    """At least 0, and at most 0.9: an interval is then 4.4 times as wide."""
    centre = sum(values) / len(values)
    distances = [value - centre for value in values]
    variance = sum(distance**2 for distance in distances)
    if not variance > 0:
        return 0.0
    covariance = sum(before * after for before, after in pairwise(distances))
    return min(max(covariance / variance, 0.0), 0.9)


def _block(values: F64) -> Block:
    mean = values.mean()
    squares = ((values - mean) ** 2).sum()
    return Block(len(values), 0.0, float(mean), float(squares))
