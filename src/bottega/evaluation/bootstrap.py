"""Intervals for scores of contents × styles: both are samples, so both are resampled.

Scores of 20 contents × 20 styles are not 400 samples: a hard content is hard in every style. Resampling contents and
styles independently of each other and taking the mean of the sub-matrix accounts for both (Owen 2007, "The pigeonhole
bootstrap"). Percentiles of so few contents or styles still cover too little (92 % for a nominal 95 % at 20 × 20), so
their levels are moved outward by the ratio of Student's t to the normal quantile (Hesterberg 2015, "What teachers
should know about the bootstrap", expanded percentile intervals).

With few contents or styles both go too far: resampling counts the single picture's noise twice, and the level lies at
1.2e-4 for 4 of them at 95 %. In simulations such intervals cover 97 to 98 % at 8 × 8 and 98 to 100 % at 4 × 20. So with
fewer than 20 of either the interval is that of random effects (`factors`), which covers 93 to 97 % there
(`benchmarks/interval_coverage.py` measures both).

Legend: C contents, S styles, B bootstrap draws. A cell without a score is NaN and is left out of every mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
from cachetools import LRUCache

from bottega.evaluation.factors import UNBOUNDED, crossed_seeds_mean
from bottega.evaluation.records import DifferenceRecord, EstimateRecord
from bottega.runtime.caching import get_or_compute
from bottega.runtime.seeds import numpy_rng

Matrix = npt.NDArray[np.float64]  # [C, S]
Draws = npt.NDArray[np.float64]  # [B]


def _bytes(counts: tuple[Matrix, Matrix]) -> int:
    return counts[0].nbytes + counts[1].nbytes


METHOD = "crossed bootstrap over contents and styles, expanded percentiles; random effects with fewer than 20 of either"
"""What the intervals are, in a few words, for reports."""

BEYOND = 20
"""Draws that must lie beyond each end of an interval: the end's own level is then known to a quarter."""

MOST_DRAWS = 400_000
"""For one interval; 20 contents at 99.9 % take 180 000. What would take more is left to random effects."""

FEWEST = 20
"""Contents and styles from which on the bootstrap covers what it says."""

_BLOCK_VALUES = 4_000_000  # counts that are drawn at once: 32 MB
_KEPT_BYTES = 64_000_000  # counts kept for the next interval: all metrics of a table have the same few shapes
_kept: LRUCache[tuple[int, ...], tuple[Matrix, Matrix]] = LRUCache(_KEPT_BYTES, getsizeof=_bytes)


@dataclass(frozen=True)
class BootstrapEstimate:
    """A mean with its interval.

    Attributes:
        value: the mean.
        low, high: its interval; None where it is not known.
        no_interval: why it can't; empty where it can.
        draws: resampled matrices that the interval was made of; 0 without one, and where it is of random effects.
        n: cells with a score.
        contents, styles: rows and columns with a score.
        probability: of differences only: the share of cells in which the first method has the larger score, ties
            counted half (rliable's probability of improvement), with its own interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    contents: int
    styles: int
    draws: int = 0
    no_interval: str = ""
    probability: float | None = None
    probability_low: float | None = None
    probability_high: float | None = None

    def record(self) -> EstimateRecord:
        """A mean as JSON."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "contents": self.contents,
            "styles": self.styles,
            "draws": self.draws,
            "no_interval": self.no_interval,
        }

    def difference_record(self) -> DifferenceRecord:
        """A difference as JSON."""
        return {
            **self.record(),
            "probability": self.probability,
            "probability_low": self.probability_low,
            "probability_high": self.probability_high,
        }


def crossed_mean(
    values: Matrix,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
    within: tuple[float, float] = UNBOUNDED,
) -> BootstrapEstimate:
    """The mean of a crossed matrix of scores with its interval.

    Args:
        values: [C, S]; NaN marks a cell without a score, any other cell must be finite.
        draws: resampled matrices, at least 200; more are drawn where the level needs them.
        level: nominal coverage, a share.
        seed: of the draws; the same seed and shape give the same resampled indices.
        within: what the mean can be, see `factors.crossed_seeds_mean`.

    Raises:
        ValueError: no cell has a score, or one is infinite.
    """
    values = _without_empty_lines(values)
    present = ~np.isnan(values)
    contents, styles = values.shape
    value = float(values[present].mean())
    n = int(present.sum())
    if contents < 2 or styles < 2:
        untold = f"{contents} contents × {styles} styles: one of either says nothing about others"
        return BootstrapEstimate(value, None, None, n, contents, styles, no_interval=untold)
    tail = _tail(1 - level, min(contents, styles))
    if min(contents, styles) < FEWEST or tail * MOST_DRAWS < BEYOND:
        return _of_random_effects(values, value, n, level, within)
    means = _resampled_means(values, max(draws, math.ceil(BEYOND / tail)), seed)  # [B]
    low, high = np.quantile(means, [tail, 1 - tail])
    return BootstrapEstimate(value, float(low), float(high), n, contents, styles, draws=len(means))


def crossed_difference(
    first: Matrix, second: Matrix, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> BootstrapEstimate:
    """Mean of `first - second`, paired cell by cell, with its interval and the probability that `first` is larger.

    Only cells that both have count, and both are resampled with the same indices, which makes the interval several
    times narrower than that of two unpaired means.

    Raises:
        ValueError: the shapes differ, or no cell has both scores.
    """
    if first.shape != second.shape:
        raise ValueError(f"paired scores must be of the same contents × styles, got {first.shape} and {second.shape}")
    gap = first - second
    mean = crossed_mean(gap, draws=draws, level=level, seed=seed)
    wins = np.where(np.isnan(gap), np.nan, (gap > 0) + 0.5 * (gap == 0))
    better = crossed_mean(wins, draws=draws, level=level, seed=seed, within=(0.0, 1.0))
    return replace(mean, probability=better.value, probability_low=better.low, probability_high=better.high)


def _without_empty_lines(values: Matrix) -> Matrix:
    present = ~np.isnan(values)
    if not present.any():
        raise ValueError(
            f"a mean needs at least one score, got a {values.shape[0]} × {values.shape[1]} matrix without any"
        )
    if np.isinf(values).any():
        raise ValueError("scores must be finite or absent (NaN), got an infinite one; find the picture it came from")
    return values[present.any(1)][:, present.any(0)]


def _of_random_effects(
    values: Matrix, value: float, n: int, level: float, within: tuple[float, float]
) -> BootstrapEstimate:
    """The interval of `factors` around the mean of all scores; without width where all are equal, as resampling has."""
    contents, styles = values.shape
    if np.nanmin(values) == np.nanmax(values):
        return BootstrapEstimate(value, value, value, n, contents, styles)
    found = crossed_seeds_mean(values[..., None], level=level)
    if found.standard_error is None:
        return BootstrapEstimate(value, None, None, n, contents, styles, no_interval=found.no_interval)
    half = found.standard_error * found.multiplier(level)
    low, high = max(value - half, within[0]), min(value + half, within[1])
    return BootstrapEstimate(value, low, high, n, contents, styles)


def _resampled_means(values: Matrix, draws: int, seed: int) -> Draws:
    """Means of `draws` matrices whose rows and columns were drawn with replacement, independently, [B]."""
    contents, styles = values.shape
    at_once = max(1, min(draws, _BLOCK_VALUES // (contents + styles)))
    means: list[Draws] = []
    for block in range(math.ceil(draws / at_once)):
        count = min(at_once, draws - block * at_once)
        means.append(_means_of(values, *_drawn_counts(seed, contents, styles, block, count)))
    return np.concatenate(means)


def _drawn_counts(seed: int, contents: int, styles: int, block: int, count: int) -> tuple[Matrix, Matrix]:
    """How often each content and each style was drawn in a block of `count` draws, [B, C] and [B, S]."""

    def draw() -> tuple[Matrix, Matrix]:
        rng = numpy_rng("crossed bootstrap", seed, contents, styles, *([block] if block else []))
        # As floats, for the products of `_means_of`.
        rows = rng.multinomial(contents, np.full(contents, 1 / contents), count).astype(float)
        columns = rng.multinomial(styles, np.full(styles, 1 / styles), count).astype(float)
        return rows, columns

    return get_or_compute(_kept, (seed, contents, styles, block, count), draw)


def _means_of(values: Matrix, rows: Matrix, columns: Matrix) -> Draws:
    """The means of the matrices that these counts stand for, [B]."""
    present = ~np.isnan(values)
    filled = np.where(present, values, 0.0)
    # Two products instead of B sub-matrices: the sum of a drawn matrix is rowsᵀ · values · columns.
    sums = ((rows @ filled) * columns).sum(1)  # [B, C] @ [C, S] -> [B, S] -> [B]
    counts = ((rows @ present.astype(np.float64)) * columns).sum(1)
    # A sparse matrix can be drawn without a single score: such a draw says nothing and is left out.
    some = counts > 0
    means: Draws = sums[some] / counts[some]
    return means


def _tail(miss: float, n: int) -> float:
    """The share to cut at either end so that `n` samples cover `1 - miss` (Hesterberg 2015, expanded percentile)."""
    quantile = _student(1 - miss / 2, n - 1)
    return NormalDist().cdf(-math.sqrt(n / (n - 1)) * quantile)


def _student(p: float, nu: int) -> float:
    """Quantile of Student's t: closed forms for 1 and 2 degrees of freedom, else a series in the normal quantile."""
    if nu == 1:
        return math.tan(math.pi * (p - 0.5))
    if nu == 2:
        return (2 * p - 1) * math.sqrt(2 / (4 * p * (1 - p)))
    # Abramowitz and Stegun 26.7.5; at p = 0.975 it is off by less than 0.2 % from 4 degrees on.
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    series: float = z + sum(term / nu ** (k + 1) for k, term in enumerate(terms))
    return series
