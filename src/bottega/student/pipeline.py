"""A trained adapter in diffusers' own PixArtAlphaPipeline: the lines of docs/training-a-style.md.

`in_style` draws one picture as the adapter was trained to. `styled` is the part that touches the transformer alone, for
a loop or a pipeline of one's own.

Legend: B styles, D width of CLIP's joint space, T patch tokens of CLIP's of width V, C × h × w latents, S pixels of a
side, L picture tokens of the transformer's inner width I.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.process import add_noise
from bottega.models.encoding import encode
from bottega.runtime.errors import NonFiniteError, RequestError
from bottega.runtime.seeds import torch_generator
from bottega.student.adapter import StyleAdapter
from bottega.student.attach import attached
from bottega.student.backbone import read_schedule
from bottega.student.export import sampling_of
from bottega.student.inference import CONTENT_GUIDANCE, CONTENT_STEPS, start_timestep
from bottega.visual.pictures import to_signed

if TYPE_CHECKING:
    from bottega.models.encoders import ClipEncoder
    from bottega.student.config import SamplingConfig
    from bottega.student.records import AdapterHeader

Features = torch.Tensor | npt.NDArray[np.float32]
"""What CLIP sees of a picture, as a tensor or as `ClipEncoder` returns it."""


class CallInputs(TypedDict):
    """Arguments of the pipeline's call with which it draws what the adapter was trained to draw.

    latents: the noised content, or noise, [1, C, h, w] on the pipeline's device and in its dtype. timesteps: falling,
    from the adapter's start. The last three keep the pipeline from doing what the training did not: it would clean a
    prompt further where bs4 and ftfy are installed, read more tokens, and draw another size.
    """

    latents: torch.Tensor
    timesteps: list[int]
    guidance_scale: float
    clean_caption: bool
    max_sequence_length: int
    use_resolution_binning: bool


@contextmanager
def in_style(  # noqa: PLR0913 (each is one thing that the drawing needs; a record would only rename them)
    pipe: Any,
    adapter: StyleAdapter,
    header: AdapterHeader,
    clip: ClipEncoder,
    style: npt.NDArray[np.uint8],
    content: npt.NDArray[np.uint8] | None = None,
    *,
    seed: int = 0,
    style_scale: float | None = None,
    caption: str = "",
) -> Iterator[CallInputs]:
    """Within this block `pipe(prompt, **inputs)` draws one picture in the style, as `bottega stylize` does.

    The pipeline's sampler becomes the adapter's, and the drawing begins where the adapter was trained to begin. On
    leaving, the pipeline is as it was.

    Args:
        pipe: PixArtAlphaPipeline with the model that the adapter's header names.
        adapter: made for it.
        header: of the adapter's file; says steps, guidance and style scale.
        clip: the CLIP that the header names.
        style: uint8 [S, S, 3].
        content: likewise; None, for an adapter of the mode `sdedit` alone: the prompt says what to draw.
        seed: of the noise.
        style_scale: factor on every gate, and up to 1 on the content path; None: the header's.
        caption: what the style picture shows, for an adapter with `scene_removal`; empty: not known.

    Yields:
        The arguments of the call.

    Raises:
        RequestError: the adapter needs what is not given, does not fit the pipeline, or is drawn with guidance on the
            style, which the pipeline has no place for.
        NonFiniteError: the content's latents are NaN or infinite.
    """
    sampling = sampling_of(header, "the adapter's header", style_scale=style_scale)
    if sampling.style_guidance != 1.0:
        raise RequestError(
            f"the pipeline guides on the text alone, and this adapter is drawn with style_guidance "
            f"{sampling.style_guidance:g}; draw with bottega stylize, or train with student.sampling.style_guidance=1"
        )
    if content is None and adapter.config.content_mode != "sdedit":
        raise RequestError(
            f"an adapter of the mode {adapter.config.content_mode} was trained to paint over a content, received none; "
            "give a content: the pipeline itself draws one by the prompt"
        )
    latents = None if content is None else _content_latents(pipe, content)
    shown = clip.text([caption]) if caption else None
    own_scheduler = pipe.scheduler
    with styled(
        pipe.transformer,
        adapter,
        clip.patches(style[None]) if adapter.reads_patches else clip.image(style[None]),
        _content_embedding(adapter, clip, content),
        style_scale=sampling.style_scale,
        content_latents=latents,
        caption=shown,
    ):
        pipe.scheduler = _ddim(own_scheduler)
        try:
            yield _call_inputs(pipe, adapter, header, sampling, latents, seed)
        finally:
            pipe.scheduler = own_scheduler


def _content_latents(pipe: Any, content: npt.NDArray[np.uint8]) -> torch.Tensor:
    latents = encode(pipe.vae, to_signed(content[None], pipe.vae.device))  # [1, C, h, w]
    if not bool(latents.isfinite().all()):
        raise NonFiniteError(
            "the pipeline's autoencoder gave latents of the content that are not finite; load it again"
        )
    return latents


def _content_embedding(
    adapter: StyleAdapter, clip: ClipEncoder, content: npt.NDArray[np.uint8] | None
) -> Features | None:
    """[1, D]; zeros, which take nothing out of the style, where there is no content."""
    if adapter.reads_patches:
        return None
    return torch.zeros(1, clip.width) if content is None else clip.image(content[None])


def _ddim(scheduler: Any) -> Any:
    """DDIM with the noise levels and the prediction type of a scheduler."""
    from diffusers import DPMSolverMultistepScheduler

    # DDIM is DPM-Solver++ of order 1 (Lu et al. 2022, sec. 4). diffusers' DDIMScheduler takes no timesteps and strides
    # over the whole schedule, so that it can't begin at the adapter's.
    config = {
        **scheduler.config,
        "solver_order": 1,
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "thresholding": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
    }
    return DPMSolverMultistepScheduler.from_config(config)


def _call_inputs(
    pipe: Any,
    adapter: StyleAdapter,
    header: AdapterHeader,
    sampling: SamplingConfig,
    content: torch.Tensor | None,
    seed: int,
) -> CallInputs:
    """content: latents [1, C, h, w]; None: the drawing begins with noise, as the frozen base's does."""
    schedule = read_schedule(pipe.scheduler)
    config = pipe.transformer.config
    side = config.sample_size
    # On the CPU, as the sampler of `bottega stylize` draws it.
    x = torch.randn(config.in_channels, side, side, generator=torch_generator("student", seed))[None]  # [1, C, h, w]
    start, steps, guidance = start_timestep(schedule, adapter, None), sampling.steps, sampling.text_guidance
    if content is None:
        start, steps, guidance = schedule.timesteps - 1, CONTENT_STEPS, CONTENT_GUIDANCE
    elif adapter.config.start == "content":
        bar = schedule.alpha_bar_at(start)
        x = add_noise(content, x, bar**0.5, (1.0 - bar) ** 0.5)
    return {
        "latents": x.to(pipe.device, pipe.transformer.dtype),
        "timesteps": schedule.sampling_timesteps(start, steps),
        "guidance_scale": guidance,
        "clean_caption": False,
        "max_sequence_length": header["text_tokens"],
        "use_resolution_binning": False,
    }


@contextmanager
def styled(
    transformer: Any,
    adapter: StyleAdapter,
    style: Features,
    content: Features | None = None,
    *,
    style_scale: float = 1.0,
    content_latents: torch.Tensor | None = None,
    caption: Features | None = None,
    num_images_per_prompt: int = 1,
) -> Iterator[None]:
    """Within this block every call of the transformer, by whatever pipeline, draws in the style.

    On leaving, the transformer is as it was. A pipeline that guides on the text doubles its batch; the style is then on
    both halves. Where the drawing begins is the caller's: an adapter of the modes `paired` and `latent` was trained
    from the noised content at its own strength, see `in_style`.

    Args:
        transformer: the pipeline's.
        adapter: made for it.
        style: unit CLIP embeddings [B, D] or [1, D] of the style pictures, one a prompt or one for all; for an adapter
            with token_source patch their patch tokens [B, T, V] or [1, T, V].
        content: unit CLIP embeddings of the content pictures, likewise; None with token_source patch.
        style_scale: factor on every gate, and up to 1 on the content path; 0 is the base model.
        content_latents: scaled latents [B, C, h, w], needed by an adapter of the mode `latent`.
        caption: unit CLIP embeddings of what the style pictures show, for an adapter with `scene_removal`.
        num_images_per_prompt: the pipeline's own; needed where there are several styles.

    Raises:
        RequestError: the adapter needs what is not given, or does not fit the transformer; in the block: the pipeline
            draws another number of pictures.
    """
    if adapter.content is not None and content_latents is None:
        raise RequestError("an adapter of the mode latent needs the content's latents; pass content_latents")
    device = next(transformer.parameters()).device
    adapter = adapter.to(device)
    with torch.no_grad(), attached(transformer, adapter) as attachment:
        style = _on(device, style)
        kept = torch.zeros(len(style), dtype=torch.bool, device=device)  # [B]
        tokens, _ = adapter.style(
            style,
            None if content is None else _on(device, content),
            kept,
            None if caption is None else _on(device, caption),
        )  # [B, N, X]
        rows = _Rows(num_images_per_prompt)

        def set_injection(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            latents = args[0] if args else kwargs["hidden_states"]  # [B, C, h, w]
            rows.read(latents)
            if style_scale == 0.0:
                return  # nothing is added, not even zeros: the base model to the bit
            timesteps = kwargs["timestep"].to(device).expand(len(latents))  # [B]
            patch = transformer.config.patch_size
            cells = (latents.shape[-2] // patch, latents.shape[-1] // patch)
            attachment.slot.injection = adapter.injection(rows.of(tokens), timesteps, cells, style_scale)

        def clear_injection(*_: Any) -> None:
            attachment.slot.injection = None

        def add_content(
            _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            hidden = args[0] if args else kwargs.pop("hidden_states")  # [B, L, I]
            latents = rows.of(content_latents).to(device)  # type: ignore[arg-type]
            return (adapter.with_content(hidden, latents, style_scale), *args[1:]), kwargs

        hooks = [
            transformer.register_forward_pre_hook(set_injection, with_kwargs=True),
            transformer.register_forward_hook(clear_injection, always_call=True),
        ]
        if adapter.content is not None:
            block = transformer.transformer_blocks[adapter.first_block]
            hooks.append(block.register_forward_pre_hook(add_content, with_kwargs=True))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _on(device: torch.device, features: Features) -> torch.Tensor:
    return torch.as_tensor(features).to(device)


class _Rows:
    """Which style belongs to which row of the transformer's batch.

    A pipeline draws the pictures of a prompt one after the other, [p1, p1, p2, p2], and with guidance on the text sends
    that batch twice, one half behind the other.
    """

    def __init__(self, num_images_per_prompt: int) -> None:
        self._per_prompt = num_images_per_prompt
        self._count = 0
        self._guided = False

    def read(self, latents: torch.Tensor) -> None:
        """Take note of a call's batch [B, C, h, w]."""
        self._count = len(latents)
        half = self._count // 2
        # Both halves of a guided batch have the same latents; pictures of their own never have.
        self._guided = self._count % 2 == 0 and torch.equal(latents[:half], latents[half:])

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """A row of the batch for each of `values` [B, …] or [1, …]: [count, …]."""
        if len(values) == 1:
            return values.expand(self._count, *values.shape[1:])
        pictures = values.repeat_interleave(self._per_prompt, dim=0)
        if self._guided and self._count == 2 * len(pictures):
            return pictures.repeat(2, *[1] * (values.ndim - 1))
        if self._count != len(pictures):
            drawn = self._count // 2 if self._guided else self._count
            raise RequestError(
                f"the style is given for {len(values)} prompts of {self._per_prompt} pictures each, the pipeline draws "
                f"{drawn} pictures; give one style, or one a prompt, and pass the pipeline's num_images_per_prompt"
            )
        return pictures
