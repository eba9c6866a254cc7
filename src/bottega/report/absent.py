"""What an evaluation left out, in sentences."""

from __future__ import annotations

from collections.abc import Mapping

from bottega.report.evaluation import MEASURED, EvaluationSummary

MAX_BROKEN = 20
"""Pairs that are named one by one where they were left out."""


def not_compared(summary: EvaluationSummary) -> list[str]:
    """Why checkpoints were not compared that were asked for."""
    reason = summary.checkpoints.removeprefix("unavailable: ")
    return [] if reason in ("", "compared") else [f"checkpoints: {reason}"]


def missing_outputs(summary: EvaluationSummary) -> list[str]:
    """Of each row how many pairs have no output; all rows are averaged without them."""
    lines: list[str] = []
    for row, pairs in summary.missing.items():
        if pairs:
            some = ", ".join(pairs[:3]) + (", …" if len(pairs) > 3 else "")
            lines.append(f"{summary.title(row)}: no output of {len(pairs)} pairs, left out of every row ({some})")
    return lines


def absent_examples(summary: EvaluationSummary) -> list[str]:
    """Why Fill50K was not measured, and which of its examples were left out."""
    found = summary.fill50k
    if found is None:
        return []
    lines = [] if found.status == MEASURED else [f"Fill50K: {found.status.removeprefix('unavailable: ')}"]
    return lines + [f"Fill50K, example {key}: {why}" for key, why in list(found.broken.items())[:MAX_BROKEN]]


def broken_pairs(broken: Mapping[str, str]) -> list[str]:
    """The first ones by name, and the number of the others."""
    # Where hundreds are broken, their list would bury everything else.
    lines = []
    for pair, why in list(broken.items())[:MAX_BROKEN]:
        lines.append(f"pair {pair}: left out of every row, {why}")
    if len(broken) > MAX_BROKEN:
        lines.append(f"{len(broken) - MAX_BROKEN} more pairs were left out (evaluation/summary.json names them)")
    return lines


def order_of(evaluation: EvaluationSummary | None) -> str:
    """What the evaluation's examples are ordered by, in words."""
    by = "" if evaluation is None else evaluation.examples.by
    return {"truth": "distance to the drawn truth"}.get(by, by or "score")
