"""Whether a noisy stream of numbers rises or falls, told in bounded memory and never by eye.

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

PARTS = 8
"""Windows that a stream is cut into to compare its stretches: eighths of what has been seen."""

FEWEST = 25
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

LEAST = 0.002
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
        return Estimate(*(math.exp(min(x, 700.0)) for x in (self.value, self.low, self.high)))


@dataclass(slots=True)
class Block:
    """Neighbouring numbers of a stream: how many, their mean step, their mean, their squared deviations from it."""

    count: int
    step: float
    mean: float
    squares: float = 0.0

    def take(self, step: float, value: float) -> None:
        """One number more. Welford 1962."""
        self.count += 1
        apart = value - self.mean
        self.step += (step - self.step) / self.count
        self.mean += apart / self.count
        self.squares += apart * (value - self.mean)

    def merged(self, other: Block) -> Block:
        """Both as one. Chan, Golub & LeVeque 1983, eq. 2.1."""
        count = self.count + other.count
        share, apart = other.count / count, other.mean - self.mean
        return Block(
            count,
            self.step + share * (other.step - self.step),
            self.mean + share * apart,
            self.squares + other.squares + self.count * share * apart * apart,
        )


class Blocks:
    """A stream of numbers as at most `BLOCKS` blocks; what it holds depends on the numbers alone, so a stream that is
    read again gives the same."""

    def __init__(self) -> None:
        self.size = 1
        self.blocks: list[Block] = []

    def add(self, step: int, value: float) -> None:
        """One more number, which must be finite, of a later step than those before."""
        if self.blocks and self.blocks[-1].count < self.size:
            self.blocks[-1].take(step, value)
            return
        self._room()
        self.blocks.append(Block(1, float(step), value))

    def extend(self, steps: NDArray[np.float64], values: NDArray[np.float64]) -> None:
        """Many at once, [N] each: to rounding, the blocks that adding them one after another makes."""
        at = 0
        while at < len(values):
            if not self.blocks or self.blocks[-1].count == self.size:
                self._room()
                self.blocks.append(Block(0, 0.0, 0.0))
            end = at + self.size - self.blocks[-1].count
            part, mean = values[at:end], float(values[at:end].mean())
            more = Block(len(part), float(steps[at:end].mean()), mean, float(((part - mean) ** 2).sum()))
            self.blocks[-1] = self.blocks[-1].merged(more)
            at = end

    def _room(self) -> None:
        """Halve the blocks where one more would be too many."""
        if len(self.blocks) == BLOCKS:
            self.blocks = [a.merged(b) for a, b in zip(self.blocks[::2], self.blocks[1::2], strict=True)]
            self.size *= 2

    @property
    def count(self) -> int:
        """Numbers seen."""
        return sum(block.count for block in self.blocks)

    def windows(self) -> list[Block]:
        """The stream in eighths, oldest first; empty while one of them would hold less than `FEWEST` numbers."""
        edges = [i * len(self.blocks) // PARTS for i in range(PARTS + 1)]
        cut = [self.blocks[a:b] for a, b in pairwise(edges)]
        if any(sum(block.count for block in part) < FEWEST for part in cut):
            return []
        return [reduce(Block.merged, part) for part in cut]

    def ends(self, lowest: float) -> dict[str, Block]:
        """The last sixteenth and thirty-second of the stream, or `FEWEST` numbers: each where it surely is higher than
        what came before it, and than every block since the step `lowest`, as the top of a swing is not."""
        found = {}
        for name, part in (("sixteenth", 16), ("thirty-second", 32)):
            cut = max(len(self.blocks) // part, 1)
            while sum(block.count for block in self.blocks[-cut:]) < FEWEST and cut < len(self.blocks):
                cut += 1
            if cut > len(self.blocks) // PARTS:
                continue
            before, last = (reduce(Block.merged, b) for b in (self.blocks[-2 * cut : -cut], self.blocks[-cut:]))
            highest = max((b.mean for b in self.blocks[:-cut] if b.step > lowest), default=math.inf)
            if last.mean > highest and change(before, last).low > 0:
                found[name] = last
        return found

    def since(self, step: float) -> list[Block]:
        """The blocks whose mean step lies after `step`."""
        return [block for block in self.blocks if block.step > step]


def change(before: Block, after: Block, z: float = Z99) -> Estimate:
    """Mean of `after` less that of `before`, with its normal interval (Welch's standard error)."""
    error = math.sqrt(sum(b.squares / max(b.count - 1, 1) / b.count for b in (before, after)))
    value = after.mean - before.mean
    return Estimate(value, value - z * error, value + z * error)


def slope(steps: Sequence[float], values: Sequence[float], z: float = Z95) -> Estimate:
    """Theil–Sen slope, the median of the slopes of all pairs, with the interval of Sen 1968 (ties not corrected).

    steps, rising, and values have the same length, two at least. One wild value in four does not move it much, and no
    normal noise is assumed; noise that lasts from one value to the next makes the interval too narrow.
    """
    n = len(values)
    if n < 2 or len(steps) != n:
        raise ValueError(f"a slope needs two points and as many steps as values, received {len(steps)} and {n}")
    pairs = sorted((values[j] - values[i]) / (steps[j] - steps[i]) for i in range(n) for j in range(i + 1, n))
    total = len(pairs)
    spread = z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    if spread > total:  # no order of so few values is as unlikely as that
        return Estimate(median(pairs), -math.inf, math.inf)
    low = max(round((total - spread) / 2) - 1, 0)
    high = min(round((total + spread) / 2), total - 1)
    return Estimate(median(pairs), pairs[low], pairs[high])


@dataclass(frozen=True)
class Trend:
    """How a stream changes over a window, from step `first` to `last`, seen at `points` numbers.

    change: over the whole window, in the stream's own unit. direction: rising, flat, falling or undecided.
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
        nought out. Falling: that of 99.9 % does, and the change matters, for falling accuses, and is asked for again
        and again while a run goes on. Undecided: none of these.
        """
        window = stream.since(since)
        if len(window) < TREND_POINTS:
            return None
        values = [block.mean for block in window]
        steps, length = [block.step for block in window], window[-1].step - window[0].step
        moved, surer = (slope(steps, values, z).scaled(length) for z in (Z95, Z999))
        least = max(MATERIAL * abs(median(values)), LEAST)
        direction = "undecided"
        if -least < moved.low and moved.high < least:
            direction = "flat"
        elif moved.low > 0.0:
            direction = "rising"
        elif surer.high < 0.0 and moved.value < -least:
            direction = "falling"
        points = sum(block.count for block in window)
        return cls(moved, round(window[0].step), round(window[-1].step), points, direction)
