"""Several processes that make chunks, each with models of its own: how a CPU's cores are kept busy by small models.

The U-Net of the miniature gains 1.6 times from a second thread, and everything around it next to nothing; two processes
of one thread each do almost twice the work of one. A chunk depends on nothing but itself, so who makes it does not
matter; the process that asks enters the rows, in the order of the list.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from bottega.models.workers import ANY_NUMBER, Workers, open_pool, share_work
from bottega.teacher.ledger import TryRow
from bottega.teacher.making import ChunkMaker
from bottega.teacher.work import Chunk


def share_chunks(maker: ChunkMaker) -> Workers | None:
    """How many processes make chunks; None: this one alone does.

    Drawn truths are only read, which one process does as fast. The number does not depend on how many targets there
    are: a longer list is to have the pictures of a shorter one, to the bit, and these depend on the threads.
    """
    if maker.config.source == "oracle":
        return None
    return share_work(ANY_NUMBER, maker.models.weight_files(), maker.models.device)


def make_shared(maker: ChunkMaker, workers: Workers, chunks: Iterable[Chunk]) -> Iterator[tuple[Chunk, list[TryRow]]]:
    """Each chunk with its rows, in their order. Closing the iterator gives up those in hand.

    Args:
        maker: with which each process makes chunks; none of its models is loaded yet.
        workers: the processes.
        chunks: taken as processes become free, two for each.
    """
    handed: deque[Chunk] = deque()

    def hand_out() -> Iterator[Chunk]:
        for chunk in chunks:
            handed.append(chunk)
            yield chunk

    with open_pool(replace(workers, begin=partial(_begin, maker))) as pool:
        for rows in pool.in_order(_make, hand_out()):
            yield handed.popleft(), rows


_makers: list[ChunkMaker] = []  # of a worker process


def _begin(maker: ChunkMaker) -> None:
    _makers[:] = [maker]


def _make(chunk: Chunk) -> list[TryRow]:
    maker = _makers[0]
    # Of the chunk before: its rows have been handed over by now, and would be lost with an error.
    maker.memory.check_memory(len(chunk.targets))
    return maker.make(chunk)
