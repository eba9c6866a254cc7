"""Siblings differ in one word, and cells count by what they tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bottega.miniature.builder import architectures
from bottega.miniature.builder.siblings import (
    Siblings,
    cell_weights,
    different,
    draw_siblings,
    sibling_weights,
    siblings,
)
from bottega.miniature.scenes import SHAPES


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Siblings:
    """Twelve scenes in all shapes, encoded by an untrained autoencoder."""
    torch.manual_seed(0)
    return draw_siblings(tmp_path_factory.mktemp("siblings"), architectures.autoencoder().eval(), 20, 12)


def test_siblings_differ_in_their_shape_alone() -> None:
    views = siblings(3)
    assert [view.objects[0].shape for view in views] == list(SHAPES)
    assert len({view.caption(0).replace(view.objects[0].shape, "SHAPE") for view in views}) == 1
    assert len({(view.background, view.objects[0].x, view.objects[0].radius, view.tilt) for view in views}) == 1


def test_a_row_holds_the_scene_that_its_caption_names(drawn: Siblings) -> None:
    assert drawn.latents.shape == (12, 6, 4, 32, 32)
    assert drawn.caption(1, 3, 4) == siblings(21)[3].caption(4)
    for shape in range(len(SHAPES)):  # a picture shows its own shape and no other
        assert set(np.unique(drawn.labels[:, shape])) == {0, shape + 1}
    sizes = [siblings(20 + place)[0].objects[0].size for place in range(12)]
    assert [sizes[place] for place in drawn.of_large] == ["large"] * sizes.count("large")


def test_siblings_are_drawn_once(tmp_path: Path) -> None:
    first = draw_siblings(tmp_path, architectures.autoencoder().eval(), 20, 2)
    again = draw_siblings(tmp_path, None, 20, 2)  # without an autoencoder: it is not asked
    assert (again.latents == first.latents).all()


def test_cells_that_tell_siblings_apart_count_most(drawn: Siblings) -> None:
    labels = torch.from_numpy(drawn.labels).long()
    weights = sibling_weights(labels)[:, :, 0]  # [N, S, H, W]
    apart = different(labels).expand(labels.shape)
    assert torch.allclose(weights.mean((2, 3)), torch.ones(12, 6), atol=1e-5)
    far = (labels == 0) & ~apart
    for place in range(12):
        for shape in range(len(SHAPES)):
            ratio = weights[place, shape][apart[place, shape]].min() / weights[place, shape][far[place, shape]].max()
            assert float(ratio) == pytest.approx(12.0)
    # The middle of an object is every sibling's but the ring's; beyond the largest silhouette nothing differs.
    assert 0.02 < float(apart.float().mean()) < 0.4


def test_a_small_object_s_cells_count_more_than_a_large_one_s() -> None:
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    labels[0, 4:16, 4:16] = 1
    labels[1, 4:8, 4:8] = 2
    weights = cell_weights(labels)[:, 0]
    assert torch.allclose(weights.mean((1, 2)), torch.ones(2), atol=1e-5)
    large, small = (float(weights[k, 5, 5] / weights[k, 30, 30]) for k in (0, 1))
    assert large == pytest.approx(4.0, rel=0.1)
    assert small == pytest.approx(11.1, rel=0.05)  # 4 √(0.12 / 0.0156)
    assert float(weights[0, 3, 3] / weights[0, 30, 30]) == pytest.approx(large)  # the rim counts like the object
    ignored = torch.full((1, 32, 32), -100)
    assert torch.equal(cell_weights(ignored), torch.ones(1, 1, 32, 32))
