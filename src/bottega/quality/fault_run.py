"""`bottega qc faults`: put known damage into the good pictures of a data set or a run, and count what is found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from bottega.quality.config import Thresholds
from bottega.quality.damage import Subject
from bottega.quality.faults import Tallies, count_faults
from bottega.quality.measuring import ImageEncoder
from bottega.runtime.errors import RequestError

Files = tuple[Path, Path, Path]  # good picture, content, style


def truths(files: Iterable[Path], data_root: Path) -> Iterator[Files]:
    """Files of the pairs that have a drawn truth `truth/{pair_id}_seed0.png`."""
    from bottega.data.records import read_pairs, truth_path
    from bottega.data.roots import picture_file

    for file in files:
        for pair in read_pairs(file):
            truth = truth_path(data_root / "truth", pair.pair_id)
            if truth.is_file():
                where = f"{file}, pair {pair.pair_id}: a path"
                content = picture_file(data_root, pair.content_path, where)
                yield truth, content, picture_file(data_root, pair.style_path, where)


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
        files: good pictures with their content and style. The other scene of each is the next good picture of another
            content, counted around the end.
        limits: by which they are graded.
        encoder: CLIP's; None leaves the similarities out.
        size: side at which all are judged, pixels.
        count: how many at most.

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
        following = chosen[i + 1 :] + chosen[:i]
        other = next(picture for picture, other_content, _ in following if other_content != content)
        yield Subject(
            good=load_square(good, size),
            content=load_square(content, size),
            style=load_square(style, size),
            other=load_square(other, size),
        )
