"""Painters of the drawn world: each has a kind of stroke, a palette and a scale of its own, and paints any scene.

A painter keeps what a painter keeps, the lightness of things and their places, and replaces hues and surface: the
picture's tone (L*) is broken up by the strokes of his kind, then looked up in his palette.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.miniature.scenes import Scene, plain
from bottega.runtime.seeds import numpy_rng

Plane = npt.NDArray[Any]  # [H, W], float32

KINDS = ("stipple", "hatch", "stripes", "waves", "mosaic", "wash", "weave", "rings")
_HUES = {
    "rose": 10,
    "rust": 45,
    "gold": 80,
    "olive": 115,
    "emerald": 155,
    "turquoise": 195,
    "azure": 245,
    "violet": 300,
    "magenta": 345,
}
_SCALES = {"fine": (6.0, 7.5), "medium": (8.0, 9.5), "broad": (10.5, 13.0)}


@dataclass(frozen=True)
class Painter:
    """Who paints. `palette` is [4, 3] CIE Lab, dark to light; `period` is the stroke's period in pixels at 128 px."""

    index: int
    kind: str
    hues: tuple[str, str]
    palette: tuple[tuple[float, float, float], ...]
    scale: str
    period: float
    angle: float
    force: float

    @property
    def name(self) -> str:
        return f"painter-{self.index:04d}"

    @property
    def words(self) -> str:
        """The style in words: kind, palette and scale."""
        return f"{self.scale} {self.kind} in {self.hues[0]} and {self.hues[1]}"


def painter(index: int) -> Painter:
    """Painter number `index`; kinds take turns, so any run of 8 painters holds each kind once."""
    rng = numpy_rng("painter", index)
    kind = KINDS[index % len(KINDS)]
    names = list(_HUES)
    first = int(rng.integers(len(names)))
    second = int((first + rng.integers(2, len(names) - 1)) % len(names))
    dark, light = names[first], names[second]
    palette = []
    for level, hue in zip((20.0, 44.0, 68.0, 92.0), (dark, dark, light, light), strict=True):
        turn = np.deg2rad(_HUES[hue] + rng.uniform(-12, 12))
        chroma = rng.uniform(24, 46) if level < 90 else rng.uniform(8, 20)
        palette.append((float(level + rng.uniform(-4, 4)), float(chroma * np.cos(turn)), float(chroma * np.sin(turn))))
    scale = str(rng.choice(list(_SCALES)))
    angle = {"hatch": rng.choice([45.0, 135.0]), "stripes": rng.choice([0.0, 90.0])}.get(kind, 0.0) + rng.uniform(
        -12, 12
    )
    return Painter(
        index,
        kind,
        (dark, light),
        tuple(palette),
        scale,
        float(rng.uniform(*_SCALES[scale])),
        float(angle),
        float(rng.uniform(0.85, 1.15)),
    )


def render(view: Scene, by: Painter | None, seed: int = 0, size: int = 128) -> npt.NDArray[np.uint8]:
    """The scene, plain (`by` is None) or painted, uint8 [size, size, 3]; `seed` moves the strokes, not the things."""
    picture = plain(view, size)
    if by is not None:
        rng = numpy_rng("strokes", view.index, by.index, seed)
        tone = 0.17 + 0.68 * _lightness(picture) / 100  # room at both ends, so that strokes show on white and on navy
        period = by.period * size / 128
        strokes = _STROKES[by.kind](tone, period, np.deg2rad(by.angle), rng)
        tone = np.clip(tone + by.force * strokes, 0, 1)
        picture = _colour(tone, by)
    return np.round(picture * 255).astype(np.uint8)


def _lightness(picture: npt.NDArray[np.float32]) -> Plane:
    return np.asarray(np.ascontiguousarray(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0]), np.float32)


def _colour(tone: Plane, by: Painter) -> npt.NDArray[np.float32]:
    """Look the tone (0..1) up in the painter's palette, linearly in Lab -> sRGB 0..1, [H, W, 3]."""
    stops = np.array([p[0] / 100 for p in by.palette])
    lab = np.stack([np.interp(tone, stops, [p[c] for p in by.palette]) for c in range(3)], axis=-1).astype(np.float32)
    picture: Plane = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)
    return picture


# --- strokes: tone [H, W] in 0..1, period in pixels, angle in radians -> what to add to the tone, about ±0.2 ---------


def _grid(tone: Plane, angle: float) -> tuple[Plane, Plane]:
    """Pixel coordinates turned by `angle`: (along, across), each [H, W]."""
    y, x = np.mgrid[: tone.shape[0], : tone.shape[1]].astype(np.float32)
    return x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)


def _soft(wave: Plane, sharpness: float = 3.0) -> Plane:
    """A sine in -1..1 pressed towards a square wave, without aliasing."""
    return np.asarray(np.tanh(sharpness * wave), np.float32)


def _nearest(
    tone: Plane, period: float, jitter: float, rng: np.random.Generator
) -> tuple[Plane, Plane, npt.NDArray[np.intp]]:
    """Distance to the nearest and the second nearest seed of a jittered grid, and the nearest's number, each [H, W]."""
    height, width = tone.shape
    rows, columns = int(height / period) + 3, int(width / period) + 3
    shift = rng.uniform(0, period, 2)
    jy, jx = rng.uniform(-jitter, jitter, (2, rows, columns)).astype(np.float32) * period
    cy = ((np.arange(rows) - 1) * period + shift[0])[:, None] + jy
    cx = ((np.arange(columns) - 1) * period + shift[1])[None, :] + jx
    y, x = np.mgrid[:height, :width].astype(np.float32)
    home_y = np.clip(np.round((y - shift[0]) / period).astype(np.intp) + 1, 1, rows - 2)
    home_x = np.clip(np.round((x - shift[1]) / period).astype(np.intp) + 1, 1, columns - 2)
    around = [(home_y + dy, home_x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    squared = np.stack([(y - cy[r, c]) ** 2 + (x - cx[r, c]) ** 2 for r, c in around])
    number = np.stack([r * columns + c for r, c in around])
    closest = squared.argmin(0)
    two = np.partition(squared, 1, axis=0)[:2]
    return np.sqrt(two[0]), np.sqrt(two[1]), np.take_along_axis(number, closest[None], 0)[0]


def _stipple(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    near, _, _ = _nearest(tone, period, 0.18, rng)
    radius = period * (0.24 + 0.20 * (1 - tone))
    dot = 1 / (1 + np.exp(np.clip((near - radius) * 1.6, -30, 30)))
    return np.asarray(0.12 - 0.40 * dot, np.float32)


def _hatch(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    _, across = _grid(tone, angle)
    wave = np.sin(2 * np.pi * across / period + rng.uniform(0, 2 * np.pi)) + 0.5 - 0.9 * tone
    return np.asarray(-0.17 * _soft(wave, 2.5), np.float32)


def _stripes(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    _, across = _grid(tone, angle)
    phase = rng.uniform(0, 2 * np.pi)
    return np.asarray(0.15 * _soft(np.sin(np.pi * across / period + phase), 4.0), np.float32)


def _waves(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    along, across = _grid(tone, angle)
    swing = 0.8 * period * np.sin(2 * np.pi * along / (3.6 * period) + rng.uniform(0, 2 * np.pi))
    return (
        0.16 * _soft(np.sin(2 * np.pi * (across + swing) / (1.3 * period) + rng.uniform(0, 2 * np.pi)), 1.5)
    ).astype(np.float32)


def _mosaic(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    near, second, number = _nearest(tone, 1.25 * period, 0.30, rng)
    offset = rng.uniform(-0.14, 0.14, number.max() + 1)[number]
    grout = 1 / (1 + np.exp(np.clip((second - near - 1.6) * 2.5, -30, 30)))
    return np.asarray(offset * (1 - grout) - 0.30 * grout, np.float32)


def _wash(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    height, width = tone.shape
    cells = max(3, round(height / (2.2 * period)))
    blotch = cv2.resize(
        rng.standard_normal((cells, cells)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC
    )
    sigma = 0.35 * period
    flow = cv2.GaussianBlur(tone, (0, 0), sigma)
    rim = np.abs(cv2.GaussianBlur(tone, (0, 0), sigma * 0.4) - cv2.GaussianBlur(tone, (0, 0), sigma * 1.4))
    return np.asarray(flow - tone + 0.09 * np.clip(blotch, -2, 2) - 1.2 * rim, np.float32)


def _weave(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    along, across = _grid(tone, angle)
    shift = rng.uniform(0, 2 * period, 2)
    u, v = (along + shift[0]) / period, (across + shift[1]) / period
    over = np.where((np.floor(u) + np.floor(v)) % 2 == 0, u, v)
    thread = np.abs(np.sin(np.pi * over))
    other = np.abs(np.sin(np.pi * np.where((np.floor(u) + np.floor(v)) % 2 == 0, v, u)))
    return np.asarray(0.26 * np.sqrt(thread) - 0.24 + 0.08 * other, np.float32)


def _rings(tone: Plane, period: float, angle: float, rng: np.random.Generator) -> Plane:
    height, width = tone.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cy, cx = rng.uniform(0.25, 0.75, 2) * (height, width)
    wave = np.sin(2 * np.pi * np.hypot(y - cy, x - cx) / (1.15 * period) + rng.uniform(0, 2 * np.pi))
    return np.asarray(0.16 * _soft(wave, 2.0), np.float32)


_STROKES: dict[str, Callable[[Plane, float, float, np.random.Generator], Plane]] = {
    "stipple": _stipple,
    "hatch": _hatch,
    "stripes": _stripes,
    "waves": _waves,
    "mosaic": _mosaic,
    "wash": _wash,
    "weave": _weave,
    "rings": _rings,
}
