"""The plan of a recipe: memory, disk and work of each stage, whether it fits a GPU, and what it becomes as it grows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from bottega.planning.growth import Growth, Rates, grow
from bottega.planning.stages import Forecaster, StageForecast

if TYPE_CHECKING:
    from bottega.recipe import Recipe

_GB = 1e9
NOT_KNOWN = "not known: run the rehearsal (bottega rehearse)"


class StageRow(TypedDict):
    """A stage as `--json` prints it: bytes, and operations of one target or one optimizer step."""

    name: str
    dtype: str
    weights: dict[str, int]
    held: int
    other: int
    bytes: int
    host_bytes: int | None
    options: list[str]
    flops: float


class GrowthRow(TypedDict):
    """A number of targets as `--json` prints it: bytes, operations, and seconds where a rate was measured."""

    targets: int
    disk: dict[str, int]
    flops: dict[str, float]
    seconds: dict[str, float] | None
    bottleneck: str


class RecipePlanRecord(TypedDict):
    """What `bottega plan --json` prints. gpu_bytes: of the GPU that it is asked to fit; room: what stays free of it."""

    recipe: str
    parameters: dict[str, int]
    cpu: list[StageRow]
    gpu: list[StageRow]
    gpu_bytes: int
    room: int
    growth: list[GrowthRow]


@dataclass(frozen=True)
class RecipePlan:
    """The forecast of a recipe.

    Attributes:
        name: of the recipe.
        parameters: of each network.
        cpu: the stages on the CPU.
        gpu: the stages on a GPU.
        gpu_bytes: of the GPU that it is asked to fit.
        growth: to many targets.
    """

    name: str
    parameters: Mapping[str, int]
    cpu: Mapping[str, StageForecast]
    gpu: Mapping[str, StageForecast]
    gpu_bytes: int
    growth: tuple[Growth, ...]

    @property
    def room(self) -> int:
        """Bytes that the largest stage leaves free on the GPU; negative where it does not fit."""
        return self.gpu_bytes - max(stage.total for stage in self.gpu.values())

    def record(self) -> RecipePlanRecord:
        """As JSON."""
        return {
            "recipe": self.name,
            "parameters": dict(self.parameters),
            "cpu": [_row(stage) for stage in self.cpu.values()],
            "gpu": [_row(stage) for stage in self.gpu.values()],
            "gpu_bytes": self.gpu_bytes,
            "room": self.room,
            "growth": [_growth_row(growth) for growth in self.growth],
        }

    def as_text(self) -> str:
        """For people."""
        lines = [f"{self.name}: a forecast; nothing was loaded or run", ""]
        for name, count in self.parameters.items():
            lines.append(f"  {name:<18} {count / 1e6:8.1f} million parameters")
        lines += ["", "on the CPU, largest memory of a stage's processes", *_stage_lines(self.cpu.values())]
        lines += ["", "on a GPU, largest memory there, and of the process beside it", *_stage_lines(self.gpu.values())]
        lines += ["", self._fit(), ""]
        lines.append("grown in proportion, an extrapolation; a target is one picture, from a pair of its own")
        for growth in self.growth:
            lines += growth_lines(growth)
        return "\n".join(lines)

    def _fit(self) -> str:
        largest = max(self.gpu.values(), key=lambda stage: stage.total)
        size = f"a GPU of {self.gpu_bytes / _GB:.0f} GB"
        if self.room >= 0:
            return f"fits {size}: {largest.name} is the largest stage and leaves {self.room / _GB:.1f} GB"
        return f"does not fit {size}: {largest.name} wants {-self.room / _GB:.1f} GB more; see the options above"


def make_plan(recipe: Recipe, gpu_gb: float = 24.0, rates: Rates | None = None) -> RecipePlan:
    """Forecast a recipe.

    Args:
        recipe: the recipe; its models need not be on this machine if they are published ones.
        gpu_gb: memory of the GPU that it should fit, in GB of 10⁹ bytes.
        rates: what a rehearsal measured on this machine; None: nothing.

    Raises:
        MissingError: a model is neither on this machine nor known.
        RequestError: a configuration makes no network.
    """
    on_cpu = Forecaster(recipe, "cpu")
    on_gpu = Forecaster(recipe, "cuda", on_cpu.networks)
    cpu = on_cpu.all()
    gpu = on_gpu.all()
    gpu["teacher: low vram"] = on_gpu.teacher(low_vram=True)
    growth = grow(recipe, on_cpu.networks, cpu, rates)
    return RecipePlan(recipe.name, on_cpu.networks.counts(), cpu, gpu, round(gpu_gb * _GB), tuple(growth))


def _row(stage: StageForecast) -> StageRow:
    return {
        "name": stage.name,
        "dtype": stage.dtype,
        "weights": dict(stage.weights),
        "held": stage.held,
        "other": stage.other,
        "bytes": stage.total,
        "host_bytes": stage.host,
        "options": list(stage.options),
        "flops": stage.flops,
    }


def _growth_row(growth: Growth) -> GrowthRow:
    return {
        "targets": growth.targets,
        "disk": dict(growth.disk),
        "flops": dict(growth.flops),
        "seconds": None if growth.seconds is None else dict(growth.seconds),
        "bottleneck": growth.bottleneck,
    }


def _stage_lines(stages: Iterable[StageForecast]) -> list[str]:
    lines: list[str] = []
    for stage in stages:
        weights = ", ".join(f"{name} {size / _GB:.2f}" for name, size in stage.weights.items())
        line = (
            f"  {stage.name:<22} {stage.total / _GB:6.2f} GB {stage.dtype:<8}  {weights}; passes {stage.held / _GB:.2f}"
        )
        if stage.host is not None:
            line += f"; RAM {stage.host / _GB:.1f}"
        lines.append(line)
        lines += [f"{'':<26}{option}" for option in stage.options]
    return lines


def growth_lines(growth: Growth) -> list[str]:
    """A number of targets as text: disk, work, time."""
    disk = ", ".join(f"{name} {size / _GB:.1f}" for name, size in growth.disk.items())
    work = ", ".join(f"{name} {flops / 1e18:.2f}" for name, flops in growth.flops.items())
    time = NOT_KNOWN
    if growth.seconds:
        time = ", ".join(f"{name} {seconds / 3600:.1f} h" for name, seconds in growth.seconds.items())
    total = sum(growth.disk.values()) / _GB
    return [
        f"  {growth.targets:>7} targets  disk {total:.1f} GB ({disk})",
        f"{'':<18}work in 10¹⁸ operations: {work}",
        f"{'':<18}time: {time}; bottleneck: {growth.bottleneck}",
    ]
