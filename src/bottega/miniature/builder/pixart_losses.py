"""What PixArt's training minimises beside the error of its prediction.

Dimensions: B batch, C latent channels, H W latent sides, L tokens, D width, T timesteps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

READ_AFTER = 6  # block of the transformer from which the classes of the cells are read in training
IGNORED = -100  # a label that cross entropy passes over: Fill50K has no classes of cells


class CellReader:
    """Reads the class of each latent cell from the tokens of a middle block, so that shapes are learned there."""

    def __init__(self, transformer: Any, classes: int) -> None:
        self.side = transformer.config.patch_size  # cells a side of one token
        self.linear = torch.nn.Linear(transformer.inner_dim, classes * self.side**2)
        self.states: list[torch.Tensor] = []
        transformer.transformer_blocks[READ_AFTER].register_forward_hook(self._keep)

    def _keep(self, _module: torch.nn.Module, _inputs: Any, states: torch.Tensor) -> None:
        self.states.append(states)

    def loss(self, labels: torch.Tensor) -> torch.Tensor:
        """Cross entropy of the classes read from the last forward pass; labels [B, H, W]."""
        states = self.states.pop()  # [B, L, D]
        read = self.linear(states)
        tokens = labels.shape[-1] // self.side  # a side
        read = read.view(len(states), tokens, tokens, self.side, self.side, -1)
        read = read.permute(0, 5, 1, 3, 2, 4).reshape(len(states), -1, *labels.shape[1:])  # [B, classes, H, W]
        return F.cross_entropy(read, labels, ignore_index=IGNORED)


def variational_bound(
    guess: torch.Tensor, variance: torch.Tensor, noise: torch.Tensor, t: torch.Tensor, alpha_bar: torch.Tensor
) -> torch.Tensor:
    """KL between the true and the model's step to t−1, in bits a dimension, t > 0 (arXiv 2102.09672, eqs. 4 and 15).

    The difference of the means is that of the noises times β_t / (√α_t σ_t); the model's log variance lies between
    log β̃_t and log β_t at the share (v + 1)/2.

    Args:
        guess: ε̂, [B, C, H, W]; detach it, so that the bound moves the variance alone.
        variance: v in about -1…1, [B, C, H, W].
        noise: ε, [B, C, H, W].
        t: timesteps, [B].
        alpha_bar: float64 [T].
    """
    before = torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])  # ᾱ_{t−1}; 1 before the first
    previous = before[t].view(-1, 1, 1, 1)
    now = alpha_bar[t].view(-1, 1, 1, 1)
    beta = 1 - now / previous
    posterior = (beta * (1 - previous) / (1 - now)).clamp(min=1e-10)
    share = (variance.double() + 1) / 2
    log_model = share * beta.log() + (1 - share) * posterior.log()
    difference = (guess - noise).double() * beta / ((1 - beta).sqrt() * (1 - now).sqrt())
    ratio = posterior.log() - log_model
    divergence = 0.5 * (ratio.exp() - ratio - 1 + difference.square() * (-log_model).exp())
    counted = (t > 0).double().view(-1, 1, 1, 1)
    nats = (divergence * counted).mean()
    bound: torch.Tensor = (nats / math.log(2)).float()
    return bound
