"""The one loop that trains every model of the miniature: resumable at any step, ready to be exported at any time.

`fit` runs a short training of a known number of steps, its learning rate a cosine. A long training has no end known
beforehand: its rate warms up and then stays (a trapezoid, arXiv 2405.18392), so that more steps can be added for as
long as there is time, and `finish` branches off the state it finds and lets the rate fall to zero there.

A step draws its batch from its own number, so a resumed training equals an uninterrupted one. Several processes share
a step's microbatches; the step is the same as one process would take.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.files import append_jsonl, atomic_path
from bottega.training.processes import ALONE, Processes, laid_out_as

SAVE_SECONDS = 180.0
LOG_STEPS = 25
MEASURE_AT = (250, 500)  # besides every `measure_every` steps: whether it learns at all is worth knowing early

Losses = Mapping[str, torch.Tensor]


class MicrobatchLosses(NamedTuple):
    """Part of a step: named losses (scalars with their graph), whose sum is minimised, and the samples they judge."""

    losses: Losses
    samples: int


class Task(Protocol):
    """A model, and how one step of its training is drawn."""

    name: str
    modules: Mapping[str, torch.nn.Module]

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        """The parts of a step, each drawn and computed when it is called; gradients add up over them."""

    def measure(self) -> Mapping[str, float]:
        """A cheap measurement, on scenes and painters held out."""


@dataclass(frozen=True)
class TrainingPlan:
    """How a training goes. Everything but the shape of the rate may change when it is resumed.

    Attributes:
        learning_rate: at its highest.
        warm_up: steps.
        schedule: "cosine" falls to zero over all steps; "trapezoid" stays, and falls over the last `decay` steps.
        end: the step after which it ends; None: when it is stopped.
        decay: steps before `end` in which a trapezoid falls to zero.
        betas: of AdamW.
        weight_decay: of AdamW.
        clip: norm to which a step's gradient is cut.
        pace: factor on the learning rate of parameters whose name contains the key.
        average: weight of the past in the moving average of the weights, once it has come that far; None: no average.
        measure_every: steps; None: never.
    """

    learning_rate: float = 1e-3
    warm_up: int = 200
    schedule: Literal["trapezoid", "cosine"] = "trapezoid"
    end: int | None = None
    decay: int = 0
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.01
    clip: float = 1.0
    pace: Mapping[str, float] = field(default_factory=dict)
    average: float | None = 0.9995
    measure_every: int | None = 1_000

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rate = self.learning_rate * min(1.0, (step + 1) / self.warm_up)
        if self.end is None:
            return rate
        if self.schedule == "cosine":
            return rate * 0.5 * (1 + math.cos(math.pi * step / self.end))
        falling = step - (self.end - self.decay)
        if self.decay == 0 or falling < 0:
            return rate
        return rate * (1 - math.sqrt(falling / self.decay))  # beats a line (arXiv 2405.18392)

    def measures_after(self, steps: int) -> bool:
        """Whether a measurement is due after so many steps."""
        if self.measure_every is None:
            return False
        return steps in MEASURE_AT or steps % self.measure_every == 0 or steps == self.end


class Trainer:
    """One task's weights, optimizer and moving average, with their state in `folder/name.safetensors`.

    Of several processes each has all of it; the first measures, logs and saves.
    """

    def __init__(
        self, task: Task, folder: Path, plan: TrainingPlan, name: str | None = None, processes: Processes = ALONE
    ) -> None:
        self.task = task
        self.processes = processes
        self.folder = folder
        self.plan = plan
        self.name = name or task.name
        self.parameters: dict[str, torch.nn.Parameter] = {}
        for module_name, module in task.modules.items():
            for parameter_name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self.parameters[f"{module_name}.{parameter_name}"] = parameter
        self.average: dict[str, torch.Tensor] = {}
        if plan.average is not None:
            self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self._groups(), lr=plan.learning_rate, betas=plan.betas, weight_decay=plan.weight_decay, fused=True
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
        stops: list[int] = []
        previous = {}
        for number in (signal.SIGTERM, signal.SIGINT):
            previous[number] = signal.signal(number, lambda received, _: stops.append(received))
        try:
            # A signal reaches the processes at different steps; they must all end after the same one.
            self._loop(lambda: any(self.processes.all_gather(True if stops else None)))
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self.save()

    def measure(self) -> Mapping[str, float]:
        """Measure the moving average of the weights; the weights in training are put back afterwards."""
        trained = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.use_average()
        self._set_mode(training=False)
        try:
            return self.task.measure()
        finally:
            self._set_parameters(trained)
            self._set_mode(training=True)

    def use_average(self) -> None:
        """Put the moving average into the modules: it is what is measured and exported."""
        if self.average:
            self._set_parameters(self.average)

    # --- the loop -------------------------------------------------------------------------------------------------

    def _loop(self, stopped: Callable[[], bool]) -> None:
        log = _Log(self.folder / f"{self.name}.jsonl", self.samples)
        saved = time.monotonic()
        self._set_mode(training=True)
        while not stopped() and (self.plan.end is None or self.step < self.plan.end):
            norm = self._take_step(log)
            if self.processes.first and (self.step % LOG_STEPS == 0 or self.step == self.plan.end):
                log.write(self.step, self.samples, rate=self.plan.rate(self.step - 1), grad_norm=norm)
            if self.processes.first and self.plan.measures_after(self.step):
                self.save()
                log.write_measurement(self.step, self.samples, self.measure())
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self._set_mode(training=False)

    def _take_step(self, log: _Log) -> float:
        """One step of AdamW; returns the gradient's norm before it was cut."""
        rate = self.plan.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["pace"]
        self.optimizer.zero_grad(set_to_none=True)
        microbatches = self.task.microbatches(self.step)
        self.processes.require(len(microbatches), "the number of parts of a step")
        done = []
        for compute in microbatches[self.processes.share]:
            microbatch = compute()
            loss = torch.stack(list(microbatch.losses.values())).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            values = {name: float(value.detach()) for name, value in microbatch.losses.items()}
            done.append((values, microbatch.samples))
        self.processes.sum_gradients(list(self.parameters.items()))
        samples = 0
        for values, count in self.processes.gather_in_order(done):
            samples += count
            for name, value in values.items():
                log.add(name, value)
        norm = float(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.plan.clip))
        if not math.isfinite(norm):
            raise NonFiniteError(
                f"Training {self.name} needs finite gradients; step {self.step} gave a norm of {norm}; "
                "resume with a lower learning rate."
            )
        self.optimizer.step()
        self._move_average()
        self.step += 1
        self.samples += samples
        return norm

    def _move_average(self) -> None:
        if self.plan.average is None:
            return
        # Young averages must forget their first weights: at step 90 this looks back over 10 steps.
        keep = min(self.plan.average, (1 + self.step) / (10 + self.step))
        now = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), now, 1 - keep)

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters grouped by the factor on their learning rate, as the optimizer takes them."""
        groups: dict[float, list[torch.nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            pace = 1.0
            for part, factor in self.plan.pace.items():
                if part in name:
                    pace = factor
                    break
            groups.setdefault(pace, []).append(parameter)
        return [{"params": groups[pace], "pace": pace} for pace in sorted(groups)]

    def _set_mode(self, *, training: bool) -> None:
        for module in self.task.modules.values():
            module.train(training)

    @torch.no_grad()
    def _set_parameters(self, values: Mapping[str, torch.Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    # --- the state ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write weights, optimizer, moving average and counts; the file appears whole or not at all."""
        if not self.processes.first:
            return
        tensors = {f"weight.{name}": value for name, value in self._module_state().items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"{key}.{name}"] = value
        for name, value in self.average.items():
            tensors[f"average.{name}"] = value
        tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        counts = {"step": str(self.step), "samples": str(self.samples)}
        if self.plan.decay:
            counts["end"] = str(self.plan.end)  # where a branch ends that `finish` began
        with atomic_path(self.state) as temporary:
            save_file(tensors, temporary, metadata=counts)

    def _module_state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers of all modules, by name; they share memory with the modules."""
        state = {}
        for module_name, module in self.task.modules.items():
            for name, value in module.state_dict().items():
                state[f"{module_name}.{name}"] = value
        return state

    @torch.no_grad()
    def _load(self) -> None:
        with safe_open(self.state, "pt") as file:
            counts = file.metadata()
            self.step, self.samples = int(counts["step"]), int(counts["samples"])
            saved = set(file.keys())
            for name, value in self._module_state().items():
                if f"weight.{name}" not in saved:
                    raise RequestError(
                        f"{self.state} must hold the state of this model, but {name} is missing; give another folder, "
                        "or the version of bottega that wrote it."
                    )
                value.copy_(file.get_tensor(f"weight.{name}"))
            for name, value in self.average.items():
                value.copy_(file.get_tensor(f"average.{name}"))
            for name, parameter in self.parameters.items():
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{key}.{name}" in saved:  # a parameter without a gradient so far has no moments
                        moment = file.get_tensor(f"{key}.{name}")
                        if key != "step":  # a count
                            moment = laid_out_as(parameter, moment)
                        self.optimizer.state[parameter][key] = moment


# --- short and long trainings -----------------------------------------------------------------------------------------


class _LossTask:
    """A task that is no more than modules and a function from the step to its losses."""

    def __init__(self, name: str, modules: Mapping[str, torch.nn.Module], losses: Callable[[int], Losses]) -> None:
        self.name = name
        self.modules = modules
        self.losses = losses

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        return [lambda: MicrobatchLosses(self.losses(step), 1)]

    def measure(self) -> Mapping[str, float]:
        return {}


def fit(  # noqa: PLR0913 (a plan in keywords, for the seven models that need no more)
    folder: Path,
    name: str,
    modules: Mapping[str, torch.nn.Module],
    losses: Callable[[int], Losses],
    *,
    steps: int,
    learning_rate: float,
    warm_up: int = 100,
    weight_decay: float = 0.01,
    pace: Mapping[str, float] | None = None,
) -> None:
    """Minimise the sum of `losses(step)` for `steps` steps; state and log lie in `folder` under `name`.

    Args:
        losses: draws its batch from the step's number alone.
        pace: see `TrainingPlan`.

    Raises:
        KeyboardInterrupt: it was stopped; what it had done is saved.
    """
    plan = TrainingPlan(
        learning_rate=learning_rate,
        warm_up=warm_up,
        schedule="cosine",
        end=steps,
        betas=(0.9, 0.99),
        weight_decay=weight_decay,
        pace=pace or {},
        average=None,
        measure_every=None,
    )
    trainer = Trainer(_LossTask(name, modules, losses), folder, plan)
    trainer.train()
    if trainer.step < steps:
        raise KeyboardInterrupt


def finish(task: Task, folder: Path, plan: TrainingPlan, steps: int, processes: Processes = ALONE) -> Trainer:
    """Branch off the state in `folder` and let the learning rate fall to zero over `steps`; the state itself stays.

    Returns the trainer of the branch, its moving average in the modules.
    """
    main = folder / f"{task.name}.safetensors"
    branch = folder / f"{task.name}-finished.safetensors"
    if not main.exists():
        raise RequestError(f"a training must have been begun before it is finished, {main} is missing; train first.")
    with processes.first_before_others():
        if not branch.exists():
            with atomic_path(branch) as temporary:
                shutil.copyfile(main, temporary)
    with safe_open(branch, "pt") as file:
        counts = file.metadata()
    end = int(counts.get("end", int(counts["step"]) + steps))
    ending = replace(plan, end=end, decay=steps, average=0.99)
    trainer = Trainer(task, folder, ending, branch.stem, processes)
    trainer.train()
    trainer.use_average()
    return trainer


class _Log:
    """Rows of `name.jsonl`: mean losses since the last row, pace, and measurements between them."""

    def __init__(self, path: Path, samples: int) -> None:
        self.path = path
        self.losses: dict[str, list[float]] = {}
        self._restart_clock(samples)

    def _restart_clock(self, samples: int) -> None:
        self.since = time.monotonic()
        self.processor_since = time.process_time()
        self.samples = samples

    def add(self, name: str, value: float) -> None:
        """Remember a loss until the next row."""
        self.losses.setdefault(name, []).append(value)

    def write(self, step: int, samples: int, *, rate: float, grad_norm: float) -> None:
        """Append a row of losses and pace."""
        seconds = time.monotonic() - self.since
        processor = time.process_time() - self.processor_since
        seen = samples - self.samples
        row: dict[str, float] = {"step": step, "samples": samples, "rate": rate, "grad_norm": grad_norm}
        for name, values in self.losses.items():
            row[f"loss_{name}"] = sum(values) / len(values)
        row["seconds"] = seconds
        row["samples_a_second"] = seen / seconds
        row["processor_ms_a_sample"] = 1000 * processor / max(1, seen)
        append_jsonl(self.path, [_rounded(row)])
        self.losses.clear()
        self._restart_clock(samples)

    def write_measurement(self, step: int, samples: int, figures: Mapping[str, float]) -> None:
        """Append a row of gates."""
        seconds = time.monotonic() - self.since
        row = {"step": step, "samples": samples, "gates": _rounded(figures), "measuring_seconds": round(seconds, 1)}
        append_jsonl(self.path, [row])
        self._restart_clock(samples)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: value if isinstance(value, int) else float(f"{value:.4g}") for name, value in figures.items()}
