"""Damage by family: the same each time, of a picture's own form, and graver where it is meant to be graver."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from bottega.miniature.world import painter, render, scene
from bottega.quality.damage import CAUSES, FAMILIES, Subject
from bottega.quality.damage.common import box, cover, grain, region
from bottega.runtime.seeds import numpy_rng

NO_SCALE = {"blocks", "few_levels", "latent_cut", "darkened", "flattened", "gamma", "turned", "warped", "swirled"}
"""Their strength is no amount of difference: a quality, levels that are kept, an angle."""


def subject(index: int) -> Subject:
    view, by = scene(70_000 + index), painter(500 + index)
    style = render(scene(71_000 + index), by, 1)
    other = render(scene(72_000 + index), by, 0)
    return Subject(render(view, by, 0), render(view, None), style, other)


def test_there_are_sixty_families_of_ten_causes() -> None:
    causes = Counter(family.cause for family in FAMILIES.values())
    assert len(FAMILIES) == 60
    assert set(causes) == set(CAUSES)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_depends_on_its_seed_alone_and_leaves_the_subject_as_it_is(name: str) -> None:
    one = subject(1)
    before = [picture.copy() for picture in (one.good, one.content, one.style, one.other)]
    family = FAMILIES[name]
    first, again = (family.apply(one, family.strength(0.5), numpy_rng("test", 3)) for _ in range(2))
    assert first.shape == one.good.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    for picture, kept in zip((one.good, one.content, one.style, one.other), before, strict=True):
        assert np.array_equal(picture, kept)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in NO_SCALE])
def test_severe_damage_is_farther_from_the_good_picture_than_mild(name: str) -> None:
    family = FAMILIES[name]
    far: dict[float, float] = {}
    for severity in (0.0, 1.0):
        differences: list[float] = []
        for index in range(4):
            one = subject(index)
            damaged = family.apply(one, family.strength(severity), numpy_rng("test", index))
            differences.append(float(np.abs(damaged.astype(float) - one.good).mean()))
        far[severity] = float(np.mean(differences))
    assert far[1.0] > far[0.0] > 0


def test_a_strength_lies_on_lines_between_the_three_that_are_named() -> None:
    blur = FAMILIES["blur"]
    mild, medium, severe = blur.strengths
    assert blur.strength(0) == mild
    assert blur.strength(0.25) == pytest.approx((mild + medium) / 2)
    assert blur.strength(0.5) == medium
    assert blur.strength(1) == severe


def test_grain_has_mean_zero_deviation_one_and_the_width_that_is_asked_for() -> None:
    for pixels in (1.0, 8.0):
        noise = grain(numpy_rng("grain", 1), (128, 192), pixels)
        assert noise.shape == (128, 192, 3)
        assert abs(float(noise.mean())) < 1e-4
        assert float(noise.std()) == pytest.approx(1, abs=1e-3)
    fine = grain(numpy_rng("grain", 2), (128, 128), 1.0)[..., 0]
    wide = grain(numpy_rng("grain", 2), (128, 128), 8.0)[..., 0]
    neighbours = [float(np.corrcoef(n[:, 1:].ravel(), n[:, :-1].ravel())[0, 1]) for n in (fine, wide)]
    assert neighbours[0] < 0.1
    assert neighbours[1] > 0.9


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_places_cover_the_share_that_is_asked_for(share: float) -> None:
    mask = region(numpy_rng("place", 1), (160, 120), share)
    assert mask.shape == (160, 120)
    assert 0 <= float(mask.min()) <= float(mask.max()) <= 1
    assert float(mask.mean()) == pytest.approx(share, abs=0.05)
    rows, columns = box(numpy_rng("place", 2), (160, 120), share)
    area = (rows.stop - rows.start) * (columns.stop - columns.start) / (160 * 120)
    assert area == pytest.approx(share, rel=0.1)


def test_covering_cuts_around_the_centre_and_keeps_the_ratio() -> None:
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, 40:] = 200
    covered = cover(picture, 40, 40)
    assert covered.shape == (40, 40, 3)
    assert covered[:, :19].max() == 0
    assert covered[:, 21:].min() == 200
