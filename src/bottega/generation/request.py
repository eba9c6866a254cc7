"""One content file and one style file -> one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig


def stylize_file(
    adapter: Path,
    content: Path,
    style: Path,
    output: Path,
    *,
    prompt: str = "",
    seed: int = 0,
    strength: float | None = None,
    steps: int | None = None,
    style_scale: float | None = None,
    text_guidance: float | None = None,
    style_guidance: float | None = None,
    models: ModelsConfig | None = None,
) -> dict[str, Any]:
    """Draw `content` in the style of `style` with an adapter file and write a PNG, whole or not at all.

    What is None is as the adapter's header says. models: where PixArt and CLIP are, if not where the header says; a
    model with other weights than the adapter was trained beside is refused.
    Returns {output, sha256, seed, strength, steps, seconds}. PictureError for a picture that can't be read,
    MissingError for absent models, NonFiniteError before a broken picture would be written.
    """
    import time

    import numpy as np
    import torch

    from bottega.data.pictures import load_square
    from bottega.generation.stylize import load_parts, start_timestep, stylize, to_uint8
    from bottega.models.config import ModelsConfig
    from bottega.models.loading import locate
    from bottega.runtime.files import write_png
    from bottega.student.config import SamplingConfig
    from bottega.student.encode import TextEncoder, load_clip, model_hash, sizes
    from bottega.student.export import load_adapter

    began = time.monotonic()
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
    sampling = _sampling(SamplingConfig, header, given)
    side = sizes(pixart)["pixels"]
    pictures = np.stack([load_square(path, side) for path in (content, style)])  # [2, S, S, 3]
    encoder, embeddings = load_clip(clip, models.device), None
    if trained.reads_patches:
        seen = torch.from_numpy(encoder.patches(pictures[1:]))  # [1, T, F]
    else:
        embeddings = torch.from_numpy(encoder.image(pictures))  # [2, D]
        seen = embeddings[1:]
    text, null = TextEncoder(pixart, header["text_tokens"], models.dtype, models.device).encode([prompt, ""])
    parts = load_parts(pixart, dtype=models.dtype, device=models.device)
    drawn = stylize(
        parts,
        trained,
        pictures[:1],
        seen,
        None if embeddings is None else embeddings[:1],
        [text],
        [seed],
        sampling=sampling,
        strength=strength,
        null_prompt=null,
    )
    start = start_timestep(parts.backbone, trained, strength)
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
