"""The detectors' arithmetic: pure functions of a picture's luminance and colours, by OpenCV's integer SIMD paths.

Luminance is Rec. 601, uint8 [H, W]; sizes of maps do not depend on the picture's. What is compared between a picture,
its content and its style is in `bottega.quality.measuring`.

How strong a fault must be to be found, and which good pictures are accused, is measured by
`benchmarks/injected_faults.py`; docs/log.md has the results ("Injected faults") and what was tried in each place.
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
_LINE_FLOOR = 256.0  # power of a noise of 16 levels: the eye does not see a weaker wave as a mesh
_LINES_FROM = 1 / 7  # cycles a pixel; coarser waves are strokes, not mesh

LAG_SIDE = 128  # side at which a second copy is searched
_LAGS = (4.0, 14.0)  # how far a second copy lies, pixels of LAG_SIDE: 3 to 11 % of the side
_SPAN = 17  # lags that are computed: those of _LAGS, and some around them for the 3 x 3 neighbourhoods

_BLOCK = 8  # pixels of a JPEG block
_STEP_CAP = 4  # levels: a true edge counts for no more than this in the steps of a phase
_QUIET = 0.02  # levels that stand out in a picture without any texture: keeps the share finite

_FLAT = 0.0255  # standard deviation of an edge map below which there is no structure to compare, levels
_TONE_FLAT = 1.0  # the same of a tone map
_NEAR = np.ones((3, 3), np.uint8)
_LARGE = 256  # pixels of a side from which rows are sampled


def edge_map(luma: Luma, side: int) -> Map | None:
    """Where the picture has edges, [side, side], centred and of unit norm; None where it has none.

    Area resize to `side`, Gaussian of 2 px (so that strokes count less than outlines), Sobel magnitude, Gaussian of 1
    px (so that an outline may move a little), both cut at 3 sigma. The dot product of two maps is Pearson's
    correlation.
    """
    wide, narrow = _gaussian(2.0), _gaussian(1.0)
    small = cv2.sepFilter2D(resized(luma, side), cv2.CV_32F, wide, wide)
    across = cv2.Sobel(small, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(small, cv2.CV_32F, 0, 1)
    magnitude = cv2.magnitude(across, down)
    return _unit(cv2.sepFilter2D(magnitude, cv2.CV_32F, narrow, narrow), _FLAT)


@functools.cache
def _gaussian(sigma: float) -> Map:
    """A Gaussian of sigma px, cut at three sigma."""
    length = 2 * round(3 * sigma) + 1
    return np.asarray(cv2.getGaussianKernel(length, sigma, cv2.CV_32F), np.float32)


def tone_map(luma: Luma) -> Map | None:
    """Where the picture is light and dark, [32, 32] after a Gaussian of 2.5 px, centred and of unit norm.

    None where it is flat. A Gaussian of 8 % of the side leaves no stroke, only where objects are.
    """
    kernel = _gaussian(2.5)
    return _unit(cv2.sepFilter2D(resized(luma, 32), cv2.CV_32F, kernel, kernel), _TONE_FLAT)


def resized(luma: Luma, side: int) -> Luma:
    """Luminance at [side, side]: by area where it shrinks, else linear."""
    if luma.shape == (side, side):
        return luma
    shrinks = min(luma.shape) >= side
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(luma, (side, side), interpolation=method))


def _unit(values: Map, flat: float) -> Map | None:
    values = values - np.float32(cv2.mean(values)[0])
    norm = cv2.norm(values, cv2.NORM_L2)
    if norm <= flat * values.shape[0]:
        return None
    values *= np.float32(1 / norm)
    return values


def gradients(luma: Luma) -> tuple[float, int]:
    """How strong the gradients are, and how steep the steepest.

    Returns:
        The mean squared Sobel gradient a pixel (kernel / 8, so that it is a derivative; luminance in 0..1), and the
        99.8th percentile of the larger of both directions' slopes, levels in two pixels, on every fourth row (on every
        row under 256).
    """
    across, down = cv2.spatialGradient(luma)
    energy = cv2.norm(across, cv2.NORM_L2SQR) + cv2.norm(down, cv2.NORM_L2SQR)
    step = 4 if luma.shape[0] >= _LARGE else 1
    steep_across = cv2.convertScaleAbs(across[::step], alpha=0.25)
    steep_down = cv2.convertScaleAbs(down[::step], alpha=0.25)
    steepest = quantiles(cv2.max(steep_across, steep_down), (0.998,))[0]
    return float(energy / luma.size / (64 * 255**2)), steepest


def middle_columns(values: Luma) -> Luma:
    """The middle half of a plane's or a picture's columns: from sky to ground."""
    quarter = values.shape[1] // 4
    return values[:, quarter : values.shape[1] - quarter]


def quantiles(values: Luma, shares: tuple[float, ...]) -> list[int]:
    """The levels of a plane below or at which these shares of it lie; of 256 rows and more every fourth is read."""
    values = values[::4] if values.shape[0] >= _LARGE else values
    counts = cv2.calcHist([values], [0], None, [256], [0, 256])
    below = counts.ravel().cumsum()
    return [bisect_left(below, share * values.size) for share in shares]


def blocking(luma: Luma) -> tuple[float, float] | None:
    """How far steps of luminance stand out along a grid of 8 px.

    A step between two pixels stands out by its excess over the larger of the steps before and behind it, within -4 and
    4 levels, so that a true edge counts little. Each of the 8 phases counts with the weaker of its even and its odd
    lines, so that a texture with a period of 16 px does not. After Wang, Sheikh and Bovik, "No-reference perceptual
    quality assessment of JPEG compressed images", ICIP 2002, who compare the steps on the grid with those beside it.
    Where both sides have 256 px, every fourth row is read, and for steps downward the middle half of the columns.

    Returns:
        By how many levels, 0..4: the strongest phase above the median phase, geometric mean of both directions; it
        shows fine blocks. And as a share of all that stands out or stays back, 0..8/3: that phase over the mean size of
        all phases, the smaller of both directions; it shows blocks with nothing left between their borders. None for a
        side under 48 px.
    """
    if min(luma.shape) < 6 * _BLOCK:
        return None
    large = min(luma.shape) >= _LARGE
    across, down = (luma[::4], middle_columns(luma)) if large else (luma, luma)
    levels: list[float] = []
    shares: list[float] = []
    for above, below in _excess_of_steps(across, cv2.transpose(down)):
        signed = [up - under for up, under in zip(above, below, strict=True)]
        median = sum(sorted(above)[_BLOCK - 1 : _BLOCK + 1]) / 2
        mean_size = sum(map(abs, signed)) / len(signed)
        levels.append(max(_strongest_phase(above) - median, 0.0))
        shares.append(_strongest_phase(signed) / (mean_size + _QUIET))
    return math.sqrt(levels[0] * levels[1]), min(shares)


def _strongest_phase(phases: list[float]) -> float:
    """Of 16 phases: the strongest of 8, each the weaker of its even and its odd lines."""
    even, odd = phases[:_BLOCK], phases[_BLOCK:]
    return max(map(min, even, odd))


def _excess_of_steps(across: Luma, down: Luma) -> list[tuple[list[float], list[float]]]:
    """For each direction: by how much steps exceed their neighbours, and fall short of them.

    Means in levels for each of 16 phases. `down` is transposed.
    """
    # Both directions are put side by side, so that OpenCV is called once for both.
    rows = min(len(across), len(down))
    both = cv2.hconcat([across[:rows], down[:rows]])
    steps = cv2.absdiff(both[:, :-1], both[:, 1:])
    neighbours = cv2.max(steps[:, :-2], steps[:, 2:])
    here = steps[:, 1:-1]
    phases = _phases(across.shape[1], down.shape[1])
    means: list[list[float]] = []
    for plane in (cv2.subtract(here, neighbours), cv2.subtract(neighbours, here)):  # saturating: never below 0
        capped = cv2.threshold(plane, _STEP_CAP, 0, cv2.THRESH_TRUNC)[1]
        sums = cv2.reduce(capped, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)
        means.append((sums[0] @ phases / rows).tolist())
    above, below = means
    half = 2 * _BLOCK
    return [(above[:half], below[:half]), (above[half:], below[half:])]


@functools.cache
def _phases(across: int, down: int) -> npt.NDArray[np.float64]:
    """The weight of each step in the mean of each of the 16 phases of each direction, [steps, 32]."""
    num_phases = 2 * _BLOCK
    first = np.arange(across - 3) % num_phases
    second = np.arange(down - 3) % num_phases
    # The three steps where the directions meet have no phase: -1.
    phase = np.concatenate([first, [-1] * 3, second])
    phase[across:] += num_phases
    belongs = phase[:, None] == np.arange(2 * num_phases)
    return np.asarray(belongs / belongs.sum(0), np.float64)


def colour_noise(red: Luma, green: Luma, blue: Luma) -> float:
    """Standard deviation of fine noise in the colour that shows least of it, levels.

    Immerkaer's mask (second difference along both axes, which edges and gradients hardly pass), "Fast Noise Variance
    Estimation", CVIU 64(2), 1996, on each channel; then the least eigenvalue of the values' 3 x 3 covariance. Hatching
    and dots of a few colours, and grain in the light, lie along one or two directions of the colour space; noise that
    is independent in each channel fills all three. By one channel's deviation alone, two-colour hatching scored like
    noise and 37 % of medium noise was found, now 100 % (docs/log.md).

    Args:
        red, green, blue: planes at half size; of 256 rows and more the middle half of rows and columns is read.
    """
    high = red.shape[0]
    if high >= _LARGE:
        middle = slice(high // 4, high - high // 4)
        red, green, blue = (middle_columns(plane[middle]) for plane in (red, green, blue))
    r, g, b = (cv2.Sobel(plane, cv2.CV_16S, 2, 2) for plane in (red, green, blue))  # OpenCV's kernel is that very mask
    rr, gg, bb = (cv2.norm(plane, cv2.NORM_L2SQR) for plane in (r, g, b))
    # 2ab = a^2 + b^2 - (a - b)^2, for OpenCV's norms are exact and fast
    rg = (rr + gg - cv2.norm(r, g, cv2.NORM_L2SQR)) / 2
    rb = (rr + bb - cv2.norm(r, b, cv2.NORM_L2SQR)) / 2
    gb = (gg + bb - cv2.norm(g, b, cv2.NORM_L2SQR)) / 2
    covariance = np.array([[rr, rg, rb], [rg, gg, gb], [rb, gb, bb]])
    _, eigenvalues, _ = cv2.eigen(covariance)  # falling
    least = max(float(eigenvalues[2, 0]), 0.0)  # roundings may take it below 0
    return math.sqrt(least / red.size) / 6


@functools.cache
def _window(side: int) -> Map:
    """A Hann window whose squares have the sum 1, [side, side]."""
    half = np.hanning(side + 2)[1:-1]
    return np.asarray(np.outer(half, half) / (half**2).sum(), np.float32)


@functools.cache
def _window_twice() -> Map:
    """The window of a tile for both parts of a complex plane, [64, 64, 2]."""
    # Not by broadcasting: NumPy is slow in axes of length two, and that took half of the mesh's time.
    return np.ascontiguousarray(np.repeat(_window(LINES)[..., None], 2, axis=2))


@functools.cache
def _fine() -> Map:
    """0 at the rates of a mesh, -inf at coarser ones, [64, 64]."""
    rate = np.fft.fftfreq(LINES)
    is_fine = np.hypot(rate[:, None], rate[None]) >= _LINES_FROM
    return np.where(is_fine, 0, -np.inf).astype(np.float32)


def _wrapped(values: Map, margin: int) -> Map:
    return np.asarray(cv2.copyMakeBorder(values, margin, margin, margin, margin, cv2.BORDER_WRAP))


def _spectrum(plane: Luma) -> Map:
    """Spectrum of a plane under a Hann window, packed as `cv2.dft` packs that of a real plane.

    Scaled so that white noise of variance v has power v everywhere.
    """
    values: Map = plane - np.float32(cv2.mean(plane)[0])
    values *= _window(plane.shape[0])
    cv2.dft(values, values)
    return values


def line_spectrum(luma: Luma) -> Map | None:
    """Logarithm of the mean power spectrum of up to 2 x 2 tiles of 64 px at full size, [64, 64].

    None for a side under 64 px. Welch's method (IEEE Trans. AU-15, 1967): noise averages out, a regular wave does not.
    """
    if min(luma.shape) < LINES:
        return None
    high, wide = luma.shape
    tops = (0, high - LINES) if high >= 2 * LINES else (0,)
    lefts = (0, wide - LINES) if wide >= 2 * LINES else (0,)
    tiles = [luma[top : top + LINES, left : left + LINES] for top in tops for left in lefts]
    if len(tiles) == 1:
        tiles *= 2  # they are transformed in pairs
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
    """Index of the opposite rate of each rate in a spectrum, [64, 64]."""
    rate = -np.arange(LINES) % LINES
    return rate[:, None] * LINES + rate


def near(values: Map) -> Map:
    """The largest value in the 3 x 3 neighbourhood of each; at the borders, of what is inside."""
    return np.asarray(cv2.dilate(values, _NEAR), np.float32)


def mesh(ours: Map, others: tuple[Map, ...]) -> float:
    """How far the strongest wave with a period under 7 px stands out, natural logarithm of power.

    Above the mean of its 9 x 9 neighbouring rates, and above content and style there, whichever is less: a wave that
    content or style has too is no fault.

    Args:
        ours: `line_spectrum` of the picture.
        others: `near` of those of content and style, which may lie a rate away.
    """
    usual = cv2.blur(_wrapped(ours, 4), (9, 9))[4:-4, 4:-4]
    for other in others:
        usual = cv2.max(usual, other)
    rise = ours - usual
    rise += _fine()
    return float(rise.max())


@functools.cache
def _ring() -> Map:
    """0 at the lags of _LAGS, -inf elsewhere, [35, 35]."""
    lag = np.arange(-_SPAN, _SPAN + 1)
    length = np.hypot(lag[:, None], lag[None])
    is_searched = (length >= _LAGS[0]) & (length <= _LAGS[1])
    return np.where(is_searched, 0, -np.inf).astype(np.float32)


def echoes(luma: Luma) -> Map:
    """Power cepstrum at 128 x 128 px for lags of up to 17 px, sums over 3 x 3 lags, [35, 35].

    A picture with a copy of itself of relative weight r, moved by d, has r at the lag d. Bogert, Healy and Tukey, "The
    quefrency alanysis of time series for echoes", 1963. Of ten ways to see ghosts that were compared, the plain
    cepstrum was the best (docs/log.md).
    """
    spectrum = _spectrum(resized(luma, LAG_SIDE))
    power = cv2.mulSpectrums(spectrum, spectrum, 0, conjB=True)
    power += np.float32(1)  # the logarithms of the imaginary parts are then 0
    cepstrum = cv2.dft(cv2.log(power), flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
    lags = cepstrum.take(_near_lags()) * np.float32(1 / LAG_SIDE**2)
    return np.asarray(cv2.boxFilter(lags, -1, (3, 3), normalize=False), np.float32)


@functools.cache
def _near_lags() -> npt.NDArray[np.int64]:
    """Index in a cepstrum of each lag of up to 17 px, [35, 35]."""
    lags = np.arange(-_SPAN, _SPAN + 1) % LAG_SIDE
    return lags[:, None] * LAG_SIDE + lags


def ghosting(ours: Map, others: tuple[Map, ...]) -> float:
    """Relative weight of a second copy of the picture, moved by 3 to 11 % of the side.

    The strongest echo beyond those of content and style there: they may have a repeated object or a regular texture.

    Args:
        ours: `echoes` of the picture.
        others: `near` of those of content and style, which may lie a lag away.
    """
    rise = ours
    for other in others:
        rise = np.minimum(rise, ours - other)
    return float((rise + _ring()).max())
