"""Draw and measure pictures to learn from, in shards: 000000.npz and so on, examples of SHARD triples each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2

from bottega.quality.eye.training.examples import EyeExample, Source, examples, made_up
from bottega.quality.eye.training.store import ExampleStore
from bottega.runtime.children import worker_pool
from bottega.runtime.progress import Progress

SHARD = 100
"""Triples of a shard: about a minute of one core."""

SIDES = (256, 512, 256, 512, 128)
"""Of the pictures, by turns, pixels."""


@dataclass(frozen=True)
class _ShardJob:
    path: Path
    first: int
    source: Source


def make_shards(folder: Path, triples: int, *, source: Source = made_up, processes: int = 1) -> list[Path]:
    """Draw and measure what is missing of so many triples.

    Args:
        folder: of the shards.
        triples: rounded up to whole shards.
        source: of good pictures; a function of a module, for other processes call it.
        processes: that draw.

    Returns:
        All shards, in their order.
    """
    count = -(-triples // SHARD)
    paths = [folder / f"{number:06d}.npz" for number in range(count)]
    jobs = [_ShardJob(path, SHARD * number, source) for number, path in enumerate(paths) if not path.is_file()]
    done = len(paths) - len(jobs)
    pool = worker_pool(processes)
    with pool, Progress(len(paths), "eye: drawing", "shards", done=done) as progress:
        for _ in pool.map(_make_shard, jobs):
            progress.update()
    return paths


def _make_shard(job: _ShardJob) -> None:
    cv2.setNumThreads(1)  # the processes share the cores
    ExampleStore.collect(shard_examples(job.first, SHARD, job.source)).save(job.path)


def shard_examples(first: int, count: int, source: Source) -> Iterator[EyeExample]:
    """The examples of some triples, from number `first` on."""
    for index in range(first, first + count):
        yield from examples(index, SIDES[index % len(SIDES)], source)


def read_shards(paths: list[Path]) -> ExampleStore:
    """All shards as one store."""
    return ExampleStore.joined([ExampleStore.load(path) for path in paths])
