"""Set the limits from pictures that are known to be good or bad, before anything is graded by them.

Good are exactly drawn truths. Each C limit is put just outside the range that the truths take, the A limits at their
10 % quantile; the floor under `change` lies between the truths and untouched copies. The table says which share of
every kind passes each check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np

from bottega.quality.config import Thresholds
from bottega.quality.grade import CHECK_NAMES, grade, pass_rates
from bottega.quality.measure import Picture, Scores
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng

_CERTAIN = ("untouched", "reencoded", "black", "flat", "noise")  # kinds of which nearly all must come out as C
_MINIMUM = 8  # good examples; fewer say nothing about quantiles
# Quantiles that are tried, the strictest first: truths that are odd in one score are often odd in others too, so that
# all checks together reject less than the sum.
_SHARES = (0.02, 0.015, 0.01, 0.0075, 0.005, 0.0035, 0.0025, 0.0015, 0.001, 0.0005, 0.0)
_LOWER = {
    "edge_64_c": "edge_64",
    "edge_128_c": "edge_128",
    "content_sim_c": "content_sim",
    "style_gain_min": "style_gain",
    "hf_ratio_min": "hf_ratio",
}
_UPPER = {"hf_ratio_max": "hf_ratio", "clipped_excess_max": "clipped_excess", "vivid_excess_max": "vivid_excess"}
_RANGES = {
    "clipped_excess_max": (0.05, 1.0),
    "vivid_excess_max": (0.05, 1.0),
    "hf_ratio_min": (0.0, 1.0),
    "hf_ratio_max": (1.0, math.inf),
}


@dataclass(frozen=True)
class Calibration:
    """Limits with the evidence: share of each kind that passes each check, share of each kind graded A, B, C, and
    warnings.
    """

    thresholds: Thresholds
    pass_rates: dict[str, dict[str, float]]  # kind -> check -> 0..1
    grades: dict[str, dict[str, float]]  # kind -> letter -> 0..1
    counts: dict[str, int]
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The whole table as plain data."""
        return {**asdict(self), "thresholds": self.thresholds.model_dump()}


def damaged(truth: Picture, content: Picture, index: int) -> dict[str, Picture]:
    """Known-bad relatives of a good picture: the cases that a check must not let pass."""
    size = truth.shape[0]
    burnt = np.clip((truth.astype(np.float32) - 128) * 8 + 128, 0, 255).astype(np.uint8)
    return {
        "untouched": content,
        "reencoded": cv2.GaussianBlur(content, (0, 0), 0.004 * size),
        "black": np.zeros_like(truth),
        "flat": np.broadcast_to(truth.reshape(-1, 3).mean(0).astype(np.uint8), truth.shape).copy(),
        "noise": numpy_rng("calibration noise", index).integers(0, 256, truth.shape, dtype=np.uint8),
        "blurred": cv2.GaussianBlur(truth, (0, 0), 0.04 * size),
        "burnt": burnt,
    }


def calibrate(
    good: Sequence[Scores],
    untouched: Sequence[Scores],
    *,
    bad: Mapping[str, Sequence[Scores]] | None = None,
    defaults: Thresholds | None = None,
    keep_good: float = 0.98,
) -> Calibration:
    """Choose limits so that at least `keep_good` of the good are not C while untouched copies are.

    Args:
        good: scores of drawn truths, at least 8.
        untouched: scores of contents judged as if they were targets.
        bad: scores of other known-bad kinds; they only enter the table and the warnings.
        defaults: values for what is not calibrated (weights, black, near-constant) and for scores that were not
            measured.

    Raises:
        RequestError: too few examples, or truths and untouched copies cannot be told apart.
    """
    base = defaults or Thresholds()
    if len(good) < _MINIMUM:
        raise RequestError(
            f"calibration needs {_MINIMUM} good pictures or more, received {len(good)}; draw more truths or use "
            "the default limits"
        )
    kinds = {
        "good": list(good),
        "untouched": list(untouched),
        **{name: list(rows) for name, rows in (bad or {}).items()},
    }
    allowed = (1 - keep_good) / 2  # the other half is room for truths that were not looked at
    limits = next(
        (found for share in _SHARES if _grades(good, found := _limits(good, untouched, base, share))["C"] <= allowed),
        None,
    )
    if limits is None:
        raise RequestError(
            f"more than {allowed:.1%} of the good pictures fail even the widest limits: black, near-constant or "
            "unchanged "
            "ones are among them; look at the drawn truths, or lower black_level and spread_min"
        )
    table = {kind: pass_rates(rows, limits) for kind, rows in kinds.items() if rows}
    grades = {kind: _grades(rows, limits) for kind, rows in kinds.items() if rows}
    return Calibration(
        limits, table, grades, {kind: len(rows) for kind, rows in kinds.items()}, _warnings(table, grades)
    )


def _limits(good: Sequence[Scores], untouched: Sequence[Scores], base: Thresholds, share: float) -> Thresholds:
    values: dict[str, float] = {}
    for name, score in (_LOWER | _UPPER).items():
        column = _column(good, score)
        if column.size < _MINIMUM:
            continue
        ratio = score == "hf_ratio"  # a ratio is as far from 1 at 1/2 as at 2
        scaled = np.log(np.maximum(column, 1e-6)) if ratio else column
        edge = float(np.quantile(scaled, share if name in _LOWER else 1 - share))
        beyond = edge + _margin(column.size) * (edge - float(np.median(scaled)))
        beyond = math.exp(beyond) if ratio else beyond
        low, high = _RANGES.get(name, (-1.0, 1.0))
        values[name] = float(np.clip(beyond, low, high))
    for name in ("edge_64", "edge_128", "content_sim"):
        column = _column(good, name)
        if column.size >= _MINIMUM:
            values[f"{name}_a"] = max(float(np.quantile(column, 0.10)), values[f"{name}_c"])
    values["change_min"] = _change_floor(good, untouched, base)
    return base.model_copy(update={name: round(value, 4) for name, value in values.items()})


def _margin(count: int) -> float:
    """How far a C limit lies beyond the quantile, as a share of (median - quantile): fewer truths show less of the
    tail.

    Tried on the drawn world: of truths that were not looked at, 2 to 3 % become C with 0.5 at 96 truths, 0.2 at 256
    and 0.1 at 512; with 0.1 at 96 it is 10 %.
    """
    return min(0.6, max(0.1, 48 / count))


def _change_floor(good: Sequence[Scores], untouched: Sequence[Scores], base: Thresholds) -> float:
    """Between untouched copies and truths; the default where it separates them already, else their geometric middle."""
    least = float(np.quantile(_column(good, "change"), 0.002))
    copies = _column(untouched, "change")
    most = float(copies.max()) if copies.size else 0.0
    if most < base.change_min <= 0.8 * least:
        return base.change_min
    if most >= least:
        raise RequestError(
            f"good pictures must differ more from their content than copies do, received {least:.4f} (good, least) "
            f"and {most:.4f} (copy, most); "
            "the painted pictures hardly change the content"
        )
    return math.sqrt(max(most, 1e-4) * least)


def _column(rows: Sequence[Scores], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    column = np.array([row[name] for row in rows if name in row], np.float64)
    return column[np.isfinite(column)]


def _grades(rows: Sequence[Scores], limits: Thresholds) -> dict[str, float]:
    letters = [grade(row, limits).letter for row in rows]
    return {letter: letters.count(letter) / max(1, len(letters)) for letter in "ABC"}


def _warnings(table: dict[str, dict[str, float]], grades: dict[str, dict[str, float]]) -> list[str]:
    words = []
    for check in CHECK_NAMES:
        if table["good"][check] <= 0:
            words.append(f"check {check} rejects every good picture")
        bad = [rates[check] for kind, rates in table.items() if kind != "good"]
        if bad and min(bad) >= 1 and check != "finite":
            words.append(f"check {check} passes every known-bad picture: it catches nothing here")
    words += [
        f"{kind}: {grades[kind]['C']:.0%} graded C, expected nearly all"
        for kind in _CERTAIN
        if kind in grades and grades[kind]["C"] < 0.95
    ]
    return words
