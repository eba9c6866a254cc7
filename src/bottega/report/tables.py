"""The evaluation, the calibration and the costs as rows that a template only has to lay out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bottega.report.reading import Run, as_text, number
from bottega.report.verdict import between, figure, measured
from bottega.teacher.config import ORACLE, ORACLE_MEANING
from bottega.visual.curves import Interval, draw_intervals

METHODS = ("student", "teacher", "base")
_PLOTTED = ("kind_gain", "objects_found", "truth")
_ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}
_CEILING = "truth"


def evaluation(summary: Mapping[str, Any], *, oracle: bool = False) -> dict[str, Any]:
    """The evaluation for the page: head, rows in groups, claims, plots, differences, labels, what was not measured.

    Args:
        summary: the content of `evaluation/summary.json`.
        oracle: drawn truths stood in for the teacher; the summary of an older version does not say so.
    """
    if oracle and "teacher" in summary.get("rows", {}):
        named = summary["rows"]["teacher"] | {"title": ORACLE, "meaning": ORACLE_MEANING}
        summary = {**summary, "rows": {**summary["rows"], "teacher": named}}
    metrics, rows = summary.get("metrics", {}), summary.get("rows", {})
    notes: dict[str, int] = {}
    weak = {name for name, found in summary.get("discrimination", {}).items() if not found.get("discriminates", True)}
    shown = [name for name in metrics if any(measured(summary, row, name) for row in rows)]
    head = [_head(name, metrics[name], name in weak) for name in shown]
    groups = [
        ("methods", [_row(key, rows[key], shown, notes) for key in METHODS if key in rows]),
        ("controls", [_row(key, rows[key], shown, notes) for key in rows if key not in (*METHODS, _CEILING)]),
        ("ceiling", [_row(key, rows[key], shown, notes) for key in rows if key == _CEILING]),
    ]
    return {
        "head": head,
        "groups": [(name, found) for name, found in groups if found],
        "notes": notes,
        "claims": [_claim(claim) for claim in summary.get("claims", [])],
        "plots": [
            (metrics[name]["title"], plot) for name in _PLOTTED if name in metrics and (plot := _plot(summary, name))
        ],
        "differences": _differences(summary, shown),
        "labels": _labels(summary, shown),
        "weak": [metrics[name]["title"] for name in metrics if name in weak],
        "absent": _absent(metrics, rows, shown),
        "interval": summary.get("interval", {}),
        "pairs": summary.get("pairs"),
        "contents": summary.get("contents"),
        "styles": summary.get("styles"),
    }


def _head(name: str, metric: Mapping[str, Any], weak: bool) -> dict[str, Any]:
    arrow, words = _ARROWS.get(str(metric.get("better")), ("", ""))
    meaning = ". ".join(text for text in (str(metric.get("meaning", "")), words) if text)
    return {
        "name": name,
        "title": metric.get("title", name),
        "unit": metric.get("unit", ""),
        "arrow": arrow,
        "words": words,
        "meaning": meaning,
        "weak": weak,
    }


def _row(key: str, row: Mapping[str, Any], shown: list[str], notes: dict[str, int]) -> dict[str, Any]:
    status = str(row.get("status", ""))
    cells = [_cell(row.get("metrics", {}).get(name, {}), row.get("pairs"), notes) for name in shown]
    return {
        "key": key,
        "title": row.get("title", key),
        "meaning": row.get("meaning", ""),
        "unavailable": "" if status == "measured" else status,
        "pairs": row.get("pairs"),
        "cells": cells,
    }


def _cell(cell: Mapping[str, Any], pairs: Any, notes: dict[str, int]) -> dict[str, Any]:
    value = number(cell.get("value"))
    if cell.get("status") != "measured" or value is None:
        reason = str(cell.get("status", "not measured"))
        return {"value": "—", "range": "", "n": "", "note": notes.setdefault(reason, len(notes) + 1), "title": reason}
    n = cell.get("n")
    return {
        "value": figure(value),
        "range": between(cell).strip() or "no interval",
        "n": "" if n == pairs else f"n {n}",
        "note": 0,
        "title": f"n = {n}: {cell.get('contents')} contents × {cell.get('styles')} styles",
    }


def _claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    value = number(claim.get("value"))
    state = {True: "met", False: "missed"}.get(claim.get("met"), "not measured")  # type: ignore[arg-type]
    bar = number(claim.get("bar")) or 0.0
    return {
        "text": claim.get("claim", ""),
        "state": state,
        "value": "—" if value is None else figure(value),
        "bar": f"{claim.get('side')} {figure(bar)}",
    }


def _plot(summary: Mapping[str, Any], name: str) -> str:
    metric, lines = summary["metrics"][name], []
    for key, row in summary["rows"].items():
        if cell := measured(summary, key, name):
            lines.append(
                Interval(
                    str(row.get("title", key)),
                    cell["value"],
                    number(cell.get("low")),
                    number(cell.get("high")),
                    key == "student",
                )
            )
    arrow, words = _ARROWS.get(str(metric.get("better")), ("", ""))
    return draw_intervals(
        lines,
        f"{metric['title']} of every method with its interval, {words}",
        f"{metric.get('unit', '')}   {arrow} {words}".strip(),
    )


def _differences(summary: Mapping[str, Any], shown: list[str]) -> list[dict[str, Any]]:
    found = []
    for key, cells in summary.get("differences", {}).items():
        title = summary["rows"].get(key, {}).get("title", key)
        found.append(
            {"title": title, "cells": [_difference(cells.get(name), summary["metrics"][name]) for name in shown]}
        )
    return found


def _difference(cell: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> dict[str, str]:
    value = number((cell or {}).get("value"))
    if cell is None or value is None:
        return {"value": "—", "range": "", "tone": ""}
    low, high = number(cell.get("low")), number(cell.get("high"))
    tone = ""
    if low is not None and high is not None and (low > 0 or high < 0):
        tone = {"higher": ("worse", "better"), "lower": ("better", "worse")}.get(str(metric.get("better")), ("", ""))[
            value > 0
        ]
    return {"value": f"{'+' if value > 0 else ''}{figure(value)}", "range": between(cell).strip(), "tone": tone}


def _labels(summary: Mapping[str, Any], shown: list[str]) -> list[dict[str, Any]]:
    """A row a style label; each cell with its place between the metric's worst (0) and best (1) label, for a tint."""
    labels = summary.get("per_label", {})
    rows = []
    for label, found in labels.items():
        cells = []
        for name in shown:
            value = number(found.get(name))
            column = [v for other in labels.values() if (v := number(other.get(name))) is not None]
            low, high = min(column, default=0.0), max(column, default=0.0)
            place = 0.5 if value is None or high <= low else (value - low) / (high - low)
            if summary["metrics"][name].get("better") == "lower":
                place = 1 - place
            cells.append({"value": "—" if value is None else figure(value), "place": round(100 * place)})
        rows.append({"title": label, "cells": cells})
    return rows


def _absent(metrics: Mapping[str, Any], rows: Mapping[str, Any], shown: list[str]) -> list[str]:
    """Sentences about rows and metrics without a number."""
    sentences = [
        f"{row.get('title', key)}: {_plain(row.get('status'))}"
        for key, row in rows.items()
        if row.get("status") != "measured"
    ]
    for name, metric in metrics.items():
        if name not in shown:
            why = next(
                (
                    row["metrics"][name].get("status")
                    for row in rows.values()
                    if row.get("status") == "measured" and name in row.get("metrics", {})
                ),
                "no row was measured",
            )
            sentences.append(f"{metric.get('title', name)}: {_plain(why)}")
    return sentences


def _plain(status: Any) -> str:
    return str(status or "not measured").removeprefix("unavailable: ")


def calibration(table: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What each check lets through of good and known-bad pictures, with the limits; None without a calibration."""
    if not table or not isinstance(table.get("table"), Mapping):
        return None
    inner = table["table"]
    rates, grades, counts = inner.get("pass_rates", {}), inner.get("grades", {}), inner.get("counts", {})
    checks = list(next(iter(rates.values()), {}))
    rows = [
        {
            "kind": kind,
            "good": kind == "good",
            "n": counts.get(kind, 0),
            "grades": [_percent(grades.get(kind, {}).get(letter)) for letter in "ABC"],
            "c": round(100 * (number(grades.get(kind, {}).get("C")) or 0)),
            "checks": [
                {"value": _percent(found.get(check)), "rejected": round(100 * (1 - (number(found.get(check)) or 0)))}
                for check in checks
            ],
        }
        for kind, found in rates.items()
    ]
    limits = {name: as_text(value) for name, value in inner.get("thresholds", {}).items()}
    return {
        "checks": [check.replace("_", " ") for check in checks],
        "rows": rows,
        "limits": limits,
        "warnings": inner.get("warnings", []),
    }


def _percent(share: Any) -> str:
    value = number(share)
    return "—" if value is None else f"{100 * value:.0f}"


def costs(run: Run) -> dict[str, Any]:
    """Time and memory of each stage, with bars relative to the longest and the largest."""
    longest = max((s.seconds or 0.0 for s in run.stages), default=0.0) or 1.0
    largest = max((s.peak_rss_mb or 0.0 for s in run.stages), default=0.0) or 1.0
    rows = [
        {
            "stage": stage,
            "time": duration(stage.seconds),
            "time_share": round(100 * (stage.seconds or 0) / longest),
            "memory": "—" if stage.peak_rss_mb is None else f"{stage.peak_rss_mb:,.0f} MB",
            "memory_share": round(100 * (stage.peak_rss_mb or 0) / largest),
            "vram": "" if not stage.peak_vram_mb else f"{stage.peak_vram_mb:,.0f} MB",
        }
        for stage in run.stages
    ]
    total = sum(s.seconds or 0.0 for s in run.stages)
    known = any(s.seconds is not None for s in run.stages)
    return {
        "rows": rows,
        "total": duration(total if known else None),
        "peak": f"{largest:,.0f} MB" if known else "—",
        "vram": any(r["vram"] for r in rows),
    }


def duration(seconds: float | None) -> str:
    """`7.4 s`, `3 min 20 s`, `2 h 05 min`; a dash where nothing is known."""
    if seconds is None:
        return "—"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min" if seconds >= 3600 else f"{minutes} min {int(seconds) % 60:02d} s"
    )


def provenance(run: Run) -> list[tuple[str, list[tuple[str, str]]]]:
    """Groups of (name, value): where it ran, versions, the hash of every model."""
    facts = dict(run.provenance)
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    for name, title in (("packages", "Versions"), ("weights", "Weights, sha256")):
        found = facts.pop(name, None)
        if isinstance(found, Mapping) and found:
            groups.append((title, [(str(key), _hash_of(value)) for key, value in found.items()]))
    machines = {
        stage.name: ", ".join(as_text(value) for value in stage.machine.values())
        for stage in run.stages
        if stage.machine
    }
    if machines:
        names = next(stage.machine for stage in run.stages if stage.machine)
        groups.append(
            (f"Each stage ran on ({', '.join(name.replace('_', ' ') for name in names)})", list(machines.items()))
        )
    plain = [
        (key.replace("_", " "), as_text(value))
        for key, value in facts.items()
        if value not in (None, {}, []) and key != "stages"
    ]
    return ([("Machine and code", plain)] if plain else []) + groups


def _hash_of(value: Any) -> str:
    """The hash of a model that is recorded with its files, or the value itself."""
    return as_text(value["sha256"]) if isinstance(value, Mapping) and "sha256" in value else as_text(value)
