"""Which sample fills which slot of a batch, as a function of (seed, step, slot): no state, so resuming needs none.

Two streams are mixed inside every global batch (the samples of one optimizer step). Each stream is read epoch by epoch
in an order of its own, so that every sample of an epoch is seen once before any is seen again.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from bottega.runtime.seeds import numpy_rng

Indices = npt.NDArray[np.int64]


@lru_cache(maxsize=8)
def epoch_order(seed: int, stream: str, epoch: int, count: int) -> Indices:
    """The order of `count` samples in one epoch, int64 [count]; do not write into it."""
    return numpy_rng(seed, "order", stream, epoch).permutation(count).astype(np.int64)


def stream_indices(seed: int, stream: str, step: int, slots: int, count: int) -> Indices:
    """Which samples a stream gives to a step. Its position is step × slots, wherever the run was stopped.

    Args:
        seed: of the run.
        stream: its name; another name, another order.
        step: from 0.
        slots: how many samples of the stream a step has.
        count: how many samples the stream has.

    Returns:
        Indices in 0 … count-1, int64 [slots].
    """
    positions = np.arange(step * slots, (step + 1) * slots)
    epochs = positions // count
    result = np.empty(slots, dtype=np.int64)
    for epoch in np.unique(epochs):  # a step may end one epoch and begin the next
        here = epochs == epoch
        order = epoch_order(seed, stream, int(epoch), count)
        result[here] = order[positions[here] % count]
    return result


def interleave(slots: int, second: int) -> npt.NDArray[np.bool_]:
    """Where the second stream's `second` slots lie among `slots`, evenly spread: bool [slots]."""
    indices = np.arange(slots)
    return (indices + 1) * second // slots > indices * second // slots


def stratified_timesteps(rng: np.random.Generator, slots: int, first: int, last: int) -> Indices:
    """Timesteps for the slots of a global batch, int64 [slots]: each uniform on first … last, together spread evenly.

    Slot j draws from its own 1/slots of the range, and which part a slot gets is shuffled, so each slot alone is
    uniform while the mean loss of the batch varies far less: the timestep dominates the variance of a diffusion loss.
    """
    part = (rng.permutation(slots) + rng.random(slots)) / slots
    return first + np.minimum((part * (last - first + 1)).astype(np.int64), last - first)
