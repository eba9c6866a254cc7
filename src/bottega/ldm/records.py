"""What a checkpoint of `bottega train ldm` holds besides its tensors, as JSON."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from bottega.ldm.batch_sampler import SegmentRecord
from bottega.runtime.errors import RequestError
from bottega.runtime.records import to_record
from bottega.training.checkpoint import Checkpoint
from bottega.training.job import TrainingSummary


class CheckpointRecord(TypedDict):
    """Enough to draw with the checkpoint and to resume its run; the keys stay as earlier runs wrote them.

    recipe: the portable recipe, see `ldm.recipe.portable`. words: the vocabulary. statistics: of the training latents.
    shape: C, h, w of a latent. course: the segments of `EpochSampler`.
    """

    recipe: dict[str, object]
    words: list[str]
    statistics: dict[str, float]
    shape: Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=3, max_length=3)]
    course: NotRequired[list[SegmentRecord]]


def remembered_of(found: Checkpoint) -> CheckpointRecord:
    """What a checkpoint holds besides its tensors.

    Raises:
        RequestError: it is one of another trainer, or a value in it is wrong.
    """
    if "recipe" not in found.remembered:
        raise RequestError(f"{found.folder}: a checkpoint of `bottega train ldm` is wanted, this is of another trainer")
    where = f"{found.folder / 'state.json'}: remembered"
    cure = "name an earlier checkpoint of the run, or copy this one again from where it was trained"
    record = to_record(CheckpointRecord, found.remembered, where, cure)
    if "absmax" not in record["statistics"]:
        raise RequestError(f"{where}: statistics should hold absmax, received {sorted(record['statistics'])}; {cure}")
    return record


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
