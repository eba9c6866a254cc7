"""The Fréchet distance and the moments it takes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from bottega.evaluation.frechet import FeatureMoments, art_fid, frechet_distance


def features(count: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width)) / np.sqrt(width)
    return (rng.normal(size=(count, width)) @ mixing + shift).astype(np.float32)


def by_scipy(first: np.ndarray, second: np.ndarray) -> float:
    """As the published scripts have it, by the root of the product."""
    one, two = first.astype(np.float64), second.astype(np.float64)
    gap = one.mean(0) - two.mean(0)
    left, right = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    root = linalg.sqrtm(left @ right).real
    return float(gap @ gap + np.trace(left) + np.trace(right) - 2 * np.trace(root))


def test_moments_equal_numpys_however_they_were_put_together() -> None:
    rows = features(100, 12, seed=0, shift=1000.0)
    merged = FeatureMoments.empty(12)
    for part in np.split(rows, [1, 7, 50]):
        merged = merged.merged(FeatureMoments.of(part))
    reversed_order = FeatureMoments.of(rows[50:]).merged(FeatureMoments.of(rows[:50]))
    expected = np.cov(rows.astype(np.float64), rowvar=False)
    for moments in (merged, reversed_order, merged.merged(FeatureMoments.empty(12))):
        assert moments.count == 100
        assert np.abs(moments.mean - rows.astype(np.float64).mean(0)).max() < 1e-9
        assert np.abs(moments.covariance() - expected).max() < 1e-9


def test_moments_refuse_what_has_none() -> None:
    with pytest.raises(ValueError, match="finite"):
        FeatureMoments.of(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match="finite"):
        FeatureMoments.of(np.zeros((0, 3)))
    with pytest.raises(ValueError, match="at least 2"):
        FeatureMoments.of(np.zeros((1, 3))).covariance()


def test_the_distance_equals_the_root_of_the_product() -> None:
    first, second = features(200, 32, seed=1), features(150, 32, seed=2, shift=0.3)
    distance = frechet_distance(FeatureMoments.of(first), FeatureMoments.of(second))
    assert distance == pytest.approx(by_scipy(first, second), rel=1e-9)


def test_the_distance_has_its_closed_form_for_independent_features() -> None:
    spread = np.array([1.0, 2.0, 3.0])
    signs = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], dtype=np.float64)
    first, second = signs * spread, signs * (spread + 1) + 5
    unbiased = 8 / 7
    expected = 3 * 25 + unbiased * 3 * 1
    assert frechet_distance(FeatureMoments.of(first), FeatureMoments.of(second)) == pytest.approx(expected, rel=1e-12)


def test_few_pictures_repeated_give_a_symmetric_distance_that_is_zero_to_themselves() -> None:
    # As in the published protocol: 5 styles, 8 times each, in more dimensions than there are pictures.
    styles = np.repeat(features(5, 64, seed=3), 8, axis=0)
    drawn = features(40, 64, seed=4)
    one, two = FeatureMoments.of(drawn), FeatureMoments.of(styles)
    there, back = frechet_distance(one, two), frechet_distance(two, one)
    assert there == pytest.approx(back, rel=1e-10)
    assert abs(frechet_distance(two, two)) < 1e-6 * np.trace(two.covariance())
    assert abs(frechet_distance(one, one)) < 1e-6 * np.trace(one.covariance())
    # The nuclear norm of the product of the centred features is the trace of the root, without a root of rounding.
    left = (drawn - drawn.astype(np.float64).mean(0)) / np.sqrt(39)
    right = (styles - styles.astype(np.float64).mean(0)) / np.sqrt(39)
    norm = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    gap = one.mean - two.mean
    expected = gap @ gap + np.trace(one.covariance()) + np.trace(two.covariance()) - 2 * norm
    assert there == pytest.approx(expected, rel=1e-12)


def test_art_fid_is_the_product() -> None:
    assert art_fid(0.505, 18.131) == pytest.approx(28.792, abs=1e-3)  # StyleID's own row of its table: 28.801
