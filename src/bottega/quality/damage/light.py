"""Damage to light and colour."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import cv2
import numpy as np

from bottega.quality.damage.common import Family, Floats, Subject, grain, levels, mixed
from bottega.visual.pictures import Picture

_WASH = 160.0  # the grey of a washed picture, levels


def darkened(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the light that is kept."""
    return levels(subject.good.astype(np.float32) * strength)


def flattened(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: contrast that is kept around the mean colour, share."""
    mean = subject.good.reshape(-1, 3).mean(0)
    return mixed(subject.good, mean, 1 - strength)


def washed(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: weight of a light grey."""
    return mixed(subject.good, _WASH, strength)


def burnt(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the values within the range that are stretched beyond it, at both ends."""
    values = subject.good.astype(np.float32)
    # What is clipped already must not count towards the share.
    inside = values[(values > 2) & (values < 253)]
    if inside.size == 0:
        return subject.good
    low, high = np.quantile(inside, (strength / 2, 1 - strength / 2))
    return levels((values - low) * (255 / max(float(high - low), 1.0)))


def overexposed(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the values that become white."""
    values = subject.good.astype(np.float32)
    white = max(float(np.quantile(values, 1 - strength)), 1.0)
    return levels(values * (255 / white))


def saturated(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much the mean of (largest - smallest channel) rises, 0..1."""
    # Tinted a little first, for grey times any factor stays grey.
    tint = rng.normal(0, 1, 3).astype(np.float32)
    picture = subject.good.astype(np.float32) + tint
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]

    def vivid(factor: float) -> Floats:
        return np.asarray(np.clip(light + factor * (picture - light), 0, 255), np.float32)

    def mean_span(values: Floats) -> float:
        red, green, blue = cv2.split(values)
        largest = cv2.max(cv2.max(red, green), blue)
        smallest = cv2.min(cv2.min(red, green), blue)
        return float(cv2.mean(largest)[0] - cv2.mean(smallest)[0]) / 255

    aim = min(mean_span(picture) + strength, 0.95)
    factors = np.geomspace(1, 300, 40).tolist()
    reached = bisect_left(factors, aim, key=lambda factor: mean_span(vivid(factor)))
    return levels(vivid(factors[min(reached, len(factors) - 1)]))


def inverted(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: weight of the negative."""
    return mixed(subject.good, 255 - subject.good, strength)


def solarised(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the values, from the lightest on, that turn into their negative."""
    values = subject.good
    limit = np.quantile(values, 1 - strength)
    return np.where(values >= limit, 255 - values, values).astype(np.uint8)


def channels_swapped(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: weight of the picture with its channels in another order."""
    orders = ((2, 1, 0), (1, 0, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1))
    order = orders[int(rng.integers(len(orders)))]
    return mixed(subject.good, subject.good[..., list(order)], strength)


def hue_turned(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: by how much all hues turn, degrees."""
    angle = np.deg2rad(strength * rng.choice((-1.0, 1.0)))
    return _in_lab(subject.good, lambda lab: _turned(lab, float(angle)))


def cast(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: how far all colours move towards one hue, of Lab's 0..255."""
    angle = rng.uniform(0, 2 * np.pi)
    move = np.array([0, np.cos(angle), np.sin(angle)], np.float32) * strength
    return _in_lab(subject.good, lambda lab: lab + move)


def greyed(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the colour that is lost."""
    light = cv2.cvtColor(subject.good, cv2.COLOR_RGB2GRAY)[..., None]
    return mixed(subject.good, np.repeat(light, 3, 2), strength)


def gamma(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: the exponent, or its inverse."""
    exponent = strength if rng.random() < 0.5 else 1 / strength
    return levels(255 * (subject.good / 255.0) ** exponent)


def few_levels(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: levels that each channel keeps."""
    steps = max(round(strength) - 1, 1)
    return levels(np.rint(subject.good / 255.0 * steps) * (255 / steps))


def vignette(subject: Subject, strength: float, _: np.random.Generator) -> Picture:
    """strength: share of the light that is lost in the corners."""
    high, wide = subject.good.shape[:2]
    rows, columns = np.indices((high, wide), np.float32)
    distance = np.hypot(rows / high - 0.5, columns / wide - 0.5) / np.sqrt(0.5)
    kept = 1 - strength * np.clip((distance - 0.25) / 0.6, 0, 1)
    return levels(subject.good * kept[..., None])


def uneven_light(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: levels by which one side is darker, and the other lighter, than it was."""
    high, wide = subject.good.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.indices((high, wide), np.float32)
    slope = (columns / wide - 0.5) * np.cos(angle) + (rows / high - 0.5) * np.sin(angle)
    return levels(subject.good + 2 * strength * slope[..., None])


def clouds(subject: Subject, strength: float, rng: np.random.Generator) -> Picture:
    """strength: deviation of wide stains of colour, levels."""
    high, wide = subject.good.shape[:2]
    share = rng.uniform(0.15, 0.4)
    return levels(subject.good + strength * grain(rng, (high, wide), share * min(high, wide)))


def _in_lab(picture: Picture, change: Callable[[Floats], Floats]) -> Picture:
    """A picture whose Lab values, each in 0..255, are changed."""
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)
    return np.asarray(cv2.cvtColor(levels(change(lab)), cv2.COLOR_LAB2RGB), np.uint8)


def _turned(lab: Floats, angle: float) -> Floats:
    """All hues turned by an angle in radians."""
    a = lab[..., 1] - 128
    b = lab[..., 2] - 128
    red_green = np.cos(angle) * a - np.sin(angle) * b + 128
    yellow_blue = np.sin(angle) * a + np.cos(angle) * b + 128
    return np.stack([lab[..., 0], red_green, yellow_blue], -1)


FAMILIES = (
    Family("darkened", "light", darkened, (0.4, 0.15, 0.03)),
    Family("flattened", "light", flattened, (0.4, 0.2, 0.05)),
    Family("washed", "light", washed, (0.35, 0.7, 0.85)),
    Family("burnt", "light", burnt, (0.2, 0.45, 0.75)),
    Family("overexposed", "light", overexposed, (0.25, 0.5, 0.8)),
    Family("saturated", "colour", saturated, (0.12, 0.4, 0.5)),
    Family("inverted", "colour", inverted, (0.3, 0.8, 1.0)),
    Family("solarised", "colour", solarised, (0.1, 0.3, 0.5)),
    Family("channels_swapped", "colour", channels_swapped, (0.4, 0.8, 1.0)),
    Family("hue_turned", "colour", hue_turned, (30, 80, 150)),
    Family("cast", "colour", cast, (10, 28, 55)),
    Family("greyed", "colour", greyed, (0.5, 0.85, 1.0)),
    Family("gamma", "light", gamma, (1.6, 2.8, 5.0)),
    Family("few_levels", "light", few_levels, (10, 5, 3)),
    Family("vignette", "light", vignette, (0.5, 0.85, 1.0)),
    Family("uneven_light", "light", uneven_light, (30, 80, 150)),
    Family("clouds", "colour", clouds, (10, 28, 55)),
)
