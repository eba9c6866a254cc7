"""The settings of an evaluation. Importing this module imports no network library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from bottega.runtime.config import Added, Config, Resumable

Row = Literal["student", "teacher", "base", "content", "style", "colours", "blurred", "truth"]
"""The methods of every table, see `controls.ROWS`."""


class KeptCheckpoints(NamedTuple):
    """Where the checkpoints are that may be compared: the folder of the training, and the validation pairs for it."""

    training: Path
    pairs: Path


class EvaluationConfig(Config):
    """Evaluation on held-out contents × styles.

    The strength, the steps and the guidance of the student and of the base are those of the recipe's `student` section,
    the teacher's those of its `teacher` section: an evaluation measures what the recipe made, and sets nothing of its
    own.
    """

    limit: Annotated[int | None, Resumable("pictures that are missing are drawn; the tables are made again")] = Field(
        None, ge=1, description="pairs to evaluate; a smaller crossed grid of the test pairs; null: all"
    )
    rows: tuple[Row, ...] = Field(
        ("student", "teacher", "base", "content", "style", "colours", "blurred", "truth"),
        description="methods to measure; one that is left out has no row in the table",
    )
    teacher_pairs: Annotated[
        int | None, Resumable("pictures that are missing are drawn; the tables are made again")
    ] = Field(400, ge=1, description="pairs the teacher draws, a crossed grid of the same pairs; null: all")
    allow_missing: Annotated[
        bool, Added(before=False), Resumable("pairs that a method lacks are left out of all methods, or refused")
    ] = Field(
        False,
        description="leave pairs that any method lacks out of every method, instead of failing; the teacher's "
        "smaller crossed grid is no lack",
    )
    seed: int = Field(
        0, ge=0, description="seed of the pictures' noise; a picture's own derives from it, its content and its style"
    )
    size: int | None = Field(
        None, ge=16, description="side in pixels at which pictures are measured; null: the side the student draws"
    )
    batch_size: int = Field(
        16, ge=1, le=512, description="pictures drawn together; part of what makes them repeatable to the bit"
    )
    draws: int = Field(
        2000, ge=200, description="bootstrap draws an interval; more are made where the level needs them"
    )
    level: float = Field(0.95, gt=0.5, lt=1.0, description="coverage of the intervals, a share")
    bootstrap_seed: int = Field(0, ge=0, description="seed of the bootstrap's draws")
    object_floor: float = Field(
        0.01, ge=0.0, lt=1.0, description="share of the picture that a labelled class must cover to count as an object"
    )
    object_overlap: float = Field(0.5, gt=0.0, le=1.0, description="IoU from which an object counts as preserved")
    truths: int = Field(8, ge=2, description="drawn truths a pair that are compared with")
    examples: Annotated[int, Resumable("the report names another number of pairs")] = Field(
        6, ge=1, description="best, median and worst pairs to name for the report, each"
    )
    timed_pictures: Annotated[int, Added(before=0), Resumable("the costs are measured again")] = Field(
        0, ge=0, description="pictures of the student and of the base whose seconds are measured, one by one; 0: none"
    )
    fill50k_pictures: Annotated[
        int, Added(before=0), Resumable("pictures that are missing are drawn; the tables are made again")
    ] = Field(
        0, ge=0, description="test examples of Fill50K that student and base draw, where the data set has any; 0: none"
    )
    style_bar: float = Field(30.0, description="points that the student's style gain must reach with its lower bound")
    content_bar: float = Field(
        10.0, ge=0.0, description="points of objects preserved that the student may lose against the frozen base"
    )
    checkpoints: Annotated[bool, Added(before=False), Resumable("the comparison is made, or made no more")] = Field(
        False,
        description="compare the checkpoints that student.loop.keep_best keeps, on held-out validation pairs: which is "
        "best, how surely, and whether training longer pays",
    )
    checkpoint_pairs: Annotated[
        int, Added(before=64), Resumable("pictures that are missing are drawn; the comparison is made again")
    ] = Field(64, ge=4, description="pairs that each checkpoint draws, crossed: nearly a square of the validation's")
