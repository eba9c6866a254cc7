"""How many threads torch computes with, for as long as a piece of work takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within this block torch computes with `count` threads on the CPU; None: as many as it did."""
    import torch

    # Restored at the end: a result depends on the number of threads, and the next stage may promise another.
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
