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
from bottega.miniature.world import painter, render, scene
from bottega.quality.damage import Subject
from bottega.quality.eye.training.build import make_shards, read_shards
from bottega.quality.eye.training.contents import draw_content
from bottega.quality.eye.training.examples import GoodPictures, made_up
from bottega.quality.eye.training.stylise import TECHNIQUES
from bottega.runtime.progress import Progress
from bottega.visual.pictures import Picture

TRUTH_SIDE = 128
"""Pixels, of pictures whose distance to the truth is measured: its units are those of the drawn world."""

DRAWN_CONTENTS = 0.2
"""Share of the made-up triples whose contents are scenes of the drawn world."""

HARD_KINDS = ("pencil", "facets", "fog", "hatching", "mosaic", "ink_lines", "halftone")
"""Techniques of which good pictures are accused most: every fourth triple has one of them."""

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
    good = made_up(index, side, draw=_content, kinds=kinds)
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
    subject = Subject(good, render(view, None, size=side), style, other)
    truths = [render(view, by, seed) for seed in range(2, 2 + TRUTHS)]
    return GoodPictures(subject, by.kind, (render(view, by, 1, size=side),), NearestTruth(truths))


def _content(rng: np.random.Generator, side: int) -> Picture:
    if rng.random() < DRAWN_CONTENTS:
        return render(scene(int(rng.integers(1 << 20))), None, size=side)
    return draw_content(rng, side)
