"""Which sample stands in which slot, as a function of (seed, step, slot): no state, so resuming needs none.

Two streams are mixed inside every window (the samples of one optimizer step). Each stream is read epoch by epoch in an
order of its own, so that every sample of an epoch is seen once before any is seen again.
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
    """Indices in 0 … count-1 of the samples that a stream gives to the `slots` of a step, int64 [slots].

    The stream's position is step × slots, wherever the run was stopped.
    """
    places = np.arange(step * slots, (step + 1) * slots)
    result = np.empty(slots, dtype=np.int64)
    for epoch in np.unique(places // count):
        here = places // count == epoch
        result[here] = epoch_order(seed, stream, int(epoch), count)[places[here] % count]
    return result


def interleave(slots: int, second: int) -> npt.NDArray[np.bool_]:
    """Where the second stream's `second` slots lie among `slots`, evenly spread: bool [slots]."""
    places = np.arange(slots)
    return (places + 1) * second // slots > places * second // slots


def stratified_timesteps(rng: np.random.Generator, slots: int, first: int, last: int) -> Indices:
    """Timesteps for the slots of a window, int64 [slots]: each uniform on first … last, together spread evenly.

    Slot j draws from its own 1/slots of the range, and which part a slot gets is shuffled, so each slot alone is
    uniform while the window's mean loss varies far less: the timestep dominates the variance of a diffusion loss.
    """
    part = (rng.permutation(slots) + rng.random(slots)) / slots
    return first + np.minimum((part * (last - first + 1)).astype(np.int64), last - first)
