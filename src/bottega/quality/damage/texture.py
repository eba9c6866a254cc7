"""Damage to texture: noise, patterns, blur."""

from __future__ import annotations

import cv2
import numpy as np

from bottega.quality.damage.common import Family, Floats, Subject, blurred, grain, levels, mixed, move, region, resize
from bottega.visual.pictures import Picture


def colour_noise(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: standard deviation of each channel of each pixel, levels."""
    return levels(subject.good + strength * rng.standard_normal(subject.good.shape, np.float32))


def light_noise(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: standard deviation of each pixel, the same in all channels, levels."""
    high, wide = subject.good.shape[:2]
    return levels(subject.good + strength * rng.standard_normal((high, wide, 1), np.float32))


def blotches(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: standard deviation of coloured noise whose grain is 4 to 24 px of 512, levels."""
    high, wide = subject.good.shape[:2]
    pixels = max(2.0, rng.uniform(4, 24) * min(high, wide) / 512)
    return levels(subject.good + strength * grain(rng, (high, wide), pixels))


def grey_blotches(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: standard deviation of grey noise whose grain is 4 to 32 px of 512, levels."""
    high, wide = subject.good.shape[:2]
    pixels = max(2.0, rng.uniform(4, 32) * min(high, wide) / 512)
    return levels(subject.good + strength * grain(rng, (high, wide), pixels, 1))


def dead_pixels(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the pixels that are black, white or of any colour."""
    result = subject.good.copy()
    hit = rng.random(subject.good.shape[:2]) < strength
    count = int(hit.sum())
    if rng.random() < 0.5:
        result[hit] = rng.choice(np.array([0, 255], np.uint8), (count, 1))
    else:
        result[hit] = rng.integers(0, 256, (count, 3), np.uint8)
    return result


def unfinished(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: weight of noise of several grains, as a denoising that was stopped leaves it."""
    high, wide = subject.good.shape[:2]
    noise = grain(rng, (high, wide), 1) + grain(rng, (high, wide), 2) + grain(rng, (high, wide), 8)
    return mixed(subject.good, 128 + 40 * noise, strength)


def mesh(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: peak of each of two waves with a period of 3 to 6 px, levels."""
    return levels(subject.good + strength * _waves(subject, rng, 3, 6))


def moire(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: peak of each of two waves with a period of 8 to 40 px of 512, levels."""
    scale = max(min(subject.good.shape[:2]) / 512, 0.4)
    return levels(subject.good + strength * _waves(subject, rng, 8 * scale, 40 * scale))


def stripes(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of whole rows or columns, 1 to 6 px wide, levels."""
    high, wide = subject.good.shape[:2]
    lies = rng.random() < 0.5
    length = high if lies else wide
    pixels = rng.uniform(1, 6)
    profile = grain(rng, (length, 4), pixels, 1)[:, :1]  # [length, 1, 1]
    lines = profile if lies else profile.transpose(1, 0, 2)
    return levels(subject.good + strength * lines)


def checkerboard(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: levels by which every other pixel, or square of pixels, is lighter."""
    high, wide = subject.good.shape[:2]
    side = int(rng.integers(1, 4))
    rows, columns = np.indices((high, wide)) // side
    signs = 1 - 2 * ((rows + columns) % 2)
    return levels(subject.good + strength * signs[..., None])


def seams(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: levels by which square tiles of an eighth to a third of the side differ."""
    high, wide = subject.good.shape[:2]
    side = max(8, round(min(high, wide) / rng.integers(3, 9)))
    rows = -(-high // side)
    columns = -(-wide // side)
    offsets = strength * rng.uniform(-1, 1, (rows, columns, 3)) * rng.choice((1.0, 0.3), (1, 1, 3))
    tiled = offsets.repeat(side, 0).repeat(side, 1)[:high, :wide]
    return levels(subject.good + tiled)


def grid_lines(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: opacity of straight lines at the borders of tiles."""
    high, wide = subject.good.shape[:2]
    side = max(8, round(min(high, wide) / rng.integers(3, 9)))
    width = max(1, round(min(high, wide) / 256))
    mask = np.zeros((high, wide), np.float32)
    for first in range(side, high, side):
        mask[first : first + width] = 1
    for first in range(side, wide, side):
        mask[:, first : first + width] = 1
    shade = 255.0 if rng.random() < 0.5 else 0.0
    return mixed(subject.good, shade, strength * mask)


def blur(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: sigma of a Gaussian, share of the side."""
    return blurred(subject.good, strength)


def motion_blur(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: length of the movement, share of the side."""
    length = max(3, round(strength * min(subject.good.shape[:2])))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), rng.uniform(0, 180), 1)
    kernel = cv2.warpAffine(kernel, turn, (length, length))
    return np.asarray(cv2.filter2D(subject.good, -1, kernel / kernel.sum()), np.uint8)


def zoom_blur(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: by how much the farthest copy is larger, share."""
    high, wide = subject.good.shape[:2]
    total = np.zeros(subject.good.shape, np.float32)
    for step in range(8):
        turn = cv2.getRotationMatrix2D((wide / 2, high / 2), 0, 1 + strength * step / 7)
        total += move(subject.good, turn)
    return levels(total / 8)


def pixelated(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: side of the squares, share of the picture's."""
    high, wide = subject.good.shape[:2]
    count = max(2, round(1 / strength))
    small = resize(subject.good, count, max(2, round(count * wide / high)))
    return np.asarray(cv2.resize(small, (wide, high), interpolation=cv2.INTER_NEAREST), np.uint8)


def halos(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: factor by which the difference from a blurred copy is raised."""
    soft = blurred(subject.good, rng.uniform(0.003, 0.015)).astype(np.float32)
    return levels(soft + (subject.good - soft) * (1 + strength))


def smeared(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: share of the picture that is blurred."""
    high, wide = subject.good.shape[:2]
    return mixed(subject.good, blurred(subject.good, 0.035), region(rng, (high, wide), strength))


def _waves(subject: Subject, rng: np.random.Generator, shortest: float, longest: float) -> Floats:
    """Two waves across each other, [H, W, 1]."""
    high, wide = subject.good.shape[:2]
    turn = rng.uniform(0, np.pi / 2)
    period = rng.uniform(shortest, longest)
    rows, columns = np.indices((high, wide), np.float32) * (2 * np.pi / period)
    along = columns * np.cos(turn) + rows * np.sin(turn)
    across = rows * np.cos(turn) - columns * np.sin(turn)
    return np.asarray(np.cos(along) + np.cos(across), np.float32)[..., None]


FAMILIES = (
    Family("colour_noise", "noise", colour_noise, (12, 30, 70)),
    Family("light_noise", "noise", light_noise, (15, 40, 80)),
    Family("blotches", "noise", blotches, (10, 25, 50)),
    Family("grey_blotches", "noise", grey_blotches, (15, 35, 65)),
    Family("dead_pixels", "noise", dead_pixels, (0.005, 0.03, 0.15)),
    Family("unfinished", "noise", unfinished, (0.15, 0.35, 0.6)),
    Family("mesh", "pattern", mesh, (8, 20, 45)),
    Family("moire", "pattern", moire, (8, 20, 45)),
    Family("stripes", "pattern", stripes, (8, 20, 45)),
    Family("checkerboard", "pattern", checkerboard, (8, 20, 45)),
    Family("seams", "pattern", seams, (10, 30, 60)),
    Family("grid_lines", "pattern", grid_lines, (0.2, 0.5, 1.0)),
    Family("blur", "blur", blur, (0.006, 0.02, 0.04)),
    Family("motion_blur", "blur", motion_blur, (0.02, 0.06, 0.14)),
    Family("zoom_blur", "blur", zoom_blur, (0.05, 0.15, 0.35)),
    Family("pixelated", "blur", pixelated, (0.01, 0.025, 0.06)),
    Family("halos", "blur", halos, (1.5, 4, 9)),
    Family("smeared", "blur", smeared, (0.12, 0.3, 0.6)),
)
