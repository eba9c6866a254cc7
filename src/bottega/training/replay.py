"""A step computed again under watch, to find what is not finite first: in the run that it stops, and later from a file.

Everything that a step draws is a function of (seed, step), so a step is its number and the parameters before it:

    replay/step_00000123.safetensors     trained parameters and buffers; in the metadata, as JSON, what was seen

Legend: W samples of a global batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import TypedDict

from bottega.runtime.errors import MissingError, NonFiniteError, RequestError, StorageError
from bottega.runtime.files import atomic_path
from bottega.runtime.fingerprint import Settings, require_unchanged
from bottega.runtime.records import record_of_text
from bottega.training.checkpoint import module_tensors
from bottega.training.guards import name_samples

if TYPE_CHECKING:
    from bottega.training.workload import Workload

FOLDER = "replay"
FORMAT = "bottega-replay"
_KEY = "bottega"


@dataclass
class Examination:
    """What one step gave under watch; each list but `suspects` has W entries, in the order of the global batch.

    Args:
        step: from 1, as in metrics.jsonl.
        sample_ids, timesteps, tasks: of the samples.
        losses: before weights.
        suspects: indices of the samples whose loss is not finite, or, where only a gradient is not, of all samples
            computed with it; empty where everything is finite.
        first_module: the first module in the order of the pass that something is wrong with, or the parameter whose
            gradient is wrong; empty where no module returned anything wrong.
        cause: what is wrong with it.
    """

    step: int
    sample_ids: list[str] = field(default_factory=list)
    timesteps: list[int] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    first_module: str = ""
    cause: str = ""

    def where(self) -> str:
        """What was not finite first, as a sentence."""
        if not self.suspects:
            return (
                "computed again, everything is finite: the features were repaired since, or the device does not give "
                "the same numbers twice"
            )
        where = f"first: {self.first_module or 'the loss itself'} ({self.cause})"
        if all(math.isfinite(self.losses[i]) for i in self.suspects):
            sample_ids = [self.sample_ids[i] for i in self.suspects]
            timesteps = [self.timesteps[i] for i in self.suspects]
            where += f", in the microbatch with {name_samples(sample_ids, timesteps)}"
        return where

    def __str__(self) -> str:
        lines = [f"step {self.step}, {len(self.losses)} samples"]
        for name, timestep, task, loss in zip(self.sample_ids, self.timesteps, self.tasks, self.losses, strict=True):
            remark = "" if math.isfinite(loss) else "  not finite"
            lines.append(f"  {name}  t={timestep}  {task}  loss {loss:.6g}{remark}")
        return "\n".join([*lines, self.where()])


class ReplayFacts(TypedDict):
    """The metadata of a replay file: `Examination`'s fields, and what the step was computed with."""

    format: str
    step: int
    sample_ids: list[str]
    timesteps: list[int]
    tasks: list[str]
    losses: list[float]
    suspects: list[int]
    first_module: str
    cause: str
    fingerprint: Settings


class Watch:
    """Within its block, notes the first tensor that is not finite among what modules receive, return, and get back as
    a gradient.

    Args:
        networks: by name; all modules inside them are watched, under `name.path.of.module`.
    """

    def __init__(self, networks: Iterable[tuple[str, nn.Module]]) -> None:
        self._networks = list(networks)
        self._handles: list[Any] = []
        self.first: tuple[str, str] | None = None
        """Name of the module, and what is wrong with it."""

    def __enter__(self) -> Watch:
        for root, network in self._networks:
            for path, module in network.named_modules():
                name = _joined(root, path) or type(module).__name__
                hook = partial(self._check_forward, name)
                self._handles.append(module.register_forward_hook(hook, with_kwargs=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _check_forward(self, name: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Called after a module's forward pass: for inner modules before the outer ones that they are part of."""
        if self.first is not None:
            return
        returned = list(_tensors(output))
        if all(_finite(tensor) for tensor in returned):
            # A gradient may still be wrong where the values are not, so the way back is watched too.
            for tensor in returned:
                if tensor.requires_grad:
                    tensor.register_hook(partial(self._check_backward, name))  # type: ignore[no-untyped-call]
        elif not all(_finite(parameter) for parameter in module.parameters(recurse=False)):
            self.first = (name, "its own parameters are not finite")
        elif not all(_finite(tensor) for tensor in _tensors((args, kwargs))):
            self.first = (name, "what it receives is not finite already")
        else:
            self.first = (name, "what it returns is not finite, what it receives is")

    def _check_backward(self, name: str, gradient: torch.Tensor) -> None:
        if self.first is None and not _finite(gradient):
            self.first = (name, "the gradient that comes back to it is not finite")


def examine(work: Workload, step: int) -> Examination:
    """Compute the global batch of `step` (from 0) again under watch, up to its gradients.

    No parameter is changed; gradients are cleared before and after. Only the first microbatch that something is wrong
    with is examined; of those after it the losses are entered.
    """
    seen = Examination(step + 1)
    # Without a loss scale: a step is given up only when its gradient is not finite at the smallest one.
    # The failed step was clipped by a NaN norm, which made every gradient NaN: the first parameter would be blamed.
    work.module.zero_grad(set_to_none=True)
    with Watch(work.modules()) as watch:
        for batch in work.microbatches(step):
            losses = batch.sample_losses.detach().tolist()
            indices = range(len(seen.losses), len(seen.losses) + len(losses))
            seen.losses += losses
            seen.sample_ids += batch.sample_ids
            seen.timesteps += batch.timesteps
            seen.tasks += batch.tasks
            if not seen.suspects:
                _judge(work, batch.loss, indices, seen, watch)
            watch.first = None  # what a finite loss and gradient passed over is no fault
    work.module.zero_grad(set_to_none=True)
    return seen


def explain(error: NonFiniteError, work: Workload, step: int, directory: Path) -> NonFiniteError:
    """The error of a step (from 0) with its first cause and its cure; the step is written to `directory`/replay."""
    seen = examine(work, step)
    file = f"{FOLDER}/step_{seen.step:08d}.safetensors"
    try:
        write(directory / file, work, seen)
        saved = f"{file} in the run's folder holds the step for --replay"
    except (StorageError, OSError, SafetensorError) as problem:  # the step's own error is the one to report
        saved = f"the step could not be written for replay ({problem})"
    return NonFiniteError(
        f"{error}; {seen.where()}; the weights are untouched since the step before: {saved}, check these samples' "
        f"features, or lower the learning rate"
    )


def write(path: Path, work: Workload, seen: Examination) -> None:
    """Write a step for replay, whole or not at all: the parameters as they are now, and what was seen.

    Raises:
        StorageError, SafetensorError: the disk does not take it.
    """
    losses = [loss if math.isfinite(loss) else str(loss) for loss in seen.losses]  # JSON has no NaN
    facts = {"format": FORMAT, **asdict(seen), "losses": losses, "fingerprint": work.fingerprint}
    with atomic_path(path) as temporary:
        save_file(module_tensors(work.module), temporary, metadata={_KEY: json.dumps(facts, sort_keys=True)})


def replay(work: Workload, file: Path) -> Examination:
    """Compute the step of a replay file again; `work.module` then holds the parameters before that step.

    Raises:
        MissingError: there is no such file.
        StorageError: the file is torn.
        RequestError: it is another kind of file, or the step's samples are others by now.
        FingerprintError: it is of another workload.
    """
    facts = read_facts(file)
    written = f"when {file.name} was written"
    require_unchanged(facts["fingerprint"], work.fingerprint, where=written, cure="set it back")
    work.module.load_state_dict(load_file(file), strict=True)
    seen = examine(work, facts["step"] - 1)
    if seen.sample_ids != facts["sample_ids"]:
        now = ", ".join(seen.sample_ids[:4])
        before = ", ".join(facts["sample_ids"][:4])
        raise RequestError(
            f"{file}: step {seen.step} is made of other samples now ({now}, …) than then ({before}, …): the features "
            f"were changed since; replay with those of then"
        )
    return seen


def read_facts(file: Path) -> ReplayFacts:
    """What was seen when a replay file was written. Errors as `replay`."""
    if not file.is_file():
        raise MissingError(f"there is no {file}; name a file that a stopped run left in its folder {FOLDER}/")
    try:
        with safe_open(file, framework="pt") as handle:
            metadata = handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{file} can't be read as safetensors ({error}); copy it again") from error
    cure = f"name a file in a run's folder {FOLDER}/"
    if _KEY not in metadata:
        raise RequestError(f"{file} is no step for replay; {cure}")
    facts = record_of_text(ReplayFacts, metadata[_KEY], f"{file}: its metadata", cure)
    if facts["format"] != FORMAT:
        raise RequestError(f"{file} is {facts['format']!r:.60}, not {FORMAT!r}; {cure}")
    return facts


def _judge(work: Workload, loss: torch.Tensor, indices: range, seen: Examination, watch: Watch) -> None:
    """Enter in `seen` what is wrong with the microbatch at `indices`, whose forward pass was watched."""
    bad = [i for i in indices if not math.isfinite(seen.losses[i])]
    if bad:
        seen.suspects = bad
        seen.first_module, seen.cause = watch.first or ("", "every module returns finite values")
        return
    loss.backward()  # type: ignore[no-untyped-call]
    parameter = _bad_gradient(work)
    if parameter is not None:
        seen.suspects = list(indices)
        seen.first_module, seen.cause = watch.first or (parameter, "the norm of its gradient is not finite")


def _bad_gradient(work: Workload) -> str | None:
    """The first parameter with a gradient that no finite norm can be made of; None where all of them together have
    one."""
    root = next((name for name, network in work.modules() if network is work.module), "")
    norms: dict[str, torch.Tensor] = {}
    for name, parameter in work.module.named_parameters():
        if parameter.grad is not None:
            norms[_joined(root, name)] = torch.linalg.vector_norm(parameter.grad.float())
    if not norms or _finite(torch.linalg.vector_norm(torch.stack(list(norms.values())))):
        return None
    for name, norm in norms.items():
        if not _finite(norm):
            return name
    return next(iter(norms))  # each is finite, their sum of squares overflows


def _joined(root: str, path: str) -> str:
    return ".".join(part for part in (root, path) if part)


def _finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.detach().isfinite().all())


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    """The tensors in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
