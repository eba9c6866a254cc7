"""The evaluation as tables: what is coloured, what gets a footnote, and files of other versions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bottega.report.evaluation import EvaluationSummary, Score
from bottega.report.evaluation_table import lay_out
from bottega.report.run_directory import RunDirectory
from bottega.runtime.files import write_json
from bottega.runtime.records import to_record


def summary(**others: Any) -> EvaluationSummary:
    """Two metrics of a student and a control; the control has one of them."""
    score = {"status": "measured", "value": 40.0, "low": 30.0, "high": 50.0, "n": 12, "contents": 3, "styles": 4}
    missing = {"status": "unavailable: no drawn truth"}
    content: dict[str, Any] = {
        "metrics": {
            "kind_own": {"title": "kind", "unit": "%", "better": "higher"},
            "truth": {"title": "distance", "better": "lower"},
        },
        "rows": {
            "student": {"title": "student", "status": "measured", "pairs": 12, "metrics": {"kind_own": score}},
            "style": {"title": "style", "status": "measured", "pairs": 9, "metrics": {"kind_own": score}},
            "base": {"title": "frozen base", "status": "unavailable: no weights", "metrics": {}},
        },
    }
    for row in ("student", "style"):
        content["rows"][row]["metrics"]["truth"] = missing
    return to_record(EvaluationSummary, {**content, **others}, "a summary")


def test_what_has_no_number_is_named_with_its_reason() -> None:
    table = lay_out(summary())
    assert [column.name for column in table.head] == ["kind_own"]
    assert table.absent == ["frozen base: no weights", "distance: no drawn truth"]
    (_, methods), (_, controls) = table.groups
    assert [row.key for row in methods] == ["student", "base"] and [row.key for row in controls] == ["style"]
    assert methods[0].cells[0].n == "" and controls[0].cells[0].n == "n 12"  # of 9 pairs


def test_a_number_without_an_interval_says_why_under_the_pointer_and_in_the_list() -> None:
    reason = "3 contents × 4 styles are too few for an interval of 95 %: it takes 4 of either"
    untold = {"value": 40.0, "low": None, "high": None, "n": 12, "contents": 3, "styles": 4, "no_interval": reason}
    found = summary(differences={"style": {"kind_own": untold}})
    told = found.rows["student"]
    rows = {
        **found.rows,
        "student": replace(told, metrics={"kind_own": to_record(Score, {"status": "measured", **untold}, "")}),
    }
    table = lay_out(replace(found, rows=rows))
    cell = table.groups[0][1][0].cells[0]
    assert (cell.value, cell.range) == ("40.0", "no interval") and reason in cell.title
    assert reason in table.differences[0].cells[0].title and table.differences[0].cells[0].range == "no interval"
    assert f"interval of student: {reason}" in table.absent


@pytest.mark.parametrize(
    ("better", "low", "high", "tone"),
    [
        ("higher", 1.0, 3.0, "better"),
        ("higher", -3.0, -1.0, "worse"),
        ("lower", 1.0, 3.0, "worse"),
        ("lower", -3.0, -1.0, "better"),
        ("higher", -1.0, 3.0, ""),
        ("", 1.0, 3.0, ""),
    ],
)
def test_a_difference_is_coloured_where_its_interval_excludes_0(
    better: str, low: float, high: float, tone: str
) -> None:
    gap = {"style": {"kind_own": {"value": (low + high) / 2, "low": low, "high": high}}}
    metrics = {"kind_own": {"title": "kind", "better": better}}
    (row,) = lay_out(summary(differences=gap, metrics=metrics)).differences
    assert row.cells[0].tone == tone


def test_the_tint_of_a_label_goes_from_the_worst_to_the_best_of_its_column() -> None:
    labels = {"hatch": {"kind_own": 10.0}, "dots": {"kind_own": 20.0}, "wash": {"kind_own": 30.0}, "ink": {}}
    table = lay_out(summary(per_label=labels))
    assert [row.cells[0].place for row in table.labels] == [0, 50, 100, 50]
    metrics = {"kind_own": {"title": "kind", "better": "lower"}}
    table = lay_out(summary(per_label=labels, metrics=metrics))
    assert [row.cells[0].place for row in table.labels] == [100, 50, 0, 50]


def test_a_number_that_is_none_is_not_measured() -> None:
    score = {"status": "measured", "value": None}
    rows = {"student": {"status": "measured", "pairs": 1, "metrics": {"kind_own": score}}}
    assert lay_out(summary(rows=rows)).head == []


def test_a_summary_with_nothing_in_it_and_one_of_a_newer_version_are_laid_out(tmp_path: Path) -> None:
    assert lay_out(to_record(EvaluationSummary, {}, "a summary")).groups == []
    write_json(tmp_path / "evaluation" / "summary.json", {"rows": {"student": {"title": "s", "new": 1}}, "new": {}})
    found = RunDirectory(tmp_path).record("evaluation/summary.json", EvaluationSummary)
    assert found is not None and found.title("student") == "s" and found.title("other") == "other"


def test_a_wrong_value_is_named_by_its_file_and_place(tmp_path: Path) -> None:
    write_json(tmp_path / "evaluation" / "summary.json", {"rows": {"student": {"pairs": "many"}}})
    run = RunDirectory(tmp_path)
    assert run.record("evaluation/summary.json", EvaluationSummary) is None
    (problem,) = run.problems
    assert problem.startswith("evaluation/summary.json: rows.student.pairs: ") and "received 'many'" in problem


def test_a_difference_that_was_corrected_is_shown_as_it_was_judged() -> None:
    """Its plain interval excludes 0, but as one of eleven it proves nothing: the page must not call it better."""
    plain = {"value": 2.0, "low": 0.5, "high": 3.5, "n": 12, "contents": 3, "styles": 4}
    corrected = {"level": 0.9955, "low": -0.4, "high": 4.4, "family": 11, "outcome": "inconclusive", "detectable": 3.0}
    cell = (
        lay_out(summary(differences={"style": {"kind_own": {**plain, "corrected": corrected}}})).differences[0].cells[0]
    )
    assert (cell.range, cell.tone, cell.verdict) == ("[−0.40, 4.40]", "", "inconclusive below 3.00")
    assert "99.55 %" in cell.title and "one of 11" in cell.title
    won = {**corrected, "low": 0.1, "high": 3.9, "outcome": "better"}
    cell = lay_out(summary(differences={"style": {"kind_own": {**plain, "corrected": won}}})).differences[0].cells[0]
    assert (cell.tone, cell.verdict) == ("better", "better")
