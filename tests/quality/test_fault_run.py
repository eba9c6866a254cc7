"""Each good picture is judged beside the next one of another content, in its own style."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.quality.config import Thresholds
from bottega.quality.damage import Subject
from bottega.quality.fault_run import run
from bottega.quality.faults import FAULTS, SEVERITIES, count_faults
from bottega.runtime.errors import RequestError

from .conftest import Triple

SIDE = 128


def written(folder: Path, name: str, picture: np.ndarray) -> Path:
    path = folder / f"{name}.png"
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture
def files(tmp_path: Path, triples: list[Triple]) -> list[tuple[Path, Path, Path]]:
    """Four good pictures; the first two share their content."""
    contents = [written(tmp_path, f"content{k}", triples[max(k, 1)].content) for k in range(4)]
    contents[0] = contents[1]
    return [
        (
            written(tmp_path, f"good{k}", triples[k].truth),
            contents[k],
            written(tmp_path, f"style{k}", triples[k].style),
        )
        for k in range(4)
    ]


def test_the_other_scene_is_the_next_good_picture_of_another_content_around_the_end(
    files: list[tuple[Path, Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Subject] = []
    counted = count_faults

    def watched(subjects, *arguments, **options):
        seen.extend(subjects)
        return counted(seen, *arguments, **options)

    monkeypatch.setattr("bottega.quality.fault_run.count_faults", watched)
    tallies = run(files, Thresholds(), encoder=None, size=SIDE, count=4)
    assert all(tallies[fault, severity].count == 4 for fault in FAULTS for severity in SEVERITIES)

    def read(path: Path) -> np.ndarray:
        return np.asarray(Image.open(path).convert("RGB"))

    for subject, (good, content, style), other in zip(seen, files, (2, 2, 3, 0), strict=True):
        assert np.array_equal(subject.good, read(good))
        assert np.array_equal(subject.content, read(content))
        assert np.array_equal(subject.style, read(style))
        assert np.array_equal(subject.other, read(files[other][0]))


def test_good_pictures_of_a_single_content_are_refused_those_beyond_the_count_left_out(
    files: list[tuple[Path, Path, Path]],
) -> None:
    with pytest.raises(RequestError, match="two contents or more, received 2 pictures"):
        run(files, Thresholds(), encoder=None, size=SIDE, count=2)
    assert run(files, Thresholds(), encoder=None, size=SIDE, count=3)["good", ""].count == 3
