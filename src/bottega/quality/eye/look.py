"""The shipped eye: what it says of one picture against its content and its style, as scores and as cells."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from bottega.quality.damage import CAUSES
from bottega.quality.eye.cells import GRID, Cells
from bottega.quality.eye.inputs import MeasuredPicture, network_inputs
from bottega.quality.eye.network import Network, Seen
from bottega.runtime.files import sha256_file

WEIGHTS = Path(__file__).with_name("eye.safetensors")

SMALLEST_SIDE = 128
"""Pixels: the eye has learned from no smaller picture."""

CAUSE_PREFIX = "cause_"
CAUSE_SCORES = tuple(CAUSE_PREFIX + cause for cause in CAUSES)

EYE_SCORES = ("damage", "damage_area", "estimated_distance", *CAUSE_SCORES)

LEAST_SHARE = 0.05
"""A cause that is less likely than this is not recorded."""

Floats = npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def shipped_eye() -> Network:
    """The network whose weights come with bottega, loaded once a process."""
    return Network.load(WEIGHTS)


@lru_cache(maxsize=1)
def eye_identity() -> str:
    """Hash of its weights: scores of another eye are others."""
    return sha256_file(WEIGHTS)[:16]


def look(eye: Network, picture: Cells, content: Cells, style: Cells, scores: Mapping[str, float]) -> Seen:
    """What a network says of a picture; `scores` are the detectors'."""
    return eye(network_inputs(MeasuredPicture.of(picture, content, style, scores)))


def eye_scores(seen: Seen) -> dict[str, float]:
    """What it says as scores.

    Returns:
        `damage`, the logit of being damaged; `damage_area`, the share of cells that are rather damaged than not, 0..1;
        `estimated_distance`, to what the style's painter would have made of the content, 0 and up; `cause_…`, the
        probability of each cause if it is damaged, where that is LEAST_SHARE or more.
    """
    scores = {
        "damage": seen.logit,
        "damage_area": float((seen.cells > 0).mean()),
        "estimated_distance": seen.distance,
    }
    for name, share in zip(CAUSE_SCORES, _softmax(seen.causes).tolist(), strict=True):
        if share >= LEAST_SHARE:
            scores[name] = share
    return scores


class Frame(NamedTuple):
    """A part of a picture, in shares of its height and width, 0..1."""

    top: float
    left: float
    bottom: float
    right: float

    @property
    def is_all(self) -> bool:
        """Whether it is nearly the whole picture: then a frame shows nothing."""
        return (self.bottom - self.top) * (self.right - self.left) > 0.8


def worst_part(cells: Floats) -> Frame | None:
    """Where the damage is: the smallest frame around the cells near the worst one that are as bad as half of it.

    Args:
        cells: logits, [G, G].

    Returns:
        None where no cell is rather damaged than not.
    """
    shares = 1 / (1 + np.exp(-cells.astype(np.float64)))
    worst = float(shares.max())
    if worst < 0.5:
        return None
    place = np.unravel_index(int(shares.argmax()), shares.shape)
    row, column = int(place[0]), int(place[1])
    rows, columns = _connected(shares >= worst / 2, row, column)
    return Frame(min(rows) / GRID, min(columns) / GRID, (max(rows) + 1) / GRID, (max(columns) + 1) / GRID)


def _connected(chosen: npt.NDArray[np.bool_], row: int, column: int) -> tuple[list[int], list[int]]:
    """Rows and columns of the chosen cells that touch this one, by a side or a corner."""
    _, labels = cv2.connectedComponents(chosen.astype(np.uint8), connectivity=8)
    rows, columns = np.nonzero(labels == labels[row, column])
    return rows.tolist(), columns.tolist()


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum(), np.float32)
