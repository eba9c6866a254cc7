"""The JSON that a comparison of checkpoints writes: `checkpoints.json` and its parts."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

from bottega.evaluation.records import MetricRecord

Pays = Literal["yes", "no", "can't be seen"]
"""Whether training longer still pays."""


class CheckpointCell(TypedDict):
    """A mean over contents × styles with its interval.

    `low` and `high` are None where there is no interval, and `no_interval` says why; else that is empty.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    contents: int
    styles: int
    no_interval: str


class CheckpointRow(TypedDict):
    """A checkpoint's adapter, or the frozen base, whose step is 0.

    name: of the row, and of the folder of its pictures. file: of the adapter, relative to the training's folder.
    val_loss: None where it is not known. metrics: by name. behind: of each metric the best checkpoint minus this one,
    paired, at the corrected level; a metric's best itself, and the base, have none.
    """

    name: str
    step: int
    file: str
    sha256: str
    val_loss: float | None
    metrics: dict[str, CheckpointCell]
    behind: dict[str, CheckpointCell]


class BestCheckpoint(TypedDict):
    """The best checkpoint by a metric. surely: it is better than each other one, at the level that holds for all of
    these comparisons together. not_told_from: the steps that it is not surely better than."""

    step: int
    surely: bool
    not_told_from: list[int]


class CheckpointTrend(TypedDict):
    """What the last third of a training changed: the last checkpoint minus the one at two thirds, paired.

    gained: the last checkpoint minus the frozen base, what the whole training changed. Both are as the metric counts,
    so that with one where lower is better a gain is negative. sentence: the verdict with its numbers.
    """

    first: int
    last: int
    change: CheckpointCell
    gained: float
    pays: Pays
    sentence: str


class CheckpointsRecord(TypedDict):
    """`checkpoints.json`.

    split: of the pairs. interval: how the intervals were made, at `level`; the differences to the best at
    `corrected_level`, for there are several. by: the metric that decides. rows: the base first, then by step. best,
    trend: by metric. sentences: the findings by that metric, for people. not_measured: what is missing, and why.
    """

    pairs: int
    contents: int
    styles: int
    labels: int
    split: str
    interval: str
    level: float
    corrected_level: float
    by: str
    metrics: dict[str, MetricRecord]
    rows: list[CheckpointRow]
    best: dict[str, BestCheckpoint]
    trend: dict[str, CheckpointTrend]
    sentences: list[str]
    not_measured: dict[str, str]
