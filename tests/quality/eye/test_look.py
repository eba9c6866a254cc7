"""What the eye says as scores, and the frame around the worst cells."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.quality.damage import CAUSES
from bottega.quality.eye.cells import GRID, leaked_cells, measure_cells
from bottega.quality.eye.look import CAUSE_PREFIX, LEAST_SHARE, eye_scores, worst_part
from bottega.quality.eye.network import Seen
from bottega.quality.eye.training.examples import made_up


def seen(cells: np.ndarray, causes: list[float] | None = None) -> Seen:
    logits = np.zeros(len(CAUSES), np.float32)
    logits[: len(causes or [])] = causes or []
    return Seen(1.5, 2.5, cells.astype(np.float32), logits)


def sound_cells() -> np.ndarray:
    return np.full((GRID, GRID), -4.0)


def test_scores_are_the_logit_the_share_of_cells_and_the_likely_causes() -> None:
    cells = sound_cells()
    cells[:4] = 3
    scores = eye_scores(seen(cells, [6.0, 5.0]))
    assert scores["damage"] == 1.5
    assert scores["damage_area"] == pytest.approx(0.25)
    assert scores["estimated_distance"] == 2.5
    causes = {name: share for name, share in scores.items() if name.startswith(CAUSE_PREFIX)}
    assert list(causes) == [CAUSE_PREFIX + CAUSES[0], CAUSE_PREFIX + CAUSES[1]]
    assert min(causes.values()) >= LEAST_SHARE
    assert causes[CAUSE_PREFIX + CAUSES[0]] == pytest.approx(0.72, abs=0.02)


def test_the_frame_is_around_the_cells_that_touch_the_worst_one() -> None:
    cells = sound_cells()
    cells[2:5, 8:12] = 2
    cells[3, 9] = 5
    cells[14, 1] = 2  # by itself, elsewhere
    frame = worst_part(cells)
    assert frame is not None
    assert tuple(frame) == (2 / GRID, 8 / GRID, 5 / GRID, 12 / GRID)
    assert not frame.is_all


def test_a_sound_picture_has_no_frame_and_damage_all_over_is_all() -> None:
    assert worst_part(sound_cells()) is None
    everywhere = worst_part(np.full((GRID, GRID), 3.0))
    assert everywhere is not None
    assert everywhere.is_all


def test_things_of_the_style_in_the_picture_correlate_with_the_style() -> None:
    subject = made_up(17, 128).subject
    mixed = np.asarray((subject.good.astype(np.float32) + subject.style) / 2, np.uint8)
    style = measure_cells(subject.style)
    good, leaking = (leaked_cells(measure_cells(one), style).mean() for one in (subject.good, mixed))
    assert leaking > good + 0.3


def test_a_style_of_another_size_is_compared_too() -> None:
    subject = made_up(17, 128).subject
    larger = made_up(17, 256).subject.style
    leaked = leaked_cells(measure_cells(subject.good), measure_cells(larger))
    assert leaked.shape[:2] == (GRID, GRID)
    assert np.isfinite(leaked).all()
