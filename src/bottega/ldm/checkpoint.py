"""A checkpoint as something to draw with: it holds its recipe, its vocabulary and the range of its latents."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from bottega.ldm.autoencoder import Autoencoder, open_autoencoder
from bottega.ldm.config import LDMRecipe
from bottega.ldm.model import LatentDiffusion
from bottega.ldm.recipe import read_recipe
from bottega.ldm.records import remembered_of
from bottega.ldm.text import ClipText
from bottega.models.loading import choose_device
from bottega.models.names import resolve
from bottega.runtime.errors import MissingError
from bottega.training import checkpoint as checkpoints
from bottega.training.checkpoint import Checkpoint


@dataclass(frozen=True)
class Trained:
    """A model with all that drawing needs.

    Args:
        folder: of the checkpoint.
        step: optimizer steps behind it.
        recipe: it was trained with.
        model: frozen, in evaluation mode, on its device.
        autoencoder: of its latents.
        shape: (C, h, w) of a latent.
        absmax: largest absolute value of the training latents.
        averaged: whether its weights are the averages (EMA).
    """

    folder: Path
    step: int
    recipe: LDMRecipe
    model: LatentDiffusion
    autoencoder: Autoencoder
    shape: tuple[int, ...]
    absmax: float
    averaged: bool


def open_trained(place: Path, device: str = "auto") -> Trained:
    """Load a checkpoint; where it holds averages of the weights, these are loaded.

    Args:
        place: the checkpoint's folder, or a run directory, whose newest checkpoint is taken.
        device: see `choose_device`.

    Raises:
        MissingError: there is no checkpoint.
        RequestError: it is one of another trainer.
    """
    found = find(place)
    record = remembered_of(found)
    run = Path(os.path.normpath(found.folder / ".." / ".."))
    recipe = read_recipe(record["recipe"], run, f"{found.folder.name}: recipe")
    torch_device = choose_device(device)
    clip = ClipText(resolve(str(recipe.text.model)), torch_device) if recipe.text.kind == "clip" else None
    model = LatentDiffusion(recipe, record["shape"][0], record["words"], clip)
    averaged = _load_weights(model, found)
    return Trained(
        folder=found.folder,
        step=found.step,
        recipe=recipe,
        model=model.to(torch_device).eval().requires_grad_(False),
        autoencoder=open_autoencoder(recipe.autoencoder, device),
        shape=tuple(record["shape"]),
        absmax=float(record["statistics"]["absmax"]),
        averaged=averaged,
    )


def _load_weights(model: LatentDiffusion, found: Checkpoint) -> bool:
    """Load a checkpoint's averages where it has them, else its weights; whether it had any average."""
    tensors = checkpoints.read_tensors(found)
    averaged = False
    weights = {}
    for name in model.state_dict():
        average = tensors.get(f"ema:{name}")
        if average is None:
            weights[name] = tensors[name]
        else:
            weights[name] = average
            averaged = True
    model.load_state_dict(weights, strict=True)
    return averaged


def find(place: Path) -> Checkpoint:
    """The checkpoint in a folder; or the newest one, where the folder is a run directory or its `checkpoints`.

    Raises:
        MissingError: there is no whole checkpoint.
    """
    if (place / "state.json").exists():
        found = checkpoints.read(place)
        if found is not None:
            return found
    for folder in (place / "checkpoints", place):
        found = checkpoints.latest(folder) if folder.is_dir() else None
        if found is not None:
            return found
    raise MissingError(f"no whole checkpoint is in {place}; name runs/NAME, or a folder in its checkpoints/")
