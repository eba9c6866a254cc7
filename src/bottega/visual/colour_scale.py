"""Colours for numbers: a scale that people see alike whatever their colour vision, also in grey and in print.

The colours are those of *cividis* (Nuñez, Anderton and Renslow 2018, "Optimizing colormaps with consideration for color
vision deficiency"), read off at eleven points: from dark blue to yellow, evenly lighter all the way.
"""

from __future__ import annotations

import math

_POINTS = (
    (0, 34, 78),
    (8, 51, 112),
    (53, 69, 108),
    (79, 87, 108),
    (102, 105, 112),
    (125, 124, 120),
    (148, 142, 119),
    (174, 163, 113),
    (200, 184, 102),
    (229, 207, 82),
    (254, 232, 56),
)
_WHITE, _BLACK = "#ffffff", "#000000"


def scale_colours(share: float) -> tuple[str, str]:
    """A place on the scale as CSS colours: of the ground, and of text that can be read on it.

    Args:
        share: 0, dark blue, to 1, yellow; what lies outside is taken for the nearer end.
    """
    place = min(max(share, 0.0), 1.0) * (len(_POINTS) - 1)
    left = min(int(place), len(_POINTS) - 2)
    part = place - left
    mixed = [round(a + part * (b - a)) for a, b in zip(_POINTS[left], _POINTS[left + 1], strict=True)]
    ground = "#" + "".join(f"{value:02x}" for value in mixed)
    light, dark = contrast(ground, _WHITE), contrast(ground, _BLACK)
    return ground, _WHITE if light > dark else _BLACK


def contrast(first: str, second: str) -> float:
    """The contrast ratio of two CSS colours `#rrggbb`, 1 to 21 (WCAG 2.2); text needs 4.5."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = (_linear(int(colour[at : at + 2], 16) / 255) for at in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _linear(level: float) -> float:
    return level / 12.92 if level <= 0.04045 else math.pow((level + 0.055) / 1.055, 2.4)
