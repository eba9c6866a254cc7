"""One content file and one style file -> one PNG."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

LOGGER = logging.getLogger(__name__)


def stylize_file(
    adapter: Path,
    content: Path | None,
    style: Path,
    output: Path,
    *,
    prompt: str = "",
    style_caption: str = "",
    seed: int = 0,
    strength: float | None = None,
    steps: int | None = None,
    style_scale: float | None = None,
    text_guidance: float | None = None,
    style_guidance: float | None = None,
    models: ModelsConfig | None = None,
) -> dict[str, Any]:
    """Draw `content` in the style of `style` with an adapter file and write a PNG, whole or not at all.

    What is None is as the adapter's header says. Without a content the prompt alone says what to draw: an adapter of
    the mode `sdedit` then begins with noise, in as many steps and with the guidance that the base draws with; one of
    another mode was trained to paint over a content, so the frozen base draws that first, by the prompt
    (`draw_content`). style_caption: what the style picture shows, for an adapter that takes it out of the style; empty:
    not known, nothing is taken out. models: where PixArt and CLIP are, if not where the header says; a model with other
    weights than the adapter was trained beside is refused.

    Returns {output, sha256, seed, strength, steps, seconds}. RequestError with neither content nor prompt;
    PictureError for a picture that can't be read, MissingError for absent models, NonFiniteError before a broken
    picture would be written.
    """
    import time

    import torch

    from bottega.data.pictures import load_square
    from bottega.generation.stylize import (
        CONTENT_GUIDANCE,
        CONTENT_STEPS,
        draw_content,
        load_parts,
        start_timestep,
        stylize,
    )
    from bottega.models.config import ModelsConfig
    from bottega.models.hashes import model_hash
    from bottega.models.loading import locate
    from bottega.runtime.files import write_png
    from bottega.student.config import SamplingConfig
    from bottega.student.encode import TextEncoder, load_clip, sizes
    from bottega.student.export import load_adapter
    from bottega.visual.pictures import to_uint8

    began = time.monotonic()
    if content is None and not prompt.strip():
        raise RequestError("something must say what to draw, received neither a content nor a prompt; give one of them")
    trained, header = load_adapter(adapter)
    models = _models(models or ModelsConfig(), header)
    pixart, clip = locate(models, "pixart"), locate(models, "clip")
    for folder, part in ((pixart / "transformer", "transformer"), (pixart / "vae", "latent"), (clip, "clip")):
        if model_hash(folder) != header["model_hashes"][part]:
            raise RequestError(
                f"{folder}: other weights than {adapter.name} was trained beside; name that model, or train again"
            )
    given = {
        "steps": steps,
        "style_scale": style_scale,
        "text_guidance": text_guidance,
        "style_guidance": style_guidance,
    }
    blank = content is None and trained.config.content_mode == "sdedit"
    if blank:  # from pure noise, as the base itself draws
        given = {**given, "steps": steps or CONTENT_STEPS, "text_guidance": text_guidance or CONTENT_GUIDANCE}
    sampling = _sampling(SamplingConfig, header, given)
    side = sizes(pixart)["pixels"]
    styles = load_square(style, side)[None]  # [1, S, S, 3]
    text, null = TextEncoder(pixart, header["text_tokens"], models.dtype, models.device).encode([prompt, ""])
    parts = load_parts(pixart, dtype=models.dtype, device=models.device)
    if blank and strength not in (None, 1.0):
        raise RequestError(f"strength says how much of a content is redrawn, received {strength:g} and no content")
    contents = None
    if content is not None:
        contents = load_square(content, side)[None]
    elif not blank:
        contents = to_uint8(draw_content(parts, [text], null, [seed]))
    if trained.config.scene_removal != "none" and not style_caption:
        LOGGER.warning("the adapter takes what a style picture shows out of its style; say it with --style-caption")
    encoder = load_clip(clip, models.device)
    unknown = torch.zeros(1, encoder.width)
    drawn = stylize(
        parts,
        trained,
        parts.blank_latents(1) if contents is None else contents,
        torch.from_numpy(encoder.patches(styles) if trained.reads_patches else encoder.image(styles)),
        unknown if contents is None else torch.from_numpy(encoder.image(contents)),
        [text],
        [seed],
        sampling=sampling,
        strength=1.0 if contents is None else strength,
        null_prompt=null,
        captions_clip=torch.from_numpy(encoder.text([style_caption])) if style_caption else unknown,
    )
    start = start_timestep(parts.backbone, trained, 1.0 if contents is None else strength)
    sha256 = write_png(output, to_uint8(drawn)[0])
    return {
        "output": str(output),
        "sha256": sha256,
        "seed": seed,
        "strength": parts.backbone.schedule.strength(start),
        "steps": sampling.steps,
        "seconds": time.monotonic() - began,
    }


def _models(models: ModelsConfig, header: dict[str, Any]) -> ModelsConfig:
    """The models as asked for, else as the adapter's header names them."""
    named = {role: getattr(models, role) or name for role, name in header["models"].items()}
    for role, name in named.items():
        if name is None:
            raise RequestError(f"the adapter's header does not say where its {role} lies; name it with --{role}")
    return models.model_copy(update=named)


def _sampling(kind: Any, header: dict[str, Any], given: dict[str, Any]) -> Any:
    from bottega.runtime.config import parse

    kept = {k: v for k, v in header["sampling"].items() if k not in ("sampler", "start")}
    return parse(kind, kept | {k: v for k, v in given.items() if v is not None}, "stylize")
