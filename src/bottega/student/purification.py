"""Style Purification: what a style's CLIP embedding says of pictures, not of style, is taken out of it.

    s  ← unit(s - γ_t t)      t: the caption of the style picture, what that picture shows
    s' = unit(s - γ_c c)      c: the content picture

either with γ = s·t or s·c (projection: nothing of it is left) or with a learned share γ (gated subtraction); all in
CLIP's one joint space, centred and normalised. Legend: B samples, D width of the joint space. Pooled hidden states or
patch tokens live elsewhere and must not be mixed in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from bottega.student.config import AdapterConfig

FEWEST = 16
"""Embeddings that a mean is taken of at least: the mean of two pictures makes them opposites, whatever they show."""


class Removal(nn.Module):
    """s' = unit(s - g v) with a learned g, or s' = unit(s - (s·v) v); v centred and unit before.

    kind: none, projection or gated_subtraction. width: D. gate: the share g at the start, in (0, 1).
    centred: the mean of such embeddings is subtracted first (`fit_centre`). CLIP's embeddings lie in a narrow cone, one
    for pictures and another for texts, so that uncentred the direction is mostly what all of them have in common.
    """

    centre: torch.Tensor

    def __init__(self, kind: str, width: int, gate: float, centred: bool) -> None:
        super().__init__()
        self.kind = kind
        self.centred = centred
        self.register_buffer("centre", torch.zeros(width))
        if kind == "gated_subtraction":
            self.gate_logit = nn.Parameter(torch.tensor(math.log(gate / (1 - gate))))

    def fit_centre(self, embeddings: torch.Tensor) -> None:
        """Take the mean of unit embeddings [N, D] as the centre; without `centred`, or from a handful, it stays 0."""
        if self.centred and len(embeddings) >= FEWEST:
            self.centre.copy_(F.normalize(embeddings.float(), dim=-1).mean(dim=0))

    def gate(self) -> float | None:
        """The learned share g, or None where there is none."""
        return float(torch.sigmoid(self.gate_logit.detach())) if self.kind == "gated_subtraction" else None

    def prepare(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, D], centred and unit; a row of noughts, "not known", stays one."""
        known = embeddings.abs().amax(dim=-1, keepdim=True) > 0
        return F.normalize(F.normalize(embeddings.float(), dim=-1) - self.centre, dim=-1) * known

    def forward(self, style: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """style, unit [B, D]; direction [B, D] as `prepare` gives it -> style without it, unit [B, D]."""
        if self.kind == "none":
            return style
        gated = self.kind == "gated_subtraction"
        share = torch.sigmoid(self.gate_logit) if gated else cosine(style, direction)[:, None]
        return F.normalize(style - share * direction, dim=-1)


class Purification(Removal):
    """The content picture is taken out of the style, and before it, where it is asked for, the style picture's caption.

    With `scene` a `Removal` of captions, its centre that of captions.
    """

    def __init__(self, kind: str, width: int, gate: float, centred: bool, scene: Removal | None = None) -> None:
        super().__init__(kind, width, gate, centred)
        self.scene = scene

    @classmethod
    def of(cls, config: AdapterConfig, width: int) -> Purification:
        """As an adapter's configuration says; width: D."""
        scene = None
        if config.scene_removal != "none":
            scene = Removal(config.scene_removal, width, config.purification_gate, config.centre)
        return cls(config.purification, width, config.purification_gate, config.centre, scene)

    def purify(
        self, style: torch.Tensor, content: torch.Tensor, caption: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Embeddings [B, D] of style picture, content picture and style picture's caption; noughts where not known.

        Returns the purified style, unit [B, D], and cosines [B] with the content (and with the caption) by the names
        they have in the log: cosine_before, cosine_after (scene_before, scene_after).
        """
        s, c = self.prepare(style), self.prepare(content)
        cosines = {"cosine_before": cosine(s, c)}
        purified = s
        if self.scene is not None:
            t = self.scene.prepare(torch.zeros_like(style) if caption is None else caption)
            purified = self.scene(s, t)
        purified = self(purified, c)
        cosines["cosine_after"] = cosine(purified, c)
        if self.scene is not None:
            cosines |= {"scene_before": cosine(s, t), "scene_after": cosine(purified, t)}
        return purified, {name: value.detach() for name, value in cosines.items()}


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Inner products of unit vectors [B, D], [B]."""
    return (one * other).sum(dim=-1)
