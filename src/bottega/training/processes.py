"""The processes that train one model together, as `accelerate launch` starts them; one process alone needs none of it.

Process r of W computes the parts r, r + W, … of each window; the gradients are summed, for the losses of a window's
parts add up to the loss of the step, and then all take the same step. What ends one process ends all, at the same
place: otherwise the others would wait for it for ever. accelerate starts the group (gloo on the CPU, nccl on GPUs) and
gives each process its device; it is imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from bottega.runtime.errors import BottegaError, NonFiniteError, RequestError, WorkError
from bottega.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import nn

T = TypeVar("T")
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: all but the first wait while that one validates. One that dies is noticed
at once, by the launcher."""


class Processes:
    """This process among those that train together; by default it is alone, and everything here costs nothing.

    rank: this one's number, from 0; the first writes, validates and shows progress. count: of all. device: of the
    tensors that are sent.
    """

    def __init__(self, rank: int = 0, count: int = 1, device: torch.device | None = None) -> None:
        self.rank = rank
        self.count = count
        self.device = device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @property
    def share(self) -> slice:
        """Which of a window's parts this process computes."""
        return slice(self.rank, None, self.count)

    def require(self, parts: int, name: str, beside: str = "") -> None:
        """Raise RequestError where a window of `parts`, as the setting `name` says, has none for some process.

        beside: what else is to be changed with it, if anything.
        """
        if self.count > parts:
            raise RequestError(
                f"each process needs a part of every window: {name} = {parts} for {self.count} processes; raise {name} "
                f"to {self.count} or more{beside and f' ({beside})'}, or start fewer processes"
            )

    def fail_together(self) -> FailTogether:
        """A block that all leave in the same way: see `FailTogether`."""
        return FailTogether(self)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """A block that the first process runs before the others enter it, for it writes what they read; all leave it in
        the same way, see `FailTogether`."""
        if not self.first:
            with self.fail_together():
                pass  # the first process is in the block
        with self.fail_together():
            yield
        if self.first:
            with self.fail_together():
                pass  # the others are in the block

    def all_gather(self, value: T | None) -> list[T | None]:
        """The value of each process, by rank; where all are None, it costs one small message."""
        if self.count == 1:
            return [value]
        import torch
        from torch import distributed

        something = torch.tensor([value is not None], dtype=torch.int32, device=self.device)
        _exchange(distributed.all_reduce, something, distributed.ReduceOp.MAX)
        told: list[T | None] = [None] * self.count
        if bool(something):
            _exchange(distributed.all_gather_object, told, value)
        return told

    def gather_in_order(self, items: list[T]) -> list[T]:
        """What each process made of its share, put together in the order of the window."""
        if self.count == 1:
            return items
        from torch import distributed

        shares: list[list[T]] = [[] for _ in range(self.count)]
        _exchange(distributed.all_gather_object, shares, items)
        return [shares[i % self.count][i // self.count] for i in range(sum(map(len, shares)))]

    def sum_gradients(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Add up the gradients of all processes, in place, by one message a dtype.

        A parameter that has no gradient in any process has none afterwards either: AdamW then leaves it alone.
        """
        if self.count == 1:
            return
        for dtype in sorted({parameter.dtype for _, parameter in parameters}, key=str):
            self._sum([parameter for _, parameter in parameters if parameter.dtype == dtype])

    def broadcast(self, module: nn.Module) -> None:
        """Give all processes the first one's parameters and buffers."""
        if self.count == 1:
            return
        from torch import distributed

        for tensor in module.state_dict().values():
            own = tensor.to(self.device, copy=True).contiguous()
            _exchange(distributed.broadcast, own, 0)
            tensor.copy_(own)

    def _sum(self, parameters: list[nn.Parameter]) -> None:
        """The gradients of parameters of one dtype, flat, with how many processes have each behind them."""
        import torch
        from torch import distributed

        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        held = torch.tensor([float(p.grad is not None) for p in parameters]).to(flat[0])
        message = torch.cat([*flat, held])  # [sum of sizes + number of parameters]
        _exchange(distributed.all_reduce, message)
        *summed, counts = torch.split(message, [len(part) for part in (*flat, held)])
        for parameter, gradient, count in zip(parameters, summed, counts.tolist(), strict=True):
            parameter.grad = gradient.view(parameter.shape) if count else None


class FailTogether:
    """A block that all processes enter and leave together.

    What one raises in it, it raises; the others then raise NonFiniteError if it was one, else WorkError that says which
    process failed and why. One process alone passes through it.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        processes = self._processes
        if processes.count == 1:
            return
        own = None if error is None else (isinstance(error, NonFiniteError), _sentence(error))
        told = processes.all_gather(own)
        if error is not None:
            return
        for rank, word in enumerate(told):
            if word is not None:
                not_finite, text = word
                if not_finite:
                    raise NonFiniteError(text)
                raise WorkError(f"process {rank} of {processes.count} failed, and so all do: {text}")


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that this one was started with, `ALONE` where it was started alone; they part after the block.

    device: as configured. Raises RequestError where it would be the same one for all, MissingError where there are more
    processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield ALONE
        return
    if ":" in device:
        raise RequestError(
            f"several processes need a device each, the device {device} is one for all; use auto, cuda or cpu"
        )
    from accelerate import PartialState

    from bottega.models.loading import choose_device

    state: Any = PartialState(cpu=choose_device(device).type == "cpu", timeout=PATIENCE)
    try:
        yield Processes(state.process_index, state.num_processes, state.device)
        state.wait_for_everyone()  # one that leaves while another still speaks may be aborted at its exit
    finally:
        state.destroy_process_group()


def _exchange(collective: Callable[..., Any], *arguments: Any) -> None:
    """Do what all processes do at once. WorkError where one of them is gone."""
    try:
        collective(*arguments)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        why = " ".join(str(error).split())[:200]
        raise WorkError(
            f"all processes of a training must live, one is gone or out of reach ({why}); run the same command again, "
            f"it goes on after the last checkpoint"
        ) from error


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, BottegaError) else f"{type(error).__name__}: {text}"
