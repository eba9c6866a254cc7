"""Grades follow from scores alone: whole or not at all, weights by the rung, and what was not kept is told."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pytest

from bottega.cli.main import main
from bottega.quality.config import EYE_OFF, Thresholds
from bottega.quality.grading import Grade, Grader, grade
from bottega.quality.measuring import SCORES_VERSION, Scores
from bottega.quality.stage import load_thresholds, scores_identity
from bottega.runtime.config import Added
from bottega.runtime.errors import RequestError
from bottega.runtime.files import read_json, write_json
from bottega.teacher.config import Ladder
from bottega.teacher.ledger import Ledger, TryRow
from bottega.teacher.recalibrate import calibrate, enter_scores, jobs_of_run, limits_of_run
from bottega.teacher.regrade import regrade

from .test_ledger import ROW

SOFT = Thresholds(edge_64_c=-1, edge_64_a=0.3, edge_128_c=-1, edge_128_a=-1, content_sim_c=-1, content_sim_a=-1)
HARD = SOFT.model_copy(update={"edge_64_c": 0.25, "edge_64_a": 0.5})


def scores(edge_64: float) -> Scores:
    return {**ROW.scores, "edge_64": edge_64}


def one(
    target: str, index: int, edge_64: float, *, rung: str = "first", kept: bool = True, limits: Thresholds = SOFT
) -> TryRow:
    judged = grade(scores(edge_64), limits)
    return replace(
        ROW,
        target=target,
        try_index=index,
        rung=rung,
        scores=scores(edge_64),
        grade=judged.letter,
        weight=judged.weight,
        reasons=judged.reasons,
        output_path=f"images/{target}_{index}.png" if kept else None,
    )


def entered(path: Path, rows: list[TryRow], parts: dict | None = None) -> Ledger:
    ledger = Ledger(path / "ledger.sqlite")
    default = {"teacher": {"ladder": Ladder().model_dump(mode="json")}, "thresholds": SOFT.model_dump(mode="json")}
    ledger.require_fingerprint("f", parts if parts is not None else default)
    ledger.commit(rows)
    return ledger


def test_counts_are_those_of_grading_each_row_by_hand(tmp_path: Path) -> None:
    rng = random.Random(0)
    rows = [one(f"t{i}", k, rng.random()) for i in range(700) for k in range(1 + i % 3)]
    rng.shuffle(rows)
    with entered(tmp_path, rows) as ledger:
        told = regrade(ledger, HARD, write=True)
        by_hand = {(r.target, r.try_index): grade(r.scores, HARD) for r in rows}
        pairs = [f"{r.grade}->{by_hand[r.target, r.try_index].letter}" for r in rows]
        assert told["tries"] == len(rows)
        assert told["changes"] == {kind: pairs.count(kind) for kind in sorted(set(pairs)) if kind[0] != kind[-1]}
        for row in ledger.current():
            assert (row.grade, row.reasons) == (
                by_hand[row.target, row.try_index].letter,
                by_hand[row.target, row.try_index].reasons,
            )
        best = [row.grade for row in ledger.best()]
        assert told["after"] == {letter: best.count(letter) for letter in sorted(set(best))}
        assert regrade(ledger, HARD)["changes"] == {}


class _LaterThresholds(Thresholds):
    """Limits as a later version has them."""

    later_max: Annotated[float, Added(before=1.0)] = 1.0


def test_limits_are_recorded_as_a_stage_compares_them(tmp_path: Path) -> None:
    later = _LaterThresholds(**SOFT.model_dump())
    with entered(tmp_path, [one("t", 0, 0.4)]) as ledger:
        regrade(ledger, later, write=True)
        recorded = json.loads(ledger.meta("fingerprint_parts") or "{}")["thresholds"]
    assert recorded == later.settings()
    assert "later_max" not in recorded


def test_a_weight_is_the_grades_times_the_rungs(tmp_path: Path) -> None:
    rows = [one("t", 0, 0.1), one("t", 1, 0.4, rung="structure 1"), one("t", 2, 0.6, rung="structure 2")]
    with entered(tmp_path, rows) as ledger:
        regrade(ledger, HARD, write=True)
        step = Ladder().rung_weight
        assert [row.weight for row in ledger.current()] == pytest.approx([0.0, 0.5 * step, 1.0 * step**2])


def test_a_run_from_before_rungs_weighed_less_keeps_its_weights(tmp_path: Path) -> None:
    parts = {"teacher": {"ladder": {"strength_down": 0.8, "ip_up": 1.1667}}, "thresholds": {}}
    with entered(tmp_path, [one("t", 0, 0.1), one("t", 1, 0.6, rung="structure 1")], parts) as ledger:
        regrade(ledger, HARD, write=True)
        assert [row.weight for row in ledger.current()] == [0.0, 1.0]


def test_a_try_whose_picture_was_not_kept_is_told_and_never_exported(tmp_path: Path) -> None:
    rows = [one("a", 0, 0.6), one("a", 1, 0.4, kept=False)]  # nothing changes: the better was kept
    rows += [one("b", 0, 0.28), one("b", 1, 0.26, rung="noise 1", kept=False)]
    rows += [one("c", 0, 0.1), one("c", 1, 0.35, kept=False)]
    with entered(tmp_path, rows) as ledger:
        told = regrade(ledger, HARD, write=True)
        assert told["unkept_try_wins"] == 1  # of c, whose first try is C and whose second is B
        assert told["another_try_wins"] == 0
        assert {row.target: row.try_index for row in ledger.best()} == {"a": 0, "b": 0, "c": 0}
        assert told["after"] == {"A": 1, "B": 1, "C": 1}


def test_the_better_of_two_grades_alike_has_fewer_reasons_before_and_after(tmp_path: Path) -> None:
    worse, better = one("t", 0, 0.1, limits=HARD), replace(one("t", 1, 0.1, limits=HARD), scores=scores(0.2))
    two_reasons = {**worse.scores, "hf_ratio": 99.0}
    worse = replace(worse, scores=two_reasons, reasons=grade(two_reasons, HARD).reasons)
    with entered(tmp_path, [worse, better]) as ledger:
        assert [row.try_index for row in ledger.best()] == [1]
        assert regrade(ledger, HARD)["another_try_wins"] == 0


def test_broken_rows_keep_their_grade(tmp_path: Path) -> None:
    broken = replace(ROW, target="x", status="broken", scores={}, reasons=["broken: gone"], output_path=None)
    with entered(tmp_path, [broken, one("t", 0, 0.6)]) as ledger:
        assert regrade(ledger, HARD, write=True)["changes"] == {}
        assert [row.reasons for row in ledger.current()] == [["broken: gone"], []]


def test_grades_are_entered_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [one(f"t{i}", 0, 0.4) for i in range(50)]
    with entered(tmp_path, rows) as ledger:
        calls = iter(range(100))

        class Failing(Grader):
            def __call__(self, scores: Mapping[str, float]) -> Grade:
                if next(calls) == 30:
                    raise RuntimeError("stop")
                return super().__call__(scores)

        monkeypatch.setattr("bottega.teacher.regrade.Grader", Failing)
        with pytest.raises(RuntimeError, match="stop"):
            regrade(ledger, HARD, write=True)
        assert [row.grade for row in ledger.current()] == ["A"] * 50
        assert limits_of_run(ledger) == SOFT


def test_memory_does_not_grow_with_the_ledger(tmp_path: Path) -> None:
    def peak(count: int) -> float:
        folder = tmp_path / str(count)
        with entered(folder, [one(f"t{i:06d}", 0, i % 100 / 100) for i in range(count)]) as ledger:
            tracemalloc.start()
            regrade(ledger, HARD, write=True)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return most

    assert peak(12_000) <= 1.3 * peak(4_000)


def test_limits_from_a_run_are_written_with_what_they_would_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = random.Random(1)
    rows = [one(f"t{i:03d}", 0, rng.gauss(0.6, 0.1)) for i in range(300)]
    entered(tmp_path, rows).close()
    before = (tmp_path / "ledger.sqlite").read_bytes()
    told = calibrate(tmp_path, tmp_path / "out")
    assert (tmp_path / "ledger.sqlite").read_bytes() == before
    new = Thresholds.model_validate(read_json(tmp_path / "out/thresholds.json"))
    table = read_json(tmp_path / "out/calibration.json")
    assert table["changed"]["edge_64_a"] == {"old": SOFT.edge_64_a, "new": new.edge_64_a}
    below = sum(row.scores["edge_64"] < new.edge_64_a for row in rows)
    assert below == 30
    assert told["regraded"]["changes"].get("A->B", 0) + told["regraded"]["changes"].get("A->C", 0) == pytest.approx(
        30, abs=1
    )
    assert (tmp_path / "out/histograms.png").read_bytes().startswith(b"\x89PNG")
    assert main(["qc", "calibrate", "--teacher-dir", str(tmp_path), "--output-dir", str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "edge_64_a" in said
    assert "grades that change: A->" in said
    assert (tmp_path / "again/thresholds.json").read_bytes() == (tmp_path / "out/thresholds.json").read_bytes()


def test_calibrating_asks_for_truths_or_a_run_and_not_for_both(tmp_path: Path) -> None:
    words = ["qc", "calibrate", "--output-dir", str(tmp_path / "out")]
    assert main(words) == 2
    assert main([*words, "--teacher-dir", str(tmp_path)]) == 2  # no ledger there
    assert main([*words, "--teacher-dir", str(tmp_path), "--pairs", str(tmp_path / "p"), "--data-root", "."]) == 2


def test_a_runs_pictures_are_judged_again_with_the_scores_of_their_rows(
    data: object, teach: object, tmp_path: Path
) -> None:
    teach(tmp_path / "teacher")  # type: ignore[operator]
    jobs = jobs_of_run(tmp_path / "teacher", data.root)  # type: ignore[attr-defined]
    with Ledger(tmp_path / "teacher/ledger.sqlite", must_exist=True) as ledger:
        rows = {row.output_path: row for row in ledger.current()}
    assert sorted(job.name for job in jobs) == sorted(path for path in rows if path is not None)
    words = ["qc", "score", "--teacher-dir", str(tmp_path / "teacher"), "--data-root", str(data.root)]  # type: ignore[attr-defined]
    assert main([*words, "--output", str(tmp_path / "s.jsonl"), "--processes", "1"]) == 0
    for line in (tmp_path / "s.jsonl").read_text().splitlines():
        row = json.loads(line)
        kept = {name: value for name, value in rows[row["file_name"]].scores.items() if name in row["scores"]}
        assert {name: row["scores"][name] for name in kept} == kept


def test_the_command_writes_grades_and_lists(tmp_path: Path) -> None:
    entered(tmp_path, [one("t", 0, 0.4), one("u", 0, 0.6)]).close()
    write_json(tmp_path / "limits.json", HARD.model_dump(mode="json"))
    words = ["qc", "grade", "--teacher-dir", str(tmp_path), "--thresholds", str(tmp_path / "limits.json")]
    assert main(words) == 0
    assert not (tmp_path / "metadata.jsonl").exists()
    assert main([*words, "--write"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [(line["file_name"], line["grade"], line["weight"]) for line in lines] == [
        ("images/t_0.png", "B", 0.5),
        ("images/u_0.png", "A", 1.0),
    ]
    assert (tmp_path / "qc_overrides.jsonl").read_text() == ""


def test_scores_of_an_older_definition_are_not_graded_by_limits_of_this_one(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.require_fingerprint("a", {"models": {}, "thresholds": Thresholds().model_dump(mode="json")})
        with pytest.raises(RequestError, match=r"version 1, this program.s of 2.*qc score"):
            regrade(ledger, Thresholds())


def test_tries_without_the_eyes_score_are_counted_and_their_score_is_added_to_what_they_have(tmp_path: Path) -> None:
    rows = [one("t1", 0, 0.6), one("t2", 0, 0.6)]
    rows[1] = replace(rows[1], scores={**rows[1].scores, "damage": -3.0})
    parts = {"thresholds": SOFT.settings(), "scores": {"version": SCORES_VERSION}}
    with entered(tmp_path, rows, parts) as ledger:
        assert regrade(ledger, SOFT)["without_eye"] == 1
        without = SOFT.model_copy(update={"damage_max": EYE_OFF, "damage_a": EYE_OFF, "damage_confirm": -EYE_OFF})
        assert regrade(ledger, without)["without_eye"] == 0
    measured = [
        {"file_name": "images/t1_0.png", "scores": {"edge_64": 0.0, "damage": 9.0}},
        {"file_name": "images/t2_0.png", "scores": {"damage": 9.0}},
        {"file_name": "images/elsewhere.png", "scores": {"damage": 9.0}},
    ]
    assert enter_scores(tmp_path, measured, at_once=2) == 1
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        found = {row.target: row.scores for row in ledger.current()}
        assert (found["t1"]["edge_64"], found["t1"]["damage"], found["t2"]["damage"]) == (0.6, 9.0, -3.0)
        told = regrade(ledger, SOFT, write=True)
        assert (told["without_eye"], told["after"]) == (0, {"A": 1, "C": 1})
        recorded = json.loads(ledger.meta("fingerprint_parts") or "{}")
        assert recorded["scores"] == scores_identity(SOFT)


def test_scores_are_written_to_a_run_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["qc", "score", "--output", str(tmp_path / "s.jsonl"), "--data-root", str(tmp_path), "--write"]
    assert main(words) == 2
    assert "name the run with --teacher-dir" in capsys.readouterr().err


def test_limits_of_an_earlier_version_do_without_the_eye(tmp_path: Path) -> None:
    later = ("damage_", "distance_")
    earlier = {name: value for name, value in SOFT.model_dump().items() if not name.startswith(later)}
    write_json(tmp_path / "earlier.json", earlier)
    assert not load_thresholds(tmp_path / "earlier.json").uses_eye
    assert load_thresholds(tmp_path / "earlier.json").settings() == earlier  # so that its run resumes
    write_json(tmp_path / "by hand.json", {"edge_64_c": -1})
    assert load_thresholds(tmp_path / "by hand.json").uses_eye
