"""The evaluation as a Markdown table for people: value [low, high], a row a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bottega.evaluation.metrics import METRICS
from bottega.evaluation.records import ClaimRecord, DiscriminationRecord, EstimateRecord, MetricCell, SummaryRecord

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
"""The direction in which a metric is better."""


def markdown(summary: SummaryRecord) -> str:
    """`table.md` from what `summary.json` holds."""
    rows = summary["rows"]
    reasons: dict[str, int] = {}
    head = [f"{metric.title} {ARROWS[metric.better]} ({metric.unit})" for metric in METRICS.values()]
    lines = table_head("method", *head, "n")
    for row in rows.values():
        cells = [_cell(row["metrics"][name], reasons) for name in METRICS]
        lines.append(table_row(row["title"], *cells, str(row["pairs"])))
    interval = summary["interval"]
    text = [
        "# Evaluation",
        "",
        f"{summary['pairs']} pairs: {summary['contents']} contents × {summary['styles']} styles of "
        f"{summary['labels']} labels. In brackets the {interval['level']:.0%} interval: contents and "
        f"styles resampled, {interval['draws']} draws, more where the level needs them.",
        "",
        *_painter(summary),
        *lines,
        "",
        *_claims(summary["claims"]),
        *_discrimination(summary["discrimination"]),
        *_differences(summary, reasons),
        *_notes(reasons),
    ]
    return "\n".join(text).rstrip() + "\n"


def _painter(summary: SummaryRecord) -> list[str]:
    """Who drew the teacher's row: the table alone must say whether a network did."""
    if "teacher" not in summary:
        return []
    row = summary["rows"]["teacher"]
    return [f"Row *{row['title']}*: {row['meaning']}.", ""]


def table_head(*titles: str) -> list[str]:
    """The head of a table: the titles, and the line that Markdown has under them."""
    return [table_row(*titles), "|---" * len(titles) + "|"]


def table_row(*cells: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def _cell(cell: MetricCell, reasons: dict[str, int]) -> str:
    if cell["status"] != "measured":
        number = reasons.setdefault(cell["status"], len(reasons) + 1)
        return f"— ({number})"
    return _estimate(cell, reasons)


def _estimate(cell: MetricCell | EstimateRecord, reasons: dict[str, int]) -> str:
    if cell["low"] is None or cell["high"] is None:
        number = reasons.setdefault(f"no interval: {cell['no_interval']}", len(reasons) + 1)
        return f"{short(cell['value'])} [no interval ({number})]"
    return f"{short(cell['value'])} [{short(cell['low'])}, {short(cell['high'])}]"


def short(value: float) -> str:
    """A number as the tables have it."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _notes(reasons: Mapping[str, int]) -> list[str]:
    if not reasons:
        return []
    notes = [f"({number}) {reason}  " for reason, number in reasons.items()]  # two blanks: Markdown's line break
    return [*notes, ""]


def _claims(claims: Sequence[ClaimRecord]) -> list[str]:
    if not claims:
        return []
    verdicts = {True: "met", False: "**missed**", None: "not measured"}
    lines = ["| claim | bar | value | |", "|---|---|---|---|"]
    for claim in claims:
        bar = f"{claim['side']} {short(claim['bar'])}"
        value = "—" if claim["value"] is None else short(claim["value"])
        lines.append(table_row(claim["claim"], bar, value, verdicts[claim["met"]]))
    return [*lines, ""]


def _discrimination(discrimination: Mapping[str, DiscriminationRecord]) -> list[str]:
    weak = [METRICS[name].title for name, found in discrimination.items() if not found["discriminates"]]
    if not weak:
        return []
    return [f"Not discriminating here (two controls are not distinguished): {', '.join(weak)}.", ""]


def _differences(summary: SummaryRecord, reasons: dict[str, int]) -> list[str]:
    if not summary["differences"]:
        return []
    measured: set[str] = set()
    for found in summary["differences"].values():
        measured.update(found)
    names = [name for name in METRICS if name in measured]
    titles = [METRICS[name].title for name in names]
    lines = ["Student minus …, on the same pairs (paired; bold where the interval excludes 0):", ""]
    lines += table_head("minus", *titles)
    for row, found in summary["differences"].items():
        cells = [_bold(found[name], reasons) if name in found else "—" for name in names]
        lines.append(table_row(summary["rows"][row]["title"], *cells))
    return [*lines, ""]


def _bold(cell: EstimateRecord, reasons: dict[str, int]) -> str:
    """The estimate, bold where its interval excludes 0."""
    text = _estimate(cell, reasons)
    if cell["low"] is None or cell["high"] is None:
        return text
    return f"**{text}**" if cell["low"] > 0 or cell["high"] < 0 else text
