"""The learned eye's network, in NumPy: judging needs no torch in the processes that read pictures.

G: cells of a side, 16. W: width. C: causes. Two sums over neighbourhoods of cells with what the whole picture says,
under a millisecond a picture. `bottega.quality.eye.training.model` is the same network in torch; a test holds them
together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from bottega.quality.eye.cells import GRID
from bottega.quality.eye.inputs import Inputs
from bottega.runtime.errors import RequestError

Floats = npt.NDArray[np.float32]

NORM_EPSILON = 1e-5
DISTANCE_FLOOR = 0.5
"""Added to a distance before its logarithm is taken: that of two equal pictures is 0."""

MAX_LOG_DISTANCE = 4.0
"""Of an estimate; no two pictures are farther apart than some 40."""

TOP_CELLS = (1, 8, 32)
"""How many of the worst cells are averaged for the picture's verdict: one, an eighth of a side squared, an eighth."""


@dataclass(frozen=True)
class Seen:
    """What the network says of one picture.

    logit: of being damaged. distance: estimated, to what the style's painter would have made of the content; 1 is what
    separates two drawings with other strokes. cells: logits of each cell, [G, G]. causes: logits of the picture's
    causes, [C].
    """

    logit: float
    distance: float
    cells: Floats
    causes: Floats


class Network:
    """The network with its weights, by the names of torch's module."""

    def __init__(self, weights: Mapping[str, Floats]) -> None:
        self._weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
        for name in ("near1", "near2"):
            kernel = self._weights[f"{name}.weight"]  # [W, 1, 3, 3]
            self._weights[f"{name}.weight"] = np.ascontiguousarray(kernel[:, 0].transpose(1, 2, 0))  # [3, 3, W]

    @classmethod
    def load(cls, path: Path) -> Network:
        """From a safetensors file."""
        return cls(load_file(path))

    def __call__(self, inputs: Inputs) -> Seen:
        """Look at one picture."""
        if inputs.cells.ndim != 3:
            raise RequestError(f"the eye looks at one picture, received cells {inputs.cells.shape}; call it for each")
        # 1. Each cell by itself, with what the whole picture is like.
        picture = self._dense("picture2", _relu(self._dense("picture1", inputs.picture)))
        cells = _relu(self._dense("cells", inputs.cells) + picture)

        # 2. Its neighbours, then all cells together.
        cells = cells + _relu(self._dense("mixed1", self._with_near("near1", cells)))
        flat = cells.reshape(GRID * GRID, -1)
        pooled = np.concatenate([flat.mean(0), flat.max(0), flat.std(0)])
        cells = self._normalised(cells + self._dense("context", pooled))
        cells = cells + _relu(self._dense("mixed2", self._with_near("near2", cells)))
        cells = cells + _relu(self._dense("mixed3", cells))

        # 3. The verdicts: of each cell, and of the picture by its worst cells.
        logits = self._dense("cell_verdict", cells)[..., 0]
        worst = np.sort(logits.ravel())[::-1]
        flat = cells.reshape(GRID * GRID, -1)
        shares = np.array([worst.mean(), *(worst[:count].mean() for count in TOP_CELLS)], np.float32)
        summary = np.concatenate([flat.mean(0), flat.max(0), picture, shares])
        verdict = self._dense("verdict2", _relu(self._dense("verdict1", summary)))
        distance = math.exp(min(float(verdict[1]), MAX_LOG_DISTANCE)) - DISTANCE_FLOOR
        return Seen(float(verdict[0]), max(distance, 0.0), logits, verdict[2:])

    def _dense(self, name: str, values: Floats) -> Floats:
        """[..., in] -> [..., out]."""
        return values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _with_near(self, name: str, cells: Floats) -> Floats:
        """Each cell and a weighted sum of its 3 x 3 neighbourhood with zeros around, [G, G, W] -> [G, G, 2 W]."""
        width = cells.shape[-1]
        padded = np.zeros((GRID + 2, GRID + 2, width), np.float32)
        padded[1:-1, 1:-1] = cells
        kernel = self._weights[f"{name}.weight"]
        near = np.broadcast_to(self._weights[f"{name}.bias"], cells.shape).copy()
        for row in range(3):
            for column in range(3):
                near += padded[row : row + GRID, column : column + GRID] * kernel[row, column]
        return np.concatenate([cells, near], -1)

    def _normalised(self, cells: Floats) -> Floats:
        """Layer normalisation over the width."""
        centred = cells - cells.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + NORM_EPSILON)
        return np.asarray(centred / spread * self._weights["norm.weight"] + self._weights["norm.bias"], np.float32)


def _relu(values: Floats) -> Floats:
    return np.maximum(values, 0)
