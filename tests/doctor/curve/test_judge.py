"""The judgement of a curve from losses alone: it needs no log, no file and no trainer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bottega.doctor.curve import LossCurve, judge
from bottega.doctor.losses import F64, LossBatch
from bottega.runtime.findings import Finding
from bottega.runtime.seeds import numpy_rng


def curve_of(*parts: F64, rate: float = math.nan) -> LossCurve:
    """A curve of losses one step apart; each part but the first follows a resume."""
    curve, step = LossCurve(), 0
    for number, losses in enumerate(parts):
        steps = np.arange(step + 1.0, step + 1.0 + len(losses))
        curve.add(LossBatch(steps, losses, np.full(len(losses), rate), resumed=number > 0))
        step += len(losses)
    curve.settle()
    return curve


def noisy(level: F64, spread: float = 0.3, seed: int = 0) -> F64:
    noise: F64 = level * np.exp(spread * numpy_rng("judge", seed).standard_normal(len(level)))
    return noise


def names(curve: LossCurve) -> list[str]:
    return [finding.name for finding in judge(curve, "step")]


SHARE = np.linspace(0, 1, 3000)


def test_a_curve_that_falls_one_that_settles_and_one_that_never_moved() -> None:
    assert names(curve_of(noisy(0.3 / (1 + 30 * SHARE)))) == ["falling"]
    assert names(curve_of(noisy(0.03 + 0.3 * np.exp(-18 * SHARE)))) == ["plateaued"]
    assert names(curve_of(noisy(np.full(3000, 0.1)))) == ["flat throughout"]


def test_too_few_losses_and_equal_ones() -> None:
    assert names(curve_of(np.array([0.3, 0.2]))) == ["not enough to tell"]
    assert names(curve_of(np.full(100, 0.25))) == ["constant"]
    assert names(curve_of(np.zeros(12))) == ["constant"]


@pytest.mark.parametrize(
    ("place", "evidence"),
    [
        (slice(2500, None), "step 2501, and none has been finite since"),
        (slice(700, 703), "step 701, 3 in all; the loss is finite again"),
    ],
)
def test_where_losses_are_not_finite_and_whether_they_recovered(place: slice, evidence: str) -> None:
    losses = noisy(np.full(3000, 0.1))
    losses[place] = math.nan
    first = judge(curve_of(losses), "step")[0]
    assert first.name == "not finite" and first.evidence.endswith(evidence)


def test_breaks_at_the_end_are_counted_over_several_batches() -> None:
    losses = np.full(40, 0.1)
    losses[5] = math.nan
    curve = curve_of(losses, np.full(7, math.nan), np.full(2, math.inf))
    assert (curve.num_nonfinite, curve.num_nonfinite_at_end, curve.first_nonfinite) == (10, 9, 6.0)


def test_a_jump_at_a_resume_has_its_size_and_is_not_called_diverging() -> None:
    before, after = noisy(np.full(2000, 0.1), seed=1), noisy(np.full(1500, 0.25), seed=2)
    curve = curve_of(before, after)
    assert "resumed with a jump" in names(curve) and "diverging" not in names(curve)
    (jump,) = curve.jumps
    assert (jump.step, jump.place) == (2001.0, 2000)
    assert math.exp(jump.size.value) == pytest.approx(2.5, rel=0.15)


def test_validations_that_rise_while_the_loss_falls_are_overfitting() -> None:
    curve = curve_of(noisy(0.3 / (1 + 30 * SHARE)))
    validations = [(100.0 * k, 0.2 + 0.01 * abs(k - 8)) for k in range(30)]
    found = judge(curve, "step", validations=validations)
    assert [finding.name for finding in found] == ["overfitting", "falling"]
    assert "best, 0.2, at step 800" in found[0].evidence


def test_what_was_found_elsewhere_takes_its_place_by_severity() -> None:
    curve = curve_of(noisy(0.3 / (1 + 30 * SHARE)))
    found = judge(curve, "step", others=[Finding("task starved", "seen")])
    assert [finding.name for finding in found] == ["task starved", "falling"]


def test_a_curve_in_batches_of_any_size_is_the_same_curve() -> None:
    losses = noisy(0.3 / (1 + 30 * SHARE))
    whole, parts = curve_of(losses), LossCurve()
    for at in range(0, 3000, 7):
        steps = np.arange(at + 1.0, min(at + 8.0, 3001.0))
        parts.add(LossBatch(steps, losses[at : at + 7], np.full(len(steps), math.nan), resumed=False))
    for a, b in zip(whole.logs.blocks, parts.logs.blocks, strict=True):
        assert (a.count, a.mean) == (b.count, pytest.approx(b.mean))
    assert whole.lag.correlation == pytest.approx(parts.lag.correlation, abs=1e-9)
