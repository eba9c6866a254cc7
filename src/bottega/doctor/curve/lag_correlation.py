"""Whether the numbers of a stream are drawn independently or are a running mean, found in constant memory."""

from __future__ import annotations

import math

import numpy as np

from bottega.doctor.losses import F64

INDEPENDENT = -0.56
"""Neighbouring second differences of independent numbers correlate by -2/3, whatever slow course they follow, for that
is gone from them; those of a running mean by -1/2. A few hundred tell them apart."""

MIN_NUMBERS = 200
"""Numbers, at the least: the correlation of so many is known to about 0.04."""


class LagCorrelation:
    """The correlation of neighbouring numbers, from sums over every four of them."""

    def __init__(self) -> None:
        self._last: F64 = np.empty(0)  # three numbers, which the next ones are neighbours of
        self._count = 0
        self._first = np.zeros(2)  # of first differences: sum of squares, sum of products of neighbours
        self._second = np.zeros(2)  # the same of second differences

    def add(self, values: F64) -> None:
        """The next numbers, [N]."""
        values = np.concatenate([self._last, values])
        # each product is counted once, whatever batches the numbers come in: the three numbers before belong to it
        first = np.diff(values)
        second = np.diff(first)
        self._last = values[-3:]
        self._count += max(len(values) - 3, 0)
        self._first += first[1:-1] @ first[1:-1], first[1:-1] @ first[2:]
        self._second += second[:-1] @ second[:-1], second[:-1] @ second[1:]

    @property
    def correlation(self) -> float:
        """Of neighbours, as in an autoregressive noise r: 0 where they are independent, to 0.99 in a running mean.
        First differences of such a noise correlate by -(1 - r)/2."""
        squares, products = map(float, self._first)
        squares_of_second, products_of_second = map(float, self._second)
        # a constant loss has no differences, one that blew up has infinite ones: both would divide to NaN
        if self._count < MIN_NUMBERS or not 0 < squares < math.inf or not 0 < squares_of_second < math.inf:
            return 0.0
        if products_of_second / squares_of_second < INDEPENDENT:
            return 0.0
        return min(max(1 + 2 * products / squares, 0.0), 0.99)
