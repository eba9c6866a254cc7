"""The pair list and its hashes; missing outputs, which are an error or cost every method the pair."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.evaluation.conftest import World

from bottega.evaluation.grid import Grid
from bottega.evaluation.pair_list import (
    describe,
    in_common,
    missing_outputs,
    pair_lines,
    require_all,
)
from bottega.evaluation.scoring import Measured, Record
from bottega.runtime.errors import WorkError
from bottega.runtime.files import write_png


def measured(grid: Grid, rows: dict[str, set[str]], broken: dict[str, str] | None = None) -> Measured:
    """Scores of each row for all pairs but those named."""
    found = Measured(broken=broken or {})
    for row, lacking in rows.items():
        pairs = [pair.pair_id for pair in grid.pairs if pair.pair_id not in lacking | set(found.broken)]
        found.add(Record(pair_id, row, "", f"{row}{pair_id}", {"palette": 1.0}) for pair_id in pairs)
    return found


def ids(grid: Grid) -> list[str]:
    return [pair.pair_id for pair in grid.pairs]


def test_a_missing_output_is_an_error_that_counts_and_names_it(world: World) -> None:
    grid = Grid.of(world.read())
    found = missing_outputs(
        {"student": ids(grid), "base": ids(grid)}, measured(grid, {"student": {"c0_s1", "c1_s0"}, "base": set()})
    )
    with pytest.raises(WorkError, match=r"student lacks 2 \(c0_s1, c1_s0\).*--allow-missing") as caught:
        require_all(found, False, "mend it")
    assert caught.value.exit_code == 1
    assert "base" not in str(caught.value)


def test_a_broken_picture_is_an_error_too(world: World) -> None:
    grid = Grid.of(world.read())
    found = missing_outputs({"student": ids(grid)}, measured(grid, {"student": set()}, {"c0_s0": "c0.png: torn"}))
    with pytest.raises(WorkError, match=r"student lacks 1 \(c0_s0\); 1 pairs have a picture .*c0.png: torn"):
        require_all(found, False, "mend it")


def test_what_is_missing_may_be_allowed(world: World) -> None:
    grid = Grid.of(world.read())
    found = missing_outputs({"student": ids(grid)}, measured(grid, {"student": {"c0_s1"}}))
    assert found.pairs() == {"c0_s1"}
    require_all(found, True, "")


def test_a_smaller_design_and_a_row_without_any_output_are_nothing_missing(world: World) -> None:
    grid = Grid.of(world.read())
    few = ids(grid)[:3]
    found = missing_outputs(
        {"student": ids(grid), "teacher": few, "base": ids(grid)},
        measured(grid, {"student": set(), "teacher": set(ids(grid)[3:])}),
    )
    assert not found.pairs()
    require_all(found, False, "")


def test_what_one_method_lacks_is_left_out_of_all(world: World) -> None:
    grid = Grid.of(world.read())
    scores = measured(grid, {"student": {"c0_s1"}, "base": {"c1_s0"}, "content": set()})
    found = missing_outputs({"student": ids(grid), "base": ids(grid)}, scores)
    kept, of_kept = in_common(grid, scores, found)
    assert set(ids(grid)) - set(ids(kept)) == {"c0_s1", "c1_s0"}
    for row in ("student", "base", "content"):
        assert {pair_id for of, pair_id in of_kept.records if of == row} == set(ids(kept))


def test_the_hashes_change_with_a_pair_a_caption_or_a_pixel(world: World, tmp_path: Path) -> None:
    grid = Grid.of(world.read())
    before = describe(pair_lines(grid, world.root))
    assert before["pairs"] == len(grid)
    assert describe(pair_lines(Grid.of(grid.pairs[1:]), world.root))["sha256"] != before["sha256"]
    root = shutil.copytree(world.root, tmp_path / "world")
    assert describe(pair_lines(grid, root)) == before
    write_png(root / grid.pairs[0].content_path, np.full((128, 128, 3), 7, np.uint8))
    after = describe(pair_lines(grid, root))
    assert after["contents"] != before["contents"] and after["styles"] == before["styles"]
    (root / grid.pairs[0].style_path).unlink()
    lines = pair_lines(grid, root)
    assert lines[0]["style_sha256"] == "" and describe(lines)["styles"] != before["styles"]
