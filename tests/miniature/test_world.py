"""The drawn world: scenes, painters and `render` are functions of their numbers, and their ground truth is true."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bottega.miniature.world import BACKGROUNDS, COLOURS, KINDS, SHAPES, label_map, painter, plain, render, scene


def lab(rgb: tuple[int, int, int] | np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.asarray(rgb, np.float32).reshape(1, 1, 3) / 255, cv2.COLOR_RGB2LAB)[0, 0]


def test_the_same_number_gives_the_same_picture() -> None:
    first, again = (render(scene(5), painter(11), 2) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.dtype == np.uint8
    assert first.shape == (128, 128, 3)


def test_another_seed_moves_the_strokes_and_not_the_things() -> None:
    view = scene(6, objects=1)
    inside = label_map(view) > 0
    for number in range(len(KINDS)):
        one, two, three = (render(view, painter(number), seed).astype(np.float32) for seed in (0, 1, 2))
        assert max(np.abs(one - two).max(), np.abs(one - three).max()) > 20
        contrast = [abs(p[inside].mean() - p[~inside].mean()) for p in (one, two)]
        assert min(contrast) > 8, KINDS[number]


def test_the_label_map_lies_where_the_colours_are() -> None:
    for index in range(40):
        view = scene(index)
        picture, labels = plain(view), label_map(view)
        for item in view.objects:
            mask = labels == SHAPES.index(item.shape) + 1
            assert mask.sum() > 40
            middle = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
            found = np.median(picture[middle], axis=0) * 255 if middle.any() else np.median(picture[mask], axis=0) * 255
            assert np.abs(found - COLOURS[item.colour]).max() < 2


def test_objects_stand_apart_in_lightness_from_their_ground_so_that_no_painter_loses_them() -> None:
    for index in range(200):
        view = scene(index)
        for item in view.objects:
            assert abs(lab(COLOURS[item.colour])[0] - lab(BACKGROUNDS[view.background])[0]) >= 24


def test_captions_say_what_is_there() -> None:
    for index in range(50):
        view = scene(index)
        for k in range(5):
            for item in view.objects:
                assert f"{item.colour} {item.shape}" in view.caption(k)
        for item in view.objects:
            assert item.colour not in view.colourless()
            assert item.shape in view.colourless()


def test_a_scene_can_be_asked_for_its_number_of_objects() -> None:
    assert [len(scene(3, n).objects) for n in (1, 2, 3)] == [1, 2, 3]


def test_any_eight_painters_in_a_row_paint_in_eight_ways() -> None:
    assert {painter(96 + k).kind for k in range(8)} == set(KINDS)
    assert len({painter(k).palette for k in range(300)}) == 300


@pytest.mark.parametrize("number", range(8))
def test_a_painting_uses_the_painters_palette(number: int) -> None:
    by = painter(number)
    picture = cv2.cvtColor(render(scene(9), by).astype(np.float32) / 255, cv2.COLOR_RGB2LAB).reshape(-1, 3)
    stops = np.array(by.palette)
    path = np.concatenate([stops[k] + np.linspace(0, 1, 30)[:, None] * (stops[k + 1] - stops[k]) for k in range(3)])
    nearest = np.linalg.norm(picture[::37, None] - path[None], axis=2).min(1)
    assert np.median(nearest) < 3
