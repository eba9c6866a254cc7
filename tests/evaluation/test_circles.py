"""Fill50K's metrics on circles whose overlap and colours are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bottega.evaluation.circles import circle_score
from bottega.evaluation.colour import to_lab

SIDE, CORAL, TEAL, GOLD = 128, (255, 127, 80), (0, 128, 128), (255, 215, 0)


def circle(inside: tuple[int, int, int], outside: tuple[int, int, int], x: int = 64, radius: int = 30) -> np.ndarray:
    picture = np.full((SIDE, SIDE, 3), outside, np.uint8)
    cv2.circle(picture, (x, 64), radius, inside, -1, cv2.LINE_AA)
    return picture


def apart(first: tuple[int, int, int], second: tuple[int, int, int]) -> float:
    pair = to_lab(np.array([[first, second]], np.uint8))[0]
    return float(np.linalg.norm(pair[0] - pair[1]))


def test_the_target_itself_is_without_fault() -> None:
    found = circle_score(circle(CORAL, TEAL), circle(CORAL, TEAL))
    assert (found.iou, found.inside, found.outside) == (100, 0, 0)
    assert found.contrast == pytest.approx(apart(CORAL, TEAL), rel=0.01)


@pytest.mark.parametrize("shift", [10, 30, 60])
def test_a_shifted_circle_has_the_overlap_of_two_discs(shift: int) -> None:
    r = 30.0
    lens = 2 * r * r * np.arccos(shift / (2 * r)) - shift / 2 * np.sqrt(4 * r * r - shift * shift)
    expected = 100 * lens / (2 * np.pi * r * r - lens)
    found = circle_score(circle(CORAL, TEAL, x=64 + shift // 2), circle(CORAL, TEAL, x=64 - shift // 2))
    assert found.iou == pytest.approx(expected, abs=2)


def test_a_wrong_colour_is_its_distance_and_only_where_it_is() -> None:
    inside = circle_score(circle(GOLD, TEAL), circle(CORAL, TEAL))
    assert inside.inside == pytest.approx(apart(GOLD, CORAL), rel=0.01)
    assert inside.outside == pytest.approx(0, abs=0.01)
    assert inside.iou == pytest.approx(100, abs=3)
    outside = circle_score(circle(CORAL, GOLD), circle(CORAL, TEAL))
    assert outside.outside == pytest.approx(apart(GOLD, TEAL), rel=0.01)
    assert outside.inside == pytest.approx(0, abs=0.01)


def test_an_outline_that_was_not_filled_and_a_plain_picture_have_no_circle() -> None:
    outline = np.full((SIDE, SIDE, 3), TEAL, np.uint8)
    cv2.circle(outline, (64, 64), 30, (255, 255, 255), 1)
    assert circle_score(outline, circle(CORAL, TEAL)).iou < 10
    plain = np.full((SIDE, SIDE, 3), TEAL, np.uint8)
    assert circle_score(plain, circle(CORAL, TEAL)).iou == 0


def test_a_target_of_one_colour_is_refused() -> None:
    plain = np.full((SIDE, SIDE, 3), TEAL, np.uint8)
    with pytest.raises(ValueError, match="must show a circle on a background"):
        circle_score(plain, plain)
