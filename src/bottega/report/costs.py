"""What a run cost, and what it takes to make it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bottega.report.format import UNKNOWN, as_text, duration
from bottega.report.run_directory import RunDirectory, StageStatus
from bottega.runtime.trust import read_list


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
    memories = [stage.record.peak_rss_mb or 0.0 for stage in run.stages]
    # 1.0 where nothing was measured yet: the bars are shares of these
    longest = max(times, default=0.0) or 1.0
    largest = max(memories, default=0.0) or 1.0
    rows = [_cost_row(stage, longest, largest) for stage in run.stages]

    total, peak = duration(None), UNKNOWN
    if times:
        total, peak = duration(sum(times)), _megabytes(largest)
    return Costs(
        rows=rows,
        total=total,
        peak=peak,
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
    groups = [
        ("Machine and code", _plain_facts(run.provenance)),
        ("Versions", _hashes(run.provenance.get("packages"))),
        ("Weights, sha256", _hashes(run.provenance.get("weights"))),
        ("Networks and pairs of the evaluation", _judges(run)),
        ("Results of each stage", [(stage.name, stage.record.outputs) for stage in run.stages if stage.record.outputs]),
        ("Files", _files(run)),
        _machines(run),
    ]
    return [(title, facts) for title, facts in groups if facts]


def _plain_facts(provenance: Mapping[str, Any]) -> Facts:
    """What has no group of its own."""
    facts = []
    for key, value in provenance.items():
        if key not in ("packages", "weights", "stages") and value not in (None, {}, []):
            facts.append((key.replace("_", " "), as_text(value)))
    return facts


def _hashes(found: Any) -> Facts:
    if not isinstance(found, Mapping):
        return []
    return [(str(name), _hash_of(value)) for name, value in found.items()]


_NAMED_FILES = ("training/adapter.safetensors", "quality/thresholds.json", "evaluation/scores.jsonl")
_LISTS = ("pairs/train.jsonl", "pairs/val.jsonl", "pairs/test.jsonl")


def _judges(run: RunDirectory) -> Facts:
    """A hash of each network that measured pictures, by what it is for, and those of the pairs."""
    summary = run.stage("evaluation").record.summary
    pairs = summary.get("pair_list")
    listed = _hashes(pairs) if isinstance(pairs, Mapping) else []
    return [*_hashes(summary.get("networks")), *((f"pairs: {name}", value) for name, value in listed)]


def _files(run: RunDirectory) -> Facts:
    """The recorded hash of what others would compare first: the pairs, the limits, the adapter, the scores."""
    facts: Facts = []
    for name in (*_LISTS, *_NAMED_FILES):
        path = run.directory / name
        row = read_list(path.parent).get(path.name)
        if row is not None:
            facts.append((name, row.hash))
    return facts


def _machines(run: RunDirectory) -> tuple[str, Facts]:
    """A line for each stage, as a run may be continued on another machine; the title names the values in a line."""
    names = ""
    facts = []
    for stage in run.stages:
        machine = stage.record.machine
        if machine:
            names = names or ", ".join(name.replace("_", " ") for name in machine)
            facts.append((stage.name, ", ".join(map(as_text, machine.values()))))
    return f"Each stage ran on ({names})", facts


def _hash_of(value: Any) -> str:
    """The hash of a model that is recorded with its files, or the value itself."""
    if isinstance(value, Mapping) and "sha256" in value:
        return as_text(value["sha256"])
    return as_text(value)


def _megabytes(number: float) -> str:
    return f"{number:,.0f} MB"
