"""The learned eye's network in torch, for its training; `bottega.quality.eye.network` is the same in NumPy."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bottega.quality.damage import CAUSES
from bottega.quality.eye.inputs import NUM_CELL, NUM_PICTURE
from bottega.quality.eye.network import NORM_EPSILON, TOP_CELLS

WIDTH = 64
HIDDEN = 128


class EyeNetwork(nn.Module):
    """Cells and picture in, verdicts out; all names are those of the weight file.

    Args:
        width: channels of a cell.
        dropout: of what the verdict is made of.
    """

    def __init__(self, width: int = WIDTH, dropout: float = 0.15) -> None:
        super().__init__()
        self.cells = nn.Linear(NUM_CELL, width)
        self.picture1 = nn.Linear(NUM_PICTURE, HIDDEN)
        self.picture2 = nn.Linear(HIDDEN, width)
        self.near1 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mixed1 = nn.Linear(2 * width, width)
        self.context = nn.Linear(3 * width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.near2 = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mixed2 = nn.Linear(2 * width, width)
        self.mixed3 = nn.Linear(width, width)
        self.cell_verdict = nn.Linear(width, 1)
        self.verdict1 = nn.Linear(3 * width + 1 + len(TOP_CELLS), HIDDEN)
        self.verdict2 = nn.Linear(HIDDEN, 2 + len(CAUSES))
        self.dropout = nn.Dropout(dropout)

    def forward(self, cells: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """[B, G, G, NUM_CELL] and [B, NUM_PICTURE] -> logits of cells [B, G, G]; of the picture its logit, the
        log of its distance, and the logits of causes, [B, 2 + C]."""
        whole = self.picture2(functional.relu(self.picture1(picture)))
        hidden = functional.relu(self.cells(cells) + whole[:, None, None])

        hidden = hidden + functional.relu(self.mixed1(self._with_near(self.near1, hidden)))
        pooled = torch.cat([hidden.mean((1, 2)), hidden.amax((1, 2)), hidden.std((1, 2), correction=0)], -1)
        hidden = self.norm(hidden + self.context(pooled)[:, None, None])
        hidden = hidden + functional.relu(self.mixed2(self._with_near(self.near2, hidden)))
        hidden = hidden + functional.relu(self.mixed3(hidden))

        logits = self.cell_verdict(hidden)[..., 0]
        flat = logits.flatten(1)
        worst = flat.topk(max(TOP_CELLS), dim=1).values
        shares = [flat.mean(1)]
        for count in TOP_CELLS:
            shares.append(worst[:, :count].mean(1))
        summary = torch.cat([hidden.mean((1, 2)), hidden.amax((1, 2)), whole, torch.stack(shares, -1)], -1)
        verdict = self.verdict2(self.dropout(functional.relu(self.verdict1(summary))))
        return logits, verdict

    @staticmethod
    def _with_near(layer: nn.Conv2d, hidden: Tensor) -> Tensor:
        """Each cell and a weighted sum of its neighbourhood, [B, G, G, 2 W].

        A sum for each channel by itself: a full 3 x 3 convolution took four times as long and found no more.
        """
        near: Tensor = layer(hidden.permute(0, 3, 1, 2))
        return torch.cat([hidden, near.permute(0, 2, 3, 1)], -1)
