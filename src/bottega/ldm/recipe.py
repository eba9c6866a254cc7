"""Reading the recipe of a latent diffusion model, and writing it so that it can move with its run directory."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path

from bottega.ldm.config import LDMRecipe
from bottega.models.names import PACKAGE, on_disk
from bottega.runtime.config import apply_sets, load_yaml, parse
from bottega.runtime.errors import RecipeError

_PATHS = (("data", "root"), ("autoencoder", "model"), ("text", "model"))
"""What may be a folder. Beginning with `./` or `../` it is relative to the recipe's folder, else to the current one."""

SOURCES = ("folder", "coco", "fill50k")
"""Parts of the section `data` whose `source` is a folder, relative to the data root."""


def load_recipe(path: Path, sets: Sequence[str] = ()) -> LDMRecipe:
    """Read and check a recipe, with overrides such as `training.num_epochs=300`.

    Raises:
        RecipeError: names the field, what was received and what is allowed.
    """
    data = load_yaml(path)
    if not data.keys().isdisjoint(("student", "teacher", "pairs")):
        raise RecipeError(f"{path.name} is a recipe of the closed loop: bottega run {path}")
    return read_recipe({"name": path.stem, **data}, path.parent, path.name, sets)


def read_recipe(data: dict[str, object], folder: Path, where: str, sets: Sequence[str] = ()) -> LDMRecipe:
    """A recipe from plain data.

    Args:
        data: as YAML or JSON gives it.
        folder: that its paths beginning with `./` or `../` are relative to.
        where: names it in errors.
        sets: overrides.
    """
    data = copy.deepcopy(data)
    for section, key in _PATHS:
        part = data.get(section)
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(part, dict) and isinstance(value, str) and value.startswith(("./", "../")):
            part[key] = os.path.normpath(folder / value)
    data = _with_home_expanded(apply_sets(data, sets))
    recipe = parse(LDMRecipe, data, where)
    _refuse_idle_sets(recipe, sets)
    return recipe


def portable(recipe: LDMRecipe, directory: Path) -> dict[str, object]:
    """Every value of the recipe as plain data, without absolute paths.

    Paths are written relative to the run directory, sources of data relative to the data root.
    """
    data = recipe.model_dump(mode="json")
    for part in SOURCES:
        source = data["data"][part]
        if source is not None and os.path.isabs(source["source"]):
            source["source"] = os.path.relpath(source["source"], recipe.data.root)
    for section, key in _PATHS:
        value = data[section][key]
        if value is None:
            continue
        is_path = key == "root" or (on_disk(value) and not value.startswith(PACKAGE))
        if is_path:
            relative = os.path.relpath(value, directory)
            data[section][key] = relative if relative.startswith("..") else f"./{relative}"
    return data


def _with_home_expanded(data: dict[str, object]) -> dict[str, object]:
    """The recipe with `~` as the user's own folder, which no shell expands inside a word like data.root=~/pictures."""
    data = copy.deepcopy(data)
    places = [(data.get(section), key) for section, key in _PATHS]
    section = data.get("data")
    if isinstance(section, dict):
        places += [(section.get(part), "source") for part in SOURCES]
    for part, key in places:
        if isinstance(part, dict) and isinstance(part.get(key), str):
            part[key] = os.path.expanduser(part[key])
    return data


def _refuse_idle_sets(recipe: LDMRecipe, sets: Sequence[str]) -> None:
    """Raise RecipeError for an override that would be read and have no effect."""
    idle: tuple[str, ...]
    if recipe.training.num_epochs is None:
        counted = "steps"
        idle = ("save_every_epochs",)
        cure = "set training.checkpoint_every and training.validate_every"
    else:
        counted = "epochs"
        idle = ("steps", "checkpoint_every", "validate_every")
        cure = "set training.num_epochs and training.save_every_epochs, or training.num_epochs=null to count steps"
    names = {f"training.{key}" for key in idle}
    for item in sets:
        if item.partition("=")[0].strip() in names:
            raise RecipeError(f"--set {item}: it has no effect on a run that counts {counted}; {cure}")
