"""Every data set as people have it ends in the right tables, or is refused with advice that mends it."""

from __future__ import annotations

import pytest
from tests.field.case import FieldCase, run_case
from tests.field.data import CASES


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_data_set_ends_as_it_must(tmp_path, case: FieldCase):
    assert run_case(case, tmp_path / "case") == []


def test_each_case_has_a_name_of_its_own():
    assert len({case.name for case in CASES}) == len(CASES)
