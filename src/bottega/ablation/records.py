"""The JSON that an ablation writes: `summary.json` and its parts.

    ablation/
      plan.json                            what is trained, and how; written before the first step
      trained/{variant}/seed{n}/           a training's folder each, as `bottega train style` leaves one
      pictures/{variant}/seed{n}/          what each of them drew of the test pairs
      scores/{variant}/seed{n}.jsonl       the scores of these pictures, a line each
      summary.json, table.md, table.csv    the numbers

Paths in them are relative to the folder of the ablation.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from bottega.evaluation.records import MetricCell, MetricRecord

Verdict = Literal["better", "worse", "different", "inconclusive"]
"""Of a difference to the baseline, where its interval leaves out 0: `different` for a metric that has no better side.
`inconclusive`: the interval holds 0, or there is none."""


class FactorCell(TypedDict):
    """A mean over contents × styles × training seeds, with its interval.

    `low` and `high` are None where no interval can be told, and `no_interval` says why; else that is empty. n: scores.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    contents: int
    styles: int
    seeds: int
    no_interval: str


class FactorDifference(FactorCell):
    """A row minus the baseline, paired by content, style and training seed.

    seen_from: differences below this cannot be seen with this design (half of the interval); None without an interval.
    """

    verdict: Verdict
    seen_from: float | None


class ExamplePicture(TypedDict):
    """A picture of a row: the pair it shows, and its file, relative to the ablation's folder.

    content, style: the pair's own pictures, relative to the data root.
    """

    pair_id: str
    picture: str
    content: str
    style: str


class AblationRow(TypedDict):
    """A variant, over all of its training seeds.

    name: of the row, and of its folders. factor, level: what it changes, and to what; the baseline's are empty, and in
    a full grid they are joined by ` + `. settings: what differs from the recipe, by names such as
    `student.adapter.layers`. learning_rate: the peak. status: `measured`, or why there are no numbers.
    parameters: trained ones. seconds: of one training alone, the mean over seeds: its share of what was computed once
    for several variants is in it. differences: to the baseline; empty in its own row. adapters: a file a seed.
    """

    name: str
    factor: str
    level: str
    settings: dict[str, object]
    learning_rate: float
    seeds: list[int]
    status: str
    metrics: dict[str, FactorCell]
    differences: dict[str, FactorDifference]
    parameters: int
    seconds: float
    adapters: list[str]
    examples: list[ExamplePicture]


class AblationSummary(TypedDict):
    """What `ablation/summary.json` holds.

    name: of the recipe. design: `one factor` or `full grid`. baseline: the name of its row. steps: of each training;
    samples: that each sees. metrics: what each of them is. controls: pictures that no variant drew, of the same pairs,
    by row and metric: the frozen base, content, style, drawn truth. interval: how the intervals were made, at `level`.
    interval_note: how to read several of them at once. not_measured: what is missing, and why. seconds: of the parts.
    provenance: versions, machine, and hashes of what was read.
    """

    name: str
    design: str
    baseline: str
    steps: int
    samples: int
    seeds: list[int]
    pairs: int
    contents: int
    styles: int
    metrics: dict[str, MetricRecord]
    rows: list[AblationRow]
    controls: dict[str, dict[str, MetricCell]]
    interval: str
    level: float
    interval_note: str
    not_measured: dict[str, str]
    seconds: dict[str, float]
    provenance: dict[str, object]
    check: NotRequired[str]
