"""Typed, bounded values out of text and JSON that anyone may have written."""

from __future__ import annotations

import json
import math
import re
from typing import Any

_DIGITS = re.compile(r"[+-]?\d{1,40}")
MAX_NAME = 500  # characters of a model's, LoRA's or sampler's name


def as_text(value: object, limit: int) -> str | None:
    """A string, cut at a limit; None for anything else."""
    return value[:limit] if isinstance(value, str) else None


def as_name(value: object) -> str:
    """A short name on one line; empty where there is none."""
    text = as_text(value, MAX_NAME)
    if text is None:
        return ""
    return " ".join(text.split())


def as_int(value: object, low: int, high: int) -> int | None:
    """A whole number in a range, also as decimal digits or as a float without a fraction; None for anything else."""
    if isinstance(value, str):
        digits = value.strip()
        # Not by way of a float, which would round a seed above 2^53.
        if not _DIGITS.fullmatch(digits):
            return None
        return as_int(int(digits), low, high)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if low <= value <= high else None


def as_float(value: object, low: float, high: float) -> float | None:
    """A finite number in a range, also from text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str) and len(value) > 40:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number) or not low <= number <= high:
        return None
    return number


def as_json(text: str) -> Any:
    """What JSON text holds; None where it is not JSON, is nested without end or has a number without end."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def as_object(text: str) -> dict[str, Any] | None:
    """The object that JSON text holds; None where it holds anything else."""
    value = as_json(text)
    if not isinstance(value, dict):
        return None
    return value


def as_list(value: object) -> list[Any]:
    """A list; an empty one for anything else."""
    if not isinstance(value, list):
        return []
    return value


def steps_of(value: object) -> int | None:
    """Sampling steps, as a request may have them."""
    return as_int(value, 1, 1_000)


def seed_of(value: object) -> int | None:
    """A seed; NovelAI's and Fooocus's fill 64 bits without a sign, of which a request takes 63."""
    return as_int(value, 0, 2**64 - 1)


def guidance_of(value: object) -> float | None:
    """Classifier-free guidance, as a request may have it."""
    return as_float(value, 0, 100)


def side_of(value: object) -> int | None:
    """Pixels of a side."""
    return as_int(value, 1, 100_000)


def share_of(value: object) -> float | None:
    """A number from 0 to 1."""
    return as_float(value, 0, 1)


def weight_of(value: object) -> float | None:
    """A LoRA's weight."""
    return as_float(value, -100, 100)
