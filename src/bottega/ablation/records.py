"""The JSON that an ablation writes: `summary.json` and its parts.

    ablation/
      plan.json                             what all variants have in common; written before the first step
      trained/{variant}/seed{n}/            a training's folder each, as `bottega train style` leaves one
      evaluated/{variant}/seed{n}/          an evaluation's folder each: pictures, scores.jsonl
      summary.json, table.md, table.csv     the numbers

Paths in them are relative to the folder of the ablation.
"""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from bottega.evaluation.records import FactorRecord, MetricCell, MetricRecord

Verdict = Literal["better", "worse", "different", "inconclusive"]
"""Of a difference to the baseline, where its interval leaves out 0: `different` for a metric that has no better side.
`inconclusive`: the interval holds 0, or there is none."""


class FactorDifference(FactorRecord):
    """A row minus the baseline, paired by content, style and training seed.

    It is one of a `family` of tests, and `level`, `low`, `high` and `p_value` are those of Holm's step, see
    `evaluation.verdicts`. seen_from: smaller differences are hardly seen with this design; None without an interval.
    """

    verdict: Verdict
    seen_from: float | None
    family: int


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
    parameters: trained ones. seconds: of a training's steps, the mean over seeds; what several variants share was
    computed, and counts, in the first of them. cost: of a training alone, as a multiple of the baseline's, by its block
    passes. differences: to the baseline; empty in its own row. adapters: a file a seed.
    """

    name: str
    factor: str
    level: str
    settings: dict[str, object]
    learning_rate: float
    seeds: list[int]
    status: str
    metrics: dict[str, FactorRecord]
    differences: dict[str, FactorDifference]
    parameters: int
    seconds: float
    cost: float
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
