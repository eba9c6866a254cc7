"""Numbers and values as a page shows them; those that are not known as a dash."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BeforeValidator

UNKNOWN = "—"


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    # in Python True is an int: without its own test a flag would pass for 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


Number = Annotated[float | None, BeforeValidator(number)]
"""A number of a record; None where the file holds null, or anything that is no finite number."""


def as_text(value: Any) -> str:
    """A value of a JSON file as a person reads it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def figure(value: float | None) -> str:
    """A number with as many digits as a reader needs; a minus sign, not a hyphen."""
    if value is None:
        return UNKNOWN
    digits = 2
    if abs(value) >= 10:
        digits = 0 if abs(value) >= 100 else 1
    return f"{value:.{digits}f}".replace("-", "−")


def between(low: float | None, high: float | None) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if low is None or high is None:
        return ""
    return f"[{figure(low)}, {figure(high)}]"


def percent(share: float | None) -> str:
    """A share in whole percent, without the sign."""
    return UNKNOWN if share is None else f"{100 * share:.0f}"


def duration(seconds: float | None) -> str:
    """`7.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None:
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds) % 60:02d} s"
    minutes = round(seconds / 60)  # before hours are split off: 1 h 59.8 min is 2 h 00 min, not 1 h 60 min
    return f"{minutes // 60} h {minutes % 60:02d} min"
