"""Logs as people have them end as they must: the verdict of their cause, or a refusal that says what the file is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.field.case import FieldCase, run_case
from tests.field.logs import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_log_ends_as_it_must(case: FieldCase, tmp_path: Path) -> None:
    assert run_case(case, tmp_path / "case") == []


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
