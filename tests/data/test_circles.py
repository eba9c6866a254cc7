"""A drawn circle: its outline is a thin ring around the very disc that the target shows."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.data.circles import COLOUR_NAMES, draw_circle


@pytest.mark.parametrize(("size", "thickness"), [(32, 2), (64, 2), (128, 5), (256, 10), (512, 20)])
def test_the_outline_is_a_hundredth_of_the_side_wide_and_runs_along_the_discs_edge(size: int, thickness: int) -> None:
    inside, outside = list(COLOUR_NAMES)[:2]
    source, target = draw_circle(0.4, 0.55, 0.25, inside, outside, size)
    rows, columns = np.mgrid[0:size, 0:size] + 0.5
    distance = np.hypot(rows - 0.55 * size, columns - 0.4 * size)
    far = np.abs(distance - 0.25 * size) > 4
    assert (source[far] == 0).all()
    width = 4 * source[..., 0].sum() / 255 / (2 * np.pi * 0.25 * size)  # in the quarter pixels that it is drawn in
    assert thickness <= width <= thickness + 2.1  # OpenCV draws a line up to two pixels wider than it is asked for
    assert (target[far & (distance < 0.25 * size)] == COLOUR_NAMES[inside]).all()
    assert (target[far & (distance > 0.25 * size)] == COLOUR_NAMES[outside]).all()
