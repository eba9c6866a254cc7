"""The form of a log's loss lines, learned from one of them, so that thousands are read by one regular expression."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from bottega.doctor.logs.lines import MARKS, LogLine, count_mark
from bottega.doctor.losses import F64

_TOKEN = re.compile(rb"[-+]?\d[\d.]*(?:e[-+]?\d+)?|\bnan\b|\binf\b", re.I)
_WANTED_NUMBER = rb"([0-9nainfNAINF.e+-]+)"
_OTHER_NUMBER = rb"[\w.+-]+"

_MAIN = ("loss", "step", "epoch")

LEAST_TEXT = 3
"""Bytes that a line must have up to its last number that counts: a shorter form would fit anything."""


class LineTemplate:
    """The form of a loss line.

    Up to its last number that counts a line must agree but for its numbers and the width of its spaces.

    Args:
        line: a loss line.
        row: what was read of it; its spans say which numbers count.
        sides: the columns beside the loss count, too, which takes longer.
    """

    def __init__(self, line: bytes, row: LogLine, *, sides: bool) -> None:
        # The line as a regular expression: its numbers become groups, what is between them stays as it is.
        names: dict[tuple[int, int], str] = {}
        for field, span in row.spans.items():
            if sides or field in _MAIN:
                names[span] = field
        end = max(stop for _, stop in names)
        pieces: list[bytes] = []
        self.fields: list[str] = []
        at = 0
        for token in _TOKEN.finditer(line[:end]):
            between = re.escape(line[at : token.start()])
            pieces.append(re.sub(rb"(?:\\ )+", rb" +", between))
            name = names.get(token.span())
            if name is not None:
                self.fields.append(name)
                pieces.append(_WANTED_NUMBER)
            else:
                pieces.append(_OTHER_NUMBER)
            at = token.end()
        self._pattern = re.compile(b"".join(pieces) + rb"[^\n]*\n")
        self.marks = {mark: line.count(mark) for mark in MARKS}
        # a number that the tokens miss, such as 1,234, can't be read this way
        self.usable = len(self.fields) == len(names) and len(line[:end].strip()) > LEAST_TEXT

    def texts(self, block: bytes) -> dict[str, list[bytes]]:
        """The fields of all lines of this form, as they are written."""
        parts = self._pattern.split(block)
        return {name: parts[place :: len(self.fields) + 1] for place, name in enumerate(self.fields, 1)}

    def columns(self, block: bytes) -> dict[str, F64] | None:
        """The fields of all loss lines of a block by name, [N] each; None where a line is in it that is not of this
        form and might say something, or where a loss, a step, an epoch or a rate is zero: a loss of zero may stand for
        a NaN."""
        # [between, field, …, between, field, …, rest]; not findall, whose tuple a line takes a quarter of the time.
        parts = self._pattern.split(block)
        stride = len(self.fields) + 1
        count = len(parts) // stride
        if not count:
            return None

        # The form must account for every mark of a loss or an epoch in the block, or a line was missed. Where every
        # line has the form, only a second loss in one of them could be.
        marks = MARKS if any(parts[::stride]) else MARKS[:1]
        for mark in marks:
            if count_mark(block, mark) != self.marks[mark] * count:
                return None

        columns: dict[str, F64] = {}
        for place, name in enumerate(self.fields, 1):
            values = _numbers(parts[place::stride])
            if values is None:
                return None
            # A rate of zero may be a small one rounded, which shows in its digits.
            if name in (*_MAIN, "rate") and not np.all(values):
                return None
            columns[name] = values
        return columns


def _numbers(texts: list[bytes]) -> F64 | None:
    """The numbers as floats, [N]; None where one of them is no number.

    By Arrow, which takes a quarter of the time of NumPy's fromstring; they are equal to the last bit.
    """
    try:
        values: F64 = pa.array(texts).cast(pa.string()).cast(pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        return None
    return values
