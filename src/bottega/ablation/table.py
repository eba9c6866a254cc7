"""The table of an ablation for people (Markdown) and for other programs (CSV)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from bottega.ablation.records import AblationRow, AblationSummary, FactorDifference
from bottega.ablation.summary import SHOWN
from bottega.evaluation.records import FactorRecord, MetricCell

_OF_ROW = ("name", "factor", "level", "learning_rate", "parameters", "seconds", "cost")
_OF_METRIC = ("metric", "value", "low", "high", "n", "seeds")
_OF_DIFFERENCE = ("difference", "difference_low", "difference_high", "p_value", "verdict")
"""Columns of the CSV."""


def as_markdown(summary: AblationSummary) -> str:
    """The rows with value [interval], and the difference to the baseline with its interval and verdict."""
    shown = [metric for metric in SHOWN if metric in summary["rows"][0]["metrics"]]
    titles = [_title(summary, metric) for metric in shown]
    lines = [f"# Ablation of {summary['name']}, {summary['design']}", "", _design(summary), ""]
    lines += [_line(["variant", "learning rate", "cost", *titles]), _line(["---"] * (3 + len(shown)))]
    lines += _rows(summary, shown)
    lines += ["", "## Difference to the baseline", ""]
    lines += [_line(["variant", *titles]), _line(["---"] * (1 + len(shown)))]
    lines += _differences(summary, shown)
    lines += ["", f"Note: {summary['interval_note']}.", *_missing(summary)]
    return "\n".join(lines) + "\n"


def _design(summary: AblationSummary) -> str:
    return (
        f"{len(summary['rows'])} variants × {len(summary['seeds'])} training seeds, {summary['steps']} steps "
        f"({summary['samples']} samples) each; {summary['pairs']} test pairs ({summary['contents']} contents × "
        f"{summary['styles']} styles), drawn from the same noise. Intervals at {summary['level']:.0%}: "
        f"{summary['interval']}."
    )


def _rows(summary: AblationSummary, shown: Sequence[str]) -> list[str]:
    """A line a variant, then a line a control."""
    lines: list[str] = []
    for row in summary["rows"]:
        cells = [_value(row["metrics"].get(metric)) for metric in shown]
        lines.append(_line([row["name"], f"{row['learning_rate']:g}", f"{row['cost']:.2f}", *cells]))
    for name, control in summary["controls"].items():
        cells = [_control(control.get(metric)) for metric in shown]
        lines.append(_line([f"*{name}*", "", "", *cells]))
    return lines


def _differences(summary: AblationSummary, shown: Sequence[str]) -> list[str]:
    """A line for each variant but the baseline."""
    lines: list[str] = []
    for row in summary["rows"]:
        if row["name"] != summary["baseline"]:
            cells = [_difference(row["differences"].get(metric)) for metric in shown]
            lines.append(_line([row["name"], *cells]))
    return lines


def _missing(summary: AblationSummary) -> list[str]:
    """What has no number, and why."""
    lines = [f"- {what}: {why}" for what, why in summary["not_measured"].items()]
    for row in summary["rows"]:
        if row["status"] != "measured":
            lines.append(f"- {row['name']}: {row['status']}")
    return lines


def as_csv(summary: AblationSummary) -> str:
    """A line for each row and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_OF_ROW, *_OF_METRIC, *_OF_DIFFERENCE])
    for row in summary["rows"]:
        for metric, mean in row["metrics"].items():
            writer.writerow([*_row_columns(row), metric, *_columns(mean), *_gap(row["differences"].get(metric))])
    return text.getvalue()


def _row_columns(row: AblationRow) -> list[object]:
    return [row[name] for name in _OF_ROW]  # type: ignore[literal-required]


def _columns(mean: FactorRecord) -> list[object]:
    return [mean["value"], mean["low"], mean["high"], mean["n"], mean["seeds"]]


def _gap(difference: FactorDifference | None) -> list[object]:
    if difference is None:
        return ["", "", "", "", ""]
    bounds = [difference["low"], difference["high"]]
    return [difference["value"], *bounds, difference["p_value"], difference["verdict"]]


def _title(summary: AblationSummary, metric: str) -> str:
    found = summary["metrics"][metric]
    arrow = {"higher": " ↑", "lower": " ↓"}.get(found["better"], "")
    return f"{found['title']}, {found['unit']}{arrow}"


def _value(mean: FactorRecord | None) -> str:
    if mean is None:
        return "–"
    return f"{mean['value']:.2f} {_interval(mean)}"


def _control(cell: MetricCell | None) -> str:
    return f"{cell['value']:.2f}" if cell is not None and "value" in cell else "–"


def _difference(found: FactorDifference | None) -> str:
    if found is None:
        return "–"
    text = f"{found['value']:+.2f} {_interval(found)}"
    return f"**{text}** {found['verdict']}" if found["verdict"] != "inconclusive" else text


def _interval(mean: FactorRecord) -> str:
    if mean["low"] is None or mean["high"] is None:
        return "[no interval]"
    return f"[{mean['low']:.2f}, {mean['high']:.2f}]"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
