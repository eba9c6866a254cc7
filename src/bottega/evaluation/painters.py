"""The methods that draw, behind one small face: pairs and their pictures in, pictures out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from bottega.evaluation.colour import Picture
from bottega.evaluation.grid import Pair

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Sources = Sequence[tuple[Picture, Picture]]
"""Content and style of each pair, uint8 squares of the painter's size."""


class Painter(Protocol):
    """A method that draws pictures of `size` pixels a side."""

    size: int

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[npt.NDArray[np.float32]]:
        """A picture of each pair, float32 [H, W, 3] in 0..1, NaN where it failed."""


def load_painter(row: str, settings: Mapping[str, Any]) -> Painter:
    """The painter of a row, with its models loaded.

    Args:
        row: "student", "base" or "teacher".
        settings: JSON: `models`, and `teacher` with `truth`, or `student` with `adapter`.

    Raises:
        MissingError: weights are not on this machine.
    """
    return _Teacher(settings) if row == "teacher" else _Student(settings, with_adapter=row == "student")


class _Teacher:
    """The teacher at its protocol, one try a picture: no retries, for a retry would be chosen by the judge."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from bottega.models.config import ModelsConfig
        from bottega.teacher.config import TeacherConfig
        from bottega.teacher.generator import load_generator
        from bottega.teacher.oracle import Oracle

        config = TeacherConfig.model_validate(settings["teacher"])
        self.size = config.size
        self._generator: Any
        if config.source == "oracle":
            self._generator = Oracle(Path(settings["truth"]), config.size)
        else:
            self._generator = load_generator(ModelsConfig.model_validate(settings["models"]), config)

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[npt.NDArray[np.float32]]:
        from bottega.teacher.items import Item

        items = [
            Item(
                pair_id=str(pair["pair_id"]),
                content_id=str(pair["content_id"]),
                style_id=str(pair["style_id"]),
                prompt=str(pair["prompt"]),
                seed=seed,
                content=content,
                style=style,
            )
            for pair, (content, style) in zip(pairs, sources, strict=True)
        ]
        drawn: Sequence[npt.NDArray[np.float32]] = self._generator.generate(items)
        return drawn


class _Student:
    """PixArt with the adapter, or without it: everything else the same, to the noise."""

    def __init__(self, settings: Mapping[str, Any], *, with_adapter: bool) -> None:
        raise NotImplementedError  # filled in below once generation's face is settled

    size: int

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[npt.NDArray[np.float32]]:
        raise NotImplementedError
