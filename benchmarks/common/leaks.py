"""Two ways in which a picture can hold what it should not, measured on the drawn world, where both are known.

    scene leak      area read as things that the style picture shows and the content does not
    content copied  how far the picture's colours lie back from the drawn truth (0) towards the content (1)

Legend: N pictures, S pixels a side, K classes of the scene reader.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from bottega.data.records import Pair

Picture = npt.NDArray[np.uint8]
COARSE = 16  # pixels a side, at which colours are compared: strokes are gone, areas are not


def shown(name: str, classes: Sequence[str]) -> set[int]:
    """The reader's classes that a painting of the world shows, from its id `painter-2003-1`."""
    from bottega.miniature.datasets import painting_scene
    from bottega.miniature.ranges import WORLD_PAINTERS

    _, by, number = name.rsplit("-", 2)
    return {classes.index(thing.shape) for thing in painting_scene(int(by) - WORLD_PAINTERS, int(number)).objects}


def area(read: npt.NDArray[np.uint8], classes: set[int]) -> float:
    """Percent of the picture, [S, S] of class numbers, that is read as one of these classes."""
    return 100.0 * float(np.isin(read, sorted(classes)).mean())


def copied(picture: Picture, truth: Picture, content: Picture) -> tuple[float, float]:
    """⟨x - z, w⟩ and ⟨w, w⟩ with w = content - truth, in CIE L*a*b* at 16 pixels a side."""
    x, z, c = (_coarse(one) for one in (picture, truth, content))
    way = c - z
    return float(((x - z) * way).sum()), float((way * way).sum())


def _coarse(picture: Picture) -> npt.NDArray[np.float32]:
    small = cv2.resize(picture.astype(np.float32) / 255, (COARSE, COARSE), interpolation=cv2.INTER_AREA)
    lab: npt.NDArray[np.float32] = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
    return lab


def leaks(
    pairs: Sequence[Pair], pictures: Path, data_root: Path, reader: Any, size: int
) -> dict[str, dict[str, float]]:
    """{"scene_leak": {pair_id: percent of the area}, "copied": {pair_id: share}} of the pictures {pair_id}.png.

    scene_leak is the area read as classes that only the style picture shows, less the mean of the same area in the
    pictures of the same content whose styles show none of them: what is misread anyway. copied is ⟨x - z, w⟩ over the
    pairs' mean ⟨w, w⟩, so that its mean is the ratio of the sums: pairs in which content and truth hardly differ do not
    decide it.
    """
    from bottega.data.pictures import load_square
    from bottega.evaluation.sources import Sources

    sources = Sources(data_root, size, truths=1)
    classes = [str(label) for label in reader.labels]
    images = {p.pair_id: load_square(pictures / f"{p.pair_id}.png", size) for p in pairs}
    reads = dict(zip(images, _segmented(reader, list(images.values())), strict=True))
    found: dict[str, dict[str, float]] = {"scene_leak": {}, "copied": {}}
    ways: list[float] = []
    for pair in pairs:
        name = pair.pair_id
        own = shown(pair.style_id, classes)
        labels = sources.labels(pair)
        there = set() if labels is None else {classes.index(sources.classes[k]) for k in np.unique(labels) if k}
        only = own - there
        others = [q for q in pairs if q.content_id == pair.content_id and q.pair_id != name]
        controls = [q for q in others if not only & shown(q.style_id, classes)]
        if only and controls:
            control = np.mean([area(reads[q.pair_id], only) for q in controls])
            found["scene_leak"][name] = area(reads[name], only) - float(control)
        back, way = copied(images[name], sources.truths(pair)[0], sources.content(pair))
        found["copied"][name] = back
        ways.append(way)
    found["copied"] = {name: back / float(np.mean(ways)) for name, back in found["copied"].items()}
    return found


def _segmented(reader: Any, pictures: Sequence[Picture]) -> list[npt.NDArray[np.uint8]]:
    read: list[npt.NDArray[np.uint8]] = []
    for start in range(0, len(pictures), 32):
        read += list(reader.segment(np.stack(pictures[start : start + 32])))
    return read
