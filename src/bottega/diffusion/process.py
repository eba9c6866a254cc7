"""The forward process and its way back, for arrays of any kind (NumPy or torch) and coefficients that broadcast.

Legend: x_0 clean, x_t noised, ε standard normal; α = √ᾱ_t, σ = √(1-ᾱ_t); subscript s: at the start of the use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

    from bottega.diffusion.schedule import NoiseSchedule

Array = TypeVar("Array")


def coefficients(
    schedule: NoiseSchedule, timesteps: torch.Tensor, *, dimensions: int = 4
) -> tuple[torch.Tensor, torch.Tensor]:
    """α and σ at each timestep, float32 [B, 1, …] with `dimensions` axes, on the timesteps' device.

    Roots are taken in float64: 1-ᾱ at t = 0 is 1e-4 and loses three digits in float32.
    """
    import torch

    table = torch.from_numpy(schedule.alpha_bar).to(timesteps.device if timesteps.device.type != "mps" else "cpu")
    bar = table[timesteps]  # [B]
    shape = (-1,) + (1,) * (dimensions - 1)
    return bar.sqrt().float().reshape(shape), (1.0 - bar).sqrt().float().reshape(shape)


def add_noise(clean: Array, noise: Array, alpha: Array | float, sigma: Array | float) -> Array:
    """x_t = α x_0 + σ ε. Ho et al. 2020, eq. 4."""
    return alpha * clean + sigma * noise  # type: ignore[operator,return-value]


def effective_noise(
    noise: Array, content: Array, target: Array, alpha_start: Array | float, sigma_start: Array | float
) -> Array:
    """ε̃ = ε + (α_s/σ_s)(z_content - z_target): the noise that makes the noised *content* a noised *target* at the
    start.

    With x_t = α z_target + σ ε̃, the point at t = s is α_s z_content + σ_s ε exactly, and DDIM with a network that
    predicts ε̃ goes from there to z_target. Derived in docs/training-a-style.md.
    """
    return noise + (alpha_start / sigma_start) * (content - target)  # type: ignore[operator,no-any-return]


def prediction_target(
    prediction_type: str, clean: Array, noise: Array, alpha: Array | float, sigma: Array | float
) -> Array:
    """What a network of this prediction type should return: ε, v = αε - σx_0 (Salimans & Ho 2022, app. D), x_0, or the
    velocity u = ε - x_0 of the straight path (Lipman et al. 2023, eq. 23 with the time turned round).
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        return alpha * noise - sigma * clean  # type: ignore[operator,return-value]
    if prediction_type == "sample":
        return clean
    if prediction_type == "flow_prediction":
        return noise - clean  # type: ignore[operator,no-any-return]
    raise RequestError(
        f"prediction_type is epsilon, v_prediction, sample or flow_prediction, received {prediction_type!r}"
    )


def min_snr_weight(prediction_type: str, alpha: torch.Tensor, sigma: torch.Tensor, gamma: float) -> torch.Tensor:
    """What min(SNR, γ) on the error of x̂_0 makes of the error of the network's own target, SNR = (α/σ)².

    ε: min(SNR, γ)/SNR; v: min(SNR, γ)/(SNR + 1); x_0: min(SNR, γ). Hang et al. 2023, arXiv 2303.09556.
    """
    ratio = (alpha / sigma).square()
    capped = ratio.clamp(max=gamma)
    if prediction_type == "epsilon":
        return capped / ratio
    if prediction_type == "v_prediction":
        return capped / (ratio + 1)
    if prediction_type == "sample":
        return capped
    raise RequestError(f"prediction_type is epsilon, v_prediction or sample, received {prediction_type!r}")


def as_epsilon(
    prediction_type: str, prediction: Array, noised: Array, alpha: Array | float, sigma: Array | float
) -> Array:
    """ε from what the network returned at x_t; the inverse of `prediction_target`."""
    if prediction_type == "epsilon":
        return prediction
    if prediction_type == "v_prediction":
        return alpha * prediction + sigma * noised  # type: ignore[operator,return-value]
    if prediction_type == "sample":
        return (noised - alpha * prediction) / sigma  # type: ignore[operator,return-value]
    raise RequestError(f"prediction_type is epsilon, v_prediction or sample, received {prediction_type!r}")


def clean_estimate(noised: Array, epsilon: Array, alpha: Array | float, sigma: Array | float) -> Array:
    """x̂_0 = (x_t - σ ε) / α. Song et al. 2021, eq. 9."""
    return (noised - sigma * epsilon) / alpha  # type: ignore[operator,return-value]


def ddim_step(noised: Array, epsilon: Array, alpha_bar: float, alpha_bar_next: float) -> Array:
    """One deterministic step (η = 0) from ᾱ to a less noisy ᾱ'. Song et al. 2021, eq. 12.

    x' = α' x̂_0 + σ' ε; with ᾱ' = 1 it returns x̂_0. Coefficients are computed in float64 before they meet the array.
    """
    alpha, sigma = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
    alpha_next, sigma_next = alpha_bar_next**0.5, (1.0 - alpha_bar_next) ** 0.5
    ratio = alpha_next / alpha
    return ratio * noised + (sigma_next - ratio * sigma) * epsilon  # type: ignore[no-any-return]
