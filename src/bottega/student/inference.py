"""The student draws: content -> latents -> noise at the start timestep -> DDIM with the adapter -> picture.

Legend: N pictures, B of a batch, S pixels a side, C × h × w latents, M text tokens, P T5's width, D CLIP's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from bottega.student.sampler import AfterStep, Sampler
from bottega.student.trajectory import NoisingTrajectory

if TYPE_CHECKING:
    from pathlib import Path

    from bottega.diffusion.schedule import NoiseSchedule
    from bottega.student.adapter import StyleAdapter

CONTENT_STEPS = 50
"""DDIM steps in which the frozen base draws a content: more than the 20 of PixArt's own solver, for DDIM is slower."""
CONTENT_GUIDANCE = 4.5
"""Guidance on the text at that: the default of PixArtAlphaPipeline."""


@dataclass
class PixArtParts:
    """The frozen models that a sampler needs. Text encoder and CLIP are not among them: it is given their features."""

    backbone: Backbone
    vae: LatentEncoder

    def blank_latents(self, count: int) -> torch.Tensor:
        """Latents [N, C, h, w] of zeros: no content, for a start from pure noise."""
        config = self.backbone.transformer.config
        return torch.zeros(count, config.in_channels, config.sample_size, config.sample_size)


@dataclass(frozen=True)
class StylizeInputs:
    """What N pictures are drawn from; `stylize` says what each is.

    null_style: draw with the null tokens in the style's place, as the structure task (Fill50K) was trained.
    """

    contents: npt.NDArray[np.uint8] | torch.Tensor
    styles_clip: torch.Tensor | None
    contents_clip: torch.Tensor | None
    prompts: Sequence[torch.Tensor]
    null_prompt: torch.Tensor | None = None
    captions_clip: torch.Tensor | None = None
    null_style: bool = False

    def part(self, batch: slice) -> StylizeInputs:
        """Those of a batch's pictures."""
        return replace(
            self,
            contents=self.contents[batch],
            styles_clip=_part(self.styles_clip, batch),
            contents_clip=_part(self.contents_clip, batch),
            prompts=self.prompts[batch],
            captions_clip=_part(self.captions_clip, batch),
        )


def load_parts(pixart: Path, *, dtype: str = "auto", device: str = "auto") -> PixArtParts:
    """Transformer, schedule and autoencoder of a folder in PixArtAlphaPipeline's layout."""
    from bottega.student.encode import sizes

    per_cell = sizes(pixart)["pixels_per_cell"]
    return PixArtParts(
        Backbone.load(pixart, dtype=dtype, device=device, pixels_per_cell=per_cell),
        LatentEncoder(pixart / "vae", device),
    )


def stylize(  # noqa: PLR0913 (each input of a batch has its own shape; a record would only rename them)
    parts: PixArtParts,
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
    after_step: AfterStep | None = None,
) -> npt.NDArray[np.float32]:
    """Draw N contents in N styles.

    Args:
        parts: the frozen models.
        adapter: None draws with the frozen base from the noised content, the control of every comparison; `strength`
            is then required.
        contents: pictures uint8 [N, S, S, 3], or their scaled latents float32 [N, C, h, w].
        styles_clip: CLIP embeddings [N, D] of the styles; for an adapter with token_source patch, their patch tokens
            [N, T, V].
        contents_clip: CLIP embeddings [N, D] of the contents; None with token_source patch.
        prompts: T5 states of each caption's own tokens, [m_i, P].
        seeds: one a picture; the noise of a picture depends on its seed alone, not on its place in the batch.
        sampling: steps and guidance.
        strength: img2img strength, fraction of the timesteps from which the content is redrawn; None: the adapter's.
            An adapter of the mode `paired`, or of `latent` from the content, was trained for one strength, and another
            is refused.
        null_prompt: T5 states of "" [1, P], needed for text guidance.
        captions_clip: CLIP embeddings [N, D] of what the style pictures show, zeros where not known, for an adapter
            with `scene_removal`; None: none is known.
        batch_size: pictures drawn together.
        progress: called with the number of pictures after each batch.
        after_step: see `AfterStep`.

    Returns:
        Pictures float32 [N, S, S, 3] in 0…1.

    Raises:
        RequestError: the adapter needs what is not given, or was trained for another strength.
        NonFiniteError: names the seeds, before anything is rounded to 8 bits.
    """
    sampling = sampling or SamplingConfig()
    start = start_timestep(parts.backbone.schedule, adapter, strength)
    inputs = StylizeInputs(contents, styles_clip, contents_clip, prompts, null_prompt, captions_clip)
    pictures = []
    for first in range(0, len(seeds), batch_size):
        batch = slice(first, min(first + batch_size, len(seeds)))
        latents = draw_latents(parts, adapter, inputs.part(batch), seeds[batch], start, sampling, after_step)
        pictures.append(_decode(parts, latents, seeds[batch]))
        if progress is not None:
            progress(batch.stop - batch.start)
    return np.concatenate(pictures)


def draw_latents(
    parts: PixArtParts,
    adapter: StyleAdapter | None,
    inputs: StylizeInputs,
    seeds: Sequence[int],
    start: int,
    sampling: SamplingConfig,
    after_step: AfterStep | None = None,
) -> torch.Tensor:
    """Draw one batch.

    Args:
        parts: the frozen models; the transformer is as it was afterwards.
        adapter: None draws with the frozen base.
        inputs: of the B pictures.
        seeds: one a picture.
        start: the first timestep, see `start_timestep`.
        sampling: steps and guidance.
        after_step: called after each step.

    Returns:
        Latents, float32 [B, C, h, w] on the transformer's device.

    Raises:
        RequestError: the adapter needs what is not given.
    """
    if sampling.text_guidance != 1.0 and inputs.null_prompt is None:
        raise RequestError("text_guidance other than 1 needs null_prompt, the T5 states of the empty string; pass it")
    attachment = None
    if adapter is not None:
        attachment = Attachment(parts.backbone.transformer, adapter.to(parts.backbone.device).eval())
    try:
        sampler = Sampler(
            parts.backbone,
            attachment,
            sampling,
            inputs.styles_clip,
            inputs.contents_clip,
            inputs.prompts,
            inputs.null_prompt,
            inputs.captions_clip,
            null_style=inputs.null_style,
        )
        return sampler.draw(_latents(parts, inputs.contents), seeds, start, after_step)
    finally:
        if attachment is not None:
            attachment.detach()


def draw_content(
    parts: PixArtParts,
    prompts: Sequence[torch.Tensor],
    null_prompt: torch.Tensor,
    seeds: Sequence[int],
    after_step: AfterStep | None = None,
) -> npt.NDArray[np.float32]:
    """What the frozen base draws by the prompts alone, from pure noise: contents for an adapter that paints over one.

    Args:
        parts: the frozen models.
        prompts: T5 states [m_i, P].
        null_prompt: T5 states of "" [1, P].
        seeds: one a picture.
        after_step: see `AfterStep`.

    Returns:
        Pictures float32 [N, S, S, 3] in 0…1, of `CONTENT_STEPS` DDIM steps with guidance `CONTENT_GUIDANCE`.
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
        after_step=after_step,
    )


def start_timestep(schedule: NoiseSchedule, adapter: StyleAdapter | None, strength: float | None) -> int:
    """The timestep from which the content is redrawn.

    Raises:
        RequestError: the adapter was not trained for this strength, or neither says one.
    """
    if adapter is None:
        if strength is None:
            raise RequestError(
                "without an adapter, strength says how much of the content is redrawn; pass 0 < strength ≤ 1"
            )
        return schedule.start_timestep(strength)
    trajectory = NoisingTrajectory.of(adapter.config, schedule)
    if strength is None or schedule.start_timestep(strength) == trajectory.start:
        return trajectory.start
    if trajectory.paired:
        raise RequestError(
            f"this adapter ({adapter.config.content_mode}) was trained for strength {adapter.config.strength:g} "
            f"alone, received {strength:g}; leave strength out, lower style_scale instead, or train with "
            f"adapter.strength={strength:g}"
        )
    return schedule.start_timestep(strength)


def _part(values: torch.Tensor | None, batch: slice) -> torch.Tensor | None:
    return None if values is None else values[batch]


def _latents(parts: PixArtParts, contents: npt.NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
    if isinstance(contents, torch.Tensor):
        return contents.float()
    return parts.vae.encode(contents)


def _decode(parts: PixArtParts, latents: torch.Tensor, seeds: Sequence[int]) -> npt.NDArray[np.float32]:
    """Pictures of latents [B, C, h, w]; NonFiniteError names the seeds, whether the sampler or the decoder failed."""
    bad = [seed for seed, one in zip(seeds, latents, strict=True) if not bool(one.isfinite().all())]
    if bad:
        raise NonFiniteError(
            f"the sampler gave latents that are not finite for the seeds {bad[:8]}; use dtype float32 or lower the "
            f"guidance"
        )
    pictures = parts.vae.decode(latents)
    bad = [seed for seed, picture in zip(seeds, pictures, strict=True) if not bool(np.isfinite(picture).all())]
    if bad:
        raise NonFiniteError(
            f"the autoencoder gave pictures that are not finite for the seeds {bad[:8]}; check its dtype"
        )
    return pictures
