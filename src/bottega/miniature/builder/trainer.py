"""The loop of the long trainings: no end known beforehand, stopped and resumed at will, always ready to be exported.

The learning rate warms up and then stays (a trapezoid, arXiv 2405.18392), so that more steps can be added at any time;
`finish` branches off the state it finds and lets the rate fall to zero there. Measurements and exports read the moving
average of the weights. A step draws its batch from its own number, so a resumed training equals an uninterrupted one.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import append_jsonl, atomic_path

SAVE_SECONDS = 180.0
LOG_STEPS = 25
MEASURE_AT = (250, 500)  # besides every `measure_every` steps: whether it learns at all is worth knowing early


class Task(Protocol):
    """A model and how one step of its training is drawn."""

    name: str
    modules: Mapping[str, torch.nn.Module]

    def microbatches(self, step: int) -> Iterator[tuple[str, torch.Tensor, int]]:
        """Name, loss (a scalar with its graph) and number of samples of each part of a step."""

    def measure(self) -> Mapping[str, float]:
        """A cheap measurement of the gates, on scenes and painters held out."""


@dataclass(frozen=True)
class Plan:
    """How a long training goes; what is named here may change when it is resumed."""

    learning_rate: float = 1e-3
    warm_up: int = 200  # steps
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    average: float = 0.9995  # of the weights' moving average, once it has come that far
    measure_every: int = 1_000  # steps
    end: int | None = None  # the step after which it ends; None: when it is stopped
    decay: int = 0  # steps before `end` in which the rate falls to zero

    def rate(self, step: int) -> float:
        """Learning rate of a step (counted from 0)."""
        warm = min(1.0, (step + 1) / self.warm_up)
        if self.end is None or self.decay == 0 or step < self.end - self.decay:
            return self.learning_rate * warm
        share = (step - (self.end - self.decay)) / self.decay
        return self.learning_rate * (1 - math.sqrt(share))  # 1 - sqrt beats a line (arXiv 2405.18392)


class Trainer:
    """One task's weights, optimizer and moving average, with their state in `folder/name.safetensors`."""

    def __init__(self, task: Task, folder: Path, plan: Plan, name: str | None = None) -> None:
        self.task, self.folder, self.plan = task, folder, plan
        self.name = name or task.name
        self.parameters = {
            f"{m}.{n}": p for m, module in task.modules.items() for n, p in module.named_parameters() if p.requires_grad
        }
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=plan.learning_rate,
            betas=plan.betas,
            weight_decay=plan.weight_decay,
            fused=True,
        )
        self.step = 0
        self.samples = 0
        if self.state.exists():
            self._load()

    @property
    def state(self) -> Path:
        """The file that a stopped training is resumed from."""
        return self.folder / f"{self.name}.safetensors"

    def train(self) -> None:
        """Train until `plan.end`, or until SIGTERM or SIGINT; saves every few minutes and on the way out."""
        self.folder.mkdir(parents=True, exist_ok=True)
        stopped: list[int] = []
        before = {
            s: signal.signal(s, lambda number, _: stopped.append(number)) for s in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            self._loop(lambda: bool(stopped))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            self.save()

    def _loop(self, stopped: Callable[[], bool]) -> None:
        for module in self.task.modules.values():
            module.train()
        saved = time.monotonic()
        log = _Log(self.folder / f"{self.name}.jsonl", self.samples)
        while not stopped() and (self.plan.end is None or self.step < self.plan.end):
            norm = self._one_step(log)
            self.step += 1
            if self.step % LOG_STEPS == 0:
                log.write(self.step, self.samples, rate=self.plan.rate(self.step - 1), grad_norm=norm)
            if self.step in MEASURE_AT or self.step % self.plan.measure_every == 0 or self.step == self.plan.end:
                self.save()
                log.measured(self.step, self.samples, self.measure())
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()

    def _one_step(self, log: _Log) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        for name, loss, samples in self.task.microbatches(self.step):
            loss.backward()  # type: ignore[no-untyped-call]
            self.samples += samples
            log.add(name, float(loss.detach()))
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.plan.clip))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"Training {self.name} needs finite gradients; step {self.step} gave a norm of {norm}; "
                "resume with a lower learning rate."
            )
        self.optimizer.step()
        keep = min(self.plan.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - keep)
        return norm

    def measure(self) -> Mapping[str, float]:
        """Measure the moving average of the weights; the weights in training are put back afterwards."""
        trained = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.use_average()
        for module in self.task.modules.values():
            module.eval()
        try:
            return self.task.measure()
        finally:
            self._set(trained)
            for module in self.task.modules.values():
                module.train()

    def use_average(self) -> None:
        """Put the moving average into the modules: what is measured and exported."""
        self._set(self.average)

    @torch.no_grad()
    def _set(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def save(self) -> None:
        """Write weights, optimizer, moving average and counts; the file appears whole or not at all."""
        tensors: dict[str, torch.Tensor] = {}
        for name, parameter in self.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach().contiguous()
            tensors[f"average.{name}"] = self.average[name].contiguous()
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value.detach().contiguous()
        counts = {"step": str(self.step), "samples": str(self.samples)}
        if self.plan.decay:
            counts["end"] = str(self.plan.end)
        with atomic_path(self.state) as temporary:
            save_file(tensors, temporary, metadata=counts)

    def _load(self) -> None:
        with safe_open(self.state, "pt") as file:
            counts = file.metadata()
            self.step, self.samples = int(counts["step"]), int(counts["samples"])
            known = set(file.keys())
            missing = [n for n in self.parameters if f"weight.{n}" not in known]
            if missing:
                raise RequestError(
                    f"{self.state} holds another model: it lacks {missing[0]} and {len(missing) - 1} more; "
                    "give another folder, or the version of bottega that wrote it."
                )
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                    self.average[name].copy_(file.get_tensor(f"average.{name}"))
                    self.optimizer.state[parameter] = {
                        key: _laid_out_as(file.get_tensor(f"{key}.{name}"), parameter)
                        for key in ("step", "exp_avg", "exp_avg_sq")
                        if f"{key}.{name}" in known
                    }


def _laid_out_as(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The value in the parameter's memory layout, which AdamW's fused step takes for granted."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter).copy_(value)


def finish(task: Task, folder: Path, plan: Plan, steps: int) -> Trainer:
    """Branch off the state in `folder` and let the learning rate fall to zero over `steps`; the state itself stays.

    Returns the trainer of the branch, its moving average in the modules.
    """
    main = folder / f"{task.name}.safetensors"
    branch = folder / f"{task.name}-finished.safetensors"
    if not main.exists():
        raise RequestError(f"nothing to finish: {main} is not there; train first.")
    if not branch.exists():
        shutil.copyfile(main, branch)
    with safe_open(branch, "pt") as file:
        counts = file.metadata()
    end = int(counts.get("end", int(counts["step"]) + steps))
    ending = replace(plan, end=end, decay=steps, average=0.99)
    trainer = Trainer(task, folder, ending, branch.stem)
    trainer.train()
    trainer.use_average()
    return trainer


class _Log:
    """Rows of `name.jsonl`: mean losses of the last steps, pace, and measurements between them."""

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        self.losses: dict[str, list[float]] = {}
        self._mark(samples)

    def _mark(self, samples: int) -> None:
        self.since, self.busy, self.samples = time.monotonic(), time.process_time(), samples

    def add(self, name: str, value: float) -> None:
        self.losses.setdefault(name, []).append(value)

    def write(self, step: int, samples: int, **figures: float) -> None:
        seconds, busy = time.monotonic() - self.since, time.process_time() - self.busy
        row: dict[str, Any] = {"step": step, "samples": samples, **{k: _short(v) for k, v in figures.items()}}
        for name, values in self.losses.items():
            row[f"loss_{name}"] = _short(sum(values) / len(values))
        row["samples_a_second"] = _short((samples - self.samples) / seconds)
        row["processor_ms_a_sample"] = _short(1000 * busy / max(1, samples - self.samples))
        append_jsonl(self.path, [row])
        self.losses.clear()
        self._mark(samples)

    def measured(self, step: int, samples: int, figures: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self.since, 1)
        gates = {name: _short(value) for name, value in figures.items()}
        append_jsonl(self.path, [{"step": step, "samples": samples, "gates": gates, "seconds": seconds}])
        self._mark(samples)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
