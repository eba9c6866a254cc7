"""The forecasts that a rehearsal's steps are held against, by the names that the steps give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bottega.planning.growth import Rates, grow
from bottega.planning.plan import growth_lines
from bottega.planning.stages import MIB, Forecaster, StageForecast

if TYPE_CHECKING:
    from bottega.recipe import Recipe

Grow = Callable[[Rates], list[str]]
"""Gives lines on many targets by measured rates."""


@dataclass(frozen=True)
class StepForecast:
    """The memory that a step is forecast to take, MiB; None: not known."""

    rss_mb: float | None = None
    vram_mb: float | None = None


def forecast_steps(recipe: Recipe, whole: Recipe, has_gpu: bool) -> tuple[dict[str, StepForecast], Grow]:
    """The forecasts of the steps, and what gives lines on many targets by measured rates.

    Args:
        recipe: with the rehearsal's overrides.
        whole: as written, whose calls and steps count for many targets.
        has_gpu: whether the work will be done on a GPU.
    """
    forecaster = Forecaster(recipe, "cuda" if has_gpu else "cpu")
    stages = forecaster.all()
    stages["teacher: two at once"] = forecaster.teacher(batch=2)
    # This step draws no sample pictures.
    stages["student: checkpointing"] = forecaster.student(checkpointed=True, drawing=False)
    if has_gpu:
        stages["teacher: low vram"] = forecaster.teacher(low_vram=True)
        for dtype in ("bfloat16", "float16"):
            stages[f"teacher: {dtype}"] = forecaster.teacher(dtype=dtype)
    found = {name: _memory(stage) for name, stage in stages.items()}
    return found, partial(_grow, whole, Forecaster(whole, forecaster.device, forecaster.networks))


def _grow(recipe: Recipe, forecaster: Forecaster, rates: Rates) -> list[str]:
    stages = {stage.name: stage for stage in (forecaster.teacher(), forecaster.features(), forecaster.student())}
    lines: list[str] = []
    for growth in grow(recipe, forecaster.networks, stages, rates):
        lines += growth_lines(growth)
    return lines


def _memory(stage: StageForecast) -> StepForecast:
    if stage.host is None:
        return StepForecast(rss_mb=round(stage.total / MIB, 1))
    return StepForecast(rss_mb=round(stage.host / MIB, 1), vram_mb=round(stage.total / MIB, 1))
