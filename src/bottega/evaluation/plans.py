"""How a row of the evaluation is drawn, and with which weights: plans for the painters, or why there is none."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.evaluation.grid import Grid
from bottega.evaluation.networks import identity
from bottega.runtime.files import sha256_file, sha256_json

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig
    from bottega.teacher.config import TeacherConfig

LOGGER = logging.getLogger(__name__)
WEIGHTS = {"student": ("pixart", "clip"), "base": ("pixart", "clip"), "teacher": ("sdxl", "sdxl_vae", "ip_adapter")}
"""The models that each drawn row loads, by their names in the recipe."""


class CannotDrawError(Exception):
    """Why a row has no pictures here. It becomes the row's status, so that the other rows are still measured."""


@dataclass(frozen=True)
class DrawingPlan:
    """How a row is drawn: JSON for its painter, and a fingerprint of the weights and settings behind its pictures."""

    settings: Mapping[str, object]
    fingerprint: str


def plan_teacher(teacher: TeacherConfig | None, data_root: Path, models: ModelsConfig) -> DrawingPlan:
    """The teacher's plan.

    Args:
        teacher: its protocol; None where there is none.
        data_root: where the oracle's drawn truths are.
        models: of the recipe.

    Raises:
        CannotDrawError: the reason why it cannot draw.
    """
    if teacher is None:
        raise CannotDrawError("no teacher was given")
    oracle = teacher.source == "oracle"  # it reads drawn truths and needs no weights
    weights = {} if oracle else _weights("teacher", models)
    settings = {
        "models": models.model_dump(mode="json"),
        "teacher": teacher.model_dump(mode="json"),
        "truth": str(data_root / "truth"),
    }
    protocol = {**teacher.protocol(), "source": teacher.source}
    return DrawingPlan(settings, sha256_json([weights, protocol, models.dtype, models.device]))


def plan_student(row: str, adapter: Path | None, grid: Grid, data_root: Path, models: ModelsConfig) -> DrawingPlan:
    """The student's plan, or the base's.

    Args:
        row: `student` or `base`.
        adapter: its file; also of the base, for its header says from which strength and in how many steps both draw.
        grid: the pairs.
        data_root: where captions of styles are searched.
        models: of the recipe.

    Raises:
        CannotDrawError: the reason why it cannot draw.
    """
    if adapter is None:
        raise CannotDrawError("no adapter was given, whose header says how to draw")
    weights = _weights(row, models)
    settings: dict[str, object] = {"models": models.model_dump(mode="json"), "adapter": str(adapter)}
    # The base too: the adapter's header says from which strength and in how many steps both draw.
    made_from = sha256_file(adapter)
    captions = _captions(adapter, grid, data_root) if row == "student" else None
    if captions is not None:
        settings["style_captions"] = captions
        made_from = sha256_json([made_from, captions])
    return DrawingPlan(settings, sha256_json([weights, made_from, models.dtype, models.device]))


def _weights(row: str, models: ModelsConfig) -> dict[str, str]:
    """A hash of each model that a row loads, by its name in the recipe.

    Raises CannotDrawError for one that is absent or faulty.
    """
    from bottega.models.layout import inspect

    found = {status.role: status for status in inspect(models, WEIGHTS[row])}
    for status in found.values():
        if status.faults:
            raise CannotDrawError(status.faults[0])
    for role in WEIGHTS[row]:
        if role not in found and role != "sdxl_vae":  # SDXL has an autoencoder of its own
            raise CannotDrawError(f"no {role} among the recipe's models")
    return {role: identity([*status.files, *status.configurations]) for role, status in found.items()}


def _captions(adapter: Path, grid: Grid, data_root: Path) -> dict[str, str] | None:
    """What the style pictures show, by their paths, for an adapter that takes it out of the style; None for another."""
    from bottega.data.records import style_captions
    from bottega.student.export import read_header

    if read_header(adapter)["adapter"].get("scene_removal", "none") == "none":
        return None
    paths = {pair.style_path for pair in grid.pairs}
    shown = style_captions(data_root, sorted(paths))
    if len(shown) < len(paths):
        LOGGER.warning(
            "the adapter takes what a style picture shows out of its style; %d of the %d test styles have no caption "
            "that says it: nothing is taken out of those",
            len(paths) - len(shown),
            len(paths),
        )
    return shown
