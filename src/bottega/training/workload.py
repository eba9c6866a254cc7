"""What is trained: the interface between the training loop and a trainer.

A *step* is one step of the optimizer over one *global batch* of samples. The global batch is computed in one or more
*microbatches*, and the microbatches by one or more processes. Legend: B samples of a microbatch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, TypedDict

from bottega.runtime.files import atomic_path
from bottega.runtime.fingerprint import Settings, resumable_settings
from bottega.training.checkpoint import module_tensors, step_name
from bottega.training.config import LoopConfig
from bottega.training.log import Row

if TYPE_CHECKING:
    import torch
    from torch import nn

ALL_MICROBATCHES = slice(None)
"""The share of a process that computes the global batch alone."""

Metrics = Mapping[str, float | None]
"""Numbers by their column of the log; None where one could not be measured."""

Validate = Callable[[], Metrics]
"""Returns the numbers of a validation, for the log."""

WriteSamples = Callable[[Path, int], list[Path]]
"""Called with the run directory and the number of steps done: writes sample pictures there and returns the files."""


@dataclass
class Microbatch:
    """The result of one microbatch.

    Args:
        loss: scalar with a graph; the losses of the microbatches of a step add up to the loss of the step.
        sample_losses: float32 [B], before weights.
        sample_ids: B names of samples.
        timesteps: B timesteps.
        tasks: the task of each of the B samples.
        metrics: numbers for the log, averaged over the microbatches of a step.
    """

    loss: torch.Tensor
    sample_losses: torch.Tensor
    sample_ids: Sequence[str]
    timesteps: Sequence[int]
    tasks: Sequence[str]
    metrics: dict[str, float] = field(default_factory=dict)


class ParameterGroup(TypedDict):
    """Parameters that AdamW treats alike. lr_multiplier: their learning rate, as a factor on that of the step."""

    params: list[nn.Parameter]
    weight_decay: float
    lr_multiplier: float


class Workload(ABC):
    """What is trained, and how the loss of a step is computed.

    Everything that a step draws must be a function of (seed, step): then a resumed run equals an uninterrupted one.

    Attributes:
        module: everything that is trained and saved, and nothing else.
        fingerprint: what a checkpoint depends on besides the loop's own values.
        resumable: settings that may differ on resume, each with what changing it does.
        recipe_names: what parts of the fingerprint are called in a recipe, and so in `resumable`.
        notes: lines for people at the head of the log.
        loss_scaling: whether gradients pass through a network in float16.
        remembered: JSON that is kept in each checkpoint.
    """

    module: nn.Module
    fingerprint: Settings
    resumable: Mapping[str, str] = MappingProxyType(resumable_settings(LoopConfig(), "stage", "loop"))
    recipe_names: Mapping[str, str] = MappingProxyType({})
    notes: Sequence[str] = ()
    loss_scaling: bool = False
    remembered: Mapping[str, object] = MappingProxyType({})

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """AdamW's groups; together they hold every parameter that is trained, once."""

    @abstractmethod
    def microbatches(self, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Microbatch]:
        """The microbatches of `step` (from 0), or a `share` of them; each is computed when it is asked for."""

    def checkpoint_name(self, step: int) -> str:
        """What the checkpoint after `step` steps is called; the numbers in it rise with the step."""
        return step_name(step)

    def write_weights(self, path: Path, step: int) -> None:
        """Write what would be exported after `step` steps, whole or not at all: the parameters and buffers as they are.

        Where the training keeps averages, `module` holds them meanwhile.
        """
        from safetensors.torch import save_file

        with atomic_path(path) as temporary:
            save_file(module_tensors(self.module), temporary, metadata={"step": str(step)})

    def due(self, step: int, every: int) -> bool:
        """Whether what is to be done `every` so many steps is done after `step` steps."""
        return step % every == 0

    def metrics(self, step: int) -> Row:
        """What each row of the log holds besides the loop's own numbers."""
        return {}

    def modules(self) -> Iterable[tuple[str, nn.Module]]:
        """The networks that a microbatch passes through, by name: where the first value that is not finite is looked
        for."""
        return [("", self.module)]
