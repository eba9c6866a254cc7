"""The detectors' kernels against the same arithmetic written plainly: NumPy loops, SciPy's filters, NumPy's FFT."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from bottega.quality import detectors

Floats = npt.NDArray[np.float64]
Luma = npt.NDArray[np.uint8]
SOBEL = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], float)


def picture(side: int, seed: int = 0, *, wide: int | None = None) -> Luma:
    """Blobs, a hatching and grain: something for every detector, uint8 [side, wide]."""
    rng = np.random.default_rng(seed)
    wide = wide or side
    blobs = ndimage.gaussian_filter(rng.normal(0, 1, (side, wide)), side / 20)
    rows, columns = np.mgrid[:side, :wide]
    waves = 12 * np.sin(2 * np.pi * (columns / 5 + rows / 9))
    values = 128 + 60 * blobs / blobs.std() + waves + rng.normal(0, 6, (side, wide))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def gaussian(sigma: float) -> Floats:
    reach = round(3 * sigma)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def blurred(values: Floats, sigma: float) -> Floats:
    """Separable, borders mirrored without the border pixel itself, as OpenCV's default."""
    once = ndimage.correlate1d(values, gaussian(sigma), axis=0, mode="mirror")
    return ndimage.correlate1d(once, gaussian(sigma), axis=1, mode="mirror")


def block_means(luma: Luma, side: int) -> Floats:
    """Area resize where the side divides, rounded to levels."""
    factor = luma.shape[0] // side
    return np.rint(luma.reshape(side, factor, side, factor).mean((1, 3)))


def unit(values: Floats) -> Floats:
    values = values - values.mean()
    return values / np.linalg.norm(values)


@pytest.mark.parametrize("side", [64, 128])
def test_an_edge_map_is_the_blurred_sobel_magnitude(side: int) -> None:
    luma = picture(4 * side)
    small = blurred(block_means(luma, side), 2.0)
    magnitude = np.hypot(
        ndimage.correlate(small, SOBEL, mode="mirror"), ndimage.correlate(small, SOBEL.T, mode="mirror")
    )
    found = detectors.edge_map(luma, side)
    assert found is not None
    assert np.abs(found - unit(blurred(magnitude, 1.0))).max() < 2e-4


def test_a_tone_map_is_the_blurred_luminance_at_32_px() -> None:
    luma = picture(128)
    found = detectors.tone_map(luma)
    assert found is not None
    assert np.abs(found - unit(blurred(block_means(luma, 32), 2.5))).max() < 1e-4


def test_what_has_no_edge_has_no_map() -> None:
    flat = np.full((64, 64), 90, np.uint8)
    assert detectors.edge_map(flat, 64) is None
    assert detectors.tone_map(flat) is None


@pytest.mark.parametrize("side", [96, 256, 300])
def test_gradients_are_sobels_mean_square_and_its_steepest_slope(side: int) -> None:
    luma = picture(side, seed=1)
    across, down = (ndimage.correlate(luma.astype(float), kernel, mode="mirror") for kernel in (SOBEL, SOBEL.T))
    energy, steepest = detectors.gradients(luma)
    assert energy == pytest.approx(((across / 8 / 255) ** 2 + (down / 8 / 255) ** 2).mean(), rel=1e-5)
    step = 4 if side >= 256 else 1
    steep = np.maximum(np.rint(np.abs(across[::step]) / 4), np.rint(np.abs(down[::step]) / 4)).clip(0, 255)
    steep = steep[::4] if len(steep) >= 256 else steep
    ordered = np.sort(steep.ravel())
    assert steepest == ordered[int(np.ceil(0.998 * ordered.size)) - 1]


@pytest.mark.parametrize("side", [40, 255, 256, 1024])
def test_quantiles_are_those_of_the_sorted_levels(side: int) -> None:
    luma = picture(side, seed=2)
    read = luma[::4] if side >= 256 else luma
    ordered = np.sort(read.ravel())
    shares = (0.01, 0.25, 0.5, 0.9, 1.0)
    expected = [int(ordered[int(np.ceil(share * ordered.size)) - 1]) for share in shares]
    assert detectors.quantiles(luma, shares) == expected


@pytest.mark.parametrize(("side", "kept"), [(64, 32), (101, 51)])
def test_the_middle_columns_are_the_middle_half(side: int, kept: int) -> None:
    values = np.tile(np.arange(side, dtype=np.uint8), (3, 1))
    found = detectors.middle_columns(values)
    assert found.shape == (3, kept)
    assert found[0, 0] == side // 4
    assert found[0, -1] == side - side // 4 - 1


def plain_blocking(luma: Luma) -> tuple[float, float]:
    """The docstring's words, a step at a time."""
    large = min(luma.shape) >= 256
    quarter = luma.shape[1] // 4
    across = luma[::4] if large else luma
    down = (luma[:, quarter : luma.shape[1] - quarter] if large else luma).T
    rows = min(len(across), len(down))
    levels, shares = [], []
    for plane in (across[:rows].astype(int), down[:rows].astype(int)):
        steps = np.abs(np.diff(plane, axis=1))
        larger = np.maximum(steps[:, :-2], steps[:, 2:])
        apart = steps[:, 1:-1] - larger  # [rows, W - 3]
        out, back = np.clip(apart, 0, 4).mean(0), np.clip(-apart, 0, 4).mean(0)
        outward = [out[phase::16].mean() for phase in range(16)]
        signed = [out[phase::16].mean() - back[phase::16].mean() for phase in range(16)]
        strongest = max(min(outward[k], outward[k + 8]) for k in range(8))
        levels.append(max(strongest - np.median(outward), 0.0))
        grid = max(min(signed[k], signed[k + 8]) for k in range(8))
        shares.append(grid / (np.mean(np.abs(signed)) + 0.02))
    return float(np.sqrt(levels[0] * levels[1])), float(min(shares))


@pytest.mark.parametrize("side", [48, 100, 256])
@pytest.mark.parametrize("quality", [3, 100])
def test_blocking_is_what_the_steps_along_the_grid_stand_out(side: int, quality: int) -> None:
    luma = cv2.imdecode(cv2.imencode(".jpg", picture(side, 3), [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)
    found = detectors.blocking(luma)
    assert found is not None
    assert found == pytest.approx(plain_blocking(luma), abs=1e-5)
    if quality == 3:
        assert found[1] > 0.5
    assert detectors.blocking(luma[:47, :47]) is None


@pytest.mark.parametrize("side", [60, 256])
def test_colour_noise_is_the_least_eigenvalue_of_immerkaers_values(side: int) -> None:
    planes = [picture(side, seed) for seed in (4, 5, 6)]
    read = [p[side // 4 : side - side // 4, side // 4 : side - side // 4] if side >= 256 else p for p in planes]
    mask = np.outer((1, -2, 1), (1, -2, 1))
    values = np.stack([ndimage.correlate(p.astype(float), mask, mode="mirror").ravel() for p in read])
    least = np.linalg.eigvalsh(values @ values.T / values.shape[1])[0]
    assert detectors.colour_noise(*planes) == pytest.approx(np.sqrt(least) / 6, rel=1e-5)


def window(side: int) -> Floats:
    half = np.hanning(side + 2)[1:-1]
    return np.outer(half, half) / (half**2).sum()


@pytest.mark.parametrize(("high", "wide", "tiles"), [(64, 64, 1), (100, 160, 2), (200, 64, 2), (192, 150, 4)])
def test_a_line_spectrum_is_welchs_over_the_corner_tiles(high: int, wide: int, tiles: int) -> None:
    luma = picture(high, 7, wide=wide)
    places = [(0, side - 64) if side >= 128 else (0,) for side in (high, wide)]
    powers = []
    for top in places[0]:
        for left in places[1]:
            tile = luma[top : top + 64, left : left + 64].astype(float)
            powers.append(np.abs(np.fft.fft2((tile - tile.mean()) * window(64))) ** 2)
    assert len(powers) == tiles
    found = detectors.line_spectrum(luma)
    assert found is not None
    assert np.abs(found - np.log(np.mean(powers, 0) + 256)).max() < 1e-3
    assert detectors.line_spectrum(luma[:63]) is None


def test_near_is_the_largest_within_one_place() -> None:
    values = np.random.default_rng(0).normal(0, 1, (9, 7)).astype(np.float32)
    assert (detectors.near(values) == ndimage.maximum_filter(values, 3, mode="nearest")).all()


def test_mesh_is_the_rise_of_the_finest_line_over_its_neighbourhood_and_the_others() -> None:
    ours, other = (detectors.line_spectrum(picture(64, seed)) for seed in (8, 9))
    assert ours is not None
    assert other is not None
    usual = ndimage.uniform_filter(ours.astype(float), 9, mode="wrap")
    rate = np.fft.fftfreq(64)
    fine = np.hypot(rate[:, None], rate[None]) >= 1 / 7
    assert detectors.mesh(ours, ()) == pytest.approx((ours - usual)[fine].max(), abs=1e-4)
    above = ours - np.maximum(usual, detectors.near(other))
    assert detectors.mesh(ours, (detectors.near(other),)) == pytest.approx(above[fine].max(), abs=1e-4)


def plain_echoes(luma: Luma) -> Floats:
    plane = luma.astype(float)
    spectrum = np.fft.fft2((plane - plane.mean()) * window(128))
    cepstrum = np.fft.ifft2(np.log(np.abs(spectrum) ** 2 + 1)).real
    lags = np.arange(-17, 18)
    around = cepstrum[np.ix_(lags % 128, lags % 128)]
    return ndimage.uniform_filter(around, 3, mode="mirror") * 9


def test_echoes_are_the_power_cepstrum_summed_over_neighbouring_lags() -> None:
    luma = picture(128, 10)
    assert np.abs(detectors.echoes(luma) - plain_echoes(luma)).max() < 1e-3


def test_a_copy_that_lies_seven_pixels_away_is_a_ghost_of_its_weight() -> None:
    plain = picture(128, 11).astype(float)
    ghost = np.clip(np.rint(0.7 * plain + 0.3 * np.roll(plain, (5, 5), (0, 1))), 0, 255).astype(np.uint8)
    ours, content = detectors.echoes(ghost), detectors.near(detectors.echoes(picture(128, 11)))
    lags = np.arange(-17, 18)
    length = np.hypot(lags[:, None], lags[None])
    ring = (length >= 4) & (length <= 14)
    rise = np.minimum(ours, ours - content)
    assert detectors.ghosting(ours, (content,)) == pytest.approx(rise[ring].max(), abs=1e-6)
    place = np.unravel_index(np.where(ring, rise, -np.inf).argmax(), rise.shape)
    assert {abs(int(lags[i])) for i in place} <= {4, 5, 6}
    assert detectors.ghosting(ours, (content,)) > 0.2
