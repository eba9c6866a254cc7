"""Stopping in order: Ctrl-C or SIGTERM lets the item in hand be finished and saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from bottega.runtime.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Context manager: within it, SIGINT and SIGTERM are remembered instead of raised.

    >>> with Interruption() as interruption:
    ...     for item in items:
    ...         work_on(item)
    ...         interruption.check()

    A second Ctrl-C stops at once (`KeyboardInterrupt`). Leaving the body with a request that was never checked raises
    `Interrupted` too, so that no signal is lost. Outside the main thread, where Python delivers no signals, it does
    nothing.

    Args:
        notify: called with the signal number on each signal, for instance to pass it on to a child process; with it,
            a second Ctrl-C is passed on as well instead of raised.
        quiet: do not say on stderr that the item in hand is being finished.
    """

    def __init__(self, notify: Callable[[int], None] | None = None, *, quiet: bool = False) -> None:
        self.signum: int | None = None
        self._notify = notify
        self._quiet = quiet
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signum is not None

    def check(self) -> None:
        """Raise `Interrupted` if somebody asked to stop; call it where everything is saved."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        # An error that is on its way says more than the request to stop.
        if kind is None:
            self.check()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        second = self.requested
        self.signum = signum
        if self._notify is not None:
            self._notify(signum)
        elif second and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not second and not self._quiet:
            print("bottega: finishing the item in hand; Ctrl-C again stops at once", file=sys.stderr, flush=True)
