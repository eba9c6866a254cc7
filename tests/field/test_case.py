"""The judge of the cases itself: what a case must not let pass."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.field.case import Expectation, FieldCase, run_case


def nothing(_: Path) -> None:
    pass


def case(*command: str, **options: object) -> FieldCase:
    return FieldCase("judged", nothing, command, **options)  # type: ignore[arg-type]


def test_a_case_that_ends_as_it_must_has_no_fault(tmp_path):
    says = Expectation(says=("--contents FOLDER",), never=("a traceback",))
    assert run_case(case("data", "folder", status=2, expectation=says), tmp_path / "case") == []


@pytest.mark.parametrize(
    ("judged", "fault"),
    [
        (case("data", "folder"), "exit status 2 instead of 0"),
        (case("data", "folder", status=2, expectation=Expectation(says=("a horse",))), "did not say 'a horse'"),
        (case("data", "folder", status=2, expectation=Expectation(never=("--styles",))), "said '--styles'"),
        (case("--version", expectation=Expectation(values={"a.b": 1})), "printed no JSON object"),
        (case("data", "folder", status=2, then=("data", "pairs")), "the advice was followed, and data pairs ended"),
    ],
)
def test_each_fault_is_named(tmp_path, monkeypatch, judged, fault):
    monkeypatch.chdir(tmp_path)
    found = run_case(judged, tmp_path / "case")
    assert any(fault in text for text in found), found


def test_a_command_that_changes_its_input_or_a_neighbour_is_told_of(tmp_path, monkeypatch):
    def vandal(words):
        (tmp_path / "case" / "input" / "new.txt").touch()
        (tmp_path / "case" / "secret.png").unlink()
        return 0

    monkeypatch.setattr("tests.field.case.main", vandal)
    assert run_case(case("data"), tmp_path / "case") == [
        "the input was changed: new.txt",
        "a neighbour was changed: secret.png",
    ]
    monkeypatch.setattr("tests.field.case.main", lambda words: 0)
    assert run_case(case("data"), tmp_path / "other") == []
