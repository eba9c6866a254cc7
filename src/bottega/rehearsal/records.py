"""What a rehearsal's result holds."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class StepResult(TypedDict):
    """What rehearsal.json says of a step; MiB, seconds and bytes, None where it was not measured or not forecast.

    status: `done`; `refused`, where that is the right answer; `failed`, with `error`; `skipped`, with what it lacks.
    """

    name: str
    what: str
    status: Literal["done", "refused", "failed", "skipped"]
    error: str
    seconds: float
    peak_rss_mb: float
    peak_own_mb: float
    peak_vram_mb: float | None
    bytes_written: int
    unet_calls: int
    train_steps: int
    forecast_rss_mb: float | None
    forecast_vram_mb: float | None


class RehearsalResult(TypedDict):
    """What rehearsal.json holds. overrides: what was changed of the recipe. unet_call_seconds, train_step_seconds: see
    `planning.growth.Rates`. growth: lines on many targets."""

    noise: str
    recipe: str
    overrides: list[str]
    machine: object
    steps: list[StepResult]
    seconds: float
    unet_call_seconds: float | None
    train_step_seconds: float | None
    growth: list[str]
