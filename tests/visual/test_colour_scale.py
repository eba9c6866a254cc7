"""Numbers on the scale's colours can be read, and their order is seen without colour."""

from __future__ import annotations

import pytest

from bottega.visual.colour_scale import _luminance, contrast, scale_colours


def test_text_on_every_place_of_the_scale_can_be_read() -> None:
    for place in range(101):
        assert contrast(*scale_colours(place / 100)) >= 4.5


def test_the_order_is_seen_in_grey() -> None:
    levels = [_luminance(scale_colours(place / 20)[0]) for place in range(21)]
    assert levels == sorted(levels) and levels[-1] > 20 * levels[0]


def test_black_on_white_has_the_contrast_that_the_standard_gives_it() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert scale_colours(-3)[0] == scale_colours(0)[0] and scale_colours(7)[0] == scale_colours(1)[0]
