"""The recipe's sections `world` and `truth`: light, so that a recipe is read without drawing anything."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from bottega.runtime.config import Added, Config, Resumable


class WorldConfig(Config):
    """How much of the drawn world is written to disk. Numbers may grow; what is there stays as it is."""

    contents: Annotated[int, Resumable("more are drawn; those there stay as they are")] = Field(
        default=400, ge=4, description="scenes written as COCO train2017"
    )
    contents_val: Annotated[int, Resumable("more are drawn; those there stay as they are")] = Field(
        default=100, ge=2, description="scenes written as COCO val2017"
    )
    painters: int = Field(default=96, ge=8, description="painters in the WikiArt parquet; kinds take turns")
    paintings: int = Field(default=8, ge=1, description="paintings a painter")
    fill50k: Annotated[int, Resumable("more are drawn; those there stay as they are")] = Field(
        default=300, ge=1, description="Fill50K examples"
    )
    size: Annotated[int, Added(before=128)] = Field(
        default=128, ge=64, le=1024, description="side of every picture, pixels; drawn truths have 128"
    )
    workers: Annotated[int, Resumable("no effect on what is drawn")] = Field(
        default=2, ge=1, description="processes that draw"
    )


class TruthConfig(Config):
    """Which drawn truths are written beside the pairs."""

    seeds: int = Field(
        default=8, ge=1, le=8, description="drawn truths a test pair: a painter never repeats his strokes"
    )
    calibration_pairs: int | None = Field(
        default=120,
        ge=0,
        description="train pairs with a drawn truth each seed of theirs, for calibrating quality control; null: all, "
        "as an oracle teacher needs",
    )
    train_seeds: tuple[int, ...] | None = Field(
        default=None, min_length=1, description="draw train pairs for these of their seeds only; null: for all"
    )
    workers: int = Field(default=2, ge=1, description="processes that draw")
