"""The work list says how much there is to do before any of it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.teacher.work import PairLists


@pytest.mark.parametrize(("limit", "count"), [(None, 12), (1, 2), (3, 6), (5, 8), (7, 10), (9, 12), (100, 12)])
def test_of_each_list_as_many_pairs_count_as_the_limit_lets_through(
    limit: int | None, count: int, tmp_path: Path
) -> None:
    files = []
    for name, pairs in (("short", 3), ("long", 9)):
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("{}\n" * pairs)
    assert PairLists(files, limit).count() == count
