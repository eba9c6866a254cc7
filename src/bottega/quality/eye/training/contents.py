"""Contents made up by rule: things that cover each other, with textures, light and shadow, much as in a photograph.

After Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 41, 2001: things of all sizes that cover each
other have the edges and the spectrum of photographs. Here they have textures, shading and soft focus too, and stand on
a ground with a horizon or without one.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.damage.common import grain, levels
from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]

MAX_THINGS = 150
"""In one content: more take longer than they teach."""

SINGLED_OUT = 0.12
"""Share of contents that stand on one colour; without them a photograph with a black ground looked damaged."""


def draw_content(rng: np.random.Generator, side: int) -> Picture:
    """A made-up content, uint8 [side, side, 3]."""
    palette = _palette(rng)
    canvas = _ground(rng, side, palette)
    for share in _sizes(rng):
        _put_thing(rng, canvas, share * side, palette)
    if rng.random() < SINGLED_OUT:
        canvas = _singled_out(rng, canvas)
    return _photographed(rng, canvas)


def _singled_out(rng: np.random.Generator, canvas: Floats) -> Floats:
    """One part of it on black, on white or on one colour, as a studio, a night sky or a slide under glass shows it."""
    side = canvas.shape[0]
    mask = _outline(rng, side, rng.uniform(0.5, 1.2) * side).astype(np.float32) / 255
    soft = cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.002, 0.03) * side)[..., None]
    ground = rng.choice(np.array([[0.0, 0, 0], [0, 0, 0], [255, 255, 255], rng.uniform(0, 255, 3)]))
    return np.asarray(canvas * soft + ground * (1 - soft), np.float32)


def _palette(rng: np.random.Generator) -> Floats:
    """Some colours that occur together, [N, 3] in 0..255: around a few hues, of all lightnesses."""
    hues = rng.uniform(0, 180, int(rng.integers(1, 5)))
    count = int(rng.integers(4, 14))
    hue = rng.choice(hues, count) + rng.normal(0, 8, count)
    saturation = rng.beta(1.2, 2.2, count) * 255 * rng.uniform(0.3, 1.2)
    value = rng.uniform(15, 250, count)
    hsv = np.stack([hue % 180, np.clip(saturation, 0, 255), value], -1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0], np.float32)


def _ground(rng: np.random.Generator, side: int, palette: Floats) -> Floats:
    """What is behind all things: one or two slopes of colour, [side, side, 3]."""
    canvas = _slope(rng, side, palette)
    if rng.random() < 0.5:
        horizon = int(rng.uniform(0.3, 0.8) * side)
        canvas[horizon:] = _slope(rng, side, palette)[horizon:]
    strength = float(rng.choice((0, 4, 12, 25)))
    return canvas + strength * _texture(rng, side)


def _slope(rng: np.random.Generator, side: int, palette: Floats) -> Floats:
    one, other = palette[rng.integers(len(palette), size=2)]
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices((side, side), np.float32) / side - 0.5
    weight = np.clip(0.5 + rows * np.sin(angle) + columns * np.cos(angle), 0, 1)[..., None]
    return np.asarray(one * (1 - weight) + other * weight, np.float32)


def _texture(rng: np.random.Generator, side: int) -> Floats:
    """Of mean 0 and deviation 1, [side, side, 1]: clouds, grain, or stripes."""
    kind = rng.random()
    if kind < 0.5:
        slope = rng.uniform(0.6, 1.6)
        total = np.zeros((side, side, 1), np.float32)
        pixels = side / 3
        while pixels > 1.5:
            total += pixels**slope * grain(rng, (side, side), pixels, 1)
            pixels /= 2
    elif kind < 0.75:
        total = grain(rng, (side, side), rng.uniform(1, max(1.5, side / 20)), 1)
    else:
        rows, columns = np.indices((side, side), np.float32)
        angle = rng.uniform(0, np.pi)
        bend = grain(rng, (side, side), side / 4, 1)[..., 0] * rng.uniform(0, 0.02) * side
        period = rng.uniform(0.015, 0.15) * side
        phase = (rows * np.sin(angle) + columns * np.cos(angle) + bend) * (2 * np.pi / period)
        total = np.sin(phase)[..., None].astype(np.float32)
        if rng.random() < 0.4:
            total = np.sign(total)
    return np.asarray((total - total.mean()) / (total.std() + 1e-6), np.float32)


def _sizes(rng: np.random.Generator) -> list[float]:
    """Of the things, shares of the side, large ones first: small ones behind would never be seen.

    Most pictures are covered by things, as a photograph is; some are nearly empty, as a sky is.
    """
    smallest = rng.uniform(0.02, 0.08)
    largest = rng.uniform(0.25, 0.9)
    cover = rng.choice((0.2, 1.0, 2.5, 4.0))
    sizes: list[float] = []
    covered = 0.0
    while covered < cover and len(sizes) < MAX_THINGS:
        # The density 1 / size^2 gives each octave of sizes twice the things of the one above.
        share = rng.random()
        size = 1 / (1 / smallest + share * (1 / largest - 1 / smallest))
        sizes.append(float(size))
        covered += 0.4 * size * size
    return sorted(sizes, reverse=True)


def _put_thing(rng: np.random.Generator, canvas: Floats, size: float, palette: Floats) -> None:
    """Draw one thing over what is there."""
    side = canvas.shape[0]
    mask = _outline(rng, side, size)
    left, top, wide, high = cv2.boundingRect(mask)
    if wide * high < 9:
        return
    part = (slice(top, top + high), slice(left, left + wide))
    inside = mask[part].astype(np.float32)[..., None] / 255

    # A shadow beside it, on what is behind.
    if rng.random() < 0.3:
        _shade(canvas, mask, part, rng)

    colour = palette[rng.integers(len(palette))] + rng.normal(0, 6, 3)
    shape_size = max(high, wide)
    surface = np.broadcast_to(colour, (high, wide, 3)).astype(np.float32)
    if rng.random() < 0.75:
        second = palette[rng.integers(len(palette))]
        texture = cv2.resize(_texture(rng, max(16, shape_size)), (wide, high))[..., None]
        surface = surface + np.clip(texture, -2, 2) * (second - colour) * rng.uniform(0.05, 0.5)
    if rng.random() < 0.6:  # light from one side, as on a round thing
        rows, columns = np.indices((high, wide), np.float32)
        angle = rng.uniform(0, 2 * np.pi)
        slope = (rows / high - 0.5) * np.sin(angle) + (columns / wide - 0.5) * np.cos(angle)
        surface = surface * (1 + rng.uniform(0.2, 1.0) * slope[..., None])
    canvas[part] = canvas[part] * (1 - inside) + surface * inside


def _shade(canvas: Floats, mask: npt.NDArray[np.uint8], part: tuple[slice, slice], rng: np.random.Generator) -> None:
    """A soft shadow a little beside the thing, whose place is `part`."""
    side = canvas.shape[0]
    across = rng.normal(0, 0.02) * side
    down = abs(rng.normal(0, 0.02)) * side
    sigma = max(0.8, 0.012 * side)
    # Only around the thing: blurring the whole canvas for each of a hundred things took a third of the time.
    reach = int(3 * sigma + max(abs(across), down)) + 1
    rows = slice(max(0, part[0].start - reach), min(side, part[0].stop + reach))
    columns = slice(max(0, part[1].start - reach), min(side, part[1].stop + reach))
    near = mask[rows, columns]
    move = np.array([[1, 0, across], [0, 1, down]], np.float32)
    moved = cv2.warpAffine(near, move, near.shape[::-1])
    soft = cv2.GaussianBlur(moved, (0, 0), sigma).astype(np.float32) / 255
    canvas[rows, columns] *= 1 - 0.5 * soft[..., None]


def _outline(rng: np.random.Generator, side: int, size: float) -> npt.NDArray[np.uint8]:
    """One thing's place, [side, side], 255 inside."""
    mask = np.zeros((side, side), np.uint8)
    centre = rng.uniform(-0.05, 1.05, 2) * side
    kind = rng.random()
    if kind < 0.35:
        axes = (max(1, int(size / 2)), max(1, int(size / 2 * rng.uniform(0.3, 1))))
        cv2.ellipse(mask, _point(centre), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    elif kind < 0.7:
        count = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radius = size / 2 * rng.uniform(0.6, 1.3, count)
        corners = centre + np.stack([np.cos(angles), np.sin(angles)], -1) * radius[:, None]
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_AA)
    elif kind < 0.85:  # a blob with a smooth, irregular outline
        angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        radius = np.ones(48)
        for wave in range(1, 6):
            radius += rng.normal(0, 0.25 / wave) * np.cos(wave * angles + rng.uniform(0, 2 * np.pi))
        corners = centre + np.stack([np.cos(angles), np.sin(angles)], -1) * (np.abs(radius) * size / 2)[:, None]
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 255, cv2.LINE_AA)
    else:  # a bar: a trunk, a pole, a branch
        angle = rng.uniform(0, np.pi)
        half = np.array([np.cos(angle), np.sin(angle)]) * size * rng.uniform(0.5, 1.5)
        thick = max(1, int(size * rng.uniform(0.03, 0.2)))
        cv2.line(mask, _point(centre - half), _point(centre + half), 255, thick, cv2.LINE_AA)
    return mask


def _point(place: npt.NDArray[np.float64]) -> tuple[int, int]:
    return int(place[0]), int(place[1])


def _photographed(rng: np.random.Generator, canvas: Floats) -> Picture:
    """Softened, with grain, and of one exposure, as a camera leaves it."""
    sigma = float(np.exp(rng.uniform(np.log(0.25), np.log(1.3))))
    picture = cv2.GaussianBlur(canvas, (0, 0), sigma)
    picture = picture * rng.uniform(0.75, 1.1) + rng.uniform(-10, 15)
    picture = picture + rng.normal(0, 1, canvas.shape).astype(np.float32) * rng.choice((0, 1, 3, 6))
    return levels(picture)
