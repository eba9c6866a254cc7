"""Set the limits from pictures that are known to be good or bad, before anything is graded by them.

Good are exactly drawn truths. Each C limit is put just outside the range that the truths take, the A limits at their
10 % quantile; the floor under `change` lies between the truths and untouched copies. The table says which share of
every kind passes each check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.config import Thresholds, rounded_outward
from bottega.quality.grading import Grader, pass_rates
from bottega.quality.measuring import Scores
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

Column = npt.NDArray[np.float64]  # [N], values of one score

_CERTAIN = ("untouched", "reencoded", "black", "flat", "noise")  # kinds of which nearly all must be graded C
MINIMUM = 8  # good examples; fewer tell nothing about quantiles
# Limits without a wider margin for few truths were too tight: by those from 96, 8 of 100 unseen truths were C.
LEAST_SOUND = 0.6
"""Share of the good pictures that must look sound for the others to be left out."""

CONTENT_IDLE = 0.5
"""Share of pictures of another content that pass CLIP's check, from which a person should know."""

DAMAGE_DEVIATIONS = 3.5
"""From the median to the limit of `damage`, in deviations of the lower half."""

NEARER_THAN_STYLE = 4.0
"""Estimated distance up to which a picture may be A, at least: a style picture lies at 4 to 5 from the truth, a content
at 10. Truths alone would set it near 1, which hardly a teacher's picture reaches."""

FAR = 4.5
"""Estimated distance above which a picture is C, at least. With it 65 % of tries that lost all objects are C, 94 % of
those that lost their style, none of those within 3 of the truth (384 tries, docs/log.md). With 3.5 it would be 88 and
100 %, and more than half of a good teacher's mosaics."""

DAMAGE_SHARE = 0.004
"""Of the good pictures, that the limit of `damage` may lose, as `LimitPlan.share`."""

DAMAGE_DOWN = 1.0
"""How far the limits of `damage` may move down, where all pictures look sound."""

_QUARTER = 0.6744897501960817  # deviations from a normal distribution's median to its 25 % quantile
_ENOUGH = 1000  # truths from which the margins are as planned: with fewer, the tail is not seen
_UNSEEN = 0.06  # by which a margin grows for each time that the truths would fit into _ENOUGH once more


@dataclass(frozen=True)
class LimitPlan:
    """How a C limit is found: at the quantile that leaves `share` of the truths outside, and a `margin` beyond it.

    The margin is a share of (median - quantile), for what the truths at hand do not show of the tail. Most of what may
    be lost is given to the checks that find medium faults only close to the truths: ghosting, saturation, structure,
    blur, mesh, blocks. Only the proportions of the shares matter: all are multiplied by one factor, the largest by
    which the truths that fail any check stay within what may be lost.

    Attributes:
        score: its name.
        lower: whether the limit bounds it from below.
        share, margin: as above.
    """

    score: str
    lower: bool
    share: float
    margin: float


PLANS = {
    "structure_min": LimitPlan("structure", True, 0.0030, 0.02),
    "edge_64_c": LimitPlan("edge_64", True, 0.0003, 0.1),
    "edge_128_c": LimitPlan("edge_128", True, 0.0003, 0.1),
    "hf_ratio_min": LimitPlan("hf_ratio", True, 0.0003, 0.1),
    "hf_ratio_max": LimitPlan("hf_ratio", False, 0.0003, 0.1),
    "sharpness_min": LimitPlan("sharpness", True, 0.0030, 0.02),
    "vigour_min": LimitPlan("vigour", True, 0.0020, 0.02),
    "veil_max": LimitPlan("veil", False, 0.0010, 0.02),
    "mesh_max": LimitPlan("mesh", False, 0.0030, 0.02),
    "noise_max": LimitPlan("noise", False, 0.0003, 0.1),
    "blocking_max": LimitPlan("blocking", False, 0.0040, 0.02),
    "blocking_share_max": LimitPlan("blocking_share", False, 0.0010, 0.04),
    "ghosting_max": LimitPlan("ghosting", False, 0.0060, 0.02),
    "content_sim_c": LimitPlan("content_sim", True, 0.0003, 0.1),
    "style_gain_min": LimitPlan("style_gain", True, 0.001, 0.2),
    "clipped_excess_max": LimitPlan("clipped_excess", False, 0.0010, 0.02),
    "vivid_excess_max": LimitPlan("vivid_excess", False, 0.0040, 0.02),
}
# The last, 0, puts every limit beyond the outermost truth: nothing wider is tried.
_FACTORS = (*np.geomspace(2, 0.02, 24).tolist(), 0.0)  # that multiply all shares, tried from the strictest
_USED = 0.6  # of the share that may be lost, what the truths at hand may use up: unseen ones lose more
_RATIOS = ("hf_ratio", "sharpness", "vigour")  # read by their logarithm: 1/2 is as far from 1 as 2
# No limit is stricter than where the fault begins to be visible, however similar the truths are: others may vary more.
_RANGES = {
    "structure_min": (-1.0, 0.8),
    "edge_64_c": (-1.0, 0.4),
    "edge_128_c": (-1.0, 0.4),
    "clipped_excess_max": (0.2, 1.0),
    "vivid_excess_max": (0.1, 1.0),
    "hf_ratio_min": (0.0, 0.03),
    "hf_ratio_max": (3.0, math.inf),
    "sharpness_min": (0.0, 0.6),
    "vigour_min": (0.0, 0.6),
    "veil_max": (6.0, math.inf),
    "mesh_max": (2.5, math.inf),
    "noise_max": (2.5, math.inf),
    "blocking_max": (0.25, math.inf),
    "blocking_share_max": (-0.3, math.inf),
    "ghosting_max": (0.25, math.inf),
}


@dataclass(frozen=True)
class Calibration:
    """Limits with the evidence for them.

    Attributes:
        thresholds: the limits.
        pass_rates: kind of picture -> check -> share that passes it, 0..1.
        grades: kind -> letter -> share, 0..1.
        counts: kind -> pictures.
        warnings: of checks that catch nothing or everything, and of bad kinds that are not graded C.
    """

    thresholds: Thresholds
    pass_rates: dict[str, dict[str, float]]
    grades: dict[str, dict[str, float]]
    counts: dict[str, int]
    warnings: list[str] = field(default_factory=list)

    def as_json(self) -> Mapping[str, object]:
        """The whole table as plain data."""
        return {**asdict(self), "thresholds": self.thresholds.model_dump()}


def damaged(truth: Picture, content: Picture, index: int) -> dict[str, Picture]:
    """Known-bad pictures made from a good one, by kind: the cases that a check must not let pass."""
    size = truth.shape[0]
    stretched = (truth.astype(np.float32) - 128) * 8 + 128
    mean = truth.reshape(-1, 3).mean(0).astype(np.uint8)  # [3]
    return {
        "untouched": content,
        "reencoded": cv2.GaussianBlur(content, (0, 0), 0.004 * size),
        "black": np.zeros_like(truth),
        "flat": np.broadcast_to(mean, truth.shape).copy(),
        "noise": numpy_rng("calibration noise", index).integers(0, 256, truth.shape, dtype=np.uint8),
        "blurred": cv2.GaussianBlur(truth, (0, 0), 0.04 * size),
        "burnt": np.clip(stretched, 0, 255).astype(np.uint8),
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
        RequestError: too few examples, or truths and untouched copies cannot be separated.
    """
    base = defaults or Thresholds()
    if len(good) < MINIMUM:
        raise RequestError(
            f"calibration needs {MINIMUM} good pictures or more, received {len(good)}; draw more truths or use "
            "the default limits"
        )
    # The limits: as strict as the truths allow that look sound.
    sound = sound_rows(good, base)
    limits = _strictest_limits(sound, untouched, base, (1 - keep_good) * _USED)
    if limits is None:
        raise RequestError(
            f"more than {1 - keep_good:.1%} of the good pictures fail even the widest limits: black, near-constant or "
            "unchanged ones are among them; look at the drawn truths, or lower black_level and spread_min"
        )

    # The evidence: what these limits make of every kind.
    kinds: dict[str, Sequence[Scores]] = {"good": good, "untouched": untouched, **(bad or {})}
    rates: dict[str, dict[str, float]] = {}
    grades: dict[str, dict[str, float]] = {}
    for kind, rows in kinds.items():
        if rows:
            rates[kind] = pass_rates(rows, limits)
            grades[kind] = _grades(rows, limits)
    counts = {kind: len(rows) for kind, rows in kinds.items()}
    warnings = [
        *_left_out(good, sound, base),
        *_warnings(rates, grades),
        *_idle_content(rates),
        *_copies_that_pass(untouched, limits),
    ]
    return Calibration(limits, rates, grades, counts, warnings)


def sound_rows(rows: Sequence[Scores], limits: Thresholds) -> Sequence[Scores]:
    """Those that do not look damaged: a few bad pictures among the good ones must not become the norm.

    Before, 30 bad ones of 236 took what the limits find from 60 to 11 % (docs/quality.md). Where most look damaged,
    the eye does not know such pictures: then all are taken.
    """
    sound = [row for row in rows if row.get("damage", -math.inf) <= limits.damage_max]
    return sound if len(sound) >= max(MINIMUM, LEAST_SOUND * len(rows)) else rows


def damage_limits(damage: Column, base: Thresholds, *, may_fail: float = 1.0) -> dict[str, float]:
    """The limits of `damage` for pictures like these, [N].

    They move down to a robust tail above the median, by DAMAGE_DOWN at most: its spread is that of the lower half, for
    what is bad lies in the upper one. They move up only as far as pictures that are known to be good require.

    Args:
        may_fail: share of the pictures, if they are known to be good, that may lie above the limit; 1: they are not
            known to be good.
    """
    if damage.size < MINIMUM or not base.uses_eye:
        return {}
    middle, quarter, outer = np.quantile(damage, (0.5, 0.25, 1 - may_fail)).tolist()
    tail = middle + DAMAGE_DEVIATIONS * (middle - quarter) / _QUARTER
    lowest = max(tail, base.damage_max - DAMAGE_DOWN)
    move = max(outer, min(lowest, base.damage_max)) - base.damage_max
    names = ("damage_max", "damage_confirm", "damage_a")
    return {name: rounded_outward(getattr(base, name) + move, name) for name in names}


def _left_out(good: Sequence[Scores], sound: Sequence[Scores], base: Thresholds) -> list[str]:
    damaged_number = sum(row.get("damage", -math.inf) > base.damage_max for row in good)
    if not damaged_number:
        return []
    if len(sound) < len(good):
        return [f"{damaged_number} of {len(good)} good pictures look damaged and set no limit: look at them"]
    return [
        f"{damaged_number} of {len(good)} good pictures look damaged: either they are, or the eye does not know such "
        "pictures; look at them, and set damage_max by hand if they are good"
    ]


def _idle_content(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Whether CLIP's limit lets pictures of another content pass: unrelated photographs may lie above it."""
    passing = rates.get("other content", {}).get("content")
    if passing is None or passing <= CONTENT_IDLE:
        return []
    return [
        f"content_sim_c lets {passing:.0%} of pictures of another content pass: with this CLIP and these pictures CLIP "
        "hardly sees a lost content; the structure of the picture and the eye do"
    ]


def _copies_that_pass(untouched: Sequence[Scores], limits: Thresholds) -> list[str]:
    passing = sum(row.get("change", 0.0) >= limits.change_min for row in untouched)
    if not passing:
        return []
    return [
        f"{passing} of {len(untouched)} copies of contents differ by change_min or more once they are encoded, as some "
        "good pictures do: such copies are not found"
    ]


def _strictest_limits(
    good: Sequence[Scores], untouched: Sequence[Scores], base: Thresholds, may_fail: float
) -> Thresholds | None:
    """The strictest limits by which at most the share `may_fail` of the good is C; None where no factor does it."""
    for factor in _FACTORS:
        limits = _limits(good, untouched, base, factor)
        if _grades(good, limits)["C"] <= may_fail:
            return limits
    return None


def _limits(good: Sequence[Scores], untouched: Sequence[Scores], base: Thresholds, factor: float) -> Thresholds:
    """The limits by their plans, with all shares multiplied by `factor`."""
    values: dict[str, float] = {}
    for name, plan in PLANS.items():
        column = _column(good, plan.score)
        if column.size >= MINIMUM:
            low, high = _RANGES.get(name, (-1.0, 1.0))
            values[name] = float(np.clip(_planned_limit(column, plan, factor), low, high))
    for name in ("edge_64", "edge_128", "content_sim"):
        column = _column(good, name)
        if column.size >= MINIMUM:
            quantile = float(np.quantile(column, 0.10))
            values[f"{name}_a"] = max(quantile, values[f"{name}_c"])  # an A must not fail where a B passes
    distances = _column(good, "estimated_distance")
    if distances.size >= MINIMUM and base.uses_eye:
        values["distance_a"] = max(float(np.quantile(distances, 0.90)), NEARER_THAN_STYLE)
        values["distance_c"] = max(float(np.quantile(distances, 0.99)), FAR, values["distance_a"])
    values["change_min"] = _change_floor(good, untouched, base)
    coarse = _column(good, "coarse_change")
    if coarse.size >= MINIMUM:
        values["coarse_change_min"] = min(base.coarse_change_min, 0.8 * float(np.quantile(coarse, 0.002)))
    values |= damage_limits(_column(good, "damage"), base, may_fail=min(1.0, DAMAGE_SHARE * factor))
    rounded = {name: rounded_outward(value, name) for name, value in values.items()}
    return base.model_copy(update=rounded)


def _planned_limit(column: Column, plan: LimitPlan, factor: float) -> float:
    """Where a plan puts the limit of a score, given the truths' values, [N]."""
    ratio = plan.score in _RATIOS
    scaled = np.log(np.maximum(column, 1e-6)) if ratio else column
    share = plan.share * factor
    edge = float(np.quantile(scaled, share if plan.lower else 1 - share))
    median = float(np.median(scaled))
    margin = plan.margin + _UNSEEN * max(0.0, _ENOUGH / column.size - 1)
    limit = edge + margin * (edge - median)
    return math.exp(limit) if ratio else limit


def _change_floor(good: Sequence[Scores], untouched: Sequence[Scores], base: Thresholds) -> float:
    """Between untouched copies and truths; the default where it separates them already, else their geometric middle.

    Refused only where the usual copy changes as much as the usual truth. A single content of fine texture, whose copy
    loses much when it is encoded, once refused 300 good pictures.
    """
    changes = _column(good, "change")
    copies = _column(untouched, "change")
    least = float(np.quantile(changes, 0.002))
    most = float(np.quantile(copies, 0.98)) if copies.size else 0.0
    if most < base.change_min <= 0.8 * least:
        return base.change_min
    if most < least:
        return math.sqrt(max(most, 1e-4) * least)
    usual, usual_copy = float(np.median(changes)), float(np.median(copies))
    if usual_copy >= least:
        raise RequestError(
            f"good pictures must differ more from their content than copies do, received {usual:.4f} (good, median; "
            f"least {least:.4f}) and {usual_copy:.4f} (copy, median); the painted pictures hardly change the content"
        )
    return least


def _column(rows: Sequence[Scores], name: str) -> Column:
    """The finite values of a score, [N]."""
    column = np.array([row[name] for row in rows if name in row], np.float64)
    return column[np.isfinite(column)]


def _grades(rows: Sequence[Scores], limits: Thresholds) -> dict[str, float]:
    grade = Grader(limits)
    letters = [grade(row).letter for row in rows]
    return {letter: letters.count(letter) / max(1, len(letters)) for letter in "ABC"}


def _warnings(rates: Mapping[str, Mapping[str, float]], grades: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Checks that catch everything good or nothing bad, and bad kinds that are not graded C."""
    warnings = _idle_checks(rates)
    for kind in _CERTAIN:
        if kind in grades and grades[kind]["C"] < 0.95:
            warnings.append(f"{kind}: {grades[kind]['C']:.0%} graded C, expected nearly all")
    return warnings


def _idle_checks(rates: Mapping[str, Mapping[str, float]]) -> list[str]:
    bad = [passed for kind, passed in rates.items() if kind != "good"]
    warnings = []
    for check, rate in rates["good"].items():
        if rate <= 0:
            warnings.append(f"check {check} rejects every good picture")
        least = min((passed[check] for passed in bad if check in passed), default=0.0)
        if least >= 1 and check != "finite":  # no kind that is made from a file can fail `finite`
            warnings.append(f"check {check} passes every known-bad picture: it catches nothing here")
    return warnings
