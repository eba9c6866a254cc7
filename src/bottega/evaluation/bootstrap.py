"""Intervals for scores of contents × styles: both are samples, so both are resampled.

Scores of 20 contents × 20 styles are not 400 samples: a hard content is hard in every style. Resampling contents and
styles independently of each other and taking the mean of the sub-matrix accounts for both (Owen 2007, "The pigeonhole
bootstrap"). Percentiles of so few contents or styles still cover too little (92 % for a nominal 95 % at 20 × 20), so
their levels are moved outward by the ratio of Student's t to the normal quantile (Hesterberg 2015, "What teachers
should know about the bootstrap", expanded percentile intervals).

Legend: C contents, S styles, B bootstrap draws. A cell without a score is NaN and is left out of every mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from bottega.evaluation.records import DifferenceRecord, EstimateRecord
from bottega.runtime.seeds import numpy_rng

Matrix = npt.NDArray[np.float64]  # [C, S]
Draws = npt.NDArray[np.float64]  # [B]

METHOD = "crossed bootstrap over contents and styles, expanded percentiles"
"""What the intervals are, in a few words, for reports."""


@dataclass(frozen=True)
class BootstrapEstimate:
    """A mean with its interval.

    Attributes:
        value: the mean.
        low, high: its interval; None where there are fewer than two contents or two styles, for one of either says
            nothing about others.
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
        }

    def difference_record(self) -> DifferenceRecord:
        """A difference as JSON."""
        return {
            **self.record(),
            "probability": self.probability,
            "probability_low": self.probability_low,
            "probability_high": self.probability_high,
        }


def crossed_mean(values: Matrix, *, draws: int = 2000, level: float = 0.95, seed: int = 0) -> BootstrapEstimate:
    """The mean of a crossed matrix of scores with its interval.

    Args:
        values: [C, S]; NaN marks a cell without a score, any other cell must be finite.
        draws: resampled matrices, at least 200.
        level: nominal coverage, a share.
        seed: of the draws; the same seed and shape give the same resampled indices.

    Raises:
        ValueError: no cell has a score, or one is infinite.
    """
    values = _without_empty_lines(values)
    present = ~np.isnan(values)
    contents, styles = values.shape
    value = float(values[present].mean())
    n = int(present.sum())
    if contents < 2 or styles < 2:
        return BootstrapEstimate(value, None, None, n, contents, styles)
    means = _resampled_means(values, draws, seed)  # [B]
    tail = _tail(1 - level, min(contents, styles))
    low, high = np.quantile(means, [tail, 1 - tail])
    return BootstrapEstimate(value, float(low), float(high), n, contents, styles)


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
    better = crossed_mean(wins, draws=draws, level=level, seed=seed)
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


def _resampled_means(values: Matrix, draws: int, seed: int) -> Draws:
    """Means of `draws` matrices whose rows and columns were drawn with replacement, independently, [B]."""
    contents, styles = values.shape
    rng = numpy_rng("crossed bootstrap", seed, contents, styles)
    # How often each was drawn, as floats for the products below.
    rows = rng.multinomial(contents, np.full(contents, 1 / contents), draws).astype(float)  # [B, C]
    columns = rng.multinomial(styles, np.full(styles, 1 / styles), draws).astype(float)  # [B, S]
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
