"""The detectors' arithmetic: pure functions of a picture's luminance and colours, by OpenCV's integer SIMD paths.

Luminance is Rec. 601, uint8 [H, W]; sizes of maps do not depend on the picture's. What is compared between a picture,
its content and its style is in `bottega.quality.measure`.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left

import cv2
import numpy as np
import numpy.typing as npt

Luma = npt.NDArray[np.uint8]  # [H, W]
Map = npt.NDArray[np.float32]

LINES = 64  # side of the tiles whose spectra are averaged, pixels
LAG_SIDE = 128  # side at which a second copy is looked for
_LINE_FLOOR = 256.0  # power of a noise of 16 levels: a weaker wave is no mesh to the eye
_LINES_FROM = 1 / 7  # cycles a pixel; coarser waves are strokes, not mesh
_LAGS = (4.0, 14.0)  # where a second copy lies, pixels of LAG_SIDE: 3 to 11 % of the side
_SPAN = 17
_BLOCK, _STEP_CAP = 8, 4
_QUIET = 0.02  # levels that stand out in a picture without any texture
_FLAT = 0.0255  # standard deviation of an edge map below which there is no structure to compare, levels
_TONE_FLAT = 1.0  # levels
_NEAR = np.ones((3, 3), np.uint8)


def edge_map(luma: Luma, side: int) -> Map | None:
    """Where the picture has edges, [side, side], centred and of unit norm; None where it has none.

    Area resize to `side`, Gaussian of 2 px (so that strokes count less than outlines), Sobel magnitude, Gaussian of 1
    px (so that an outline may move a little), both cut at 3 sigma. The dot product of two maps is Pearson's
    correlation.
    """
    wide, narrow = _gaussian(2.0), _gaussian(1.0)
    small = cv2.sepFilter2D(resized(luma, side), cv2.CV_32F, wide, wide)
    magnitude = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
    return _unit(cv2.sepFilter2D(magnitude, cv2.CV_32F, narrow, narrow), _FLAT)


@functools.cache
def _gaussian(sigma: float) -> Map:
    """A Gaussian of sigma px, cut at three of them."""
    return np.asarray(cv2.getGaussianKernel(2 * round(3 * sigma) + 1, sigma, cv2.CV_32F), np.float32)


def tone_map(luma: Luma) -> Map | None:
    """Where the picture is light and dark, [32, 32] after a Gaussian of 2.5 px, centred and of unit norm; None where
    flat. A Gaussian of 8 % of the side leaves no stroke, only the places of things.
    """
    kernel = _gaussian(2.5)
    return _unit(cv2.sepFilter2D(resized(luma, 32), cv2.CV_32F, kernel, kernel), _TONE_FLAT)


def resized(luma: Luma, side: int) -> Luma:
    """Luminance at [side, side]: by area where it shrinks, else linear."""
    if luma.shape == (side, side):
        return luma
    shrink = min(luma.shape) >= side
    return np.asarray(cv2.resize(luma, (side, side), interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR))


def _unit(values: npt.NDArray[np.float32], flat: float) -> Map | None:
    values = values - np.float32(cv2.mean(values)[0])
    norm = cv2.norm(values, cv2.NORM_L2)
    if norm <= flat * values.shape[0]:
        return None
    values *= np.float32(1 / norm)
    return values


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


def middle_columns(values: Luma) -> Luma:
    """The middle half of a plane's or a picture's columns: from sky to ground."""
    quarter = values.shape[1] // 4
    return values[:, quarter : values.shape[1] - quarter]


def quantiles(values: npt.NDArray[np.uint8], shares: tuple[float, ...]) -> list[int]:
    """The levels of a plane below or at which these shares of it lie; of 256 rows and more every fourth is read."""
    values = values[::4] if values.shape[0] >= 256 else values
    below = cv2.calcHist([values], [0], None, [256], [0, 256]).ravel().cumsum()
    return [bisect_left(below, share * values.size) for share in shares]


def blocking(luma: Luma) -> tuple[float, float] | None:
    """How far steps of luminance stand out along a grid of 8 px: by how many levels, 0..4, and as a share of all that
    stands out or stays back, 0..8/3; None for a side under 48 px.

    A step between two pixels stands out by what it is more than the larger of the steps before and behind it, within -4
    and 4 levels, so that a true edge counts little. Of each of the 8 phases counts the weaker of its even and its odd
    lines, so that a texture of 16 px does not. The levels are the strongest phase above the median, the geometric mean
    of both directions; the share is that phase's over the mean of all phases' sizes, the smaller of both directions.
    Fine blocks show in the first, blocks with nothing left between their borders in the second. After Wang, Sheikh and
    Bovik, "No-reference perceptual quality assessment of JPEG compressed images", ICIP 2002, who compare the steps on
    the grid with those beside it. Where both sides have 256 px, every fourth row is read, and for steps downward the
    middle half of the columns.
    """
    if min(luma.shape) < 6 * _BLOCK:
        return None
    large = min(luma.shape) >= 256
    across, down = (luma[::4], middle_columns(luma)) if large else (luma, luma)
    levels, shares = [], []
    for outward, back in _standing_out(across, cv2.transpose(down)):
        signed = [out - stay for out, stay in zip(outward, back, strict=True)]
        levels.append(max(_on_grid(outward) - sum(sorted(outward)[_BLOCK - 1 : _BLOCK + 1]) / 2, 0.0))
        shares.append(_on_grid(signed) / (sum(map(abs, signed)) / len(signed) + _QUIET))
    return math.sqrt(levels[0] * levels[1]), min(shares)


def _on_grid(phases: list[float]) -> float:
    """The strongest of the 8 phases, of its even and its odd lines the weaker."""
    return max(map(min, phases[:_BLOCK], phases[_BLOCK:]))


def _standing_out(across: Luma, down: Luma) -> list[tuple[list[float], list[float]]]:
    """For both directions the means of what steps stand out, and of what they stay back, for each of 16 phases, levels;
    `down` lies on its side.

    Both directions are laid side by side, so that OpenCV is called once for both.
    """
    rows = min(len(across), len(down))
    both = cv2.hconcat([across[:rows], down[:rows]])
    steps = cv2.absdiff(both[:, :-1], both[:, 1:])
    beside, here = cv2.max(steps[:, :-2], steps[:, 2:]), steps[:, 1:-1]
    phases = _phases(across.shape[1], down.shape[1])
    means = []
    for plane in (cv2.subtract(here, beside), cv2.subtract(beside, here)):
        capped = cv2.threshold(plane, _STEP_CAP, 0, cv2.THRESH_TRUNC)[1]
        sums = cv2.reduce(capped, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)
        means.append((sums[0] @ phases / rows).tolist())
    return [(means[0][half], means[1][half]) for half in (slice(2 * _BLOCK), slice(2 * _BLOCK, None))]


@functools.cache
def _phases(across: int, down: int) -> npt.NDArray[np.float64]:
    """Of each step of both directions side by side its share of the mean of each direction's 16 phases, [steps, 32]."""
    phase = np.concatenate([np.arange(across - 3) % (2 * _BLOCK), [-1] * 3, np.arange(down - 3) % (2 * _BLOCK)])
    phase[across:] += 2 * _BLOCK
    belongs = phase[:, None] == np.arange(4 * _BLOCK)  # the three steps where the directions meet: to none
    return np.asarray(belongs / belongs.sum(0), np.float64)


def colour_noise(red: Luma, green: Luma, blue: Luma) -> float:
    """Standard deviation of fine noise in the colour that shows least of it, levels.

    Immerkaer's mask (second difference along both axes, which edges and gradients hardly pass), "Fast Noise Variance
    Estimation", CVIU 64(2), 1996, on each channel; then the least eigenvalue of the values' 3 x 3 covariance. Hatching
    and dots of a few colours, and grain in the light, lie along one or two directions of the colour space; noise that
    is each channel's own fills all three. The planes are given at half size; of 256 rows and more the middle half of
    rows and columns is read.
    """
    high = red.shape[0]
    if high >= 256:
        red, green, blue = (middle_columns(plane[high // 4 : high - high // 4]) for plane in (red, green, blue))
    values = [cv2.Sobel(plane, cv2.CV_16S, 2, 2) for plane in (red, green, blue)]  # has that very mask
    (rr, gg, bb) = (cv2.norm(one, cv2.NORM_L2SQR) for one in values)
    # 2ab = a^2 + b^2 - (a - b)^2, for OpenCV's norms are exact and fast
    rg = (rr + gg - cv2.norm(values[0], values[1], cv2.NORM_L2SQR)) / 2
    rb = (rr + bb - cv2.norm(values[0], values[2], cv2.NORM_L2SQR)) / 2
    gb = (gg + bb - cv2.norm(values[1], values[2], cv2.NORM_L2SQR)) / 2
    least = cv2.eigen(np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]]))[1][2, 0]  # the last is the least
    return math.sqrt(max(float(least), 0.0) / red.size) / 6


@functools.cache
def _window(side: int) -> Map:
    half = np.hanning(side + 2)[1:-1]
    return np.asarray(np.outer(half, half) / (half**2).sum(), np.float32)  # its squares have the sum 1


@functools.cache
def _window_twice() -> Map:
    """The window of a tile for both parts of a complex plane: NumPy is slow in axes of two."""
    return np.ascontiguousarray(np.repeat(_window(LINES)[..., None], 2, axis=2))


@functools.cache
def _fine() -> Map:
    rate = np.fft.fftfreq(LINES)
    return np.where(np.hypot(rate[:, None], rate[None]) >= _LINES_FROM, 0, -np.inf).astype(np.float32)


def _wrapped(values: Map, margin: int) -> Map:
    return np.asarray(cv2.copyMakeBorder(values, margin, margin, margin, margin, cv2.BORDER_WRAP))


def _spectrum(plane: Luma) -> Map:
    """Spectrum of a plane under a Hann window, packed as `cv2.dft` packs that of a real plane, scaled such that a white
    noise of variance v has power v everywhere.
    """
    values: Map = plane - np.float32(cv2.mean(plane)[0])
    values *= _window(plane.shape[0])
    cv2.dft(values, values)
    return values


def line_spectrum(luma: Luma) -> Map | None:
    """Logarithm of the mean power spectrum of up to 2 x 2 tiles of 64 px at full size, [64, 64]; None for a side under
    64 px. Welch's method (IEEE Trans. AU-15, 1967): noise averages out, a regular wave does not.
    """
    if min(luma.shape) < LINES:
        return None
    tops, lefts = ((0, side - LINES) if side >= 2 * LINES else (0,) for side in luma.shape)
    tiles = [luma[top : top + LINES, left : left + LINES] for top in tops for left in lefts]
    tiles *= 1 if len(tiles) > 1 else 2
    squares = np.zeros((LINES, LINES, 2), np.float32)
    for pair in zip(tiles[::2], tiles[1::2], strict=True):
        merged = cv2.merge(pair)  # as real and imaginary part: one transform does both
        values = cv2.subtract(merged, cv2.mean(merged), dtype=cv2.CV_32F)
        cv2.multiply(values, _window_twice(), values)
        cv2.accumulateSquare(cv2.dft(values, values), squares)
    both = squares[..., 0] + squares[..., 1]
    power = both + both.take(_opposite())  # the mean of a rate and its opposite is that of both parts' powers
    power *= np.float32(1 / (2 * len(tiles)))
    power += np.float32(_LINE_FLOOR)
    return np.asarray(cv2.log(power), np.float32)


@functools.cache
def _opposite() -> npt.NDArray[np.int64]:
    """Places of the opposite rates in a spectrum, [64, 64]."""
    rate = -np.arange(LINES) % LINES
    return rate[:, None] * LINES + rate


def near(values: Map) -> Map:
    """The largest value within one place of each, at the borders of those inside."""
    return np.asarray(cv2.dilate(values, _NEAR), np.float32)


def mesh(ours: Map, others: tuple[Map, ...]) -> float:
    """How far the strongest line of `ours` with a period under 7 px stands out, natural logarithm of power.

    Out of the mean of its neighbourhood of 9 x 9 rates, and above the strongest of `others` within a rate of it (each
    is given as `near` of its spectrum), whichever is less: a wave that content or style has too is no fault.
    """
    usual = cv2.blur(_wrapped(ours, 4), (9, 9))[4:-4, 4:-4]
    for other in others:
        usual = cv2.max(usual, other)
    rise = ours - usual
    rise += _fine()
    return float(rise.max())


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
    spectrum = _spectrum(resized(luma, LAG_SIDE))
    power = cv2.mulSpectrums(spectrum, spectrum, 0, conjB=True)
    power += np.float32(1)  # the logarithms of the imaginary parts are then 0
    cepstrum = cv2.dft(cv2.log(power), flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
    lags = cepstrum.take(_near_lags()) * np.float32(1 / LAG_SIDE**2)
    return np.asarray(cv2.boxFilter(lags, -1, (3, 3), normalize=False), np.float32)


@functools.cache
def _near_lags() -> npt.NDArray[np.int64]:
    """Places in a cepstrum of the lags of up to 17 px, [35, 35]."""
    lags = np.arange(-_SPAN, _SPAN + 1) % LAG_SIDE
    return lags[:, None] * LAG_SIDE + lags


def ghosting(ours: Map, others: tuple[Map, ...]) -> float:
    """Relative weight of a second copy of the picture, moved by 3 to 11 % of the side: the strongest echo beyond those
    that content or style have within a lag of it (a repeated thing, a regular texture; each given as `near` of its
    echoes).
    """
    rise = ours
    for other in others:
        rise = np.minimum(rise, ours - other)
    return float((rise + _ring()).max())
