"""Student's t for degrees of freedom that are no whole numbers, as Satterthwaite's are; scipy is no dependency.

With t = sqrt(nu) / tan ψ the tail becomes an integral of a power of a sine, smooth enough for Gauss and Legendre's
points:

    P(T > t) = Γ((nu + 1) / 2) / (Γ(nu / 2) · sqrt(pi)) · integral of sin(φ)^(nu - 1) from 0 to ψ

Tests compare both functions with scipy's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)
_HALVINGS = 44  # of a quarter turn, to 1e-13

_MOST_FREEDOM = 1e4
"""Above it the normal distribution is meant, whose quantiles differ by less than 1e-3 of their size."""


def two_sided(t: npt.ArrayLike, freedom: npt.ArrayLike) -> Floats:
    """P(|T| > |t|) of Student's t: the p-value of a mean that lies `t` standard errors from 0.

    Args:
        t: any shape.
        freedom: degrees of freedom, at least 1, of a shape that fits `t`.
    """
    nu = _clipped(freedom)
    t, nu = np.broadcast_arrays(np.abs(np.asarray(t, dtype=np.float64)), nu)
    return 2 * _scale(nu) * _sine_integral(np.arctan2(np.sqrt(nu), t), nu)


def quantile(p: npt.ArrayLike, freedom: npt.ArrayLike) -> Floats:
    """The t below which the share `p` lies.

    Args:
        p: shares in (0, 1), any shape.
        freedom: degrees of freedom, at least 1, of a shape that fits `p`.
    """
    p, nu = np.broadcast_arrays(np.asarray(p, dtype=np.float64), _clipped(freedom))
    scale, tail = _scale(nu), np.minimum(p, 1 - p)
    low, high = np.zeros_like(nu), np.full_like(nu, math.pi / 2)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = scale * _sine_integral(middle, nu) < tail
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found: Floats = np.sign(p - 0.5) * np.sqrt(nu) / np.tan((low + high) / 2)
    return found


def _clipped(freedom: npt.ArrayLike) -> Floats:
    return np.clip(np.asarray(freedom, dtype=np.float64), 1.0, _MOST_FREEDOM)


def _scale(nu: Floats) -> Floats:
    log_gamma = np.frompyfunc(math.lgamma, 1, 1)
    ratio = np.asarray(log_gamma((nu + 1) / 2) - log_gamma(nu / 2), dtype=np.float64)
    scale: Floats = np.exp(ratio) / math.sqrt(math.pi)
    return scale


def _sine_integral(angle: Floats, nu: Floats) -> Floats:
    """The integral of sin(φ)^(nu - 1) from 0 to `angle`."""
    # Points are spread by their squares: near 0 the power of the sine is no polynomial where nu is no whole number.
    x = (_NODES + 1) / 2
    sines = np.sin(angle[..., None] * x**2)
    integral: Floats = (sines ** (nu[..., None] - 1) @ (_WEIGHTS * x)) * angle
    return integral
