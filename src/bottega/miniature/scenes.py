"""Scenes of the drawn world: a few coloured shapes on a soft background, with captions and an exact label map.

A scene is a pure function of its index, so nothing about it has to be stored: `scene(17)` is the same everywhere.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bottega.runtime.seeds import numpy_rng

Mask = npt.NDArray[np.float32]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# sRGB in 0..255. Lightness is what a painter keeps, so an object may stand only where its L* differs from the ground's.
COLOURS = {
    "red": (204, 32, 40),
    "orange": (240, 136, 24),
    "yellow": (246, 216, 48),
    "green": (40, 150, 60),
    "teal": (24, 150, 160),
    "blue": (36, 70, 190),
    "purple": (124, 52, 160),
    "pink": (244, 130, 176),
}
BACKGROUNDS = {
    "white": (244, 243, 240),
    "cream": (240, 226, 190),
    "grey": (150, 150, 152),
    "sky blue": (178, 212, 240),
    "mint": (190, 232, 200),
    "navy": (26, 32, 66),
}
_COLUMNS = ("left", "center", "right")
_ROWS = ("top", "middle", "bottom")
_MINIMUM_CONTRAST = 26.0  # in L*, so that no object vanishes when a painter replaces the hues


@dataclass(frozen=True)
class Object:
    """One shape. `x`, `y` and `radius` are shares of the picture's side; `angle` is in degrees."""

    shape: str
    colour: str
    size: str  # "small" | "large"
    x: float
    y: float
    radius: float
    angle: float

    @property
    def place(self) -> str:
        """Words for the place, such as "top left"; the middle of the picture is "center"."""
        row = _ROWS[min(2, int(self.y * 3))]
        column = _COLUMNS[min(2, int(self.x * 3))]
        if row == "middle":
            return column
        return row if column == "center" else f"{row} {column}"


@dataclass(frozen=True)
class Scene:
    """Objects on a background. `tilt` turns the background's soft gradient (degrees), `depth` is its strength."""

    index: int
    objects: tuple[Object, ...]
    background: str
    tilt: float
    depth: float

    def caption(self, number: int) -> str:
        """Caption `number` of 5 (taken modulo 5): from complete to terse, as people would describe the picture."""
        wording = number % 5
        phrases = []
        for item in self.objects:
            phrase = f"{item.colour} {item.shape}"
            if wording in (0, 3):
                phrase = f"{item.size} {phrase}"
            if wording != 4:
                phrase = f"a {phrase}"
            if wording in (0, 2):
                phrase = f"{phrase} at the {item.place}"
            phrases.append(phrase)
        if wording in (0, 1):
            return f"{_join(phrases)} on a {self.background} background"
        if wording == 3:
            return f"{_join(phrases)}, {self.background} background"
        return _join(phrases)

    def colourless(self) -> str:
        """A caption that names no colour: what remains true once a painter has replaced the hues."""
        return _join([f"a {o.size} {o.shape} at the {o.place}" for o in self.objects])


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def lightness(rgb: tuple[int, int, int]) -> float:
    """CIE L* of an sRGB colour in 0..255."""
    red, green, blue = (_linear(level) for level in rgb)
    y: float = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    if y > 0.008856:
        return 116 * math.pow(y, 1 / 3) - 16
    return 903.3 * y


def _linear(level: int) -> float:
    """Light of an sRGB level in 0..255, 0..1 (IEC 61966-2-1)."""
    if level <= 10:
        return level / 255 / 12.92
    linear: float = ((level / 255 + 0.055) / 1.055) ** 2.4
    return linear


def allowed_colours(background: str) -> list[str]:
    """Object colours whose lightness stands clear of the background's."""
    ground = lightness(BACKGROUNDS[background])
    return [name for name, rgb in COLOURS.items() if abs(lightness(rgb) - ground) >= _MINIMUM_CONTRAST]


@functools.lru_cache(maxsize=64)
def scene(index: int, objects: int | None = None) -> Scene:
    """Scene number `index`; `objects` (1..3) fixes how many shapes it holds, otherwise half of the scenes hold one."""
    rng = numpy_rng("scene", index, objects or 0)
    count = objects or int(rng.choice([1, 2, 3], p=[0.5, 0.3, 0.2]))
    background = str(rng.choice(list(BACKGROUNDS)))
    shapes = rng.permutation(SHAPES)[:count]
    placed: list[Object] = []
    for shape in shapes:
        colour = str(rng.choice(allowed_colours(background)))
        size = "large" if rng.random() < 0.5 else "small"
        radius, x, y = _free_place(rng, placed, size, count)
        angle = float(rng.uniform(-20, 20)) if shape != "circle" else 0.0
        placed.append(Object(str(shape), colour, size, x, y, radius, angle))
    return Scene(index, tuple(placed), background, float(rng.uniform(0, 360)), float(rng.uniform(0.02, 0.10)))


def _free_place(rng: np.random.Generator, placed: list[Object], size: str, count: int) -> tuple[float, float, float]:
    """A radius and a centre that overlap no object placed before; shrinks a little when the picture is crowded."""
    if size == "small":
        low, high = 0.11, 0.15
    else:
        low, high = 0.19, 0.25 if count == 1 else 0.22  # three of the largest would not find room
    shrink = 1.0
    while True:
        for _ in range(40):
            radius = float(rng.uniform(low, high)) * shrink
            x, y = rng.uniform(radius + 0.03, 0.97 - radius, size=2).tolist()
            if not any(_overlap(radius, x, y, other) for other in placed):
                return radius, x, y
        shrink *= 0.92


def _overlap(radius: float, x: float, y: float, other: Object) -> bool:
    apart = radius + other.radius + 0.04  # a gap, so that two objects never look like one
    return (x - other.x) ** 2 + (y - other.y) ** 2 <= apart**2


def _outline(kind: str) -> npt.NDArray[np.float64]:
    """Corners of a polygon shape on the unit circle, [n, 2]."""
    if kind == "square":
        return np.array([[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]])
    if kind == "triangle":
        return np.array([[0.0, -1.0], [0.92, 0.72], [-0.92, 0.72]])
    if kind == "star":
        turns = np.arange(10) * np.pi / 5 - np.pi / 2
        reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        return np.stack([np.cos(turns) * reach, np.sin(turns) * reach], axis=1)
    arm = 0.34
    top_right = [[-arm, -1], [arm, -1], [arm, -arm], [1, -arm]]
    bottom_left = [[1, arm], [arm, arm], [arm, 1], [-arm, 1]]
    left = [[-arm, arm], [-1, arm], [-1, -arm], [-arm, -arm]]
    return np.array([*top_right, *bottom_left, *left])


def coverage(item: Object, size: int) -> Mask:
    """Share of each pixel that the object covers, [size, size] in 0..1 (4 × 4 samples a pixel)."""
    fine = 4 * size
    canvas = np.zeros((fine, fine), np.uint8)
    centre, radius = (item.x * fine, item.y * fine), item.radius * fine
    if item.shape in ("circle", "ring"):
        middle = (round(centre[0] * 16), round(centre[1] * 16))
        cv2.circle(canvas, middle, round(radius * 16), 255, -1, cv2.LINE_8, 4)
        if item.shape == "ring":
            cv2.circle(canvas, middle, round(radius * 0.55 * 16), 0, -1, cv2.LINE_8, 4)
    else:
        turn = np.deg2rad(item.angle)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = _outline(item.shape) @ rotation.T * radius + np.array(centre)
        cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def label_map(view: Scene, size: int = 128) -> npt.NDArray[np.uint8]:
    """Class of each pixel, [size, size]: 0 background, k + 1 for SHAPES[k] (the way a COCO-Stuff pixel map counts)."""
    labels = np.zeros((size, size), np.uint8)
    for item in view.objects:
        labels[coverage(item, size) >= 0.5] = SHAPES.index(item.shape) + 1
    return labels


@functools.lru_cache(maxsize=8)  # a scene is painted many times over; the picture can't be written to
def plain(view: Scene, size: int = 128) -> npt.NDArray[np.float32]:
    """The scene as it is, unpainted: sRGB in 0..1, [size, size, 3]."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    turn = np.deg2rad(view.tilt)
    slope = (np.cos(turn) * grid[None, :] + np.sin(turn) * grid[:, None]).astype(np.float32)
    picture = np.asarray(BACKGROUNDS[view.background], np.float32) / 255 * (1 + view.depth * 2 * slope[..., None])
    for item in view.objects:
        alpha = coverage(item, size)[..., None]
        picture = picture * (1 - alpha) + np.asarray(COLOURS[item.colour], np.float32) / 255 * alpha
    picture = np.asarray(np.clip(picture, 0, 1), np.float32)
    picture.setflags(write=False)
    return picture
