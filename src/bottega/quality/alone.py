"""What one picture shows by itself, without a content or a style to compare it with.

Less can be known than in `bottega.quality.measuring`: white paper, flat colour, darkness and grain are what many
pictures are meant to have. So these measures ask how a value comes about (whether a clipped channel hides detail,
whether colour varies where nothing is drawn) and not only how large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality import detectors
from bottega.quality.measuring import luminance, reference
from bottega.visual.pictures import Picture

LARGEST = 1024
"""Longest side that is measured: larger pictures are reduced, for what is looked for here is not finer."""

_CLIPPED_FROM = 253  # the upper limit of `measure`'s clipped values
_DETAIL = 1.5  # levels of deviation around a pixel: above the rounding of a flat area, below any brush stroke
_COARSE = 32  # areas a side


@dataclass(frozen=True)
class Alone:
    """Measures of one picture; shares and values in 0…1 unless said otherwise."""

    bright: float
    """99th percentile of luminance."""
    spread: float
    """Standard deviation of the channel with the largest one."""
    tones: float
    """Luminance from its 0.1th to its 99.9th percentile: a few dark strokes on paper count whole."""
    vivid: float
    """Mean of (largest - smallest channel)."""
    textured: float
    """Share of the pixels around which not all is one colour: little in flat drawings."""
    burnt: float
    """Share of the pixels where one channel is at its upper limit over an area, while the others go on varying."""
    colour_noise: float
    """Levels; `detectors.colour_noise`."""
    coarse: float
    """Share of the variance that means over 32 x 32 areas keep: hardly any of noise."""
    hues: float
    """Levels by which colours deviate across their main direction: next to none of paper, ink, grass or rust."""
    channels: tuple[float, float, float]
    """98th percentiles of red, green and blue."""


def measure_alone(picture: Picture) -> Alone:
    """Measure a picture, uint8 [H, W, 3] in sRGB, sides of 16 px or more.

    Raises:
        RequestError: another dtype or shape, or a side under 16 px.
    """
    known = reference(picture)
    if max(picture.shape[:2]) > LARGEST:
        scale = LARGEST / max(picture.shape[:2])
        picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    light = luminance(picture)
    darkest, brightest = detectors.quantiles(light, (0.001, 0.999))
    planes = cv2.split(picture)
    span = cv2.subtract(cv2.max(cv2.max(*planes[:2]), planes[2]), cv2.min(cv2.min(*planes[:2]), planes[2]))
    coarse, hues = _variance(picture)
    red, green, blue = (detectors.quantiles(np.asarray(plane, np.uint8), (0.98,))[0] / 255 for plane in planes)
    return Alone(
        bright=known.bright,
        spread=known.spread,
        tones=(brightest - darkest) / 255,
        vivid=float(cv2.mean(span)[0]) / 255,
        textured=_textured(picture),
        burnt=_burnt(picture),
        colour_noise=known.noise,
        coarse=coarse,
        hues=hues,
        channels=(red, green, blue),
    )


def _textured(picture: Picture) -> float:
    kernel = np.ones((3, 3), np.uint8)
    spans = cv2.subtract(cv2.dilate(picture, kernel), cv2.erode(picture, kernel))
    return float((spans.max(axis=2) > 0).mean())


def _burnt(picture: Picture) -> float:
    """The largest of the three channels' shares."""
    kernel = np.ones((5, 5), np.uint8)
    deviations = []
    for channel in range(3):
        values = picture[..., channel].astype(np.float32)
        mean = cv2.blur(values, (5, 5))
        variance = cv2.subtract(cv2.blur(cv2.multiply(values, values), (5, 5)), cv2.multiply(mean, mean))
        deviations.append(cv2.sqrt(cv2.max(variance, 0)))
    shares = []
    for channel in range(3):
        is_clipped = (picture[..., channel] >= _CLIPPED_FROM).astype(np.uint8)
        inside = cv2.erode(is_clipped, kernel) > 0  # without the rim, where an edge passes through the window
        others = cv2.max(deviations[(channel + 1) % 3], deviations[(channel + 2) % 3])
        shares.append(float((inside & (others > _DETAIL)).mean()))
    return max(shares)


def _variance(picture: Picture) -> tuple[float, float]:
    """`coarse` and `hues`."""
    values = picture.reshape(-1, 3).astype(np.float32)
    covariance: npt.NDArray[np.float64] = np.cov(values, rowvar=False)
    total = float(np.trace(covariance))
    areas = cv2.resize(picture.astype(np.float32), (_COARSE, _COARSE), interpolation=cv2.INTER_AREA)
    kept = float(areas.reshape(-1, 3).var(axis=0).sum())
    hues = float(np.sqrt(max(np.linalg.eigvalsh(covariance)[1], 0.0)))  # rising: the second of three
    return kept / max(total, 1.0), hues
