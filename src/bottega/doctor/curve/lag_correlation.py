"""Whether the numbers of a stream are drawn independently or are a running mean, found in constant memory."""

from __future__ import annotations

import numpy as np

from bottega.doctor.losses import F64

INDEPENDENT = -0.56
"""Neighbouring second differences of independent numbers correlate by -2/3, whatever slow course they follow, for that
is gone from them; those of a running mean by -1/2. A few hundred tell them apart."""

MIN_NUMBERS = 200
"""Numbers, at the least: the correlation of so many is known to about 0.04."""

STRETCH = 128
"""Numbers whose spread is measured together."""

LEAST_STRETCH = 32
"""Fewer numbers at the end of the stream are left out: they have no spread worth the name."""

CLIP = 3.0
"""Differences count as this many standard deviations at the most. A sharp edge, as that of a spike or of a square wave,
has second differences h and -h: by -1/2, as a running mean's, and by its height it would outweigh all others."""

_NORMAL_MAD = 0.6745


class LagCorrelation:
    """The correlation of neighbouring numbers, from sums over stretches of the stream."""

    def __init__(self) -> None:
        self._rest: F64 = np.empty(0)  # numbers that fill no stretch yet
        self._count = 0
        self._sums = np.zeros(4)  # of first, then of second differences: squares, products of neighbours

    def add(self, values: F64) -> None:
        """The next numbers, [N]."""
        self._count += len(values)
        rest = np.concatenate([self._rest, values])
        whole = len(rest) // STRETCH * STRETCH
        if whole:
            self._sums += _sums(rest[:whole].reshape(-1, STRETCH))
        self._rest = rest[whole:]

    @property
    def correlation(self) -> float:
        """Of neighbours, as in an autoregressive noise r: 0 where they are independent, to 0.99 in a running mean.
        First differences of such a noise correlate by -(1 - r)/2."""
        sums = self._sums
        if len(self._rest) >= LEAST_STRETCH:
            sums = sums + _sums(self._rest[None])
        squares, products, squares_of_second, products_of_second = map(float, sums)
        # a constant loss has no differences
        if self._count < MIN_NUMBERS or not squares > 0 or not squares_of_second > 0:
            return 0.0
        if products_of_second / squares_of_second < INDEPENDENT:
            return 0.0
        return min(max(1 + 2 * products / squares, 0.0), 0.99)


def _sums(stretches: F64) -> F64:
    """Squares and products of neighbours of the first differences, then of the second, each in its stretch's own
    spread, [4]. stretches: [K, N]."""
    first = np.diff(stretches, axis=1)
    found = np.zeros((4, len(stretches)))
    for row, differences in ((0, first), (2, np.diff(first, axis=1))):
        spread = np.median(np.abs(differences), axis=1, keepdims=True) / _NORMAL_MAD
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            clipped = np.clip(differences / spread, -CLIP, CLIP)
        # as many products as squares, or their ratio would lean towards zero
        found[row] = (clipped[:, :-1] ** 2).sum(axis=1)
        found[row + 1] = (clipped[:, :-1] * clipped[:, 1:]).sum(axis=1)
    usable = np.isfinite(found).all(axis=0)  # a constant stretch has no spread, and one that blew up no number for it
    sums: F64 = found[:, usable].sum(axis=1)
    return sums
