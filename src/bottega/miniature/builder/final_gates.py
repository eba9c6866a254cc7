"""`bottega miniature gates`: what shipped folders can do, on hundreds of held-out pictures, with intervals.

It measures the folders, not a training's state, so that what is written beside them is what a user has. The gates of
the encoders and judges were measured when those were built (`bottega.miniature.builder.build`) and stay as they are.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from bottega.miniature.builder import gates
from bottega.miniature.builder.measured import GateFigure
from bottega.miniature.builder.sdxl_gates import load_gates
from bottega.runtime.files import read_json, write_json

PICTURES = 320  # of each gate: a share of 85 % is then known to within 4 points


def measure_sdxl(weights: Path, pictures: int = PICTURES) -> dict[str, GateFigure]:
    """The gates of the folders `sdxl` and `ip_adapter` under `weights`.

    Args:
        weights: the miniature's model folders.
        pictures: painted by the teacher at each pair of guidance and scale; as many are drawn from words, with and
            without a style.
    """
    pipeline = gates.teacher_pipeline(weights, scale=1.0)
    measurement, _ = load_gates(weights, pipeline.vae, pipeline.tokenizer, pictures, style_pictures=pictures)
    return measurement.measure(pipeline.unet.eval())


def write_gates(path: Path, measured: dict[str, GateFigure]) -> None:
    """Put figures and intervals into a `gates.json`; what else stands there stays."""
    report: dict[str, Any] = read_json(path) if path.exists() else {"gates": {}}
    intervals = report.setdefault("intervals", {})
    for name, figure in measured.items():
        report["gates"][name] = round(figure.value, 4)
        intervals[name] = {key: round(value, 4) for key, value in asdict(figure).items() if key != "value"}
    report["bars"] = gates.BARS
    report["at_most"] = gates.AT_MOST
    write_json(path, report)


def verdict(name: str, value: float) -> str | None:
    """ "reached" or "missed" where the gate has a bar, with the bar; else None."""
    if name in gates.BARS:
        bar, reached = gates.BARS[name], value >= gates.BARS[name]
    elif name in gates.AT_MOST:
        bar, reached = gates.AT_MOST[name], value <= gates.AT_MOST[name]
    else:
        return None
    return f"bar {bar:g}: {'reached' if reached else 'missed'}"
