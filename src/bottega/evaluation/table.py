"""The evaluation as a Markdown table for people: value [low, high], a row a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bottega.evaluation.metrics import METRICS

_ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def markdown(summary: Mapping[str, Any]) -> str:
    """`table.md` from what `summary.json` holds."""
    rows = summary["rows"]
    reasons: dict[str, int] = {}
    head = [f"{m.title} {_ARROWS[m.better]} ({m.unit})" for m in METRICS.values()]
    lines = ["| method | " + " | ".join(head) + " | n |", "|---" * (len(head) + 2) + "|"]
    for row in rows.values():
        cells = [_cell(row["metrics"][name], reasons) for name in METRICS]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + f" | {row['pairs']} |")
    interval = summary["interval"]
    text = [
        "# Evaluation",
        "",
        f"{summary['pairs']} pairs: {summary['contents']} contents × {summary['styles']} styles of "
        f"{summary['labels']} labels. In brackets the {interval['level']:.0%} interval: contents and "
        f"styles resampled, {interval['draws']} draws.",
        "",
        *lines,
        "",
        *_notes(reasons),
        *_claims(summary),
        *_discrimination(summary),
        *_differences(summary),
    ]
    return "\n".join(text).rstrip() + "\n"


def _cell(cell: Mapping[str, Any], reasons: dict[str, int]) -> str:
    if cell["status"] != "measured":
        return f"— ({reasons.setdefault(cell['status'], len(reasons) + 1)})"
    return _estimate(cell)


def _estimate(cell: Mapping[str, Any]) -> str:
    if cell["low"] is None:
        return f"{_number(cell['value'])} [no interval]"
    return f"{_number(cell['value'])} [{_number(cell['low'])}, {_number(cell['high'])}]"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _notes(reasons: Mapping[str, int]) -> list[str]:
    if not reasons:
        return []
    return [*(f"({number}) {reason}  " for reason, number in reasons.items()), ""]


def _claims(summary: Mapping[str, Any]) -> list[str]:
    said = {True: "met", False: "**missed**", None: "not measured"}
    lines = ["| claim | bar | value | |", "|---|---|---|---|"]
    for claim in summary["claims"]:
        value = "—" if claim["value"] is None else _number(claim["value"])
        lines.append(f"| {claim['claim']} | {claim['side']} {_number(claim['bar'])} | {value} | {said[claim['met']]} |")
    return [*lines, ""] if summary["claims"] else []


def _discrimination(summary: Mapping[str, Any]) -> list[str]:
    weak = [METRICS[name].title for name, found in summary["discrimination"].items() if not found["discriminates"]]
    return [f"Not discriminating here (two controls are not told apart): {', '.join(weak)}.", ""] if weak else []


def _differences(summary: Mapping[str, Any]) -> list[str]:
    if not summary["differences"]:
        return []
    names = [name for name in METRICS if any(name in found for found in summary["differences"].values())]
    lines = [
        "Student minus …, on the same pairs (paired; bold where the interval excludes 0):",
        "",
        "| minus | " + " | ".join(METRICS[name].title for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row, found in summary["differences"].items():
        cells = [_bold(found[name]) if name in found else "—" for name in names]
        lines.append(f"| {summary['rows'][row]['title']} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _bold(cell: Mapping[str, Any]) -> str:
    text = _estimate(cell)
    apart = cell["low"] is not None and (cell["low"] > 0 or cell["high"] < 0)
    return f"**{text}**" if apart else text
