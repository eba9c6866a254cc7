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
_BAND = 128  # rows
_BLOCK, _STEP_CAP = 8, 4
_QUIET = 0.02  # levels that stand out in a picture without any texture
_FLAT = 0.0255  # standard deviation of an edge map below which there is no structure to compare, levels
_TONE_FLAT = 1.0  # levels
_NEAR = np.ones((3, 3), np.uint8)


def edge_map(luma: Luma, side: int) -> Map | None:
    """Where the picture has edges, [side, side], centred and of unit norm; None where it has none.

    Area resize to `side`, Gaussian of 2 px (so that strokes count less than outlines), Sobel magnitude, Gaussian of 1
    px (so that an outline may move a little). The dot product of two maps is Pearson's correlation.
    """
    small = cv2.GaussianBlur(resized(luma, side).astype(np.float32), (0, 0), 2.0)
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
    values = values - np.float32(cv2.mean(values)[0])
    norm = cv2.norm(values, cv2.NORM_L2)
    return np.asarray(values * np.float32(1 / norm), np.float32) if norm > flat * values.shape[0] else None


def gradients(luma: Luma) -> tuple[float, int]:
    """Mean squared Sobel gradient a pixel (kernel / 8, so that it is a derivative; luminance in 0..1), and the steepest
    slope: the 99.8th percentile of the larger of both directions on every fourth row (on every row under 256), levels a
    pixel.
    """
    high = luma.shape[0]
    step = 4 if high >= 256 else 1
    total, counts = 0.0, np.zeros(256, np.float32)
    for top in range(0, high, _BAND):  # both planes of a band stay in the cache
        first, below = max(top - 1, 0), min(top + _BAND, high)
        planes = cv2.spatialGradient(luma[first : below + 1])
        across, down = (plane[top - first : below - first] for plane in planes)
        total += cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
        steep = cv2.max(cv2.convertScaleAbs(across[::step], alpha=0.25), cv2.convertScaleAbs(down[::step], alpha=0.25))
        counts += _histogram(steep)
    return float(total / luma.size / (64 * 255**2)), _levels(counts, (0.998,))[0]


def quantiles(values: npt.NDArray[np.uint8], shares: tuple[float, ...]) -> list[int]:
    """The levels of a plane below or at which these shares of it lie; of 256 rows and more every other one is read."""
    return _levels(_histogram(values[::2] if values.shape[0] >= 256 else values), shares)


def _histogram(values: npt.NDArray[np.uint8]) -> Map:
    return np.asarray(cv2.calcHist([values], [0], None, [256], [0, 256]), np.float32).ravel()


def _levels(counts: Map, shares: tuple[float, ...]) -> list[int]:
    below = np.cumsum(counts)
    return [int(level) for level in np.searchsorted(below, np.asarray(shares) * below[-1])]


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
    quarter = luma.shape[1] // 4
    middle = luma[:, quarter : 3 * quarter] if quarter >= 6 * _BLOCK else luma
    phases = np.array([_standing_out(luma[::2], 1), _standing_out(middle, 0)])  # [axis, outward or back, 16]
    outward, signed = phases[:, 0], phases[:, 0] - phases[:, 1]
    above = np.sort(outward)[:, _BLOCK - 1 : _BLOCK + 1].mean(1)
    levels = np.maximum(_on_grid(outward) - above, 0)
    shares = _on_grid(signed) / (np.abs(signed).mean(1) + _QUIET)
    return float(np.sqrt(levels[0] * levels[1])), float(shares.min())


def _on_grid(phases: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The strongest of the 8 phases of each axis, of its even and its odd lines the weaker."""
    return np.asarray(np.minimum(phases[:, :_BLOCK], phases[:, _BLOCK:]).max(1))


def _standing_out(luma: Luma, axis: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean of what steps across `axis` stand out, and of what they stay back, for each of 16 phases, levels."""
    if axis:
        steps = cv2.absdiff(luma[:, :-1], luma[:, 1:])
        beside, here = cv2.max(steps[:, :-2], steps[:, 2:]), steps[:, 1:-1]
    else:
        steps = cv2.absdiff(luma[:-1], luma[1:])
        beside, here = cv2.max(steps[:-2], steps[2:]), steps[1:-1]
    phase, shares = _phases(here.shape[axis])
    planes = (cv2.subtract(here, beside), cv2.subtract(beside, here))
    capped = (cv2.threshold(plane, _STEP_CAP, 0, cv2.THRESH_TRUNC)[1] for plane in planes)
    outward, back = (cv2.reduce(plane, 1 - axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for plane in capped)
    shares = shares / here.shape[1 - axis]
    return np.bincount(phase, outward) * shares, np.bincount(phase, back) * shares


@functools.cache
def _phases(count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The phase of each of `count` lines, and one over how many lines each phase has."""
    phase = np.arange(count) % (2 * _BLOCK)
    return phase, 1 / np.bincount(phase)


def colour_noise(red: Luma, green: Luma, blue: Luma) -> float:
    """Standard deviation of fine noise in the colour that shows least of it, levels.

    Immerkaer's mask (second difference along both axes, which edges and gradients hardly pass), "Fast Noise Variance
    Estimation", CVIU 64(2), 1996, on each channel; then the least eigenvalue of the values' 3 x 3 covariance. Hatching
    and dots of a few colours, and grain in the light, lie along one or two directions of the colour space; noise that is
    each channel's own fills all three. The planes are given at half size; of 256 rows and more the middle half is read.
    """
    high = red.shape[0]
    if high >= 256:
        red, green, blue = (plane[high // 4 : high - high // 4] for plane in (red, green, blue))
    fine = [cv2.Sobel(plane, cv2.CV_16S, 2, 2) for plane in (red, green, blue)]  # that very mask; it is linear
    total = 0
    for plane in (fine[0], fine[2]):
        total += quantiles(cv2.convertScaleAbs(cv2.subtract(plane, fine[1])), (0.5,))[0]
    return total / 2 / (6 * 0.6745)


@functools.cache
def _window(side: int) -> Map:
    half = np.hanning(side + 2)[1:-1]
    return (np.outer(half, half) / (half**2).sum()).astype(np.float32)  # its squares have the sum 1


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
    return np.asarray(cv2.dft((plane - np.float32(cv2.mean(plane)[0])) * _window(plane.shape[0])), np.float32)


def _power(squares: Map) -> Map:
    """Squares of packed spectra [N, N] -> power [N, N / 2 + 1] for the rates across from 0 up, N even."""
    middle = squares.shape[0] // 2
    power = np.empty((squares.shape[0], middle + 1), np.float32)
    np.add(squares[:, 1:-1:2], squares[:, 2::2], out=power[:, 1:-1])
    for column, source in ((0, squares[:, 0]), (middle, squares[:, -1])):
        power[0, column], power[middle, column] = source[0], source[-1]
        power[1:middle, column] = source[1:-1:2] + source[2:-1:2]
        power[middle + 1 :, column] = power[middle - 1 : 0 : -1, column]
    return power


def _mirrored(power: Map) -> Map:
    """The power for the rates across from 0 up as the whole symmetric plane [N, N]."""
    side, middle = power.shape[0], power.shape[1] - 1
    whole = np.empty((side, side), np.float32)
    whole[:, : middle + 1] = power
    whole[0, middle + 1 :] = power[0, middle - 1 : 0 : -1]
    whole[1:, middle + 1 :] = power[:0:-1, middle - 1 : 0 : -1]
    return whole


def line_spectrum(luma: Luma) -> Map | None:
    """Logarithm of the mean power spectrum of up to 2 x 2 tiles of 64 px at full size, [64, 64]; None for a side under
    64 px. Welch's method (IEEE Trans. AU-15, 1967): noise averages out, a regular wave does not.
    """
    if min(luma.shape) < LINES:
        return None
    tops, lefts = (np.linspace(0, side - LINES, min(_TILES, side // LINES)).astype(int) for side in luma.shape)
    squares = np.zeros((LINES, LINES), np.float32)
    for top in tops:
        for left in lefts:
            cv2.accumulateSquare(_spectrum(luma[top : top + LINES, left : left + LINES]), squares)
    power = _power(squares) * np.float32(1 / (len(tops) * len(lefts)))
    return _mirrored(np.log(power + np.float32(_LINE_FLOOR)))


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
    spectrum = _spectrum(resized(luma, LAG_SIDE))
    logarithm = cv2.log(cv2.mulSpectrums(spectrum, spectrum, 0, conjB=True) + np.float32(1))  # 0 for imaginary parts
    cepstrum = cv2.dft(logarithm, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT | cv2.DFT_SCALE)
    return np.asarray(cv2.boxFilter(cepstrum.take(_near_lags()), -1, (3, 3), normalize=False), np.float32)


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
