"""What all damages share: the pictures that they are given, and small steps on pictures.

Pictures are uint8 sRGB [H, W, 3]. Lengths are shares of the shorter side, so that a fault looks the same at 128 and at
512 px, unless a family says that it counts pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
Mask = npt.NDArray[np.float32]  # [H, W], 0 where the picture stays, 1 where the damage shows

Cause = Literal["light", "colour", "noise", "pattern", "blur", "compression", "geometry", "scene", "style", "missing"]
"""What a person would say is wrong."""

CAUSES: tuple[Cause, ...] = (
    "light",
    "colour",
    "noise",
    "pattern",
    "blur",
    "compression",
    "geometry",
    "scene",
    "style",
    "missing",
)


@dataclass(frozen=True)
class Subject:
    """A good picture, its content and style, and a good picture of another content; all but the style of one size."""

    good: Picture
    content: Picture
    style: Picture
    other: Picture


Apply = Callable[[Subject, float, np.random.Generator], Array]
"""Damages a subject's good picture at a strength, whose unit each family chooses."""


@dataclass(frozen=True)
class Family:
    """One kind of damage.

    Attributes:
        name: of the kind.
        cause: what a person would say is wrong.
        apply: damages a subject's good picture at a strength.
        strengths: of mild, medium and severe. Mild: visible when looked for. Medium: visible at a glance. Severe:
            nobody would train on it.
    """

    name: str
    cause: Cause
    apply: Apply
    strengths: tuple[float, float, float]

    def strength(self, severity: float) -> float:
        """The strength at a severity: 0 is mild, 0.5 medium and 1 severe, straight lines between them."""
        return float(np.interp(severity, (0.0, 0.5, 1.0), self.strengths))


def levels(values: Array) -> Picture:
    """Floats in 0..255 as a picture."""
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


def mixed(one: Array, other: Array | float, weight: float | Mask) -> Picture:
    """`one` with `other` laid over it at an opacity, one for all pixels or one for each [H, W]."""
    opacity: Array = np.asarray(weight, np.float32)
    if opacity.ndim == 2:
        opacity = opacity[..., None]
    over = np.asarray(other, np.float32) * opacity
    return levels(one.astype(np.float32) * (1 - opacity) + over)


def blurred(picture: Picture, share: float) -> Picture:
    """By a Gaussian whose sigma is a share of the shorter side."""
    sigma = share * min(picture.shape[:2])
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def resize(picture: Picture, high: int, wide: int) -> Picture:
    """By area where it shrinks, else linear."""
    shrinks = high <= picture.shape[0]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (wide, high), interpolation=method), np.uint8)


def cover(picture: Picture, high: int, wide: int) -> Picture:
    """Scaled to cover [high, wide], and cut around the centre."""
    scale = max(high / picture.shape[0], wide / picture.shape[1])
    larger = resize(picture, max(high, round(picture.shape[0] * scale)), max(wide, round(picture.shape[1] * scale)))
    top = (larger.shape[0] - high) // 2
    left = (larger.shape[1] - wide) // 2
    return np.ascontiguousarray(larger[top : top + high, left : left + wide])


def move(picture: Picture, matrix: Array) -> Picture:
    """Through an affine map [2, 3] from the picture's pixels to the result's; reflected at the borders.

    Reflected, because a black border would be found for its edge and not for the fault.
    """
    high, wide = picture.shape[:2]
    return np.asarray(
        cv2.warpAffine(picture, matrix.astype(np.float32), (wide, high), borderMode=cv2.BORDER_REFLECT), np.uint8
    )


def grain(rng: np.random.Generator, shape: tuple[int, ...], pixels: float, channels: int = 3) -> Floats:
    """Noise of standard deviation 1 and mean 0 whose grain is some pixels wide, [H, W, channels].

    shape: begins with H and W, as a picture's.
    """
    high, wide = shape[:2]
    rows = max(2, round(high / pixels))
    columns = max(2, round(wide / pixels))
    small = rng.standard_normal((rows, columns, channels), np.float32)
    large = np.asarray(cv2.resize(small, (wide, high), interpolation=cv2.INTER_CUBIC), np.float32)
    large = large.reshape(high, wide, channels)
    return np.asarray((large - large.mean((0, 1))) / (large.std((0, 1)) + 1e-6), np.float32)


def region(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> Mask:
    """A soft-edged place of any form that covers a share of the picture, [H, W]. shape: begins with H and W."""
    high, wide = shape[:2]
    form = grain(rng, (high, wide), 0.5 * min(high, wide), 1)[..., 0]
    rows, columns = np.indices((high, wide), np.float32)
    top = rng.uniform(0.2, 0.8) * high
    left = rng.uniform(0.2, 0.8) * wide
    distance = np.hypot((rows - top) / high, (columns - left) / wide)
    height = distance + 0.1 * form
    edge = float(np.quantile(height, share))
    return np.asarray(np.clip(0.5 + (edge - height) * 25, 0, 1), np.float32)


def box(rng: np.random.Generator, shape: tuple[int, ...], share: float) -> tuple[slice, slice]:
    """Rows and columns of a rectangle that covers a share of the picture. shape: begins with H and W."""
    high, wide = shape[:2]
    ratio = float(np.exp(rng.uniform(-0.5, 0.5)))
    rows = min(high, max(1, round(high * np.sqrt(share) * ratio)))
    columns = min(wide, max(1, round(share * high * wide / rows)))
    top = int(rng.integers(0, high - rows + 1))
    left = int(rng.integers(0, wide - columns + 1))
    return slice(top, top + rows), slice(left, left + columns)
