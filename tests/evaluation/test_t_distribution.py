"""Student's t against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bottega.evaluation.t_distribution import quantile, two_sided

FREEDOMS = np.array([1, 1.3, 2, 2.7, 3, 5.5, 19, 57.2, 399, 5000.0])


@pytest.mark.parametrize("p", [1e-7, 0.001, 0.025, 0.3, 0.5, 0.9, 0.975, 0.9999])
def test_quantiles_are_scipys(p: float) -> None:
    assert quantile(p, FREEDOMS) == pytest.approx(stats.t.ppf(p, FREEDOMS), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("t", [-30.0, -2.0, 0.0, 0.4, 2.1, 9.0])
def test_p_values_are_scipys(t: float) -> None:
    assert two_sided(t, FREEDOMS) == pytest.approx(2 * stats.t.sf(abs(t), FREEDOMS), rel=1e-5, abs=1e-15)


def test_shapes_are_broadcast() -> None:
    assert quantile(np.full((2, 1), 0.975), FREEDOMS).shape == (2, len(FREEDOMS))
    assert two_sided(2.0, 3.0).shape == ()
