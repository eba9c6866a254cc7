"""The evaluation as tables and plots that a template only has to lay out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bottega.report.evaluation import MEASURED, Claim, CorrectedDifference, EvaluationSummary, Method, MetricInfo, Score
from bottega.report.format import UNKNOWN, between, figure
from bottega.report.tables import TableFile
from bottega.visual.colour_scale import scale_colours
from bottega.visual.curves import Interval, draw_intervals

C = TypeVar("C")

METHODS = ("student", "teacher", "base")
CEILING = "truth"
_PLOTTED = ("kind_gain", "objects_found", "truth")  # the metrics that the headline quotes
_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


@dataclass(frozen=True)
class Column:
    """The head of a column. weak: the metric does not tell two controls apart that it should."""

    name: str
    title: str
    unit: str
    arrow: str
    words: str
    meaning: str
    weak: bool


@dataclass(frozen=True)
class TableCell:
    """A value with its interval. note: the number of a footnote that says why there is no value; 0 where there is one.
    title: what a pointer over it shows. n: only where it differs from the row's."""

    value: str
    range: str = ""
    n: str = ""
    note: int = 0
    title: str = ""


@dataclass(frozen=True)
class JudgedCell(TableCell):
    """A value with its difference to the baseline, and what is said of that in a word and as better or worse."""

    difference: str = ""
    verdict: str = ""
    tone: str = ""


@dataclass(frozen=True)
class TableRow:
    """A method's row. unavailable: why it has no number at all."""

    key: str
    title: str
    meaning: str
    unavailable: str
    pairs: int | None
    cells: list[TableCell]


@dataclass(frozen=True)
class ClaimLine:
    """A goal, and whether it is `met`, `missed` or `not measured`."""

    text: str
    state: str
    value: str
    bar: str


@dataclass(frozen=True)
class DifferenceCell:
    """The student minus another row. tone: `better` or `worse` where the interval excludes 0. title: what a pointer
    over it shows. verdict: `better`, `worse`, or from which size on a difference could have been seen.
    """

    value: str
    range: str = ""
    tone: str = ""
    title: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class LabelCell:
    """A mean of one style label. place: from 0, the worst label of the column, to 100, the best. ground, ink: colours
    of that place and of text on it."""

    value: str
    place: int
    ground: str
    ink: str


@dataclass(frozen=True)
class TitledRow(Generic[C]):
    """A row of a smaller table."""

    title: str
    cells: list[C]


@dataclass
class EvaluationTable:
    """What the page shows of an evaluation. Rows stand in groups: methods, controls, ceiling.

    notes: footnotes with their numbers. plots: (title, `<svg>`). weak: titles of metrics to be read with care. absent:
    a sentence for each row and metric without a number.
    """

    summary: EvaluationSummary
    head: list[Column] = field(default_factory=list)
    groups: list[tuple[str, list[TableRow]]] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    claims: list[ClaimLine] = field(default_factory=list)
    plots: list[tuple[str, str]] = field(default_factory=list)
    differences: list[TitledRow[DifferenceCell]] = field(default_factory=list)
    labels: list[TitledRow[LabelCell]] = field(default_factory=list)
    weak: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def lay_out(summary: EvaluationSummary) -> EvaluationTable:
    """Everything that the page shows of an evaluation."""
    weak = _weak_metrics(summary)
    shown = _shown_metrics(summary)
    table = EvaluationTable(summary)

    # The main table: a column for each metric, rows in groups. Cells without a value add to the footnotes.
    table.head = [_column(name, summary.metrics[name], name in weak) for name in shown]
    table.groups = _groups(summary, shown, table.notes)

    # What stands around it.
    table.claims = [_claim(claim) for claim in summary.claims]
    table.plots = _plots(summary)
    table.differences = _differences(summary, shown)
    table.labels = _labels(summary, shown)
    table.weak = [metric.title for name, metric in summary.metrics.items() if name in weak]
    table.absent = _absent(summary, shown)
    return table


def _weak_metrics(summary: EvaluationSummary) -> set[str]:
    """Those that do not tell two controls apart that they should."""
    # A difference between two methods says little there, so the page marks the column.
    return {name for name, found in summary.discrimination.items() if not found.discriminates}


def _shown_metrics(summary: EvaluationSummary) -> list[str]:
    """Those that some row has a number of."""
    # A column of dashes only makes the table wider.
    shown = []
    for name in summary.metrics:
        if any(summary.measured(row, name) for row in summary.rows):
            shown.append(name)
    return shown


def _groups(
    summary: EvaluationSummary, shown: Sequence[str], notes: dict[str, int]
) -> list[tuple[str, list[TableRow]]]:
    """The rows by group."""
    # What is neither a method nor the ceiling is a control, whatever its name.
    controls = [key for key in summary.rows if key not in (*METHODS, CEILING)]
    groups = []
    for group, keys in (("methods", METHODS), ("controls", controls), ("ceiling", [CEILING])):
        rows = [_row(key, summary.rows[key], shown, notes) for key in keys if key in summary.rows]
        if rows:
            groups.append((group, rows))
    return groups


def _plots(summary: EvaluationSummary) -> list[tuple[str, str]]:
    """(title, `<svg>`) of the metrics that a reader asks for first, where they were measured."""
    plots = []
    for name in _PLOTTED:
        if name not in summary.metrics:
            continue
        plot = _plot(summary, name)
        if plot:
            plots.append((summary.metrics[name].title, plot))
    return plots


def _column(name: str, metric: MetricInfo, weak: bool) -> Column:
    arrow, words = _ARROWS.get(metric.better, ("", ""))
    meaning = ". ".join(text for text in (metric.meaning, words) if text)
    return Column(name, metric.title or name, metric.unit, arrow, words, meaning, weak)


def _row(key: str, method: Method, shown: Sequence[str], notes: dict[str, int]) -> TableRow:
    cells = [_cell(method.metrics.get(name, Score()), method.pairs, notes) for name in shown]
    unavailable = "" if method.is_measured else method.status
    return TableRow(key, method.title or key, method.meaning, unavailable, method.pairs, cells)


def _cell(score: Score, pairs: int | None, notes: dict[str, int]) -> TableCell:
    """notes: takes up the reason where there is no value."""
    if not score.is_measured:
        note = notes.setdefault(score.status, len(notes) + 1)
        return TableCell(UNKNOWN, note=note, title=score.status)
    return TableCell(
        value=figure(score.value),
        range=between(score.low, score.high) or "no interval",
        n="" if score.n == pairs else f"n {score.n}",
        title=_n_and_interval(score),
    )


def _n_and_interval(score: Score) -> str:
    text = f"n = {score.n}: {score.contents} contents × {score.styles} styles"
    if score.no_interval:
        return f"{text}; no interval: {score.no_interval}"
    return f"{text}; {score.draws:,} draws" if score.draws else text


def _claim(claim: Claim) -> ClaimLine:
    state = "not measured"
    if claim.met is not None:
        state = "met" if claim.met else "missed"
    return ClaimLine(claim.claim, state, figure(claim.value), f"{claim.side} {figure(claim.bar or 0.0)}")


def _plot(summary: EvaluationSummary, name: str) -> str:
    metric = summary.metrics[name]
    intervals = []
    for key in summary.rows:
        score = summary.measured(key, name)
        if score is not None and score.value is not None:
            is_student = key == "student"
            intervals.append(Interval(summary.title(key), score.value, score.low, score.high, is_student))
    arrow, words = _ARROWS.get(metric.better, ("", ""))
    title = f"{metric.title} of every method with its interval, {words}"
    return draw_intervals(intervals, title, f"{metric.unit}   {arrow} {words}".strip())


def _differences(summary: EvaluationSummary, shown: Sequence[str]) -> list[TitledRow[DifferenceCell]]:
    rows = []
    for key, scores in summary.differences.items():
        cells = [_difference(scores.get(name), summary.metrics[name].better) for name in shown]
        rows.append(TitledRow(summary.title(key), cells))
    return rows


def _difference(score: Score | None, better: str) -> DifferenceCell:
    if score is None or score.value is None:
        return DifferenceCell(UNKNOWN)
    if score.corrected is not None:
        return _corrected(score, score.corrected)
    # without a colour where the interval holds 0: such a difference may be chance
    tone = ""
    if _excludes_zero(score) and better in _ARROWS:
        is_better = (score.value > 0) == (better == "higher")
        tone = "better" if is_better else "worse"
    sign = "+" if score.value > 0 else ""
    between_ends = between(score.low, score.high) or "no interval"
    return DifferenceCell(
        f"{sign}{figure(score.value)}", between_ends, tone, _n_and_interval(score), _verdict(score, tone)
    )


def _corrected(score: Score, found: CorrectedDifference) -> DifferenceCell:
    """With the interval and the verdict that hold for all metrics of the row together."""
    sign = "+" if (score.value or 0.0) > 0 else ""
    ends = between(found.low, found.high) or "no interval"
    verdict = found.outcome
    if found.outcome == "inconclusive" and found.detectable is not None:
        verdict = f"inconclusive below {figure(found.detectable)}"
    tone = found.outcome if found.outcome in ("better", "worse") else ""
    title = _n_and_interval(score)
    if found.level is not None:
        title += f"; an interval of {100 * found.level:.4g} %, one of {found.family} tested together"
    return DifferenceCell(f"{sign}{figure(score.value)}", ends, tone, title, verdict)


def _verdict(score: Score, tone: str) -> str:
    """In words, for those who do not see the colours, and for print."""
    if score.value is None or score.low is None or score.high is None:
        return "inconclusive: no interval"
    if _excludes_zero(score):
        return tone or "differs"
    # The interval of a difference of another size would be as wide: what is below its half could not be seen.
    half = max(score.high - score.value, score.value - score.low)
    return f"inconclusive below {figure(half)}"


def _excludes_zero(score: Score) -> bool:
    if score.low is None or score.high is None:
        return False
    return score.low > 0 or score.high < 0


def _labels(summary: EvaluationSummary, shown: Sequence[str]) -> list[TitledRow[LabelCell]]:
    """A row a style label."""
    means = summary.per_label
    rows = []
    for label, found in means.items():
        cells = []
        for name in shown:
            column = [other.get(name) for other in means.values()]
            value = found.get(name)
            place = _place(value, column, summary.metrics[name].better)
            cells.append(LabelCell(figure(value), place, *scale_colours(place / 100)))
        rows.append(TitledRow(label, cells))
    return rows


def _place(value: float | None, column: Iterable[float | None], better: str) -> int:
    """Where a value stands between the column's worst, 0, and its best, 100."""
    known = [other for other in column if other is not None]
    low = min(known, default=0.0)
    high = max(known, default=0.0)
    place = 0.5  # in the middle where there is nothing to compare
    if value is not None and high > low:
        place = (value - low) / (high - low)
    if better == "lower":
        place = 1 - place
    return round(100 * place)


def _absent(summary: EvaluationSummary, shown: Sequence[str]) -> list[str]:
    """Sentences about rows and metrics without a number."""
    sentences = []
    for key, method in summary.rows.items():
        if not method.is_measured:
            sentences.append(f"{summary.title(key)}: {_reason(method.status)}")
    for name, metric in summary.metrics.items():
        if name not in shown:
            sentences.append(f"{metric.title or name}: {_reason(_why(summary.rows, name))}")
    return sentences + _without_interval(summary)


def _without_interval(summary: EvaluationSummary) -> list[str]:
    """A sentence for each reason why means have no interval."""
    titles: dict[str, list[str]] = {}
    for key, method in summary.rows.items():
        for reason in dict.fromkeys(score.no_interval for score in method.metrics.values() if score.no_interval):
            titles.setdefault(reason, []).append(summary.title(key))
    return [f"interval of {', '.join(rows)}: {reason}" for reason, rows in titles.items()]


def _why(rows: Mapping[str, Method], metric: str) -> str:
    """Why no row has that metric: as the first row says that was measured otherwise."""
    for method in rows.values():
        if method.is_measured and metric in method.metrics:
            return method.metrics[metric].status
    return "no row was measured"


def _reason(status: str) -> str:
    return (status or "not measured").removeprefix("unavailable: ")


# --- for files beside the page ----------------------------------------------------------------------------------------

_VALUE_FIELDS = ("row", "metric", "unit", "better", "value", "low", "high", "n", "contents", "styles", "status")


def table_files(table: EvaluationTable) -> list[TableFile]:
    """The page's tables for papers and spreadsheets: methods, differences to the student, style labels."""
    found = [_methods_file(table), _differences_file(table), _labels_file(table)]
    return [file for file in found if file.rows]


def _methods_file(table: EvaluationTable) -> TableFile:
    summary = table.summary
    rows: list[list[str]] = []
    for _, group in table.groups:
        for row in group:
            cells = [f"{cell.value} {cell.range}".strip() for cell in row.cells]
            rows.append([row.title, *cells, "" if row.pairs is None else str(row.pairs)])
    values: list[list[str | float | int | None]] = []
    for key, method in summary.rows.items():
        for name in summary.metrics:
            values.append(_values_of(key, name, summary.metrics[name], method.metrics.get(name, Score(method.status))))
    level = summary.interval.get("level")
    of_level = f" of {100 * level:g} %" if isinstance(level, float) else ""
    return TableFile(
        "evaluation",
        f"Held-out pairs: {summary.contents} contents × {summary.styles} styles. Means with intervals{of_level}.",
        ["method", *_heads(table), "n"],
        rows,
        _VALUE_FIELDS,
        values,
    )


def _differences_file(table: EvaluationTable) -> TableFile:
    summary = table.summary
    rows: list[list[str]] = []
    for row in table.differences:
        cells = [" ".join(part for part in (cell.value, cell.range, cell.verdict) if part) for cell in row.cells]
        rows.append([row.title, *cells])
    values: list[list[str | float | int | None]] = []
    for key, scores in summary.differences.items():
        for name, score in scores.items():
            if name in summary.metrics:
                numbers = Score(**{**vars(score), "status": MEASURED})
                values.append(_values_of(f"student minus {key}", name, summary.metrics[name], numbers))
    caption = "The student minus each other method, on the same pairs."
    return TableFile("differences", caption, ["student minus", *_heads(table)], rows, _VALUE_FIELDS, values)


def _labels_file(table: EvaluationTable) -> TableFile:
    summary = table.summary
    rows = [[row.title, *(cell.value for cell in row.cells)] for row in table.labels]
    values: list[list[str | float | int | None]] = []
    for label, means in summary.per_label.items():
        for name, value in means.items():
            values.append([label, name, value])
    caption = "The student's means by style label."
    return TableFile("styles", caption, ["style", *_heads(table)], rows, ("style", "metric", "value"), values)


def _heads(table: EvaluationTable) -> list[str]:
    return [f"{column.title} {column.arrow} ({column.unit})" for column in table.head]


def _values_of(key: str, name: str, metric: MetricInfo, score: Score) -> list[str | float | int | None]:
    numbers = [score.value, score.low, score.high, score.n, score.contents, score.styles]
    return [key, name, metric.unit, metric.better, *numbers, score.status]
