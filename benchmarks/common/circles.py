"""Is a picture what its caption says, "orange circle with teal background"? Measured without the drawn truth.

The ground's colour is the median along the edge; what differs from it by more than half of the 99th percentile
of all differences is the circle. Its best-fit circle has its area and its centre, moved by steps of a quarter of a
pixel as long as the overlap grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from skimage.color import deltaE_ciede2000, rgb2lab

from bottega.data.circles import COLOUR_NAMES

Picture = npt.NDArray[np.uint8]
CLOSE = 10.0
ROUND = 0.9


@dataclass(frozen=True)
class Seen:
    """ΔE00 of circle and ground to the named colours; IoU with the best-fit circle, 0 where there is none."""

    inside: float
    outside: float
    iou: float

    @property
    def colours(self) -> bool:
        """Both colours are right."""
        return self.inside < CLOSE and self.outside < CLOSE

    @property
    def circle(self) -> bool:
        """There is a circle."""
        return self.iou >= ROUND


def look(picture: Picture, inside: str, outside: str) -> Seen:
    """uint8 [S, S, 3] and the two names of its caption -> what is seen."""
    pixels = picture.astype(np.float64)
    edge = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3),
                           pixels[:, -2:].reshape(-1, 3)])  # fmt: skip
    ground = np.median(edge, axis=0)
    difference = np.linalg.norm(pixels - ground, axis=-1)  # [S, S]
    mask = difference > np.quantile(difference, 0.99) / 2
    y, x, radius, iou = best_fit(mask)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    away = np.hypot(rows - y, columns - x)
    core, beyond = away <= 0.6 * radius, away > 1.4 * radius
    if not core.any() or not beyond.any():
        return Seen(100.0, 100.0, 0.0)
    return Seen(distance(pixels[core], inside), distance(pixels[beyond], outside), iou)


def best_fit(mask: npt.NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """(y, x, radius, IoU) of the circle that overlaps most with a mask [S, S]; all 0 for an empty one."""
    if not mask.any():
        return 0.0, 0.0, 0.0, 0.0
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]

    def overlap(y: float, x: float, radius: float) -> float:
        disc = np.hypot(rows - y, columns - x) <= radius
        return float((mask & disc).sum() / (mask | disc).sum())

    at = [float(rows[mask].mean()), float(columns[mask].mean()), float(np.sqrt(mask.sum() / np.pi))]
    best = overlap(*at)
    improved = True
    while improved:
        improved = False
        for place, step in ((p, s) for p in range(3) for s in (-0.25, 0.25)):
            tried = at.copy()
            tried[place] += step
            if (found := overlap(*tried)) > best:
                at, best, improved = tried, found, True
    return at[0], at[1], at[2], best


def distance(pixels: npt.NDArray[np.float64], name: str) -> float:
    """ΔE00 (Sharma et al. 2005) of the median of pixels [N, 3] in 0…255 to a named colour."""
    lab = [
        rgb2lab(np.asarray(c, np.float64)[None, None] / 255)[0, 0] for c in (np.median(pixels, 0), COLOUR_NAMES[name])
    ]
    return float(deltaE_ciede2000(*lab))


def share(values: Sequence[bool]) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927), in 0…1."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    middle, half = p + z * z / (2 * n), z * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
