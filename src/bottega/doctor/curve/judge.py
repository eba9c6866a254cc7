"""What can be said of a loss curve, with the confidence to accuse a run.

Each function looks for one finding and returns it, or None. `judge` asks them all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import mean, median, stdev

import numpy as np

from bottega.doctor.curve.columns import judge_columns, rate_rose, unjudged_columns
from bottega.doctor.curve.loss_curve import FLAT, MIN_LOSSES, NEAR, SWING, LossCurve, Move
from bottega.doctor.curve.spikes import MIN_LINES, Spikes, find_spikes
from bottega.doctor.losses import F64, Unit
from bottega.runtime.findings import LOSS_BLOWN, LOSS_RISE, Finding, Severity, by_severity
from bottega.training.trends import TREND_POINTS, Z99, Z999, Block, Blocks, Estimate, change, slope

REVERSALS = 5
"""Turns that make an oscillation. One spike makes two, two spikes four: those are accidents."""

VALIDATION_RISE = 1.05
"""An overfitting run's last validations are all above its best by this factor, besides rising significantly."""

_NORMAL_MAD = 0.6745
"""The median of a normal variable's distance from zero, in standard deviations."""


def judge(
    curve: LossCurve,
    unit: Unit,
    *,
    validations: Sequence[tuple[float, float]] = (),
    others: Sequence[Finding] = (),
    is_average: bool = False,
) -> list[Finding]:
    """All that is so, the most severe first; never empty. What to do about it is left to `bottega.doctor.advice`.

    Args:
        curve: the losses, all of them.
        unit: what they are counted by.
        validations: (step, loss) of each.
        others: what was found elsewhere.
        is_average: the log holds the trainer's running mean, whose neighbours are nearly the same.
    """
    move = curve.move()
    # by a tenth at the least: of flat losses one log in thirty falls a little, as chance has it
    falls = move is not None and move.direction == "falling" and move.change.high < -FLAT
    # neighbours in a running mean are alike, so that chance alone makes them leap together
    spikes = Spikes((), curve.fine.means) if is_average else find_spikes(curve.fine)
    logs = _without_spikes(curve, spikes)
    found = by_severity(
        [
            _not_finite(curve, unit),
            _diverging(curve, logs, move, unit),
            _overfitting(validations, move, unit),
            _oscillating(curve, logs, unit, is_average=is_average),
            _jumped(curve, unit),
            *judge_columns(curve, unit, falls=falls),
            _spiked(spikes, unit),
            *others,
            _end_of_the_curve(curve, move, unit),
        ]
    )
    # "not enough to tell" is left out beside any finding that is certain
    return [finding for finding in found if finding.severity > Severity.UNKNOWN] or found


def unjudged(
    curve: LossCurve, *, validations: Sequence[tuple[float, float]], is_average: bool
) -> list[tuple[str, str]]:
    """What `judge` could not look at, each with the reason: a fault of that kind may be there.

    Args:
        curve: the losses, all of them.
        validations: (step, loss) of each.
        is_average: the log holds the trainer's running mean.
    """
    found = _unjudged_course(curve)
    if len(validations) < TREND_POINTS:
        why = f"the log has {len(validations) or 'no'} validation losses; at least {TREND_POINTS} are needed"
        found.append(("overfitting", why))
    if is_average:
        found.append(("short spikes of the loss", "a running mean smooths them away"))
    elif curve.count < MIN_LINES:
        found.append(("short spikes of the loss", f"{curve.count} usable losses; at least {MIN_LINES} are needed"))
    elif curve.fine.size > 1:
        found.append(("spikes of single losses", f"of so long a log the means of {curve.fine.size} losses are kept"))
    return [*found, *unjudged_columns(curve)]


def _unjudged_course(curve: LossCurve) -> list[tuple[str, str]]:
    found = []
    if not curve.num_losses:
        found.append(("the course of the loss", "the log has no loss"))
    elif curve.count < MIN_LOSSES:
        found.append(("the course of the loss", f"{curve.count} usable losses; at least {MIN_LOSSES} are needed"))
    if curve.num_uncompared:
        why = f"{curve.num_uncompared} of them have fewer than {NEAR} losses before or after"
        found.append(("jumps at resumes", why))
    return found


def _without_spikes(curve: LossCurve, spikes: Spikes) -> Blocks:
    """The logarithms of the losses in blocks, those in spikes replaced by the level around them."""
    if not spikes.found:
        return curve.logs
    blocks = Blocks()
    size = curve.fine.size
    places: F64 = (np.arange(len(spikes.without), dtype=np.float64) + 0.5) * size + 0.5
    blocks.extend(places, spikes.without)
    return blocks


def _spiked(spikes: Spikes, unit: Unit) -> Finding | None:
    if not spikes.found:
        return None
    worst = max(spikes.found, key=lambda spike: spike.factor)
    places = [f"{spike.first:.0f}" for spike in spikes.found[:8]]
    more = "" if len(spikes.found) <= len(places) else " …"
    count = "once" if len(spikes.found) == 1 else f"{len(spikes.found)} times"
    return Finding(
        "spiked",
        f"the loss leapt up {count} and came back, at {unit} {', '.join(places)}{more}; most by a factor of "
        f"{worst.factor:.3g}, from {unit} {worst.first:.0f} to {worst.last:.0f}",
    )


def _not_finite(curve: LossCurve, unit: Unit) -> Finding | None:
    if not curve.num_nonfinite:
        return None
    if curve.num_nonfinite_at_end == curve.num_nonfinite:
        since = "and none has been finite since"
    elif curve.num_nonfinite_at_end:
        since = f"{curve.num_nonfinite} in all, the last {curve.num_nonfinite_at_end} without a break"
    else:
        since = f"{curve.num_nonfinite} in all; the loss is finite again"
    at = f"{unit} {curve.first_nonfinite:.0f}"
    rose = rate_rose(curve, curve.first_nonfinite or 0.0)
    if rose is not None:
        since = f"while the learning rate still rose ({rose:.3g} times its first value), {since}"
    return Finding("not finite", f"the loss is NaN or infinite for the first time at {at}, {since}")


def _diverging(curve: LossCurve, logs: Blocks, move: Move | None, unit: Unit) -> Finding | None:
    """The end is significantly above the lowest stretch before it, and the loss still rises or has doubled."""
    # after a jump the loss is higher by the resume's doing: what followed it is in the trend alone
    windows = [] if curve.jumps else logs.windows()
    if windows:
        return _diverging_by_windows(curve, logs, windows, move, unit)
    if curve.count < MIN_LOSSES:
        return None
    return _diverging_by_trend(curve, move, unit)


def _diverging_by_windows(
    curve: LossCurve, logs: Blocks, windows: list[Block], move: Move | None, unit: Unit
) -> Finding | None:
    """The last eighth of the log, or a shorter end, is above the lowest eighth."""
    is_rising = move is not None and move.direction == "rising"
    lowest = min(windows[:-1], key=lambda window: window.mean)
    # the lowest of seven is low by chance: hence 99.9 %; a running mean has fewer numbers of its own
    lag = curve.lag.correlation
    z_of_an_average = Z999 * math.sqrt((1 + lag) / (1 - lag))
    ends = {"eighth": windows[-1], **logs.ends(lowest.step)}
    for name, last in ends.items():
        rise = change(lowest, last, Z999).exp()
        has_blown = rise.low > LOSS_BLOWN
        still_rises = is_rising or name == "sixteenth"
        if not has_blown and still_rises:
            has_blown = change(lowest, last, z_of_an_average).exp().low > LOSS_RISE
        if has_blown:
            where = f"around {unit} {curve.step_at(lowest.step):.0f}"
            evidence = f"the last {name} of the log lies {_times(rise)} above the lowest one, {where}"
            return Finding("diverging", evidence)
    return None


def _diverging_by_trend(curve: LossCurve, move: Move | None, unit: Unit) -> Finding | None:
    """Of a log with too few losses to compare its eighths, or with a jump in it."""
    values = _means(curve)
    early, late = values[:-3], values[-3:]
    if not curve.jumps:
        # that the three largest of twelve come last by chance happens once in 220 runs
        bar = max(*early, median(early) + math.log(LOSS_BLOWN))
        if min(late) > bar:
            factor = math.exp(median(late) - median(early))
            return Finding("diverging", f"the last three losses are the largest of all, {factor:.3g} times the median")
    if move is not None and move.direction == "rising" and move.change.low > math.log(LOSS_RISE):
        return Finding("diverging", f"{_span(move, unit)} the loss moves by {move}")
    return None


def _overfitting(validations: Sequence[tuple[float, float]], move: Move | None, unit: Unit) -> Finding | None:
    """Validation rises significantly, and is above its best, while the training loss does not rise."""
    if move is not None and move.direction == "rising":
        return None  # then the run itself goes wrong, which is another finding
    steps, losses = _usable(validations)
    window = losses[-max(TREND_POINTS, len(losses) // 2) :]
    if len(window) < TREND_POINTS:
        return None
    best = min(losses)
    best_step = steps[losses.index(best)]

    # a rise alone may be the noise's: the end must also be clear of the best, which is low by chance
    places = [float(place) for place in range(len(window))]
    rise = slope(places, window, Z99)
    if rise.low <= 0 or min(window[-3:]) < best + math.log(VALIDATION_RISE):
        return None
    above = math.expm1(median(window[-3:]) - best)
    return Finding(
        "overfitting",
        f"the validation loss was best, {math.exp(best):.4g}, at {unit} {best_step:.0f} and has risen "
        f"significantly since: by {above:.0%}, while the training loss does not",
    )


def _usable(validations: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Steps and logarithms of the losses that have one."""
    steps = []
    log_losses = []
    for step, loss in validations:
        if math.isfinite(loss) and loss > 0:
            steps.append(step)
            log_losses.append(math.log(loss))
    return steps, log_losses


@dataclass(frozen=True)
class Turn:
    """A turn of a curve: the block at which it was seen, and how far the curve has come back by then."""

    place: int
    size: float


def _oscillating(curve: LossCurve, logs: Blocks, unit: Unit, *, is_average: bool) -> Finding | None:
    """The blocks' means go up and down again and again, by more than their noise and by a quarter at least."""
    blocks = [block for block in logs.blocks if 2 * block.count >= logs.size]
    if len(blocks) < 2 * MIN_LOSSES:
        return None
    noise = _noise_of_blocks(blocks, logs.size, is_average=is_average)
    least = max(SWING, Z999 * math.sqrt(2) * noise)  # √2: a swing is the difference of two means
    turns = _turns([block.mean for block in blocks], least)
    # the first move is no turn yet; what ended in the first two thirds is over
    if len(turns) < REVERSALS + 1 or turns[-1].place < len(blocks) * 2 // 3:
        return None
    first, last = blocks[turns[0].place], blocks[turns[-1].place]
    factor = math.exp(median(turn.size for turn in turns))
    evidence = (
        f"between {unit} {curve.step_at(first.step):.0f} and {curve.step_at(last.step):.0f} the loss turned "
        f"{len(turns) - 1} times, each time by a factor of {factor:.2g} or so, beyond its noise"
    )
    return Finding("oscillating", evidence)


def _noise_of_blocks(blocks: list[Block], block_size: int, *, is_average: bool) -> float:
    """The standard error of a block's mean."""
    if block_size >= NEAR and not is_average:
        return math.sqrt(median(b.squares / (b.count - 1) / b.count for b in blocks))
    # A running mean hides its noise within a block, and few losses have no variance worth the name: the noise is then
    # taken from neighbours' differences, whose median no outlier moves.
    differences = [after.mean - before.mean for before, after in pairwise(blocks)]
    num_terms = 2  # independent means with the variance of one, which a difference sums
    if not is_average:  # differences of differences, so that slow swings are not counted: 1 + 4 + 1
        differences = [after - before for before, after in pairwise(differences)]
        num_terms = 6
    return median(map(abs, differences)) / _NORMAL_MAD / math.sqrt(num_terms)


def _turns(values: Sequence[float], least: float) -> list[Turn]:
    """Where a curve turns by more than `least`, its first move among them."""
    # The extremes since the last turn; a turn counts once the curve has come back from one by more than `least`.
    high = low = values[0]
    direction = 0  # 1 rising, -1 falling, 0 before the first move
    turns = []
    for place, value in enumerate(values):
        high, low = max(high, value), min(low, value)
        fell, rose = high - value, value - low
        if (direction >= 0 and fell > least) or (direction <= 0 and rose > least):
            direction = -1 if fell > rose else 1
            turns.append(Turn(place, max(fell, rose)))
            high = low = value
    return turns


def _jumped(curve: LossCurve, unit: Unit) -> Finding | None:
    if not curve.jumps:
        return None
    jump = max(curve.jumps, key=lambda jump: jump.size.low)
    return Finding(
        "resumed with a jump",
        f"after the resume at {unit} {jump.step:.0f} the loss is {_times(jump.size.exp())} what it was before",
    )


def _end_of_the_curve(curve: LossCurve, move: Move | None, unit: Unit) -> Finding:
    """How the loss moves at the end of the log."""
    if curve.num_nonpositive_at_end >= MIN_LOSSES:
        last = f"the last {curve.num_nonpositive_at_end} losses are zero or negative"
        return Finding("constant", f"{last}, which says nothing about the training")
    if not curve.num_losses:
        return Finding("not enough to tell", "the log has no loss")
    if curve.count < MIN_LOSSES:
        few = f"{curve.count} usable losses; at least {MIN_LOSSES} are needed, some hundreds are better"
        return Finding("not enough to tell", few)
    if curve.low == curve.high:
        return Finding("constant", f"all {curve.count} losses are exactly {curve.low:.6g}")
    if move is None or not _is_decided(move):
        return _undecided(curve, move, unit)
    evidence = f"{_span(move, unit)} the loss moved by {move}"
    if move.direction != "flat":
        return Finding(move.direction, evidence)
    if _first_fall(curve) < FLAT:
        return Finding("flat throughout", f"{evidence}; nor did it fall significantly before")
    return Finding("plateaued", evidence)


def _is_decided(move: Move) -> bool:
    """Whether a move is sure enough to report; to call a loss rising accuses the run, and takes more than others."""
    if move.direction == "rising":
        return move.surely_rises
    return move.direction != "undecided"


def _undecided(curve: LossCurve, move: Move | None, unit: Unit) -> Finding:
    why = "too few blocks"
    if move is not None:
        why = f"{_span(move, unit)} it moved by {move}, which leaves it open"
    fall = -math.expm1(-_first_fall(curve))
    if fall > 0.1:
        why += f"; from the beginning to the last half it fell, by {fall:.0%} at least"
    return Finding("not enough to tell", f"the loss is too noisy for its {curve.count} values: {why}")


def _first_fall(curve: LossCurve) -> float:
    """By how much the last half is below the first sixteenth of the log, or three blocks, at the least."""
    values = _means(curve)
    first = values[: max(len(values) // 16, 3)]
    last = values[len(values) // 2 :]
    # the noise of the last half for both: what falls scatters by its fall, too
    error = stdev(last) * math.sqrt(1 / len(first) + 1 / len(last))
    return mean(first) - mean(last) - Z99 * error


def _means(curve: LossCurve) -> list[float]:
    """Mean logarithms of the losses, of each block."""
    return [block.mean for block, _ in curve.whole_blocks()]


def _times(rise: Estimate) -> str:
    return f"{rise.value:.3g} times (at least {rise.low:.3g})"


def _span(move: Move, unit: Unit) -> str:
    return f"from {unit} {move.first:.0f} to {move.last:.0f}"
