"""Circles drawn like those of Fill50K: one named colour on another, and the prompt that says so."""

from __future__ import annotations

import cv2
import numpy as np

from bottega.visual.pictures import Picture

# Names as CSS has them, written as separate words as in the data set's prompts.
COLOUR_NAMES = {
    "burly wood": (222, 184, 135),
    "coral": (255, 127, 80),
    "crimson": (220, 20, 60),
    "dark green": (0, 100, 0),
    "dark orange": (255, 140, 0),
    "dark slate blue": (72, 61, 139),
    "deep pink": (255, 20, 147),
    "dodger blue": (30, 144, 255),
    "forest green": (34, 139, 34),
    "gold": (255, 215, 0),
    "indigo": (75, 0, 130),
    "khaki": (240, 230, 140),
    "lavender": (230, 230, 250),
    "lime green": (50, 205, 50),
    "maroon": (128, 0, 0),
    "midnight blue": (25, 25, 112),
    "olive": (128, 128, 0),
    "orange": (255, 165, 0),
    "orchid": (218, 112, 214),
    "pale green": (152, 251, 152),
    "peru": (205, 133, 63),
    "royal blue": (65, 105, 225),
    "salmon": (250, 128, 114),
    "sea green": (46, 139, 87),
    "sienna": (160, 82, 45),
    "silver": (192, 192, 192),
    "sky blue": (135, 206, 235),
    "slate gray": (112, 128, 144),
    "steel blue": (70, 130, 180),
    "tan": (210, 180, 140),
    "teal": (0, 128, 128),
    "tomato": (255, 99, 71),
    "turquoise": (64, 224, 208),
    "violet": (238, 130, 238),
    "white": (255, 255, 255),
    "yellow green": (154, 205, 50),
}


def circle_prompt(inside: str, outside: str) -> str:
    """The data set's wording, such as "burly wood circle with orange background"."""
    return f"{inside} circle with {outside} background"


def place_circle(rng: np.random.Generator) -> tuple[float, float, float]:
    """Centre x and y and radius as fractions of the picture's side; the circle is inside with a margin."""
    radius = rng.uniform(0.12, 0.34)
    x, y = rng.uniform(radius + 0.04, 0.96 - radius, 2)
    return float(x), float(y), float(radius)


def draw_circle(x: float, y: float, radius: float, inside: str, outside: str, size: int) -> tuple[Picture, Picture]:
    """(outline, filled circle), sRGB uint8 [size, size, 3], antialiased by drawing at four times the size."""
    fine = 4 * size
    centre = (round(x * fine), round(y * fine))
    fine_radius = round(radius * fine)
    disc = np.zeros((fine, fine), np.uint8)
    outline = np.zeros((fine, fine), np.uint8)
    cv2.circle(disc, centre, fine_radius, 255, -1)
    cv2.circle(outline, centre, fine_radius, 255, max(2, fine // 100))
    small_disc = cv2.resize(disc, (size, size), interpolation=cv2.INTER_AREA)
    alpha = small_disc.astype(np.float32)[..., None] / 255  # [size, size, 1]
    target = np.asarray(COLOUR_NAMES[inside]) * alpha + np.asarray(COLOUR_NAMES[outside]) * (1 - alpha)
    small_outline = cv2.resize(outline, (size, size), interpolation=cv2.INTER_AREA)
    source = np.repeat(small_outline[..., None], 3, axis=2)
    return source, np.round(target).astype(np.uint8)
