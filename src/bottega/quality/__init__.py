"""Judging a picture: raw scores, a grade from them, and where the limits come from.

measuring   raw scores of a picture against its content and its style (`detectors` has the arithmetic)
grading     A, B or C from scores and limits, and nothing else
calibration limits from drawn truths; `from_run` from a run's own scores; `stage` is the step of a run
scan        pictures on disk, in worker processes (`scorer` is what a worker does)
faults      known damage, to see what the detectors find; `fault_run` puts it into a data set's pictures
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.runtime.lazy import importer

if TYPE_CHECKING:
    from bottega.quality.calibration import Calibration, calibrate
    from bottega.quality.config import QualityConfig, Thresholds
    from bottega.quality.grading import Grade, grade
    from bottega.quality.measuring import Judge, measure

_HOMES = {
    "Calibration": "calibration",
    "calibrate": "calibration",
    "QualityConfig": "config",
    "Thresholds": "config",
    "Grade": "grading",
    "grade": "grading",
    "Judge": "measuring",
    "measure": "measuring",
}
__all__ = ["Calibration", "Grade", "Judge", "QualityConfig", "Thresholds", "calibrate", "grade", "measure"]

__getattr__ = importer(__name__, _HOMES)
