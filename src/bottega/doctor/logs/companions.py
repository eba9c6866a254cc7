"""Lines without a loss that hold what belongs to one: rate, gradient's norm, skipped steps.

DeepSpeed prints the rate in a line before that of the loss, and Megatron leaves the loss out of a step without one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from bottega.doctor.logs.lines import ROUNDED_TO_ZERO, LogLine
from bottega.doctor.logs.template import LineTemplate
from bottega.doctor.losses import F64

HEAD_MARKS = (b"lr", b"earning", b"rad", b"kip")
"""What such a line has, in the head of a log, where they are looked for: lr, learning rate, grad norm, skipped."""

MOST_LINES = 4096
"""Lines of the head that are looked at for one, where no loss comes: a log of millions may have none at all."""

_OVERFLOW = re.compile(rb"overflow.{0,80}skipping step|gradient overflow detected|skipping step.{0,80}loss scale", re.I)


def tells_an_overflow(line: bytes) -> bool:
    """Whether a float16 scaler skipped a step, as DeepSpeed, apex and fairseq say it."""
    return b"verflow" in line.lower() and _OVERFLOW.search(line) is not None


def is_companion(row: LogLine) -> bool:
    """Whether a line without a loss holds the rate or another column of a step that it names."""
    if row.loss is not None or row.validation is not None or row.held_out or row.step is None:
        return False
    return row.rate is not None or bool(row.sides)


class Companions:
    """Reads the companions of a block at once, as the first one was. Only such as have no mark of a loss, which are
    read line by line."""

    def __init__(self) -> None:
        self._template: LineTemplate | None = None

    def learn(self, line: bytes, row: LogLine) -> None:
        """Take a line for the form of them all."""
        if self._template is None and row.spans:
            template = LineTemplate(line, row, sides=True)
            if template.usable and not any(template.marks.values()):
                self._template = template

    def columns(self, block: bytes) -> Mapping[str, F64] | None:
        """Step, rate and the others by name, [N] each; None without any."""
        if self._template is None:
            return None
        texts = self._template.texts(block)
        if not texts.get("step"):
            return None
        columns = {}
        for name, values in texts.items():
            columns[name] = np.array([_number(text, name) for text in values])
        return columns


def _number(text: bytes, name: str) -> float:
    if name == "rate" and ROUNDED_TO_ZERO.fullmatch(text):
        return np.nan  # a small one, perhaps
    number = float(text)
    return number if name == "rate" or np.isfinite(number) else np.inf
