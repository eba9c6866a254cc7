"""What a step keeps for its gradient, and whether to keep it or to compute it again: measured, then said."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from bottega.runtime.errors import MemoryPressureError

if TYPE_CHECKING:
    from bottega.student.objective import StyleWorkload

ROOM = 0.5
"""Share of the free memory that a part's activations may take before `auto` computes them again; the rest is for the
pass itself, for which the peak is not known before."""
_MB = 1024 * 1024


@dataclass(frozen=True)
class Activations:
    """Bytes that one part of a window keeps for its gradient, without checkpointing (None: it does not fit) and with
    it, and bytes that were free before."""

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
            f"gradient checkpointing {how}{asked}: a part keeps {plain} for its gradient, "
            f"{self.checkpointed / _MB:.0f} MB with checkpointing; {self.free / _MB:.0f} MB were free"
        )

    def summary(self) -> dict[str, Any]:
        """The same for `training.json`."""
        return {
            "gradient_checkpointing": "on" if self.chosen else "off",
            "activations_mb": None if self.plain is None else round(self.plain / _MB, 1),
            "activations_mb_checkpointed": round(self.checkpointed / _MB, 1),
        }


def weigh(work: StyleWorkload, asked: Literal["auto", "on", "off"]) -> Activations:
    """Run the first part of the first window both ways, and choose.

    Nothing that is learned depends on it: a block run again gives the same bits.

    Raises:
        MemoryPressureError: the part does not fit into the GPU in the way that is left.
    """
    free = free_bytes(work.backbone.device)
    checkpointed, plain = _kept(work, True), _kept(work, False)
    if checkpointed is None or (asked == "off" and plain is None):
        cure = "lower student.batch_size and raise student.accumulation by as much"
        raise MemoryPressureError(
            f"one part of {work.config.batch_size} samples must fit into the GPU's {free / _MB:.0f} MB that are free; "
            + (cure if checkpointed is None else f"{cure}, or set student.gradient_checkpointing: auto")
        )
    too_large = plain is None or (plain > ROOM * free and checkpointed < plain)
    chosen = asked == "on" or (asked == "auto" and too_large)
    work.checkpointed = chosen
    return Activations(plain, checkpointed, free, chosen, asked)


def _kept(work: StyleWorkload, checkpointed: bool) -> int | None:
    """Bytes that a part keeps this way; None where it does not fit into the GPU."""
    work.checkpointed = checkpointed
    draw, where = work.draw(0), slice(0, work.config.batch_size)
    try:
        return saved_bytes(lambda: work.part(draw, where).loss, [work.backbone.transformer, work.adapter])
    except torch.OutOfMemoryError:
        return None


def saved_bytes(forward: Callable[[], torch.Tensor], modules: Iterable[nn.Module]) -> int:
    """Bytes that autograd keeps of what `forward` computes, each storage once; the modules' own parameters and buffers
    are not counted.
    """
    own = {t.untyped_storage().data_ptr() for m in modules for t in (*m.parameters(), *m.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no address is used twice

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
