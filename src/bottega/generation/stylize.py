"""The student draws: content -> latents -> noise at the start of the use -> DDIM with the adapter -> picture.

Legend: N pictures, B of a batch, S pixels a side, C × h × w latents, M text tokens, P T5's width, D CLIP's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from bottega.models.autoencoder import LatentEncoder
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import derive
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone
from bottega.student.config import SamplingConfig
from bottega.student.sampler import Sampler

if TYPE_CHECKING:
    from pathlib import Path

    from bottega.student.adapter import StyleAdapter


CONTENT_STEPS, CONTENT_GUIDANCE = 50, 4.5
"""How the frozen base draws a content: DDIM is slower than the solver that PixArt's pipeline takes, the guidance is
that pipeline's."""


@dataclass
class Parts:
    """The frozen models that a sampler needs: no text encoder and no CLIP, whose features it is handed."""

    backbone: Backbone
    vae: LatentEncoder

    def blank_latents(self, count: int) -> torch.Tensor:
        """Latents [N, C, h, w] of noughts: of no content, for a start from pure noise."""
        config = self.backbone.transformer.config
        return torch.zeros(count, config.in_channels, config.sample_size, config.sample_size)


def load_parts(pixart: Path, *, dtype: str = "auto", device: str = "auto") -> Parts:
    """Transformer, schedule and autoencoder of a folder in PixArtAlphaPipeline's layout."""
    from bottega.student.encode import sizes

    per_cell = sizes(pixart)["pixels_per_cell"]
    return Parts(
        Backbone.load(pixart, dtype=dtype, device=device, pixels_per_cell=per_cell),
        LatentEncoder(pixart / "vae", device),
    )


def stylize(
    parts: Parts,
    adapter: StyleAdapter | None,
    contents: npt.NDArray[np.uint8] | torch.Tensor,
    styles_clip: torch.Tensor | None,
    contents_clip: torch.Tensor | None,
    prompts: Sequence[torch.Tensor],
    seeds: Sequence[int],
    *,
    sampling: SamplingConfig | None = None,
    strength: float | None = None,
    null_prompt: torch.Tensor | None = None,
    captions_clip: torch.Tensor | None = None,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Pictures float32 [N, S, S, 3] in 0…1.

    adapter: None draws with the frozen base from the noised content, the control of every comparison (`strength` is
        then required). contents: pictures uint8 [N, S, S, 3] or their scaled latents float32 [N, C, h, w].
    styles_clip, contents_clip: CLIP embeddings [N, D]; for an adapter with token_source patch, the styles' patch tokens
        [N, T, F], and no contents. prompts: T5 states of each caption's own tokens, [m_i, P].
    seeds: one a picture; the noise of a picture depends on its seed only, never on its place in the batch.
    strength: where the use begins in the student's own schedule; None: the adapter's. One of the mode `paired`, or of
        `latent` from the content, was trained for one start, and another is refused.
    null_prompt: T5 of "" [1, P], needed for text guidance. captions_clip: CLIP embeddings [N, D] of what the style
        pictures show, noughts where not known, for an adapter with `scene_removal`; None: of none it is known.
    Raises NonFiniteError, naming the seeds, before anything is rounded to 8 bits.
    """
    sampling = sampling or SamplingConfig()
    start = start_timestep(parts.backbone, adapter, strength)
    if sampling.text_guidance != 1.0 and null_prompt is None:
        raise RequestError("text_guidance other than 1 needs null_prompt, the T5 states of the empty string; pass it")
    attachment = None if adapter is None else Attachment(parts.backbone.transformer, _placed(adapter, parts.backbone))
    pictures = []
    try:
        for first in range(0, len(seeds), batch_size):
            where = slice(first, min(first + batch_size, len(seeds)))
            styles = None if styles_clip is None else styles_clip[where]
            summaries = None if contents_clip is None else contents_clip[where]
            shown = None if captions_clip is None else captions_clip[where]
            batch = Sampler(parts.backbone, attachment, sampling, styles, summaries, prompts[where], null_prompt, shown)
            latents = batch.draw(_latents(parts, contents[where]), seeds[where], start)
            pictures.append(_decode(parts, latents, seeds[where]))
            if progress is not None:
                progress(where.stop - where.start)
    finally:
        if attachment is not None:
            attachment.detach()
    return np.concatenate(pictures)


def draw_content(
    parts: Parts, prompts: Sequence[torch.Tensor], null_prompt: torch.Tensor, seeds: Sequence[int]
) -> npt.NDArray[np.float32]:
    """What the frozen base draws by the prompts alone, from pure noise: contents for an adapter that paints over one.

    prompts: T5 states [m_i, P]; null_prompt [1, P]. Returns pictures float32 [N, S, S, 3] in 0…1, of `CONTENT_STEPS`
    DDIM steps with guidance `CONTENT_GUIDANCE`.
    """
    return stylize(
        parts,
        None,
        parts.blank_latents(len(seeds)),
        None,
        None,
        prompts,
        [derive("content of a prompt", seed) for seed in seeds],
        sampling=SamplingConfig(steps=CONTENT_STEPS, text_guidance=CONTENT_GUIDANCE),
        strength=1.0,
        null_prompt=null_prompt,
    )


def start_timestep(backbone: Backbone, adapter: StyleAdapter | None, strength: float | None) -> int:
    """The timestep at which the use begins. RequestError where the adapter was not trained for this strength."""
    from bottega.student.objective import Path as Way

    schedule = backbone.schedule
    if adapter is None:
        if strength is None:
            raise RequestError(
                "without an adapter, strength says how much of the content is redrawn; pass 0 < strength ≤ 1"
            )
        return schedule.start_timestep(strength)
    way = Way.of(adapter.config, schedule)
    if strength is None or schedule.start_timestep(strength) == way.start:
        return way.start
    if way.paired:
        raise RequestError(
            f"this adapter ({adapter.config.content_mode}) was trained for strength {adapter.config.strength:g} "
            f"alone, received {strength:g}; leave strength out, lower style_scale instead, or train with "
            f"adapter.strength={strength:g}"
        )
    return schedule.start_timestep(strength)


def _placed(adapter: StyleAdapter, backbone: Backbone) -> StyleAdapter:
    return adapter.to(backbone.device).eval()


def _latents(parts: Parts, contents: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    return contents.float() if isinstance(contents, torch.Tensor) else parts.vae.encode(contents)


def _decode(parts: Parts, latents: torch.Tensor, seeds: Sequence[int]) -> npt.NDArray[np.float32]:
    finite = latents.isfinite().flatten(1).all(dim=1)
    if not bool(finite.all()):
        bad = [seed for seed, good in zip(seeds, finite.tolist(), strict=True) if not good]
        raise NonFiniteError(
            f"the sampler gave latents that are not finite for the seeds {bad[:8]}; use dtype float32 or lower the "
            f"guidance"
        )
    pictures = parts.vae.decode(latents)
    if not bool(np.isfinite(pictures).all()):
        bad = [seed for seed, picture in zip(seeds, pictures, strict=True) if not np.isfinite(picture).all()]
        raise NonFiniteError(
            f"the autoencoder gave pictures that are not finite for the seeds {bad[:8]}; check its dtype"
        )
    return pictures
