"""Limits set on some truths keep others, and let no untouched copy through."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.quality.calibrate import PLANS, calibrate, damaged
from bottega.quality.config import Thresholds
from bottega.quality.grade import grade
from bottega.quality.measure import measure
from bottega.runtime.errors import RequestError

from .conftest import Triple, plain_encoder


@pytest.fixture(scope="module")
def scores(triples: list[Triple]) -> dict[str, list[dict[str, float]]]:
    kinds: dict[str, list[dict[str, float]]] = {}
    for i, one in enumerate(triples):
        for kind, picture in {"good": one.truth, **damaged(one.truth, one.content, i)}.items():
            kinds.setdefault(kind, []).append(measure(picture, one.content, one.style, encoder=plain_encoder))
    return kinds


def test_98_percent_of_the_truths_are_not_c_nearly_as_many_unseen_ones_and_every_copy_is(
    scores: dict, fresh_triples: list[Triple]
) -> None:
    found = calibrate(scores["good"], scores["untouched"] + scores["reencoded"])
    assert found.grades["good"]["C"] <= 0.02
    fresh = [measure(t.truth, t.content, t.style, encoder=plain_encoder) for t in fresh_triples]
    assert sum(grade(s, found.thresholds).letter == "C" for s in fresh) <= 0.06 * len(fresh)
    for one in fresh_triples:
        copy = grade(measure(one.content, one.content, one.style, encoder=plain_encoder), found.thresholds)
        assert "unchanged" in copy.causes


def test_the_table_says_what_each_kind_passes(scores: dict) -> None:
    bad = {kind: rows for kind, rows in scores.items() if kind not in ("good", "untouched")}
    found = calibrate(scores["good"], scores["untouched"] + scores["reencoded"], bad=bad)
    assert found.counts["good"] == len(scores["good"])
    assert found.pass_rates["black"]["black"] == 0
    assert found.pass_rates["flat"]["constant"] == 0
    assert found.pass_rates["noise"]["structure"] < 0.1
    assert found.pass_rates["noise"]["noise"] == 0
    assert found.pass_rates["blurred"]["blur"] < 0.6
    for kind in ("untouched", "reencoded", "black", "flat", "noise"):
        assert found.grades[kind]["C"] == 1, kind


def test_an_a_is_what_nine_in_ten_truths_reach_in_each_score(scores: dict) -> None:
    found = calibrate(scores["good"], scores["untouched"])
    reached = sum(row["edge_64"] >= found.thresholds.edge_64_a for row in scores["good"])
    assert 0.88 <= reached / len(scores["good"]) <= 0.92


def test_what_may_be_lost_is_lost_over_all_checks_together() -> None:
    rng = np.random.default_rng(0)
    middle = dict.fromkeys((plan.score for plan in PLANS.values()), 0.0)
    middle |= {"hf_ratio": 1.0, "sharpness": 1.2, "vigour": 1.0, "mesh": 1.5, "noise": 1.5, "ghosting": 0.15}
    middle |= {"structure": 0.7, "edge_64": 0.6, "edge_128": 0.5, "bright": 0.9, "spread": 0.2, "change": 0.3}
    good = [
        {"finite": 1.0} | {name: value + 0.05 * float(rng.standard_normal()) for name, value in middle.items()}
        for _ in range(4000)
    ]
    copies = [{**row, "change": 0.0} for row in good[:50]]
    for keep_good in (0.98, 0.99):
        lost = calibrate(good, copies, keep_good=keep_good).grades["good"]["C"]
        assert 0.4 * (1 - keep_good) < lost <= 0.6 * (1 - keep_good)


def test_a_check_that_catches_nothing_bad_is_named(scores: dict) -> None:
    found = calibrate(scores["good"], scores["untouched"])
    assert any("check frequency passes every known-bad picture" in w for w in found.warnings)


def test_truths_that_do_not_differ_from_copies_are_refused(scores: dict) -> None:
    with pytest.raises(RequestError, match="must differ more"):
        calibrate(scores["untouched"], scores["untouched"], defaults=Thresholds())
    with pytest.raises(RequestError, match="8 good pictures or more"):
        calibrate(scores["good"][:5], scores["untouched"])
