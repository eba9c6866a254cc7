"""The training loop, once for every trainer: read it from top to bottom.

A step is one step of the optimizer over one *global batch*, which may be computed in several microbatches, and the
microbatches by several processes. Everything that a step draws is a function of (seed, step), so the state of a run is
its parameters, AdamW's moments and the step, and where there are any the loss scale and the averages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.runtime.errors import (
    Interrupted,
    MemoryPressureError,
    MissingError,
    NonFiniteError,
    RequestError,
    StorageError,
)
from bottega.runtime.fingerprint import bound_settings
from bottega.runtime.interrupt import Interruption
from bottega.runtime.memory import Creep, is_out_of_memory, rss_mb, vram_mb
from bottega.runtime.threads import threads_note, torch_threads
from bottega.training import checkpoint as checkpoints
from bottega.training.config import LoopConfig
from bottega.training.ema import Average
from bottega.training.guards import MemoryGuard, check_gradients, check_losses, clip_gradients
from bottega.training.job import TrainingJob, TrainingSummary
from bottega.training.journal import Journal
from bottega.training.kept import KeptWeights
from bottega.training.log import METRICS, Row, StepRecord, read_metrics
from bottega.training.processes import ALONE, Processes
from bottega.training.replay import explain
from bottega.training.scaling import LossScale
from bottega.training.workload import Metrics, Microbatch, Validate, Workload, WriteSamples

if TYPE_CHECKING:
    from torch import nn

MIN_CREEP_BLOCK = 64
"""Steps whose memory is averaged before a rise is judged, at least: fewer are dominated by the allocator's noise."""


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
) -> TrainingSummary:
    """Train to `config.steps`, from the newest whole checkpoint in `directory` if there is one.

    Afterwards `work.module` holds the result: the averages where there are any, else the parameters.

    Args:
        work: what is trained.
        config: how long and how fast.
        directory: where checkpoints and logs are written.
        validate: returns the numbers of a validation, for the log.
        write_samples: draws for people, after a validation's checkpoint.
        until: end after this step as at the last one; the schedule stays that of `config.steps`.
        guard: of the memory; by default as the configuration says.
        processes: that train together; the first alone writes and validates.

    Raises:
        FingerprintError: the checkpoint is of another run.
        NonFiniteError: before a step would spoil the weights; that step is written to `directory`/replay.
        Interrupted: somebody asked to stop; there is a checkpoint.
        MemoryPressureError: memory runs short or rises without end; there is a checkpoint.
    """
    job = TrainingJob(work, config, validate, write_samples)
    steps = train_by_steps(job, directory, until=until, guard=guard, processes=processes)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            summary: TrainingSummary = ended.value
            return summary


def train_by_steps(
    job: TrainingJob[Workload],
    directory: Path,
    *,
    until: int | None = None,
    guard: MemoryGuard | None = None,
    processes: Processes = ALONE,
    interruption: Interruption | None = None,
) -> Generator[int, None, TrainingSummary]:
    """`train`, a step at a time: whoever asks for the next one may do other work in between.

    Args:
        job: what is trained, and how long.
        directory, until, guard, processes: see `train`.
        interruption: watched by whoever asks for the steps, who also shows the progress; None: watched here.

    Yields:
        How many steps are done: first those of the checkpoint, then after each step.

    Returns:
        What `train` returns. `seconds` leaves out what was done in between.

    Raises:
        What `train` raises, when a step is asked for.
    """
    work = job.work
    config = job.config
    validate = job.validate
    write_samples = job.write_samples
    # Set up: equal weights in all processes, then all that the newest checkpoint holds.
    # Before `_Run`, whose averages begin as copies of these parameters.
    processes.broadcast(work.module)
    end = config.steps if until is None else min(until, config.steps)
    run = _Run(work, config, directory, processes, end)
    start = run.resume()
    loss = run.logged_loss(start)
    validation: Metrics = {}
    guard = guard or _memory_guard(config)
    began = time.monotonic()

    # One stack: however the loop ends, the signal handlers are put back first and the logs are closed last.
    with torch_threads(config.threads), ExitStack() as opened:
        with processes.fail_together():
            journal = run.open_journal(start, opened, bar=interruption is None)
        if interruption is None:
            interruption = opened.enter_context(Interruption(quiet=not processes.first))

        left = time.monotonic()
        yield start
        began += time.monotonic() - left  # what was done in between is not this training's
        for step in range(start, end):
            # Gradients of the global batch, then a step of the optimizer.
            step_began = time.monotonic()
            rate = run.set_learning_rate(step)
            microbatches, norm = run.compute_gradients(step, journal)
            run.update_parameters(step)
            record = run.record(step, microbatches, rate, norm, step_began)
            overflow = run.update_loss_scale()
            loss = record.loss

            # Validate and log.
            with processes.fail_together():
                if journal is not None:
                    validation = run.validated(validate) if run.is_validated(step) else {}
                    journal.step(record, run.row(record, validation), overflow, last=run.is_last(step))

            # Save where that is due, or where something ends the run after this step.
            # All processes decide together, before the first one writes: one that left alone would hang the others.
            stop = run.reason_to_stop(step, interruption, guard)
            with processes.fail_together():
                if journal is not None:
                    # Before the checkpoint: a run that resumes from it will not come to this step again.
                    run.keep_weights_if_due(step, validation)
                    # Checkpoint before pictures: whatever drawing does, the step is saved.
                    run.save_if_due(step, journal, stop)
                    run.draw_samples(write_samples, step, journal)
                    journal.progress(loss)
            if stop is not None:
                raise stop
            left = time.monotonic()
            yield step + 1
            began += time.monotonic() - left

    # Leave the result in the module, and its validation in the summary.
    run.leave_result()
    seconds = time.monotonic() - began
    if start >= end:  # nothing was left to train
        validation = run.validated(validate)
    return {"steps": end, "resumed_from": start, "seconds": seconds, "loss": loss, "validation": validation}


def learning_rate(config: LoopConfig, step: int) -> float:
    """The rate for the step with index `step`: linear warm-up, then constant or half a cosine."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    cosine = 1 + math.cos(math.pi * min(done, 1.0))  # from 2 to 0
    low = config.final_fraction
    return config.learning_rate * (low + (1 - low) * 0.5 * cosine)


class _Run:
    """The phases of a step, on what all of them need: the state, the folders, the processes. All steps count from 0."""

    def __init__(self, work: Workload, config: LoopConfig, directory: Path, processes: Processes, end: int) -> None:
        self.work = work
        self.config = config
        self.directory = directory
        self.processes = processes
        self.end = end
        self.checkpoints = directory / "checkpoints"
        self.kept = KeptWeights(directory, config.keep_best)
        self.parameters = [(name, p) for name, p in work.module.named_parameters() if p.requires_grad]
        self.state = _initial_state(work, self.parameters, config)
        self.fingerprint = {**work.fingerprint, "loop": bound_settings(config, "stage")}

    def resume(self) -> int:
        """Restore the newest checkpoint; returns the step after which the run continues."""
        with self.processes.fail_together():
            found = checkpoints.latest(self.checkpoints)
            start = 0 if found is None else self._restore(found)
        starts = {other for other in self.processes.all_gather(start) if other is not None}
        if len(starts) > 1:
            raise RequestError(
                f"all processes must read the same checkpoints, these found different ones (after steps "
                f"{', '.join(map(str, sorted(starts)))}); put the output on a disk that all share"
            )
        return start

    def _restore(self, found: checkpoints.Checkpoint) -> int:
        work = self.work
        checkpoints.require_same_run(found.fingerprint, self.fingerprint, work.resumable, work.recipe_names)
        if found.step > self.config.steps:
            raise RequestError(
                f"steps = {self.config.steps} is before the checkpoint's step {found.step}; ask for at least "
                f"{found.step}, or train into another folder"
            )
        checkpoints.restore(found, self.state)
        return found.step

    def logged_loss(self, step: int) -> float | None:
        """The loss of the step with number `step` as an earlier process logged it."""
        if step == 0:
            return None
        for row in read_metrics(self.directory / METRICS):
            if row["step"] == step:
                loss = row.get("loss")
                return float(loss) if isinstance(loss, int | float) else None
        return None

    def open_journal(self, start: int, opened: ExitStack, *, bar: bool) -> Journal | None:
        """The logs, open until `opened` is closed; None in the processes that do not write."""
        if not self.processes.first:
            return None
        if start < self.end:  # StorageError now, and not hours later at the first checkpoint
            checkpoints.require_writable(self.checkpoints)
            self.kept.forget_after(start)
        journal = opened.enter_context(Journal(self.directory, start, self.config, bar=bar))
        journal.begin([*self.work.notes, threads_note()], self.processes.count)
        return journal

    def is_last(self, step: int) -> bool:
        """Whether the training ends with this step."""
        return step + 1 == self.end

    def is_due(self, step: int, every: int) -> bool:
        """Whether what is to be done `every` so many steps is done after this one; always after the last."""
        return self.is_last(step) or self.work.due(step + 1, every)

    def set_learning_rate(self, step: int) -> float:
        """Set the rates of all parameter groups; returns the rate before the groups' multipliers."""
        rate = learning_rate(self.config, step)
        for group in self.state.optimizer.param_groups:
            group["lr"] = rate * group["lr_multiplier"]
        return rate

    def compute_gradients(self, step: int, journal: Journal | None) -> tuple[list[Microbatch], float]:
        """Compute the gradients of a step, clipped.

        Returns:
            The microbatches of this process, and the norm of the global batch's gradient before clipping.

        Raises:
            NonFiniteError: before anything that is not finite could reach the parameters; it says what was first.
        """
        try:
            return self._finite_gradients(step)
        except NonFiniteError as error:
            raise self._explained(error, step, journal) from error

    def _finite_gradients(self, step: int) -> tuple[list[Microbatch], float]:
        """As `compute_gradients`. Where the gradients overflow, they are computed again with half the loss scale, as
        long as there is one to halve."""
        scale = self.state.scale
        while True:
            with self.processes.fail_together():
                microbatches = self._backward(step)
            # Sum, unscale, then clip: the norm must be the global batch's own, whatever the scale and the processes.
            self.processes.sum_gradients(self.parameters)
            if scale is not None:
                scale.unscale(self.parameters)
            norm = float(clip_gradients(self.parameters, self.config.max_grad_norm))
            if math.isfinite(norm) or scale is None or not scale.halve():
                return microbatches, check_gradients(norm, step=step + 1)
            self.work.module.zero_grad(set_to_none=True)

    def _backward(self, step: int) -> list[Microbatch]:
        """Forward and backward pass over this process's microbatches, which are returned without their graphs."""
        scale = self.state.scale
        done: list[Microbatch] = []
        for batch in self.work.microbatches(step, self.processes.share):
            check_losses(batch.sample_losses, step=step + 1, sample_ids=batch.sample_ids, timesteps=batch.timesteps)
            loss = batch.loss if scale is None else batch.loss * scale.value
            loss.backward()  # type: ignore[no-untyped-call]
            done.append(replace(batch, loss=batch.loss.detach(), sample_losses=batch.sample_losses.detach()))
        return done

    def _explained(self, error: NonFiniteError, step: int, journal: Journal | None) -> NonFiniteError:
        """The error with its cause, for which the first process computes the global batch again."""
        with self.processes.fail_together():
            if journal is None:
                return NonFiniteError(str(error))
            # The error's frames hold the step's graph; dropped, or the second graph may not fit into memory.
            explained = explain(error.with_traceback(None), self.work, step, self.directory)
            journal.line(str(explained))
        return explained

    def update_parameters(self, step: int) -> None:
        """Let the optimizer use the gradients, and the averages follow."""
        self.state.optimizer.step()
        self.state.optimizer.zero_grad(set_to_none=True)
        if self.state.average is not None:
            self.state.average.update(step + 1)

    def update_loss_scale(self) -> str | None:
        """Count the step in the loss scale, where there is one; a line for people where the scale was too large."""
        return None if self.state.scale is None else self.state.scale.update()

    def record(
        self, step: int, microbatches: list[Microbatch], rate: float, norm: float, step_began: float
    ) -> StepRecord:
        """The numbers of a step, from the microbatches of all processes."""
        if self.processes.count > 1:  # tensors that are sent as objects must be on the CPU
            microbatches = [
                replace(batch, loss=batch.loss.cpu(), sample_losses=batch.sample_losses.cpu()) for batch in microbatches
            ]
        global_batch = self.processes.gather_in_order(microbatches)
        losses: dict[str, list[float]] = {}
        metrics: dict[str, list[float]] = {}
        for batch in global_batch:
            for task, loss in zip(batch.tasks, batch.sample_losses.tolist(), strict=True):
                losses.setdefault(task, []).append(loss)
            for name, value in batch.metrics.items():
                metrics.setdefault(name, []).append(value)
        return StepRecord(
            step=step + 1,
            loss=math.fsum(float(batch.loss) for batch in global_batch),
            task_losses=_means(losses),
            learning_rate=rate,
            grad_norm=norm,
            seconds=time.monotonic() - step_began,
            rss_mb=rss_mb(),
            vram_mb=vram_mb(),
            metrics=_means(metrics),
            loss_scale=None if self.state.scale is None else self.state.scale.value,
        )

    def row(self, record: StepRecord, validation: Metrics) -> Row:
        """A step's row of metrics.jsonl."""
        row = {**record.row(), **self.work.metrics(record.step - 1)}
        # After the workload's columns, where earlier versions wrote it: a resumed log keeps one order.
        if record.loss_scale is not None:
            row["loss_scale"] = record.loss_scale
        for name, value in validation.items():
            if isinstance(value, int | float):
                row[name] = value
        return row

    def validated(self, validate: Validate | None) -> Metrics:
        """The numbers of a validation, of what would be exported now; empty where there is none, and in all processes
        but the first."""
        if validate is None or not self.processes.first:
            return {}
        with self.state.exported():
            return validate()

    def reason_to_stop(
        self, step: int, interruption: Interruption, guard: MemoryGuard
    ) -> Interrupted | MemoryPressureError | None:
        """What ends the run after this step, in whichever process it arose; a signal goes before memory."""
        pressure = None if self.is_last(step) else guard.check(step + 1)
        signum = interruption.signum
        message = None if pressure is None else str(pressure)
        own = None if signum is None and message is None else (signum, message)
        reasons = [reason for reason in self.processes.all_gather(own) if reason is not None]
        # A signal goes first: whoever sent it expects its exit code.
        for signum, _ in reasons:
            if signum is not None:
                return Interrupted(signum)
        return MemoryPressureError(reasons[0][1]) if reasons else None

    def save_if_due(self, step: int, journal: Journal, stop: Interrupted | MemoryPressureError | None) -> None:
        """Write a checkpoint, where one is due after the step or the run stops there."""
        if isinstance(stop, MemoryPressureError):
            journal.line(str(stop))
        due = self.is_due(step, self.config.checkpoint_every)
        if not due and stop is None:
            return
        journal.sync()  # a checkpoint that is ahead of its log would leave a gap in it
        checkpoints.save(
            self.checkpoints,
            step + 1,
            self.state,
            self.fingerprint,
            self.config.keep_last,
            name=self.work.checkpoint_name(step + 1),
            remembered=self.work.remembered,
            due=due,
        )

    def keeps_weights(self, step: int) -> bool:
        """Whether the weights after this step are to be kept, if they are among the best; a stop's never are."""
        return self.config.keep_best > 0 and self.is_due(step, self.config.checkpoint_every)

    def is_validated(self, step: int) -> bool:
        """Whether there is a validation after this step."""
        return self.keeps_weights(step) or self.is_due(step, self.config.validate_every)

    def keep_weights_if_due(self, step: int, validation: Metrics) -> None:
        """Keep what would be exported now, where that is due and it is among the best."""
        if not self.keeps_weights(step):
            return
        with self.state.exported():
            self.work.write_weights(self.kept.path(step + 1), step + 1)
        self.kept.add(step + 1, validation.get("val_loss"))

    def draw_samples(self, write_samples: WriteSamples | None, step: int, journal: Journal) -> None:
        """Draw for people, where a drawer is given and a validation is due; pictures for which there is no room, or no
        autoencoder, are reported and stop nothing."""
        if write_samples is None or not self.is_due(step, self.config.validate_every):
            return
        try:
            with self.state.exported():
                write_samples(self.directory, step + 1)
        except (StorageError, MissingError, NonFiniteError, RuntimeError, MemoryError) as error:
            is_fault = isinstance(error, RuntimeError | MemoryError) and not is_out_of_memory(error)
            if is_fault:
                raise
            journal.line(f"step {step + 1}: no pictures were drawn ({error})")

    def leave_result(self) -> None:
        """Put the averages in the place of the parameters, where there are any."""
        if self.state.average is not None:
            self.state.average.copy_to_module()


def _initial_state(
    work: Workload, parameters: Sequence[tuple[str, nn.Parameter]], config: LoopConfig
) -> checkpoints.State:
    """The state of a run before its first step."""
    import torch

    # Fused: one kernel for all parameters; its step count is on the parameter's device, see `checkpoints.restore`.
    groups = [dict(group) for group in work.parameter_groups()]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, fused=True)
    scale = LossScale() if work.loss_scaling else None
    average = None if config.ema_decay is None else Average(parameters, config.ema_decay)
    return checkpoints.State(work.module, optimizer, scale, average)


def _memory_guard(config: LoopConfig) -> MemoryGuard:
    # A block of the rise holds at least one validation: what the first one keeps in memory is no leak.
    creep = Creep(block=max(MIN_CREEP_BLOCK, config.validate_every))
    return MemoryGuard(config.memory_limit, config.log_every, creep=creep)


def _means(values: dict[str, list[float]]) -> dict[str, float]:
    """The mean of each name's values, in the order of the names."""
    return {name: math.fsum(values[name]) / len(values[name]) for name in sorted(values)}
