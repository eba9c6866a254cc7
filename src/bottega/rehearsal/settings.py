"""What a rehearsal changes of a recipe: how much is done, and where models and pictures come from; nothing of how.

The recipe's file stays as it is: each change is an override, as `--set` would have it, and stands in the result.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.recipe import Recipe
    from bottega.teacher.config import TeacherConfig

SIDE = 512
"""Pixels of a drawn picture's side: what the full models paint."""

_DRAWN = {"contents": 24, "contents_val": 8, "painters": 16, "paintings": 3, "fill50k": 24}
"""The least with which no split of contents, styles and Fill50K stays empty."""


@dataclass(frozen=True)
class RehearsalRequest:
    """What to rehearse.

    Args:
        directory: where the run, the result and the logs go.
        pairs: training pairs, each painted once.
        train_steps: optimizer steps of the adapter; the second half after a resume.
        unet_calls: calls of the U-Net a picture; the recipe's own number where it is smaller.
        models: the Hugging Face cache with the models; None: the recipe's.
        contents: folder of the user's pictures to paint; None: drawn ones.
        styles: folder of the user's pictures to paint like; None: drawn ones.
        lora: a LoRA for SDXL, for the step `generate`; None: that step draws without one.
        checkpoint: an SDXL in one file, to draw with too; None: that step is left out.
        dtype: of the diffusion models, in place of the recipe's; None: the recipe's, or see `overrides`.
        sets: further overrides, which win.
    """

    directory: Path
    pairs: int = 2
    train_steps: int = 4
    unet_calls: int = 2
    models: Path | None = None
    contents: Path | None = None
    styles: Path | None = None
    lora: Path | None = None
    checkpoint: Path | None = None
    dtype: str | None = None
    sets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.train_steps < 2:
            raise RequestError(
                f"--train-steps must be at least 2, for the training is resumed half-way, received {self.train_steps}"
            )


def overrides(recipe: Recipe, request: RehearsalRequest, needs_bfloat16: bool = False) -> tuple[str, ...]:
    """The overrides of a rehearsal, in the form of `--set`.

    Args:
        recipe: the recipe, as written.
        request: what to rehearse.
        needs_bfloat16: take bfloat16 where the recipe says `auto`: on a CPU that is float32, which networks of full
            size refuse. Smaller ones keep it: where bfloat16 is emulated, one call of the reduced U-Net at 768 px took
            more than 11 minutes.
    """
    sets = [
        *_pictures(request),
        f"pairs.train={request.pairs}",
        "pairs.val=1",
        "pairs.crossed=[1, 2]",
        f"teacher.steps={steps_for(recipe.teacher, request.unet_calls)}",
        "teacher.max_retries=0",
        # Random weights paint noise, which is graded C: without a weight the stages after the teacher had no target.
        f"quality.thresholds.weight_c={recipe.quality.thresholds.weight_b or 0.5}",
        f"features.fill50k={0 if _has_no_circles(recipe) else 2}",
        f"student.loop.steps={request.train_steps}",
        "student.loop.warmup_steps=0",
        f"student.loop.checkpoint_every={request.train_steps // 2}",
        f"student.loop.validate_every={request.train_steps}",
        "student.validation.pictures=1",
        "student.validation.timesteps=2",
        "student.validation.samples=1",
        f"student.sampling.steps={min(recipe.student.sampling.steps, request.unet_calls)}",
        "evaluation.limit=2",
        "evaluation.teacher_pairs=1",
        "evaluation.draws=200",
    ]
    if request.models is not None:
        sets.append(f"models.cache={json.dumps(str(request.models))}")
    dtype = request.dtype
    if dtype is None and needs_bfloat16 and recipe.models.dtype == "auto":
        dtype = "bfloat16"
    if dtype is not None:
        sets.append(f"models.dtype={dtype}")
    return (*sets, *request.sets)


def steps_for(teacher: TeacherConfig, calls: int) -> int:
    """The steps of a full schedule of which `teacher.strength` makes `calls`, or those of the recipe where they are
    fewer."""
    if int(teacher.steps * teacher.strength) <= calls:
        return teacher.steps
    steps = calls
    while int(steps * teacher.strength) < calls:
        steps += 1
    return steps


def _has_no_circles(recipe: Recipe) -> bool:
    """Whether the recipe trains without the second task."""
    return recipe.student.fill50k_fraction == 0


def _pictures(request: RehearsalRequest) -> list[str]:
    """Where pictures come from: the user's folders, and a drawn world for the rest."""
    world = json.dumps({**_DRAWN, "size": SIDE})
    sets = [f"world={world}", "data.root=null", "data.coco={}", "data.wikiart={offline: true}", "data.fill50k={}"]
    if request.contents is not None:
        folder = json.dumps(str(request.contents.resolve()))
        sets.append(f"data.content_folder={{source: {folder}, prompt: a picture}}")
    if request.styles is not None:
        folder = json.dumps(str(request.styles.resolve()))
        sets.append(f"data.style_folder={{source: {folder}}}")
    return sets
