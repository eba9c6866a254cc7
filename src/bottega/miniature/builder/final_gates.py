"""`bottega miniature gates`: what shipped folders can do, on hundreds of held-out pictures, with intervals.

It measures the folders, not a training's state, so that what is written beside them is what a user has. The gates of
the encoders and judges were measured when those were built (`bottega.miniature.builder.build`) and stay as they are.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import safe_open

from bottega.miniature.builder import gates
from bottega.miniature.builder.measured import GateFigure
from bottega.miniature.builder.pixart_gates import measure_pixart
from bottega.miniature.builder.sdxl_gates import load_gates
from bottega.runtime.files import read_json, write_json

_PREFIXES = (("teacher_", "words_"), ("pixart_",))
"""How the names of SDXL's figures begin, and of PixArt's."""

_COUNTED = {
    "unet": ("sdxl/unet", "teacher"),
    "transformer": ("pixart/transformer", "pixart"),
    "t5": ("pixart/text_encoder", "pixart"),
}
"""Models that the long trainings make, by their names in a report: the folder, and the name of the short training."""

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


def measure_all(weights: Path, pictures: int = PICTURES) -> dict[str, GateFigure]:
    """The gates of SDXL with its IP-Adapter, and of PixArt."""
    return {**measure_sdxl(weights, pictures), **measure_pixart(weights, pictures)}


def write_gates(path: Path, measured: dict[str, GateFigure]) -> None:
    """Put figures and intervals into a `gates.json`.

    Figures of SDXL or PixArt that were not measured with its others are of other weights, and go; so do their
    parameters and the seconds of their trainings, which are counted again from the folders beside the file. All else
    stays.
    """
    report: dict[str, Any] = read_json(path) if path.exists() else {"gates": {}}
    intervals = report.setdefault("intervals", {})
    for prefixes in _PREFIXES:
        if any(name.startswith(prefixes) for name in measured):  # a variant's figures say nothing about SDXL's
            for figures in (report["gates"], intervals):
                for name in [name for name in figures if name.startswith(prefixes) and name not in measured]:
                    del figures[name]
    _count_again(report.setdefault("parameters", {}), report.get("seconds", {}), path.parent)
    for name, figure in measured.items():
        report["gates"][name] = round(figure.value, 4)
        intervals[name] = {key: round(value, 4) for key, value in asdict(figure).items() if key != "value"}
    report["bars"] = gates.BARS
    report["at_most"] = gates.AT_MOST
    write_json(path, report)


def _count_again(parameters: dict[str, int], seconds: dict[str, float], weights: Path) -> None:
    """Correct a report's parameters by those in the models' files, and leave out the seconds of other trainings."""
    for model, (folder, training) in _COUNTED.items():
        (file, *_) = [*(weights / folder).glob("*.safetensors"), None]
        if file is None:
            continue
        with safe_open(file, "np") as tensors:
            shapes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 (it is no dict)
        parameters[model] = sum(math.prod(shape) for shape in shapes)
        seconds.pop(training, None)
    parameters["all"] = sum(count for name, count in parameters.items() if name != "all")


def verdict(name: str, value: float) -> str | None:
    """ "reached" or "missed" where the gate has a bar, with the bar; else None."""
    if name in gates.BARS:
        bar, reached = gates.BARS[name], value >= gates.BARS[name]
    elif name in gates.AT_MOST:
        bar, reached = gates.AT_MOST[name], value <= gates.AT_MOST[name]
    else:
        return None
    return f"bar {bar:g}: {'reached' if reached else 'missed'}"
