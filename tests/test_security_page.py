"""The limits on the security page are those of the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "SECURITY.md"
ROW = re.compile(r"^\| (?P<what>[^|]+) \| (?P<limit>[^|]+) \| `(?P<module>[a-z_/]+)\.py`: (?P<names>[^|]+) \|$", re.M)
ROWS = [found.groupdict() for found in ROW.finditer(PAGE.read_text(encoding="utf-8"))]


def test_the_page_has_a_table_of_limits() -> None:
    assert len(ROWS) >= 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"])
def test_a_limit_of_the_page_is_that_of_the_code(row: dict[str, str]) -> None:
    module = importlib.import_module(f"bottega.{row['module'].replace('/', '.')}")
    stated = {int(number.replace(" ", "")) for number in re.findall(r"\d+(?: \d{3})*", row["limit"])}
    for name in re.findall(r"`([A-Z_]+)`", row["names"]):
        assert getattr(module, name) in stated
