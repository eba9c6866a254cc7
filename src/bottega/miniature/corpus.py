"""The pictures that the miniature's models are trained on, drawn once into memory-mapped arrays.

Scenes and painters are numbered; the ranges below never meet, so what a model is judged on was never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bottega.miniature.painters import painter, render
from bottega.miniature.scenes import label_map, scene
from bottega.runtime.files import atomic_path

Pictures = npt.NDArray[np.uint8]  # [N, 128, 128, 3]

TRAIN_PAINTERS = 480  # painters 0..479 and scenes from 0 up: for training the models
GATE_SCENES, GATE_PAINTERS = 1_000_000, 1_000  # from here up: for the gates
WORLD_SCENES, WORLD_PAINTERS = 2_000_000, 2_000  # from here up: for the data sets of a run


@dataclass(frozen=True)
class Corpus:
    """`plain[i]` is scene `first_scene + i`, `painted[i]` is it by `painter_of(i)`, `labels[i]` its label map."""

    plain: Pictures
    painted: Pictures
    labels: npt.NDArray[np.uint8]  # [N, 128, 128]
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
        count = (len(self) - 1 - i % self.painters) // self.painters + 1
        place = i // self.painters
        return i % self.painters + self.painters * ((place + 1 + draw % max(1, count - 1)) % count)


def _draw(job: tuple[int, int]) -> tuple[Pictures, Pictures, npt.NDArray[np.uint8]]:
    view = scene(job[0])
    return render(view, None), render(view, painter(job[1])), label_map(view)


def draw_corpus(
    folder: Path,
    size: int,
    first_scene: int = 0,
    first_painter: int = 0,
    painters: int = TRAIN_PAINTERS,
    workers: int = 2,
) -> Corpus:
    """Draw `size` rows into `folder` (once; 113 kB a row) and map them into memory."""
    names = {"plain": (128, 128, 3), "painted": (128, 128, 3), "labels": (128, 128)}
    paths = {n: folder / f"{n}_{first_scene}_{first_painter}_{painters}_{size}.npy" for n in names}
    if not all(p.exists() for p in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        jobs = [(first_scene + i, first_painter + i % painters) for i in range(size)]
        arrays = {n: np.empty((size, *shape), np.uint8) for n, shape in names.items()}
        for i, drawn in enumerate(_drawn(jobs, workers)):
            for n, picture in zip(names, drawn, strict=True):
                arrays[n][i] = picture
        for n, path in paths.items():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, arrays[n])
    loaded = {n: np.load(p, mmap_mode="r") for n, p in paths.items()}
    return Corpus(loaded["plain"], loaded["painted"], loaded["labels"], first_scene, first_painter, painters)


def _drawn(jobs: Sequence[tuple[int, int]], workers: int):  # type: ignore[no-untyped-def]
    if workers <= 1:
        yield from map(_draw, jobs)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_draw, jobs, chunksize=32)
