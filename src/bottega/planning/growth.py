"""What a recipe takes of disk, work and time when it grows to many targets: an extrapolation, and named as one.

Bytes on disk are counted a target; work is counted in floating-point operations; time only where a rehearsal measured a
rate on this machine. All three are taken as proportional to the number of targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bottega.planning.networks import WIDTH, PlannedNetworks, whole
from bottega.planning.passes import CAPTION_TOKENS

if TYPE_CHECKING:
    from bottega.planning.stages import StageForecast
    from bottega.recipe import Recipe

TARGETS = (10_000, 50_000, 200_000)

PICTURE_BYTES = 500_000
"""Of a PNG of 512 × 512 pixels that shows a photograph or a painting, about; noise takes 790 KB."""

STEPS = {10_000: 20_000, 50_000: 50_000, 200_000: 200_000}
"""Optimizer steps at each size, as in the head of recipes/sdxl_pixart.yaml."""

_ROW_BYTES = 4_000
"""Of a target in the ledger, its index and its lists, about."""


@dataclass(frozen=True)
class Rates:
    """What a rehearsal measured on this machine, seconds; None where it did not come so far.

    Attributes:
        unet_call: of a call of the teacher's U-Net, decoding included.
        train_step: of an optimizer step of the adapter.
    """

    unet_call: float | None = None
    train_step: float | None = None

    def seconds_each(self, recipe: Recipe, stages: Mapping[str, StageForecast]) -> dict[str, float]:
        """Seconds of a target in `teacher` and `features`, and of a step in `student`, as far as they follow.

        The features of a target are taken to run as many operations a second as the teacher does.
        """
        found: dict[str, float] = {}
        if self.unet_call:
            found["teacher"] = self.unet_call * int(recipe.teacher.steps * recipe.teacher.strength)
            found["features"] = found["teacher"] * stages["features"].flops / stages["teacher"].flops
        if self.train_step:
            found["student"] = self.train_step
        return found


@dataclass(frozen=True)
class Growth:
    """At one number of targets.

    Attributes:
        targets: how many.
        disk: bytes, by what they are.
        flops: floating-point operations of each stage.
        seconds: of each stage whose rate was measured; None where none was.
        bottleneck: what takes longest, or has the most work where no rate is known.
    """

    targets: int
    disk: Mapping[str, int]
    flops: Mapping[str, float]
    seconds: Mapping[str, float] | None
    bottleneck: str


def grow(
    recipe: Recipe,
    networks: PlannedNetworks,
    stages: Mapping[str, StageForecast],
    rates: Rates | None = None,
) -> list[Growth]:
    """The growth to each of `TARGETS`.

    Args:
        recipe: the recipe.
        networks: its networks.
        stages: the forecasts of `teacher`, `features` and `student`.
        rates: what was measured; None: nothing.
    """
    seconds_each = None if rates is None else rates.seconds_each(recipe, stages)
    found: list[Growth] = []
    for targets in TARGETS:
        counts = {"teacher": targets, "features": targets, "student": STEPS[targets]}
        flops = {name: count * stages[name].flops for name, count in counts.items()}
        seconds = None
        if seconds_each:
            seconds = {name: counts[name] * each for name, each in seconds_each.items()}
        by = seconds or flops
        longest = max(by, key=lambda name: by[name])
        share = by[longest] / sum(by.values())
        unit = "of the time" if seconds else "of the arithmetic"
        what = f"{longest}, {share:.0%} {unit}"
        found.append(Growth(targets, disk_bytes(recipe, networks, targets), flops, seconds, what))
    return found


def disk_bytes(recipe: Recipe, networks: PlannedNetworks, targets: int) -> dict[str, int]:
    """Bytes on disk by what they are, with each target made from a pair of its own: at most, where seeds share one."""
    width = WIDTH[recipe.features.storage]
    cells = whole(networks.config("transformer"), "sample_size")
    channels = whole(networks.config("transformer"), "in_channels")
    latent = width * channels * cells * cells
    caption = width * CAPTION_TOKENS * whole(networks.config("t5"), "d_model")
    embedding = 4 * whole(networks.config("clip"), "projection_dim")
    circles = recipe.features.fill50k
    tries = 1 if recipe.teacher.keep_tries == "best" else 1 + recipe.teacher.max_retries
    return {
        "targets": targets * PICTURE_BYTES * tries,
        "latents": 2 * (targets + circles) * latent,
        "text states": (targets + circles) * caption,
        "CLIP embeddings": 2 * targets * embedding,
        "ledger and lists": targets * _ROW_BYTES,
    }
