"""`bottega qc faults`: known damage put into the good pictures of a data set or a run, and what is found of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from bottega.quality.config import Thresholds
from bottega.quality.faults import Subject, Tallies, count_faults
from bottega.quality.measure import ImageEncoder
from bottega.runtime.errors import RequestError

Files = tuple[Path, Path, Path]  # good picture, content, style


def truths(files: Iterable[Path], data_root: Path) -> Iterator[Files]:
    """Files of the pairs that have a drawn truth `truth/{pair_id}_seed0.png`."""
    from bottega.data.records import read_pairs

    for file in files:
        for pair in read_pairs(file):
            truth = data_root / "truth" / f"{pair.pair_id}_seed0.png"
            if truth.is_file():
                yield truth, data_root / pair.content_path, data_root / pair.style_path


def run(
    files: Iterable[Files],
    limits: Thresholds,
    *,
    encoder: ImageEncoder | None,
    size: int,
    count: int,
) -> Tallies:
    """Judge up to `count` good pictures as they are and with every fault at every severity.

    Args:
        files: good pictures with their content and style; the other scene of each is the next good picture that has
            another content, of the last the first.
        size: side at which all are judged, pixels.

    Raises:
        RequestError: fewer than two good pictures of different contents.
        PictureError: a picture cannot be read.
    """
    chosen = list(islice(files, count))
    if len({content for _, content, _ in chosen}) < 2:
        raise RequestError(
            f"faults need good pictures of two contents or more, received {len(chosen)} pictures; give pairs that have "
            "drawn truths, or a run with accepted targets (--teacher-dir)"
        )
    return count_faults(_subjects(chosen, size), limits, encoder=encoder)


def _subjects(chosen: list[Files], size: int) -> Iterator[Subject]:
    from bottega.data.pictures import load_square

    for i, (good, content, style) in enumerate(chosen):
        following = (chosen[(i + step) % len(chosen)] for step in range(1, len(chosen)))
        other = next(files[0] for files in following if files[1] != content)
        one, two, three, four = (load_square(path, size) for path in (good, content, style, other))
        yield Subject(one, two, three, four)
