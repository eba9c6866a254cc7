"""What the doctor needs to know of recipes: it stands below them, and reads run directories as files alone."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottega.doctor.environment import RecipeNeed
    from bottega.doctor.run_directory import RunRequest
    from bottega.pipeline import Pipeline


def run_request(directory: Path, check_all: bool) -> RunRequest:
    """What a reader of recipes knows of a run directory."""
    from bottega.cli.common import FUNCTIONS, read_recipe
    from bottega.doctor.run_directory import RunRequest
    from bottega.models.layout import inspect
    from bottega.pipeline import STAGES, Pipeline
    from bottega.runtime.errors import MissingError, RecipeError

    bare = RunRequest(directory, check_all)
    try:
        recipe = read_recipe(directory, [])
    except MissingError:
        return bare
    except RecipeError as error:
        if _is_of_scratch_training(error):
            return bare
        there = tuple((stage.name, stage.folder) for stage in STAGES if (directory / stage.folder).is_dir())
        return replace(bare, stages=there, refusal=str(error))
    pipeline = Pipeline(recipe, directory, functions=FUNCTIONS)
    stages = tuple((stage.name, stage.folder) for stage in pipeline.stages())
    refusal = _why_refused(pipeline)
    models = tuple(inspect(recipe.models))
    return RunRequest(directory, check_all, stages, recipe.data_root(directory), models, refusal)


def _is_of_scratch_training(error: Exception) -> bool:
    """Whether a recipe was refused because it is one of `bottega train ldm`, which has no stages."""
    return "trains a model from scratch" in str(error)


def _why_refused(pipeline: Pipeline) -> str:
    """Why the first stage that refuses to continue does so; empty where none does."""
    from bottega.runtime.errors import BottegaError, FingerprintError

    for stage in pipeline.stages():
        try:
            pipeline.state(stage, {})
        except FingerprintError as error:
            return str(error)
        except BottegaError:
            continue  # a torn file, or one of another form, which is named as such
    return ""


def recipe_needs() -> list[RecipeNeed]:
    """What each recipe in recipes/ lacks on this machine."""
    return [_recipe_need(file) for file in sorted(Path("recipes").glob("*.yaml"))]


def _recipe_need(file: Path) -> RecipeNeed:
    from bottega.cli.common import FUNCTIONS, read_recipe
    from bottega.doctor.environment import RecipeNeed
    from bottega.pipeline import Pipeline
    from bottega.runtime.errors import BottegaError, RecipeError

    try:
        recipe = read_recipe(file, [])
    except RecipeError as error:
        if _is_of_scratch_training(error):
            return RecipeNeed(file.stem, tuple(_missing_of_ldm(file)))
        return RecipeNeed(file.stem, (str(error),))
    except BottegaError as error:
        return RecipeNeed(file.stem, (str(error),))
    lacks = Pipeline(recipe, Path("runs") / recipe.name, functions=FUNCTIONS).missing()
    command = None
    if any(line.startswith("models.") for line in lacks):
        command = f"bottega models fetch --recipe {shlex.quote(str(file))}"
    return RecipeNeed(file.stem, tuple(lacks), command)


def _missing_of_ldm(file: Path) -> list[str]:
    """The models that a training from scratch reads and that are not here."""
    from bottega.models.names import resolve
    from bottega.runtime.config import load_yaml
    from bottega.runtime.errors import BottegaError

    recipe = load_yaml(file)
    lacks = []
    for name in ("autoencoder", "text"):
        section = recipe.get(name)
        if not isinstance(section, dict) or not isinstance(section.get("model"), str):
            continue
        try:
            resolve(section["model"], file.parent)
        except BottegaError as error:
            lacks.append(f"{name}.model: {error}")
    return lacks
