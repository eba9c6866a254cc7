"""Which of two methods is better, said only where the numbers bear it; else "inconclusive", with what was not visible.

With eleven metrics and no difference at all, one of them "differs" at 5 % in two tables of five. Holm's procedure
(1979) keeps the chance of any false winner in the family below 5 %: the smallest p-value is tested at 5 % / 11, the
next at 5 % / 10, and so on until one fails; that one and all after it are inconclusive, at the level of that step.
The interval that is shown has the level at which its difference was tested, so that it leaves out 0 where there is a
winner and only there.

What an inconclusive table can't exclude is said as a number: the smallest difference that this design would have shown
in 80 % of all repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bottega.evaluation.factors import FactorEstimate
from bottega.evaluation.records import CorrectedRecord
from bottega.evaluation.t_distribution import quantile

Direction = Literal["higher", "lower", "neither"]
Outcome = Literal["better", "worse", "differs", "inconclusive", "not known"]

POWER = 0.8
"""Share of repetitions in which a difference of the detectable size would be seen; what study designs usually take."""


@dataclass(frozen=True)
class Corrected:
    """A difference as one of a family of tests.

    Attributes:
        estimate: the difference, first minus second.
        level: coverage of the interval: that of the step at which Holm's procedure tests this difference.
        low, high: the interval at that level; None where it is not known.
        p_value: Holm's, to be compared with 1 minus the family's level; None where it is not known.
        family: how many differences were tested together.
        outcome: of the first method. "differs" is for a metric without a good direction.
        detectable: the smallest difference that the design shows with the power `POWER`; None where it is not known.
    """

    estimate: FactorEstimate
    level: float
    low: float | None
    high: float | None
    p_value: float | None
    family: int
    outcome: Outcome
    detectable: float | None

    @property
    def verdict(self) -> str:
        """The outcome in words, with what an inconclusive one can't exclude."""
        if self.outcome == "not known":
            return f"not known: {self.estimate.no_interval}"
        if self.outcome == "inconclusive" and self.detectable is not None:
            return f"inconclusive: differences below {figures(self.detectable)} cannot be seen with this design"
        return self.outcome

    def record(self) -> CorrectedRecord:
        """As JSON."""
        return {
            "level": self.level,
            "low": self.low,
            "high": self.high,
            "p_value": self.p_value,
            "family": self.family,
            "outcome": self.outcome,
            "detectable": self.detectable,
            "power": POWER,
            "verdict": self.verdict,
        }


def corrected(
    differences: Mapping[str, FactorEstimate], better: Mapping[str, Direction], *, level: float = 0.95
) -> dict[str, Corrected]:
    """Holm's correction of a family of differences, and the verdict on each.

    Args:
        differences: first minus second by name, usually of the metric; one without an interval is no test.
        better: by the same names, which direction is good.
        level: 1 minus the chance of any false winner in the family, a share.

    Returns:
        By name, in the order of `differences`.
    """
    p_values: dict[str, float] = {}
    for name, estimate in differences.items():
        p = estimate.p_value()
        if p is not None:
            p_values[name] = p
    steps = _steps(p_values, 1 - level)
    return {name: _judged(differences[name], better[name], steps.get(name), level, len(steps)) for name in differences}


def detectable(estimate: FactorEstimate, *, level: float = 0.95, power: float = POWER) -> float | None:
    """The smallest difference whose interval leaves out 0 with this power; None without an interval.

    Args:
        estimate: any difference that was measured with the design.
        level: of the interval, a share.
        power: share of repetitions in which the difference is to be seen.
    """
    if estimate.standard_error is None or estimate.degrees_of_freedom is None:
        return None
    beyond = float(quantile(power, estimate.degrees_of_freedom))
    return estimate.standard_error * (estimate.multiplier(level) + beyond)


def figures(value: float) -> str:
    """A number with two significant figures, without an exponent where that is short."""
    if value == 0 or 0.001 <= abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.1e}"


@dataclass(frozen=True)
class _HolmStep:
    """Of Holm's procedure: the share of false winners at which a difference is tested, and its adjusted p-value."""

    miss: float
    p_value: float
    rejected: bool


def _steps(p_values: Mapping[str, float], miss: float) -> dict[str, _HolmStep]:
    found: dict[str, _HolmStep] = {}
    adjusted, going, tested_at = 0.0, True, miss
    for passed, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        left = len(p_values) - passed
        # Never below an earlier one: whoever comes after a difference that failed has failed too.
        adjusted = max(adjusted, min(1.0, left * p_values[name]))
        if going:
            tested_at = miss / left
            going = p_values[name] <= tested_at
        found[name] = _HolmStep(tested_at, adjusted, going)
    return found


def _judged(
    estimate: FactorEstimate, better: Direction, step: _HolmStep | None, level: float, family: int
) -> Corrected:
    if step is None:
        return Corrected(estimate, level, None, None, None, family, "not known", None)
    at = 1 - step.miss
    interval = estimate.interval(at)
    low, high = interval if interval is not None else (None, None)
    outcome: Outcome = _winner(estimate.value, better) if step.rejected else "inconclusive"
    return Corrected(estimate, at, low, high, step.p_value, family, outcome, detectable(estimate, level=at))


def _winner(value: float, better: Direction) -> Outcome:
    if better == "neither":
        return "differs"
    return "better" if (value > 0) == (better == "higher") else "worse"
