"""A trained adapter in diffusers' own PixArtAlphaPipeline: a few lines, shown in docs/training-a-style.md."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from bottega.runtime.errors import RequestError
from bottega.student.adapter import StyleAdapter
from bottega.student.attach import attached


@contextmanager
def styled(
    transformer: Any,
    adapter: StyleAdapter,
    style: torch.Tensor,
    content: torch.Tensor | None = None,
    *,
    style_scale: float = 1.0,
    content_latents: torch.Tensor | None = None,
    caption: torch.Tensor | None = None,
) -> Iterator[None]:
    """Within this block every call of the transformer, by whatever pipeline, draws in the style.

    On leaving, the transformer is as it was. A pipeline that guides on the text doubles its batch; the style is then on
    both halves.

    Args:
        transformer: the pipeline's.
        adapter: made for it.
        style: unit CLIP embeddings [B, D] or [1, D] of the style pictures; for an adapter with token_source patch their
            patch tokens [B, T, V] or [1, T, V].
        content: unit CLIP embeddings of the content pictures, likewise; None with token_source patch.
        style_scale: factor on every gate.
        content_latents: scaled latents [B, C, h, w], needed by an adapter of the mode `latent`.
        caption: unit CLIP embeddings of what the style pictures show, for an adapter with `scene_removal`.

    Raises:
        RequestError: the adapter needs what is not given, or does not fit the transformer.
    """
    if adapter.content is not None and content_latents is None:
        raise RequestError("an adapter of the mode latent needs the content's latents; pass content_latents")
    device = next(transformer.parameters()).device
    adapter = adapter.to(device)
    with torch.no_grad(), attached(transformer, adapter) as attachment:
        kept = torch.zeros(len(style), dtype=torch.bool, device=device)  # [B]
        content = None if content is None else content.to(device)
        caption = None if caption is None else caption.to(device)
        tokens, _ = adapter.style(style.to(device), content, kept, caption)  # [B, N, X]

        def set_injection(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            latents = args[0] if args else kwargs["hidden_states"]  # [B, C, h, w]
            timesteps = kwargs["timestep"].to(device).expand(len(latents))  # [B]
            patch = transformer.config.patch_size
            cells = (latents.shape[-2] // patch, latents.shape[-1] // patch)
            attachment.slot.injection = adapter.injection(
                _repeated(tokens, len(latents)), timesteps, cells, style_scale
            )

        def clear_injection(*_: Any) -> None:
            attachment.slot.injection = None

        def add_content(
            _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            hidden = args[0] if args else kwargs.pop("hidden_states")  # [B, L, I]
            latents = _repeated(content_latents, len(hidden)).to(device)  # type: ignore[arg-type]
            added = adapter.content(latents)  # type: ignore[misc]
            return (hidden + added.to(hidden.dtype), *args[1:]), kwargs

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


def _repeated(x: torch.Tensor, count: int) -> torch.Tensor:
    """x [B, …] for a batch of `count`: [count, …], as a pipeline repeats its conditions."""
    if count % len(x):
        raise RequestError(
            f"the style is given for {len(x)} pictures, the pipeline draws {count}; give one, or one a picture"
        )
    return x.repeat(count // len(x), *[1] * (x.ndim - 1))
