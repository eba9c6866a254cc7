"""The palette of a picture against content and style: what each of its numbers answers to."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bottega.quality.eye.cells import measure_cells
from bottega.quality.eye.palette import NUM_PALETTE, palette_inputs
from bottega.quality.eye.training.contents import draw_content
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

STRAIGHT, TURNED, MIRRORED = 0, 1, 2  # agreement with the content's colours around their mean
CHROMA = 12  # log of the chroma against the content's
BEND, ALIEN, LESS_WHERE_TURNED = 25, 27, 28


def inputs(picture: Picture, content: Picture, style: Picture) -> np.ndarray:
    picture_cells, content_cells, style_cells = (measure_cells(one).own for one in (picture, content, style))
    return palette_inputs(picture_cells, content_cells, style_cells)


@pytest.fixture(scope="module")
def colourful() -> Picture:
    """A content with colours that are far from grey and of few hues."""
    hsv = cv2.cvtColor(draw_content(numpy_rng("palette test", 3), 128), cv2.COLOR_RGB2HSV)
    hsv[..., 0] = hsv[..., 0] // 4
    hsv[..., 1] = np.maximum(hsv[..., 1], 120)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)


def with_hues_turned(picture: Picture, degrees: float) -> Picture:
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    colour = (lab[..., 1] - 128 + 1j * (lab[..., 2] - 128)) * np.exp(1j * np.deg2rad(degrees))
    turned = np.stack([lab[..., 0], colour.real + 128, colour.imag + 128], -1)
    return np.asarray(cv2.cvtColor(np.clip(np.rint(turned), 0, 255).astype(np.uint8), cv2.COLOR_LAB2RGB), np.uint8)


def test_a_picture_agrees_with_itself(colourful: Picture) -> None:
    found = inputs(colourful, colourful, colourful)
    assert found.shape == (NUM_PALETTE,)
    assert found[STRAIGHT] > 0.8
    assert abs(found[TURNED]) < 1e-3
    for place in (CHROMA, ALIEN):
        assert found[place] == pytest.approx(0, abs=1e-5)


def test_turned_hues_turn_the_agreement_and_are_alien_to_both(colourful: Picture) -> None:
    found = inputs(with_hues_turned(colourful, 120), colourful, colourful)
    angle = np.degrees(np.arctan2(found[TURNED], found[STRAIGHT]))
    assert angle == pytest.approx(120, abs=20)
    assert found[ALIEN] > 0.5
    assert found[LESS_WHERE_TURNED] > 0.4


def test_swapped_channels_agree_better_when_mirrored(colourful: Picture) -> None:
    sound = inputs(colourful, colourful, colourful)
    swapped = inputs(np.ascontiguousarray(colourful[..., ::-1]), colourful, colourful)
    assert np.hypot(*swapped[MIRRORED : MIRRORED + 2]) - np.hypot(*swapped[:2]) > (
        np.hypot(*sound[MIRRORED : MIRRORED + 2]) - np.hypot(*sound[:2])
    )
    assert swapped[ALIEN] > sound[ALIEN] + 0.3


def test_lost_colour_and_a_bent_curve_show(colourful: Picture) -> None:
    light = cv2.cvtColor(colourful, cv2.COLOR_RGB2GRAY)
    grey = np.repeat(light[..., None], 3, 2)
    assert inputs(grey, colourful, colourful)[CHROMA] < -1.5
    dark, pale = (np.asarray(np.rint(255 * (colourful / 255.0) ** exponent), np.uint8) for exponent in (2.5, 0.4))
    bends = [inputs(one, colourful, colourful)[BEND] for one in (dark, colourful, pale)]
    assert bends[0] > bends[1] > bends[2]


def test_many_pictures_at_once_have_the_inputs_of_each(colourful: Picture) -> None:
    other = draw_content(numpy_rng("palette test", 8), 128)
    first, second = measure_cells(colourful).own, measure_cells(other).own
    both = palette_inputs(np.stack([first, second]), np.stack([second, first]), np.stack([first, first]))
    assert np.allclose(both[0], palette_inputs(first, second, first), atol=1e-5)
    assert np.allclose(both[1], palette_inputs(second, first, first), atol=1e-5)
