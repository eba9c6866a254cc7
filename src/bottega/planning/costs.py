"""What a pass through a network computes and how much memory it holds, counted on tensors without data.

The network and its inputs are on torch's device `meta`: every operation runs as far as shapes go. Counted are the
floating-point operations (`torch.utils.flop_counter`, a multiplication and an addition as two) and the bytes of all
storages that are alive, at each moment. Attention counts as fused: no matrix of all pairs of tokens is held, as
neither the CPU's nor the GPU's kernels hold it. What a library takes for itself within one operation is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Of one pass.

    flops: floating-point operations. held: bytes that are alive at the worst moment, without the weights. on_cpu: the
    same with the copy that a convolution on the CPU makes, for it computes in a layout of its own. largest: the most
    bytes that one operation makes.
    """

    flops: float = 0.0
    held: int = 0
    on_cpu: int = 0
    largest: int = 0


def cost_of(run: Callable[[], object], networks: Iterable[nn.Module]) -> Cost:
    """The cost of a pass.

    Args:
        run: the pass, on tensors of the device `meta`, which it makes itself.
        networks: whose weights do not count.
    """
    alive = _LiveBytes(networks)
    attention = _FusedAttention()
    counter = FlopCounterMode(display=False)
    with counter, alive, attention:
        run()
    return Cost(float(counter.get_total_flops() + attention.flops), alive.peak, alive.peak_on_cpu, alive.largest)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds a storage when an operation returns it, and takes it off when the last tensor of it goes."""

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self.peak_on_cpu = 0
        self.largest = 0
        self._now = 0
        self._known: dict[int, object] = {}
        for network in networks:
            for tensor in (*network.parameters(), *network.buffers()):
                storage = tensor.untyped_storage()
                self._known[storage._cdata] = storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self._add(value.untyped_storage())
        copied = 0
        if func is torch.ops.aten.convolution.default:
            copied = max(args[0].nbytes, result.nbytes)
        self.peak_on_cpu = max(self.peak_on_cpu, self._now + copied)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            self._now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self._now += size
        self.peak = max(self.peak, self._now)
        self.largest = max(self.largest, size)


class _FusedAttention(TorchFunctionMode):
    """Attention as a fused kernel does it: what it keeps is queries, keys, values and the result."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **given)
        named = dict(zip(("query", "key", "value"), args, strict=False))
        query, key, value = (named.get(name, given.get(name)) for name in ("query", "key", "value"))
        assert query is not None and key is not None and value is not None
        self.flops += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        attended: torch.Tensor = _AttentionShapes.apply(query, key, value)  # type: ignore[no-untyped-call]
        return attended


class _AttentionShapes(torch.autograd.Function):
    """[..., L, E], [..., S, E], [..., S, V] -> [..., L, V], of shapes alone."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
