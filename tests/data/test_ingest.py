"""Pictures are inspected a few ahead and decided on in their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bottega.data.config import LimitsConfig
from bottega.data.index import Index, Inspection, PictureRow
from bottega.data.ingest import SourcePicture, update_index
from bottega.runtime.progress import Progress


@pytest.mark.parametrize("workers", [1, 3])
def test_two_pictures_a_worker_wait_ahead_of_the_one_that_is_decided_on(
    workers: int, tmp_path: Path, photo, encoded
) -> None:
    taken: list[str] = []
    ahead: list[int] = []
    decided: list[str] = []

    def source() -> Iterator[SourcePicture]:
        for k in range(12):
            taken.append(f"{k:02d}.png")
            yield SourcePicture(taken[-1], "as it is", encoded(photo(k, 16, 16)))

    def decide(picture: SourcePicture, inspection: Inspection) -> PictureRow:
        ahead.append(len(taken) - len(decided) - 1)
        decided.append(picture.source)
        return PictureRow(picture.source, picture.stamp, picture.source, inspection)

    limits = LimitsConfig(workers=workers, min_side=8)
    with Index(tmp_path / "index.sqlite") as index, Progress(12, "test") as progress:
        update_index(index, source(), decide, limits=limits, progress=progress)
        assert [row.source for row in index.rows()] == taken == decided
    assert ahead == [2 * workers] * (12 - 2 * workers) + list(range(2 * workers - 1, -1, -1))
