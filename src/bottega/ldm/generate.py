"""Prompts -> PNG files, with a model that was trained from scratch."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import derive

if TYPE_CHECKING:
    from bottega.diffusion.sampling import StepStatistics
    from bottega.ldm.autoencoder import Drawn
    from bottega.ldm.checkpoint import Trained
    from bottega.ldm.config import LDMRecipe, SamplingConfig
    from bottega.ldm.text import Words

LOGGER = logging.getLogger(__name__)
_WORDS = 8
_SHOWN = 12


def generate(
    checkpoint: Path,
    prompts: Sequence[str],
    output_dir: Path,
    *,
    seed: int = 0,
    num_images: int = 1,
    device: str = "auto",
    watch: Callable[[StepStatistics], None] | None = None,
    **sampling: Any,
) -> list[dict[str, Any]]:
    """Draw each prompt `num_images` times, with the seeds seed, seed + 1 …, and write a PNG each.

    checkpoint: a checkpoint's folder, or a run directory, whose newest is taken. sampling: values of `SamplingConfig`
    in place of the recipe's; None leaves the recipe's. watch: called with the statistics of the latents at every step.

    A picture depends on its prompt and seed, never on what is drawn beside it beyond 1e-5. Each file says of itself
    how it was made, under the keyword `bottega`, as JSON.
    Returns a row a picture: {file, sha256, prompt, seed, …}. RequestError for settings that do not work on the model's
    path, NonFiniteError where latents are not finite, before a picture would be written. A file of the same name that
    was made otherwise is left alone: the new one's name says which checkpoint drew it.
    """
    from bottega.ldm.checkpoint import open_trained
    from bottega.ldm.drawing import AT_ONCE, draw_latents
    from bottega.runtime.files import require_folder
    from bottega.runtime.interrupt import Interruption
    from bottega.runtime.progress import Progress

    began = time.monotonic()
    require_folder(output_dir)
    trained = open_trained(checkpoint, device)
    recipe = trained.recipe
    config = overridden(recipe.sampling, sampling)
    _refuse(recipe, prompts, config)
    if trained.model.words is not None:
        _refuse_unknown(trained.model.words, prompts)
    if config.guidance_scale == 0:
        LOGGER.warning("guidance_scale 0 draws the empty caption and leaves the prompt out; 1 follows it unguided")
    path, plan = recipe.diffusion.path, config.plan(trained.absmax)
    plan.timesteps(path)
    changed = "".join(f"_{k}{v}" for k, v in config if v != getattr(recipe.sampling, k))
    wanted = [(prompt, seed + i) for prompt in prompts for i in range(num_images)]
    rows: list[dict[str, Any]] = []
    with Progress(len(wanted), "pictures", "pictures") as progress, Interruption() as stop:

        def step(seen: StepStatistics) -> None:  # many are drawn at once, so that the steps alone tell that it goes on
            progress.update(0, step=seen.step)
            if watch is not None:
                watch(seen)

        for first in range(0, len(wanted), AT_ONCE):
            part = wanted[first : first + AT_ONCE]
            texts, seeds = [prompt for prompt, _ in part], [number for _, number in part]
            latents = draw_latents(trained.model, path, plan, trained.shape, texts, seeds, config.guidance_scale, step)
            for (prompt, number), picture in zip(part, trained.autoencoder.decode(latents), strict=True):
                said = {"prompt": prompt, "seed": number, **_model(trained), **config.model_dump(mode="json")}
                stem = f"{file_stem(prompt or recipe.name)}_seed{number}{changed}"
                rows.append(_write(output_dir, stem, picture, said))
                progress.update()
            stop.check()
    seconds = (time.monotonic() - began) / len(rows)
    return [row | {"seconds": seconds} for row in rows]


def _refuse(recipe: LDMRecipe, prompts: Sequence[str], config: SamplingConfig) -> None:
    """Raise RequestError for prompts or guidance that the model was not trained for."""
    texts = recipe.text.kind != "none"
    if not texts and any(prompts):
        raise RequestError(f"{recipe.name} was trained without text, received the prompt {prompts[0]!r}; give none")
    if texts and not all(prompt.strip() for prompt in prompts):
        raise RequestError("something must say what to draw, received an empty prompt; give --prompt, or --subject")
    if config.guidance_scale != 1 and (not texts or recipe.text.dropout == 0):
        why = "without text" if not texts else "that was never shown the empty caption (text.dropout = 0)"
        raise RequestError(
            f"guidance needs text to guide by, received guidance_scale {config.guidance_scale:g} for a model {why}; "
            "set it to 1"
        )


def _refuse_unknown(words: Words, prompts: Sequence[str]) -> None:
    """Raise RequestError for a prompt of which nothing would be left: it would draw what no prompt draws."""
    for prompt in prompts:
        if not words.knows_any(prompt):
            some = ", ".join(words.vocabulary[:_SHOWN]) + (", …" if len(words.vocabulary) > _SHOWN else "")
            raise RequestError(
                f"a prompt has at least one word that a training caption had, received {prompt!r} with none; this "
                f"model knows {len(words.vocabulary)}: {some}"
            )


def _model(trained: Trained) -> dict[str, Any]:
    return {"model": trained.recipe.name, "checkpoint": trained.folder.name, "averaged": trained.averaged}


def _write(folder: Path, stem: str, picture: Drawn, said: dict[str, Any]) -> dict[str, Any]:
    """Write a picture in 0…1 with what it says of itself; NonFiniteError instead of the black of a cast NaN."""
    import numpy as np

    from bottega.ldm.samples import to_bytes
    from bottega.runtime.files import write_png

    if not bool(np.isfinite(picture).all()):
        raise NonFiniteError(
            f"a picture holds NaN or infinity after the autoencoder, received it for seed {said['seed']}; look at its "
            "latents (--statistics), and keep the autoencoder in float32"
        )
    told = json.dumps(said, ensure_ascii=False)
    file = _place(folder, stem, said, told)
    sha256 = write_png(file, to_bytes(picture), {"bottega": told})
    return {"file": str(file), "sha256": sha256, **said}


def _place(folder: Path, stem: str, said: dict[str, Any], told: str) -> Path:
    """Where a picture goes: under its own name unless another picture has it, of another checkpoint, or of a prompt
    that differs in its commas alone."""
    more = ("", f"_{said['model']}_{said['checkpoint']}", f"_{derive(told) % 16**6:06x}")
    places = [folder / f"{stem}{end}.png" for end in more]
    return next((place for place in places if not place.exists() or _told(place) == told), places[-1])


def _told(file: Path) -> str | None:
    """What a picture says of itself; None where it was not drawn here."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            said: str | None = picture.info.get("bottega")
            return said
    except OSError:  # no picture at all
        return None


def overridden(config: SamplingConfig, values: dict[str, Any]) -> SamplingConfig:
    """The recipe's way to sample with what the request says in its place. RecipeError for what is not allowed."""
    from bottega.ldm.config import SamplingConfig
    from bottega.runtime.config import parse

    given = {name: value for name, value in values.items() if value is not None}
    if given.get("scheduler", "ddim") != "ddim" and "eta" not in given:
        given["eta"] = 0.0  # the recipe's belongs to its own ddim
    return parse(SamplingConfig, {**config.model_dump(), **given}, "generate")


def file_stem(prompt: str) -> str:
    """The first words of a prompt as a file name, `orange-circle-with-teal-background`; where that is not all of them,
    six digits tell it from prompts that begin alike."""
    words = re.findall(r"\w+", prompt.lower())
    whole = "-".join(words)
    stem = "-".join(words[:_WORDS]).encode()[:80].decode(errors="ignore")  # a file's name is counted in bytes
    return (stem if stem == whole else f"{stem}-{derive(prompt) % 16**6:06x}") or "picture"
