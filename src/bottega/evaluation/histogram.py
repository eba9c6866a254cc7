"""Colours compared as HistoGAN does (Afifi et al. 2021, equations 1 to 5), the fifth number of StyleID's protocol.

A picture becomes three histograms of log-chromaticities, one a channel: where a pixel's ratios to the other two
channels fall, softly counted and weighted by its brightness. Two pictures are compared by the Hellinger distance.

Legend: P pixels, B = 64 bins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bottega.visual.pictures import Picture

if TYPE_CHECKING:
    import torch

Histogram = npt.NDArray[np.float32]  # [3, B, B], sums to 1

_BINS = 64
_LARGEST = 256  # pixels a side; a larger picture is shrunk without antialiasing, as the published script does it
_WIDTH = 0.02  # of a bin's kernel, in logarithms
_EPSILON = 1e-6
_OTHERS = ((1, 2), (0, 2), (0, 1))
"""For each channel the two that it is divided by, in the order of the published script."""


def colour_histogram(picture: Picture) -> Histogram:
    """The soft histograms of a picture's log-chromaticities, [3, B, B].

    Args:
        picture: uint8 [H, W, 3].
    """
    import torch
    import torch.nn.functional as F

    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255  # [3, H, W]
    if max(pixels.shape[1:]) > _LARGEST:
        size = (_LARGEST, _LARGEST)
        pixels = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
    channels = pixels.reshape(3, -1)  # [3, P]
    brightness = ((channels**2).sum(0) + _EPSILON).sqrt()[:, None]  # [P, 1]
    logs = (channels + _EPSILON).log()
    bins = torch.linspace(-3, 3, _BINS, dtype=torch.float64)[None]  # [1, B]
    found: list[torch.Tensor] = []
    for channel, (first, second) in enumerate(_OTHERS):
        rows = _kernel((logs[channel] - logs[first])[:, None], bins)  # [P, B]
        columns = _kernel((logs[channel] - logs[second])[:, None], bins)
        found.append((brightness * rows).T @ columns)
    histograms = torch.stack(found)
    return np.asarray((histograms / (histograms.sum() + _EPSILON)).numpy())


def _kernel(ratios: torch.Tensor, bins: torch.Tensor) -> torch.Tensor:
    """How much each pixel counts in each bin, by the inverse quadratic kernel, [P, B] in float32."""
    import torch

    return (1 / (1 + (ratios - bins).abs() ** 2 / _WIDTH**2)).to(torch.float32)


def histogram_distance(first: Histogram, second: Histogram) -> float:
    """Hellinger distance, 0 for equal histograms, 1 for disjoint ones."""
    return float(np.sqrt(((np.sqrt(first) - np.sqrt(second)) ** 2).sum()) / np.sqrt(2))
