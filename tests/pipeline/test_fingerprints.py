"""Runs that an earlier version began are still known as the same runs.

recorded_fingerprints.json holds resolved recipes, as they lie in run directories, and what the version that wrote them
recorded of each: settings, hashes, free names. It is never written again; a version that records something else must
read the old form.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bottega.cli.common import FUNCTIONS, read_recipe
from bottega.ldm import stage as ldm
from bottega.ldm.recipe import load_recipe
from bottega.pipeline import ModelWeights, Pipeline
from bottega.quality.config import Thresholds
from bottega.runtime.config import added_later, as_yaml
from bottega.runtime.files import sha256_json
from bottega.runtime.fingerprint import bound_settings, changes, fingerprint
from bottega.teacher import stage as teacher
from bottega.training.config import LoopConfig

RECORDED: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "recorded_fingerprints.json").read_text())
WEIGHTS: dict[str, ModelWeights] = {
    "clip": {"sha256": "c", "files": {}},
    "sdxl": {"sha256": "s", "files": {}},
    "pixart": {"sha256": "p", "files": {}},
}


def written(recorded: dict[str, Any], directory: Path) -> Path:
    """A recipe as it lies in a run directory."""
    path = directory / "recipe.yaml"
    path.write_text(as_yaml(recorded["recipe"]))
    return path


@pytest.mark.parametrize("name", RECORDED["pipeline"])
def test_the_stages_of_a_run_have_the_fingerprints_that_were_recorded(name: str, tmp_path: Path) -> None:
    recorded = RECORDED["pipeline"][name]
    recipe = read_recipe(written(recorded, tmp_path), [])
    pipeline = Pipeline(recipe, Path("runs") / recipe.name, functions=FUNCTIONS)
    stages = {stage.name: pipeline.settings(stage, WEIGHTS) for stage in pipeline.stages()}
    bound, free = stages["evaluation"]
    assert [str(change) for change in changes(recorded["bound"], bound)] == []
    assert free == recorded["free"]
    assert {stage: fingerprint(settings) for stage, (settings, _) in stages.items()} == recorded["stages"]


@pytest.mark.parametrize("name", RECORDED["pipeline"])
def test_what_the_student_and_the_teacher_record_has_the_hash_that_was_recorded(name: str, tmp_path: Path) -> None:
    recorded = RECORDED["pipeline"][name]
    recipe = read_recipe(written(recorded, tmp_path), [])
    student = bound_settings(recipe.student, "stage")
    assert student.pop("loop") == recorded["loop"]
    assert sha256_json(student) == recorded["student_sha256"]
    limits = Thresholds(**added_later(Thresholds))  # as they were when it was recorded
    parts = teacher._fingerprint_parts(recipe.teacher, limits, {"clip": None})
    assert sha256_json(parts) == recorded["teacher_sha256"]


@pytest.mark.parametrize("name", RECORDED["training_from_scratch"])
def test_a_training_from_scratch_has_the_fingerprint_that_was_recorded(name: str, tmp_path: Path) -> None:
    recorded = RECORDED["training_from_scratch"][name]
    recipe = load_recipe(written(recorded, tmp_path))
    training = recipe.training
    loop = training.loop(training.steps, 7 if training.num_epochs else None)
    settings = ldm._settings(recipe)
    assert settings == recorded["ldm"]
    assert bound_settings(loop, "stage") == recorded["loop"]
    assert sha256_json({"data": settings["data"], "seed": recipe.seed}) == recorded["pictures_sha256"]


def test_the_loop_records_what_decides_what_is_learned_and_nothing_else() -> None:
    assert bound_settings(LoopConfig(), "stage").keys() == {
        "betas", "epsilon", "final_fraction", "max_grad_norm", "schedule", "warmup_steps", "weight_decay",
    }  # fmt: skip
