"""`evaluation/summary.json` as a typed record. Keys that an older version did not write have a default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bottega.report.format import Number
from bottega.teacher.config import ORACLE, ORACLE_MEANING

MEASURED = "measured"


@dataclass(frozen=True)
class CorrectedDifference:
    """A difference as one of `family` that were tested together: its interval has the level of its own step.

    outcome: `better`, `worse`, `differs`, `inconclusive` or `not known`. detectable: a smaller one can't be seen.
    """

    outcome: str
    level: Number = None
    low: Number = None
    high: Number = None
    family: int | None = None
    detectable: Number = None


@dataclass(frozen=True)
class Score:
    """A mean with its interval, over `n` pairs of `contents` × `styles`; or a `status` that says why there is none.

    no_interval: why `low` and `high` are None; empty in summaries of an older version too. draws: that the interval
    took. corrected: of a difference, where it was tested together with those of other metrics.
    """

    status: str = "not measured"
    value: Number = None
    low: Number = None
    high: Number = None
    n: int | None = None
    contents: int | None = None
    styles: int | None = None
    draws: int | None = None
    no_interval: str = ""
    corrected: CorrectedDifference | None = None

    @property
    def is_measured(self) -> bool:
        return self.status == MEASURED and self.value is not None


@dataclass(frozen=True)
class Method:
    """A row of the evaluation: the student, another method, a control, or the ceiling.

    metrics: its scores by name. source: of the teacher's pictures, `sdxl` or `oracle`; empty for other rows, and in
    summaries of an older version.
    """

    title: str = ""
    meaning: str = ""
    status: str = ""
    pairs: int | None = None
    source: str = ""
    metrics: Mapping[str, Score] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        return self.status == MEASURED


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is called and means. better: `higher` or `lower`."""

    title: str = ""
    unit: str = ""
    better: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Claim:
    """A goal: whether `value` lies on the right `side` of the `bar`; `met` is None where it could not be measured."""

    claim: str = ""
    met: bool | None = None
    value: Number = None
    bar: Number = None
    side: str = ""


@dataclass(frozen=True)
class Discrimination:
    """Whether a metric tells two controls apart that it must."""

    discriminates: bool = True


@dataclass(frozen=True)
class Efficiency:
    """What a row's pictures cost. seconds: quantiles by phase, and of the whole, such as `{"whole": {"p50": 0.4}}`."""

    pictures: int = 0
    warm_up: int = 0
    size: int | None = None
    added_parameters: int | None = None
    frozen_parameters: int | None = None
    seconds: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    peak_rss_mb: Number = None
    peak_vram_mb: Number = None


@dataclass(frozen=True)
class CircleMeans:
    """A method's means over Fill50K's examples: `iou`, `inside` and `outside`."""

    pictures: int = 0
    metrics: Mapping[str, Score] = field(default_factory=dict)


@dataclass(frozen=True)
class Fill50k:
    """Fill50K's held-out examples, by method; `status` says why there are none."""

    status: str = ""
    examples: int = 0
    broken: Mapping[str, str] = field(default_factory=dict)
    methods: Mapping[str, CircleMeans] = field(default_factory=dict)


@dataclass(frozen=True)
class StyleTest:
    """Whether a similarity to the style picture tells styles apart: of paintings of one style and of different ones."""

    status: str = ""
    paintings: int = 0
    labels: int = 0
    same: Number = None
    other: Number = None
    gap: Number = None
    low: Number = None
    high: Number = None
    discriminates: bool = False


@dataclass(frozen=True)
class ChosenPair:
    """A pair that the evaluation names for a contact sheet."""

    pair_id: str


@dataclass(frozen=True)
class ChosenPairs:
    """The best, the median and the worst pairs. by: what they are ordered by."""

    by: str = ""
    best: tuple[ChosenPair, ...] = ()
    median: tuple[ChosenPair, ...] = ()
    worst: tuple[ChosenPair, ...] = ()

    def of(self, part: str) -> tuple[ChosenPair, ...]:
        """Those of `best`, `median` or `worst`."""
        return {"best": self.best, "median": self.median, "worst": self.worst}[part]


@dataclass(frozen=True)
class EvaluationSummary:
    """All that the evaluation found.

    rows: methods and controls by name. differences: the student minus each other row, metric by metric. per_label: the
    student's means by style label. interval: how the intervals were made. broken: pairs that were left out, and why.
    size: side in pixels at which pictures were measured. networks: hashes of those that judged. checkpoints:
    `compared`, or why they were not. efficiency: what drawing costs, by row. style_tests, style_probe: how good the
    judges of style are. pair_list: hashes of what was evaluated. fill50k: its exact metrics. missing: by
    row the pairs without an output, which are left out of every row.
    """

    metrics: Mapping[str, MetricInfo] = field(default_factory=dict)
    rows: Mapping[str, Method] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    differences: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    discrimination: Mapping[str, Discrimination] = field(default_factory=dict)
    per_label: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    interval: Mapping[str, Any] = field(default_factory=dict)
    pairs: int | None = None
    contents: int | None = None
    styles: int | None = None
    broken: Mapping[str, str] = field(default_factory=dict)
    examples: ChosenPairs = ChosenPairs()
    size: int | None = None
    networks: Mapping[str, str] = field(default_factory=dict)
    checkpoints: str = ""
    efficiency: Mapping[str, Efficiency] = field(default_factory=dict)
    style_tests: Mapping[str, StyleTest] = field(default_factory=dict)
    style_probe: Mapping[str, Any] | None = None
    pair_list: Mapping[str, Any] = field(default_factory=dict)
    fill50k: Fill50k | None = None
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def measured(self, row: str, metric: str) -> Score | None:
        """The score of a row, or None where it was not measured."""
        if row not in self.rows:
            return None
        score = self.rows[row].metrics.get(metric)
        if score is None or not score.is_measured:
            return None
        return score

    def title(self, row: str) -> str:
        """What a row is called."""
        if row not in self.rows:
            return row
        return self.rows[row].title or row

    def is_oracle(self, asked: bool) -> bool:
        """Whether drawn truths stood in for the teacher here; `asked`: in the run, for a summary that doesn't say."""
        source = self.rows["teacher"].source if "teacher" in self.rows else ""
        return source == "oracle" if source else asked

    def with_oracle(self) -> EvaluationSummary:
        """The same, its row `teacher` called what it is where drawn truths stood in for the teacher: the summary of an
        older version does not say so."""
        if "teacher" not in self.rows:
            return self
        oracle = replace(self.rows["teacher"], title=ORACLE, meaning=ORACLE_MEANING)
        return replace(self, rows={**self.rows, "teacher": oracle})
