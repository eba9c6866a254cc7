"""Reads the log of any trainer: which file it is, what its lines say, the plan and the pace. It judges nothing.

`LogReader(path).batches()` gives the losses, `.summary()` all else. A line goes through `decode` (bytes to text),
`tables` and `documents` (other forms to lines), `lines` (a line to numbers) and `counter` (steps of the whole run).
"""

from __future__ import annotations

from bottega.doctor.logs.reader import LogReader
from bottega.doctor.logs.summary import LogSummary, TrainingLength

__all__ = ["LogReader", "LogSummary", "TrainingLength"]
