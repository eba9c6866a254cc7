"""Judges a loss curve. It knows no file and no trainer: losses come in batches, findings go out."""

from __future__ import annotations

from bottega.doctor.curve.judge import judge, unjudged
from bottega.doctor.curve.loss_curve import LossCurve

__all__ = ["LossCurve", "judge", "unjudged"]
