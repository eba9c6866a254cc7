"""The oracle: returns the drawn truth in the teacher's place. A fixture for tests and the ceiling row of every table.

Nothing is painted, so all that it makes is labelled `config.ORACLE`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bottega.data.pictures import load_square
from bottega.data.records import truth_path
from bottega.runtime.errors import MissingError
from bottega.teacher.items import Item, Made, Settings
from bottega.visual.pictures import FloatPicture, Picture


class Oracle:
    """A teacher that reads `{truth}/{pair_id}_seed{k}.png`, k = 0, 1, …

    A fresh draw of noise is the next seed that was drawn for the pair, after the last again the first.

    Args:
        truth: the folder of drawn truths.
        size: side of the pictures, pixels.
    """

    def __init__(self, truth: Path, size: int) -> None:
        self._truth, self._size = truth, size

    def generate(self, items: Sequence[Item]) -> list[FloatPicture]:
        """The truth of each item, float32 [H, W, 3] in 0..1.

        Raises:
            MissingError: a truth was not drawn.
        """
        return [self._one(item) for item in items]

    def encode(self, items: Sequence[Item]) -> None:
        """Do nothing: truths are read."""

    def denoise(self, items: Sequence[Item], batch: int) -> list[None]:
        """Do nothing; `finish` reads."""
        return [None] * len(items)

    def finish(self, items: Sequence[Item], latents: Sequence[None]) -> list[Made]:
        """The truths, see `generate`."""
        return [Made(picture) for picture in self.generate(items)]

    def round_trip(self, item: Item) -> Picture | None:
        """None: nothing was encoded."""
        return None

    def parameters(self, settings: Settings) -> Mapping[str, object]:
        """That a truth was returned, and which: of a protocol nothing was run."""
        return {"source": "oracle", "noise": settings.noise}

    def _one(self, item: Item) -> FloatPicture:
        drawn: list[Path] = []
        for k in itertools.count():
            path = truth_path(self._truth, item.pair_id, k)
            if not path.is_file():
                break
            drawn.append(path)
        if item.seed >= len(drawn):
            raise MissingError(
                f"the oracle needs a drawn truth for each pair and seed, {item.pair_id}_seed{item.seed}.png is not in "
                f"{self._truth.name}/; draw the truths first (truth.calibration_pairs, truth.train_seeds)"
            )
        chosen = drawn[(item.seed + item.noise_index) % len(drawn)]
        return load_square(chosen, self._size).astype(np.float32) / np.float32(255)
