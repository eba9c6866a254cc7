"""Taking pictures in: look at each in threads, decide in source order, remember in the index as it goes."""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottega.data.config import LimitsConfig
from bottega.data.index import Index, Look, Measure, Row, look_at
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import atomic_path
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress

COMMIT_EVERY = 64
REJECTS_HEADER = ("source", "reason", "detail")


@dataclass(frozen=True)
class Item:
    """One picture of a source. `content` is its file or its bytes; `source` orders it and names it in rejects.csv."""

    source: str
    stamp: str
    content: Path | bytes
    extra: Mapping[str, Any] = field(default_factory=dict)


Decide = Callable[[Item, Look], Row]


def take_in(
    index: Index,
    items: Iterable[Item],
    decide: Decide,
    *,
    limits: LimitsConfig,
    progress: Progress,
    done: Callable[[Row], bool] = lambda row: True,
    measure: Measure | None = None,
) -> None:
    """Bring the index up to date with `items`, which are read as a stream.

    An item whose stamp has not changed is not looked at again, if `done` also finds the outputs of its row in place.
    `decide` is called in the order of the items, in this thread: it gives ids and writes files.
    Interrupted or killed, it goes on where it stopped when called again.
    """
    fresh = _only_fresh(index, items, limits, progress, done)
    rejected = 0
    with Interruption() as interruption:
        for number, (item, look) in enumerate(_look_ahead(fresh, limits, measure), start=1):
            row = decide(item, look)
            index.put(row)
            rejected += not row.usable
            progress.update(1, rejected=rejected)
            if number % COMMIT_EVERY == 0 or interruption.requested:
                index.commit()
                interruption.check()
    index.commit()


def _only_fresh(
    index: Index, items: Iterable[Item], limits: LimitsConfig, progress: Progress, done: Callable[[Row], bool]
) -> Iterator[Item]:
    for item in items:
        index.mark_present(item.source)
        stamp = stamp_of(item.stamp, limits)
        known = index.get(item.source)
        if known is not None and known.stamp == stamp and done(known):
            progress.update(1)
        else:
            yield Item(item.source, stamp, item.content, item.extra)


def require_source(pictures: Iterable[Path | bytes], source: Path) -> None:
    """Refuse to begin where not one picture of a source is there: an absent source says nothing of what was prepared.

    Without this, a source that was moved away or whose disk is not mounted would empty what an earlier run prepared.

    Args:
        pictures: those of the source; read up to the first that is there.
        source: what to name in the message.

    Raises:
        MissingError: none is there.
    """
    if not any(isinstance(picture, bytes) or picture.is_file() for picture in pictures):
        raise MissingError(
            f"there is no picture in {source}; put them back, or name another source. What was prepared before is kept"
        )


def require_usable(index: Index, directory: Path, what: str) -> None:
    """Refuse to write tables that list nothing; `rejects.csv` says why, the tables of an earlier run stay.

    Raises:
        RequestError: no row of the index is usable.
    """
    if not index.has_usable():
        write_rejects(directory / "rejects.csv", index)
        raise RequestError(f"no usable picture among the {what}; see rejects.csv in {directory} for each reason")


def stamp_of(stamp: str, limits: LimitsConfig) -> str:
    """A row's stamp: other limits, another verdict."""
    return f"{stamp}|{limits.min_side}|{limits.max_pixels}"


def _look_ahead(items: Iterable[Item], limits: LimitsConfig, measure: Measure | None) -> Iterator[tuple[Item, Look]]:
    """Each item with its look, in order, a few items ahead; decoding releases Python's lock, so threads do it."""
    look = functools.partial(look_at, min_side=limits.min_side, max_pixels=limits.max_pixels, measure=measure)
    workers = limits.workers or min(8, os.cpu_count() or 1)
    waiting: deque[tuple[Item, Future[Look]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append((item, pool.submit(look, item.content)))
            if len(waiting) > 2 * workers:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)


def _finished(waiting: deque[tuple[Item, Future[Look]]]) -> tuple[Item, Look]:
    item, future = waiting.popleft()
    return item, future.result()


def write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> int:
    """Write a CSV file whole or not at all; returns the number of rows."""
    import csv

    count = 0
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def write_rejects(path: Path, index: Index) -> int:
    """Write `rejects.csv` (source, reason, detail) from the rows that are not usable."""
    bad = (row for row in index.rows() if not row.usable)
    return write_csv(path, REJECTS_HEADER, ((row.source, row.look.reason, row.look.detail) for row in bad))
