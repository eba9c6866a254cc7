"""The training loop, once for every trainer: read it from top to bottom.

A step is one step of the optimizer over one *window* of samples, which may be computed in several parts, and the parts
by several processes. Everything that a step draws is a function of (seed, step), so the state of a run is its
parameters, AdamW's moments and the step, and where there are any the loss scale and the averages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import (
    Interrupted,
    MemoryPressureError,
    MissingError,
    NonFiniteError,
    RequestError,
    StorageError,
)
from bottega.runtime.files import read_jsonl
from bottega.runtime.fingerprint import bound_settings
from bottega.runtime.interrupt import Interruption
from bottega.runtime.memory import Creep, is_out_of_memory, rss_mb, vram_mb
from bottega.runtime.threads import torch_threads
from bottega.training import checkpoint as checkpoints
from bottega.training.config import LoopConfig
from bottega.training.ema import Average
from bottega.training.guards import MemoryGuard, check_gradients, check_losses, clip_gradients
from bottega.training.journal import Journal
from bottega.training.processes import ALONE, Processes
from bottega.training.replay import explain
from bottega.training.scaling import LossScale
from bottega.training.workload import Microbatch, Validate, Workload, WriteSamples

if TYPE_CHECKING:
    import torch
    from torch import nn


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
    work: Workload,
    config: LoopConfig,
    directory: Path,
    *,
    validate: Validate | None = None,
    write_samples: WriteSamples | None = None,
    until: int | None = None,
    guard: MemoryGuard | None = None,
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Train to `config.steps`, from the newest whole checkpoint in `directory` if there is one.

    validate: numbers of a validation, for the log. write_samples: draws for people, after a validation's checkpoint.
    until: end after this step as at the last one; the schedule stays that of `config.steps`. guard: of the memory; by
    default as the configuration says. processes: that train together; the first alone writes and validates.

    Returns {steps, resumed_from, seconds, loss, validation}; `work.module` then holds the result: the averages where
    there are any.
    Raises FingerprintError for a checkpoint of another run; NonFiniteError before a step would spoil the weights, with
    that step written to `directory`/replay; Interrupted after a checkpoint when somebody asked to stop, and
    MemoryPressureError likewise when memory runs short or rises without end.
    """
    processes.broadcast(work.module)
    parameters = [(name, p) for name, p in work.module.named_parameters() if p.requires_grad]
    state = _state(work, parameters, config)
    folder = directory / "checkpoints"
    fingerprint = {**work.fingerprint, "loop": bound_settings(config, "stage")}
    start = _resume(folder, work, state, fingerprint, config, processes)
    end = config.steps if until is None else min(until, config.steps)
    guard = guard or _memory_guard(config)
    began, row = time.monotonic(), _last_row(directory, start)
    validation: dict[str, Any] = {}
    with torch_threads(config.threads), ExitStack() as opened:
        with processes.fail_together():
            if processes.first and start < end:
                checkpoints.require_writable(folder)
            journal = opened.enter_context(Journal(directory, start, config)) if processes.first else None
            if journal is not None:
                journal.begin(work.notes, processes.count)
        interruption = opened.enter_context(Interruption(quiet=not processes.first))
        for step in range(start, end):
            tick, last = time.monotonic(), step + 1 == end
            rate = _set_rate(state.optimizer, config, step)
            try:
                parts, norm = _gradients(work, step, parameters, config.max_grad_norm, state.scale, processes)
            except NonFiniteError as error:
                raise _explained(error, work, step, directory, journal, processes) from error
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update(step + 1)

            row = _row(step, _whole(parts, processes), rate, norm, time.monotonic() - tick) | work.metrics(step)
            overflow = None
            if state.scale is not None:
                row["loss_scale"] = state.scale.value
                overflow = state.scale.update()
            looked = last or work.due(step + 1, config.validate_every)
            with processes.fail_together():
                if journal is not None:
                    if looked:
                        with state.exported():
                            validation = {} if validate is None else validate()
                        row |= {k: v for k, v in validation.items() if isinstance(v, int | float)}
                    journal.step(row, overflow, last=last)
            stop = _stop(interruption, None if last else guard.check(step + 1), processes)
            with processes.fail_together():
                if journal is not None:
                    if isinstance(stop, MemoryPressureError):
                        journal.line(str(stop))
                    due = last or work.due(step + 1, config.checkpoint_every)
                    if due or stop is not None:
                        journal.sync()
                        name, kept = work.checkpoint_name(step + 1), dict(work.remembered)
                        checkpoints.save(
                            folder, step + 1, state, fingerprint, config.keep_last, name=name, remembered=kept, due=due
                        )
                    if looked and write_samples is not None:
                        _write_samples(write_samples, step, directory, state, journal)
                    journal.progress(row["loss"])
            if stop is not None:
                raise stop
    if state.average is not None:
        state.average.copy_to_module()
    seconds = time.monotonic() - began
    done = {"steps": end, "resumed_from": start, "seconds": seconds, "loss": row.get("loss")}
    if not validation and validate is not None and processes.first:
        validation = validate()
    return done | {"validation": validation}


def _write_samples(
    write_samples: WriteSamples, step: int, directory: Path, state: checkpoints.State, journal: Journal
) -> None:
    """Draw for people; pictures for which there is no room, or no autoencoder, are reported and stop nothing."""
    try:
        with state.exported():
            write_samples(directory, step + 1)
    except (StorageError, MissingError, NonFiniteError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError | MemoryError) and not is_out_of_memory(error):
            raise
        journal.line(f"step {step + 1}: no pictures were drawn ({error})")


def _state(work: Workload, parameters: Sequence[tuple[str, nn.Parameter]], config: LoopConfig) -> checkpoints.State:
    """The state of a run that has not begun."""
    import torch

    optimizer = torch.optim.AdamW(
        work.parameter_groups(), lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True
    )
    scale = LossScale() if work.loss_scaling else None
    average = None if config.ema_decay is None else Average(parameters, config.ema_decay)
    return checkpoints.State(work.module, optimizer, scale, average)


def _set_rate(optimizer: torch.optim.Optimizer, config: LoopConfig, step: int) -> float:
    rate = learning_rate(config, step)
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_multiplier"]
    return rate


def _gradients(
    work: Workload,
    step: int,
    parameters: Sequence[tuple[str, nn.Parameter]],
    limit: float,
    scale: LossScale | None,
    processes: Processes,
) -> tuple[list[Microbatch], float]:
    """Compute the gradients of a step, clipped to `limit`: what the parts of this process gave, and the norm of the
    whole window's gradient before clipping.

    Where they overflow, they are computed again with half the loss scale, as long as there is one to halve.
    Raises NonFiniteError before anything that is not finite could reach the parameters.
    """
    while True:
        parts = []
        with processes.fail_together():
            for part in work.microbatches(step, processes.share):
                check_losses(part.sample_losses, step=step + 1, sample_ids=part.sample_ids, timesteps=part.timesteps)
                loss = part.loss if scale is None else part.loss * scale.value
                loss.backward()  # type: ignore[no-untyped-call]
                parts.append(_detached(part))
        processes.sum_gradients(parameters)
        if scale is not None:
            scale.unscale(parameters)
        norm = float(clip_gradients(parameters, limit))
        if math.isfinite(norm) or scale is None or not scale.halve():
            return parts, check_gradients(norm, step=step + 1)
        work.module.zero_grad(set_to_none=True)


def _explained(
    error: NonFiniteError,
    work: Workload,
    step: int,
    directory: Path,
    journal: Journal | None,
    processes: Processes,
) -> NonFiniteError:
    """The error with its cause, for which the first process computes the whole window again."""
    with processes.fail_together():
        if journal is None:
            return NonFiniteError(str(error))
        told = explain(error.with_traceback(None), work, step, directory)  # its frames hold the step's graph
        journal.line(str(told))
    return told


def _stop(
    interruption: Interruption, pressure: MemoryPressureError | None, processes: Processes
) -> Interrupted | MemoryPressureError | None:
    """What ends the run after this step, in whichever process it arose."""
    own = interruption.signum, None if pressure is None else str(pressure)
    told = [word for word in processes.all_gather(own if any(own) else None) if word is not None]
    for signum, _ in told:
        if signum is not None:
            return Interrupted(signum)
    return MemoryPressureError(told[0][1]) if told else None


def _memory_guard(config: LoopConfig) -> MemoryGuard:
    """A rise is judged by blocks that each hold a validation: what the first one keeps is no leak."""
    creep = Creep(block=max(64, config.validate_every))
    return MemoryGuard(config.memory_limit, config.log_every, creep=creep)


def _resume(
    folder: Path,
    work: Workload,
    state: checkpoints.State,
    fingerprint: dict[str, Any],
    config: LoopConfig,
    processes: Processes,
) -> int:
    """Put the newest checkpoint back; the step after which the run goes on."""
    with processes.fail_together():
        found = checkpoints.latest(folder)
        start = 0 if found is None else _restore(found, work, state, fingerprint, config)
    starts = sorted({told for told in processes.all_gather(start) if told is not None})
    if len(starts) > 1:
        raise RequestError(
            f"all processes must read the same checkpoints, these found different ones (after steps "
            f"{', '.join(map(str, starts))}); put the output on a disk that all share"
        )
    return start


def _restore(
    found: checkpoints.Checkpoint,
    work: Workload,
    state: checkpoints.State,
    fingerprint: dict[str, Any],
    config: LoopConfig,
) -> int:
    checkpoints.require_same_run(found.fingerprint, fingerprint, work.resumable)
    if found.step > config.steps:
        raise RequestError(
            f"steps = {config.steps} lies before the checkpoint's step {found.step}; ask for at least {found.step}, or "
            "train into another folder"
        )
    checkpoints.restore(found, state)
    return found.step


def _detached(part: Microbatch) -> Microbatch:
    return replace(part, loss=part.loss.detach(), sample_losses=part.sample_losses.detach())


def _whole(parts: list[Microbatch], processes: Processes) -> list[Microbatch]:
    """The window's parts, of which each process has some."""
    if processes.count > 1:  # what is sent lies on no device
        parts = [replace(part, loss=part.loss.cpu(), sample_losses=part.sample_losses.cpu()) for part in parts]
    return processes.gather_in_order(parts)


def _row(step: int, parts: list[Microbatch], rate: float, norm: float, seconds: float) -> dict[str, Any]:
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
