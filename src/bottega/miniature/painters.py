"""Painters of the drawn world: each has a kind of stroke, a palette and a brush of its own, and paints any scene.

A painter keeps the lightness of objects and their places, and replaces hues and surface: the picture's tone (L*) is
broken up by the strokes of his kind, then looked up in his palette. All paint on the same canvas, whose weave of 16 px
says where strokes fall, as that of a tapestry does; the brush says how much they cover, a seed shakes them a little.
Where strokes fall elsewhere in every picture, or at a spacing of the painter's own, a network
must settle their phase from noise, which takes far more samples than two cores can give it (docs/log.md).
"""

from __future__ import annotations

import functools
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
# The canvas: strokes lie 16 of 128 px apart, which is four cells of the miniature's latents, and repeat after 32.
# Strokes of less than two cells alias into something that no diffusion model of this size can distinguish from noise.
_SPACING = 16 / 128
_BRUSHES = {"fine": -1.0, "medium": 0.0, "broad": 1.0}  # how much of the canvas the strokes cover
_SHAKE = 1.0  # pixels of 128 by which a seed moves the strokes, at most


@dataclass(frozen=True)
class Painter:
    """Who paints. `palette` is [4, 3] CIE Lab, dark to light; `brush` is how much the strokes cover, -1 to 1."""

    index: int
    kind: str
    hues: tuple[str, str]
    palette: tuple[tuple[float, float, float], ...]
    scale: str
    brush: float
    angle: float
    force: float

    @property
    def name(self) -> str:
        return f"painter-{self.index:04d}"

    @property
    def words(self) -> str:
        """The style in words: kind, palette and scale."""
        return f"{self.scale} {self.kind} in {self.hues[0]} and {self.hues[1]}"


@functools.lru_cache(maxsize=4096)
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
    scale = str(rng.choice(list(_BRUSHES)))
    # Both are drawn whatever the kind, so that what follows is the same for all kinds.
    angles = {"hatch": rng.choice([45.0, 135.0]), "stripes": rng.choice([0.0, 90.0])}
    angle = angles.get(kind, 0.0)
    return Painter(
        index,
        kind,
        (dark, light),
        tuple(palette),
        scale,
        _BRUSHES[scale],
        float(angle),
        float(rng.uniform(0.85, 1.15)),
    )


def render(view: Scene, by: Painter | None, seed: int = 0, size: int = 128) -> npt.NDArray[np.uint8]:
    """The scene, plain (`by` is None) or painted, uint8 [size, size, 3]; `seed` moves the strokes, not the objects."""
    picture = plain(view, size)
    if by is not None:
        tone = 0.17 + 0.68 * _lightness(picture) / 100  # room at both ends, so that strokes show on white and on navy
        shake = numpy_rng("strokes", view.index, by.index, seed).uniform(-_SHAKE, _SHAKE, 2) * size / 128
        strokes = _STROKES[by.kind](tone, _SPACING * size, np.deg2rad(by.angle), by.brush, shake)
        tone = np.clip(tone + by.force * strokes, 0, 1)
        picture = _colour(tone, by)
    return np.round(picture * 255).astype(np.uint8)


def _lightness(picture: npt.NDArray[np.float32]) -> Plane:
    return np.asarray(np.ascontiguousarray(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)[..., 0]), np.float32)


def _colour(tone: Plane, by: Painter) -> npt.NDArray[np.float32]:
    """Look the tone (0..1) up in the painter's palette, linearly in Lab -> sRGB 0..1, [H, W, 3]."""
    palette = np.array(by.palette)  # [4, 3]
    stops = palette[:, 0] / 100
    planes = [np.interp(tone, stops, palette[:, channel]) for channel in range(3)]
    lab = np.stack(planes, axis=-1).astype(np.float32)
    picture: Plane = np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)
    return picture


# --- strokes: tone [H, W] in 0..1, spacing in pixels, angle in radians, brush -1..1, shake (y, x) in pixels -> what to
# add to the tone, about ±0.2. -----------------------------------------------------------------------------------------


def _grid(tone: Plane, angle: float, shake: Plane) -> tuple[Plane, Plane]:
    """Pixel coordinates turned by `angle`: (along, across), each [H, W]."""
    y, x = (axis.astype(np.float32) for axis in np.mgrid[: tone.shape[0], : tone.shape[1]])
    y, x = y + np.float32(shake[0]), x + np.float32(shake[1])
    return x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)


def _soft(wave: Plane, sharpness: float = 3.0) -> Plane:
    """A sine in -1..1 pressed towards a square wave, without aliasing."""
    return np.asarray(np.tanh(sharpness * wave), np.float32)


def _edge(distance: Plane) -> Plane:
    """0 where `distance` (pixels) is below 0, 1 above, soft over a pixel."""
    return 1 / (1 + np.exp(-np.clip(distance * 1.6, -30, 30)))


def _radius(tone: Plane, spacing: float, shake: Plane) -> Plane:
    """Distance to the nearest of a lattice of points, in pixels."""
    along, across = _grid(tone, 0.0, shake)
    x = (along + spacing / 2) % spacing - spacing / 2
    y = (across + spacing / 2) % spacing - spacing / 2
    return np.asarray(np.hypot(x, y), np.float32)


def _stipple(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    radius = spacing * (0.25 + 0.05 * brush + 0.20 * (1 - tone))
    return np.asarray(0.12 - 0.40 * (1 - _edge(_radius(tone, spacing, shake) - radius)), np.float32)


def _hatch(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    _, across = _grid(tone, angle, shake)
    wave = np.sin(2 * np.pi * across * np.sqrt(2) / spacing) + 0.5 + 0.25 * brush - 0.9 * tone
    return np.asarray(-0.17 * _soft(wave, 2.5), np.float32)


def _stripes(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    _, across = _grid(tone, angle, shake)
    return np.asarray(0.15 * _soft(np.sin(2 * np.pi * across / spacing) - 0.4 * brush, 4.0), np.float32)


def _waves(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    along, across = _grid(tone, angle, shake)
    swing = 0.5 * spacing * np.sin(np.pi * along / spacing)
    return np.asarray(0.16 * _soft(np.sin(2 * np.pi * (across + swing) / spacing) - 0.3 * brush, 1.5), np.float32)


_TILES = np.array([[0.12, 0.30, 0.14], [0.72, 0.18, -0.05], [0.22, 0.80, -0.13], [0.70, 0.68, 0.05]])  # y, x, tone


def _mosaic(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    x, y = _grid(tone, 0.0, shake)
    side = 2 * spacing
    distances = []
    for centre_y, centre_x, _ in _TILES:
        from_y = (y / side - centre_y + 0.5) % 1 - 0.5
        from_x = (x / side - centre_x + 0.5) % 1 - 0.5
        distances.append(np.hypot(from_y, from_x) * side)
    away = np.stack(distances)  # [tiles, H, W]
    near, second = np.partition(away, 1, axis=0)[:2]
    grout = 1 - _edge(1.5 * (second - near - 1.8 - 0.7 * brush))
    return np.asarray(_TILES[away.argmin(0), 2] * (1 - grout) - 0.30 * grout, np.float32)


def _wash(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    x, y = _grid(tone, 0.0, shake)
    blotch = np.sin(np.pi * x / spacing) * np.sin(np.pi * y / spacing)
    reach = spacing * (1 + 0.2 * brush)
    flow = cv2.GaussianBlur(tone, (0, 0), 0.18 * reach)
    rim = np.abs(cv2.GaussianBlur(tone, (0, 0), 0.07 * reach) - cv2.GaussianBlur(tone, (0, 0), 0.25 * reach))
    return np.asarray(flow - tone + 0.12 * blotch - 1.2 * rim, np.float32)


def _weave(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    along, across = _grid(tone, angle, shake)
    u, v = along / spacing, across / spacing
    even = (np.floor(u) + np.floor(v)) % 2 == 0
    thread = np.abs(np.sin(np.pi * np.where(even, u, v)))
    other = np.abs(np.sin(np.pi * np.where(even, v, u)))
    return np.asarray(0.28 * thread ** (0.6 - 0.2 * brush) - 0.24 + 0.08 * other, np.float32)


def _rings(tone: Plane, spacing: float, angle: float, brush: float, shake: Plane) -> Plane:
    away = _radius(tone, 2 * spacing, shake)
    wave = np.cos(2 * np.pi * away / (0.7 * spacing)) + 0.3 * brush
    return np.asarray(-0.16 * _soft(wave, 2.0), np.float32)


_STROKES: dict[str, Callable[[Plane, float, float, float, Plane], Plane]] = {
    "stipple": _stipple,
    "hatch": _hatch,
    "stripes": _stripes,
    "waves": _waves,
    "mosaic": _mosaic,
    "wash": _wash,
    "weave": _weave,
    "rings": _rings,
}
