"""Latent diffusion from scratch: a recipe in, a trained model and its pictures out.

Read `stage.run` first.

    stage.py           a recipe -> runs/NAME
    config.py          the recipe, a section a component; recipe.py: reading and writing it
    data.py            what is learned: a red circle, circles with captions, folders, COCO, Fill50K
    autoencoder.py     pictures to latents and back: interpolation, or a real autoencoder
    latents.py         computed once, kept in shards, measured
    text.py            captions to states: a learned word encoder, or a frozen CLIP
    unet.py            the denoiser, on a page
    model.py           denoiser and word encoder: what is trained
    batch_sampler.py   which samples are in which step, by epochs or by steps
    objective.py       the loss of a step, and the validation by timestep bin
    samples.py         sample pictures during training
    checkpoint.py      a checkpoint as something to draw with; records.py: what it holds besides its tensors
    drawing.py         prompts to latents: guidance and sampler
    checks.py          what may be asked of it; `generation.scratch` draws it to PNG files
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.runtime.lazy import importer

if TYPE_CHECKING:
    from bottega.ldm.checkpoint import Trained, open_trained
    from bottega.ldm.config import LDMRecipe
    from bottega.ldm.drawing import draw_latents
    from bottega.ldm.recipe import load_recipe

_HOMES = {
    "LDMRecipe": "config",
    "Trained": "checkpoint",
    "draw_latents": "drawing",
    "load_recipe": "recipe",
    "open_trained": "checkpoint",
}
__all__ = ["LDMRecipe", "Trained", "draw_latents", "load_recipe", "open_trained"]

__getattr__ = importer(__name__, _HOMES)
