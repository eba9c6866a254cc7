"""Gradient checkpointing or not: the memory of activations is measured with and without, one is chosen and logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from bottega.runtime.errors import MemoryPressureError
from bottega.student.records import ActivationFacts

if TYPE_CHECKING:
    from bottega.student.objective import StyleWorkload

ACTIVATIONS_SHARE = 0.5
"""Share of the free memory that the activations of a microbatch may take before `auto` turns checkpointing on; the rest
is for the pass itself, whose peak is not known beforehand."""
_MB = 1024 * 1024


@dataclass(frozen=True)
class Activations:
    """What was measured, and what was chosen.

    Args:
        plain: bytes that a microbatch keeps for its gradient without checkpointing; None: it does not fit.
        checkpointed: bytes with checkpointing.
        free: bytes that were free before.
        chosen: whether checkpointing is on.
        asked: the setting.
    """

    plain: int | None
    checkpointed: int
    free: int
    chosen: bool
    asked: str

    def __str__(self) -> str:
        how = "on" if self.chosen else "off"
        asked = " (auto)" if self.asked == "auto" else ""
        plain = "more than there is" if self.plain is None else f"{self.plain / _MB:.0f} MB"
        return (
            f"gradient checkpointing {how}{asked}: a microbatch keeps {plain} for its gradient, "
            f"{self.checkpointed / _MB:.0f} MB with checkpointing; {self.free / _MB:.0f} MB were free"
        )

    def summary(self) -> ActivationFacts:
        """The same for `training.json`."""
        return {
            "gradient_checkpointing": "on" if self.chosen else "off",
            "activations_mb": None if self.plain is None else round(self.plain / _MB, 1),
            "activations_mb_checkpointed": round(self.checkpointed / _MB, 1),
        }


def choose_checkpointing(work: StyleWorkload, asked: Literal["auto", "on", "off"]) -> Activations:
    """Run the first microbatch of the first step with and without checkpointing, and choose.

    What is learned does not depend on the choice: a block that runs again gives the same bits.

    Args:
        work: whose `checkpointed` is set.
        asked: the setting; auto turns checkpointing on where the activations would take half of the free memory.

    Raises:
        MemoryPressureError: the microbatch does not fit into the GPU's memory as configured.
    """
    free = free_bytes(work.backbone.device)
    checkpointed = _kept(work, True)
    plain = _kept(work, False)
    if checkpointed is None or (asked == "off" and plain is None):
        cure = "lower student.batch_size and raise student.accumulation by as much"
        if checkpointed is not None:
            cure += ", or set student.gradient_checkpointing: auto"
        raise MemoryPressureError(
            f"a microbatch of {work.config.batch_size} samples must fit into the GPU's {free / _MB:.0f} MB that are "
            f"free; {cure}"
        )
    too_large = plain is None or (plain > ACTIVATIONS_SHARE * free and checkpointed < plain)
    chosen = asked == "on" or (asked == "auto" and too_large)
    work.checkpointed = chosen
    return Activations(plain, checkpointed, free, chosen, asked)


def _kept(work: StyleWorkload, checkpointed: bool) -> int | None:
    """Bytes that a microbatch keeps, checkpointed or not; None where it does not fit into the GPU."""
    work.checkpointed = checkpointed
    draw = work.draw(0)
    where = slice(0, work.config.batch_size)
    try:
        return saved_bytes(lambda: work.microbatch(draw, where).loss, [work.backbone.transformer, work.adapter])
    except torch.OutOfMemoryError:
        return None


def saved_bytes(forward: Callable[[], torch.Tensor], modules: Iterable[nn.Module]) -> int:
    """Bytes that autograd keeps of what `forward` computes, each storage once, without the modules' own parameters and
    buffers."""
    own: set[int] = set()
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            own.add(tensor.untyped_storage().data_ptr())
    kept: dict[int, torch.UntypedStorage] = {}  # held, for a freed storage's address may be used again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    if not result.requires_grad:
        raise ValueError("what is measured must have a gradient: no parameter takes part in it")
    return sum(storage.nbytes() for storage in kept.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that a tensor on this device could still take."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    import psutil

    return int(psutil.virtual_memory().available)
