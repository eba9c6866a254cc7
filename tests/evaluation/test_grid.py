"""Crossed grids of pairs and the swap of styles."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bottega.data.records import Pair
from bottega.evaluation.grid import Grid, swapped_styles


def pairs(contents: int, styles: int, labels: int = 4) -> list[Pair]:
    return [
        Pair(f"c{c}_s{s}", f"c{c}", f"c{c}.png", f"s{s}", f"s{s}.png", "", style=f"label {s * labels // styles}")
        for c in range(contents)
        for s in range(styles)
    ]


@given(st.lists(st.integers(0, 5), max_size=40))
def test_the_swap_is_a_derangement_of_labels_wherever_there_is_one(drawn: list[int]) -> None:
    labels = {f"s{k}": f"label {label}" for k, label in enumerate(drawn)}
    swap = swapped_styles(labels)
    largest = max(Counter(labels.values()).values(), default=0)
    if 2 * largest > len(labels):
        assert swap == {}
        return
    assert set(swap) == set(swap.values()) == set(labels)
    assert all(labels[style] != labels[other] for style, other in swap.items())


def test_a_matrix_has_nan_where_there_is_no_score() -> None:
    found = Grid.of(pairs(2, 2)).matrix({("c0", "s1"): 5.0, ("c9", "s9"): 1.0})
    assert np.array_equal(found, [[np.nan, 5.0], [np.nan, np.nan]], equal_nan=True)


def test_a_smaller_grid_is_crossed_and_of_many_labels() -> None:
    whole = Grid.of(pairs(20, 20))
    for limit in (1, 2, 4, 9, 32, 100, 200, 399):
        part = whole.smaller(limit)
        assert 0 < len(part) <= limit
        assert len(part) == len(part.contents) * len(part.styles)
    assert len(set(whole.smaller(32).labels.values())) == 4
    assert len(whole.smaller(200).styles) == 20


def test_a_smaller_grid_keeps_the_styles_swappable() -> None:
    for limit in (4, 16, 32, 64):
        assert swapped_styles(Grid.of(pairs(20, 20)).smaller(limit).labels)


def test_no_limit_and_a_large_one_are_the_whole_grid() -> None:
    whole = Grid.of(pairs(3, 4))
    assert whole.smaller(None) is whole
    assert whole.smaller(12) is whole


def test_a_pair_given_twice_counts_once() -> None:
    assert len(Grid.of([*pairs(2, 2), *pairs(2, 2)])) == 4
