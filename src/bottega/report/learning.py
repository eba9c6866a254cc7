"""The training log as curves: losses by task, the gain over the frozen base, the gates, and whether it is learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bottega.report.reading import number
from bottega.runtime.findings import Finding
from bottega.training.diagnosis import Watcher, as_verdict
from bottega.visual.curves import Curve, draw_curves

_TASKS = {"main": "style targets", "style": "style targets", "target": "style targets", "fill50k": "Fill50K"}


@dataclass(frozen=True)
class Learning:
    """What a training log tells. The pictures are `<svg>` elements, empty where the log holds nothing for them.

    word, evidence, advice: the verdict on all `findings`, which come with the most severe first.
    """

    steps: int
    losses: str
    gain: str
    gates: str
    by_noise: str
    word: str
    evidence: str
    advice: str
    findings: tuple[Finding, ...]
    loss_first: float | None
    loss_last: float | None
    rate: float | None


def read(rows: Iterable[Mapping[str, Any]]) -> Learning | None:
    """Curves and a verdict from the rows of `metrics.jsonl`; None without a row."""
    columns: dict[str, tuple[list[float], list[float]]] = {}
    steps, watcher = 0, Watcher()
    for row in rows:
        watcher.add(row)
        steps = int(row["step"])
        for name, value in row.items():
            if name != "step" and (real := number(value)) is not None:
                xs, ys = columns.setdefault(name, ([], []))
                xs.append(steps)
                ys.append(real)
    if not steps:
        return None
    findings = watcher.findings(ended=True)
    said = as_verdict(findings)
    tasks = [name for name in columns if name.startswith("loss_")] or [name for name in ("loss",) if name in columns]
    tasks.sort(key=lambda name: (name == "loss_fill50k", name))
    gates = sorted((name for name in columns if name.startswith("gate")), key=_natural)
    times = sorted((name for name in columns if name.startswith("val_gain_t")), key=_natural)
    gain = [Curve(label, columns[n][0], [100 * v for v in columns[n][1]]) for n, label in _GAINS if n in columns]
    values = columns.get("loss", ([], []))[1]
    tenth = max(1, len(values) // 10)
    seconds = columns.get("seconds", ([], []))[1]
    return Learning(
        steps=steps,
        losses=draw_curves(
            [Curve(_task(n), *columns[n]) for n in tasks], "Training loss by task over the steps", "loss", smooth=True
        ),
        gain=draw_curves(
            gain, "Validation gain over the frozen base", "% of the base's loss removed", zero="frozen base"
        ),
        gates=draw_curves([Curve(_gate(n), *columns[n]) for n in gates], "Gates of the adapter over the steps", "gate"),
        by_noise=draw_curves(
            [
                Curve(f"t = {n.removeprefix('val_gain_t')}", columns[n][0], [100 * v for v in columns[n][1]])
                for n in times
            ],
            "Validation gain at each timestep of the grid",
            "% of the base's loss removed",
            zero="frozen base",
        ),
        word=said["learning"],
        evidence=said["evidence"],
        advice=said["advice"],
        findings=tuple(findings),
        loss_first=sum(values[:tenth]) / tenth if values else None,
        loss_last=sum(values[-tenth:]) / tenth if values else None,
        rate=1 / (sum(seconds) / len(seconds)) if seconds and sum(seconds) > 0 else None,
    )


_GAINS = (("val_gain", "with its own style"), ("val_swap", "lost with another style"))


def _task(name: str) -> str:
    task = name.removeprefix("loss_")
    return _TASKS.get(task, "all" if task == "loss" else task.replace("_", " "))


def _gate(name: str) -> str:
    what = name.removeprefix("gate").strip("_/.")
    return f"block {what}" if what.isdigit() else what or "gate"


def _natural(name: str) -> list[tuple[int, str]]:
    """`gate_10` after `gate_9`."""
    import re

    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
