"""Style Purification: the content picture's CLIP embedding is taken out of the style's, in the one joint space.

Legend: B samples, D width of CLIP's joint space. All embeddings are unit vectors there; pooled hidden states or patch
tokens live elsewhere and must not be mixed in.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

FEWEST = 16
"""Embeddings that a mean is taken of at least: the mean of two pictures makes them opposites, whatever they show."""


class Purification(nn.Module):
    """s' = unit(s - g c) with a learned gate g, or s' = unit(s - (s·c) c); s and c centred and unit before.

    kind: none, projection or gated_subtraction. width: D. gate: the share g at the start, in (0, 1).
    centred: a mean embedding is subtracted first (`fit_centre`). CLIP's embeddings lie in a narrow cone, so that
    uncentred the content's direction is mostly what all pictures have in common.
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

    def forward(self, style: torch.Tensor, content: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """style, content [B, D] -> purified style, unit [B, D]; cosine of style and content before and after, [B]."""
        s, c = self._prepare(style), self._prepare(content)
        before = (s * c).sum(dim=-1)
        if self.kind == "projection":
            purified = F.normalize(s - before[:, None] * c, dim=-1)
        elif self.kind == "gated_subtraction":
            purified = F.normalize(s - torch.sigmoid(self.gate_logit) * c, dim=-1)
        else:
            purified = s
        return purified, before.detach(), (purified * c).sum(dim=-1).detach()

    def _prepare(self, embedding: torch.Tensor) -> torch.Tensor:
        return F.normalize(F.normalize(embedding.float(), dim=-1) - self.centre, dim=-1)
