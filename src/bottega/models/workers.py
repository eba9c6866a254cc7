"""Several processes that draw or measure at once, each on its own share of the processors.

Small models cost little beside what a picture costs in Python and in decoding files, so two processes of one thread
each do more than one process of two threads. How many there are depends on the run's own threads and on the machine's
memory, not on what happens to be free: a picture's last bits depend on the threads it is drawn with, and a run that
was stopped and repeated is to have the pictures of an uninterrupted one.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeVar

from bottega.runtime.children import worker_pool
from bottega.runtime.errors import WorkError
from bottega.runtime.logs import level_set_up, set_up_logging
from bottega.runtime.memory import keep_heap
from bottega.runtime.threads import VARIABLE, processors, use_threads

Item = TypeVar("Item")
Answer = TypeVar("Answer")

_MOST = 4
_PICTURES_EACH = 128  # one that is not forked takes 3 to 6 s to import and to load its models, as 100 pictures to draw
_MEMORY_SHARE = 0.25  # of the machine's memory: what all processes together may load
_BESIDE_WEIGHTS = 600_000_000  # bytes of a process that has imported torch, diffusers and transformers


ANY_NUMBER = 1_000_000
"""Pictures, where the number of processes is not to depend on how many there are."""


@dataclass(frozen=True)
class Workers:
    """Processes that share work.

    Attributes:
        count: how many.
        threads: that torch, NumPy and OpenCV compute with in each.
        begin: called first in each; a function of a module, or a `partial` of one.
        forked: on Linux they are forked from this process with all that it has imported; only where it has computed
            nothing with torch or OpenCV, whose threads a fork does not survive.
    """

    count: int
    threads: int
    begin: Callable[[], None] | None = None
    forked: bool = False


def share_work(pictures: int, weights: Iterable[Path], device: str) -> Workers | None:
    """How the work on some pictures is shared; None: one process does it alone.

    Args:
        pictures: how many there are in all, those of an earlier call included.
        weights: the files that each process loads.
        device: as configured. A GPU is not shared: one process keeps it busy.
    """
    from bottega.models.loading import choose_device

    if choose_device(device).type != "cpu":
        return None
    threads = _own_threads()
    each = _BESIDE_WEIGHTS + sum(file.stat().st_size for file in weights)
    count = min(_MOST, threads, pictures // _PICTURES_EACH, int(_MEMORY_SHARE * _memory() / each))
    return Workers(count, threads // count) if count > 1 else None


@contextmanager
def open_pool(workers: Workers) -> Iterator[OpenPool]:
    """The workers, until the end of the block."""
    executor = worker_pool(workers.count, partial(_begin, workers, level_set_up()), forked=workers.forked)
    try:
        yield OpenPool(executor, workers.count)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class OpenPool:
    """Workers that have begun, or will with their first item."""

    executor: ProcessPoolExecutor
    count: int

    def in_order(self, call: Callable[[Item], Answer], items: Iterable[Item]) -> Iterator[Answer]:
        """What `call`, a function of a module, gives for each item, in their order; two items a process are under way.

        Raises:
            WorkError: a process was killed.
            BottegaError: as `call` raised it.
        """
        try:
            yield from self._answers(call, iter(items))
        except BrokenProcessPool as error:
            raise WorkError(
                f"one of several processes that share the work was killed, most likely because memory ran out; to "
                f"resume, run the same command again with {VARIABLE}=1 in the environment, which leaves one process"
            ) from error

    def _answers(self, call: Callable[[Item], Answer], items: Iterator[Item]) -> Iterator[Answer]:
        under_way: deque[Future[Answer]] = deque()
        while True:
            # No more than that: an evaluation of many pictures would else hold all of them in the queue.
            for item in islice(items, 2 * self.count - len(under_way)):
                under_way.append(self.executor.submit(call, item))
            if not under_way:
                return
            yield under_way.popleft().result()


def _begin(workers: Workers, level: int | None) -> None:
    if level is not None:
        set_up_logging(level)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process decides
    use_threads(workers.threads)
    # NumPy's own threads too: with one a processor in each of two processes they wait for each other, and an evaluation
    # of 480 pairs measured in 49 s in place of 28.
    import cv2
    from threadpoolctl import threadpool_limits

    threadpool_limits(workers.threads)
    cv2.setNumThreads(workers.threads)
    keep_heap()  # drawing and measuring take a twentieth less time
    if workers.begin is not None:
        workers.begin()


def _own_threads() -> int:
    text = os.environ.get(VARIABLE, "")
    return int(text) if text.isdigit() and int(text) > 0 else processors()


def _memory() -> int:
    """Bytes of the machine's memory, or of this process's control group."""
    import psutil

    total = int(psutil.virtual_memory().total)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return total  # no control groups, or of the first version
    return min(total, int(limit)) if limit.isdigit() else total
