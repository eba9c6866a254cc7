"""What the numbers of an evaluation rest on: how good its judges of style are, and what drawing costs."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.evaluation.style_probe import describe_probe
from bottega.models.style_probe import ProbeConfig
from bottega.report.evaluation import MEASURED, Efficiency, EvaluationSummary, StyleTest
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
