"""Verdicts: no winner inside the noise, and what an inconclusive one can't exclude."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bottega.evaluation.factors import FactorEstimate, crossed_seeds_mean
from bottega.evaluation.verdicts import POWER, corrected, detectable, figures


def seeds_only(values: np.ndarray) -> FactorEstimate:
    """The differences of some seeds, whose interval is Student's own: every number has an oracle."""
    return crossed_seeds_mean(values.reshape(1, 1, -1))


def of_t(t: float, n: int = 10) -> FactorEstimate:
    """A difference that lies `t` standard errors from 0."""
    spread = np.linspace(-1, 1, n)
    return seeds_only(spread + t * spread.std(ddof=1) / np.sqrt(n))


def test_adjusted_p_values_are_holms() -> None:
    differences = {"a": of_t(5.0), "b": of_t(2.6), "c": of_t(-3.4), "d": of_t(0.3)}
    found = corrected(differences, dict.fromkeys(differences, "higher"))
    plain = {name: 2 * stats.t.sf(abs(t), 9) for name, t in (("a", 5.0), ("c", 3.4), ("b", 2.6), ("d", 0.3))}
    expected, highest = {}, 0.0
    for left, (name, p) in zip((4, 3, 2, 1), plain.items(), strict=True):
        highest = max(highest, left * p)
        expected[name] = highest
    for name, p in expected.items():
        assert found[name].p_value == pytest.approx(p, rel=1e-3)
    assert {name: one.outcome for name, one in found.items()} == {
        "a": "better",
        "b": "inconclusive",
        "c": "worse",
        "d": "inconclusive",
    }
    assert list(found) == list(differences)


def test_what_one_metric_alone_would_show_is_inconclusive_among_many() -> None:
    alone = corrected({"x": of_t(2.6)}, {"x": "higher"})["x"]
    others = {f"y{k}": of_t(0.1) for k in range(10)}
    among = corrected({"x": of_t(2.6), **others}, dict.fromkeys(["x", *others], "higher"))["x"]
    assert (alone.outcome, among.outcome) == ("better", "inconclusive")
    assert alone.level == 0.95 and among.level == pytest.approx(1 - 0.05 / 11)
    assert among.low is not None and among.high is not None and among.low < 0 < among.high
    assert among.family == 11


def test_a_shown_interval_leaves_out_zero_where_there_is_a_winner_and_only_there() -> None:
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(100):
        differences = {str(k): of_t(float(rng.normal(0, 3)), int(rng.integers(3, 12))) for k in range(6)}
        for one in corrected(differences, dict.fromkeys(differences, "lower")).values():
            assert one.low is not None and one.high is not None
            assert (one.low > 0 or one.high < 0) == (one.outcome in ("better", "worse"))
            if one.outcome == "better":
                assert one.estimate.value < 0
            outcomes.add(one.outcome)
    assert outcomes == {"better", "worse", "inconclusive"}


def test_no_family_without_a_difference_has_a_winner_more_often_than_it_may() -> None:
    """500 families of eight metrics that share half of their noise: a winner in 5 % of them at most."""
    rng = np.random.default_rng(1)
    false = uncorrected = 0
    for _ in range(500):
        shared = rng.normal(size=6)
        differences = {str(k): seeds_only(shared + rng.normal(size=6)) for k in range(8)}
        found = corrected(differences, dict.fromkeys(differences, "higher")).values()
        false += any(one.outcome != "inconclusive" for one in found)
        uncorrected += any((one.estimate.p_value() or 1) < 0.05 for one in found)
    assert false <= 35  # 5 %, and two standard errors of 500 families
    assert uncorrected > 75


def test_the_detectable_difference_is_seen_with_the_stated_power() -> None:
    """Against the noncentral t distribution, which is what a t test of a true difference follows."""
    for n in (4, 6, 11, 40):
        estimate = of_t(0.0, n)
        smallest = detectable(estimate)
        assert smallest is not None and estimate.standard_error is not None
        shift = smallest / estimate.standard_error
        seen = stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, shift)
        assert seen == pytest.approx(POWER, abs=0.03)


def test_a_metric_without_a_good_direction_differs_and_one_without_an_interval_is_no_test() -> None:
    one = np.ones((3, 3, 2))
    found = corrected({"n": of_t(9.0), "equal": crossed_seeds_mean(one)}, {"n": "neither", "equal": "higher"})
    assert found["n"].outcome == "differs"
    assert found["n"].family == 1
    assert found["equal"].verdict.startswith("not known: all scores are equal")
    assert found["equal"].record()["p_value"] is None


def test_an_inconclusive_verdict_says_what_cannot_be_seen() -> None:
    estimate = of_t(0.5)
    one = corrected({"x": estimate}, {"x": "higher"})["x"]
    smallest = detectable(estimate)
    assert smallest is not None
    assert one.verdict == f"inconclusive: differences below {figures(smallest)} cannot be seen with this design"
    assert one.record()["power"] == 0.8


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.01234, "0.012"), (3.14, "3.1"), (123.4, "123"), (2e-5, "2.0e-05")]
)
def test_numbers_have_two_figures(value: float, text: str) -> None:
    assert figures(value) == text
