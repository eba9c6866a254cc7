"""What the network is given: statistics of cells against content and style, and of the whole picture.

All functions take one picture, [G, G, F], or many, [B, G, G, F]: training and judging use the same lines.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bottega.quality.eye.cells import (
    GRID,
    NUM_AGAINST,
    NUM_LEAKED,
    NUM_NOVELTY,
    NUM_OWN,
    NUM_WHOLE,
    OWN,
    SCALE,
    Cells,
    compare_cells,
    leaked_cells,
    novelty,
)
from bottega.quality.eye.palette import NUM_PALETTE, palette_inputs
from bottega.quality.eye.tones import tone_scores

Floats = npt.NDArray[np.float32]


RATIO_FLOOR = 0.01
"""Added to a ratio before its logarithm is taken: a flat picture has 0."""


@dataclass(frozen=True)
class ScoreInput:
    """How a score becomes an input: (value - usual) / scale, of the logarithm where it is a ratio."""

    usual: float
    scale: float
    is_ratio: bool = False


SCORE_INPUTS: dict[str, ScoreInput] = {
    "hf_ratio": ScoreInput(1.0, 0.7, is_ratio=True),
    "sharpness": ScoreInput(1.0, 0.5, is_ratio=True),
    "vigour": ScoreInput(1.0, 0.5, is_ratio=True),
    "noise": ScoreInput(0.0, 2.0),
    "blocking": ScoreInput(0.0, 0.3),
    "blocking_share": ScoreInput(0.0, 0.2),
    "mesh": ScoreInput(0.0, 1.5),
    "ghosting": ScoreInput(0.0, 0.15),
    "clipped_excess": ScoreInput(0.0, 0.15),
    "vivid_excess": ScoreInput(0.0, 0.15),
    "structure": ScoreInput(0.9, 0.3),
    "edge_64": ScoreInput(0.7, 0.3),
    "edge_128": ScoreInput(0.7, 0.3),
    "change": ScoreInput(0.1, 0.1),
    "light_shift": ScoreInput(0.0, 15.0),
    "a_shift": ScoreInput(0.0, 5.0),
    "b_shift": ScoreInput(0.0, 5.0),
    "light_follows": ScoreInput(0.8, 0.3),
    "a_follows": ScoreInput(0.6, 0.4),
    "b_follows": ScoreInput(0.6, 0.4),
}
"""The detectors' and the tones' scores that the network is given; one that was not measured counts as usual."""

NUM_CELL = 5 * NUM_OWN + NUM_AGAINST + NUM_LEAKED + NUM_NOVELTY + 2
NUM_PICTURE = 5 * NUM_OWN + NUM_AGAINST + NUM_LEAKED + NUM_NOVELTY + NUM_PALETTE + len(SCORE_INPUTS) + 3 * NUM_WHOLE + 1

# Where the inputs are that say what a picture is like by itself, not against content and style.
OWN_CELL = slice(0, NUM_OWN)
PLACE_CELL = slice(NUM_CELL - 2, NUM_CELL)
OWN_PICTURE = slice(0, NUM_OWN)
WHOLE_PICTURE = slice(NUM_PICTURE - 3 * NUM_WHOLE - 1, NUM_PICTURE - 2 * NUM_WHOLE - 1)

CLIP = 6.0
"""Standard deviations: a value farther out, such as that of a black cell, must not drown all others."""

_SCALES = np.array([SCALE[name] for name in OWN], np.float32)
_WHOLE_SCALES = np.array([1, 2, 1, 1, 1, 1, 1, 80], np.float32)
_LEAST_SPREAD = np.float32(0.3)
_LEAST_VARIANCE = np.float32(0.02)
_MEDIUM_SIDE = 256


@dataclass(frozen=True)
class MeasuredPicture:
    """Raw statistics of one picture or of B of them, in front of every dimension that is named.

    own, content, style: [G, G, NUM_OWN]. against: [G, G, NUM_AGAINST]. leaked: [G, G, NUM_LEAKED]. novelty: [G, G,
    NUM_NOVELTY]. scores: as inputs, [len(SCORE_INPUTS)]. whole, content_whole, style_whole: [NUM_WHOLE]. side:
    pixels, [].
    """

    own: Floats
    content: Floats
    style: Floats
    against: Floats
    leaked: Floats
    novelty: Floats
    scores: Floats
    whole: Floats
    content_whole: Floats
    style_whole: Floats
    side: Floats

    @classmethod
    def of(cls, picture: Cells, content: Cells, style: Cells, scores: Mapping[str, float]) -> MeasuredPicture:
        """One picture against its content and style.

        Args:
            scores: the detectors', see `bottega.quality.measuring`.
        """
        return cls(
            own=picture.own,
            content=content.own,
            style=style.own,
            against=compare_cells(picture, content),
            leaked=leaked_cells(picture, style),
            novelty=novelty(picture, style, content),
            scores=_score_inputs({**tone_scores(picture, content, style), **scores}),
            whole=picture.whole,
            content_whole=content.whole,
            style_whole=style.whole,
            side=np.array(picture.side, np.float32),
        )


@dataclass(frozen=True)
class Inputs:
    """cells: [G, G, NUM_CELL]. picture: [NUM_PICTURE]; B in front of both."""

    cells: Floats
    picture: Floats


def network_inputs(measured: MeasuredPicture) -> Inputs:
    """The network's inputs, each about of unit scale."""
    own = measured.own / _SCALES
    content = measured.content / _SCALES
    style = measured.style / _SCALES
    from_content = own - content
    style_mean = style.mean((-3, -2), keepdims=True)
    style_spread = style.std((-3, -2), keepdims=True)
    from_style = own - style_mean
    cells = np.concatenate(
        [
            own,
            from_content,
            from_style / (style_spread + _LEAST_SPREAD),
            # What is near either is as one would expect.
            np.minimum(np.abs(from_style), np.abs(from_content)),
            _beyond_the_rest(own, content),
            measured.against,
            2 * measured.leaked,
            2 * measured.novelty,
            np.broadcast_to(_places(), (*own.shape[:-1], 2)),
        ],
        -1,
    )
    return Inputs(_clipped(cells), _clipped(_of_picture(measured, own, content, style)))


def _score_inputs(scores: Mapping[str, float]) -> Floats:
    """[len(SCORE_INPUTS)]."""
    values: list[float] = []
    for name, plan in SCORE_INPUTS.items():
        value = scores.get(name, plan.usual)
        away = (
            math.log(max(value, 0.0) + RATIO_FLOOR) - math.log(plan.usual + RATIO_FLOOR)
            if plan.is_ratio
            else value - plan.usual
        )
        values.append(away / plan.scale)
    return np.array(values, np.float32)


def _beyond_the_rest(own: Floats, content: Floats) -> Floats:
    """What each cell has beyond what a straight line through all cells, from the content's, expects; as `own`.

    A stylisation treats all places alike: one that was left out, cut out or taken from elsewhere lies off the line.
    The line is drawn twice, the second time with less weight for the cells that lie far off.
    """
    cells = (-3, -2)
    weight = np.ones_like(own)
    away = own
    for _ in range(2):
        total = weight.sum(cells, keepdims=True)
        own_mean = (weight * own).sum(cells, keepdims=True) / total
        content_mean = (weight * content).sum(cells, keepdims=True) / total
        centred = content - content_mean
        variance = (weight * centred * centred).sum(cells, keepdims=True) / total
        slope = (weight * centred * (own - own_mean)).sum(cells, keepdims=True) / total / (variance + _LEAST_VARIANCE)
        away = own - own_mean - slope * centred
        weight = 1 / (1 + 4 * away * away)
    return np.asarray(away, np.float32)


def _of_picture(measured: MeasuredPicture, own: Floats, content: Floats, style: Floats) -> Floats:
    """Means and spreads over all cells, against those of content and style."""
    cells = (-3, -2)
    mean = own.mean(cells)
    spread = own.std(cells)
    whole = measured.whole / _WHOLE_SCALES
    return np.concatenate(
        [
            mean,
            mean - content.mean(cells),
            mean - style.mean(cells),
            spread - content.std(cells),
            spread - style.std(cells),
            measured.against.mean(cells),
            2 * measured.leaked.mean(cells),
            measured.novelty.mean(cells),
            palette_inputs(measured.own, measured.content, measured.style),
            measured.scores,
            whole,
            whole - measured.content_whole / _WHOLE_SCALES,
            whole - measured.style_whole / _WHOLE_SCALES,
            np.log2(measured.side / _MEDIUM_SIDE)[..., None],
        ],
        -1,
    )


def _places() -> Floats:
    """How far each cell is from the middle, down and across, 0..1, [G, G, 2]."""
    distance = np.abs(np.linspace(-1, 1, GRID, dtype=np.float32))
    return np.stack(np.meshgrid(distance, distance, indexing="ij"), -1)


def _clipped(values: Floats) -> Floats:
    return np.asarray(np.clip(values, -CLIP, CLIP), np.float32)
