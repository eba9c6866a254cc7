"""The forward process and its way back, for arrays of any kind (NumPy or torch) and coefficients that broadcast.

Legend: x_0 clean, x_t noised, ε standard normal; α = √ᾱ_t, σ = √(1-ᾱ_t); subscript s: at the timestep where img2img
starts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

Array = TypeVar("Array")


def add_noise(clean: Array, noise: Array, alpha: Any, sigma: Any) -> Array:
    """x_t = α x_0 + σ ε. Ho et al. 2020, eq. 4."""
    noised: Array = alpha * clean + sigma * noise
    return noised


def effective_noise(noise: Array, content: Array, target: Array, alpha_start: Any, sigma_start: Any) -> Array:
    """ε̃ = ε + (α_s/σ_s)(z_content - z_target): at the start, the noised *content* is a *target* noised by ε̃.

    With x_t = α z_target + σ ε̃, the point at t = s is α_s z_content + σ_s ε exactly, and DDIM with a network that
    predicts ε̃ goes from there to z_target. Derived in docs/training-a-style.md.
    """
    difference: Any = content - target  # type: ignore[operator]
    effective: Array = noise + (alpha_start / sigma_start) * difference
    return effective


def prediction_target(prediction_type: str, clean: Array, noise: Array, alpha: Any, sigma: Any) -> Array:
    """What a network of this prediction type should return.

    ε; v = αε - σx_0 (Salimans & Ho 2022, app. D); x_0; or the velocity u = ε - x_0 of the straight path (Lipman et al.
    2023, eq. 23 with time reversed).
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        velocity: Array = alpha * noise - sigma * clean
        return velocity
    if prediction_type == "sample":
        return clean
    if prediction_type == "flow_prediction":
        return noise - clean  # type: ignore[operator,no-any-return]
    raise RequestError(
        f"prediction_type is epsilon, v_prediction, sample or flow_prediction, received {prediction_type!r}"
    )


def min_snr_weight(prediction_type: str, alpha: torch.Tensor, sigma: torch.Tensor, gamma: float) -> torch.Tensor:
    """The factor on the squared error of the network's own target that makes min(SNR, γ) on that of x̂_0.

    SNR = (α/σ)². ε: min(SNR, γ)/SNR; v: min(SNR, γ)/(SNR + 1); x_0: min(SNR, γ). Hang et al. 2023, arXiv 2303.09556.
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


def as_epsilon(prediction_type: str, prediction: Array, noised: Array, alpha: Any, sigma: Any) -> Array:
    """ε from what the network returned at x_t where α² + σ² = 1; the inverse of `prediction_target`.

    `predictions.to_noise` does the same for every schedule, but divides v by α² + σ², which costs the last bit.
    """
    if prediction_type == "epsilon":
        return prediction
    epsilon: Array
    if prediction_type == "v_prediction":
        epsilon = alpha * prediction + sigma * noised
    elif prediction_type == "sample":
        epsilon = (noised - alpha * prediction) / sigma
    else:
        raise RequestError(f"prediction_type is epsilon, v_prediction or sample, received {prediction_type!r}")
    return epsilon


def clean_estimate(noised: Array, epsilon: Array, alpha: Any, sigma: Any) -> Array:
    """x̂_0 = (x_t - σ ε) / α. Song et al. 2021, eq. 9."""
    clean: Array = (noised - sigma * epsilon) / alpha
    return clean


def ddim_step(noised: Array, epsilon: Array, alpha_bar: float, alpha_bar_next: float) -> Array:
    """One deterministic step (η = 0) from ᾱ to a less noisy ᾱ'. Song et al. 2021, eq. 12.

    x' = α' x̂_0 + σ' ε; with ᾱ' = 1 it returns x̂_0. Coefficients are computed in float64 before they meet the array.
    """
    alpha, sigma = alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5
    alpha_next, sigma_next = alpha_bar_next**0.5, (1.0 - alpha_bar_next) ** 0.5
    ratio = alpha_next / alpha
    result: Any = ratio * noised + (sigma_next - ratio * sigma) * epsilon
    return result  # type: ignore[no-any-return]
