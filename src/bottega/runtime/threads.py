"""How many threads torch computes with: as many as processors are free when a run begins.

torch's threads busy-wait for each other. With more threads than free processors one of them always waits for its turn
while the others spin, and a step takes several times its share: beside one busy process a core, the miniature's loop
took five times as long on two threads as its share of the machine explains.

The number is measured once and recorded in the run's folder, for results are equal to the bit only within one number;
a resumed run takes the recorded one. `OMP_NUM_THREADS` in the environment goes before both.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from bottega.runtime.errors import StorageError
from bottega.runtime.files import read_json, write_json

VARIABLE = "OMP_NUM_THREADS"
"""The environment's setting, which torch, NumPy and OpenCV read, and child processes inherit."""

RECORD = "threads.json"
"""In the folder of a run: the number that it computes with."""

_MEASURED_S = 0.6
_TOLERANCE = 0.35  # of a processor: what a desktop's own programs take now and then
_QUOTA_V2 = Path("/sys/fs/cgroup/cpu.max")
_QUOTA_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
_PERIOD_V1 = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us")


class ThreadsRecord(TypedDict):
    """What threads.json holds. why: how the number came about."""

    threads: int
    why: str


@dataclass(frozen=True)
class Threads:
    """How many threads to compute with.

    Attributes:
        count: how many.
        why: how the number came about.
        measured: whether it was chosen by what is free.
        changed: what the run was begun with, where that was another number.
    """

    count: int
    why: str
    measured: bool = False
    changed: int | None = None

    @property
    def worth_saying(self) -> bool:
        """Whether a person did not know it already."""
        return self.measured or self.changed is not None

    def __str__(self) -> str:
        """One line for people, with the setting that changes the number."""
        if self.changed is not None:
            return (
                f"{_counted(self.count)} ({self.why}), begun with {self.changed}: sums are rounded in another order, "
                f"so the rest is not equal to the bit; {VARIABLE}={self.changed} goes on as before"
            )
        return f"{_counted(self.count)} ({self.why}); {VARIABLE}=N in the environment changes it"


def settle_threads(folder: Path, before: int | None = None) -> Threads:
    """Decide with how many threads the work in a folder is done, record it there, and let this process use it.

    Args:
        folder: of the run; held by this process, and there already.
        before: with how many a run was begun that has no record of its own, if that is known.

    Raises:
        StorageError: the record can't be written, or is damaged.
    """
    path = folder / RECORD
    known = _recorded(path)
    chosen = _chosen(known or before)
    if known is None or chosen.changed is not None:
        record: ThreadsRecord = {"threads": chosen.count, "why": chosen.why}
        write_json(path, record)
    use_threads(chosen.count)
    return chosen


def use_threads(count: int) -> None:
    """Let this process, and those that it starts, compute with so many threads."""
    os.environ[VARIABLE] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:  # it has read the environment already
        torch.set_num_threads(count)


def threads_note() -> str:
    """A line for a training's log: with how many threads torch computes now, and the settings that change it."""
    import torch

    return f"{_counted(torch.get_num_threads())} on the CPU; threads in the recipe, or {VARIABLE}=N, changes it"


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """Within this block torch computes with `count` threads on the CPU; None: as many as it did."""
    import torch

    # Restored at the end: a result depends on the number of threads, and the next stage may promise another.
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def processors() -> int:
    """Processors that this process may use: by its affinity, and by the quota of its control group."""
    # The machine may have more than a cpuset or taskset gives to this process.
    allowed = len(_allowed())
    quota = _quota()
    return allowed if quota is None else max(1, min(allowed, math.floor(quota + _TOLERANCE)))


def busy_processors(seconds: float = _MEASURED_S) -> float:
    """How many of the processors that this process may use others keep busy, measured over a moment.

    Args:
        seconds: to measure; this process sleeps meanwhile.
    """
    import psutil

    percent: list[float] = psutil.cpu_percent(seconds, percpu=True)
    allowed = [percent[number] for number in _allowed() if number < len(percent)]
    return sum(allowed or percent) / 100


def _chosen(recorded: int | None) -> Threads:
    given = _given()
    if given is not None:
        changed = recorded if recorded is not None and recorded != given else None
        return Threads(given, f"{VARIABLE} says so", changed=changed)
    if recorded is not None:
        return Threads(recorded, "as this run was begun with")
    own = processors()
    busy = busy_processors()
    free = max(1, min(own, math.floor(own - busy + _TOLERANCE)))
    return Threads(free, f"{own} {_plural('processor', own)}, {busy:.1f} of them busy with other work", measured=True)


def _given() -> int | None:
    """What the environment says; None where it says nothing that is a number."""
    text = os.environ.get(VARIABLE, "").split(",")[0].strip()
    return int(text) if text.isdigit() and int(text) > 0 else None


def _recorded(path: Path) -> int | None:
    if not path.exists():
        return None
    record = read_json(path)
    count = record.get("threads") if isinstance(record, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise StorageError(
            f"{path} must hold a number of threads from 1, received {count!r}; delete it to choose again"
        )
    return count


def _allowed() -> list[int]:
    """The numbers of the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _quota() -> float | None:
    """Processors' worth of time that the control group allows; None: no limit."""
    try:
        if _QUOTA_V2.exists():
            limit, period = _QUOTA_V2.read_text().split()
        else:
            limit, period = _QUOTA_V1.read_text(), _PERIOD_V1.read_text()
        return int(limit) / int(period) if int(limit) > 0 else None
    except (OSError, ValueError):  # no control groups, or "max"
        return None


def _counted(count: int) -> str:
    return f"computing with {count} {_plural('thread', count)}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
