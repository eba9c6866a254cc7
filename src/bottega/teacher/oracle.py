"""The oracle teacher: returns the drawn truth. A fixture for tests and the ceiling row of every table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bottega.data.pictures import load_square
from bottega.runtime.errors import MissingError
from bottega.teacher.items import FloatPicture, Item, Picture, Settings


class Oracle:
    """A teacher that reads `{truth}/{pair_id}_seed{k}.png`; a fresh draw of noise is the next of the drawn seeds.

    Args:
        truth: the folder of drawn truths.
        size: side of the pictures, pixels.
        draws: how many seeds were drawn for each pair.
    """

    def __init__(self, truth: Path, size: int, draws: int = 8) -> None:
        self._truth, self._size, self._draws = truth, size, draws

    def generate(self, items: Sequence[Item]) -> list[FloatPicture]:
        """The truth of each item, float32 [H, W, 3] in 0..1.

        Raises:
            MissingError: a truth was not drawn.
        """
        return [self._one(item) for item in items]

    def round_trip(self, item: Item) -> Picture | None:
        """None: nothing was encoded."""
        return None

    def effective(self, settings: Settings) -> dict[str, Any]:
        """No schedule was run."""
        return {"unet_calls": 0}

    def _one(self, item: Item) -> FloatPicture:
        # Retries step by 3 so that they do not repeat what seeds 0, 1 and 2 of the pair have used.
        path = self._truth / f"{item.pair_id}_seed{(item.seed + 3 * item.noise_index) % self._draws}.png"
        if not path.is_file():
            raise MissingError(
                f"the oracle needs a drawn truth for each pair, {path.name} is not in {path.parent.name}/; draw "
                "the truths first"
            )
        return load_square(path, self._size).astype(np.float32) / np.float32(255)
