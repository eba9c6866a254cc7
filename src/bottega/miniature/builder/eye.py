"""What quality control's eye learns from: made-up contents, and the drawn world with its truths.

The eye itself is `bottega.quality.eye`; the drawn world stands above it, so the two meet here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bottega.evaluation.truth_distance import Description, describe, nearest
from bottega.miniature.world import SHAPES, Object, Scene, painter, render, scene
from bottega.quality.damage import Subject
from bottega.quality.eye.training.build import make_shards, read_shards
from bottega.quality.eye.training.contents import draw_content
from bottega.quality.eye.training.examples import LOST, MOVED, GoodPictures, LostThings, damage_mask, made_up
from bottega.quality.eye.training.stylise import TECHNIQUES
from bottega.runtime.progress import Progress
from bottega.runtime.seeds import numpy_rng
from bottega.visual.pictures import Picture

TRUTH_SIDE = 128
"""Pixels, of pictures whose distance to the truth is measured: its units are those of the drawn world."""

DRAWN_CONTENTS = 0.2
"""Share of the made-up triples whose contents are scenes of the drawn world."""

HARD_KINDS = ("facets", "hatching", "fog", "facets", "hatching", "pencil", "mosaic", "ink_lines", "halftone")
"""Techniques of which good pictures are accused most: every fourth triple has one of them."""

LOST_THINGS = 0.6
"""Share of the triples that have a picture without some things of the content."""

TRUTHS = 6
"""Of the drawn world: a picture's distance is that to the nearest."""

DRAWN_EVERY = 4
"""Of so many triples one is a truth of the drawn world."""


def learned(index: int, side: int) -> GoodPictures:
    """Good pictures to learn from, by their number: made up, or a truth of the drawn world."""
    if index % DRAWN_EVERY == DRAWN_EVERY - 1:
        # By turns of its own: every fourth painter saw two kinds of eight.
        return drawn_truth(index // DRAWN_EVERY, side)
    kinds = HARD_KINDS if index % DRAWN_EVERY == 1 else tuple(TECHNIQUES)
    good = made_up(index, side, draw=_content, kinds=kinds, lost=LOST_THINGS)
    return replace(good, distance=NearestTruth(good.more))


class NearestTruth:
    """The distance of a picture to the nearest of some that are right, at the size in which the distance was measured.

    Args:
        truths: pictures of any size. One that is the picture itself is left out: it would be at distance 0.
    """

    def __init__(self, truths: Sequence[Picture]) -> None:
        self._truths = [_small(truth) for truth in truths]
        self._described = [describe(truth) for truth in self._truths]

    def __call__(self, picture: Picture) -> float:
        """1 is what separates two drawings with other strokes; NaN where all truths are the picture itself."""
        small = _small(picture)
        others: list[Description] = []
        for truth, described in zip(self._truths, self._described, strict=True):
            if not np.array_equal(truth, small):
                others.append(described)
        if not others:
            return math.nan  # a technique without strokes: it draws the same picture each time
        return nearest(describe(small), others).total


def _small(picture: Picture) -> Picture:
    if picture.shape[0] == TRUTH_SIDE:
        return picture
    return np.asarray(cv2.resize(picture, (TRUTH_SIDE, TRUTH_SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def train_eye(state: Path, output: Path, *, triples: int, tries: int, steps: int, processes: int) -> int:
    """Draw what the eye learns from, train it and write its weights; returns the number of examples.

    Args:
        state: folder of the measured examples; what is there already is used.
        output: safetensors file.
        triples: contents with their styles; docs/log.md says what the shipped eye has learned from.
        tries: pictures of the miniature's own teacher.
        steps: of the training.
        processes: that draw.
    """
    # Here, not above: the benchmark's processes draw without torch.
    from bottega.miniature.builder.tries import make_try_shards
    from bottega.quality.eye.training.fit import FitConfig, StepLosses, export, fit

    shards = make_shards(state, triples, source=learned, processes=processes)
    shards += make_try_shards(state, tries)
    store = read_shards(shards)
    with Progress(steps, "eye: training", "steps") as progress:

        def report(losses: StepLosses) -> None:
            progress.update(1, picture=round(losses.picture, 3))

        network = fit(store, FitConfig(steps=steps), report=report)
    export(network, output)
    return len(store)


def drawn_truth(index: int, side: int) -> GoodPictures:
    """A truth of the drawn world, and the same with other strokes; each number has its scenes and its painter."""
    view, by = scene(3 * index), painter(index)
    good = render(view, by, 0, size=side)
    style = render(scene(3 * index + 1), by, 1, size=side)
    other = render(scene(3 * index + 2), by, 0, size=side)
    plain_view = render(view, None, size=side)
    subject = Subject(good, plain_view, style, other)
    truths = [render(view, by, seed) for seed in range(2, 2 + TRUTHS)]
    other_view, severity, family = _without_objects(view, index)
    mask = damage_mask(render(other_view, None, size=side), plain_view)
    lost = LostThings(render(other_view, by, 0, size=side), mask, severity, family)
    return GoodPictures(subject, by.kind, (render(view, by, 1, size=side),), NearestTruth(truths), (lost,))


def _without_objects(view: Scene, index: int) -> tuple[Scene, float, str]:
    """The scene without its objects, without one of several, or with all elsewhere; how severe that is; its family."""
    rng = numpy_rng("eye lost objects", index)
    draw = rng.random()
    if draw < 0.3:
        moved = tuple(_moved(item, rng) for item in view.objects)
        return replace(view, objects=moved), 0.75, MOVED
    if draw < 0.5 and len(view.objects) > 1:
        gone = int(rng.integers(len(view.objects)))
        left = tuple(item for place, item in enumerate(view.objects) if place != gone)
        return replace(view, objects=left), 0.5, LOST
    return replace(view, objects=()), 1.0, LOST


def _moved(item: Object, rng: np.random.Generator) -> Object:
    """An object at another place, half of the time of a shape of chance."""
    across, down = rng.uniform(item.radius, 1 - item.radius, 2)
    shape = str(rng.choice(SHAPES)) if rng.random() < 0.5 else item.shape
    return replace(item, x=float(across), y=float(down), shape=shape)


def _content(rng: np.random.Generator, side: int) -> Picture:
    if rng.random() < DRAWN_CONTENTS:
        return render(scene(int(rng.integers(1 << 20))), None, size=side)
    return draw_content(rng, side)
