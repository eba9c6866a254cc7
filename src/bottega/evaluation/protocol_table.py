"""A protocol's numbers as a Markdown table for people."""

from __future__ import annotations

from bottega.evaluation.protocol_records import ProtocolSummary
from bottega.evaluation.records import MetricCell
from bottega.runtime.escape import escaped

_NAMED = 5  # files that are named of many


def protocol_markdown(summary: ProtocolSummary) -> str:
    """`table.md` from what `summary.json` holds."""
    metrics = summary["metrics"]
    reasons: dict[str, int] = {}
    lines = [_line("", *(f"{metric['title']} ↓" for metric in metrics.values())), "|---" * (len(metrics) + 1) + "|"]
    for row in summary["rows"].values():
        lines.append(_line(row["title"], *(_cell(row["metrics"][name], reasons) for name in metrics)))
    notes = [f"({number}) {reason}  " for reason, number in reasons.items()]
    text = [
        f"# {summary['protocol']}: {escaped(summary['folder'])}",
        "",
        verdict(summary),
        "",
        f"{summary['pairs']} outputs: {summary['contents']} contents × {summary['styles']} styles, named "
        f"`{escaped(summary['pattern'])}`. In brackets the {summary['interval']['level']:.0%} interval: "
        f"{summary['interval']['means']}; of FID and ArtFID {summary['interval']['distances']}.",
        "",
        *lines,
        "",
        *notes,
        *([""] if notes else []),
        *_warnings(summary),
        "What the published script does, and is done here likewise:",
        "",
        *(f"- {quirk}" for quirk in summary["quirks"]),
    ]
    return "\n".join(text).rstrip() + "\n"


def verdict(summary: ProtocolSummary) -> str:
    """Whether the numbers may be set beside published ones, in one paragraph."""
    cfsd = summary["differences"] + summary["cfsd_differences"]
    if not summary["comparable"]:
        return f"not comparable: {_reasons(summary['differences'])}"
    if cfsd:
        return f"comparable with published tables, but for CFSD: {_reasons(cfsd)}"
    return "comparable with published tables"


def _reasons(reasons: list[str]) -> str:
    return "; ".join(escaped(reason, 600) for reason in reasons)


def _warnings(summary: ProtocolSummary) -> list[str]:
    found: list[str] = []
    unordered = [summary["metrics"][name]["title"] for name, one in summary["order"].items() if not one["ordered"]]
    if unordered:
        found.append(f"Does not order its controls here, so ignore what it says: {', '.join(unordered)}.")
    for what, names in (("Missing", summary["missing"]), ("Of no pair", summary["other_files"])):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            found.append(f"{what}: {', '.join(escaped(name) for name in names[:_NAMED])}{more}.")
    spaced: list[str] = []
    for line in found:
        spaced += [line, ""]
    return spaced


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: MetricCell, reasons: dict[str, int]) -> str:
    if cell["status"] != "measured":
        return f"— ({_note(cell['status'], reasons)})"
    value, low, high = cell["value"], cell.get("low"), cell.get("high")
    if low is None or high is None:
        return f"{value:.3f} [no interval ({_note(cell.get('no_interval', ''), reasons)})]"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _note(reason: str, reasons: dict[str, int]) -> int:
    return reasons.setdefault(reason, len(reasons) + 1)
