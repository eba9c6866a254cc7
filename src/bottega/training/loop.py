"""The training loop, once for every trainer: read it from top to bottom.

A step is one step of the optimizer over one *window* of samples, which may be computed in several parts. Everything
that a step draws is a function of (seed, step), so the state of a run is its parameters, AdamW's moments and the step.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import read_jsonl
from bottega.runtime.interrupt import Interruption
from bottega.runtime.memory import Creep, rss_mb, vram_mb
from bottega.runtime.progress import Progress
from bottega.training import checkpoint as checkpoints
from bottega.training.config import MAY_CHANGE, LoopConfig
from bottega.training.diagnosis import Watcher, words
from bottega.training.ema import Average
from bottega.training.guards import MemoryGuard, check_gradients, check_losses, clip_gradients
from bottega.training.log import TrainingLog, summary_line
from bottega.training.replay import explain
from bottega.training.scaling import LossScale

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass
class Part:
    """What one part of a window gave.

    loss: scalar with a graph; the losses of a window's parts add up to the loss of the step.
    sample_losses: float32 [B], before weights. tasks: the task of each sample. metrics: numbers for the log, averaged
    over the window's parts.
    """

    loss: torch.Tensor
    sample_losses: torch.Tensor
    sample_ids: Sequence[str]
    timesteps: Sequence[int]
    tasks: Sequence[str]
    metrics: dict[str, float] = field(default_factory=dict)


class Workload(ABC):
    """What is trained, and how the loss of a window comes about.

    module: everything that is trained and saved, and nothing else. fingerprint: what a checkpoint depends on beside
    the loop's own values. may_change: what of it all may differ on resume, with the effect. notes: lines for people at
    the head of the log. loss_scaling: whether gradients pass through float16 on their way.
    """

    module: nn.Module
    fingerprint: dict[str, Any]
    may_change: dict[str, str] = MAY_CHANGE
    notes: Sequence[str] = ()
    loss_scaling: bool = False

    @abstractmethod
    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's groups: `params`, `weight_decay`, and `lr_multiplier`, by which the group's learning rate differs."""

    @abstractmethod
    def window(self, step: int) -> Iterator[Part]:
        """The parts of the window of `step` (from 0); each is computed when it is asked for."""

    def validate(self) -> dict[str, Any]:
        """Numbers of a validation for the log; empty where there is none."""
        return {}

    def metrics(self, step: int) -> dict[str, Any]:
        """What each row of the log holds beside the loop's own numbers."""
        return {}

    def modules(self) -> Iterable[tuple[str, nn.Module]]:
        """The networks that a window passes through, by name: where the first value that is not finite is looked
        for."""
        return [("", self.module)]


def learning_rate(config: LoopConfig, step: int) -> float:
    """The rate for the step with index `step`: linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    low = config.final_fraction
    return config.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def train(
    work: Workload, config: LoopConfig, directory: Path, *, until: int | None = None, guard: MemoryGuard | None = None
) -> dict[str, Any]:
    """Train to `config.steps`, from the newest whole checkpoint in `directory` if there is one.

    until: end after this step as at the last one; the schedule stays that of `config.steps`. guard: of the memory; by
    default as the configuration says.

    Returns {steps, resumed_from, seconds, loss, validation}; `work.module` then holds the result: the averages where
    there are any.
    Raises FingerprintError for a checkpoint of another run; NonFiniteError before a step would spoil the weights, with
    that step written to `directory`/replay; Interrupted after a checkpoint when somebody asked to stop, and
    MemoryPressureError likewise when memory runs short or rises without end.
    """
    import torch

    parameters = [(name, p) for name, p in work.module.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        work.parameter_groups(), lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True
    )
    scale = LossScale() if work.loss_scaling else None
    average = None if config.ema_decay is None else Average(parameters, config.ema_decay)
    state = checkpoints.State(work.module, optimizer, scale, average)
    folder = directory / "checkpoints"
    fingerprint = {**work.fingerprint, "loop": _fingerprint(config)}
    start = _resume(folder, work, state, fingerprint, config)
    end = config.steps if until is None else min(until, config.steps)
    guard = guard or _memory_guard(config)
    began, row = time.monotonic(), _last_row(directory, start)
    validation: dict[str, Any] = {}
    with (
        TrainingLog(directory, start, tensorboard=config.tensorboard) as log,
        Progress(config.steps, "training", "steps", done=start) as progress,
        Interruption() as interruption,
    ):
        log.line(f"{'resumed after' if start else 'begun at'} step {start} of {config.steps}")
        for note in work.notes:
            log.line(note)
        watcher = Watcher(read_jsonl(log.metrics))
        for step in range(start, end):
            tick = time.monotonic()
            rate = learning_rate(config, step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["lr_multiplier"]

            try:
                parts, norm = _gradients(work, step, parameters, config.max_grad_norm, scale)
            except NonFiniteError as error:
                told = explain(error.with_traceback(None), work, step, directory)  # its frames hold the step's graph
                log.line(str(told))
                raise told from error
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(step + 1)

            last = step + 1 == end
            row = _row(step, parts, rate, norm, time.monotonic() - tick) | work.metrics(step)
            if scale is not None:
                row["loss_scale"] = scale.value
                if overflow := scale.passed():
                    log.line(f"step {step + 1}: {overflow}")
            if last or (step + 1) % config.validate_every == 0:
                with nullcontext() if average is None else average.in_place():
                    validation = work.validate()
                row |= {k: v for k, v in validation.items() if isinstance(v, int | float)}
            log.row(row)
            watcher.add(row)
            if last or (step + 1) % config.log_every == 0:
                log.line(summary_line(row, config.steps) + _validation_text(row))
                log.points(row)
            if "val_gain" in row:
                log.line(words(watcher.findings(ended=last)))
            pressure = None if last else guard.look(step + 1)
            if pressure is not None:
                log.line(str(pressure))
            if last or (step + 1) % config.checkpoint_every == 0 or interruption.requested or pressure is not None:
                log.sync()
                checkpoints.save(folder, step + 1, state, fingerprint, config.keep_last)
            progress.update(loss=row["loss"])
            interruption.check()
            if pressure is not None:
                raise pressure
    if average is not None:
        average.take_place()
    seconds = time.monotonic() - began
    done = {"steps": end, "resumed_from": start, "seconds": seconds, "loss": row.get("loss")}
    return done | {"validation": validation or work.validate()}


def _gradients(
    work: Workload, step: int, parameters: Sequence[tuple[str, nn.Parameter]], limit: float, scale: LossScale | None
) -> tuple[list[Part], float]:
    """Compute the gradients of a step, clipped to `limit`: what its parts gave, and the norm before clipping.

    Where they overflow, they are computed again with half the loss scale, as long as there is one to halve.
    Raises NonFiniteError before anything that is not finite could reach the parameters.
    """
    while True:
        parts = []
        for part in work.window(step):
            check_losses(part.sample_losses, step=step + 1, sample_ids=part.sample_ids, timesteps=part.timesteps)
            loss = part.loss if scale is None else part.loss * scale.value
            loss.backward()  # type: ignore[no-untyped-call]
            parts.append(_detached(part))
        if scale is not None:
            scale.unscale(parameters)
        norm = float(clip_gradients(parameters, limit))
        if math.isfinite(norm) or scale is None or not scale.halve():
            return parts, check_gradients(norm, step=step + 1)
        work.module.zero_grad(set_to_none=True)


def _memory_guard(config: LoopConfig) -> MemoryGuard:
    """A rise is judged by blocks that each hold a validation: what the first one keeps is no leak."""
    creep = Creep(block=max(64, config.validate_every))
    return MemoryGuard(config.memory_limit, config.log_every, creep=creep)


def _resume(
    folder: Path, work: Workload, state: checkpoints.State, fingerprint: dict[str, Any], config: LoopConfig
) -> int:
    found = checkpoints.latest(folder)
    if found is None:
        return 0
    checkpoints.check_fingerprint(found.fingerprint, fingerprint, work.may_change)
    if found.step > config.steps:
        raise RequestError(
            f"steps = {config.steps} lies before the checkpoint's step {found.step}; ask for at least {found.step}, or "
            "train into another folder"
        )
    checkpoints.restore(found, state)
    return found.step


def _fingerprint(config: LoopConfig) -> dict[str, Any]:
    return {k: v for k, v in config.model_dump(mode="json").items() if k not in MAY_CHANGE}


def _detached(part: Part) -> Part:
    return Part(
        part.loss.detach(), part.sample_losses.detach(), part.sample_ids, part.timesteps, part.tasks, part.metrics
    )


def _row(step: int, parts: list[Part], rate: float, norm: float, seconds: float) -> dict[str, Any]:
    """One row of metrics.jsonl; a task without a sample in this window has no entry."""
    sums: dict[str, list[float]] = {}
    for part in parts:
        for task, loss in zip(part.tasks, part.sample_losses.tolist(), strict=True):
            sums.setdefault(task, []).append(loss)
    row: dict[str, Any] = {"step": step + 1, "loss": math.fsum(float(part.loss) for part in parts)}
    row |= {f"loss_{task}": math.fsum(values) / len(values) for task, values in sorted(sums.items())}
    row |= {"learning_rate": rate, "grad_norm": norm, "seconds": seconds, "rss_mb": rss_mb()}
    if vram := vram_mb():
        row["vram_mb"] = vram
    names = {name for part in parts for name in part.metrics}
    return row | {
        name: math.fsum(part.metrics[name] for part in parts if name in part.metrics)
        / sum(name in part.metrics for part in parts)
        for name in sorted(names)
    }


def _last_row(directory: Path, step: int) -> dict[str, Any]:
    """The row of `step` as an earlier process logged it: what a run that is already done reports."""
    path = directory / "metrics.jsonl"
    if step == 0 or not path.exists():
        return {}
    return next((row for row in read_jsonl(path) if row["step"] == step), {})


def _validation_text(row: dict[str, Any]) -> str:
    gain = row.get("val_gain")
    return "" if gain is None else f" val_gain {gain:.4f}"
