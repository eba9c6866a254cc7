"""One vocabulary of findings: each name has a severity and a place in the docs; nothing else can be found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bottega.runtime.findings import NONE, SEVERITIES, Finding, Severity, by_severity

DOCS = Path(__file__).parents[2] / "docs"


def test_every_finding_is_explained_to_a_user() -> None:
    pages = ("is-it-learning.md", "doctor-training.md", "bad-pictures.md")
    text = "".join((DOCS / name).read_text(encoding="utf-8") for name in pages)
    assert [name for name in SEVERITIES if f"| **{name}** |" not in text] == []


def test_the_most_severe_comes_first_and_equally_severe_ones_keep_their_order() -> None:
    names = ["plateaued", "overfitting", "unknown", "diverging", "task starved", "learning"]
    found = by_severity([None, *(Finding(name, "seen") for name in names), None])
    assert [f.name for f in found] == ["diverging", "overfitting", "task starved", "plateaued", "learning", "unknown"]
    assert by_severity([]) == []


def test_a_name_outside_the_vocabulary_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"one of not finite, .*unknown; received 'over-fitted'"):
        Finding("over-fitted", "seen")


def test_the_record_holds_name_evidence_and_advice_alone() -> None:
    """Files and JSON of earlier versions have these three keys; the severity follows from the name."""
    finding = Finding("overfitting", "seen", "stop")
    assert dataclasses.asdict(finding) == {"name": "overfitting", "evidence": "seen", "advice": "stop"}
    assert finding.severity is Severity.ERROR


def test_only_advice_that_asks_for_something_is_shown() -> None:
    assert str(Finding("learning", "it gains", NONE)) == str(Finding("learning", "it gains")) == "learning: it gains"
    assert str(Finding("plateaued", "flat", "stop")) == "plateaued: flat; to try: stop"
