"""Distance to the drawn truth, made so that neither a blur nor the right palette alone can win.

A truth is one drawing of many: the strokes of another seed are elsewhere, so pixels can't be compared. Compared are

- colour: mean ΔE of the pictures area-averaged to 16 × 16 cells. What is where, in which colour; says nothing of
  strokes.
- texture: the log amplitude of lightness in 5 × 6 bands (scale × direction) of overlapping local
  patches, mean of the absolute differences, in nepers. Which strokes are where, whatever their phase: a blur has none,
  a palette the wrong ones.

Each is divided by the mean distance between a truth and the nearest of seven more drawings of the same scene and
painter with other strokes (measured in the miniature's first world at 128 px), and the distance is the mean of both:
**1 is what separates two such drawings**. Several truths are drawn, and the nearest counts.

Legend: G × G patches, N pixels a patch's side, K bands.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bottega.evaluation.colour import to_lab
from bottega.visual.pictures import Picture

Floats = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]

COLOUR_UNIT = 5.0
"""ΔE between two drawings of the same picture with other strokes (docs/evaluation.md)."""

TEXTURE_UNIT = 0.095
"""Nepers between the same two drawings."""

CELLS = 16
_PATCHES_ACROSS = 4  # a patch's side is a quarter of the picture's, patches overlap by half
_SCALES = 5
_TURNS = 6
_FLOOR = 0.3  # (L*)²: strokes fainter than about half a step of lightness, as rounding and codecs leave, count as none


@dataclass(frozen=True)
class Description:
    """What is compared of a picture: `colour` [16, 16, 3] Lab, `texture` [G-1, G-1, K] log amplitude."""

    colour: Floats
    texture: Floats


@dataclass(frozen=True)
class TruthDistance:
    """`total` is the mean of `colour` and `texture`; 1 separates two drawings that differ in their strokes alone."""

    total: float
    colour: float
    texture: float


def describe(picture: Picture) -> Description:
    """What the distance compares of a picture, uint8 [H, W, 3] of at least 32 pixels a side.

    Raises:
        ValueError: the picture is smaller.
    """
    import cv2

    if min(picture.shape[:2]) < 32:
        raise ValueError(
            f"the distance to the truth needs at least 32 pixels a side, got {picture.shape[1]} × {picture.shape[0]}"
        )
    lab = to_lab(picture)
    colour = cv2.resize(lab, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float32)
    return Description(colour, _texture(lab[..., 0]))


def between(first: Description, second: Description) -> TruthDistance:
    """The distance of two pictures of one size; symmetric, 0 for a picture and itself.

    Raises:
        ValueError: the pictures' sizes differ too much to have the same patches.
    """
    if first.texture.shape != second.texture.shape:
        raise ValueError(
            f"pictures must be of one size to be compared, got patches {first.texture.shape} and {second.texture.shape}"
        )
    colours = np.linalg.norm(first.colour - second.colour, axis=-1)  # [16, 16]
    textures = np.abs(first.texture - second.texture)
    colour = float(colours.mean()) / COLOUR_UNIT
    texture = float(textures.mean()) / TEXTURE_UNIT
    return TruthDistance((colour + texture) / 2, colour, texture)


def nearest(picture: Description, truths: Sequence[Description]) -> TruthDistance:
    """The distance to the nearest of the truths. A picture made from a truth must not be compared with that one.

    Raises:
        ValueError: there is no truth.
    """
    if not truths:
        raise ValueError("a distance to the truth needs at least one drawn truth, got none")
    distances = [between(picture, truth) for truth in truths]
    return min(distances, key=lambda distance: distance.total)


def _texture(lightness: Floats) -> Floats:
    """Log amplitude in every band of every local patch of a lightness plane [H, W], averaged over 2 × 2 neighbours."""
    side = min(lightness.shape) // _PATCHES_ACROSS // 2 * 2
    everywhere = np.lib.stride_tricks.sliding_window_view(lightness, (side, side))
    patches = everywhere[:: side // 2, :: side // 2]  # [G, G, N, N]
    across = patches.shape[0], patches.shape[1]
    flat = patches.reshape(-1, side * side).astype(np.float64)  # [G*G, N*N]
    window = _window(side).reshape(-1)  # [N*N]
    level = flat @ window**2 / side**2  # the mean under the window, so that nothing flat leaks
    windowed = (flat - level[:, None]) * window
    spectrum = np.fft.rfft2(windowed.reshape(-1, side, side))  # [G*G, N, N/2+1]
    density = (spectrum.real**2 + spectrum.imag**2) / side**2  # np.abs would take a root to square it again
    power = (density.reshape(len(flat), -1) @ _bands(side).T).reshape(*across, -1)  # [G, G, K]
    # Neighbours are averaged before the logarithm: of few coefficients a band, one patch's power is a rough estimate.
    top, bottom = power[:-1], power[1:]
    mean = (top[:, :-1] + bottom[:, :-1] + top[:, 1:] + bottom[:, 1:]) / 4  # [G-1, G-1, K]
    amplitude: Floats = (0.5 * np.log(mean + _FLOOR)).astype(np.float32)
    return amplitude


@functools.cache
def _window(side: int) -> Weights:
    """A Hann window of mean square 1, [N, N]."""
    line = np.hanning(side + 2)[1:-1]
    window = np.outer(line, line)
    scaled: Weights = window / np.sqrt((window**2).mean())
    return scaled


@functools.cache
def _bands(side: int) -> Weights:
    """Weights of K Gaussian bands (log frequency × direction) of `rfft2`, each summing to 1, [K, N*(N/2+1)]."""
    y = np.fft.fftfreq(side)[:, None]
    x = np.fft.rfftfreq(side)[None, :]
    radius = np.hypot(x, y)  # [N, N/2+1]
    angle = np.mod(np.arctan2(y, x), np.pi)
    # `rfft2` leaves out one of each conjugate pair; its own mirror images are in the first and the last column only.
    column = np.arange(x.shape[1])
    twice = np.where((column == 0) | (column == side // 2), 1.0, 2.0)
    # From one wave a patch to the Nyquist rate: a patch shows nothing coarser or finer.
    edges = np.geomspace(1 / side, 0.5, _SCALES + 1)
    octaves = np.log2(np.maximum(radius, 1e-9))
    bands = []
    for low, high in itertools.pairwise(edges):
        width = np.log2(high / low) / 2
        middle = np.log2(low * high) / 2
        ring = np.exp(-0.5 * ((octaves - middle) / width) ** 2) * (radius > 0)
        for turn in range(_TURNS):
            # Directions repeat after half a turn: the difference is taken on that circle.
            shifted = np.mod(angle - turn * np.pi / _TURNS + np.pi / 2, np.pi)
            off = np.abs(shifted - np.pi / 2)
            sector = np.exp(-0.5 * (off / (np.pi / _TURNS / 2)) ** 2)
            bands.append(ring * sector * twice)
    weights = np.stack(bands).reshape(len(bands), -1)
    normed: Weights = weights / weights.sum(1, keepdims=True)
    return normed
