"""Attaches a StyleAdapter to a stock transformer and removes it again without a trace.

Each adapted block's `attn2` gets a processor that calls the one it replaces and adds the style branch. The adapter's
parameters do not become the transformer's, so its state_dict, dtype and device stay its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from bottega.runtime.errors import RequestError
from bottega.student.adapter import Geometry, Injection, StyleAdapter, StyleLayer


class InjectionSlot:
    """Where the attached layers read what to add; while it is empty, they add nothing."""

    def __init__(self) -> None:
        self.injection: Injection | None = None


class StyleProcessor:
    """An attention processor: what the block's own one returns, plus the style branch."""

    def __init__(self, base: Any, layer: StyleLayer, slot: InjectionSlot) -> None:
        self.base = base
        self.layer = layer
        self.slot = slot

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """hidden_states [B, L, I] -> [B, L, I]; other arguments go to the block's own processor."""
        own: torch.Tensor = self.base(attn, hidden_states, *args, **kwargs)
        if self.slot.injection is None:
            return own
        styled: torch.Tensor = own + self.layer(attn, hidden_states, self.slot.injection)
        return styled


class Attachment:
    """An adapter attached to a transformer; `detach` restores the very processors that were there.

    Raises:
        RequestError: the adapter was made for another transformer, or one is attached already.
    """

    def __init__(self, transformer: Any, adapter: StyleAdapter) -> None:
        check_fit(transformer, adapter)
        self.adapter = adapter
        self.slot = InjectionSlot()
        self._attentions = [transformer.transformer_blocks[i].attn2 for i in adapter.blocks]
        if any(isinstance(attention.processor, StyleProcessor) for attention in self._attentions):
            raise RequestError("a StyleAdapter is attached to this transformer already; detach it first")
        self._originals = [attention.processor for attention in self._attentions]
        for attention, layer in zip(self._attentions, adapter.style_layers(), strict=True):
            attention.processor = StyleProcessor(attention.processor, layer, self.slot)

    def detach(self) -> None:
        """Put the original processors back; a second call does nothing."""
        for attention, original in zip(self._attentions, self._originals, strict=True):
            attention.processor = original
        self._attentions = []
        self._originals = []

    @contextmanager
    def injecting(self, injection: Injection | None) -> Iterator[None]:
        """Within this block the adapted layers add `injection`, or nothing for None."""
        before = self.slot.injection
        self.slot.injection = injection
        try:
            yield
        finally:
            self.slot.injection = before


@contextmanager
def attached(transformer: Any, adapter: StyleAdapter) -> Iterator[Attachment]:
    """The adapter is attached within this block, and detached however the block ends."""
    attachment = Attachment(transformer, adapter)
    try:
        yield attachment
    finally:
        attachment.detach()


def check_fit(transformer: Any, adapter: StyleAdapter) -> None:
    """Raise RequestError, naming the value, when the adapter was made for another transformer."""
    made = adapter.geometry
    # What a transformer does not say, timesteps and CLIP's sizes, is taken from the adapter and so always fits.
    found = Geometry.of(transformer, made.timesteps, made.clip_width, made.clip_tokens, made.clip_token_width)
    here = asdict(found)
    for name, value in asdict(made).items():
        if value != here[name]:
            raise RequestError(
                f"the adapter was made for a transformer with {name} {value}, this one has {here[name]}; load the "
                f"model that the adapter's header names"
            )
