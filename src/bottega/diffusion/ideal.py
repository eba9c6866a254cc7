"""The best that a network could do: the closed-form denoiser of a finite set of pictures, and the floor of the loss.

Legend: N pictures of D values each, B noised ones; the set is the whole distribution.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch

from bottega.diffusion.predictions import convert, error_scale
from bottega.diffusion.process import add_noise
from bottega.diffusion.schedule import NoiseSchedule
from bottega.runtime.errors import RequestError


class IdealDenoiser:
    """E[prediction | x_t] where x_0 is one of N pictures, all equally likely: what training tends to.

    E[x_0|x_t] = Σ_i w_i x_i with w = softmax(-|x_t - αx_i|²/2σ²). Karras et al. 2022, app. B.3. Computed in float64,
    for at small σ the exponents are millions apart.

    Called as a network is: (x [B, …], timesteps int64 [B]) -> what the schedule's prediction type names, [B, …].

    Args:
        schedule: of the training.
        pictures: [N, …], finite.
    """

    def __init__(self, schedule: NoiseSchedule, pictures: torch.Tensor) -> None:
        if len(pictures) < 1:
            raise RequestError("the ideal denoiser needs at least one picture, received none")
        self.schedule = schedule
        self.flat = pictures.detach().double().flatten(1)  # [N, D]
        self.squares = self.flat.square().sum(1)  # [N]

    def clean(self, x: torch.Tensor, timesteps: torch.Tensor, among: torch.Tensor | None = None) -> torch.Tensor:
        """E[x_0 | x_t], float64 [B, …], of noised x [B, …].

        among: bool [B, N], the pictures that each x may come from; None: all.
        """
        flat = x.double().flatten(1)  # [B, D]
        alpha, sigma = self.schedule.coefficients(timesteps, flat)  # [B, 1]
        # |x|² is the same for all i and leaves the softmax as it is
        logits = (alpha * (flat @ self.flat.T) - 0.5 * alpha**2 * self.squares) / sigma**2  # [B, N]
        if among is not None:
            logits = logits.masked_fill(~among, -torch.inf)
        return (logits.softmax(dim=1) @ self.flat).reshape(x.shape)

    def __call__(self, x: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """What a perfectly trained network would return."""
        noised = x.double()
        alpha, sigma = self.schedule.coefficients(timesteps, noised)
        clean = self.clean(x, timesteps)
        return convert("sample", self.schedule.prediction_type, clean, noised, alpha, sigma).to(x.dtype)


@torch.no_grad()
def loss_floor(
    schedule: NoiseSchedule,
    pictures: torch.Tensor,
    noise: torch.Tensor,
    *,
    bins: int = 10,
    prediction_type: str | None = None,
    captions: torch.Tensor | None = None,
) -> npt.NDArray[np.float64]:
    """The least mean squared error that any network can reach on this set, by timestep bin.

    Monte Carlo: in every bin the m-th noise meets picture m mod N at the m-th of M timesteps that are spread evenly
    over the bin. The mean over bins of equal size is the floor of a training with uniform timesteps.

    Args:
        schedule: of the training.
        pictures: [N, …].
        noise: standard normal, [M, …].
        bins: bin b holds the timesteps with ⌊t·bins/T⌋ = b.
        prediction_type: in whose units; the schedule's own by default. epsilon makes runs of any type comparable.
        captions: int64 [N], equal for pictures of the same caption, where the network is given it: it then has to tell
            apart only those.

    Returns:
        float64 [bins]; exactly 0 for one picture.

    Raises:
        RequestError: shapes that do not match, or more bins than timesteps.
    """
    if noise.shape[1:] != pictures.shape[1:] or len(noise) < 1:
        raise RequestError(f"noise has the pictures' shape, {[*pictures.shape[1:]]}, received {[*noise.shape]}")
    if not 1 <= bins <= schedule.timesteps:
        raise RequestError(f"the timesteps are put into 1 … {schedule.timesteps} bins, received {bins}")
    ideal = IdealDenoiser(schedule, pictures)
    draws = len(noise)
    which = torch.arange(draws, device=pictures.device) % len(pictures)  # [M]
    clean = pictures.double()[which]  # [M, …]
    # A network that reads the caption need not tell apart pictures of other captions: without this the loss of a
    # text-to-image training lay below its own floor, 0.019 and 0.055 (docs/log.md).
    among = None if captions is None else captions[which, None] == captions  # [M, N]
    # Rounded up: bin b begins at the first t with ⌊t·bins/T⌋ = b.
    edges = [-(-b * schedule.timesteps // bins) for b in range(bins + 1)]
    floors = np.empty(bins)
    for b, (first, end) in enumerate(itertools.pairwise(edges)):
        timesteps = first + torch.arange(draws, device=pictures.device) * (end - first) // draws
        alpha, sigma = schedule.coefficients(timesteps, clean)
        noised = add_noise(clean, noise.to(clean), alpha, sigma)
        scale = error_scale(prediction_type or schedule.prediction_type, alpha, sigma)
        floors[b] = float((scale * (ideal.clean(noised, timesteps, among) - clean)).square().mean())
    return floors
