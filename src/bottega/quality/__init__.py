"""Judging a picture: what is measured, what it is worth, and where the limits come from.

`measure` gives raw scores, `grade` derives a letter from them and nothing else, `calibrate` sets the limits from
known pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bottega.quality.calibrate import Calibration, calibrate
    from bottega.quality.config import QualityConfig, Thresholds
    from bottega.quality.grade import Grade, grade
    from bottega.quality.measure import Judge, measure

_HOMES = {
    "Calibration": "calibrate",
    "calibrate": "calibrate",
    "QualityConfig": "config",
    "Thresholds": "config",
    "Grade": "grade",
    "grade": "grade",
    "Judge": "measure",
    "measure": "measure",
}
__all__ = ["Calibration", "Grade", "Judge", "QualityConfig", "Thresholds", "calibrate", "grade", "measure"]


def __getattr__(name: str) -> object:
    """Import a public name from its module when it is first asked for: OpenCV is not loaded for `--help`."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
