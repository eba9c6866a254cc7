"""What is to be made, and what has become of it: the work list in chunks, their targets, and the tries of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from bottega.data.records import Pair, read_pairs
from bottega.quality.grading import Grade
from bottega.quality.measuring import Scores
from bottega.runtime.files import count_lines
from bottega.teacher.items import Facts, Item, Settings, target_name
from bottega.teacher.ledger import TryRow
from bottega.visual.pictures import Picture


@dataclass(frozen=True)
class PairLists:
    """Pair lists, read as streams: a list of 200 000 pairs is never held whole.

    Args:
        files: JSON lines, worked through in this order.
        limit: only the first so many pairs of each.
    """

    files: Sequence[Path]
    limit: int | None = None

    def openers(self) -> list[Callable[[], Iterator[Pair]]]:
        """A function for each list that opens it from its beginning."""
        return [partial(read_pairs, file, self.limit) for file in self.files]

    def ids(self) -> frozenset[str]:
        """All pair ids, those beyond the limit too."""
        found: set[str] = set()
        for file in self.files:
            found.update(pair.pair_id for pair in read_pairs(file))
        return frozenset(found)

    def count(self) -> int:
        """Pairs of all lists, by their lines."""
        most = self.limit or sys.maxsize
        return sum(min(count_lines(file), most) for file in self.files)


class WorkItem(NamedTuple):
    """One target to make."""

    pair: Pair
    seed: int
    target: str


class NextTry(NamedTuple):
    """The next try of a target: the name of its rung on the ladder, and the settings."""

    rung: str
    settings: Settings


@dataclass
class Try:
    """One try of a target, graded. `picture` is None where none came out."""

    settings: Settings
    rung: str
    picture: Picture | None
    scores: Scores
    grade: Grade
    noise_seed: int
    seconds: float
    facts: Facts

    @property
    def rank(self) -> tuple[bool, str, int]:
        """Sorts the better try first: a picture, the better grade, fewer reasons."""
        return (self.picture is None, self.grade.letter, len(self.grade.reasons))


@dataclass
class PendingTarget:
    """A target of a chunk in hand: its work, the hashes of its inputs, and what was tried.

    Args:
        stale: files of its rows so far, which become history.
        known: whether it has rows in the ledger.
        item: what the teacher is asked for, once the pictures are read.
        broken: why content or style can't be read; then there is no item.
        plan: the next try; None where nothing is left to try.
        batch: how many went through the U-Net at once in the last try.
    """

    work: WorkItem
    content_sha256: str
    style_sha256: str
    stale: list[str] = field(default_factory=list)
    known: bool = False
    item: Item | None = None
    broken: str = ""
    plan: NextTry | None = None
    batch: int = 1
    tries: list[Try] = field(default_factory=list)

    @property
    def best(self) -> int:
        """Index of the best try: best grade, then fewest reasons, then the earliest."""
        # `min` keeps the first of equals: the earliest.
        return min(range(len(self.tries)), key=lambda index: self.tries[index].rank)


@dataclass
class Chunk:
    """Targets of one chunk that are not done, and how many of it are. `rows` are there when it is written."""

    targets: list[PendingTarget]
    done: int
    rows: list[TryRow] | None = None

    @property
    def planned(self) -> list[PendingTarget]:
        """The targets that are to be tried next."""
        return [target for target in self.targets if target.plan is not None]


def chunks(lists: Iterable[Callable[[], Iterator[Pair]]], seeds: Sequence[int], batch: int) -> Iterator[list[WorkItem]]:
    """The work list in chunks: seed by seed, list by list, `batch` neighbouring pairs at a time.

    Args:
        lists: each opens a pair list from its beginning.
    """
    for seed in seeds:
        for open_list in lists:
            pairs = open_list()
            while part := list(islice(pairs, batch)):
                # Cut before pairs without this seed are left out: a chunk is fixed by the list's lines alone.
                chunk: list[WorkItem] = []
                for pair in part:
                    if pair.seeds is None or seed in pair.seeds:
                        name = target_name(pair.content_id, pair.style_id, seed)
                        chunk.append(WorkItem(pair, seed, name))
                if chunk:
                    yield chunk
