"""A figure with its 95 % interval, from what each picture contributes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from bottega.runtime.seeds import numpy_rng

LEVEL = 0.95
_RESAMPLES = 2_000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GateFigure:
    """A mean over pictures.

    Attributes:
        value: the mean.
        low: lower bound of the 95 % interval.
        high: upper bound.
        pictures: how many it was measured on.
    """

    value: float
    low: float
    high: float
    pictures: int


def share(hits: npt.ArrayLike) -> GateFigure:
    """Share of pictures that hit (bool [N]), with Wilson's interval, which does not shrink to a point at 0 and 1."""
    outcomes = np.asarray(hits, np.float64)
    count, value = len(outcomes), float(outcomes.mean())
    z = float(norm.ppf(0.5 + LEVEL / 2))
    middle = (value + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(value * (1 - value) / count + z * z / (4 * count * count))
    return GateFigure(value, float(middle - half), float(middle + half), count)


def mean(sums: npt.ArrayLike, counts: npt.ArrayLike | None = None) -> GateFigure:
    """Mean over items, some of which share a picture: pictures are resampled with all of their items.

    Args:
        sums: of each picture's items, [N].
        counts: how many items each picture has, [N]; None: one each.
    """
    totals = np.asarray(sums, np.float64)
    numbers = np.ones_like(totals) if counts is None else np.asarray(counts, np.float64)
    drawn = numpy_rng("gate interval", len(totals)).integers(len(totals), size=(_RESAMPLES, len(totals)))
    means: Floats = totals[drawn].sum(1) / numbers[drawn].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return GateFigure(float(totals.sum() / numbers.sum()), float(low), float(high), len(totals))
