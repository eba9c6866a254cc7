"""The page of an ablation: every variant against the baseline, metric by metric, with what the design could not see.

Read `run` from top to bottom. It reads `summary.json` of an ablation's folder, and the example pictures that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottega.report.evaluation import MEASURED, MetricInfo, Score
from bottega.report.evaluation_table import JudgedCell, TableCell
from bottega.report.format import UNKNOWN, as_text, between, duration, figure
from bottega.report.sheets import Thumbnails
from bottega.report.tables import TableFile, write_tables
from bottega.runtime.errors import BottegaError
from bottega.runtime.files import read_json, write_text
from bottega.runtime.paths import inside
from bottega.runtime.records import to_record
from bottega.visual.curves import Interval, draw_intervals
from bottega.visual.page import render

NAME = "report.html"
MAX_EXAMPLES = 4
"""Pairs that are shown of each variant."""

_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}
_SIGNS = {"better": "▲ better", "worse": "▼ worse", "different": "◆ different"}


@dataclass(frozen=True)
class VariantScore(Score):
    """A mean over contents × styles × training seeds; `seeds` of them."""

    status: str = MEASURED
    seeds: int | None = None


@dataclass(frozen=True)
class VariantDifference(VariantScore):
    """A variant minus the baseline. verdict: see `ablation.records.Verdict`. seen_from: a smaller one can't be seen."""

    verdict: str = "inconclusive"
    seen_from: float | None = None


@dataclass(frozen=True)
class VariantPicture:
    """An example: the pair, and the picture's file relative to the ablation's folder."""

    pair_id: str
    picture: str


@dataclass(frozen=True)
class VariantRow:
    """A row of the ablation, see `ablation.records.AblationRow`."""

    name: str
    factor: str = ""
    level: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    seeds: tuple[int, ...] = ()
    status: str = MEASURED
    metrics: Mapping[str, VariantScore] = field(default_factory=dict)
    differences: Mapping[str, VariantDifference] = field(default_factory=dict)
    parameters: int | None = None
    seconds: float | None = None
    adapters: tuple[str, ...] = ()
    examples: tuple[VariantPicture, ...] = ()

    @property
    def title(self) -> str:
        """What it is called in tables."""
        return f"{self.factor}: {self.level}" if self.factor else self.name


@dataclass(frozen=True)
class Ablation:
    """`summary.json` of an ablation, see `ablation.records.AblationSummary`."""

    design: str
    baseline: str
    name: str = ""
    steps: int | None = None
    samples: int | None = None
    seeds: tuple[int, ...] = ()
    pairs: int | None = None
    contents: int | None = None
    styles: int | None = None
    metrics: Mapping[str, MetricInfo] = field(default_factory=dict)
    rows: tuple[VariantRow, ...] = ()
    controls: Mapping[str, Mapping[str, Score]] = field(default_factory=dict)
    interval: str = ""
    level: float | None = None
    interval_note: str = ""
    not_measured: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> list[str]:
        """The metrics that some row has a number of."""
        return [name for name in self.metrics if any(name in row.metrics for row in self.rows)]


@dataclass(frozen=True)
class VariantLine:
    """A variant's row of the table."""

    title: str
    settings: str
    is_baseline: bool
    unavailable: str
    cells: list[JudgedCell]
    parameters: str
    time: str


def is_ablation(content: Mapping[str, Any]) -> bool:
    """Whether a `summary.json` is an ablation's."""
    return "design" in content and "baseline" in content


def run(directory: Path) -> Path:
    """Write `report.html` and the tables into an ablation's folder; returns the page.

    Raises:
        RequestError: its summary is not one.
        StorageError: the page can't be written.
    """
    ablation = to_record(Ablation, read_json(directory / "summary.json"), str(directory / "summary.json"))
    lines = [_line(row, ablation) for row in ablation.rows]
    pictures = _pictures(directory, ablation.rows)
    thumbs = Thumbnails.of(path for found in pictures.values() for _, path in found)
    heads: list[tuple[str, MetricInfo, str, str]] = []
    for name in ablation.shown:
        metric = ablation.metrics[name]
        heads.append((name, metric, *_ARROWS.get(metric.better, ("", ""))))
    page = render(
        Path(__file__).with_name("ablation.html"),
        ablation=ablation,
        heads=heads,
        lines=lines,
        controls=_controls(ablation),
        plots=_plots(ablation),
        factors=_factors(ablation),
        pictures=pictures,
        thumbs=thumbs.uris,
        side=thumbs.side,
        methods=_methods(ablation),
        absent=_absent(ablation),
        provenance=_flat(ablation.provenance),
        duration=duration,
    )
    write_text(directory / NAME, page)
    write_tables(directory, [_table_file(ablation, lines)])
    return directory / NAME


def _line(row: VariantRow, ablation: Ablation) -> VariantLine:
    cells = [_cell(row.metrics.get(name), row.differences.get(name)) for name in ablation.shown]
    return VariantLine(
        title=row.title,
        settings=", ".join(f"{name} = {as_text(value)}" for name, value in row.settings.items()),
        is_baseline=row.name == ablation.baseline,
        unavailable="" if row.status == MEASURED else row.status,
        cells=cells,
        parameters=UNKNOWN if row.parameters is None else f"{row.parameters:,}",
        time=duration(row.seconds),
    )


def _cell(score: VariantScore | None, gap: VariantDifference | None) -> JudgedCell:
    if score is None or score.value is None:
        return JudgedCell(UNKNOWN)
    title = f"n = {score.n}: {score.contents} contents × {score.styles} styles × {score.seeds} seeds"
    title += f"; no interval: {score.no_interval}" if score.no_interval else ""
    value, ends = figure(score.value), between(score.low, score.high) or "no interval"
    if gap is None or gap.value is None:
        return JudgedCell(value, ends, title=title)
    sign = "+" if gap.value > 0 else ""
    difference = f"{sign}{figure(gap.value)} {between(gap.low, gap.high) or 'no interval'}"
    tone = gap.verdict if gap.verdict in ("better", "worse") else ""
    return JudgedCell(value, ends, title=title, difference=difference, verdict=_verdict(gap), tone=tone)


def _verdict(gap: VariantDifference) -> str:
    if gap.verdict in _SIGNS:
        return _SIGNS[gap.verdict]
    if gap.seen_from is None:
        return "inconclusive: no interval"
    return f"inconclusive below {figure(gap.seen_from)}"


def _controls(ablation: Ablation) -> list[tuple[str, list[TableCell]]]:
    """Rows of pictures that no variant drew."""
    found: list[tuple[str, list[TableCell]]] = []
    for name, scores in ablation.controls.items():
        cells: list[TableCell] = []
        for metric in ablation.shown:
            score = scores.get(metric, Score())
            if score.is_measured:
                cells.append(TableCell(figure(score.value), between(score.low, score.high) or "no interval"))
            else:
                cells.append(TableCell(UNKNOWN, title=score.status))
        found.append((name, cells))
    return found


def _plots(ablation: Ablation) -> list[tuple[str, str]]:
    """(title, `<svg>`) of each metric: every variant with its interval, the baseline marked."""
    plots: list[tuple[str, str]] = []
    for name in ablation.shown:
        metric = ablation.metrics[name]
        intervals: list[Interval] = []
        for row in ablation.rows:
            score = row.metrics.get(name)
            if score is not None and score.value is not None:
                is_baseline = row.name == ablation.baseline
                intervals.append(Interval(row.title, score.value, score.low, score.high, is_baseline))
        arrow, words = _ARROWS.get(metric.better, ("", ""))
        title = f"{metric.title} of every variant with its interval, {words}"
        plots.append((metric.title, draw_intervals(intervals, title, f"{metric.unit}   {arrow} {words}".strip())))
    return plots


def _factors(ablation: Ablation) -> list[str]:
    """A sentence a factor: what was seen, and what was not."""
    seen: dict[str, list[str]] = {}
    for row in ablation.rows:
        if row.factor:
            seen.setdefault(row.factor, []).extend(_seen(row, ablation))
    nothing = "no difference to the baseline can be seen"
    return [f"{factor}: {'; '.join(said) or nothing}." for factor, said in seen.items()]


def _seen(row: VariantRow, ablation: Ablation) -> list[str]:
    """The differences of a variant whose interval excludes 0."""
    said: list[str] = []
    for name, gap in row.differences.items():
        if gap.verdict not in _SIGNS or gap.value is None or name not in ablation.metrics:
            continue
        sign = "+" if gap.value > 0 else ""
        size = f"{sign}{figure(gap.value)} {between(gap.low, gap.high)}"
        said.append(f"{row.level} {gap.verdict} in {ablation.metrics[name].title} ({size})")
    return said


def _pictures(directory: Path, rows: Sequence[VariantRow]) -> dict[str, list[tuple[str, Path]]]:
    """(pair id, file) of each variant's examples that are there, the same pairs for all."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for row in rows:
        files: list[tuple[str, Path]] = []
        for example in row.examples[:MAX_EXAMPLES]:
            try:
                path = inside(directory, example.picture, f"example of {row.name}")
            except BottegaError:
                continue  # a path that leads out of the folder is not followed
            if path.is_file():
                files.append((example.pair_id, path))
        if files:
            found[row.title] = files
    return found


def _methods(ablation: Ablation) -> list[str]:
    """For a paper, from the summary alone."""
    level = "" if ablation.level is None else f"{100 * ablation.level:g} % "
    drew = (
        f"Each training drew the same {ablation.pairs} held-out pairs, {ablation.contents} contents × "
        f"{ablation.styles} styles. Brackets hold {level}intervals ({ablation.interval}). {ablation.interval_note}"
    )
    defined = [f"{ablation.metrics[name].title}: {ablation.metrics[name].meaning}" for name in ablation.shown]
    return [_trained(ablation), drew.strip(), f"Metrics: {'; '.join(defined)}."]


def _trained(ablation: Ablation) -> str:
    """What was varied, and for how long each variant was trained."""
    factors = sorted({row.factor for row in ablation.rows if row.factor and " + " not in row.factor})
    named = f" ({', '.join(factors)})" if factors else ""
    budget = "" if ablation.steps is None else f" for {ablation.steps:,} steps"
    seen = "" if ablation.samples is None else f", which see {ablation.samples:,} samples"
    return (
        f"We ablated the recipe {ablation.name} by {ablation.design}{named}: {len(ablation.rows)} variants, each "
        f"trained with the seeds {', '.join(map(str, ablation.seeds))}{budget}{seen}. Variants share samples and "
        f"noise, so differences are paired.{_rates(ablation)}"
    )


def _rates(ablation: Ablation) -> str:
    rates = sorted({row.learning_rate for row in ablation.rows if row.learning_rate is not None})
    return f" Peak learning rates: {', '.join(f'{rate:g}' for rate in rates)}." if rates else ""


def _absent(ablation: Ablation) -> list[str]:
    lines = [f"{row.title}: {row.status}" for row in ablation.rows if row.status != MEASURED]
    return [*lines, *(f"{name}: {why}" for name, why in ablation.not_measured.items())]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of nested facts."""
    facts: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            facts += _flat(value, f"{prefix}{name}: ")
        else:
            facts.append((f"{prefix}{name}", as_text(value)))
    return facts


def _table_file(ablation: Ablation, lines: Sequence[VariantLine]) -> TableFile:
    rows: list[list[str]] = []
    for line in lines:
        cells: list[str] = []
        for cell in line.cells:
            gap = f"; {cell.difference} {cell.verdict}" if cell.difference else ""
            cells.append(f"{cell.value} {cell.range}{gap}".strip())
        rows.append([line.title, *cells, line.parameters, line.time])
    values: list[list[str | float | int | None]] = []
    for row in ablation.rows:
        for kind, scores in (("value", row.metrics), ("minus the baseline", row.differences)):
            for name, score in scores.items():
                numbers = [score.value, score.low, score.high, score.n, score.contents, score.styles, score.seeds]
                verdict = score.verdict if isinstance(score, VariantDifference) else ""
                values.append([row.name, row.factor, row.level, kind, name, *numbers, verdict])
    heads: list[str] = []
    for name in ablation.shown:
        metric = ablation.metrics[name]
        heads.append(f"{metric.title} {_ARROWS.get(metric.better, ('', ''))[0]} ({metric.unit})")
    fields = ("row", "factor", "level", "kind", "metric", "value", "low", "high", "n", "contents", "styles", "seeds")
    return TableFile(
        "ablation",
        f"Ablation of {ablation.name}, {ablation.design}: value [interval]; difference to {ablation.baseline}.",
        ["variant", *heads, "parameters", "time"],
        rows,
        (*fields, "verdict"),
        values,
    )
