"""Colours compared by soft histograms; benchmarks/styleid_protocol.py holds them against the published script."""

from __future__ import annotations

import numpy as np
import pytest
from tests.models.random_weights import random_networks

from bottega.evaluation.histogram import colour_histogram, histogram_distance


def flat(*colour: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (32, 32, 3))


def test_a_picture_is_at_no_distance_from_itself_and_order_does_not_matter() -> None:
    first, second = (colour_histogram(random_networks.picture(number, 64, 48)) for number in (0, 1))
    assert histogram_distance(first, first) == 0
    assert histogram_distance(first, second) == pytest.approx(histogram_distance(second, first), rel=1e-6)
    assert first.sum() == pytest.approx(1, abs=1e-4)


def test_where_a_colour_is_does_not_matter_and_which_it_is_does() -> None:
    picture = random_networks.picture(2, 64, 64)
    turned = colour_histogram(picture[::-1, ::-1])
    assert histogram_distance(colour_histogram(picture), turned) < 1e-3
    # Brightness alone leaves the ratios of the channels where they are.
    red, dark_red, blue = (colour_histogram(flat(*colour)) for colour in ((200, 40, 40), (100, 20, 20), (40, 40, 200)))
    assert histogram_distance(red, dark_red) < 0.1 < 0.9 < histogram_distance(red, blue) <= 1


def test_the_peak_is_at_the_ratio_of_the_channels() -> None:
    histogram = colour_histogram(flat(200, 100, 50))
    row, column = np.unravel_index(histogram[0].argmax(), histogram[0].shape)
    bins = np.linspace(-3, 3, 64)
    assert bins[row] == pytest.approx(np.log(200 / 100), abs=0.05)
    assert bins[column] == pytest.approx(np.log(200 / 50), abs=0.05)
