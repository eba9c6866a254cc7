"""The training log as curves: losses by task, the gain over the frozen base, the gates, and whether it is learning."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from bottega.report.format import number
from bottega.runtime.findings import Finding
from bottega.training.diagnosis import Watcher, as_verdict
from bottega.visual.curves import Curve, draw_curves

_TASKS = {"main": "style targets", "style": "style targets", "target": "style targets", "fill50k": "Fill50K"}


@dataclass(frozen=True)
class Learning:
    """What a training log tells. The pictures are `<svg>` elements, empty where the log holds nothing for them.

    word, evidence, advice: the verdict on all `findings`, which come with the most severe first. rate: steps a second.
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
    rate: float | None


@dataclass
class _Column:
    """The numbers of one column of the log, and the steps at which it has any."""

    steps: list[float] = field(default_factory=list)  # its own: a validation writes its columns in few rows
    values: list[float] = field(default_factory=list)

    def curve(self, label: str, scale: float = 1.0) -> Curve:
        return Curve(label, self.steps, [scale * value for value in self.values])


def read(rows: Iterable[Mapping[str, Any]]) -> Learning | None:
    """Curves and a verdict from the rows of `metrics.jsonl`; None without a row."""
    # Read the log once: by columns for the curves, row by row for the verdict.
    watcher = Watcher()
    columns, steps = _read_columns(rows, watcher)
    if not steps:
        return None

    # Name the curves.
    losses = [columns[name].curve(_task(name)) for name in _loss_columns(columns)]
    gains = [columns[name].curve(label, scale=100) for name, label in _GAINS if name in columns]
    gates = [columns[name].curve(_gate(name)) for name in _numbered(columns, "gate")]
    by_noise = []
    for name in _numbered(columns, "val_gain_t"):
        timestep = name.removeprefix("val_gain_t")
        by_noise.append(columns[name].curve(f"t = {timestep}", scale=100))

    # Judge, and draw.
    findings = watcher.findings(ended=True)
    verdict = as_verdict(findings)
    removed = "% of the base's loss removed"
    return Learning(
        steps=steps,
        losses=draw_curves(losses, "Training loss by task over the steps", "loss", smooth=True),
        gain=draw_curves(gains, "Validation gain over the frozen base", removed, zero="frozen base"),
        gates=draw_curves(gates, "Gates of the adapter over the steps", "gate"),
        by_noise=draw_curves(by_noise, "Validation gain at each timestep of the grid", removed, zero="frozen base"),
        word=verdict["learning"],
        evidence=verdict["evidence"],
        advice=verdict["advice"],
        findings=tuple(findings),
        rate=_steps_per_second(columns),
    )


def _loss_columns(columns: Mapping[str, _Column]) -> list[str]:
    """The losses by task, Fill50K after the style targets; their sum only where no task has a loss of its own."""
    tasks = [name for name in columns if name.startswith("loss_")]
    tasks.sort(key=lambda name: (name == "loss_fill50k", name))
    if not tasks and "loss" in columns:
        return ["loss"]
    return tasks


def _numbered(columns: Mapping[str, _Column], prefix: str) -> list[str]:
    return sorted((name for name in columns if name.startswith(prefix)), key=_natural)


def _steps_per_second(columns: Mapping[str, _Column]) -> float | None:
    """None where the log has no times."""
    seconds = columns.get("seconds", _Column()).values
    if sum(seconds) <= 0:
        return None
    return 1 / (sum(seconds) / len(seconds))


def _read_columns(rows: Iterable[Mapping[str, Any]], watcher: Watcher) -> tuple[dict[str, _Column], int]:
    """The log by columns, and its last step; the watcher sees each row."""
    columns: dict[str, _Column] = {}
    step = 0
    for row in rows:
        watcher.add(row)
        step = int(row["step"])
        for name, value in row.items():
            real = number(value)
            if name != "step" and real is not None:
                column = columns.setdefault(name, _Column())
                column.steps.append(step)
                column.values.append(real)
    return columns, step


_GAINS = (("val_gain", "with its own style"), ("val_swap", "lost with another style"))


def _task(name: str) -> str:
    task = name.removeprefix("loss_")
    return _TASKS.get(task, "all" if task == "loss" else task.replace("_", " "))


def _gate(name: str) -> str:
    block = name.removeprefix("gate").strip("_/.")
    return f"block {block}" if block.isdigit() else block or "gate"


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that has `gate_10` after `gate_9`."""
    key = []
    for part in re.split(r"(\d+)", name):
        key.append((int(part), "") if part.isdigit() else (-1, part))
    return key
