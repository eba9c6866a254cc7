"""What a run cost, and what it takes to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.report.format import UNKNOWN, as_text, duration
from bottega.report.run_directory import RunDirectory, StageStatus


@dataclass(frozen=True)
class CostRow:
    """A stage's time and memory. The shares are percent of the longest and of the largest, for bars."""

    stage: StageStatus
    time: str
    time_share: int
    memory: str
    memory_share: int
    vram: str


@dataclass(frozen=True)
class Costs:
    """Those of all stages. vram: some stage used a GPU."""

    rows: list[CostRow]
    total: str
    peak: str
    vram: bool


def costs(run: RunDirectory) -> Costs:
    """Time and memory of each stage."""
    times = [stage.record.seconds for stage in run.stages if stage.record.seconds is not None]
    longest = max(times, default=0.0) or 1.0
    largest = max((stage.record.peak_rss_mb or 0.0 for stage in run.stages), default=0.0) or 1.0
    rows = [_cost_row(stage, longest, largest) for stage in run.stages]
    return Costs(
        rows=rows,
        total=duration(sum(times) if times else None),
        peak=_megabytes(largest) if times else UNKNOWN,
        vram=any(row.vram for row in rows),
    )


def _cost_row(stage: StageStatus, longest: float, largest: float) -> CostRow:
    seconds, memory, vram = stage.record.seconds, stage.record.peak_rss_mb, stage.record.peak_vram_mb
    return CostRow(
        stage=stage,
        time=duration(seconds),
        time_share=round(100 * (seconds or 0) / longest),
        memory=UNKNOWN if memory is None else _megabytes(memory),
        memory_share=round(100 * (memory or 0) / largest),
        vram=_megabytes(vram) if vram else "",
    )


Facts = list[tuple[str, str]]
"""(name, value)."""


def provenance(run: RunDirectory) -> list[tuple[str, Facts]]:
    """Groups of facts by title: where it ran, versions, the hash of every model."""
    groups: list[tuple[str, Facts]] = []
    plain: Facts = []
    for key, value in run.provenance.items():
        if key not in ("packages", "weights", "stages") and value not in (None, {}, []):
            plain.append((key.replace("_", " "), as_text(value)))
    if plain:
        groups.append(("Machine and code", plain))
    for key, title in (("packages", "Versions"), ("weights", "Weights, sha256")):
        found = run.provenance.get(key)
        if isinstance(found, Mapping) and found:
            groups.append((title, [(str(name), _hash_of(value)) for name, value in found.items()]))
    machines = {stage.name: stage.record.machine for stage in run.stages if stage.record.machine}
    if machines:
        names = ", ".join(name.replace("_", " ") for name in next(iter(machines.values())))
        rows = [(stage, ", ".join(map(as_text, machine.values()))) for stage, machine in machines.items()]
        groups.append((f"Each stage ran on ({names})", rows))
    return groups


def _hash_of(value: Any) -> str:
    """The hash of a model that is recorded with its files, or the value itself."""
    return as_text(value["sha256"]) if isinstance(value, Mapping) and "sha256" in value else as_text(value)


def _megabytes(number: float) -> str:
    return f"{number:,.0f} MB"
