"""What is known of a picture comes back from the index as it was entered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bottega.data.index import Index, PictureRow, inspect_picture


def test_a_row_comes_back_whole_also_from_an_index_that_is_opened_again(tmp_path: Path, photo, encoded) -> None:
    inspection = inspect_picture(
        encoded(photo(1)), min_side=64, max_pixels=10**6, measure=lambda picture: {"dark": 0.25, "flat": 0.5}
    )
    # Hashes have 64 bits without a sign, which the file keeps as signed ones.
    inspection = replace(inspection, difference=2**64 - 1, frequency=0)
    assert inspection.kind is not None and inspection.thumb and inspection.statistics
    rejected = inspect_picture(b"rubbish", min_side=64, max_pixels=10**6)
    assert rejected.kind is None and rejected.reason == "broken"
    rows = [
        PictureRow("a.png", "stamp a", "a", inspection, {"artist": "somebody", "split": "train"}),
        PictureRow("b.png", "stamp b", None, rejected),
    ]
    with Index(tmp_path / "index.sqlite") as index:
        for row in rows:
            index.put(row)
        assert [index.get(row.source) for row in rows] == rows
    with Index(tmp_path / "index.sqlite") as index:
        assert [index.get(row.source) for row in rows] == rows
        assert index.same_bytes(inspection.sha256) == rows[:1]
        # A thumbnail takes more than all the rest: whoever reads every row goes without.
        assert [row.inspection.thumb for row in index.rows()] == [b"", b""]
        assert [replace(row, inspection=replace(row.inspection, thumb=b"")) for row in rows] == list(index.rows())
