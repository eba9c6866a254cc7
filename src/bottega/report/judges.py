"""What stands beside the table of an evaluation: how good its judges of style are, Fill50K, and what drawing costs."""

from __future__ import annotations

from dataclasses import dataclass, field

from bottega.evaluation.style_probe import describe_probe
from bottega.models.style_probe import ProbeConfig
from bottega.report.evaluation import MEASURED, Efficiency, EvaluationSummary, Score, StyleTest
from bottega.report.evaluation_table import TableCell
from bottega.report.format import UNKNOWN, between, figure
from bottega.runtime.errors import BottegaError
from bottega.runtime.records import to_record


@dataclass(frozen=True)
class DrawingCost:
    """A row's cost in words. latencies: by phase, `median / 90 %`, in milliseconds."""

    title: str
    parameters: str
    latencies: list[str]
    memory: str
    vram: str


@dataclass(frozen=True)
class DrawingCosts:
    """What drawing costs. phases: heads of the latencies. about: how it was measured."""

    phases: list[str]
    rows: list[DrawingCost]
    about: str


@dataclass(frozen=True)
class Beside:
    """What a page shows beside the table: sentences on the judges of style, Fill50K's table, what drawing costs."""

    judges: list[str] = field(default_factory=list)
    circles: list[CircleRow] = field(default_factory=list)
    drawing: DrawingCosts | None = None


def lay_out(summary: EvaluationSummary | None) -> Beside:
    """All of it; empty where there is no evaluation."""
    if summary is None:
        return Beside()
    return Beside(style_judges(summary), circle_rows(summary), drawing_costs(summary))


def style_judges(summary: EvaluationSummary) -> list[str]:
    """A sentence on each judge of style: a similarity must tell real paintings apart, a classifier must know them."""
    said: list[str] = []
    for name, test in summary.style_tests.items():
        title = summary.metrics[name].title if name in summary.metrics else name
        said.append(f"{title}, tested on the style pictures: {_tested(test)}.")
    if summary.style_probe is None:
        return said
    try:
        probe = to_record(ProbeConfig, summary.style_probe, "style_probe of summary.json")
    except BottegaError:
        return [*said, "The style classifier is a fitted probe of another version; its figures can't be read."]
    return [*said, *(f"{line}." for line in describe_probe(probe))]


def _tested(test: StyleTest) -> str:
    if test.status != MEASURED:
        return test.status
    verdict = "" if test.discriminates else "; it does not tell styles apart here"
    return (
        f"two of one style {figure(test.same)}, of different styles {figure(test.other)}, gap {figure(test.gap)} "
        f"{between(test.low, test.high)} over {test.paintings} pictures of {test.labels} styles{verdict}"
    )


def drawing_costs(summary: EvaluationSummary) -> DrawingCosts | None:
    """The table of what drawing costs; None where it was not measured."""
    if not summary.efficiency:
        return None
    phases: dict[str, None] = {}  # as an ordered set
    for cost in summary.efficiency.values():
        phases.update(dict.fromkeys(cost.seconds))
    rows = [_cost_line(summary.title(row), cost, list(phases)) for row, cost in summary.efficiency.items()]
    first = next(iter(summary.efficiency.values()))
    side = "" if first.size is None else f" of {first.size} px"
    about = f"{first.pictures} pictures{side}, one by one, after {first.warm_up} that do not count"
    return DrawingCosts(list(phases), rows, about)


@dataclass(frozen=True)
class CircleRow:
    """A method's row of Fill50K's table."""

    title: str
    pictures: int
    cells: list[TableCell]


_CIRCLES = ("iou", "inside", "outside")


def circle_rows(summary: EvaluationSummary) -> list[CircleRow]:
    """Fill50K's table: overlap of the circle, and the colours inside and outside of it; empty where there is none."""
    if summary.fill50k is None or summary.fill50k.status != MEASURED:
        return []
    rows: list[CircleRow] = []
    for name, means in summary.fill50k.methods.items():
        cells: list[TableCell] = []
        for metric in _CIRCLES:
            score = means.metrics.get(metric, Score())
            cells.append(TableCell(figure(score.value), between(score.low, score.high)))
        rows.append(CircleRow(summary.title(name), means.pictures, cells))
    return rows


def _cost_line(title: str, cost: Efficiency, phases: list[str]) -> DrawingCost:
    latencies: list[str] = []
    for phase in phases:
        quantiles = cost.seconds.get(phase, {})
        latencies.append(f"{_milliseconds(quantiles.get('p50'))} / {_milliseconds(quantiles.get('p90'))}")
    added = UNKNOWN if cost.added_parameters is None else f"{cost.added_parameters:,}"
    frozen = UNKNOWN if cost.frozen_parameters is None else f"{cost.frozen_parameters:,}"
    memory = UNKNOWN if cost.peak_rss_mb is None else f"{cost.peak_rss_mb:,.0f} MB"
    vram = f"{cost.peak_vram_mb:,.0f} MB" if cost.peak_vram_mb else UNKNOWN
    return DrawingCost(title, f"{added} / {frozen}", latencies, memory, vram)


def _milliseconds(seconds: float | None) -> str:
    return figure(None if seconds is None else 1000 * seconds)
