"""What the network is given: statistics of cells against content and style, and of the whole picture.

All functions take one picture, [G, G, F], or many, [B, G, G, F]: training and judging use the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bottega.quality.eye.cells import (
    GRID,
    NUM_AGAINST,
    NUM_NOVELTY,
    NUM_OWN,
    NUM_WHOLE,
    OWN,
    SCALE,
    Cells,
    compare_cells,
    novelty,
)

Floats = npt.NDArray[np.float32]

NUM_CELL = 4 * NUM_OWN + NUM_AGAINST + NUM_NOVELTY + 2
NUM_PICTURE = 5 * NUM_OWN + NUM_AGAINST + NUM_NOVELTY + 3 * NUM_WHOLE + 1

CLIP = 6.0
"""Standard deviations: a value farther out, such as that of a black cell, must not drown all others."""

_SCALES = np.array([SCALE[name] for name in OWN], np.float32)
_WHOLE_SCALES = np.array([1, 2, 1, 1, 1, 1, 1, 80], np.float32)
_LEAST_SPREAD = np.float32(0.3)
_MEDIUM_SIDE = 256


@dataclass(frozen=True)
class MeasuredPicture:
    """Raw statistics of one picture or of B of them, in front of every dimension that is named.

    own, content, style: [G, G, NUM_OWN]. against: [G, G, NUM_AGAINST]. novelty: [G, G, NUM_NOVELTY]. whole,
    content_whole, style_whole: [NUM_WHOLE]. side: pixels, [].
    """

    own: Floats
    content: Floats
    style: Floats
    against: Floats
    novelty: Floats
    whole: Floats
    content_whole: Floats
    style_whole: Floats
    side: Floats

    @classmethod
    def of(cls, picture: Cells, content: Cells, style: Cells) -> MeasuredPicture:
        """One picture against its content and style."""
        return cls(
            own=picture.own,
            content=content.own,
            style=style.own,
            against=compare_cells(picture, content),
            novelty=novelty(picture, style, content),
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
            measured.against,
            2 * measured.novelty,
            np.broadcast_to(_places(), (*own.shape[:-1], 2)),
        ],
        -1,
    )
    return Inputs(_clipped(cells), _clipped(_of_picture(measured, own, content, style)))


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
            measured.novelty.mean(cells),
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
