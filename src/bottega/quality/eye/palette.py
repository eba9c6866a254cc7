"""Colours and tones of a whole picture against its content's and its style's: what a wrong channel order, a turned hue,
a lost colour or a wrong curve changes while every outline stays.

All functions take one picture, [G, G, F], or many, [B, G, G, F]; the first three statistics of a cell are its means of
Lab, 0..255 each, a and b grey at 128.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Complexes = npt.NDArray[np.complex64]
Array = npt.NDArray[Any]

HUES = 24
"""Bins of a histogram of hues."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of light over the cells."""

NUM_PALETTE = 3 * 4 + 2 + 2 * len(QUANTILES) + 3 + 3

_LEAST_CHROMA = np.float32(4)  # levels: below it a hue is chance
_LEAST_SPREAD = np.float32(4)
_LIGHT_SCALE = np.float32(30)
_SMOOTH = (0.25, 0.5, 0.25)


def palette_inputs(own: Floats, content: Floats, style: Floats) -> Floats:
    """The palette of a picture against those of content and style, [NUM_PALETTE], each about of unit scale."""
    ours, theirs, shown = _chroma(own), _chroma(content), _chroma(style)
    chroma = _mean_length(ours)
    parts = [
        # How the colours follow the content's: turned by an angle, or mirrored as swapped channels are.
        _agreement(ours - ours.mean(-1, keepdims=True), theirs - theirs.mean(-1, keepdims=True)),
        _agreement(ours, theirs),
        # How the mean colour lies to the style's and the content's.
        _agreement(ours.mean(-1, keepdims=True), shown.mean(-1, keepdims=True)),
        np.log(np.stack([chroma / _mean_length(theirs), chroma / _mean_length(shown)], -1)),
        _light_inputs(own[..., 0], content[..., 0], style[..., 0]),
        _hue_inputs(ours, theirs, shown),
    ]
    return np.asarray(np.concatenate(parts, -1), np.float32)


def _chroma(cells: Floats) -> Complexes:
    """Mean colour of each cell, a + ib, [..., G * G]."""
    values = (cells[..., 1] - 128) + 1j * (cells[..., 2] - 128)
    return np.asarray(values.reshape(*values.shape[:-2], -1), np.complex64)


def _mean_length(colours: Complexes) -> Floats:
    return np.asarray(np.abs(colours).mean(-1) + 1, np.float32)


def _agreement(ours: Complexes, theirs: Complexes) -> Floats:
    """Correlation of colours as complex numbers, straight and with the others mirrored: real and imaginary, [4].

    The same colours give 1 + 0i; all hues turned by an angle give its cosine and sine; a mirrored circle of hues, as
    two swapped channels leave it, correlates in the second part alone.
    """
    lengths = np.sqrt((np.abs(ours) ** 2).mean(-1) * (np.abs(theirs) ** 2).mean(-1)) + _LEAST_CHROMA**2
    straight = (ours * theirs.conj()).mean(-1) / lengths
    mirrored = (ours * theirs).mean(-1) / lengths
    return np.stack([straight.real, straight.imag, mirrored.real, mirrored.imag], -1)


def _light_inputs(own: Floats, content: Floats, style: Floats) -> Floats:
    """Quantiles of light against content and style, and the curve from the content's light to ours."""
    ours, theirs, shown = (values.reshape(*values.shape[:-2], -1) for values in (own, content, style))
    quantiles = _quantiles(ours)
    away = [(quantiles - _quantiles(other)) / _LIGHT_SCALE for other in (theirs, shown)]
    return np.concatenate([*away, _curve(ours, theirs)], -1)


def _quantiles(values: Array) -> Array:
    """[..., N] -> [..., len(QUANTILES)]."""
    return np.moveaxis(np.quantile(values, QUANTILES, axis=-1), 0, -1)


def _curve(ours: Floats, theirs: Floats) -> Floats:
    """Slope, bend and remainder of our light as a parabola of the content's, [3].

    A gamma bends; a stylisation moves and scales, and scatters.
    """
    x = theirs - theirs.mean(-1, keepdims=True)
    x = x / (x.std(-1, keepdims=True) + _LEAST_SPREAD)
    bent = x * x
    bent = bent - bent.mean(-1, keepdims=True)
    # Orthogonal to the line, so that slope and bend are found one after the other.
    along = (bent * x).mean(-1, keepdims=True) / ((x * x).mean(-1, keepdims=True) + 1e-3)
    bent = bent - along * x
    y = ours - ours.mean(-1, keepdims=True)
    slope = (y * x).mean(-1, keepdims=True) / ((x * x).mean(-1, keepdims=True) + 1e-3)
    bend = (y * bent).mean(-1, keepdims=True) / ((bent * bent).mean(-1, keepdims=True) + 1e-3)
    rest = (y - slope * x - bend * bent).std(-1)
    return np.concatenate([slope / _LIGHT_SCALE, bend / 8, rest[..., None] / _LIGHT_SCALE], -1)


def _hue_inputs(ours: Complexes, theirs: Complexes, shown: Complexes) -> Floats:
    """Share of colour whose hue neither content nor style has; how much less it is turned, and mirrored, [3]."""
    own = _hues(ours)
    known = np.maximum(_hues(theirs), _hues(shown))
    alien = _beyond(own, known)
    turned = np.stack([_beyond(np.roll(own, step, -1), known) for step in range(1, HUES)], -1)
    mirror = own[..., ::-1]
    mirrored = np.stack([_beyond(np.roll(mirror, step, -1), known) for step in range(HUES)], -1)
    return np.stack([alien, alien - turned.min(-1), alien - mirrored.min(-1)], -1) * 2


def _beyond(own: Array, known: Array) -> Array:
    """The share of hues that is more than what is known."""
    return np.asarray(np.maximum(own - known, 0).sum(-1))


def _hues(colours: Complexes) -> Array:
    """Smoothed histogram of hues weighted by chroma, [..., HUES]; its sum is below 1 where colours are pale."""
    weight = np.abs(colours)
    bins = np.floor((np.angle(colours) / (2 * np.pi) + 0.5) * HUES).astype(np.int64) % HUES
    flat_bins = bins.reshape(-1, bins.shape[-1])
    flat_weight = weight.reshape(-1, weight.shape[-1])
    count = len(flat_bins)
    places = flat_bins + HUES * np.arange(count)[:, None]
    counted = np.bincount(places.ravel(), flat_weight.ravel(), count * HUES).reshape(*bins.shape[:-1], HUES)
    shares = counted / (weight.sum(-1, keepdims=True) + _LEAST_CHROMA * bins.shape[-1])
    left, middle, right = _SMOOTH
    return np.asarray(left * np.roll(shares, 1, -1) + middle * shares + right * np.roll(shares, -1, -1))
