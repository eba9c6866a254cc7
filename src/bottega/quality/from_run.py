"""Limits from a run's own distribution: no picture and no truth is needed, only the scores that its ledger holds.

Normal samples are the first tries that came out and have no hard fault by the limits at hand (not finite, black,
constant, saturated, untouched copy, blurred, blocked …: every check but those set here). Of them

- an A limit is the 10 % quantile: nine of ten normal pictures reach it;
- a C limit is where a robust tail begins: three robust standard deviations from the median on that side, one being
  (median - 10 % quantile) / 1.2816, as in a normal distribution. A ratio is taken by its logarithm;
- the limits of `damage` move down to a robust tail above the median, `calibration.damage_limits`.

First tries alone, since retries exist only of pictures that failed. The limits of hard faults stay as they are unless
they are asked for by name, for a run that has such a fault everywhere would make it its norm.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from bottega.quality.calibration import damage_limits
from bottega.quality.config import Thresholds, rounded_outward
from bottega.quality.grading import CHECKS, Check, Grader
from bottega.runtime.errors import RequestError
from bottega.runtime.files import atomic_path

SHARE = 0.10  # of the normal samples that lie below an A limit
DEVIATIONS = 3.0  # robust standard deviations from the median to a C limit
ENOUGH = 50  # normal samples; fewer say nothing about a tenth
_TENTH = 1.2815515655446004  # standard deviations from a normal distribution's median to its 10 % quantile
_BETTER = {"edge_64_a": "edge_64", "edge_128_a": "edge_128", "content_sim_a": "content_sim"}
_TAILS = ("edge_64_c", "edge_128_c", "content_sim_c", "hf_ratio_max")
_RATIOS = frozenset({"hf_ratio"})
_DOUBTS = frozenset({"style"})  # checks whose failure is a doubt, not a fault
_BINS, _WIDE = 16, 48
_POINTS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999)  # quantiles that are recorded

Column = npt.NDArray[np.float64]


@dataclass
class Distribution:
    """Scores of a run's first tries, one column a score: 8 bytes a value.

    `normal` tells, for each value, whether its sample is normal.
    """

    columns: dict[str, array[float]] = field(default_factory=dict)
    normal: dict[str, bytearray] = field(default_factory=dict)
    samples: int = 0
    normal_samples: int = 0
    faults: Counter[str] = field(default_factory=Counter)  # hard faults by check, a sample counted once for each

    def add(self, scores: Mapping[str, float], hard: Sequence[Check], grader: Grader) -> None:
        """Enter one first try."""
        # A picture that is not finite has no other score, so no other check can fail.
        faults = ["finite"]
        if scores.get("finite", 0.0) >= 1.0:
            faults = [check.name for check in grader.decisive(scores) if check in hard]
        self.faults.update(faults)
        self.samples += 1
        self.normal_samples += not faults
        for name, value in scores.items():
            if math.isfinite(value):
                self.columns.setdefault(name, array("d")).append(value)
                self.normal.setdefault(name, bytearray()).append(not faults)

    def of(self, score: str, *, normal: bool = True) -> Column:
        """The values of a score, of normal samples or of all."""
        values: Column = np.array(self.columns.get(score, ()), np.float64)
        if not normal or score not in self.normal:
            return values
        chosen: Column = values[np.frombuffer(self.normal[score], np.uint8) == 1]
        return chosen


def collect(rows: Iterable[Mapping[str, float]], limits: Thresholds, also: Sequence[str] = ()) -> Distribution:
    """The distribution of first tries that came out, from their raw scores, as a stream.

    Args:
        limits: those that decide whether a sample has a hard fault.
        also: limits that are to be set besides the usual ones; their checks do not make a sample abnormal.
    """
    # A check whose limit is set here can't decide which samples the limit is set by.
    free = {*_TAILS, *also}
    hard: list[Check] = []
    for check in CHECKS:
        if check.name not in _DOUBTS and free.isdisjoint({check.low, check.high}):
            hard.append(check)
    found = Distribution()
    grader = Grader(limits)
    for scores in rows:
        found.add(scores, hard, grader)
    return found


def limits_of(found: Distribution, limits: Thresholds, also: Sequence[str] = ()) -> Thresholds:
    """New limits: A at the 10 % quantile of normal samples, C where the robust tail begins, all others unchanged.

    A score that was measured of fewer than 50 normal samples keeps its limits.

    Args:
        also: names of further limits to set by their tails, such as `ghosting_max`.

    Raises:
        RequestError: fewer than 50 normal samples, or a name in `also` that is no limit of a check.
    """
    bounds = _checks_by_bound()
    for name in also:
        if name == "damage_max":
            raise RequestError("the learned eye's limits are set from every run; leave out --also damage_max")
        if name not in bounds:
            raise RequestError(f"a limit to set must be one of {', '.join(sorted(bounds))}, received {name}")
    _require_enough(found)
    values: dict[str, float] = {}
    for name in dict.fromkeys((*_TAILS, *also)):
        check = bounds[name]
        column = found.of(check.score)
        if column.size >= ENOUGH:
            limit = tail(column, lower=name == check.low, ratio=check.score in _RATIOS)
            values[name] = _inside(name, limit)
    # The eye's limits from all first tries: what its present limit calls damaged must not be left out by itself.
    damage = found.of("damage", normal=False)
    if damage.size >= ENOUGH:
        values |= damage_limits(damage, limits)
    for name, score in _BETTER.items():
        column = found.of(score)
        if column.size >= ENOUGH:
            quantile = float(np.quantile(column, SHARE))
            values[name] = max(rounded_outward(quantile, name), values[f"{score}_c"])
    # Validated, not copied: a new limit may contradict one that is kept, such as hf_ratio_min.
    return Thresholds.model_validate(limits.model_dump() | values)


def _require_enough(found: Distribution) -> None:
    if found.normal_samples >= ENOUGH:
        return
    worst = ", ".join(f"{name} {count}" for name, count in found.faults.most_common(3)) or "none"
    raise RequestError(
        f"limits come from {ENOUGH} normal pictures or more, received {found.normal_samples} of {found.samples} "
        f"first tries (hard faults: {worst}); make more targets, or look at the contact sheet"
    )


def _checks_by_bound() -> dict[str, Check]:
    """The check of each field of `Thresholds` that bounds one."""
    bounds: dict[str, Check] = {}
    for check in CHECKS:
        for bound in (check.low, check.high):
            if bound is not None:
                bounds[bound] = check
    return bounds


def tail(values: Column, *, lower: bool, ratio: bool = False) -> float:
    """Where the robust tail begins on one side: three robust standard deviations from the median.

    Args:
        lower: the tail below the median, else the one above.
        ratio: of the logarithms.
    """
    scaled = np.log(np.maximum(values, 1e-6)) if ratio else values
    middle, edge = np.quantile(scaled, (0.5, SHARE if lower else 1 - SHARE)).tolist()
    limit: float = middle + (edge - middle) / _TENTH * DEVIATIONS
    return math.exp(limit) if ratio else limit


def changed(old: Thresholds, new: Thresholds) -> dict[str, tuple[float, float]]:
    """Limit -> (old, new) of those that differ."""
    before, after = old.model_dump(), new.model_dump()
    differ = [name for name in after if before[name] != after[name]]
    return {name: (before[name], after[name]) for name in differ}


# --- for a person to look at -----------------------------------------------------------------------------------------


def shown(found: Distribution) -> list[str]:
    """The scores that have a limit and were measured, in the order of the checks."""
    scores = dict.fromkeys(check.score for check in CHECKS)
    return [score for score in scores if len(found.columns.get(score, ()))]


def histograms(found: Distribution, old: Thresholds, new: Thresholds) -> str:
    """Histograms of all first tries as text, a line a bin, with the limits beside the bin that they fall into.

    The outermost bins also hold what lies beyond them; a limit beyond them stands in the heading alone.
    """
    blocks = []
    for score in shown(found):
        values = found.of(score, normal=False)
        edges = _edges(values, _BINS)
        counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
        marks = _marks(score, old, new)
        limits = ", ".join(f"{name} {limit:.4g}" for name, limit in marks)
        lines = [f"{score}: {values.size} pictures, median {np.median(values):.4g}; {limits}"]
        for count, (low, high) in zip(counts, itertools.pairwise(edges), strict=True):
            bar = "#" * math.ceil(_WIDE * count / max(1, counts.max()))
            here = ", ".join(name for name, limit in marks if low <= limit < high)
            arrow = f"  <- {here}" if here else ""
            lines.append(f"  {low:9.4f} .. {high:9.4f} {count:7} {bar}{arrow}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def draw(found: Distribution, old: Thresholds, new: Thresholds, path: Path) -> None:
    """The same as a PNG: grey all first tries, black the normal ones, dashed the old limits, red the new."""
    from matplotlib.figure import Figure

    names = shown(found)
    rows = -(-len(names) // 4)
    figure = Figure(figsize=(16, 2.6 * max(1, rows)), layout="constrained")
    for place, score in enumerate(names, start=1):
        axes = figure.add_subplot(rows, 4, place)
        values = found.of(score, normal=False)
        edges = _edges(values, 60)
        low, high = float(edges[0]), float(edges[-1])
        for column, colour in ((values, "0.8"), (found.of(score), "0.3")):
            axes.hist(np.clip(column, low, high), edges.tolist(), color=colour)
        axes.set_xlim(low, high)
        for name, limit in _marks(score, old, new):
            if low <= limit <= high:
                colour, line = ("0.4", "--") if name.endswith(" old") else ("tab:red", "-")
                axes.axvline(limit, color=colour, linestyle=line)
        axes.set_title(score, fontsize=9)
        axes.tick_params(labelsize=7)
    figure.suptitle(
        f"{found.samples} first tries, {found.normal_samples} normal; dashed old limits, red new", fontsize=10
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


class RunEvidence(TypedDict):
    """What limits were set from: counts of first tries, and quantiles of the normal ones' scores, by their share."""

    source: str
    samples: int
    normal_samples: int
    hard_faults: dict[str, int]
    changed: dict[str, dict[str, float]]
    thresholds: dict[str, float]
    quantiles: dict[str, dict[str, float]]


def as_json(found: Distribution, old: Thresholds, new: Thresholds) -> RunEvidence:
    """What the limits were set from, as plain data."""
    quantiles: dict[str, dict[str, float]] = {}
    for score in shown(found):
        column = found.of(score)
        if column.size:
            values = np.quantile(column, _POINTS).tolist()
            rounded = [round(value, 6) for value in values]
            quantiles[score] = dict(zip(map(str, _POINTS), rounded, strict=True))
    differences: dict[str, dict[str, float]] = {}
    for name, (before, after) in changed(old, new).items():
        differences[name] = {"old": before, "new": after}
    return {
        "source": "run",
        "samples": found.samples,
        "normal_samples": found.normal_samples,
        "hard_faults": dict(sorted(found.faults.items())),
        "changed": differences,
        "thresholds": new.model_dump(mode="json"),
        "quantiles": quantiles,
    }


def _marks(score: str, old: Thresholds, new: Thresholds) -> list[tuple[str, float]]:
    """The limits of a score by name; one that changes stands as `… old` and `… new`."""
    names = [bound for bound, check in _checks_by_bound().items() if check.score == score]
    names += [name for name, of in _BETTER.items() if of == score]
    marks: list[tuple[str, float]] = []
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if before == after:
            marks.append((name, after))
        else:
            marks += [(f"{name} old", before), (f"{name} new", after)]
    return marks


def _edges(values: Column, bins: int) -> Column:
    """Bins over all but the outermost half percent on either side."""
    low, high = np.quantile(values, (0.005, 0.995)).tolist()
    if high <= low:  # all values are equal
        high = low + 1e-3
    return np.linspace(low, high, bins + 1)


def _inside(name: str, value: float) -> float:
    """Within what the field allows, and rounded to 4 decimals away from the median."""
    for rule in Thresholds.model_fields[name].metadata:
        low = getattr(rule, "ge", getattr(rule, "gt", None))
        high = getattr(rule, "le", getattr(rule, "lt", None))
        if low is not None:
            value = max(value, low)
        elif high is not None:
            value = min(value, high)
    return rounded_outward(value, name)
