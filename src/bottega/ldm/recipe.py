"""Reading the recipe of a latent diffusion model, and writing it so that it may travel with its run directory."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bottega.ldm.config import LDMRecipe
from bottega.models.names import PACKAGE, on_disk
from bottega.runtime.config import apply_sets, load_yaml, parse
from bottega.runtime.errors import RecipeError

_PLACES = (("data", "root"), ("autoencoder", "model"), ("text", "model"))
"""What may be a folder. Beginning with `./` or `../` it is relative to the recipe's folder, else to where one works."""

SOURCES = ("folder", "coco", "fill50k")
"""Parts of the section `data` whose `source` is a folder, relative to the data root."""


def load_recipe(path: Path, sets: Sequence[str] = ()) -> LDMRecipe:
    """Read and check a recipe, with overrides such as `training.num_epochs=300`.

    Raises RecipeError, which names the field, what was received and what is allowed.
    """
    data = load_yaml(path)
    if not data.keys().isdisjoint(("student", "teacher", "pairs")):
        raise RecipeError(f"{path.name} is a recipe of the closed loop: bottega run {path}")
    return read_recipe({"name": path.stem, **data}, path.parent, path.name, sets)


def read_recipe(data: dict[str, Any], folder: Path, where: str, sets: Sequence[str] = ()) -> LDMRecipe:
    """A recipe from plain data whose relative places begin in `folder`; `where` names it in errors."""
    for section, key in _PLACES:
        part = data.get(section)
        value = part.get(key) if isinstance(part, dict) else None
        if isinstance(value, str) and value.startswith(("./", "../")):
            data = {**data, section: {**data[section], key: os.path.normpath(folder / value)}}
    recipe = parse(LDMRecipe, _at_home(apply_sets(data, sets)), where)
    _refuse_idle(recipe, sets)
    return recipe


def _at_home(data: dict[str, Any]) -> dict[str, Any]:
    """The recipe with `~` as the user's own folder, which no shell does amid a word such as data.root=~/pictures."""
    found = copy.deepcopy(data)
    places = [(found.get(section), key) for section, key in _PLACES]
    section = found.get("data")
    places += [(section.get(part), "source") for part in SOURCES] if isinstance(section, dict) else []
    for part, key in places:
        if isinstance(part, dict) and isinstance(part.get(key), str):
            part[key] = os.path.expanduser(part[key])
    return found


def _refuse_idle(recipe: LDMRecipe, sets: Sequence[str]) -> None:
    """Raise RecipeError for an override that would be read and have no effect."""
    counts_steps = recipe.training.num_epochs is None
    idle = ("save_every_epochs",) if counts_steps else ("steps", "checkpoint_every", "validate_every")
    cure = (
        "set training.checkpoint_every and training.validate_every"
        if counts_steps
        else "set training.num_epochs and training.save_every_epochs, or training.num_epochs=null to count steps"
    )
    for item in sets:
        name = item.partition("=")[0].strip()
        if name in {f"training.{key}" for key in idle}:
            counted = "steps" if counts_steps else "epochs"
            raise RecipeError(f"--set {item}: it has no effect on a run that counts {counted}; {cure}")


def portable(recipe: LDMRecipe, directory: Path) -> dict[str, Any]:
    """Every value of the recipe as plain data; places are written relative to the run directory, sources of data to
    the data root."""
    data = recipe.model_dump(mode="json")
    for part in SOURCES:
        if data["data"][part] is not None and os.path.isabs(data["data"][part]["source"]):
            data["data"][part]["source"] = os.path.relpath(data["data"][part]["source"], recipe.data.root)
    for section, key in _PLACES:
        value = data[section][key]
        if value is not None and (key == "root" or (on_disk(value) and not value.startswith(PACKAGE))):
            relative = os.path.relpath(value, directory)
            data[section][key] = relative if relative.startswith("..") else f"./{relative}"
    return data
