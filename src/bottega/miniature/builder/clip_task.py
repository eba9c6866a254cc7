"""The long training of CLIP's picture tower: it learns the palettes of thousands of painters.

The short training (`learn_encoders.learn_clip`) knows 480 painters. From what it says of a painting by anybody else,
the four colours of the palette were read 10 ΔE wrong, and neither IP-Adapter nor StyleAdapter can paint with colours
that they are not given. Here each picture has a painter of its own. The text encoders are frozen, so that nothing that
reads captions changes; the contrast with them keeps the tower in the joint space.

Dimensions: B batch, P painters, D width of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from bottega.miniature.builder.corpus import Corpus
from bottega.miniature.builder.encoding import to_clip
from bottega.miniature.builder.learn_encoders import StyleHead, StyleReading, both_ways, style_captions
from bottega.miniature.builder.precision import autocast
from bottega.miniature.builder.trainer import MicrobatchLosses
from bottega.runtime.seeds import numpy_rng

BATCH = 80
FACTS_WEIGHT = 4.0  # beside a contrast of about 2.5 and a cross entropy of the kind: colours are what is missing
_CHUNK = 80  # pictures embedded at a time


class CLIPTask:
    """The picture tower, its projection, and a head that reads painters from embeddings.

    Args:
        clip: CLIP whose picture tower is trained.
        second: SDXL's second text encoder, frozen.
        tokenizer: of both text encoders.
        corpus: one picture by each of many painters.
        held_out: pictures by painters who are in no corpus, for measurements.
    """

    name = "clip"

    def __init__(self, clip: Any, second: Any, tokenizer: Any, corpus: Corpus, held_out: Corpus) -> None:
        torch.manual_seed(7)
        self.clip, self.second, self.tokenizer = clip, second, tokenizer
        self.corpus, self.held_out = corpus, held_out
        clip.requires_grad_(False)
        second.requires_grad_(False)
        clip.vision_model.requires_grad_(True)
        clip.visual_projection.requires_grad_(True)
        self.head = StyleHead(corpus)
        self.modules: Mapping[str, torch.nn.Module] = {
            "vision": clip.vision_model,
            "projection": clip.visual_projection,
            "head": self.head,
        }

    def microbatches(self, step: int) -> Sequence[Callable[[], MicrobatchLosses]]:
        """One part."""
        return [lambda: self._losses(step)]

    def _losses(self, step: int) -> MicrobatchLosses:
        """Pictures against their captions, and what the head reads of painters."""
        rng = numpy_rng("miniature clip, long", step)
        rows = rng.choice(len(self.corpus), size=min(BATCH, len(self.corpus)), replace=False)
        pictures, captions = style_captions(self.corpus, rows, rng)
        with autocast():
            seen = F.normalize(self._project(pictures), dim=-1).float()  # [B, D]
        scale = self.clip.logit_scale.exp().clamp(max=60)
        first, second = self._read(captions)
        losses = {"first": both_ways(scale, seen, first), "second": both_ways(scale, seen, second)}
        painted = np.arange(len(rows)) % 4 > 0
        kind, facts = self.head.losses(seen[torch.from_numpy(painted)], rows[painted])
        losses["kind"] = kind
        losses["facts"] = FACTS_WEIGHT * facts
        return MicrobatchLosses(losses, len(rows))

    @torch.no_grad()
    def measure(self) -> Mapping[str, float]:
        """Of paintings by painters held out: the kinds read right, and how far the colours are off, in ΔE."""
        parts = []
        for start in range(0, len(self.held_out), _CHUNK):
            seen = self._project(self.held_out.painted[start : start + _CHUNK])
            parts.append(self.head.read(F.normalize(seen, dim=-1)))
        read = StyleReading.joined(parts)
        right = self.head.answers(self.held_out)
        away = np.linalg.norm(read.palettes - right.palettes, axis=-1)  # [N, 4]
        return {"clip_kind": float((read.kinds == right.kinds).mean()), "clip_palette": float(away.mean())}

    def _project(self, pictures: npt.NDArray[np.uint8]) -> torch.Tensor:
        """Pictures [B, H, W, 3] -> embeddings [B, D], not normalised."""
        pooled = self.clip.vision_model(pixel_values=to_clip(pictures)).pooler_output
        projected: torch.Tensor = self.clip.visual_projection(pooled)
        return projected

    @torch.no_grad()
    def _read(self, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """What both text encoders make of captions, [B, D] each."""
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        with autocast():
            states = self.clip.text_model(input_ids=tokens.input_ids).pooler_output
            first = self.clip.text_projection(states)
            second = self.second(input_ids=tokens.input_ids).text_embeds
        return first.float(), second.float()
