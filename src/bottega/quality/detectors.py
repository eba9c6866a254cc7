"""The detectors' arithmetic: pure functions of a picture's luminance and colours, by OpenCV's integer SIMD paths.

Luminance is Rec. 601, uint8 [H, W]; sizes of maps do not depend on the picture's. What is compared between a picture,
its content and its style is in `bottega.quality.measure`.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]  # [H, W]
Map = npt.NDArray[np.float32]

LINES = 64  # side of the tiles whose spectra are averaged, pixels
LAG_SIDE = 128  # side at which a second copy is looked for
_TILES = 2  # tiles along each side, at most
_LINE_FLOOR = 256.0  # power of a noise of 16 levels: a weaker wave is no mesh to the eye
_LINES_FROM = 1 / 7  # cycles a pixel; coarser waves are strokes, not mesh
_LAGS = (4.0, 14.0)  # where a second copy lies, pixels of LAG_SIDE: 3 to 11 % of the side
_SPAN = 17
_BLOCK, _STEP_CAP = 8, 4
_QUIET = 0.02  # levels that stand out in a picture without any texture
_FLAT = 1e-4  # standard deviation of an edge map below which there is no structure to compare
_TONE_FLAT = 1.0  # levels
_NEAR = np.ones((3, 3), np.uint8)


def edge_map(luma: Luma, side: int) -> Map | None:
    """Where the picture has edges, [side, side], centred and of unit norm; None where it has none.

    Area resize to `side`, Gaussian of 2 px (so that strokes count less than outlines), Sobel magnitude, Gaussian of 1
    px (so that an outline may move a little). The dot product of two maps is Pearson's correlation.
    """
    small = resized(luma, side).astype(np.float32) * np.float32(1 / 255)
    small = cv2.GaussianBlur(small, (0, 0), 2.0)
    magnitude = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    return _unit(cv2.GaussianBlur(magnitude, (0, 0), 1.0), _FLAT)


def tone_map(luma: Luma) -> Map | None:
    """Where the picture is light and dark, [32, 32] after a Gaussian of 2.5 px, centred and of unit norm; None where
    flat. A Gaussian of 8 % of the side leaves no stroke, only the places of things.
    """
    small = resized(luma, 32).astype(np.float32)
    return _unit(cv2.GaussianBlur(small, (0, 0), 2.5), _TONE_FLAT)


def resized(luma: Luma, side: int) -> Luma:
    """Luminance at [side, side]: by area where it shrinks, else linear."""
    shrink = min(luma.shape) >= side
    return np.asarray(cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR))


def _unit(values: npt.NDArray[np.float32], flat: float) -> Map | None:
    values = values - cv2.mean(values)[0]
    norm = float(cv2.norm(values, cv2.NORM_L2))
    return np.asarray(values * np.float32(1 / norm), np.float32) if norm > flat * values.shape[0] else None


def gradients(luma: Luma) -> tuple[float, int]:
    """Mean squared Sobel gradient a pixel (kernel / 8, so that it is a derivative; luminance in 0..1), and the steepest
    slope: the 99.8th percentile of the larger of both directions on every fourth row (on every row under 256), levels a
    pixel.
    """
    across, down = cv2.spatialGradient(luma)
    total = cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
    step = 4 if luma.shape[0] >= 256 else 1
    steep = cv2.max(cv2.convertScaleAbs(across[::step], alpha=0.25), cv2.convertScaleAbs(down[::step], alpha=0.25))
    return float(total / luma.size / (64 * 255**2)), quantiles(steep, (0.998,))[0]


def quantiles(values: npt.NDArray[np.uint8], shares: tuple[float, ...]) -> list[int]:
    """The levels of a plane below or at which these shares of it lie; of 256 rows and more every other one is read."""
    values = values[::2] if values.shape[0] >= 256 else values
    counts = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel()
    return [int(level) for level in np.searchsorted(np.cumsum(counts), np.asarray(shares) * values.size)]


def blocking(luma: Luma) -> tuple[float, float] | None:
    """How far steps of luminance stand out along a grid of 8 px: by how many levels, 0..4, and as a share of all that
    stands out or stays back, 0..8/3; None for a side under 48 px.

    A step between two pixels stands out by what it is more than the larger of the steps before and behind it, within -4
    and 4 levels, so that a true edge counts little. Of each of the 8 phases counts the weaker of its even and its odd
    lines, so that a texture of 16 px does not. The levels are the strongest phase above the median, the geometric mean
    of both directions; the share is that phase's over the mean of all phases' sizes, the smaller of both directions.
    Fine blocks show in the first, blocks with nothing left between their borders in the second. After Wang, Sheikh and
    Bovik, "No-reference perceptual quality assessment of JPEG compressed images", ICIP 2002, who compare the steps on
    the grid with those beside it. Looked at are every other row, and for steps downward the middle half of the columns.
    """
    if min(luma.shape) < 6 * _BLOCK:
        return None
    levels, shares = [], []
    quarter = luma.shape[1] // 4
    middle = luma[:, quarter : 3 * quarter] if quarter >= 6 * _BLOCK else luma
    for axis in (1, 0):
        outward, back = _standing_out(luma[::2] if axis else middle, axis)
        above = np.sort(outward)[_BLOCK - 1 : _BLOCK + 1].mean()
        levels.append(max(float(np.minimum(outward[:_BLOCK], outward[_BLOCK:]).max() - above), 0.0))
        signed = outward - back
        strongest = np.minimum(signed[:_BLOCK], signed[_BLOCK:]).max()
        shares.append(float(strongest / (np.abs(signed).mean() + _QUIET)))
    return float(np.sqrt(levels[0] * levels[1])), min(shares)


def _standing_out(luma: Luma, axis: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean of what steps across `axis` stand out, and of what they stay back, for each of 16 phases, levels."""
    if axis:
        steps = cv2.absdiff(luma[:, :-1], luma[:, 1:])
        beside, here = cv2.max(steps[:, :-2], steps[:, 2:]), steps[:, 1:-1]
    else:
        steps = cv2.absdiff(luma[:-1], luma[1:])
        beside, here = cv2.max(steps[:-2], steps[2:]), steps[1:-1]
    phase = np.arange(here.shape[axis]) % (2 * _BLOCK)
    counts = np.bincount(phase) * here.shape[1 - axis]
    planes = (cv2.min(cv2.subtract(here, beside), _STEP_CAP), cv2.min(cv2.subtract(beside, here), _STEP_CAP))
    outward, back = (cv2.reduce(plane, 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for plane in planes)
    return np.bincount(phase, outward) / counts, np.bincount(phase, back) / counts


def colour_noise(red: Luma, green: Luma, blue: Luma) -> float:
    """Standard deviation of fine noise in the colour differences R-G and B-G, levels.

    Immerkaer's mask (second difference along both axes, which edges and gradients hardly pass), "Fast Noise Variance
    Estimation", CVIU 64(2), 1996; of its values the median size, not the mean, for noise is everywhere and outlines and
    dots are not. The planes are given at half size; of 256 rows and more the middle half is read.
    """
    high = red.shape[0]
    if high >= 256:
        red, green, blue = (plane[high // 4 : high - high // 4] for plane in (red, green, blue))
    mask = np.array([1, -2, 1], np.float32)
    total = 0
    for plane in (red, blue):
        difference = cv2.subtract(plane, green, dtype=cv2.CV_16S)
        sizes = cv2.convertScaleAbs(cv2.sepFilter2D(difference, cv2.CV_16S, mask, mask))
        total += quantiles(sizes, (0.5,))[0]
    return total / 2 / (6 * 0.6745)


@functools.cache
def _window(side: int) -> Map:
    half = np.hanning(side + 2)[1:-1]
    return np.outer(half, half).astype(np.float32)


@functools.cache
def _fine() -> Map:
    rate = np.fft.fftfreq(LINES)
    return np.where(np.hypot(rate[:, None], rate[None]) >= _LINES_FROM, 0, -np.inf).astype(np.float32)


def _wrapped(values: Map, margin: int) -> Map:
    return np.asarray(cv2.copyMakeBorder(values, margin, margin, margin, margin, cv2.BORDER_WRAP))


def _power(plane: Luma) -> Map:
    """Power spectrum of a plane under a Hann window, packed as `cv2.dft` packs that of a real plane (imaginary parts
    0), a white noise of variance v giving v everywhere.
    """
    window = _window(plane.shape[0])
    spectrum = cv2.dft((plane - np.float32(cv2.mean(plane)[0])) * window)
    return np.asarray(cv2.mulSpectrums(spectrum, spectrum, 0, conjB=True) * _scale(plane.shape[0]), np.float32)


@functools.cache
def _scale(side: int) -> np.float32:
    return np.float32(1 / float((_window(side) ** 2).sum()))


def _unpacked(packed: Map) -> Map:
    """The real parts of a packed spectrum [N, N] as the whole symmetric plane [N, N], N even."""
    side = packed.shape[0]
    middle = side // 2
    whole = np.empty_like(packed)
    whole[:, 1:middle] = packed[:, 1:-1:2]
    for column, source in ((0, 0), (middle, side - 1)):
        whole[0, column], whole[1 : middle + 1, column] = packed[0, source], packed[1::2, source]
        whole[middle + 1 :, column] = whole[middle - 1 : 0 : -1, column]
    mirrored = whole[:, middle - 1 : 0 : -1]
    whole[0, middle + 1 :], whole[1:, middle + 1 :] = mirrored[0], mirrored[:0:-1]
    return whole


def line_spectrum(luma: Luma) -> Map | None:
    """Logarithm of the mean power spectrum of up to 2 x 2 tiles of 64 px at full size, [64, 64]; None for a side under
    64 px. Welch's method (IEEE Trans. AU-15, 1967): noise averages out, a regular wave does not.
    """
    if min(luma.shape) < LINES:
        return None
    tops, lefts = (np.linspace(0, side - LINES, min(_TILES, side // LINES)).astype(int) for side in luma.shape)
    powers = [_power(luma[top : top + LINES, left : left + LINES]) for top in tops for left in lefts]
    power = _unpacked(np.asarray(sum(powers[1:], powers[0]) * np.float32(1 / len(powers)), np.float32))
    return np.asarray(np.log(power + np.float32(_LINE_FLOOR)), np.float32)


def near(values: Map) -> Map:
    """The largest value within one place of each, at the borders of those inside."""
    return np.asarray(cv2.dilate(values, _NEAR), np.float32)


def mesh(ours: Map, others: tuple[Map, ...]) -> float:
    """How far the strongest line of `ours` with a period under 7 px stands out, natural logarithm of power.

    Out of the mean of its neighbourhood of 9 x 9 rates, and above the strongest of `others` within a rate of it (each
    is given as `near` of its spectrum), whichever is less: a wave that content or style has too is no fault.
    """
    rise = ours - cv2.blur(_wrapped(ours, 4), (9, 9))[4:-4, 4:-4]
    for other in others:
        rise = np.minimum(rise, ours - other)
    return float((rise + _fine()).max())


@functools.cache
def _ring() -> Map:
    lag = np.arange(-_SPAN, _SPAN + 1)
    length = np.hypot(lag[:, None], lag[None])
    return np.where((length >= _LAGS[0]) & (length <= _LAGS[1]), 0, -np.inf).astype(np.float32)


def echoes(luma: Luma) -> Map:
    """Power cepstrum at 128 x 128 px for lags of up to 17 px, sums over 3 x 3 lags, [35, 35].

    A picture with a copy of itself of relative weight r, moved by d, has r at the lag d. Bogert, Healy and Tukey, "The
    quefrency alanysis of time series for echoes", 1963.
    """
    logarithm = np.log(_power(resized(luma, LAG_SIDE)) + np.float32(1))  # of the imaginary parts log 1 = 0
    cepstrum = cv2.dft(logarithm, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT | cv2.DFT_SCALE)
    lags = np.arange(-_SPAN, _SPAN + 1)
    return np.asarray(cv2.boxFilter(cepstrum[np.ix_(lags, lags)], -1, (3, 3), normalize=False), np.float32)


def ghosting(ours: Map, others: tuple[Map, ...]) -> float:
    """Relative weight of a second copy of the picture, moved by 3 to 11 % of the side: the strongest echo beyond those
    that content or style have within a lag of it (a repeated thing, a regular texture; each given as `near` of its
    echoes).
    """
    rise = ours
    for other in others:
        rise = np.minimum(rise, ours - other)
    return float((rise + _ring()).max())
