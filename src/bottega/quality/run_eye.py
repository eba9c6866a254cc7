"""What a run shows that no single picture does: faults that all share, styles that vanish, drift, copies.

Rows are entered one by one; what is kept grows by some 200 bytes a row. Everything is relative to what the contents and
styles themselves would give: `…_shift` is zero for a picture between its content and its style.

| finding | when |
|---|---|
| check | one check rejects more than CHECK_SHARE of the first tries |
| cast | light, a or b lies beyond both content and style, on the same side in most pictures |
| opposite | light or colour is where the content has its opposite: inverted, or channels swapped |
| bgr | colours fit content and style better if red and blue change places |
| one_mean | all pictures have one mean colour |
| style | a style loses more than LOST_SHARE of its pictures, and more than the others do |
| drift | the last third of the run is rejected more often than the first |
| copies | the same picture stands for several targets |
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

ENOUGH = 30
"""First tries; fewer say nothing about a run."""

CHECK_SHARE = 1 / 3
LOST_SHARE = 1 / 3
SAME_SIDE = 0.8
"""Share of the pictures that must lie on one side for a cast."""

CAST_LEVELS = {"light_shift": 10.0, "a_shift": 4.0, "b_shift": 4.0}
"""Of the median, levels: below it nobody would see it."""

OPPOSITE = -0.3
"""Of the median correlation with the content."""

OPPOSITE_SHARE = 0.65
"""Of the pictures, with its error. Styles have palettes of their own, and a run has few: of 16 sound runs of 90
pictures in 24 styles the worst had a median of -0.56 and 0.56 of its pictures below zero."""

ONE_MEAN_LEVELS = 2.0
"""Deviation of the mean colours over a run; drawn or photographed contents have 10 and more."""

BGR_LEVELS = 1.0
BGR_SHARE = 0.55
"""Of good pictures, which have colours of their own, at most a quarter fit better with red and blue changed."""

DRIFT_SHARE = 0.2
ALIKE_BY_FAULT = frozenset({"black", "constant"})
OF_A_STYLE = 10
"""Pictures of a style; of fewer, of thousands of styles, some are lost by chance."""

STYLES_NAMED = 5
SURE = 2.5
"""Standard deviations that a difference must lie from what chance gives."""

_SAID = {
    "light_shift": ("lighter", "darker"),
    "a_shift": ("redder", "greener"),
    "b_shift": ("yellower", "bluer"),
}
_FOLLOWED = {
    "light_follows": "light and dark are",
    "a_follows": "red and green are",
    "b_follows": "yellow and blue are",
}
_MEANS = ("mean_light", "mean_a", "mean_b")
_OPPOSITE_CAUSE = {
    "light_follows": "inverted pictures",
    "a_follows": "swapped or inverted channels",
    "b_follows": "swapped channels, BGR for RGB, or inverted ones",
}

Column = npt.NDArray[np.float64]


class RunRow(NamedTuple):
    """What is looked at of a target's first try. style: what the pictures of one style share, such as its genre."""

    style: str
    letter: str
    causes: tuple[str, ...]
    scores: Mapping[str, float]
    output_sha256: str | None


@dataclass(frozen=True)
class RunFinding:
    """Something that a whole run shows.

    kind: of the table above. subject: which check, plane or style. text: for a person, with what to do.
    """

    kind: str
    subject: str
    text: str

    @property
    def key(self) -> str:
        """Kind and subject: the same finding later has the same, with other numbers in its text."""
        return f"{self.kind} {self.subject}"


@dataclass
class RunEye:
    """Collects the first tries of a run and says what they share."""

    rejected: array[int] = field(default_factory=lambda: array("b"))
    columns: dict[str, array[float]] = field(default_factory=dict)
    causes: Counter[str] = field(default_factory=Counter)
    of_style: dict[str, list[int]] = field(default_factory=dict)
    """By style: pictures, and those rejected."""
    outputs: Counter[str] = field(default_factory=Counter)

    def add(self, row: RunRow) -> None:
        """Enter a first try, in the order of the work."""
        is_rejected = row.letter == "C"
        self.rejected.append(is_rejected)
        self.causes.update(set(row.causes) if is_rejected else ())
        counts = self.of_style.setdefault(row.style, [0, 0])
        counts[0] += 1
        counts[1] += is_rejected
        for name in (*CAST_LEVELS, *_FOLLOWED, *_MEANS, "bgr_fits"):
            if name in row.scores:
                self.columns.setdefault(name, array("f")).append(row.scores[name])
        # Black pictures are equal too, but for another cause.
        if row.output_sha256 is not None and not ALIKE_BY_FAULT & set(row.causes):
            self.outputs[row.output_sha256[:16]] += 1

    def findings(self) -> list[RunFinding]:
        """What is found by now; nothing below ENOUGH tries."""
        if len(self.rejected) < ENOUGH:
            return []
        found = [*self._checks(), *self._casts(), *self._opposites(), *self._bgr(), *self._one_mean()]
        return [*found, *self._styles(), *self._drift(), *self._copies()]

    def _checks(self) -> list[RunFinding]:
        count = len(self.rejected)
        found: list[RunFinding] = []
        for name, number in self.causes.most_common():
            if lower_share(number, count) > CHECK_SHARE:
                text = (
                    f"check {name} rejects {number} of {count} first tries: either all have this fault, or its limit "
                    f"does not fit these pictures; look at them with bottega qc sheet --reason {name}"
                )
                found.append(RunFinding("check", name, text))
        return found

    def _casts(self) -> list[RunFinding]:
        found: list[RunFinding] = []
        for name, least in CAST_LEVELS.items():
            values = self._column(name)
            if values.size < ENOUGH:
                continue
            median = float(np.median(values))
            side = float((np.sign(values) == np.sign(median)).mean())
            if abs(median) >= least and side >= SAME_SIDE:
                word = _SAID[name][median < 0]
                text = (
                    f"the pictures are {word} than both their content and their style, by {abs(median):.0f} levels in "
                    f"the median, {side:.0%} of {values.size}: a colour error that all share"
                )
                found.append(RunFinding("cast", name, text))
        return found

    def _opposites(self) -> list[RunFinding]:
        found: list[RunFinding] = []
        for name, subject in _FOLLOWED.items():
            values = self._column(name)
            if values.size < ENOUGH:
                continue
            median = float(np.median(values))
            below = int((values < 0).sum())
            if median < OPPOSITE and lower_share(below, values.size) > OPPOSITE_SHARE:
                text = (
                    f"{subject} where the content has the opposite, in {below} of {values.size} pictures (median "
                    f"correlation {median:.2f}): {_OPPOSITE_CAUSE[name]}"
                )
                found.append(RunFinding("opposite", name, text))
        return found

    def _bgr(self) -> list[RunFinding]:
        values = self._column("bgr_fits")
        values = values[np.abs(values) >= BGR_LEVELS]  # grey pictures say nothing
        if values.size < ENOUGH:
            return []
        fitting = int((values > 0).sum())
        if lower_share(fitting, values.size) < BGR_SHARE:
            return []
        text = (
            f"the colours of {fitting} of {values.size} coloured pictures fit content and style better if red and blue "
            "change places: BGR was taken for RGB somewhere"
        )
        return [RunFinding("bgr", "", text)]

    def _one_mean(self) -> list[RunFinding]:
        columns = [self._column(name) for name in _MEANS]
        if min(column.size for column in columns) < ENOUGH:
            return []
        spread = max(float(column.std()) for column in columns)
        if spread >= ONE_MEAN_LEVELS:
            return []
        text = (
            f"all {columns[0].size} pictures have one mean colour (deviation {spread:.1f} levels): contents and styles "
            "have no influence on it"
        )
        return [RunFinding("one_mean", "", text)]

    def _styles(self) -> list[RunFinding]:
        all_count, all_lost = len(self.rejected), sum(self.rejected)
        found: list[RunFinding] = []
        for style, (count, lost) in sorted(self.of_style.items()):
            others = all_count - count
            if count < OF_A_STYLE or not others:
                continue
            rest = (all_lost - lost) / others
            if lower_share(lost, count) > max(LOST_SHARE, rest):
                text = (
                    f"style {style!r} loses {lost} of its {count} pictures, the other styles {rest:.0%}: the data set "
                    "will lack it; look at the pictures, and calibrate if they are good"
                )
                found.append(RunFinding("style", style, text))
        if len(found) > STYLES_NAMED:
            more = len(found) - STYLES_NAMED
            return [*found[:STYLES_NAMED], RunFinding("style", "more", f"{more} more styles lose as many pictures")]
        return found

    def _drift(self) -> list[RunFinding]:
        third = len(self.rejected) // 3
        if third < ENOUGH:
            return []
        first, last = sum(self.rejected[:third]), sum(self.rejected[-third:])
        if lower_share(last, third) - upper_share(first, third) <= 0 or (last - first) / third < DRIFT_SHARE:
            return []
        text = (
            f"the last third of the run loses {last} of {third} pictures, the first {first}: something changed on the "
            "way, such as the order of the pairs, a device that overheats or a LoRA that stayed"
        )
        return [RunFinding("drift", "", text)]

    def _copies(self) -> list[RunFinding]:
        copies = sum(number - 1 for number in self.outputs.values())
        if not copies:
            return []
        text = (
            f"{copies} of {self.outputs.total()} pictures are byte for byte equal to another target's: content, style "
            "or seed does not reach the model"
        )
        return [RunFinding("copies", "", text)]

    def _column(self, name: str) -> Column:
        return np.array(self.columns.get(name, ()), np.float64)


def lower_share(number: int, count: int) -> float:
    """The least share that `number` of `count` speaks for: the lower end of Wilson's interval at SURE deviations."""
    return _wilson(number, count, -1)


def upper_share(number: int, count: int) -> float:
    """The largest share that `number` of `count` speaks for."""
    return _wilson(number, count, 1)


def _wilson(number: int, count: int, side: int) -> float:
    """An end of Wilson's interval. After Wilson, "Probable inference", JASA 22, 1927."""
    share = number / count
    squared = SURE * SURE
    centre = share + squared / (2 * count)
    half = SURE * math.sqrt(share * (1 - share) / count + squared / (4 * count * count))
    return (centre + side * half) / (1 + squared / count)
