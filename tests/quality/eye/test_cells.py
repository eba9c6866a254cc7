"""What the learned eye sees: signed against the content, relative to the style, the same in every cell of any size."""

from __future__ import annotations

import numpy as np
import pytest

from bottega.miniature.world import painter, render, scene
from bottega.quality.eye.cells import (
    AGAINST,
    GRID,
    NUM_AGAINST,
    NUM_NOVELTY,
    NUM_OWN,
    OWN,
    SUBSPACES,
    compare_cells,
    measure_cells,
    novelty,
)
from bottega.visual.pictures import Picture


def of(values: np.ndarray, name: str, names: tuple[str, ...] = OWN) -> np.ndarray:
    return values[..., names.index(name)]


def picture(index: int, size: int = 256) -> Picture:
    return render(scene(80_000 + index), painter(600 + index), 0, size=size)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_statistics_have_one_form_at_any_size_and_are_finite(size: int) -> None:
    one, other = measure_cells(picture(1, size)), measure_cells(picture(2, size))
    assert one.own.shape == (GRID, GRID, NUM_OWN)
    against = compare_cells(one, other)
    assert against.shape == (GRID, GRID, NUM_AGAINST)
    new = novelty(one, other, other)
    assert new.shape == (GRID, GRID, NUM_NOVELTY)
    for values in (one.own, one.whole, against, new):
        assert values.dtype == np.float32
        assert np.isfinite(values).all()


def test_a_flat_picture_has_finite_statistics_too() -> None:
    flat = measure_cells(np.full((128, 128, 3), 90, np.uint8))
    for values in (flat.own, flat.whole, compare_cells(flat, flat), novelty(flat, flat, flat)):
        assert np.isfinite(values).all()
    assert of(flat.own, "flat").min() == 1
    assert of(flat.own, "l_spread").max() == pytest.approx(0, abs=1e-3)


def test_a_picture_against_itself_correlates_differs_by_nothing_and_is_not_new() -> None:
    one = measure_cells(picture(3))
    against = compare_cells(one, one)
    textured = of(one.own, "l_spread") > 10
    assert of(against, "light_8_around", AGAINST)[textured].min() > 0.95
    assert of(against, "difference_l", AGAINST).max() == 0
    assert of(against, "moved", AGAINST)[textured].max() <= 1e-3
    assert novelty(one, one, one).max() < 0.02  # rounding: a distance of two large equal numbers


def test_a_negative_is_no_likeness() -> None:
    one = picture(4)
    against = compare_cells(measure_cells(255 - one), measure_cells(one))
    assert of(against, "light_8_around", AGAINST).mean() < -0.6
    assert of(against, "a_around", AGAINST).mean() < 0


def test_a_moved_picture_correlates_better_when_it_is_moved_back() -> None:
    one = picture(5)
    moved = np.roll(one, 16, 1)  # 2 px of the eighth at which it is searched
    still = of(compare_cells(measure_cells(one), measure_cells(one)), "moved", AGAINST)
    against = of(compare_cells(measure_cells(moved), measure_cells(one)), "moved", AGAINST)
    assert against.mean() > still.mean() + 0.2


def test_only_the_cells_that_have_something_new_are_far_from_style_and_content() -> None:
    one = picture(6)
    noisy = one.copy()
    noise = np.random.default_rng(0).normal(0, 60, (64, 64, 3))
    noisy[:64, :64] = np.clip(noisy[:64, :64] + noise, 0, 255)
    reference = measure_cells(one)
    new = novelty(measure_cells(noisy), reference, reference)
    place = 2 * tuple(SUBSPACES).index("fine")
    assert new[:4, :4, place].min() > 3 * new[5:, 5:, place].max()


def test_straight_steps_are_seen_along_their_own_direction() -> None:
    plain = np.full((256, 256, 3), 120, np.uint8)
    plain[100:] = 160
    rows, columns = of(measure_cells(plain).own, "rows"), of(measure_cells(plain).own, "columns")
    assert rows[100 // 16].min() > 2
    assert columns.max() < 0.1
    turned = measure_cells(np.ascontiguousarray(plain.transpose(1, 0, 2)))
    assert np.allclose(of(turned.own, "columns"), rows.T)


def test_energy_is_counted_at_the_scale_where_it_is() -> None:
    columns = np.indices((256, 256))[1]
    for period, name in ((2, "light_full"), (8, "light_4")):
        wave = 128 + 40 * np.sign(np.sin(2 * np.pi * (columns + 0.5) / period))
        values = measure_cells(np.repeat(wave[..., None], 3, 2).astype(np.uint8)).own
        others = {"light_full", "light_4", "light_8"} - {name}
        assert of(values, name).mean() > max(of(values, other).mean() for other in others)
