"""Whether a noisy stream of numbers rises or falls, in bounded memory and never by eye.

A stream is kept as at most `BLOCKS` blocks of equally many numbers. From them come a robust slope (Theil–Sen) and the
change between two windows, each with its interval; what to call them is for `bottega.training.diagnosis` to say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCKS = 64
"""Blocks kept of a stream. When one more is needed, neighbours are merged and each block holds twice as many."""

WINDOWS = 8
"""Windows that a stream is cut into to compare its stretches: eighths of what has been seen."""

MIN_WINDOW = 25
"""Numbers in a window, at the least, before two windows are compared: fewer give no variance worth the name."""

Z95 = 1.959964
"""Standard deviations to either end of a 95 % interval of a normal variable."""

Z99 = 2.575829
"""Standard deviations to either end of a 99 % interval of a normal variable."""

Z999 = 3.290527
"""Standard deviations to either end of a 99.9 % interval of a normal variable."""

TREND_POINTS = 6
"""Blocks in the window of a trend, at the least: with fewer, an interval of 95 % says next to nothing."""

MATERIAL = 0.05
"""A change over the window of a trend matters from this share of the stream's median on; below, it is flat."""

LEAST_CHANGE = 0.002
"""Below this no change matters, however small the median: of a gain, 0.2 % of the frozen base's loss."""


@dataclass(frozen=True)
class Estimate:
    """A value and the two ends of its interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Estimate:
        """The same times a factor, which is not negative."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high)

    def exp(self) -> Estimate:
        """From a difference of logarithms to a ratio."""
        return Estimate(_exp(self.value), _exp(self.low), _exp(self.high))


def _exp(logarithm: float) -> float:
    return math.exp(min(logarithm, 700.0))  # e^710 is no float64 any more


@dataclass(slots=True)
class Block:
    """Neighbouring numbers of a stream: how many, their mean step, their mean, their squared deviations from it."""

    count: int
    step: float
    mean: float
    squares: float = 0.0

    def take(self, step: float, value: float) -> None:
        """Add one number. Welford 1962."""
        self.count += 1
        difference = value - self.mean
        self.step += (step - self.step) / self.count
        self.mean += difference / self.count
        self.squares += difference * (value - self.mean)

    def merged(self, other: Block) -> Block:
        """Both as one. Chan, Golub & LeVeque 1983, eq. 2.1."""
        count = self.count + other.count
        share = other.count / count
        difference = other.mean - self.mean
        return Block(
            count,
            self.step + share * (other.step - self.step),
            self.mean + share * difference,
            self.squares + other.squares + self.count * share * difference * difference,
        )


class Blocks:
    """A stream of numbers as at most `BLOCKS` blocks; what it holds depends on the numbers alone, so a stream that is
    read again gives the same."""

    def __init__(self) -> None:
        self.size = 1
        self.blocks: list[Block] = []

    def add(self, step: int, value: float) -> None:
        """Add one number, which must be finite, of a later step than those before."""
        if self.blocks and self.blocks[-1].count < self.size:
            self.blocks[-1].take(step, value)
            return
        self._make_room()
        self.blocks.append(Block(1, float(step), value))

    def extend(self, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Add many at once, [N] each: to rounding, the blocks that adding them one after another makes."""
        at = 0
        while at < len(values):
            if not self.blocks or self.blocks[-1].count == self.size:
                self._make_room()
                self.blocks.append(Block(0, 0.0, 0.0))
            end = at + self.size - self.blocks[-1].count
            part = values[at:end]
            mean = float(part.mean())
            squares = float(((part - mean) ** 2).sum())
            added = Block(len(part), float(steps[at:end].mean()), mean, squares)
            self.blocks[-1] = self.blocks[-1].merged(added)
            at = end

    def _make_room(self) -> None:
        """Halve the number of blocks where one more would be too many."""
        if len(self.blocks) < BLOCKS:
            return
        pairs = zip(self.blocks[::2], self.blocks[1::2], strict=True)
        self.blocks = [earlier.merged(later) for earlier, later in pairs]
        self.size *= 2

    @property
    def count(self) -> int:
        """Numbers seen."""
        return _count(self.blocks)

    def windows(self) -> list[Block]:
        """The stream in eighths, oldest first; empty while one of them would hold less than `MIN_WINDOW` numbers."""
        edges = [i * len(self.blocks) // WINDOWS for i in range(WINDOWS + 1)]
        windows: list[Block] = []
        for first, end in pairwise(edges):
            part = self.blocks[first:end]
            if _count(part) < MIN_WINDOW:
                return []
            windows.append(reduce(Block.merged, part))
        return windows

    def ends(self, lowest: float) -> dict[str, Block]:
        """The last sixteenth and thirty-second of the stream, or `MIN_WINDOW` numbers: each where it is significantly
        higher than what came before it, and than every block since the step `lowest`, as the top of a swing is not."""
        found: dict[str, Block] = {}
        for name, part in (("sixteenth", 16), ("thirty-second", 32)):
            length = self._end_length(part)
            if length > len(self.blocks) // WINDOWS:
                continue
            before = reduce(Block.merged, self.blocks[-2 * length : -length])
            last = reduce(Block.merged, self.blocks[-length:])
            earlier = [block.mean for block in self.blocks[:-length] if block.step > lowest]
            if last.mean > max(earlier, default=math.inf) and change(before, last).low > 0:
                found[name] = last
        return found

    def _end_length(self, part: int) -> int:
        """Blocks at the end that are a `part`-th of the stream, or hold `MIN_WINDOW` numbers."""
        length = max(len(self.blocks) // part, 1)
        while length < len(self.blocks) and _count(self.blocks[-length:]) < MIN_WINDOW:
            length += 1
        return length

    def since(self, step: float) -> list[Block]:
        """The blocks whose mean step is after `step`."""
        return [block for block in self.blocks if block.step > step]


def change(before: Block, after: Block, z: float = Z99) -> Estimate:
    """Mean of `after` less that of `before`, with its normal interval (Welch's standard error)."""
    error = math.sqrt(_squared_error(before) + _squared_error(after))
    value = after.mean - before.mean
    return Estimate(value, value - z * error, value + z * error)


def _squared_error(block: Block) -> float:
    """The squared standard error of a block's mean."""
    variance = block.squares / max(block.count - 1, 1)
    return variance / block.count


def _count(blocks: Sequence[Block]) -> int:
    return sum(block.count for block in blocks)


def slope(steps: Sequence[float], values: Sequence[float], z: float = Z95) -> Estimate:
    """Theil–Sen slope, the median of the slopes of all pairs, with the interval of Sen 1968 (ties not corrected).

    One wild value in four does not move it much, and no normal noise is assumed; noise that lasts from one value to the
    next makes the interval too narrow.

    Args:
        steps: rising, [N], N at least two.
        values: [N].
        z: standard deviations to either end of the interval.

    Raises:
        ValueError: fewer than two points, or not as many steps as values.
    """
    n = len(values)
    if n < 2 or len(steps) != n:
        raise ValueError(f"a slope needs two points and as many steps as values, received {len(steps)} and {n}")
    slopes: list[float] = []
    for j in range(n):
        for i in range(j):
            slopes.append((values[j] - values[i]) / (steps[j] - steps[i]))
    slopes.sort()
    total = len(slopes)
    spread = z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    if spread > total:  # no order of so few values is as unlikely as that
        return Estimate(median(slopes), -math.inf, math.inf)
    low = max(round((total - spread) / 2) - 1, 0)
    high = min(round((total + spread) / 2), total - 1)
    return Estimate(median(slopes), slopes[low], slopes[high])


@dataclass(frozen=True)
class Trend:
    """How a stream changes over a window.

    Args:
        change: over the whole window, in the stream's own unit.
        first, last: steps between which it was seen.
        points: numbers in the window.
        direction: rising, flat, falling or undecided.
    """

    change: Estimate
    first: int
    last: int
    points: int
    direction: str

    @classmethod
    def of(cls, stream: Blocks, since: float) -> Trend | None:
        """From what came after the step `since`; None for fewer than `TREND_POINTS` blocks.

        Flat: the 95 % interval leaves no room for a change that matters, of `MATERIAL` of the median. Rising: it leaves
        zero out. Falling: that of 99.9 % does, and the change matters, for falling accuses, and is asked for again
        and again while a run lasts. Undecided: none of these.
        """
        window = stream.since(since)
        if len(window) < TREND_POINTS:
            return None
        values = [block.mean for block in window]
        steps = [block.step for block in window]
        length = steps[-1] - steps[0]
        moved = slope(steps, values, Z95).scaled(length)
        moved_999 = slope(steps, values, Z999).scaled(length)
        least = max(MATERIAL * abs(median(values)), LEAST_CHANGE)
        if -least < moved.low and moved.high < least:
            direction = "flat"
        elif moved.low > 0.0:
            direction = "rising"
        elif moved_999.high < 0.0 and moved.value < -least:
            direction = "falling"
        else:
            direction = "undecided"
        return cls(moved, round(steps[0]), round(steps[-1]), _count(window), direction)
