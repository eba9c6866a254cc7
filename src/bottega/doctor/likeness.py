"""Whether the numbers of a stream are drawn anew each time or are a running mean, told in constant memory."""

from __future__ import annotations

import math

import numpy as np

from bottega.doctor.logs import F64

DRAWN_ANEW = -0.56
"""Neighbouring second differences of numbers that are drawn anew correlate by -2/3, whatever slow course they follow,
for that is gone from them; those of a running mean by -1/2. A few hundred tell them apart."""

FEWEST = 200
"""Numbers, at the least: the correlation of so many is known to about 0.04."""


class Likeness:
    """Sums over every four neighbouring numbers."""

    def __init__(self) -> None:
        self._last: F64 = np.empty(0)
        self._count = 0
        self._sums = np.zeros(4)  # of first and second differences: squares, products of neighbours

    def take(self, values: F64) -> None:
        """The next numbers. [N]"""
        values = np.concatenate([self._last, values])
        first = np.diff(values)
        second = np.diff(first)
        self._last, self._count = values[-3:], self._count + max(len(values) - 3, 0)
        for place, (a, b) in enumerate(((first[1:-1], first[2:]), (second[:-1], second[1:]))):
            self._sums[2 * place : 2 * place + 2] += a @ a, a @ b

    @property
    def correlation(self) -> float:
        """Of neighbours, as in an autoregressive noise r: 0 where they are drawn anew, to 0.99 in a running mean. First
        differences of such a noise correlate by -(1 - r)/2."""
        squares, products, squares_of_second, products_of_second = map(float, self._sums)
        if self._count < FEWEST or not 0 < squares < math.inf or not 0 < squares_of_second < math.inf:
            return 0.0
        if products_of_second / squares_of_second < DRAWN_ANEW:
            return 0.0
        return min(max(1 + 2 * products / squares, 0.0), 0.99)
