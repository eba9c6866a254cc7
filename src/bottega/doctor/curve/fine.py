"""A stream of numbers in bounded memory, each by itself as long as there are not too many."""

from __future__ import annotations

import numpy as np

from bottega.doctor.losses import F64

CELLS = 8192
"""Numbers that are kept; of a longer stream each cell holds two, four, eight … neighbours. 8192 of them, with their
steps and peaks, are 200 kB."""


class FineSeries:
    """The means of equally many neighbours, their largest, and the step of it. What it holds depends on the numbers
    alone, in whatever batches they come.

    count: numbers seen. size: numbers in a cell. num_infinite: those that were infinite, which are not kept; the same
    with `_at_end`: at the end without a break. first_infinite: the step of the first.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 1
        self.num_infinite = 0
        self.num_infinite_at_end = 0
        self.first_infinite: float | None = None
        self._cells: F64 = np.empty((3, 0))  # steps of the largest, means, the largest
        self._rest: F64 = np.empty((2, 0))  # steps and numbers that fill no cell yet

    def extend(self, steps: F64, values: F64) -> None:
        """The next numbers, [N] each; those that are NaN are not there."""
        there = ~np.isnan(values)
        if not there.any():
            return
        steps, values = steps[there], values[there]
        finite = np.isfinite(values)
        if not finite.all():
            if self.first_infinite is None:
                self.first_infinite = float(steps[np.argmin(finite)])
            self.num_infinite += int((~finite).sum())
        if finite.any():
            self.num_infinite_at_end = int(np.argmax(finite[::-1]))
        else:
            self.num_infinite_at_end += len(finite)
        self._keep(np.stack([steps[finite], values[finite]]))

    def _keep(self, numbers: F64) -> None:
        """numbers: [2, N], steps and values."""
        self.count += numbers.shape[1]
        rest = np.concatenate([self._rest, numbers], axis=1)
        while rest.shape[1] >= self.size:
            room = CELLS - self._cells.shape[1]
            if not room:
                self._cells = _in_pairs(self._cells)
                self.size *= 2
                continue
            taken = min(rest.shape[1] // self.size, room) * self.size
            self._cells = np.concatenate([self._cells, _as_cells(rest[:, :taken], self.size)], axis=1)
            rest = rest[:, taken:]
        self._rest = rest

    @property
    def steps(self) -> F64:
        """Of the largest number of each cell, [M]."""
        row: F64 = self._all[0]
        return row

    @property
    def means(self) -> F64:
        """Of each cell, [M]."""
        row: F64 = self._all[1]
        return row

    @property
    def peaks(self) -> F64:
        """The largest number of each cell, [M]."""
        row: F64 = self._all[2]
        return row

    @property
    def _all(self) -> F64:
        """The cells, with the last one that is not full where nothing else would be there of the stream's end."""
        if self._rest.shape[1] * 2 < self.size or not self._rest.shape[1]:
            return self._cells
        last = _as_cells(self._rest, self._rest.shape[1])
        return np.concatenate([self._cells, last], axis=1)


def _as_cells(numbers: F64, size: int) -> F64:
    """[2, N], N a multiple of the size, as [3, N / size]."""
    steps = numbers[0].reshape(-1, size)
    values = numbers[1].reshape(-1, size)
    rows = np.arange(len(values))
    largest = values.argmax(axis=1)
    return np.stack([steps[rows, largest], values.mean(axis=1), values[rows, largest]])


def _in_pairs(cells: F64) -> F64:
    """[3, 2 M] as [3, M]."""
    steps, means, peaks = cells.reshape(3, -1, 2)
    rows = np.arange(len(peaks))
    largest = peaks.argmax(axis=1)
    return np.stack([steps[rows, largest], means.mean(axis=1), peaks[rows, largest]])
