"""Taking pictures in: inspect each in threads, decide in source order, remember in the index as it goes."""

from __future__ import annotations

import csv
import functools
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bottega.data.config import LimitsConfig
from bottega.data.folders import FolderListing
from bottega.data.index import Index, Inspection, Measure, PictureRow, inspect_picture
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.escape import csv_cell, escaped
from bottega.runtime.files import atomic_path
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress

LOGGER = logging.getLogger(__name__)
COMMIT_EVERY = 64
"""Pictures after which the index is made durable: about a second of work is done again after a kill."""

REJECTS_HEADER = ("source", "reason", "detail")


@dataclass(frozen=True)
class SourcePicture:
    """One picture of a source. `content` is its file or its bytes; `source` orders it and names it in rejects.csv."""

    source: str
    stamp: str
    content: Path | bytes
    extra: Mapping[str, Any] = field(default_factory=dict)


Decide = Callable[[SourcePicture, Inspection], PictureRow]
"""Gives an inspected picture its id and its files."""

Waiting = deque[tuple[SourcePicture, Future[Inspection]]]


def update_index(
    index: Index,
    pictures: Iterable[SourcePicture],
    decide: Decide,
    *,
    limits: LimitsConfig,
    progress: Progress,
    has_outputs: Callable[[PictureRow], bool] = lambda row: True,
    measure: Measure | None = None,
) -> None:
    """Update the index to the pictures of a source, which are read as a stream.

    Interrupted or killed, it continues where it stopped when called again.

    Args:
        index: what is known already.
        pictures: of the source, in its order.
        decide: called in the order of the pictures, in this thread, for it gives ids and writes files.
        limits: which pictures are usable, and how many are decoded at once.
        progress: counts every picture.
        has_outputs: whether the outputs of a known row are in place. A picture whose stamp has not changed is then not
            inspected again.
        measure: further statistics to take of each decoded picture.
    """
    fresh = _only_fresh(index, pictures, limits, progress, has_outputs)
    rejected = 0
    with Interruption() as interruption:
        for number, (picture, inspection) in enumerate(_inspect_ahead(fresh, limits, measure), start=1):
            row = decide(picture, inspection)
            index.put(row)
            if not row.usable:
                rejected += 1
            progress.update(1, rejected=rejected)
            if number % COMMIT_EVERY == 0 or interruption.requested:
                # In this order: what was inspected is kept before a request to stop ends the run.
                index.commit()
                interruption.check()
    index.commit()


def _only_fresh(
    index: Index,
    pictures: Iterable[SourcePicture],
    limits: LimitsConfig,
    progress: Progress,
    has_outputs: Callable[[PictureRow], bool],
) -> Iterator[SourcePicture]:
    for picture in pictures:
        index.mark_present(picture.source)
        stamp = limits_stamp(picture.stamp, limits)
        known = index.get(picture.source)
        if known is not None and known.stamp == stamp and has_outputs(known):
            progress.update(1)
        else:
            yield replace(picture, stamp=stamp)


@dataclass(frozen=True)
class Twins:
    """The rows of other sources whose files have the same bytes as a picture, in source order.

    Attributes:
        there: those whose source still exists.
        moved: those whose source is gone: the picture was renamed or moved, so it is the same one, and keeps its id.
    """

    there: list[PictureRow]
    moved: list[PictureRow]


def find_twins(index: Index, source: str, sha256: str) -> Twins:
    """The twins of a picture. All sources that exist must have been marked present before (`Index.mark_present`)."""
    # Were those that are gone taken for duplicates' originals, a renamed file would be rejected as a copy of itself.
    there, moved = [], []
    for row in index.same_bytes(sha256):
        if row.source == source:
            continue
        if index.is_present(row.source):
            there.append(row)
        else:
            moved.append(row)
    return Twins(there, moved)


def require_source(pictures: Iterable[Path | bytes], source: Path) -> None:
    """Refuse to begin where not one picture of a source is there: an absent source says nothing of what was prepared.

    Args:
        pictures: those of the source; read up to the first that is there.
        source: what to name in the message.

    Raises:
        MissingError: none is there.
    """
    # Without this, a source that was moved away or whose disk is not mounted would empty what an earlier run prepared.
    if not any(isinstance(picture, bytes) or picture.is_file() for picture in pictures):
        raise MissingError(
            f"there is no picture in {source}; put them back, or name another source. What was prepared before is kept"
        )


def require_usable(index: Index, directory: Path, what: str, advice: str = "") -> None:
    """Refuse to write tables that list nothing; `rejects.csv` says why, the tables of an earlier run stay.

    Args:
        index: of all pictures.
        directory: where `rejects.csv` goes.
        what: the pictures are to be.
        advice: what else may help, for the end of the message.

    Raises:
        RequestError: no row of the index is usable.
    """
    if index.has_usable():
        return
    write_rejects(directory / "rejects.csv", index)
    reasons = Counter((row.inspection.reason, row.inspection.detail) for row in index.rows())
    message = f"no usable picture among the {what}; see rejects.csv in {directory} for each reason"
    if reasons:
        (reason, detail), count = reasons.most_common(1)[0]
        message += f"; most often ({count}): {reason}, {detail.removeprefix(f'{reason}: ')}"
    raise RequestError(f"{message}. {advice}" if advice else message)


def tell_astray(listing: FolderListing, folder: Path) -> None:
    """Warn of links that lead nowhere: what is behind them is not read."""
    if listing.astray:
        LOGGER.warning(
            "%s: %d links lead nowhere or back to a folder above them: %s",
            folder,
            len(listing.astray),
            name_some(listing.astray),
        )


def name_some(names: Sequence[str], limit: int = 3) -> str:
    """The first names of a list in a message: `a, b, c and 4 more`."""
    text = ", ".join(map(escaped, names[:limit]))
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"


def limits_stamp(stamp: str, limits: LimitsConfig) -> str:
    """A picture's stamp together with the limits."""
    # Under other limits a picture must be judged again.
    return f"{stamp}|{limits.min_side}|{limits.max_pixels}"


def _inspect_ahead(
    pictures: Iterable[SourcePicture], limits: LimitsConfig, measure: Measure | None
) -> Iterator[tuple[SourcePicture, Inspection]]:
    """Each picture with its inspection, in order, a few pictures ahead."""
    # In threads, for decoding releases Python's lock; only a few ahead, for each may hold the bytes of a large picture.
    inspect = functools.partial(
        inspect_picture, min_side=limits.min_side, max_pixels=limits.max_pixels, measure=measure
    )
    workers = limits.workers or min(8, os.cpu_count() or 1)
    waiting: Waiting = deque()
    with ThreadPoolExecutor(workers) as pool:
        for picture in pictures:
            waiting.append((picture, pool.submit(_inspected, picture, inspect)))
            if len(waiting) > 2 * workers:
                yield _first_finished(waiting)
        while waiting:
            yield _first_finished(waiting)


def _inspected(picture: SourcePicture, inspect: Callable[[Path | bytes], Inspection]) -> Inspection:
    """What inspecting a picture finds; nothing of it is read where no table could hold its name."""
    try:
        picture.source.encode()
    except UnicodeEncodeError:
        return Inspection(reason="name", detail="the file's name, or its folder's, is not UTF-8; rename it")
    return inspect(picture.content)


def _first_finished(waiting: Waiting) -> tuple[SourcePicture, Inspection]:
    picture, future = waiting.popleft()
    return picture, future.result()


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> int:
    """Write a CSV file whole or not at all; returns the number of rows."""
    count = 0
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(map(csv_cell, row))
            count += 1
    return count


def write_rejects(path: Path, index: Index) -> int:
    """Write `rejects.csv` (source, reason, detail) from the rows that are not usable."""

    def rejected() -> Iterator[tuple[str, str, str]]:
        for row in index.rows():
            if not row.usable:
                yield row.source, row.inspection.reason, row.inspection.detail

    return write_csv(path, REJECTS_HEADER, rejected())
