"""The JSON that an evaluation writes, as types: a line of `scores.jsonl`, and `summary.json` with its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from bottega.evaluation.efficiency import EfficiencyRecord
    from bottega.models.style_probe import ProbeConfig
    from bottega.teacher.summary import PainterFacts


class ScoreLine(TypedDict):
    """One score of one picture. `sha256` is the picture's."""

    pair_id: str
    row: str
    metric: str
    value: float
    sha256: str


class PairLine(TypedDict):
    """A pair of the list that an evaluation is about. The hashes are of the files; empty where one can't be read."""

    pair_id: str
    content_id: str
    style_id: str
    style: str
    prompt: str
    content_sha256: str
    style_sha256: str


class PairListRecord(TypedDict):
    """The pair list in short: `sha256` of all its lines, `contents` and `styles` of the files' hashes by their ids."""

    pairs: int
    sha256: str
    contents: str
    styles: str


class EstimateRecord(TypedDict):
    """A mean with its interval, see `bootstrap.BootstrapEstimate`.

    `low` and `high` are None where there is no interval, and `no_interval` says why; else that is empty.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    contents: int
    styles: int
    draws: int
    no_interval: str


class CorrectedRecord(TypedDict):
    """A difference as one of a family of tests, see `verdicts.Corrected`.

    `low` and `high` have the coverage `level`, which is that of Holm's step; `p_value` is Holm's. `outcome` is that of
    the first method: better, worse, differs, inconclusive, not known. `detectable`: the smallest difference that the
    design shows with the power `power`.
    """

    level: float
    low: float | None
    high: float | None
    p_value: float | None
    family: int
    outcome: str
    detectable: float | None
    power: float
    verdict: str


class DifferenceRecord(EstimateRecord):
    """The mean of paired differences, and how often the first of the two is larger."""

    probability: float | None
    probability_low: float | None
    probability_high: float | None


class RowDifferenceRecord(DifferenceRecord):
    """The student minus another row. `corrected`: as one of all metrics of that row, with the verdict on it."""

    corrected: CorrectedRecord


class ComponentRecord(TypedDict):
    """A variance, see `factors.Component`. `raw` may be negative by chance; `estimate` is then 0."""

    estimate: float
    raw: float


class VariancesRecord(TypedDict):
    """How much each factor makes scores differ, see `factors.Variances`; None where it is not known."""

    content: ComponentRecord | None
    style: ComponentRecord | None
    seed: ComponentRecord | None
    content_style: ComponentRecord | None
    content_seed: ComponentRecord | None
    style_seed: ComponentRecord | None
    residual: ComponentRecord | None


class FactorRecord(TypedDict):
    """A mean of contents × styles × training seeds with its interval, see `factors.FactorEstimate`.

    `low`, `high`, `standard_error`, `degrees_of_freedom` and `p_value` are None where there is no interval, and
    `no_interval` says why. `note` says what the interval leaves out, or why it is wide.
    """

    value: float
    low: float | None
    high: float | None
    level: float
    n: int
    contents: int
    styles: int
    seeds: int
    standard_error: float | None
    degrees_of_freedom: float | None
    p_value: float | None
    variances: VariancesRecord
    no_interval: str
    note: str


class MetricCell(TypedDict):
    """A metric of a row. `status` is "measured", or says why the rest is not there."""

    status: str
    value: NotRequired[float]
    low: NotRequired[float | None]
    high: NotRequired[float | None]
    n: NotRequired[int]
    contents: NotRequired[int]
    styles: NotRequired[int]
    draws: NotRequired[int]
    no_interval: NotRequired[str]


class MethodRecord(TypedDict):
    """A row of the table. `source` is set for the teacher: whether its pictures are a network's or drawn truths."""

    title: str
    meaning: str
    status: str
    pairs: int
    metrics: dict[str, MetricCell]
    source: NotRequired[str]


class DiscriminationRecord(DifferenceRecord):
    """Whether a metric orders the control `better` before the control `worse`; the estimate is of their difference."""

    better: str
    worse: str
    discriminates: bool


class CircleLine(TypedDict):
    """The scores of a drawn picture of Fill50K, see `circles.CircleScore`. `row` is its folder's name."""

    key: str
    row: str
    sha256: str
    scores: dict[str, float]


class CircleCell(TypedDict):
    """A mean over examples with its interval; None where one example has none."""

    value: float
    low: float | None
    high: float | None


class CircleMethod(TypedDict):
    """The means of a method by metric: `iou` in percent, `inside` and `outside` in ΔE."""

    pictures: int
    metrics: dict[str, CircleCell]


class Fill50kRecord(TypedDict):
    """Fill50K's held-out examples, by method. `status` is "measured", or says why there are none."""

    status: str
    examples: int
    broken: dict[str, str]
    methods: dict[str, CircleMethod]


class StyleTestRecord(TypedDict):
    """Whether a similarity to the style picture tells styles apart, see `style_similarity.style_gap`.

    same, other: mean cosine ×100 of two paintings of one style, and of two of different styles; `gap` is their
    difference, with its interval. `status` is "measured", or says why these are not there.
    """

    status: str
    paintings: int
    labels: int
    same: NotRequired[float]
    other: NotRequired[float]
    gap: NotRequired[float]
    low: NotRequired[float]
    high: NotRequired[float]
    discriminates: NotRequired[bool]


class ClaimRecord(TypedDict):
    """What the student must have shown. `met` is None where `value` could not be measured."""

    claim: str
    side: str
    bar: float
    value: float | None
    met: bool | None


class ExamplePair(TypedDict):
    """A pair for the contact sheets, with the value it was ordered by."""

    pair_id: str
    value: float


class ExamplePairs(TypedDict):
    """Pairs of a `row` ordered `by` a metric."""

    row: str
    by: str
    best: list[ExamplePair]
    median: list[ExamplePair]
    worst: list[ExamplePair]


class IntervalRecord(TypedDict):
    """How the intervals were made. `draws` are the least: an estimate says how many it took."""

    method: str
    level: float
    draws: int
    seed: int


class MetricRecord(TypedDict):
    """What a metric is, see `metrics.Metric`."""

    title: str
    unit: str
    better: str
    meaning: str


class SummaryRecord(TypedDict):
    """`summary.json`. The last six are set by `stage.run`, the others derive from `scores.jsonl`.

    teacher: who drew the row of that name; absent where no teacher was given. checkpoints: `compared`, or why they
    were not; absent where nobody asked.
    efficiency: by row, of those that the student's base draws.
    style_tests: by metric, of those that compare with the style picture.
    style_probe: how good the style classifier is, where it is a fitted probe.
    """

    pairs: int
    contents: int
    styles: int
    labels: int
    interval: IntervalRecord
    metrics: dict[str, MetricRecord]
    rows: dict[str, MethodRecord]
    differences: dict[str, dict[str, RowDifferenceRecord]]
    discrimination: dict[str, DiscriminationRecord]
    claims: list[ClaimRecord]
    examples: ExamplePairs
    per_label: dict[str, dict[str, float]]
    teacher: NotRequired[PainterFacts]
    broken: NotRequired[dict[str, str]]
    missing: NotRequired[dict[str, list[str]]]
    pair_list: NotRequired[PairListRecord]
    size: NotRequired[int]
    networks: NotRequired[dict[str, str]]
    style_tests: NotRequired[dict[str, StyleTestRecord]]
    style_probe: NotRequired[ProbeConfig]
    efficiency: NotRequired[dict[str, EfficiencyRecord]]
    fill50k: NotRequired[Fill50kRecord]
    seconds: NotRequired[dict[str, float]]
    checkpoints: NotRequired[str]


class MeasuredWith(TypedDict):
    """What of `summary.json` decides whether the scores of two evaluations may be compared."""

    size: NotRequired[int]
    networks: NotRequired[dict[str, str]]


class ComparedMethod(TypedDict):
    """A method of a comparison: its trainings, and its means over the shared pairs.

    `metrics` has a `FactorRecord` where the metric was measured.
    """

    runs: list[str]
    seeds: list[int]
    metrics: dict[str, FactorRecord]


class ComparedDifference(TypedDict):
    """A method minus the first one in one metric, over the pairs and trainings that both have."""

    difference: FactorRecord
    corrected: CorrectedRecord


class ComparisonRecord(TypedDict):
    """`compare.json`. `differences`: of each other method from the first, by its name and by metric.

    pairs: shared by all runs; `of_runs` says how many each has. unavailable: metrics that are not compared, and why.
    """

    row: str
    level: float
    first: str
    metrics: dict[str, MetricRecord]
    methods: dict[str, ComparedMethod]
    differences: dict[str, dict[str, ComparedDifference]]
    pairs: int
    contents: int
    styles: int
    of_runs: dict[str, int]
    unavailable: dict[str, str]
    notes: list[str]


class DesignRecord(TypedDict):
    """A design of a plan. `detectable`: the smallest difference that it shows; `enough`: whether the wanted one is."""

    contents: int
    styles: int
    seeds: int
    pictures: int
    detectable: float
    enough: bool


class DesignPlanRecord(TypedDict):
    """What `bottega evaluate plan` finds. `pictures` of a design are those of one method.

    pilot: the difference as the pilot has it; `of` says what it is of. seen: the smallest difference that the pilot's
    own design shows; None where it has no interval.
    """

    metric: str
    of: str
    difference: float
    level: float
    power: float
    pilot: FactorRecord
    seen: float | None
    designs: list[DesignRecord]
    notes: list[str]
