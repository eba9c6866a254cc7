"""The evaluation as a Markdown table for people: value [low, high], a row a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bottega.evaluation.metrics import METRICS
from bottega.evaluation.records import (
    CircleCell,
    ClaimRecord,
    EstimateRecord,
    MetricCell,
    RowDifferenceRecord,
    StyleTestRecord,
    SummaryRecord,
)
from bottega.evaluation.style_probe import describe_probe
from bottega.evaluation.verdicts import figures

ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}
"""The direction in which a metric is better."""


def markdown(summary: SummaryRecord) -> str:
    """`table.md` from what `summary.json` holds."""
    rows = summary["rows"]
    reasons: dict[str, int] = {}
    weak = [name for name, found in summary["discrimination"].items() if not found["discriminates"]]
    head: list[str] = []
    for name, metric in METRICS.items():
        mark = " †" if name in weak else ""
        head.append(f"{metric.title} {ARROWS[metric.better]} ({metric.unit}){mark}")
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
        *_discrimination(summary, weak),
        *_judges(summary),
        *_circles(summary),
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


def _discrimination(summary: SummaryRecord, weak: Sequence[str]) -> list[str]:
    """Which metrics do not order the controls, and of which nobody knows."""
    lines: list[str] = []
    if weak:
        titles = ", ".join(METRICS[name].title for name in weak)
        lines += [f"Not discriminating here (†: two controls are not distinguished): {titles}.", ""]
    measured = {name for row in summary["rows"].values() for name in METRICS if "value" in row["metrics"][name]}
    unknown = [METRICS[name].title for name in METRICS if name in measured and name not in summary["discrimination"]]
    if unknown:
        lines += [f"Not checked, as the two controls or their interval are missing: {', '.join(unknown)}.", ""]
    return lines


def _judges(summary: SummaryRecord) -> list[str]:
    """What the judges of style are worth on real paintings: their numbers mean nothing without it."""
    lines: list[str] = []
    for metric, test in summary.get("style_tests", {}).items():
        lines += [f"- {METRICS[metric].title}, tested on the style pictures: {_style_test(test)}."]
    probe = summary.get("style_probe")
    if probe is not None:
        lines += [f"- {line}" for line in describe_probe(probe)]
    return [*lines, ""] if lines else []


def _circles(summary: SummaryRecord) -> list[str]:
    """Fill50K's table; where there is none, why."""
    found = summary.get("fill50k")
    if found is None:
        return []
    if found["status"] != "measured":
        return [f"Fill50K: {found['status']}.", ""]
    lines = ["Fill50K's test examples, outline to filled circle, without a style:", ""]
    lines += table_head("method", "circle's IoU ↑ (%)", "colour inside ↓ (ΔE)", "colour outside ↓ (ΔE)", "n")
    for method, means in found["methods"].items():
        cells = [_circle_cell(cell) for cell in means["metrics"].values()]
        lines.append(table_row(method, *cells, str(means["pictures"])))
    return [*lines, ""]


def _circle_cell(cell: CircleCell) -> str:
    if cell["low"] is None or cell["high"] is None:
        return short(cell["value"])
    return f"{short(cell['value'])} [{short(cell['low'])}, {short(cell['high'])}]"


def _style_test(test: StyleTestRecord) -> str:
    if test["status"] != "measured":
        return test["status"]
    gap = f"gap {short(test['gap'])} [{short(test['low'])}, {short(test['high'])}]"
    verdict = "" if test["discriminates"] else "; **it does not tell styles apart here**"
    return (
        f"two of one style {short(test['same'])}, of different styles {short(test['other'])}, {gap} over "
        f"{test['paintings']} pictures of {test['labels']} styles{verdict}"
    )


def _differences(summary: SummaryRecord, reasons: dict[str, int]) -> list[str]:
    if not summary["differences"]:
        return []
    measured: set[str] = set()
    for found in summary["differences"].values():
        measured.update(found)
    names = [name for name in METRICS if name in measured]
    titles = [f"{METRICS[name].title} {ARROWS[METRICS[name].better]}" for name in names]
    lines = [
        "Student minus …, on the same pairs. Intervals are corrected for the metrics of a line (Holm), and are for "
        "this one training: what another seed would change is not in them. *Inconclusive below X*: differences below "
        "X cannot be seen with this design.",
        "",
    ]
    lines += table_head("minus", *titles)
    for row, found in summary["differences"].items():
        cells = [_verdict(found[name], reasons) if name in found else "—" for name in names]
        lines.append(table_row(summary["rows"][row]["title"], *cells))
    return [*lines, ""]


def _verdict(cell: RowDifferenceRecord, reasons: dict[str, int]) -> str:
    """The difference with its corrected interval, and who wins; bold where anybody does."""
    found = cell["corrected"]
    value = short(cell["value"])
    if found["low"] is None or found["high"] is None:
        number = reasons.setdefault(found["verdict"], len(reasons) + 1)
        return f"{value} [no interval ({number})]"
    text = f"{value} [{short(found['low'])}, {short(found['high'])}]"
    if found["outcome"] == "inconclusive":
        return f"{text} inconclusive below {figures(found['detectable'] or 0.0)}"
    return f"**{text}** {found['outcome']}"
