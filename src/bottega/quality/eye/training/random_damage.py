"""Damages without a name, to learn from beside the families: each call draws another one from a wide space.

A family is one thing with one strength. These are spaces: any mixing of the channels, any curve, any texture, any
displacement, any overlay, any resampling. An eye that has seen only a list knows the list.
"""

from __future__ import annotations

import cv2
import numpy as np

from bottega.quality.damage.common import (
    Array,
    Family,
    Floats,
    Mask,
    Subject,
    box,
    cover,
    grain,
    levels,
    mixed,
    region,
)
from bottega.visual.pictures import Picture

_METHODS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


def random_colour(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of each entry of the matrix that mixes the channels, around the mean colour."""
    values = subject.good.astype(np.float32)
    centre = values.mean((0, 1)) if rng.random() < 0.5 else np.full(3, 128, np.float32)
    matrix = np.eye(3) + strength * rng.normal(0, 1, (3, 3))
    if rng.random() < 0.5:  # light stays: what changes is colour alone
        matrix += (1 - matrix.sum(0, keepdims=True)) / 3
    offset = rng.normal(0, 20 * strength, 3)
    return levels((values - centre) @ matrix.astype(np.float32) + centre + offset)


def random_curve(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of the curve's knots from the straight line, share of the range."""
    knots = int(rng.integers(4, 9))
    places = np.linspace(0, 255, knots)
    shared = rng.random() < 0.7
    moves = strength * 255 * rng.normal(0, 1, (knots, 1 if shared else 3))
    result = np.empty(subject.good.shape, np.float32)
    for channel in range(3):
        table = np.interp(np.arange(256), places, places + moves[:, 0 if shared else channel])
        result[..., channel] = table[subject.good[..., channel]]
    return levels(result)


def random_texture(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of noise of any spectrum and direction, levels."""
    high, wide = subject.good.shape[:2]
    down = np.fft.fftfreq(high)[:, None] * high
    across = np.fft.rfftfreq(wide)[None] * wide
    turn = rng.uniform(0, np.pi)
    stretch = np.exp(rng.normal(0, 0.8))
    along = across * np.cos(turn) + down * np.sin(turn)
    beside = down * np.cos(turn) - across * np.sin(turn)
    frequency = np.hypot(along * stretch, beside / stretch)
    middle = np.exp(rng.uniform(np.log(3), np.log(min(high, wide) / 2)))
    width = rng.uniform(0.2, 1.5)
    amplitude = np.exp(-0.5 * (np.log((frequency + 0.5) / middle) / width) ** 2)
    grey = rng.random() < 0.4
    planes: list[Floats] = []
    for _ in range(1 if grey else 3):
        waves = np.fft.rfft2(rng.standard_normal((high, wide)))
        planes.append(np.fft.irfft2(waves * amplitude, (high, wide)).astype(np.float32))
    noise = np.stack(planes, -1)
    noise = (noise - noise.mean()) / (noise.std() + 1e-6)
    if rng.random() < 0.3:
        noise = np.sign(noise)
    weight: Array = _place(rng, (high, wide))[..., None]
    return levels(subject.good + strength * noise * weight)


def random_places(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of the displacement, share of the side: smooth, or of whole blocks."""
    high, wide = subject.good.shape[:2]
    side = min(high, wide)
    if rng.random() < 0.5:
        field = grain(rng, (high, wide), rng.uniform(0.03, 0.5) * side, 2)
    else:
        rows, columns = int(rng.integers(1, 17)), int(rng.integers(1, 17))
        coarse = rng.standard_normal((rows, columns, 2)).astype(np.float32)
        field = np.asarray(cv2.resize(coarse, (wide, high), interpolation=cv2.INTER_NEAREST), np.float32)
    if rng.random() < 0.3:  # along one direction alone
        field[..., int(rng.integers(2))] = 0
    field = field * (strength * side)
    down, across = np.indices((high, wide), np.float32)
    edges = int(rng.choice((cv2.BORDER_REFLECT, cv2.BORDER_WRAP)))
    taken = cv2.remap(subject.good, across + field[..., 0], down + field[..., 1], cv2.INTER_LINEAR, borderMode=edges)
    return np.asarray(taken, np.uint8)


def random_overlay(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: opacity of another picture, or of a moved part of this one, in places of any form."""
    high, wide = subject.good.shape[:2]
    source = int(rng.integers(4))
    if source == 0:
        over = subject.other
    elif source == 1:
        over = cover(subject.style, high, wide)
    elif source == 2:
        over = np.roll(subject.good, (int(rng.integers(high)), int(rng.integers(wide))), (0, 1))
    else:
        over = np.ascontiguousarray(subject.other[::-1, ::-1])
    return mixed(subject.good, over, strength * _place(rng, (high, wide)))


def random_resampling(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much the sides shrink before they grow again, each by a factor of its own."""
    high, wide = subject.good.shape[:2]
    factors = np.exp(np.log(strength) * rng.uniform(0.6, 1.2, 2))
    small_high = max(4, round(high / factors[0]))
    small_wide = max(4, round(wide / factors[1]))
    shrinking, growing = int(rng.choice(_METHODS)), int(rng.choice(_METHODS[:3]))
    small = cv2.resize(subject.good, (small_wide, small_high), interpolation=shrinking)
    large = cv2.resize(small, (wide, high), interpolation=growing)
    return mixed(subject.good, large, _place(rng, (high, wide)))


def _place(rng: np.random.Generator, shape: tuple[int, int]) -> Mask:
    """Where a damage shows, [H, W]: everywhere, in a stain, a rectangle, or bands."""
    high, wide = shape
    form = rng.random()
    if form < 0.5:
        return np.ones((high, wide), np.float32)
    if form < 0.75:
        return region(rng, (high, wide), rng.uniform(0.15, 0.7))
    mask = np.zeros((high, wide), np.float32)
    if form < 0.88:
        mask[box(rng, (high, wide), rng.uniform(0.1, 0.5))] = 1
        return mask
    period = rng.uniform(0.05, 0.5) * high
    rows = np.arange(high)
    mask[(rows % period) < period * rng.uniform(0.3, 0.7)] = 1
    return mask if rng.random() < 0.5 else np.ascontiguousarray(cv2.resize(mask.T, (wide, high)))


RANDOM_FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Family("random_colour", "colour", random_colour, (0.3, 0.6, 1.0)),
        Family("random_curve", "light", random_curve, (0.12, 0.22, 0.35)),
        Family("random_texture", "noise", random_texture, (11, 26, 52)),
        Family("random_places", "geometry", random_places, (0.015, 0.04, 0.1)),
        Family("random_overlay", "scene", random_overlay, (0.4, 0.7, 1.0)),
        Family("random_resampling", "blur", random_resampling, (3, 7, 14)),
    )
}
