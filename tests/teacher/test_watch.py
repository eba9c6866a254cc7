"""A run is looked at while it is made: each finding is said once, early, and again in its summary."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from bottega.teacher.ledger import Ledger, TryRow
from bottega.teacher.watch import FIRST_LOOK, RunWatch, findings_of_run

from .test_ledger import ROW


def rows(first: int, count: int) -> list[TryRow]:
    """First tries of two styles, of which the second is lost."""
    made: list[TryRow] = []
    for number in range(first, first + count):
        is_lost = bool(number % 2)
        row = replace(
            ROW,
            target=f"t{number}",
            output_path=f"images/t{number}.png",
            output_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
            style="ink" if is_lost else "wash",
            grade="C" if is_lost else "A",
            reasons=["mesh: a regular mesh"] if is_lost else [],
        )
        made += [row, replace(row, try_index=1, grade="C", output_path=None)]  # a second try does not count
    return made


def test_a_lost_style_is_said_once_and_early(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger, caplog.at_level(logging.WARNING):
        watch = RunWatch(ledger)

        def make(first: int, count: int) -> None:
            ledger.commit(rows(first, count))
            watch.add(rows(first, count))

        make(0, FIRST_LOOK - 1)
        assert not caplog.records
        make(FIRST_LOOK - 1, 1)
        said = [record.message for record in caplog.records if "style 'ink' loses" in record.message]
        assert len(said) == 1
        make(FIRST_LOOK, 100)
        assert len([record for record in caplog.records if "style 'ink' loses" in record.message]) == 1


def test_a_resumed_run_repeats_no_finding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.commit(rows(0, 60))
        kinds = {finding.key for finding in findings_of_run(ledger)}
        assert kinds == {"style ink", "check mesh"}
        with caplog.at_level(logging.WARNING):
            watch = RunWatch(ledger)
            ledger.commit(rows(60, 100))
            watch.add(rows(60, 100))
        assert not caplog.records
