"""The measures of effects on drawn truths: with and without, before and after the miniature's autoencoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bottega.miniature.builder import gates
from bottega.miniature.effects import EFFECTS, LINE, ground_slope, outlined, poster, sepia, to_sepia
from bottega.miniature.painters import render
from bottega.miniature.ranges import GATE_SCENES
from bottega.miniature.scenes import BACKGROUNDS, label_map, lightness, scene
from bottega.visual.pictures import Pictures

COUNT = 120
BLURRED = 40  # of them, through the autoencoder, which takes a hundred times as long as the measures
FIRST = GATE_SCENES + 800_000


@pytest.fixture(scope="module")
def plain() -> Pictures:
    return np.stack([render(scene(FIRST + i), None) for i in range(COUNT)])


@pytest.fixture(scope="module")
def drawn() -> dict[str, Pictures]:
    return {name: np.stack([effect.draw(scene(FIRST + i)) for i in range(COUNT)]) for name, effect in EFFECTS.items()}


def through_the_autoencoder(pictures: Pictures) -> Pictures:
    from diffusers import AutoencoderTiny

    from bottega.models.names import resolve

    vae = AutoencoderTiny.from_pretrained(resolve("bottega:miniature/weights/sdxl/vae"), torch_dtype=torch.float32)
    return gates.reconstruct(vae.eval(), pictures)


@pytest.mark.parametrize("name", list(EFFECTS))
def test_truths_are_distinguished_from_plain_scenes(name: str, plain: Pictures, drawn: dict[str, Pictures]) -> None:
    effect = EFFECTS[name]
    assert (effect.shares(drawn[name]) >= effect.border).mean() >= 0.99
    assert (effect.shares(plain) >= effect.border).mean() <= 0.01


def test_also_after_the_autoencoder_which_blurs_the_line(plain: Pictures, drawn: dict[str, Pictures]) -> None:
    blurred = through_the_autoencoder(plain[:BLURRED])
    for name, effect in EFFECTS.items():
        assert (effect.shares(blurred) >= effect.border).sum() == 0, name
    for name in ("outline", "sepia"):
        truths = through_the_autoencoder(drawn[name][:BLURRED])
        effect = EFFECTS[name]
        assert (effect.shares(truths) >= effect.border).sum() == BLURRED, name


def test_one_effect_is_not_taken_for_the_other(drawn: dict[str, Pictures]) -> None:
    line, brown = EFFECTS["outline"], EFFECTS["sepia"]
    assert (brown.shares(drawn["outline"]) >= brown.border).mean() == 0
    assert (line.shares(drawn["sepia"]) >= line.border).mean() <= 0.05


def test_paintings_have_neither() -> None:
    from bottega.miniature.painters import painter

    paintings = np.stack([render(scene(FIRST + i), painter(1_000 + i)) for i in range(40)])
    brown = EFFECTS["sepia"]
    assert (brown.shares(paintings) >= brown.border).mean() <= 0.05


def test_the_line_follows_the_edge_of_every_object_and_leaves_all_else() -> None:
    for index in range(FIRST, FIRST + 30):
        view = scene(index)
        changed = np.abs(outlined(view).astype(int) - render(view, None)).max(-1) > 12
        labels = label_map(view)
        for number in np.unique(labels[labels > 0]):
            assert changed[labels == number].mean() > 0.2  # the part of the line that lies inside
        import cv2

        edges = cv2.distanceTransform((labels == 0).astype(np.uint8), cv2.DIST_L2, 5)
        assert not changed[edges > LINE].any()


def test_a_dark_ground_has_a_light_line() -> None:
    dark = [name for name, colour in BACKGROUNDS.items() if lightness(colour) < 40]
    assert dark == ["navy"]
    view = next(scene(i) for i in range(FIRST, FIRST + 200) if scene(i).background == "navy")
    before, after = render(view, None).astype(int).sum(-1), outlined(view).astype(int).sum(-1)
    assert (after - before).max() > 500


def test_sepia_keeps_the_order_of_lightness() -> None:
    grey = np.repeat(np.arange(0, 256, 15, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(4, axis=0)
    brown = to_sepia(grey).astype(int).sum(-1)
    assert (np.diff(brown[0]) > 0).all()


def test_a_poster_has_a_flat_ground() -> None:
    for index in range(FIRST, FIRST + 20):
        assert ground_slope(poster(scene(index))) < 1.0
    assert np.mean([ground_slope(render(scene(FIRST + i), None)) for i in range(20)]) > 4


def test_an_object_that_is_dark_all_through_has_no_line() -> None:
    picture = np.full((128, 128, 3), 240, np.uint8)
    picture[40:90, 40:90] = 20
    assert EFFECTS["outline"].share(picture) == 0
    picture[46:84, 46:84] = (204, 32, 40)
    assert EFFECTS["outline"].share(picture) == 1


def test_an_empty_picture_has_no_line() -> None:
    effect = EFFECTS["outline"]
    assert effect.share(np.full((128, 128, 3), 240, np.uint8)) == 0
    assert effect.share(np.zeros((128, 128, 3), np.uint8)) == 0


def test_pictures_are_drawn_at_any_size() -> None:
    for draw in (outlined, sepia, poster):
        small = draw(scene(FIRST), 64)
        assert small.shape == (64, 64, 3)
