"""The gates of PixArt: where an object was read, and the whole measurement on random weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from bottega.miniature.builder.pixart_gates import _in_place, measure_pixart
from bottega.miniature.scenes import SHAPES, label_map, scene


def test_an_object_is_in_its_place_where_its_caption_says() -> None:
    for index in range(20):
        view = scene(index, 3)
        truth = label_map(view)
        assert _in_place(truth, view) == [True, True, True]
        first = view.objects[0]
        elsewhere = replace(first, x=(first.x + 0.5) % 1.0)
        assert _in_place(truth, replace(view, objects=(elsewhere, *view.objects[1:])))[0] is False
        missing = np.where(truth == SHAPES.index(first.shape) + 1, 0, truth).astype(np.uint8)
        assert _in_place(missing, view) == [False, True, True]


def test_random_weights_are_measured(tiny_models: Path) -> None:
    measured = measure_pixart(tiny_models, 4)
    assert {"pixart_shape", "pixart_colours", "pixart_place", "pixart_style", "pixart_3_objects_place"} <= set(measured)
    for name, figure in measured.items():
        assert 0 <= figure.low <= figure.value <= figure.high <= 1
        assert figure.pictures == (2 if name == "pixart_place" else 4)
