"""The pictures that the eye learns from: the same each time, of every technique, with the damage where the mask is."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from bottega.quality.damage import FAMILIES
from bottega.quality.eye.cells import GRID
from bottega.quality.eye.training.contents import draw_content
from bottega.quality.eye.training.examples import GOOD, damage_mask, damaged, examples, made_up, varied
from bottega.quality.eye.training.random_damage import RANDOM_FAMILIES
from bottega.quality.eye.training.stylise import TECHNIQUES, Style, nearest_colours, take_colours
from bottega.runtime.seeds import numpy_rng


def test_contents_are_the_same_each_time_and_differ_from_each_other() -> None:
    first, again, other = (draw_content(numpy_rng("test", seed), 128) for seed in (1, 1, 2))
    assert first.shape == (128, 128, 3)
    assert np.array_equal(first, again)
    assert np.abs(first.astype(int) - other).mean() > 5


def test_contents_have_a_spectrum_near_that_of_photographs() -> None:
    # The amplitude of photographs falls about as 1 / rate: Field, "Relations between the statistics of natural images
    # and the response properties of cortical cells", JOSA A 4, 1987.
    # Photographs of scikit-image have -0.9 to -2.6, in the median -1.4 (docs/log.md).
    slopes: list[float] = []
    for seed in range(48):
        light = draw_content(numpy_rng("spectrum", seed), 128).mean(2)
        window = np.outer(np.hanning(128), np.hanning(128))
        power = np.abs(np.fft.rfft2((light - light.mean()) * window)) ** 2
        rate = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None])
        bands = np.geomspace(0.02, 0.4, 9)
        means = [power[(rate >= low) & (rate < high)].mean() for low, high in pairwise(bands)]
        slopes.append(float(np.polyfit(np.log(np.sqrt(bands[:-1] * bands[1:])), np.log(means), 1)[0]) / 2)
    assert -1.75 < float(np.median(slopes)) < -0.9


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_depends_on_its_seeds_alone(technique: str) -> None:
    content = draw_content(numpy_rng("test", 5), 128)
    style = Style(technique, 9)
    first, again = (style.draw(content, 4) for _ in range(2))
    assert first.shape == content.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert first.std() > 2


def test_colours_are_taken_by_their_weight() -> None:
    content, source = (draw_content(numpy_rng("colours", seed), 128) for seed in (1, 2))
    assert np.array_equal(take_colours(content, source, 0.0), content)
    moved = take_colours(content, source, 1.0)
    before = np.abs(content.mean((0, 1)) - source.mean((0, 1))).sum()
    assert np.abs(moved.mean((0, 1)) - source.mean((0, 1))).sum() < 0.5 * before
    few = nearest_colours(content, source, 1.0, 5)
    assert len(np.unique(few.reshape(-1, 3), axis=0)) <= 5


def test_the_mask_is_where_the_damage_is() -> None:
    subject = made_up(3, 128, kinds=("oil",)).subject
    picture = subject.good.copy()
    picture[:32, :64] = 0
    mask = damage_mask(picture, subject.good)
    assert mask.shape == (GRID, GRID)
    assert mask[:4, :8].mean() > 0.9
    assert mask[6:, 10:].max() == 0


def test_an_example_is_good_without_a_mask_or_damaged_with_one() -> None:
    families = tuple(FAMILIES)[:12]
    found = list(examples(11, 128, families=families, bad=6, nameless=2))
    good = [example for example in found if example.family == GOOD]
    assert len(good) == 4
    assert max(float(example.mask.max()) for example in good) == 0
    bad = [example for example in found if example.family != GOOD]
    assert bad
    assert {example.family for example in bad} & set(RANDOM_FAMILIES)
    for example in bad:
        assert example.family in {*families, *RANDOM_FAMILIES}
        assert float(example.mask.mean()) > 0.02


def test_a_damaged_picture_is_the_same_each_time() -> None:
    subject = made_up(4, 128, kinds=("mosaic",)).subject
    first, again = (damaged(subject, "blotches", 0.5, numpy_rng("test", 2)) for _ in range(2))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])


@pytest.mark.parametrize("family", RANDOM_FAMILIES)
def test_a_damage_without_a_name_is_another_one_each_time(family: str) -> None:
    subject = made_up(4, 128, kinds=("oil",)).subject
    kind = RANDOM_FAMILIES[family]
    pictures = [kind.apply(subject, kind.strength(1.0), numpy_rng("test", seed)) for seed in range(8)]
    again = kind.apply(subject, kind.strength(1.0), numpy_rng("test", 3))
    assert np.array_equal(pictures[3], again)
    changes = [float(np.abs(picture.astype(int) - subject.good).mean()) for picture in pictures]
    assert max(changes) > 5
    assert len({picture.tobytes() for picture in pictures}) >= 6
    assert all(picture.shape == subject.good.shape and picture.dtype == np.uint8 for picture in pictures)


def test_contents_are_varied_widely_and_the_same_each_time() -> None:
    content = draw_content(numpy_rng("varied", 1), 96)
    pictures = [varied(content, numpy_rng("varied", seed)) for seed in range(12)]
    assert np.array_equal(pictures[3], varied(content, numpy_rng("varied", 3)))
    means = [float(picture.mean()) for picture in pictures]
    assert max(means) - min(means) > 30
    for picture in pictures:
        assert picture.shape == content.shape
        assert picture.dtype == np.uint8
