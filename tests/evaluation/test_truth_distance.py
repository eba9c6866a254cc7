"""The distance to the drawn truth, against really drawn pictures of every kind of painter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from bottega.evaluation.colour import transfer_colours
from bottega.evaluation.controls import blur
from bottega.evaluation.truth_distance import Description, TruthDistance, between, describe, nearest
from bottega.miniature.world import KINDS, painter, render, scene

Cases = dict[str, dict[str, list[TruthDistance]]]
A_KIND = 5


@pytest.fixture(scope="module")
def cases() -> Cases:
    """Distances by kind of painter; what is made from a truth is not compared with that one."""
    found: Cases = {kind: {} for kind in KINDS}
    for number in range(A_KIND * len(KINDS)):
        view, by = scene(80_000 + number), painter(1000 + number)
        drawings = [render(view, by, seed) for seed in range(8)]
        truths = [describe(drawing) for drawing in drawings]
        content, style = render(view, None), render(scene(81_000 + number), by)
        pictures = {
            "truth": drawings[0],
            "blurred": blur(drawings[0]),
            "content": content,
            "palette": transfer_colours(content, style),
            "style": style,
            "other painter": render(view, painter(1000 + number + 1 + number % 7), 3),
            "other painter of the kind": render(view, painter(1000 + number + 8 * (1 + number % 5)), 3),
        }
        for name, picture in pictures.items():
            others = truths[1:] if name in ("truth", "blurred") else truths
            found[by.kind].setdefault(name, []).append(nearest(describe(picture), others))
    return found


def totals(cases: Sequence[TruthDistance]) -> npt.NDArray[np.float64]:
    return np.array([case.total for case in cases])


@pytest.mark.parametrize(
    "control", ["blurred", "content", "palette", "style", "other painter", "other painter of the kind"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_another_drawing_of_the_truth_is_nearer_than(cases: Cases, kind: str, control: str) -> None:
    share = (totals(cases[kind]["truth"]) < totals(cases[kind][control])).mean()
    assert share >= 0.95


def test_two_drawings_of_the_same_picture_lie_well_within_a_unit(cases: Cases) -> None:
    """A unit is what separated drawings whose strokes were drawn independently; on a shared canvas they only jitter."""
    truths = [case for kind in KINDS for case in cases[kind]["truth"]]
    for part in ("total", "colour", "texture"):
        assert 0.02 < np.mean([getattr(case, part) for case in truths]) < 0.4


def test_the_colours_alone_are_won_by_a_blur_and_the_texture_is_lost_by_it(cases: Cases) -> None:
    """Why it takes two parts: each alone has a picture that cheats it."""
    for kind in KINDS:
        blurred, content = cases[kind]["blurred"], cases[kind]["content"]
        assert np.mean([case.colour for case in blurred]) < 0.5 * np.mean([case.colour for case in content])
        truth = cases[kind]["truth"]
        assert np.mean([case.texture for case in blurred]) > 1.5 * np.mean([case.texture for case in truth])


def test_the_strokes_may_lie_anywhere() -> None:
    """A picture moved by half a period of its strokes is nearly the same picture."""
    stripes = np.full((128, 128, 3), 128, np.uint8)
    stripes += (60 * np.sin(2 * np.pi * np.arange(128) / 8)).astype(np.int8).astype(np.uint8)[None, :, None]
    moved, turned = np.roll(stripes, 4, axis=1), stripes.transpose(1, 0, 2)
    here, there, across = (describe(np.ascontiguousarray(p)) for p in (stripes, moved, turned))
    assert between(here, there).total < 0.5
    assert between(here, across).texture > 5


def test_the_distance_is_symmetric_and_zero_for_the_picture_itself() -> None:
    one, two = describe(render(scene(1), painter(1))), describe(render(scene(2), painter(2)))
    assert between(one, one) == TruthDistance(0.0, 0.0, 0.0)
    assert between(one, two) == between(two, one)


def test_faint_noise_is_no_texture() -> None:
    """Rounding and codecs leave noise of a grey level or so, which must not count as strokes."""
    flat = np.full((128, 128, 3), 150, np.uint8)
    noisy = flat + np.random.default_rng(0).integers(0, 2, flat.shape, dtype=np.uint8)
    assert between(describe(flat), describe(noisy)).total < 0.5


def test_the_nearest_truth_counts() -> None:
    near, far = describe(render(scene(1), painter(1), 0)), describe(render(scene(2), painter(2), 0))
    assert nearest(near, [far, near]).total == 0


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="32 pixels"):
        describe(np.zeros((16, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="at least one drawn truth"):
        nearest(Description(np.zeros((16, 16, 3), np.float32), np.zeros((6, 6, 30), np.float32)), [])
