"""From one prediction to another: ε, v = αε - σx_0, x_0 and the flow's velocity u = ε - x_0, at x = αx_0 + σε.

Exact for any (α, σ), whether α² + σ² = 1 (then they are the formulas of Salimans & Ho 2022, app. D) or α + σ = 1 (the
straight path). v and u can be solved for x_0 and ε everywhere, for their denominators are α² + σ² ≥ 1/2 and α + σ ≥ 1.
Only two conversions are singular, and refused there: out of ε where α = 0, for x then holds nothing of x_0; and out
of x_0 where σ = 0, for x then holds nothing of ε. From ε to x_0 an error grows by σ/α: by 20 000 at the end of
the cosine schedule.

Arrays of any kind (NumPy or torch); α and σ are numbers or arrays that broadcast.
"""

from __future__ import annotations

from typing import Any, TypeVar

from bottega.diffusion.process import prediction_target
from bottega.diffusion.schedule import PREDICTION_TYPES
from bottega.runtime.errors import RequestError

Array = TypeVar("Array")


def to_clean(prediction_type: str, prediction: Array, noised: Array, alpha: Any, sigma: Any) -> Array:
    """x̂_0 of what the network returned at x. Raises RequestError for ε where α = 0."""
    x: Any = noised
    p: Any = prediction
    if prediction_type == "epsilon":
        _refuse_zero(alpha, "α", "ε says nothing of x_0", "predict v_prediction, flow_prediction or sample")
        result = (x - sigma * p) / alpha
    elif prediction_type == "v_prediction":
        result = (alpha * x - sigma * p) / (alpha * alpha + sigma * sigma)
    elif prediction_type == "flow_prediction":
        result = (x - sigma * p) / (alpha + sigma)
    else:
        result = _sample(prediction_type, p)
    return result  # type: ignore[no-any-return]


def to_noise(prediction_type: str, prediction: Array, noised: Array, alpha: Any, sigma: Any) -> Array:
    """ε̂ of what the network returned at x. Raises RequestError for x_0 where σ = 0."""
    x: Any = noised
    p: Any = prediction
    if prediction_type == "epsilon":
        result = p
    elif prediction_type == "v_prediction":
        result = (sigma * x + alpha * p) / (alpha * alpha + sigma * sigma)
    elif prediction_type == "flow_prediction":
        result = (x + alpha * p) / (alpha + sigma)
    else:
        clean = _sample(prediction_type, p)
        _refuse_zero(sigma, "σ", "x_0 says nothing of ε", "leave out the clean picture, timestep -1")
        result = (x - alpha * clean) / sigma
    return result  # type: ignore[no-any-return]


def convert(source: str, target: str, prediction: Array, noised: Array, alpha: Any, sigma: Any) -> Array:
    """What a network of type `target` would have returned where one of type `source` returned `prediction` at x.

    Raises RequestError where the conversion is singular: out of epsilon at α = 0, out of sample at σ = 0.
    """
    if source == target and source in PREDICTION_TYPES:
        return prediction
    clean = to_clean(source, prediction, noised, alpha, sigma)
    noise = to_noise(source, prediction, noised, alpha, sigma)
    result: Array = prediction_target(target, clean, noise, alpha, sigma)
    return result


def error_scale(prediction_type: str, alpha: Any, sigma: Any) -> Any:
    """By how much an error of x̂_0 at a given x shows in the prediction: |∂prediction/∂x_0|, in α's kind of number.

    ε: α/σ; v: (α² + σ²)/σ; u: (α + σ)/σ; x_0: 1. Losses are in proportion to its square, so the ε-equivalent of a
    loss L is L · (scale of ε / scale of its own type)².
    """
    if prediction_type == "epsilon":
        return alpha / sigma
    if prediction_type == "v_prediction":
        return (alpha * alpha + sigma * sigma) / sigma
    if prediction_type == "flow_prediction":
        return (alpha + sigma) / sigma
    # 1 in α's own kind: a number, an array or a tensor.
    return _sample(prediction_type, alpha * 0 + 1)


def _sample(prediction_type: str, value: Any) -> Any:
    """The last of the types, or none of them."""
    if prediction_type != "sample":
        raise RequestError(f"prediction_type is one of {', '.join(PREDICTION_TYPES)}, received {prediction_type!r}")
    return value


def _refuse_zero(value: Any, symbol: str, why: str, cure: str) -> None:
    zero = value == 0
    if bool(zero.any() if hasattr(zero, "any") else zero):
        raise RequestError(f"this conversion needs {symbol} > 0, received {symbol} = 0, where {why}; {cure}")
