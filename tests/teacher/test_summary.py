"""The numbers of a run, counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bottega.quality.config import Thresholds
from bottega.runtime.files import read_json
from bottega.teacher.config import TeacherConfig
from bottega.teacher.recalibrate import grade_again
from bottega.teacher.summary import count_tries, describe_painter, painter_facts, summarise, write_summary

from .test_ledger import ROW
from .test_regrade import HARD, entered, one


def test_tries_grades_seconds_and_style_gains_are_counted_by_rung_and_by_target(tmp_path: Path) -> None:
    def made(target: str, index: int, edge_64: float, gain: float | None, seconds: float, rung: str = "first"):
        row = one(target, index, edge_64, rung=rung, limits=HARD)
        scores = {name: value for name, value in row.scores.items() if name != "style_gain"}
        if gain is not None:
            scores["style_gain"] = gain
        return replace(row, scores=scores, seconds=seconds)

    rows = [
        made("a", 0, 0.1, 0.10, 1.0),  # C, then A
        made("a", 1, 0.6, 0.32, 2.0, "noise 1"),
        made("b", 0, 0.3, 0.16, 3.0),  # B
        made("c", 0, 0.6, None, 6.0),  # A, its gain was not measured
        replace(ROW, target="d", status="broken", scores={}, reasons=["broken: gone"], output_path=None, grade="C"),
    ]
    with entered(tmp_path, rows) as ledger:
        counts = count_tries(ledger, HARD)
    told = {name: counts[name] for name in ("targets", "tries", "made", "passed", "accepted", "broken", "failed")}
    assert told == {"targets": 4, "tries": 4, "made": 4, "passed": 3, "accepted": 3, "broken": 1, "failed": 0}
    assert counts["grades"] == {"A": 2, "B": 1, "C": 0}
    assert counts["grades_by_rung"] == {"first": {"A": 1, "B": 1, "C": 1}, "noise 1": {"A": 1}}
    assert counts["style_gain_by_rung"] == {"first": pytest.approx(0.13), "noise 1": pytest.approx(0.32)}
    assert counts["tries_per_accepted"] == pytest.approx(4 / 3, abs=1e-3)
    assert counts["seconds_per_picture"] == pytest.approx(12 / 4)
    assert counts["seconds_per_accepted"] == pytest.approx(12 / 3)


def test_who_painted_is_told_in_facts_and_in_a_sentence() -> None:
    painted = painter_facts(TeacherConfig(size=128, sampler="euler"))
    assert (painted["source"], painted["painter"], painted["protocol"]) == (
        "sdxl",
        "SDXL with the IP-Adapter",
        "stabilised",
    )
    assert set(painted["departures"]) == {"size", "sampler"}
    told = describe_painter(painted)
    assert told.startswith("SDXL with the IP-Adapter, protocol stabilised, 10 U-Net calls from t = 361; departures: ")
    assert "size 128 instead of 512" in told and "sampler euler instead of ddim" in told

    drawn = painter_facts(TeacherConfig(source="oracle", size=128, strength=0.9))
    assert (drawn["protocol"], drawn["schedule"]) == (None, None)
    assert drawn["departures"] == {"source": {"protocol": "sdxl", "here": "oracle"}}
    assert describe_painter(drawn).startswith("oracle (drawn truth): ") and "SDXL" not in describe_painter(drawn)


def test_the_summary_in_the_folder_follows_when_the_run_is_graded_again(tmp_path: Path) -> None:
    config = TeacherConfig(source="oracle")
    with entered(tmp_path, [one("a", 0, 0.6, limits=HARD)]) as ledger:
        write_summary(summarise(ledger, HARD, config), tmp_path)
    before = read_json(tmp_path / "summary.json")
    assert (before["source"], before["grades"]) == ("oracle", {"A": 1, "B": 0, "C": 0})
    grade_again(tmp_path, Thresholds(edge_64_a=0.9, edge_64_c=0.8), write=True)
    after = read_json(tmp_path / "summary.json")
    assert after["source"] == "oracle" and after["grades"]["A"] == 0
