"""Prompts -> PNG files, with a model that was trained from scratch."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import derive

if TYPE_CHECKING:
    from bottega.diffusion.sampling import StepStatistics
    from bottega.ldm.autoencoder import FloatPictures
    from bottega.ldm.checkpoint import Trained
    from bottega.ldm.config import LDMRecipe, LDMSamplingConfig
    from bottega.ldm.text import WordEncoder

LOGGER = logging.getLogger(__name__)
_STEM_WORDS = 8
"""Words of a prompt that name its file; `_STEM_BYTES` keeps it below the 255 bytes that file systems allow."""
_STEM_BYTES = 80
_WORDS_IN_MESSAGE = 12
_METADATA = "bottega"
"""Keyword of the PNG text that says how a picture was made."""


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
) -> list[dict[str, object]]:
    """Draw each prompt `num_images` times and write a PNG each.

    A picture depends on its prompt and seed; on the others drawn with it to less than 1e-5. Each file says how it was
    made, as JSON under the keyword `bottega`. A file of the same name that was made otherwise is left alone: the new
    one's name then says which checkpoint drew it.

    Args:
        checkpoint: a checkpoint's folder, or a run directory, whose newest is taken.
        prompts: what to draw.
        output_dir: of the files.
        seed: of the first picture of each prompt; the next ones have seed + 1, seed + 2, …
        num_images: pictures of each prompt.
        device: see `choose_device`.
        watch: called with the statistics of the latents at every step.
        **sampling: values of `LDMSamplingConfig` in place of the recipe's; None leaves the recipe's.

    Returns:
        A row a picture: {file, sha256, prompt, seed, …}.

    Raises:
        RequestError: the settings do not work with this model.
        NonFiniteError: latents or pictures are not finite; nothing broken is written.
    """
    from bottega.ldm.checkpoint import open_trained
    from bottega.ldm.drawing import BATCH, draw_latents
    from bottega.runtime.files import require_folder
    from bottega.runtime.interrupt import Interruption
    from bottega.runtime.progress import Progress

    began = time.monotonic()
    require_folder(output_dir)
    trained = open_trained(checkpoint, device)
    recipe = trained.recipe
    config = overridden(recipe.sampling, sampling)
    _check_prompts(recipe, prompts)
    _check_guidance(recipe, config)
    _check_vocabulary(trained.model.words, prompts)
    schedule = recipe.diffusion.noise_schedule
    plan = config.plan(trained.absmax)
    plan.timesteps(schedule)  # raises where the sampler does not work on this schedule, before anything is drawn

    # Settings that differ are part of the file name: trying a sampler does not overwrite what another one drew.
    suffix = _changed_settings(config, recipe.sampling)
    requests = [(prompt, seed + index) for prompt in prompts for index in range(num_images)]
    rows: list[dict[str, object]] = []
    with Progress(len(requests), "pictures", "pictures") as progress, Interruption() as stop:

        def on_step(statistics: StepStatistics) -> None:
            progress.update(0, step=statistics.step)  # pictures are drawn together, so only the steps show progress
            if watch is not None:
                watch(statistics)

        for first in range(0, len(requests), BATCH):
            batch = requests[first : first + BATCH]
            latents = draw_latents(
                trained.model,
                schedule,
                plan,
                trained.shape,
                [prompt for prompt, _ in batch],
                [picture_seed for _, picture_seed in batch],
                config.guidance_scale,
                on_step,
            )
            pictures = trained.autoencoder.decode(latents)
            for (prompt, picture_seed), picture in zip(batch, pictures, strict=True):
                facts = _facts(trained, config, prompt, picture_seed)
                stem = f"{file_stem(prompt or recipe.name)}_seed{picture_seed}{suffix}"
                rows.append(_write(output_dir, stem, picture, facts))
                progress.update()
            stop.check()
    # The mean, for pictures are drawn together: none has a time of its own.
    seconds = (time.monotonic() - began) / len(rows)
    return [row | {"seconds": seconds} for row in rows]


def overridden(config: LDMSamplingConfig, values: Mapping[str, object]) -> LDMSamplingConfig:
    """The recipe's sampling with the request's values in its place.

    Raises:
        RecipeError: a value is not allowed.
    """
    from bottega.ldm.config import LDMSamplingConfig
    from bottega.runtime.config import parse

    given = {name: value for name, value in values.items() if value is not None}
    if given.get("scheduler", "ddim") != "ddim" and "eta" not in given:
        given["eta"] = 0.0  # the recipe's value is for its own sampler, ddim
    return parse(LDMSamplingConfig, {**config.model_dump(), **given}, "generate")


def file_stem(prompt: str) -> str:
    """The first words of a prompt as a file name, such as `orange-circle-with-teal-background`.

    Where words are left out, six hexadecimal digits distinguish it from prompts that begin alike.
    """
    words = re.findall(r"\w+", prompt.lower())
    whole = "-".join(words)
    stem = "-".join(words[:_STEM_WORDS]).encode()[:_STEM_BYTES].decode(errors="ignore")
    if stem != whole:
        stem = f"{stem}-{_six_digits(prompt)}"
    return stem or "picture"


def _check_prompts(recipe: LDMRecipe, prompts: Sequence[str]) -> None:
    """Raise RequestError for prompts that the model was not trained for."""
    has_text = recipe.text.kind != "none"
    if not has_text and any(prompts):
        raise RequestError(f"{recipe.name} was trained without text, received the prompt {prompts[0]!r}; give none")
    if has_text and not all(prompt.strip() for prompt in prompts):
        raise RequestError("something must say what to draw, received an empty prompt; give --prompt, or --subject")


def _check_guidance(recipe: LDMRecipe, config: LDMSamplingConfig) -> None:
    """Raise RequestError for guidance that the model was not trained for; warn of guidance 0."""
    has_text = recipe.text.kind != "none"
    if config.guidance_scale != 1 and (not has_text or recipe.text.dropout == 0):
        why = "that was never shown the empty caption (text.dropout = 0)" if has_text else "without text"
        raise RequestError(
            f"guidance needs text to guide by, received guidance_scale {config.guidance_scale:g} for a model {why}; "
            "set it to 1"
        )
    if config.guidance_scale == 0:
        LOGGER.warning("guidance_scale 0 draws the empty caption and leaves the prompt out; 1 follows it unguided")


def _check_vocabulary(words: WordEncoder | None, prompts: Sequence[str]) -> None:
    """Raise RequestError for a prompt without any known word."""
    for prompt in prompts:
        # Unknown words are left out, so it would draw what the empty prompt draws.
        if words is None or words.knows_any(prompt):
            continue
        some = ", ".join(words.vocabulary[:_WORDS_IN_MESSAGE])
        if len(words.vocabulary) > _WORDS_IN_MESSAGE:
            some += ", …"
        raise RequestError(
            f"a prompt has at least one word that a training caption had, received {prompt!r} with none; this "
            f"model knows {len(words.vocabulary)}: {some}"
        )


def _changed_settings(config: LDMSamplingConfig, standard: LDMSamplingConfig) -> str:
    """What differs from the recipe, for the file name: `_steps20_eta0.5`."""
    parts = []
    for name, value in config:
        if value != getattr(standard, name):
            parts.append(f"_{name}{value}")
    return "".join(parts)


def _facts(trained: Trained, config: LDMSamplingConfig, prompt: str, seed: int) -> dict[str, object]:
    """How a picture was made, as JSON."""
    return {
        "prompt": prompt,
        "seed": seed,
        "model": trained.recipe.name,
        "checkpoint": trained.folder.name,
        "averaged": trained.averaged,
        **config.model_dump(mode="json"),
    }


def _write(folder: Path, stem: str, picture: FloatPictures, facts: Mapping[str, object]) -> dict[str, object]:
    """Write a picture in 0…1 with its facts; NonFiniteError where it is not finite."""
    import numpy as np

    from bottega.runtime.files import write_png
    from bottega.visual.pictures import to_uint8

    # A cast to uint8 makes black of NaN, which looks like a picture.
    if not bool(np.isfinite(picture).all()):
        raise NonFiniteError(
            f"a picture holds NaN or infinity after the autoencoder, received it for seed {facts['seed']}; check its "
            "latents (--statistics), and keep the autoencoder in float32"
        )
    metadata = json.dumps(facts, ensure_ascii=False)
    file = _free_path(folder, stem, facts, metadata)
    sha256 = write_png(file, to_uint8(picture, exact=True), {_METADATA: metadata})
    return {"file": str(file), "sha256": sha256, **facts}


def _free_path(folder: Path, stem: str, facts: Mapping[str, object], metadata: str) -> Path:
    """Where a picture goes: its plain name, unless another picture has it (of another checkpoint, or of a prompt that
    differs in punctuation alone)."""
    plain = folder / f"{stem}.png"
    by_checkpoint = folder / f"{stem}_{facts['model']}_{facts['checkpoint']}.png"
    by_metadata = folder / f"{stem}_{_six_digits(metadata)}.png"
    for path in (plain, by_checkpoint):
        if not path.exists() or _read_metadata(path) == metadata:
            return path
    return by_metadata


def _read_metadata(file: Path) -> str | None:
    """The metadata of a picture; None where it was not drawn here."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            metadata: str | None = picture.info.get(_METADATA)
            return metadata
    except OSError:  # no picture at all
        return None


def _six_digits(text: str) -> str:
    return f"{derive(text) % 16**6:06x}"
