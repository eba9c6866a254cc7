"""The page of a comparison of runs: every method against the first, metric by metric, as `compare.json` judged it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bottega.evaluation.records import ComparedDifference, ComparisonRecord, FactorRecord
from bottega.report.evaluation_table import JudgedCell
from bottega.report.format import UNKNOWN, between, figure
from bottega.report.tables import TableFile, write_tables
from bottega.runtime.files import read_json, write_text
from bottega.runtime.records import to_record
from bottega.visual.curves import Interval, draw_intervals
from bottega.visual.page import render

NAME = "report.html"
SOURCE = "compare.json"
_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


@dataclass(frozen=True)
class ComparedLine:
    """A method's row. trainings: how many, and the seeds."""

    title: str
    trainings: str
    is_first: bool
    cells: list[JudgedCell]


def is_comparison(directory: Path) -> bool:
    """Whether a folder holds a comparison, and no run that it may have been written into."""
    return (directory / SOURCE).is_file() and not (directory / "recipe.yaml").is_file()


def run(directory: Path) -> Path:
    """Write `report.html` and the table into a comparison's folder; returns the page.

    Raises:
        RequestError: its `compare.json` is not one.
        StorageError: the page can't be written.
    """
    record = to_record(ComparisonRecord, read_json(directory / SOURCE), str(directory / SOURCE))
    lines = [_line(name, record) for name in record["methods"]]
    heads = [(metric, *_ARROWS.get(metric["better"], ("", ""))) for metric in record["metrics"].values()]
    page = render(
        Path(__file__).with_name("comparison.html"),
        record=record,
        heads=heads,
        lines=lines,
        plots=_plots(record),
        seen=[_seen(name, record) for name in record["differences"]],
    )
    write_text(directory / NAME, page)
    write_tables(directory, [_table_file(record, lines)])
    return directory / NAME


def _line(name: str, record: ComparisonRecord) -> ComparedLine:
    method = record["methods"][name]
    differences = record["differences"].get(name, {})
    cells = [_cell(method["metrics"].get(metric), differences.get(metric)) for metric in record["metrics"]]
    seeds = ", ".join(map(str, method["seeds"]))
    trainings = f"{len(method['runs'])} training{'s' if len(method['runs']) > 1 else ''}, seed {seeds}"
    return ComparedLine(name, trainings, name == record["first"], cells)


def _cell(score: FactorRecord | None, gap: ComparedDifference | None) -> JudgedCell:
    if score is None:
        return JudgedCell(UNKNOWN)
    title = f"n = {score['n']}: {score['contents']} contents × {score['styles']} styles × {score['seeds']} seeds"
    title += f"; {score['no_interval'] or score['note']}" if score["no_interval"] or score["note"] else ""
    value, ends = figure(score["value"]), between(score["low"], score["high"]) or "no interval"
    if gap is None:
        return JudgedCell(value, ends, title=title)
    corrected = gap["corrected"]
    size = gap["difference"]["value"]
    difference = (
        f"{'+' if size > 0 else ''}{figure(size)} {between(corrected['low'], corrected['high']) or 'no interval'}"
    )
    tone = corrected["outcome"] if corrected["outcome"] in ("better", "worse") else ""
    return JudgedCell(value, ends, title=title, difference=difference, verdict=_verdict(gap), tone=tone)


def _verdict(gap: ComparedDifference) -> str:
    corrected = gap["corrected"]
    if corrected["outcome"] == "inconclusive" and corrected["detectable"] is not None:
        return f"inconclusive below {figure(corrected['detectable'])}"
    signs = {"better": "▲ better", "worse": "▼ worse", "differs": "◆ differs"}
    return signs.get(corrected["outcome"], corrected["outcome"])


def _seen(name: str, record: ComparisonRecord) -> str:
    """What can be said of a method against the first one."""
    said: list[str] = []
    for metric, gap in record["differences"][name].items():
        if gap["corrected"]["outcome"] in ("better", "worse", "differs"):
            said.append(f"{gap['corrected']['outcome']} in {record['metrics'][metric]['title']}")
    return f"{name} against {record['first']}: {', '.join(said) or 'no difference can be seen'}."


def _plots(record: ComparisonRecord) -> list[tuple[str, str]]:
    """(title, `<svg>`) of each metric: every method with its interval, the first marked."""
    plots: list[tuple[str, str]] = []
    for name, metric in record["metrics"].items():
        intervals: list[Interval] = []
        for title, method in record["methods"].items():
            score = method["metrics"].get(name)
            if score is not None:
                is_first = title == record["first"]
                intervals.append(Interval(title, score["value"], score["low"], score["high"], is_first))
        arrow, words = _ARROWS.get(metric["better"], ("", ""))
        about = f"{metric['title']} of every method with its interval, {words}"
        plots.append((metric["title"], draw_intervals(intervals, about, f"{metric['unit']}   {arrow} {words}".strip())))
    return plots


def _table_file(record: ComparisonRecord, lines: Sequence[ComparedLine]) -> TableFile:
    rows: list[list[str]] = []
    for line in lines:
        cells: list[str] = []
        for cell in line.cells:
            more = f"; {cell.difference} {cell.verdict}" if cell.difference else ""
            cells.append(f"{cell.value} {cell.range}{more}".strip())
        rows.append([line.title, *cells, line.trainings])
    values: list[list[str | float | int | None]] = []
    for name, method in record["methods"].items():
        for metric, score in method["metrics"].items():
            numbers = [score["value"], score["low"], score["high"], score["n"], score["seeds"]]
            values.append([name, "value", metric, *numbers, ""])
    for name, gaps in record["differences"].items():
        for metric, gap in gaps.items():
            corrected, size = gap["corrected"], gap["difference"]
            numbers = [size["value"], corrected["low"], corrected["high"], size["n"], size["seeds"]]
            values.append([name, f"minus {record['first']}", metric, *numbers, corrected["outcome"]])
    heads = [f"{m['title']} {_ARROWS.get(m['better'], ('', ''))[0]} ({m['unit']})" for m in record["metrics"].values()]
    return TableFile(
        "comparison",
        f"Row {record['row']} of {len(record['methods'])} methods on {record['pairs']} pairs that all have: "
        f"value [interval]; difference to {record['first']}, corrected for the number of metrics.",
        ["method", *heads, "trainings"],
        rows,
        ("method", "kind", "metric", "value", "low", "high", "n", "seeds", "outcome"),
        values,
    )
