"""Judging one picture on disk, without CLIP: what a worker process does.

A worker imports this module only, not the configuration or the grades, so that it starts quickly.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from cachetools import LRUCache

from bottega.quality.eye.look import shipped_eye
from bottega.quality.measuring import Reference, Scores, compare, reference
from bottega.runtime.caching import get_or_compute
from bottega.runtime.errors import PictureError, RequestError
from bottega.visual.pictures import Picture

_KEPT_BYTES = 256_000_000  # of decoded contents and styles a worker

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Job:
    """One picture to judge. `name` is what its row is called; the paths are opened as they stand."""

    name: str
    picture: str
    content: str
    style: str


@dataclass(frozen=True)
class Judged:
    """What a worker found: scores, or in `reason` why there are none; the pixels only where CLIP needs them."""

    scores: Scores
    reason: str = ""
    picture: Picture | None = None


class Scorer:
    """Scores jobs, without CLIP, and keeps what it computed of contents and styles.

    Args:
        kept_bytes: of decoded contents and styles; those unused for longest are dropped first.
        with_eye: look with the learned eye too.
    """

    def __init__(self, kept_bytes: int = _KEPT_BYTES, *, with_eye: bool = True) -> None:
        self._with_eye = with_eye
        self._kept: LRUCache[tuple[str, Size], Reference] = LRUCache(
            kept_bytes,
            getsizeof=lambda reference: 2 * reference.picture.nbytes,  # with what the eye keeps of it
        )

    def judge(self, job: Job, *, with_picture: bool = False) -> Judged:
        """Scores of one picture against its content and style, both resized to the picture's size."""
        from bottega.data.pictures import open_picture

        try:
            picture = np.asarray(open_picture(Path(job.picture)), np.uint8)
            size = (picture.shape[1], picture.shape[0])
            own = reference(picture)
            content = self._reference(job.content, size)
            style = self._reference(job.style, size)
            # Asked for here, not before: this module is imported by commands that judge nothing.
            scores = compare(own, content, style, eye=shipped_eye() if self._with_eye else None)
        except (PictureError, RequestError) as error:  # RequestError: a side under 16 px
            return Judged({}, " ".join(str(error).split()))
        return Judged(scores, picture=picture if with_picture else None)

    def _reference(self, path: str, size: Size) -> Reference:
        return get_or_compute(self._kept, (path, size), lambda: reference(fitted(path, size)))


def fitted(path: str, size: Size) -> Picture:
    """A picture scaled to cover `size` (width, height) and cut to it around the centre, uint8 [H, W, 3].

    For a square it is `bottega.data.pictures.load_square`, as the teacher loads contents and styles.

    Raises:
        PictureError: it cannot be read.
    """
    from PIL import Image, ImageOps

    from bottega.data.pictures import load_square, open_picture

    if size[0] == size[1]:
        return load_square(Path(path), size[0])
    picture = open_picture(Path(path))
    if picture.size != size:
        picture = ImageOps.fit(picture, size, Image.Resampling.LANCZOS)
    return np.asarray(picture, np.uint8)


# --- in a worker process ---------------------------------------------------------------------------------------------

_scorer = Scorer()  # of a worker process


def begin_worker() -> None:
    """Set a worker process up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process decides
    cv2.setNumThreads(1)


def judge_chunk(jobs: list[Job], with_picture: bool) -> list[Judged]:
    """Judge in a worker process, which keeps contents and styles from call to call."""
    return [_scorer.judge(job, with_picture=with_picture) for job in jobs]
