"""Do the steps of a rehearsal one after the other, each in a process of its own, and measure each from outside.

A step that fails is named and costs those that need it; all others still run. The result is written after each step, so
that a rehearsal which is stopped leaves what it measured.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Literal

from bottega.models.layout import ROLES, locate
from bottega.models.loading import FULL_SIZE
from bottega.models.weights import find_weights, read_headers
from bottega.pipeline import Pipeline, Size
from bottega.planning.growth import Rates
from bottega.recipe import missing_models
from bottega.rehearsal.forecasts import Grow, StepForecast
from bottega.rehearsal.records import RehearsalResult, StepResult
from bottega.rehearsal.settings import RehearsalRequest, overrides
from bottega.rehearsal.steps import RehearsalStep, all_steps
from bottega.rehearsal.table import markdown
from bottega.runtime.children import run_child
from bottega.runtime.errors import BottegaError, Interrupted, MissingError, RequestError, WorkError
from bottega.runtime.escape import escaped_lines
from bottega.runtime.files import read_json, write_json, write_text
from bottega.runtime.provenance import describe
from bottega.runtime.records import read_record, read_records
from bottega.runtime.usage import Usage, UsageWatch, count_gpus

if TYPE_CHECKING:
    from bottega.recipe import Recipe

RESULT = "rehearsal.json"
TABLE = "rehearsal.md"
NOISE = "Its models may have random weights: pictures, scores and adapters of a rehearsal are no results."
_KEPT = (RESULT, TABLE)
"""What stays when a rehearsal is discarded."""

_MB = 1024 * 1024
SIZE = Size(seeds=(0,))
"""One target a pair."""

OpenPipeline = Callable[[Sequence[str]], Pipeline]
"""Gives the pipeline of the recipe with overrides, in the rehearsal's directory."""


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal that can be walked.

    Args:
        request: what to rehearse.
        recipe: the recipe, as written.
        open_pipeline: see `OpenPipeline`.
        has_gpu: whether the work will be done on a GPU.
        forecasts: by the name that a step gives.
        grow: gives lines on many targets by the rates that were measured.
        only: names of the steps to do, with the results of others as they are; empty: all.
        say: called with a line at each step.
    """

    request: RehearsalRequest
    recipe: Recipe
    open_pipeline: OpenPipeline
    has_gpu: bool
    forecasts: Mapping[str, StepForecast]
    grow: Grow = lambda rates: []
    only: Collection[str] = ()
    say: Callable[[str], None] = lambda line: print(escaped_lines(line), file=sys.stderr, flush=True)

    def walk(self) -> RehearsalResult:
        """Do all steps.

        Raises:
            MissingError: a model is not on this machine.
            RequestError: `only` names a step that there is none of, or the directory holds something else.
            Interrupted: if this process was asked to stop; what was measured is written.
        """
        self._require_own_folder()
        sets = overrides(self.recipe, self.request)
        pipeline = self.open_pipeline(sets)
        self._require_models(pipeline)
        is_full_size = _is_full_size(pipeline.recipe, "sdxl", "unet")
        # A recipe without SDXL, or with a reduced one, may still hold a PixArt that float32 is refused for.
        refuses_float32 = is_full_size or _is_full_size(pipeline.recipe, "pixart", "transformer")
        if refuses_float32 and not self.has_gpu:
            sets = overrides(self.recipe, self.request, needs_bfloat16=True)
            pipeline = self.open_pipeline(sets)
        steps = all_steps(pipeline.recipe, self.request, self.has_gpu, is_full_size)
        self._require_known(steps)
        results = self._results_so_far()
        # Before the first step: by this file a later call, and `discard`, know the folder as a rehearsal's.
        self._write(sets, steps, results)
        for step in steps:
            if self.only and step.name not in self.only:
                continue
            results[step.name] = self._do(step, sets, results)
            self._say(results[step.name])
            self._write(sets, steps, results)
        return self._write(sets, steps, results)

    def _require_own_folder(self) -> None:
        """Refuse a folder with somebody else's files, which `discard` would take for a rehearsal's."""
        directory = self.request.directory
        if (directory / RESULT).is_file() or not directory.is_dir():
            return
        other = min((path.name for path in directory.iterdir()), default=None)
        if other is not None:
            raise RequestError(
                f"{directory}: a rehearsal wants a folder of its own, this one holds {other}; name a new one"
            )

    def _require_models(self, pipeline: Pipeline) -> None:
        faults = missing_models(pipeline.recipe, ROLES)
        if faults:
            raise MissingError(
                f"{faults[0]}; or make models of that size with random weights: bottega models rehearse --output DIR, "
                "then give --models DIR"
            )

    def _require_known(self, steps: Sequence[RehearsalStep]) -> None:
        names = [step.name for step in steps]
        for name in self.only:
            if name not in names:
                raise RequestError(f"--only {name}: no such step; steps: {', '.join(names)}")

    def _results_so_far(self) -> dict[str, StepResult]:
        """What an earlier, partial rehearsal in the directory measured."""
        path = self.request.directory / RESULT
        if not self.only or not path.is_file():
            return {}
        found: RehearsalResult = read_json(path)
        return {result["name"]: result for result in found["steps"]}

    def _do(self, step: RehearsalStep, sets: Sequence[str], results: Mapping[str, StepResult]) -> StepResult:
        lacking = [name for name in step.needs if name not in results or results[name]["status"] != "done"]
        if lacking:
            return self._result(step, "skipped", f"needs {', '.join(lacking)}", Usage(0.0, 0.0, 0.0, None), 0)
        self.say(f"{step.name}: {step.what}")
        before = bytes_in(self.request.directory)
        status: Literal["done", "refused", "failed"] = "done"
        error = ""
        watch = UsageWatch()
        try:
            with watch:
                self._run(step, sets)
        except Interrupted:
            raise
        except (BottegaError, OSError) as caught:
            error = str(caught)
            status = "failed"
        if step.refused:
            status = "refused" if step.refused in error else "failed"
            error = error or "it was not refused"
        return self._result(step, status, error, watch.usage, bytes_in(self.request.directory) - before)

    def _run(self, step: RehearsalStep, sets: Sequence[str]) -> None:
        if step.until:
            self.open_pipeline([*sets, *step.sets]).run(step.until)
        elif step.arguments is not None:
            run_child(["command", json.dumps(step.arguments())], step.name)

    def _result(
        self,
        step: RehearsalStep,
        status: Literal["done", "refused", "failed", "skipped"],
        error: str,
        usage: Usage,
        grown: int,
    ) -> StepResult:
        forecast = self.forecasts.get(step.forecast, StepForecast())
        done = status == "done"
        return {
            "name": step.name,
            "what": step.what,
            "status": status,
            "error": error,
            "seconds": round(usage.seconds, 1),
            "peak_rss_mb": round(usage.peak_rss_mb, 1),
            "peak_own_mb": round(usage.peak_own_mb, 1),
            "peak_vram_mb": None if usage.peak_vram_mb is None else round(usage.peak_vram_mb, 1),
            "bytes_written": max(grown, 0),
            "unet_calls": step.unet_calls if done else 0,
            "train_steps": step.train_steps if done else 0,
            "forecast_rss_mb": forecast.rss_mb,
            "forecast_vram_mb": forecast.vram_mb,
        }

    def _say(self, result: StepResult) -> None:
        line = f"{result['name']:<22} {result['status']:<8} {result['seconds']:7.1f} s {result['peak_rss_mb']:7.0f} MiB"
        if result["error"] and result["status"] != "refused":
            line += f"  {result['error']}"
        self.say(line)

    def _write(
        self, sets: Sequence[str], steps: Sequence[RehearsalStep], results: Mapping[str, StepResult]
    ) -> RehearsalResult:
        ordered = [results[step.name] for step in steps if step.name in results]
        rates = measured_rates(self.request.directory, results)
        found: RehearsalResult = {
            "noise": NOISE,
            "recipe": self.recipe.name,
            "overrides": list(sets),
            "machine": describe(),
            "steps": ordered,
            "seconds": round(sum(result["seconds"] for result in ordered), 1),
            "unet_call_seconds": rates.unet_call,
            "train_step_seconds": rates.train_step,
            "growth": self.grow(rates),
        }
        write_json(self.request.directory / RESULT, found)
        write_text(self.request.directory / TABLE, markdown(found))
        return found


def uses_gpu(device: str) -> bool:
    """Whether a setting of the device means a GPU here."""
    if device != "auto":
        return device.startswith("cuda")
    return count_gpus() > 0


def _is_full_size(recipe: Recipe, role: Literal["sdxl", "pixart"], part: str) -> bool:
    """Whether a model's network is so large that float32 is refused for it; False where the recipe names none."""
    if getattr(recipe.models, role) is None:
        return False
    tensors = read_headers(find_weights(locate(recipe.models, role) / part).files)
    return sum(math.prod(tensor.shape) for tensor in tensors.values()) > FULL_SIZE


def measured_rates(directory: Path, results: Mapping[str, StepResult]) -> Rates:
    """What the teacher's summary and the training's log say of a call and a step."""
    call = None
    teacher = results.get("teacher")
    summary = directory / "teacher" / "summary.json"
    if teacher is not None and teacher["status"] == "done" and summary.is_file():
        found = read_record(summary, _TeacherTimes)
        if found.seconds_per_picture and found.tries:
            call = found.seconds_per_picture * found.tries / teacher["unet_calls"]
    seconds = [row.seconds for row in _log(directory / "training" / "metrics.jsonl") if row.seconds]
    # The first step compiles and allocates: it says nothing about the others.
    step = median(seconds[1:] or seconds) if seconds else None
    return Rates(call, step)


def read_rates(directory: Path) -> Rates:
    """The rates of a rehearsal by its result.

    Raises:
        MissingError: there is none.
    """
    found = read_record(directory / RESULT, _RecordedRates)
    return Rates(found.unet_call_seconds, found.train_step_seconds)


@dataclass(frozen=True)
class _RecordedRates:
    """What is read of rehearsal.json."""

    unet_call_seconds: float | None = None
    train_step_seconds: float | None = None


@dataclass(frozen=True)
class _TeacherTimes:
    """What is read of the teacher's summary.json."""

    seconds_per_picture: float | None = None
    tries: int = 0


@dataclass(frozen=True)
class _LogLine:
    """What is read of a line of metrics.jsonl."""

    seconds: float | None = None


def _log(path: Path) -> list[_LogLine]:
    if not path.is_file():
        return []
    return list(read_records(path, _LogLine, "delete that line"))


def bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; links count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            total += path.stat().st_size
    return total


def discard(directory: Path) -> int:
    """Delete what a rehearsal made in its directory, but for its result: the bytes that were freed.

    Raises:
        WorkError: the folder holds no result of a rehearsal, so that nobody can tell what made it.
    """
    if not (directory / RESULT).is_file():
        raise WorkError(f"{directory}: no {RESULT} says that a rehearsal made this folder; nothing was deleted")
    before = bytes_in(directory)
    for path in directory.iterdir():
        if path.name in _KEPT:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return before - bytes_in(directory)
