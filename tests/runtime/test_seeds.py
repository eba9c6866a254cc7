"""Seeds are golden values: another one would change every run ever made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bottega.runtime.seeds import derive, numpy_rng, torch_generator

PARTS = st.lists(st.one_of(st.text(max_size=6), st.integers(), st.floats(allow_nan=False, allow_infinity=False)))


@pytest.mark.parametrize(
    ("parts", "seed"),
    [
        ((), 2858069222894195974),
        (("noise", 0), 6402148398997054185),
        (("a", 1, 2.5), 2584704481541464336),
        (("ünï",), 8880381104023469984),
    ],
)
def test_derived_seeds_never_change(parts: tuple[str | int | float, ...], seed: int) -> None:
    assert derive(*parts) == seed


def test_generators_never_change() -> None:
    assert numpy_rng("x", 1).integers(0, 2**31, 4).tolist() == [637884674, 313477378, 577590601, 1741361637]
    drawn = torch.randn(3, generator=torch_generator("x", 1))
    expected = torch.tensor([-0.9786056280136108, -0.5794205665588379, -0.43595388531684875])
    assert (drawn - expected).abs().max() < 1e-6  # the last bits depend on the instruction set


@given(parts=PARTS)
def test_a_seed_fits_in_63_bits_and_depends_on_nothing_else(parts: list[str | int | float]) -> None:
    np.random.seed(len(parts))
    assert 0 <= derive(*parts) < 2**63
    assert derive(*parts) == derive(*parts)


def test_parts_are_not_merely_joined() -> None:
    assert len({derive("ab", "c"), derive("a", "bc"), derive("abc"), derive("1", "2"), derive(1, 2), derive(12)}) == 6


def test_ten_thousand_counters_give_ten_thousand_seeds() -> None:
    assert len({derive("pair", index) for index in range(10_000)}) == 10_000
