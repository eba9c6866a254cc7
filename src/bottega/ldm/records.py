"""What a checkpoint of `bottega train ldm` holds besides its tensors, as JSON."""

from __future__ import annotations

from typing_extensions import TypedDict

from bottega.ldm.batch_sampler import SegmentRecord
from bottega.training.job import TrainingSummary


class CheckpointRecord(TypedDict):
    """Enough to draw with the checkpoint and to resume its run; the keys stay as earlier runs wrote them.

    recipe: the portable recipe, see `ldm.recipe.portable`. words: the vocabulary. statistics: of the training latents.
    shape: C, h, w of a latent. course: the segments of `EpochSampler`.
    """

    recipe: dict[str, object]
    words: list[str]
    statistics: dict[str, float]
    shape: list[int]
    course: list[SegmentRecord]


class LDMSummary(TrainingSummary):
    """What summary.json holds.

    epochs: begun. parameters: of the model. samples: to train on. latents: statistics of theirs. checkpoint: the newest
    one, relative to the run directory.
    """

    epochs: int
    parameters: int
    samples: int
    latents: dict[str, float]
    checkpoint: str | None
