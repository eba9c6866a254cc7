"""What a run gives up when memory gets short, in this order: loading ahead, the batch, time, itself.

Above the limit it first stops loading pictures ahead, then halves the U-Net's batch until that is 1, then waits for
others to give memory back, and then stops with the reason: all that is done is saved. Running out of memory halves the
batch at once. `batch_size: auto` begins with 1 and doubles while the next step would stay below the limit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from bottega.runtime.errors import MemoryPressureError, StartAfresh
from bottega.runtime.memory import Creep, Load, is_out_of_memory, load, rss_mb, trim
from bottega.teacher.config import TeacherConfig

LOGGER = logging.getLogger(__name__)
T = TypeVar("T")
PATIENCE_S = 60.0  # another program's peak, such as a compilation, is over by then
_PAUSE_S = 2.0


class Pressure:
    """The run's use of memory, judged between two chunks.

    Args:
        limit: share of RAM and of GPU memory, 0..1, above which something is given up.
        largest: the batch that was asked for, or the most that `grows` may reach.
        grows: begin with 1 and double as memory allows.
        measure, sleep: for tests.
    """

    def __init__(
        self,
        limit: float,
        largest: int,
        *,
        grows: bool = False,
        measure: Callable[[], Load] = load,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.limit, self.largest = limit, largest
        self.batch = 1 if grows else largest
        self.ahead = True
        self._grows, self._measure, self._sleep = grows, measure, sleep
        self._idle: Load | None = None

    def relieve(self) -> None:
        """Check the memory, and give something up, or let the batch grow.

        Raises:
            MemoryPressureError: everything was given up and the others gave nothing back.
        """
        now = self._measure()
        if max(now) <= self.limit:
            self._grow(now)
            return
        trim()
        now = self._measure()
        if max(now) <= self.limit:
            return
        self._grows = False  # it was too much once: growing again would alternate with halving
        if self.ahead:
            self.ahead = False
            LOGGER.warning("memory is short (%s, limit %.0f %%): no pictures are loaded ahead", now, 100 * self.limit)
        elif self.batch > 1:
            self._halve(f"memory is short ({now})")
        else:
            self._wait()

    def out_of_memory(self, error: BaseException) -> None:
        """Halve the batch after the device ran out of memory.

        Raises:
            MemoryPressureError: one picture at a time is too much already.
        """
        trim()
        if self.batch == 1:
            raise MemoryPressureError(
                f"one picture at a time must fit into memory, it did not ({_first_line(error)}); stop other programs "
                "on this device, set teacher.low_vram, or make teacher.size smaller"
            ) from error
        self._grows = False
        self._halve(f"out of memory ({_first_line(error)})")

    def _halve(self, why: str) -> None:
        self.batch //= 2
        LOGGER.warning("%s: the batch is now %d", why, self.batch)

    def _grow(self, now: Load) -> None:
        if not self._grows or self.batch >= self.largest:
            return
        if self._idle is None:  # before the first picture
            self._idle = now
            return
        # The next doubling is expected to cost what the present batch costs above the idle state.
        growth = max(after - before for before, after in zip(self._idle, now, strict=True))
        if max(now) + max(growth, 0.0) <= self.limit:
            self.batch = min(2 * self.batch, self.largest)

    def _wait(self) -> None:
        LOGGER.warning("memory is short with the smallest batch: waiting up to %.0f s", PATIENCE_S)
        for _ in range(int(PATIENCE_S / _PAUSE_S)):
            self._sleep(_PAUSE_S)
            trim()
            now = self._measure()
            if max(now) <= self.limit:
                return
        raise MemoryPressureError(
            f"at most {self.limit:.0%} of memory may be in use, {now} is, for {PATIENCE_S:.0f} s, with a batch of 1; "
            "everything is saved: free memory and run the same command again, or raise teacher.memory_limit"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


class TeacherMemory:
    """Keeps a run within its memory: fewer pictures at once, freed memory handed back, a fresh process at the end.

    Args:
        config: the limit, the batch, and how often freed memory is handed back.
    """

    def __init__(self, config: TeacherConfig) -> None:
        self.pressure = Pressure(config.memory_limit, config.chunk, grows=config.batch_size == "auto")
        self._trim_every = config.gc_interval
        self._made_since_trim = 0
        self._creep = Creep()

    @property
    def batch(self) -> int:
        """Pictures that may go through the U-Net at once."""
        return self.pressure.batch

    @property
    def loads_ahead(self) -> bool:
        """Whether the next window's pictures may be read already."""
        return self.pressure.ahead

    def relieve(self) -> None:
        """See `Pressure.relieve`."""
        self.pressure.relieve()

    def retry_on_oom(self, work: Callable[[], T]) -> T:
        """Do some work, with a smaller batch each time that memory runs out.

        Raises:
            MemoryPressureError: one picture at a time is too much.
        """
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
                if not is_out_of_memory(error):
                    raise
                reason = error.with_traceback(None)  # its frames hold the tensors that did not fit
            self.pressure.out_of_memory(reason)

    def check_memory(self, made: int) -> None:
        """After `made` more targets are saved: hand memory back, give something up, or ask for a fresh process.

        Raises:
            MemoryPressureError: everything was given up and the others gave nothing back.
            StartAfresh: this process's memory rises steadily, as a leak of a library makes it.
        """
        self._made_since_trim += made
        if self._trim_every and self._made_since_trim >= self._trim_every:
            trim()
            self._made_since_trim = 0
        self.pressure.relieve()
        rise = self._creep.add(rss_mb())
        if rise is not None:
            raise StartAfresh(
                f"this process's memory rose steadily by {rise:.0f} MB; all is saved, a fresh process resumes"
            )
