"""A rehearsal's result as text."""

from __future__ import annotations

from collections.abc import Mapping

from bottega.rehearsal.records import RehearsalResult, StepResult

_GB = 1e9
_MIB = 1024 * 1024


def markdown(found: RehearsalResult) -> str:
    """The table of the steps, and what was changed of the recipe."""
    steps = found["steps"]
    calls = sum(step["unet_calls"] for step in steps)
    trained = sum(step["train_steps"] for step in steps)
    has_gpu = any(step["peak_vram_mb"] is not None for step in steps)
    lines = [
        f"# Rehearsal of {found['recipe']}",
        "",
        found["noise"],
        "",
        f"{found['seconds'] / 60:.1f} minutes in all. {calls} calls of the teacher's U-Net and {trained} training "
        "steps were made.",
        "",
        *_table(steps, has_gpu),
        "",
        "RAM is the largest resident memory of a step's processes, mapped files included; *own* is without those, "
        "which the system may give up. The forecast is that of `bottega plan`.",
        *_faults(steps),
        *_growth(found),
        "",
        "What was changed of the recipe, as `--set`:",
        "",
        *(f"    {text}" for text in found["overrides"]),
        "",
    ]
    return "\n".join(lines)


def _table(steps: list[StepResult], has_gpu: bool) -> list[str]:
    columns = ["step", "state", "s", "RAM, GB", "own, GB", "forecast, GB", "off by"]
    if has_gpu:
        columns += ["VRAM, GB", "forecast, GB"]
    columns += ["written, MB", "U-Net calls", "training steps"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for step in steps:
        cells = [step["name"], step["status"], f"{step['seconds']:.0f}"]
        cells += [_gb(step["peak_rss_mb"]), _gb(step["peak_own_mb"]), _gb(step["forecast_rss_mb"]), _off(step)]
        if has_gpu:
            cells += [_gb(step["peak_vram_mb"]), _gb(step["forecast_vram_mb"])]
        cells += [f"{step['bytes_written'] / 1e6:.1f}", _count(step["unet_calls"]), _count(step["train_steps"])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _gb(mib: float | None) -> str:
    return "–" if not mib else f"{mib * _MIB / _GB:.2f}"


def _count(number: int) -> str:
    return str(number) if number else "–"


def _off(step: StepResult) -> str:
    """How far the forecast of RAM is from what was measured, in percent of that."""
    forecast = step["forecast_rss_mb"]
    if forecast is None or not step["peak_rss_mb"] or step["status"] != "done":
        return "–"
    return f"{100 * (forecast / step['peak_rss_mb'] - 1):+.0f} %"


def _growth(found: RehearsalResult) -> list[str]:
    if not found["growth"]:
        return []
    title = "Grown in proportion, an extrapolation; a target is one picture, from a pair of its own:"
    return ["", title, "", *(f"    {line.strip()}" for line in found["growth"])]


def _faults(steps: list[StepResult]) -> list[str]:
    found: Mapping[str, str] = {step["name"]: step["error"] for step in steps if step["error"]}
    if not found:
        return []
    return ["", *(f"- **{name}**: {error}" for name, error in found.items())]
