"""How far a long command is: a bar with rate, time left, counts and memory; without a terminal a line every 30 s."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from bottega.runtime.escape import escaped
from bottega.runtime.memory import rss_mb, vram_mb

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

MEGABYTE = 1_000_000
_LONGEST_WHAT = 60  # characters
LINE_EVERY_S = 30.0
"""Seconds between two lines without a terminal: few enough that a day's log stays readable."""


class Progress:
    """Progress of one long command, on stderr.

    Args:
        total: number of items, or None if it is not known.
        what: what is being done, for instance `teacher`.
        unit: what is counted, for instance `pictures`.
        done: items that an earlier run had finished; they count towards the total, not towards the rate.
    """

    def __init__(self, total: int | None, what: str, unit: str = "items", *, done: int = 0) -> None:
        self.total = total
        self.done = done
        self.counts: dict[str, float] = {}
        self._done_before = done
        self._what = escaped(what, _LONGEST_WHAT)
        self._unit = unit
        self._start = time.monotonic()
        self._last_line = self._start
        self._bar: RichProgress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Progress:
        # Counted from here: what is loaded between making and entering it would lower the rate.
        self._start = self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._open_bar()
        return self

    def update(self, n: int = 1, **counts: float) -> None:
        """Count `n` more items as done; `counts` are shown as they are, for instance `accepted=10, rejected=1`."""
        self.done += n
        self.counts.update(counts)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self.done, state=self._state())
        elif time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._print_line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self.done > self._done_before:
            self._print_line()

    def line(self) -> str:
        """The state as one line of text."""
        of_total = f"/{self.total}" if self.total is not None else ""
        return f"{self._what}: {self.done}{of_total} {self._unit}, {self._state()}"

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = (self.done - self._done_before) / seconds
        parts = [f"{rate:.3g}/s"]
        if self.total is not None and rate > 0 and self.done < self.total:
            seconds_left = (self.total - self.done) / rate
            parts.append(f"{_clock(seconds_left)} left")
        for name, value in self.counts.items():
            parts.append(f"{name} {value:.6g}")
        parts.append(f"{rss_mb():.0f} MB")
        vram = vram_mb()
        if vram:
            parts.append(f"{vram:.0f} MB GPU")
        return ", ".join(parts)

    def _print_line(self) -> None:
        self._last_line = time.monotonic()
        print(self.line(), file=sys.stderr, flush=True)

    def _open_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichBar

        self._bar = RichBar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            console=Console(stderr=True),
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(self._what, total=self.total, completed=self.done, state="")
        self._bar.start()


class ByteCounter:
    """Takes numbers of bytes, and moves a bar that counts megabytes.

    Args:
        progress: the bar, whose total is in megabytes.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bytes = 0

    def __call__(self, count: int) -> None:
        self._bytes += count
        whole, self._bytes = divmod(self._bytes, MEGABYTE)
        if whole:
            self._progress.update(whole)


def _clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` under an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}"
