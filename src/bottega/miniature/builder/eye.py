"""What quality control's eye learns from: made-up contents, and the drawn world with its truths.

The eye itself is `bottega.quality.eye`; the drawn world stands above it, so the two meet here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bottega.miniature.world import painter, render, scene
from bottega.quality.damage import Subject
from bottega.quality.eye.training.build import make_shards, read_shards
from bottega.quality.eye.training.contents import draw_content
from bottega.quality.eye.training.examples import GoodPictures, made_up
from bottega.runtime.progress import Progress
from bottega.visual.pictures import Picture

DRAWN_CONTENTS = 0.2
"""Share of the made-up triples whose contents are scenes of the drawn world."""

DRAWN_EVERY = 4
"""Of so many triples one is a truth of the drawn world."""


def learned(index: int, side: int) -> GoodPictures:
    """Good pictures to learn from, by their number: made up, or a truth of the drawn world."""
    if index % DRAWN_EVERY == DRAWN_EVERY - 1:
        return drawn_truth(
            index // DRAWN_EVERY, side
        )  # by turns of its own: a fourth painter each saw two kinds of eight
    return made_up(index, side, draw=_content)


def train_eye(state: Path, output: Path, *, triples: int, steps: int, processes: int) -> int:
    """Draw what the eye learns from, train it and write its weights; returns the number of examples.

    Args:
        state: folder of the measured examples; what is there already is used.
        output: safetensors file.
        triples: contents with their styles; docs/log.md says what the shipped eye has learned from.
        steps: of the training.
        processes: that draw.
    """
    # Here, not above: the benchmark's processes draw without torch.
    from bottega.quality.eye.training.fit import FitConfig, StepLosses, export, fit

    shards = make_shards(state, triples, source=learned, processes=processes)
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
    return GoodPictures(subject, by.kind, (render(view, by, 1, size=side),))


def _content(rng: np.random.Generator, side: int) -> Picture:
    if rng.random() < DRAWN_CONTENTS:
        return render(scene(int(rng.integers(1 << 20))), None, size=side)
    return draw_content(rng, side)
