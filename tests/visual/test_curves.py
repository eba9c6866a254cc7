"""Curves for a page and for a terminal: what they show of known values, and that they bring nothing of their own."""

from __future__ import annotations

import re

import pytest

from bottega.visual.curves import Curve, Interval, draw_braille, draw_curves, draw_intervals


def test_an_svg_takes_all_its_colours_and_fonts_from_the_page_and_brings_no_rules_of_its_own() -> None:
    steps = list(range(3000))
    both = [Curve("a", steps, [1 / (1 + s) for s in steps]), Curve("b", steps, [2 / (1 + s) for s in steps])]
    for svg in (
        draw_curves(both, "two <curves> & more", "loss", smooth=True),
        draw_curves(both, "losses", "loss", over="epoch", log_scale=True),
        draw_curves([Curve("a", [1, 2], [1.0, -1.0])], "gain", "%", zero="frozen base"),
        draw_intervals([Interval("x", 1, 0, 2, True), Interval("y", 3, None, None)], "intervals", "points"),
    ):
        assert not re.findall(r"#0[1-3]0[1-3]0\d", svg)
        assert "var(--" in svg
        assert "<style" not in svg
        assert "http" not in svg
        assert "DejaVu" not in svg
        assert len(svg) < 60_000


def test_a_long_curve_keeps_its_last_point() -> None:
    steps = list(range(1, 20_001))
    svg = draw_curves([Curve("a", steps, [0.0] * 19_999 + [1000.0])], "t", "u")
    assert svg.count(" L ") < 2000
    assert "1000" in svg


def test_curves_without_two_points_are_not_drawn() -> None:
    assert draw_curves([Curve("a", [1], [1.0])], "t", "u") == ""
    assert draw_intervals([], "t", "u") == ""


@pytest.mark.parametrize(
    ("high", "labels"), [(1.0, ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]), (0.02, ["0.012", "0.015", "0.018"])]
)
def test_a_logarithmic_axis_has_plain_numbers(high: float, labels: list[str]) -> None:
    values = [0.01 + (high - 0.01) * k / 50 for k in range(51)]
    svg = draw_curves([Curve("a", range(51), values)], "t", "u", log_scale=True)
    shown = re.findall(r">([\d.]+)</text>", svg)
    assert set(labels) <= set(shown)
    assert not any("e" in label or "^" in label for label in shown)


def test_the_same_curve_gives_the_same_bytes() -> None:
    curve = Curve("a", [1, 2, 3], [3.0, 1.0, 2.0])
    assert draw_curves([curve], "t", "u") == draw_curves([curve], "t", "u")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_drawn_curve_fits_the_terminal_and_falls(width: int) -> None:
    steps = list(range(50))
    lines = draw_braille(Curve("loss", steps, [1.0 / (1 + i) for i in steps]), width, "step")
    assert len(lines) == 11 and max(map(len, lines)) <= width
    first = [
        min(i for i, c in enumerate(line) if c not in "\u2800 ┤0.1\n" and i > 10) for line in lines[:10] if line[11:]
    ]
    assert first == sorted(first) and "⠀" not in lines[0][11:12]


def test_a_flat_curve_and_one_that_reaches_zero_are_drawn_too() -> None:
    for values in ([0.5, 0.5], [1.0, 0.0], [7.0]):
        lines = draw_braille(Curve("loss", range(len(values)), values), 40, "epoch")
        assert len(lines) == 11 and f"epoch {len(values) - 1}" in lines[-1]
