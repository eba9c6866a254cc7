"""What every doctor answers, as text, as JSON and as an exit code."""

from __future__ import annotations

import json

import pytest

from bottega.doctor.answer import Answer, DoctorFinding, NotJudged
from bottega.runtime.findings import Severity

NOTE = DoctorFinding("flat copy", Severity.INFO, "a folder without links")
WARNING = DoctorFinding(
    "half-finished download", Severity.WARNING, "3 of 5 MB", "continue it", "bottega models fetch a/b"
)
FAULT = DoctorFinding("dangling link", Severity.ERROR, "1 link leads nowhere", "get it again", "rm 'x y'", part="cache")


@pytest.mark.parametrize(
    ("findings", "code", "verdict"),
    [
        ([], 0, "no fault found"),
        ([NOTE], 0, "no fault found"),
        ([NOTE, WARNING], 0, "1 warning; first: half-finished download"),
        ([NOTE, WARNING, FAULT, FAULT], 1, "2 faults and 1 warning; first: dangling link"),
    ],
)
def test_a_fault_alone_makes_the_exit_code_1(findings: list[DoctorFinding], code: int, verdict: str) -> None:
    answer = Answer.of("x", findings)
    assert (answer.exit_code, answer.verdict) == (code, verdict)


def test_the_worst_comes_first_and_equals_keep_their_order() -> None:
    other = DoctorFinding("truncated file", Severity.ERROR, "9 bytes")
    assert Answer.of("x", [NOTE, FAULT, WARNING, other]).findings == (FAULT, other, WARNING, NOTE)


def test_text_has_every_command_whole_on_a_line_and_what_was_not_judged() -> None:
    facts = {"python": "3.11", "gpu": False, "share": 0.123456, "parts": ["a", "b"], "size": None}
    text = Answer.of("/data/hub", [WARNING, FAULT], [NotJudged("hashes", "--hash was not given")], facts).as_text()
    assert text == (
        "/data/hub\n"
        "verdict: 1 fault and 1 warning; first: dangling link\n"
        "\n"
        "  1. cache: dangling link (error): 1 link leads nowhere\n"
        "     to mend it: get it again\n"
        "       rm 'x y'\n"
        "\n"
        "  2. half-finished download (warning): 3 of 5 MB\n"
        "     to mend it: continue it\n"
        "       bottega models fetch a/b\n"
        "\n"
        "facts:\n"
        "  python  3.11\n"
        "  gpu     no\n"
        "  share   0.1235\n"
        "  parts   a, b\n"
        "  size    unknown\n"
        "\n"
        "not judged:\n"
        "  hashes: --hash was not given"
    )


def test_json_says_the_same() -> None:
    said = NotJudged("hashes", "--hash was not given")
    record = json.loads(Answer.of("/data/hub", [WARNING, FAULT], [said, said], {"gpu": False}).as_json())
    assert [finding["name"] for finding in record["findings"]] == ["dangling link", "half-finished download"]
    assert record["findings"][0] == {
        "name": "dangling link",
        "severity": "error",
        "evidence": "1 link leads nowhere",
        "cure": "get it again",
        "command": "rm 'x y'",
        "part": "cache",
    }
    assert "part" not in record["findings"][1]
    assert record["not_judged"] == [{"what": "hashes", "why": "--hash was not given"}]
    assert (record["exit_code"], record["facts"]) == (1, {"gpu": False})
