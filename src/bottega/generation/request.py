"""One content file and one style file -> one PNG."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch

    from bottega.models.config import ModelsConfig
    from bottega.models.encoders import ClipEncoder
    from bottega.student.records import AdapterHeader

LOGGER = logging.getLogger(__name__)


def stylize_file(  # noqa: PLR0913 (one keyword for each option of `bottega stylize`)
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

    Without a content the prompt alone says what to draw. An adapter of the mode `sdedit` then begins with noise, in as
    many steps and with the guidance that the base draws with. One of another mode was trained to paint over a content,
    so the frozen base draws that first, by the prompt (`draw_content`).

    Args:
        adapter: the adapter's file.
        content: a picture file, or None.
        style: a picture file.
        output: the PNG.
        prompt: what the picture shows.
        style_caption: what the style picture shows, for an adapter that takes it out of the style; empty: not known.
        seed: of the noise.
        strength: img2img strength; None, here and below: as the adapter was trained.
        steps: of the sampler.
        style_scale: factor on the style.
        text_guidance: classifier-free guidance on the prompt.
        style_guidance: classifier-free guidance on the style.
        models: where PixArt and CLIP are, if not where the header says; a model with other weights than the adapter
            was trained with is refused.

    Returns:
        {output, sha256, seed, strength, steps, seconds}.

    Raises:
        RequestError: neither content nor prompt, or settings that the adapter was not trained for.
        PictureError: a picture cannot be read.
        MissingError: a model is absent.
        NonFiniteError: before a broken picture would be written.
    """
    import time

    import torch

    from bottega.data.pictures import load_square
    from bottega.models.config import ModelsConfig
    from bottega.models.loading import locate
    from bottega.runtime.files import write_png
    from bottega.student import inference
    from bottega.student.encode import TextEncoder, load_clip, sizes
    from bottega.student.export import check_weights, load_adapter, sampling_of
    from bottega.visual.pictures import to_uint8

    began = time.monotonic()
    if content is None:
        _check_prompt_alone(prompt)
    # 1. The adapter, and the models that it was trained with.
    trained, header = load_adapter(adapter)
    models = _models(models or ModelsConfig(), header)
    pixart = locate(models, "pixart")
    clip = locate(models, "clip")
    check_weights(header, pixart, clip, adapter.name)

    # 2. How to draw: from a content, or from pure noise as the base itself draws.
    from_noise = content is None and trained.config.content_mode == "sdedit"
    if from_noise:
        steps = steps or inference.CONTENT_STEPS
        text_guidance = text_guidance or inference.CONTENT_GUIDANCE
        strength = _full_strength(strength)
    sampling = sampling_of(
        header,
        "stylize",
        steps=steps,
        style_scale=style_scale,
        text_guidance=text_guidance,
        style_guidance=style_guidance,
    )

    # 3. What conditions the drawing; the text encoder is freed before the transformer is loaded.
    side = sizes(pixart)["pixels"]
    styles = load_square(style, side)[None]  # [1, S, S, 3]
    text, null = TextEncoder(pixart, header["text_tokens"], models.dtype, models.device).encode([prompt, ""])
    parts = inference.load_parts(pixart, dtype=models.dtype, device=models.device)
    encoder = load_clip(clip, models.device)
    style_features = encoder.patches(styles) if trained.reads_patches else encoder.image(styles)
    caption_clip = _caption_embedding(encoder, style_caption, asked=trained.config.scene_removal != "none")
    start: npt.NDArray[np.uint8] | torch.Tensor = parts.blank_latents(1)
    content_clip = torch.zeros(1, encoder.width)
    if not from_noise:
        if content is not None:
            start = load_square(content, side)[None]
        else:
            start = to_uint8(inference.draw_content(parts, [text], null, [seed]))
        content_clip = torch.from_numpy(encoder.image(start))

    # 4. The picture.
    drawn = inference.stylize(
        parts,
        trained,
        start,
        torch.from_numpy(style_features),
        content_clip,
        [text],
        [seed],
        sampling=sampling,
        strength=strength,
        null_prompt=null,
        captions_clip=caption_clip,
    )
    first = inference.start_timestep(parts.backbone, trained, strength)
    sha256 = write_png(output, to_uint8(drawn)[0])
    return {
        "output": str(output),
        "sha256": sha256,
        "seed": seed,
        "strength": parts.backbone.schedule.strength(first),
        "steps": sampling.steps,
        "seconds": time.monotonic() - began,
    }


def _check_prompt_alone(prompt: str) -> None:
    if not prompt.strip():
        raise RequestError("something must say what to draw, received neither a content nor a prompt; give one of them")


def _full_strength(strength: float | None) -> float:
    """The strength of a picture that begins with noise."""
    if strength is not None and strength != 1.0:
        raise RequestError(f"strength says how much of a content is redrawn, received {strength:g} and no content")
    return 1.0


def _caption_embedding(encoder: ClipEncoder, caption: str, *, asked: bool) -> torch.Tensor:
    """CLIP's embedding of what the style picture shows [1, D], zeros where nobody says; a warning where the adapter
    would have read it."""
    import torch

    if caption:
        return torch.from_numpy(encoder.text([caption]))
    if asked:
        LOGGER.warning("the adapter takes what a style picture shows out of its style; say it with --style-caption")
    return torch.zeros(1, encoder.width)


def _models(models: ModelsConfig, header: AdapterHeader) -> ModelsConfig:
    """The models as asked for, else as the adapter's header names them."""
    update = {}
    for role, name in header["models"].items():
        chosen = getattr(models, role) or name
        if chosen is None:
            raise RequestError(f"the adapter's header does not say where its {role} is; name it with --{role}")
        update[role] = chosen
    return models.model_copy(update=update)
