"""Good stylisations by rule: techniques with parameters, each put on a style picture and on the content alike.

What is drawn here is what the eye must not complain about. So the space is wide: some twenty-five techniques, all their
parameters, three ways to take on the style's colours, and any strength.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.damage.common import grain, levels, mixed
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]
Technique = Callable[[Picture, np.random.Generator], Picture]
"""Redraws a picture. The first generator gives the technique's parameters, the second the places of its strokes."""


@dataclass(frozen=True)
class Style:
    """A technique with the seed of its parameters."""

    technique: str
    seed: int

    def draw(self, picture: Picture, places: int) -> Picture:
        """The picture in this technique.

        Args:
            picture: uint8 [H, W, 3].
            places: seed of what differs between two pictures of one style, such as where the strokes lie.
        """
        parameters = numpy_rng("style", self.technique, self.seed)
        return TECHNIQUES[self.technique](picture, parameters, numpy_rng("places", places))


def take_colours(picture: Picture, source: Picture, weight: float) -> Picture:
    """Mean and deviation of each Lab channel as the source has them. After Reinhard et al., "Color transfer between
    images", IEEE CG&A 21(5), 2001."""
    ours = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    theirs = cv2.cvtColor(source, cv2.COLOR_RGB2LAB).astype(np.float32)
    mean, deviation = ours.mean((0, 1)), ours.std((0, 1))
    aim, spread = theirs.mean((0, 1)), theirs.std((0, 1))
    moved = (ours - mean) * np.clip(spread / (deviation + 1), 0.2, 3) + aim
    return mixed(picture, cv2.cvtColor(levels(moved), cv2.COLOR_LAB2RGB), weight)


def nearest_colours(picture: Picture, source: Picture, weight: float, count: int) -> Picture:
    """Each pixel takes the nearest of some colours of the source."""
    small = cv2.resize(source, (24, 24), interpolation=cv2.INTER_AREA).reshape(-1, 3).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_MAX_ITER, 8, 1.0)
    cv2.setRNGSeed(1)
    _, _, colours = cv2.kmeans(small, count, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
    distance = ((picture[..., None, :].astype(np.float32) - colours) ** 2).sum(-1)
    return mixed(picture, colours[distance.argmin(-1)], weight)


def _luma(picture: Picture) -> Floats:
    """In 0..1, [H, W]."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / np.float32(255), np.float32)


def _side(picture: Picture) -> int:
    return int(min(picture.shape[:2]))


def _soft(picture: Picture, share: float) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(0.5, share * _side(picture))), np.uint8)


def _photograph(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    return levels(picture * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8))


def _strokes(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Strokes along the outlines, in two or three layers, coarse ones first."""
    side = _side(picture)
    width = rng.uniform(0.008, 0.03)
    ratio = rng.uniform(2, 7)
    straight = rng.random() < 0.3
    fixed = rng.uniform(0, np.pi)
    jitter = rng.uniform(2, 25)
    result = _soft(picture, width)
    for scale in (2.0, 1.0, 0.5)[: int(rng.integers(2, 4))]:
        wide = max(1, round(width * scale * side))
        field = _flow(picture, width * scale)
        count = int(1.6 * (side / wide) ** 2 / ratio)
        rows = places.integers(0, picture.shape[0], count)
        columns = places.integers(0, picture.shape[1], count)
        tones = _soft(picture, width * scale * 0.5)[rows, columns] + places.normal(0, jitter, (count, 1))
        angles = np.full(count, fixed) if straight else field[rows, columns]
        angles = angles + places.normal(0, 0.2, count)
        across = np.cos(angles) * wide * ratio / 2
        down = np.sin(angles) * wide * ratio / 2
        for i in range(count):
            begin = (int(columns[i] - across[i]), int(rows[i] - down[i]))
            end = (int(columns[i] + across[i]), int(rows[i] + down[i]))
            cv2.line(result, begin, end, np.clip(tones[i], 0, 255).tolist(), wide, cv2.LINE_AA)
    return result


def _flow(picture: Picture, share: float) -> Floats:
    """The direction along outlines, radians, [H, W]."""
    luma = cv2.GaussianBlur(_luma(picture), (0, 0), max(1.0, share * _side(picture)))
    across = cv2.Sobel(luma, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(luma, cv2.CV_32F, 0, 1)
    sigma = max(2.0, 2 * share * _side(picture))
    xx = cv2.GaussianBlur(across * across, (0, 0), sigma)
    yy = cv2.GaussianBlur(down * down, (0, 0), sigma)
    xy = cv2.GaussianBlur(across * down, (0, 0), sigma)
    return np.asarray(0.5 * np.arctan2(2 * xy, xx - yy) + np.pi / 2, np.float32)


def _hatching(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    side = _side(picture)
    period = max(3.0, rng.uniform(0.008, 0.025) * side)
    angles = rng.uniform(0, np.pi) + np.array([0, np.pi / 2, np.pi / 4, 3 * np.pi / 4])
    ink = rng.uniform(0, 70, 3)
    paper = rng.uniform(200, 255, 3)
    coloured = rng.random() < 0.4
    bend = grain(places, picture.shape, side / 6, 1)[..., 0] * rng.uniform(0, 0.8) * period
    luma = cv2.GaussianBlur(_luma(picture), (0, 0), period / 3)
    rows, columns = np.indices(luma.shape, np.float32)
    covered = np.zeros(luma.shape, np.float32)
    number = int(rng.integers(2, 5))
    for i, angle in enumerate(angles[:number]):
        limit = 0.85 - 0.75 * i / number
        phase = (columns * np.cos(angle) + rows * np.sin(angle) + bend) / period
        wave = np.abs((phase % 1) - 0.5) * 2
        dark = np.clip((limit - luma) * 2.5, 0, 0.6)
        line = np.clip((dark - wave + 0.1) * period / 1.5, 0, 1)
        covered = np.maximum(covered, line)
    ground = mixed(_soft(picture, 0.01), paper, 0.45) if coloured else levels(np.broadcast_to(paper, picture.shape))
    return mixed(ground, np.broadcast_to(ink, picture.shape), covered)


def _ink_lines(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    side = _side(picture)
    sigma = rng.uniform(0.002, 0.006) * side
    wide = rng.uniform(0.96, 0.99)
    paper = rng.uniform(225, 255, 3)
    ink = rng.uniform(0, 60, 3)
    keep = rng.choice((0.0, 0.0, 0.3, 0.6))
    luma = _luma(picture)
    difference = cv2.GaussianBlur(luma, (0, 0), sigma) - wide * cv2.GaussianBlur(luma, (0, 0), sigma * 1.6)
    drawn = np.clip(1 - (np.tanh(rng.uniform(40, 120) * difference) + 1), 0, 1)
    ground = mixed(levels(np.broadcast_to(paper, picture.shape)), _soft(picture, 0.008), keep)
    return mixed(ground, np.broadcast_to(ink, picture.shape), drawn.astype(np.float32))


def _stippling(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    side = _side(picture)
    radius = max(0.8, rng.uniform(0.002, 0.006) * side)
    paper = rng.uniform(215, 255, 3)
    ink = rng.uniform(0, 80, 3)
    luma = cv2.GaussianBlur(_luma(picture), (0, 0), 1.0)
    count = int(1.1 * luma.size / (radius * radius * 3.1))
    rows = places.integers(0, luma.shape[0], count)
    columns = places.integers(0, luma.shape[1], count)
    kept = places.random(count) > luma[rows, columns] ** 0.7
    result = levels(np.broadcast_to(paper, picture.shape)).copy()
    size = max(1, round(radius))
    for row, column in zip(rows[kept].tolist(), columns[kept].tolist(), strict=True):
        cv2.circle(result, (column, row), size, ink.tolist(), -1, cv2.LINE_AA)
    return result


def _cells(picture: Picture, share: float, places: np.random.Generator, regular: bool) -> npt.NDArray[np.int32]:
    """The number of each pixel's tile, [H, W]: squares, or the cells of random points (found in a coarse plane)."""
    high, wide = picture.shape[:2]
    size = max(3, round(share * _side(picture)))
    if regular:
        rows, columns = np.indices((high, wide)) // size
        return np.asarray(rows * (wide // size + 1) + columns, np.int32)
    plane = np.full((high, wide), 255, np.uint8)
    count = max(4, high * wide // (size * size))
    plane[places.integers(0, high, count), places.integers(0, wide, count)] = 0
    _, labels = cv2.distanceTransformWithLabels(plane, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    return np.asarray(labels, np.int32)


def _flat_cells(picture: Picture, labels: npt.NDArray[np.int32], jitter: float, places: np.random.Generator) -> Picture:
    """Each tile in its mean colour."""
    flat = labels.ravel()
    count = np.bincount(flat).astype(np.float64)
    means = np.stack([np.bincount(flat, picture[..., i].ravel()) for i in range(3)], -1) / np.maximum(count, 1)[:, None]
    means += places.normal(0, jitter, (len(means), 1))
    return levels(means[labels])


def _mosaic(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    share = rng.uniform(0.015, 0.05)
    regular = rng.random() < 0.4
    grout = rng.choice((30.0, 120.0, 230.0))
    strength = rng.choice((0.0, 0.5, 0.9))
    labels = _cells(picture, share, places, regular)
    tiles = _flat_cells(picture, labels, rng.uniform(0, 14), places)
    seam = (labels != np.roll(labels, 1, 0)) | (labels != np.roll(labels, 1, 1))
    line = cv2.GaussianBlur(seam.astype(np.float32), (0, 0), 0.6)
    return mixed(tiles, grout, strength * np.clip(line * 1.5, 0, 1))


def _facets(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Large flat planes, some lighter and some darker, over a softened picture."""
    labels = _cells(picture, rng.uniform(0.04, 0.1), places, False)
    tiles = _flat_cells(picture, labels, rng.uniform(5, 25), places)
    return mixed(_soft(picture, 0.006), tiles, rng.uniform(0.5, 0.95))


def _fog(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    tone = rng.uniform(165, 235) + rng.normal(0, 8, 3)
    high, wide = picture.shape[:2]
    depth = np.linspace(rng.uniform(0.5, 0.8), rng.uniform(0.2, 0.6), high, dtype=np.float32)[:, None]
    soft = _soft(picture, rng.uniform(0.002, 0.008))
    return mixed(soft, np.broadcast_to(tone, picture.shape), np.broadcast_to(depth, (high, wide)))


def _night(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    tint = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.4, 0.8), rng.uniform(0.7, 1.1)], np.float32)
    dark = rng.uniform(0.25, 0.55)
    lit = np.clip((_luma(picture) - 0.75) * 3, 0, 1)[..., None] * rng.uniform(0, 120)
    return levels(picture * tint * dark + lit)


def _high_key(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    lift = rng.uniform(0.4, 0.7)
    return levels(255 - (255 - picture.astype(np.float32)) * (1 - lift))


def _low_key(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    return levels(255 * (picture / 255.0) ** rng.uniform(1.5, 2.6) * rng.uniform(0.7, 1.0))


def _poster(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    count = int(rng.integers(3, 8))
    size = max(3, round(rng.uniform(0.006, 0.02) * _side(picture))) | 1
    smooth = cv2.medianBlur(picture, min(size, 31))
    return nearest_colours(smooth, smooth, 1.0, count)


def _lino(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Two or three flat tones with hard, slightly rough borders."""
    side = _side(picture)
    luma = cv2.GaussianBlur(_luma(picture), (0, 0), max(0.8, rng.uniform(0.003, 0.01) * side))
    rough = grain(places, luma.shape, max(2.0, 0.01 * side), 1)[..., 0] * rng.uniform(0, 0.03)
    count = int(rng.integers(2, 4))
    limits = np.quantile(luma, np.linspace(0, 1, count + 1)[1:-1])
    dark = rng.uniform(0, 90, 3)
    light = rng.uniform(170, 255, 3)
    tones = dark + (light - dark) * np.linspace(0, 1, count)[:, None]
    step = np.digitize(luma + rough, limits)
    return np.asarray(cv2.GaussianBlur(levels(tones[step]), (0, 0), 0.6), np.uint8)


def _monochrome(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Grey, sepia, or any two colours from dark to light."""
    dark = rng.uniform(0, 60, 3)
    light = rng.uniform(190, 255, 3)
    if rng.random() < 0.5:
        dark = np.full(3, dark.mean())
        light = np.full(3, light.mean())
    weight = _luma(picture)[..., None] ** rng.uniform(0.7, 1.5)
    return levels(dark + (light - dark) * weight)


def _oil(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Smooth patches with sharp borders: repeated medians, then sharpened."""
    size = min(31, max(3, round(rng.uniform(0.01, 0.03) * _side(picture))) | 1)
    result = cv2.medianBlur(cv2.medianBlur(picture, size), size)
    soft = cv2.GaussianBlur(result, (0, 0), 1.5).astype(np.float32)
    result = levels(result + (result - soft) * rng.uniform(0.5, 2))
    return _relief(result, rng.uniform(0, 0.5), places)


def _relief(picture: Picture, strength: float, places: np.random.Generator) -> Picture:
    """Bristles and ridges along the outlines, lit from a side."""
    if strength < 0.05:
        return picture
    field = _flow(picture, 0.01)
    noise = grain(places, picture.shape, 1.2, 1)[..., 0]
    streaks = _along(noise, field, 6)
    light = np.clip(streaks / (streaks.std() + 1e-6), -2.5, 2.5) * strength * 20
    return levels(picture + light[..., None])


def _along(noise: Floats, field: Floats, steps: int) -> Floats:
    """Noise averaged along a field of directions. After Cabral and Leedom, "Imaging vector fields using line integral
    convolution", SIGGRAPH 1993."""
    rows, columns = np.indices(noise.shape, np.float32)
    across = np.cos(field)
    down = np.sin(field)
    total = noise.copy()
    for step in range(1, steps):
        for sign in (-1, 1):
            total += cv2.remap(
                noise,
                columns + sign * step * across,
                rows + sign * step * down,
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REFLECT,
            )
    return total


def _watercolour(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    side = _side(picture)
    smooth = cv2.bilateralFilter(picture, 9, rng.uniform(30, 80), max(3.0, 0.02 * side))
    pale = mixed(smooth, 245.0, rng.uniform(0.1, 0.4))
    stain = grain(places, picture.shape, 0.05 * side, 1) * rng.uniform(0, 8)
    paper = grain(places, picture.shape, 1.5, 1) * rng.uniform(0, 6)
    edges = cv2.Canny(smooth, 60, 140).astype(np.float32) / 255
    darker = cv2.GaussianBlur(edges, (0, 0), max(0.8, 0.003 * side))[..., None] * rng.uniform(0, 60)
    return levels(pale + stain + paper - darker)


def _dots(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Round touches of colour all over."""
    side = _side(picture)
    size = max(1, round(rng.uniform(0.004, 0.014) * side))
    jitter = rng.uniform(5, 35)
    result = mixed(_soft(picture, 0.01), 235.0, rng.uniform(0, 0.6))
    count = int(rng.uniform(0.7, 1.6) * picture.shape[0] * picture.shape[1] / (size * size * 3.1))
    rows = places.integers(0, picture.shape[0], count)
    columns = places.integers(0, picture.shape[1], count)
    tones = picture[rows, columns] + places.normal(0, jitter, (count, 3))
    for row, column, tone in zip(rows.tolist(), columns.tolist(), np.clip(tones, 0, 255).tolist(), strict=True):
        cv2.circle(result, (column, row), size, tone, -1, cv2.LINE_AA)
    return result


def _halftone(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """A regular screen of dots whose size follows the darkness."""
    period = max(4.0, rng.uniform(0.01, 0.025) * _side(picture))
    turn = rng.uniform(0, np.pi / 2)
    luma = cv2.GaussianBlur(_luma(picture), (0, 0), period / 2)
    rows, columns = np.indices(luma.shape, np.float32) * (2 * np.pi / period)
    wave = np.cos(columns * np.cos(turn) + rows * np.sin(turn)) + np.cos(rows * np.cos(turn) - columns * np.sin(turn))
    drawn = np.clip((wave / 4 + 0.5 - luma) * period, 0, 1)
    ink = rng.uniform(0, 80, 3)
    keep = rng.choice((0.0, 0.5, 0.8))
    ground = mixed(levels(np.full(picture.shape, 240.0)), picture, keep)
    return mixed(ground, np.broadcast_to(ink, picture.shape), (drawn * (1 - keep / 2)).astype(np.float32))


def _canvas(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Threads of a weave under a softened picture."""
    rows, columns = np.indices(picture.shape[:2], np.float32)
    period = rng.uniform(3, 9)
    threads = np.sin(rows * 2 * np.pi / period) * np.cos(columns * 2 * np.pi / period)
    uneven = 1 + 0.3 * grain(places, picture.shape, 12, 1)[..., 0]
    return levels(_soft(picture, 0.003) + (threads * uneven)[..., None] * rng.uniform(5, 18))


def _streaks(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Lines that flow along the outlines, as of a dry brush."""
    field = _flow(picture, rng.uniform(0.01, 0.03))
    pixels = rng.uniform(1.2, 3.5)
    steps = int(rng.integers(6, 16))
    noise = grain(places, picture.shape, pixels, 3)
    flowing = np.stack([_along(noise[..., i], field, steps) for i in range(3)], -1)
    flowing /= flowing.std() + 1e-6
    if rng.random() < 0.6:
        flowing = np.broadcast_to(flowing.mean(-1, keepdims=True), flowing.shape)
    soft = np.stack([_along(picture[..., i].astype(np.float32), field, steps) for i in range(3)], -1) / (2 * steps - 1)
    return levels(soft + flowing * rng.uniform(6, 28))


def _pastel(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Chalk on rough paper: the grain lets the paper through."""
    paper = rng.uniform(190, 250, 3)
    rough = grain(places, picture.shape, rng.uniform(1.2, 3), 1)[..., 0]
    through = np.clip(0.25 + 0.3 * rough, 0, 0.85) * rng.uniform(0.4, 1)
    return mixed(_soft(picture, 0.005), np.broadcast_to(paper, picture.shape), through.astype(np.float32))


def _pencil(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Grey shading with outlines, by dodging with the blurred negative."""
    luma = _luma(picture)
    soft = cv2.GaussianBlur(1 - luma, (0, 0), max(1.0, rng.uniform(0.01, 0.03) * _side(picture)))
    sketch = np.clip(luma / np.maximum(1 - soft, 0.05), 0, 1) ** rng.uniform(1, 4)
    rough = grain(places, luma.shape, 1.3, 1)[..., 0] * rng.uniform(0, 0.06)
    tone = rng.uniform(235, 255)
    return levels(np.repeat(((sketch + rough) * tone)[..., None], 3, 2))


def _glow(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    soft = _soft(picture, rng.uniform(0.01, 0.03)).astype(np.float32)
    screen = 255 - (255 - picture.astype(np.float32)) * (255 - soft * rng.uniform(0.3, 0.8)) / 255
    return levels(screen * rng.uniform(0.75, 1))


def _film(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """Grain in the light, and a curve."""
    strength = rng.uniform(4, 18)
    curve = 255 * (picture / 255.0) ** rng.uniform(0.8, 1.3)
    return levels(curve + strength * grain(places, picture.shape, rng.uniform(1, 2), 1))


def _filters(picture: Picture, rng: np.random.Generator, places: np.random.Generator) -> Picture:
    """A small random network on the pixels: a technique that no list has."""
    values = picture.astype(np.float32) / 127.5 - 1
    hidden = 6
    size = int(rng.choice((3, 5)))
    maps: list[Floats] = []
    for _ in range(hidden):
        total = np.zeros(picture.shape[:2], np.float32)
        for channel in range(3):
            kernel = rng.normal(0, 1, (size, size)).astype(np.float32)
            kernel -= kernel.mean()
            kernel[size // 2, size // 2] += rng.normal(0, 1)
            total += cv2.filter2D(values[..., channel], -1, kernel / size)
        maps.append(np.tanh(total))
    mixing = rng.normal(0, 0.5, (hidden, 3)).astype(np.float32)
    drawn = np.stack(maps, -1) @ mixing
    weight = rng.uniform(0.2, 0.6)
    return levels((values * (1 - weight) + np.tanh(drawn) * weight + 1) * 127.5)


def mild_surface(picture: Picture, seed: int) -> Picture:
    """A surface slightly redrawn in a way that the style need not show: smoothed, in flat tones, brushed, grained.

    A teacher's pictures are so where its strength is low; they are good ones. The way and its amount follow `seed`.
    """
    rng = numpy_rng("eye surface", seed)
    side = _side(picture)
    way = int(rng.integers(6))
    if way == 0:
        return np.asarray(
            cv2.bilateralFilter(picture, 0, rng.uniform(20, 60), rng.uniform(0.006, 0.015) * side), np.uint8
        )
    if way == 1:
        return np.asarray(cv2.medianBlur(picture, int(rng.choice((3, 5, 7)))), np.uint8)
    if way == 2:
        count = rng.uniform(5, 14)
        flat = np.rint(cv2.medianBlur(picture, 3) / 255 * count) / count * 255
        return np.asarray(cv2.GaussianBlur(levels(flat), (0, 0), rng.uniform(0.4, 0.9)), np.uint8)
    if way == 3:
        noise = grain(rng, picture.shape[:2], 1.2, 1)[..., 0]
        field = np.full(picture.shape[:2], rng.uniform(0, np.pi), np.float32)
        streaks = _along(noise, field, int(rng.integers(4, 12)))
        soft = _soft(picture, rng.uniform(0.001, 0.006))
        return levels(soft + (streaks / streaks.std() * rng.uniform(3, 11))[..., None])
    if way == 4:
        return levels(picture + rng.uniform(2, 9) * grain(rng, picture.shape[:2], rng.uniform(1, 1.6), 1))
    return picture


TECHNIQUES = {
    "photograph": _photograph,
    "strokes": _strokes,
    "hatching": _hatching,
    "ink_lines": _ink_lines,
    "stippling": _stippling,
    "mosaic": _mosaic,
    "facets": _facets,
    "fog": _fog,
    "night": _night,
    "high_key": _high_key,
    "low_key": _low_key,
    "poster": _poster,
    "lino": _lino,
    "monochrome": _monochrome,
    "oil": _oil,
    "watercolour": _watercolour,
    "dots": _dots,
    "halftone": _halftone,
    "canvas": _canvas,
    "streaks": _streaks,
    "pastel": _pastel,
    "pencil": _pencil,
    "glow": _glow,
    "film": _film,
    "filters": _filters,
}
