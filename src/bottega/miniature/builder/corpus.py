"""The pictures that the short trainings read, drawn once into memory-mapped arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bottega.miniature.painters import painter, render
from bottega.miniature.ranges import TRAIN_PAINTERS
from bottega.miniature.scenes import label_map, scene
from bottega.runtime.children import worker_pool
from bottega.runtime.files import atomic_path
from bottega.visual.pictures import Picture, Pictures

_SIDE = 128
_SHAPES = {"plain": (_SIDE, _SIDE, 3), "painted": (_SIDE, _SIDE, 3), "labels": (_SIDE, _SIDE)}  # of one row


@dataclass(frozen=True)
class Corpus:
    """`plain[i]` is scene `first_scene + i`, `painted[i]` is it by `painter_of(i)`, `labels[i]` its label map."""

    plain: Pictures  # [N, 128, 128, 3]
    painted: Pictures
    labels: Pictures  # [N, 128, 128]
    first_scene: int
    first_painter: int
    painters: int

    def __len__(self) -> int:
        return len(self.plain)

    def scene_of(self, i: int) -> int:
        """Index of the scene shown in row i."""
        return self.first_scene + i

    def painter_of(self, i: int) -> int:
        """Index of the painter of row i; painters take turns."""
        return self.first_painter + i % self.painters

    def sibling(self, i: int, draw: int) -> int:
        """Another row by the painter of row i, number `draw` of them (taken modulo their count)."""
        turn = i // self.painters
        turns = (len(self) - 1 - i % self.painters) // self.painters + 1
        other = (turn + 1 + draw % max(1, turns - 1)) % turns
        return i % self.painters + self.painters * other


class _Row(NamedTuple):
    plain: Picture
    painted: Picture
    labels: Picture


def draw_corpus(
    folder: Path,
    size: int,
    first_scene: int = 0,
    first_painter: int = 0,
    painters: int = TRAIN_PAINTERS,
    workers: int = 2,
) -> Corpus:
    """Draw `size` rows into `folder` (once; 113 kB a row) and map them into memory."""
    name = f"{first_scene}_{first_painter}_{painters}_{size}.npy"
    paths = {part: folder / f"{part}_{name}" for part in _SHAPES}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {part: np.empty((size, *shape), np.uint8) for part, shape in _SHAPES.items()}
        jobs = [(first_scene + i, first_painter + i % painters) for i in range(size)]
        for i, row in enumerate(_drawn(jobs, workers)):
            arrays["plain"][i], arrays["painted"][i], arrays["labels"][i] = row
        for part, path in paths.items():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, arrays[part])
    loaded = {part: np.load(path, mmap_mode="r") for part, path in paths.items()}
    return Corpus(loaded["plain"], loaded["painted"], loaded["labels"], first_scene, first_painter, painters)


def _drawn(jobs: Sequence[tuple[int, int]], workers: int) -> Iterator[_Row]:
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    with worker_pool(workers, forked=True) as pool:
        yield from pool.map(_draw, jobs, chunksize=32)


def _draw(job: tuple[int, int]) -> _Row:
    scene_index, painter_index = job
    view = scene(scene_index)
    return _Row(render(view, None), render(view, painter(painter_index)), label_map(view))
