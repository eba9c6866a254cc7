"""A checkpoint as something to draw with: it remembers its recipe, its words and the range of its latents."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bottega.ldm.autoencoder import Autoencoder, open_autoencoder
from bottega.ldm.config import LDMRecipe
from bottega.ldm.model import LatentDiffusion
from bottega.ldm.recipe import read_recipe
from bottega.ldm.text import ClipText
from bottega.models.loading import choose_device
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError, RequestError
from bottega.training import checkpoint as checkpoints
from bottega.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trained:
    """A model with all that drawing needs. averaged: whether its weights are the averages (EMA)."""

    folder: Path
    step: int
    recipe: LDMRecipe
    model: LatentDiffusion
    autoencoder: Autoencoder
    shape: tuple[int, ...]
    absmax: float
    averaged: bool


def open_trained(place: Path, device: str = "auto") -> Trained:
    """Load a checkpoint's folder, or the newest one of a run directory; averages go before the weights themselves.

    Raises MissingError where there is none, RequestError for a checkpoint of another trainer.
    """
    found = find(place)
    kept = found.remembered
    if "recipe" not in kept:
        raise RequestError(f"{found.folder}: a checkpoint of `bottega train ldm` is wanted, this is of another trainer")
    run = Path(os.path.normpath(found.folder / ".." / ".."))
    recipe = read_recipe(kept["recipe"], run, f"{found.folder.name}: recipe")
    chosen = choose_device(device)
    clip = ClipText(resolve(str(recipe.text.model)), chosen) if recipe.text.kind == "clip" else None
    model = LatentDiffusion(recipe, kept["shape"][0], kept["words"], clip)
    tensors = checkpoints.read_tensors(found)
    averages = {name.removeprefix("ema:"): value for name, value in tensors.items() if name.startswith("ema:")}
    own = {name: averages.get(name, tensors[name]) for name in model.state_dict()}
    model.load_state_dict(own, strict=True)
    return Trained(
        folder=found.folder,
        step=found.step,
        recipe=recipe,
        model=model.to(chosen).eval().requires_grad_(False),
        autoencoder=open_autoencoder(recipe.autoencoder, device),
        shape=tuple(kept["shape"]),
        absmax=float(kept["statistics"]["absmax"]),
        averaged=bool(averages),
    )


def find(place: Path) -> Checkpoint:
    """The checkpoint in a folder, or the newest of the run or of the `checkpoints` that it is. MissingError if none."""
    found = checkpoints.read(place) if (place / "state.json").exists() else None
    for folder in (place / "checkpoints", place):
        found = found or (checkpoints.latest(folder) if folder.is_dir() else None)
    if found is None:
        raise MissingError(f"no whole checkpoint is in {place}; name runs/NAME, or a folder in its checkpoints/")
    return found
