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
_MOST_STEPS = 40  # 4 to 6 are usual, 10 at thousands of degrees of freedom
_EXACT = 1e-9

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
    # Newton's method in logarithms, where the tail is nearly a straight line in the angle, from where the sine is its
    # angle: the function is concave there, so that each step stays on that side. With many degrees of freedom the tail
    # is 0 in doubles that far out: there it starts from t = 30.
    angle = np.minimum((tail * nu / scale) ** (1 / nu), math.pi / 2)
    angle = np.where(nu > 30, np.maximum(angle, np.arctan(np.sqrt(nu) / 30)), angle)
    for _ in range(_MOST_STEPS):
        reached = scale * _sine_integral(angle, nu)
        slope = scale * np.sin(angle) ** (nu - 1) * angle / reached
        step = np.log(tail / reached) / slope
        angle = np.minimum(angle * np.exp(step), math.pi / 2)
        if np.abs(step).max() < _EXACT:
            break
    found: Floats = np.sign(p - 0.5) * np.sqrt(nu) / np.tan(angle)
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
