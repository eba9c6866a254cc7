"""Model folders as people have them end as they must: used, or named for what they are with a cure that works."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.field.case import FieldCase, run_case
from tests.field.models import CASES


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_model_folder_ends_as_it_must(case: FieldCase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert run_case(case, tmp_path / "case") == []


def test_each_case_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
