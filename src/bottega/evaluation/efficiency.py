"""What a picture costs: seconds of each phase after warm-up, parameters that an adapter adds, memory at its peak.

Measured by one process, one picture at a time, once all pictures of the rows are drawn: what others do on the
machine meanwhile is in the numbers, so they compare rows of one evaluation and not machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from typing_extensions import TypedDict

from bottega.data.records import Pair
from bottega.runtime.memory import peak_rss_mb, peak_vram_mb
from bottega.visual.pictures import Picture

WARM_UP = 2
"""Pictures that are drawn before any is timed: kernels are chosen and caches filled at the first ones."""

PHASES = ("encode", "denoise", "decode")
"""encode: the content by the autoencoder, style and content by CLIP; the caption was encoded before."""


class Quantiles(TypedDict):
    """Of seconds a picture."""

    p50: float
    p90: float


class EfficiencyRecord(TypedDict):
    """What a row's pictures cost. `seconds` are by phase, and of the `whole`; `vram_mb` is 0 without a GPU."""

    pictures: int
    warm_up: int
    size: int
    added_parameters: int
    frozen_parameters: int
    seconds: dict[str, Quantiles]
    peak_rss_mb: float
    peak_vram_mb: float


class TimedPainter(Protocol):
    """A painter that can draw one picture and say what each phase of it took."""

    size: int

    def timed(self, pair: Pair, source: tuple[Picture, Picture], seed: int) -> dict[str, float]:
        """Draw one pair's picture, nothing kept of an earlier one; seconds by phase."""

    def parameters(self) -> tuple[int, int]:
        """Parameters that the adapter adds, and those of the frozen models that draw."""


def measure_efficiency(
    painter: TimedPainter, pairs: Sequence[Pair], sources: Sequence[tuple[Picture, Picture]], seed: int
) -> EfficiencyRecord:
    """Draw the pairs one by one; the first `WARM_UP` are not counted, and are drawn again if there are no more."""
    listed = list(zip(pairs, sources, strict=True))
    for pair, source in listed[:WARM_UP]:
        painter.timed(pair, source, seed)
    taken: dict[str, list[float]] = {phase: [] for phase in (*PHASES, "whole")}
    measured = listed[WARM_UP:] or listed
    for pair, source in measured:
        seconds = painter.timed(pair, source, seed)
        for phase in PHASES:
            taken[phase].append(seconds[phase])
        taken["whole"].append(sum(seconds[phase] for phase in PHASES))
    added, frozen = painter.parameters()
    return {
        "pictures": len(measured),
        "warm_up": min(WARM_UP, len(listed)),
        "size": painter.size,
        "added_parameters": added,
        "frozen_parameters": frozen,
        "seconds": {phase: _quantiles(values) for phase, values in taken.items()},
        "peak_rss_mb": round(peak_rss_mb(), 1),
        "peak_vram_mb": round(peak_vram_mb(), 1),
    }


def _quantiles(values: Sequence[float]) -> Quantiles:
    middle, high = np.quantile(values, [0.5, 0.9])
    return {"p50": round(float(middle), 5), "p90": round(float(high), 5)}
