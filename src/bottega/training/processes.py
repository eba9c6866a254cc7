"""The processes that train one model together, as `accelerate launch` starts them; one process alone needs none of it.

Process r of W computes the microbatches r, r + W, … of each global batch; the gradients are summed, for the losses of
the microbatches add up to the loss of the step, and then all take the same step. What ends one process ends all, at
the same place: otherwise the others would wait for it forever. accelerate starts the group (gloo on the CPU, nccl on
GPUs) and gives each process its device; it is imported only where there are several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from bottega.runtime.children import die_with_parent
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

    Args:
        rank: this one's number, from 0; the first writes, validates and shows progress.
        count: how many there are.
        device: of the tensors that are sent.
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
        """Which microbatches of a global batch this process computes."""
        return slice(self.rank, None, self.count)

    def require(self, microbatches: int, name: str, beside: str = "") -> None:
        """Refuse a global batch of fewer microbatches than there are processes.

        Args:
            microbatches: how many the global batch has.
            name: of the setting that says so.
            beside: what else is to be changed with it, if anything.

        Raises:
            RequestError: some process would have none.
        """
        if self.count <= microbatches:
            return
        also = f" ({beside})" if beside else ""
        raise RequestError(
            f"each process needs a part of every global batch: {name} = {microbatches} for {self.count} processes; "
            f"raise {name} to {self.count} or more{also}, or start fewer processes"
        )

    def fail_together(self) -> FailTogether:
        """A block that all processes leave alike, normally or by an error: see `FailTogether`."""
        return FailTogether(self)

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """A block that the first process runs before the others enter it, for it writes what they read; all leave it
        alike, see `FailTogether`."""
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

        # Called several times a step, and nearly always with nothing to send: pickling is for the exception.
        something = torch.tensor([value is not None], dtype=torch.int32, device=self.device)
        _exchange(distributed.all_reduce, something, distributed.ReduceOp.MAX)
        values: list[T | None] = [None] * self.count
        if bool(something):
            _exchange(distributed.all_gather_object, values, value)
        return values

    def gather_in_order(self, items: list[T]) -> list[T]:
        """What each process made of its share, put together in the order of the global batch."""
        if self.count == 1:
            return items
        from torch import distributed

        shares: list[list[T]] = [[] for _ in range(self.count)]
        _exchange(distributed.all_gather_object, shares, items)
        total = sum(len(share) for share in shares)
        return [shares[i % self.count][i // self.count] for i in range(total)]

    def sum_gradients(self, parameters: Sequence[tuple[str, nn.Parameter]]) -> None:
        """Add up the gradients of all processes, in place, by one message a dtype.

        A parameter that has no gradient in any process has none afterwards either: AdamW then leaves it alone.
        """
        if self.count == 1:
            return
        by_dtype: dict[str, list[nn.Parameter]] = {}
        for _, parameter in parameters:
            by_dtype.setdefault(str(parameter.dtype), []).append(parameter)
        # Sorted: a collective pairs by order of call, so all processes must send the same dtype at the same time.
        for name in sorted(by_dtype):
            self._sum(by_dtype[name])

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

        flat: list[torch.Tensor] = []
        has_gradient: list[float] = []
        for parameter in parameters:
            own = parameter.grad
            # Zeros where there is none: all processes must send equally many numbers.
            flat.append(torch.zeros_like(parameter).flatten() if own is None else own.flatten())
            has_gradient.append(0.0 if own is None else 1.0)
        # One message for gradients and counts: a second one would double the latency.
        held = torch.tensor(has_gradient).to(flat[0])
        message = torch.cat([*flat, held])  # [sum of sizes + number of parameters]
        _exchange(distributed.all_reduce, message)
        *summed, counts = torch.split(message, [len(part) for part in (*flat, held)])
        for parameter, gradient, count in zip(parameters, summed, counts.tolist(), strict=True):
            parameter.grad = laid_out_as(parameter, gradient.view(parameter.shape)) if count else None


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
        # Exchanged even by the one that failed: the others already wait for its message.
        failures = processes.all_gather(own)
        if error is not None:
            return
        for rank, failure in enumerate(failures):
            if failure is None:
                continue
            is_not_finite, message = failure
            if is_not_finite:
                raise NonFiniteError(message)
            raise WorkError(f"process {rank} of {processes.count} failed, and so all do: {message}")


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes that this one was started with, `ALONE` where it was started alone; they part after the block.

    Args:
        device: as configured.

    Raises:
        RequestError: the device would be the same one for all.
        MissingError: there are more processes than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        yield ALONE
        return
    if ":" in device:
        raise RequestError(
            f"several processes need a device each, the device {device} is one for all; use auto, cuda or cpu"
        )
    die_with_parent()  # a launcher that is killed leaves its processes behind, each waiting for the others
    # Before there is a group: this module's functions have the group of that moment as a default argument. torch's
    # optimizers import it, and then the group outlives its end; a thread of gloo that frees the last message while
    # Python shuts down aborts the process (one launch in 90, "terminate called without an active exception").
    import torch.distributed.nn.functional  # noqa: F401
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
            f"it continues after the last checkpoint"
        ) from error


def laid_out_as(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A gradient or a moment, of the parameter's shape, in the parameter's memory layout.

    AdamW's fused step reads all of them as they lie in memory: where the weights of a convolution are channels_last,
    it took other gradients for theirs, and the loss rose by half every 25 steps.
    """
    import torch

    return torch.empty_like(parameter).copy_(value)


def _sentence(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, BottegaError) else f"{type(error).__name__}: {text}"
