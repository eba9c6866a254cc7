"""Style purification: what a style's CLIP embedding says about content, not style, is taken out of it.

    s  ← unit(s - γ_t t)      t: the caption of the style picture, what that picture shows
    s' = unit(s - γ_c c)      c: the content picture

either with γ = s·t or s·c (projection: nothing of it is left) or with a learned share γ (gated subtraction). All of it
is in CLIP's joint space, centred and normalised; pooled hidden states and patch tokens lie in other spaces, so they
must not be mixed in.

Legend: B samples, D width of the joint space.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from bottega.student.config import AdapterConfig

MIN_EMBEDDINGS = 16
"""For a mean: subtracting the mean of two pictures makes them opposites, whatever they show."""


class Removal(nn.Module):
    """s' = unit(s - g v) with a learned g, or s' = unit(s - (s·v) v); v centred and unit before.

    Args:
        kind: none, projection or gated_subtraction.
        width: D.
        gate: the share g at the start, in (0, 1).
        centred: whether the mean of such embeddings is subtracted first (`fit_centre`). CLIP's embeddings lie in a
            narrow cone, one for pictures and another for texts; without the mean subtracted, the direction is mostly
            what all of them have in common.
    """

    centre: torch.Tensor

    def __init__(self, kind: str, width: int, gate: float, centred: bool) -> None:
        super().__init__()
        self.kind = kind
        self.centred = centred
        self.register_buffer("centre", torch.zeros(width))  # [D]; in the state, so saved
        if kind == "gated_subtraction":
            self.gate_logit = nn.Parameter(torch.tensor(math.log(gate / (1 - gate))))  # the sigmoid of this is `gate`

    def fit_centre(self, embeddings: torch.Tensor) -> None:
        """Take the mean of unit embeddings [N, D] as the centre; without `centred`, or from too few, it stays 0."""
        if self.centred and len(embeddings) >= MIN_EMBEDDINGS:
            self.centre.copy_(F.normalize(embeddings.float(), dim=-1).mean(dim=0))

    def gate(self) -> float | None:
        """The learned share g, or None where there is none."""
        return float(torch.sigmoid(self.gate_logit.detach())) if self.kind == "gated_subtraction" else None

    def prepare(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, D], centred and unit; a row of zeros, "not known", stays zero."""
        known = embeddings.abs().amax(dim=-1, keepdim=True) > 0
        return F.normalize(F.normalize(embeddings.float(), dim=-1) - self.centre, dim=-1) * known

    def forward(self, style: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
        """style, unit [B, D]; direction [B, D] as `prepare` gives it -> style without it, unit [B, D]."""
        if self.kind == "none":
            return style
        if self.kind == "gated_subtraction":
            share = torch.sigmoid(self.gate_logit)  # one for all samples
        else:
            share = cosine(style, direction)[:, None]  # [B, 1]
        return F.normalize(style - share * direction, dim=-1)


class Purification(Removal):
    """Takes the content picture out of the style, and before it, where that is asked for, the style picture's caption.

    Args:
        kind, width, gate, centred: of the content's removal, see `Removal`.
        scene: the captions' removal, with a centre of its own; None for none.
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
        """Purify styles.

        Args:
            style: embeddings [B, D] of the style pictures.
            content: of the content pictures.
            caption: of what the style pictures show; zeros where not known.

        Returns:
            The purified style, unit [B, D], and cosines [B] with the content (and with the caption) by their names in
            the log: cosine_before, cosine_after (scene_before, scene_after).
        """
        s = self.prepare(style)  # [B, D]
        c = self.prepare(content)  # [B, D]
        if self.scene is None:
            purified = self(s, c)
            cosines = {"cosine_before": cosine(s, c), "cosine_after": cosine(purified, c)}
        else:
            t = self.scene.prepare(torch.zeros_like(style) if caption is None else caption)  # [B, D]
            purified = self(self.scene(s, t), c)
            cosines = {
                "cosine_before": cosine(s, c),
                "cosine_after": cosine(purified, c),
                "scene_before": cosine(s, t),
                "scene_after": cosine(purified, t),
            }
        return purified, {name: value.detach() for name, value in cosines.items()}


def cosine(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Inner products of unit vectors [B, D], [B]."""
    return (one * other).sum(dim=-1)
