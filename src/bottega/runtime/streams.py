"""Standard output and standard error that may be closed, full or gone, as they are behind a scheduler or a broken pipe.

A message that nobody can read must not stop the work that it tells of; a result that cannot be written must. And a
closed stream must not stay closed: the next file that is opened would get its number, and a library's warning would be
written into a ledger.
"""

from __future__ import annotations

import errno
import io
import os
import sys

from bottega.runtime.errors import StorageError

_OUT = 1
_ERR = 2


def prepare_streams() -> None:
    """Make the standard streams of this process safe to write to; called once, by the process's own entry."""
    _open_what_is_closed()
    sys.stdout = _text(_Output(_OUT), errors="backslashreplace")
    sys.stderr = _text(_Messages(_ERR), errors="backslashreplace")


def finish_output() -> None:
    """Write what standard output still holds.

    Raises:
        StorageError: it cannot be written.
        BrokenPipeError: whoever read it has gone.
    """
    try:
        sys.stdout.flush()
    except (OSError, StorageError):
        _give_up_output()
        raise


def _give_up_output() -> None:
    """Let what is still to be written to standard output vanish, so that the end of the process does not try again."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, _OUT)
    os.close(null)


class _Stream(io.RawIOBase):
    """Writes to a file descriptor that it does not own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)


class _Output(_Stream):
    """Standard output: what cannot be written is an error that says so."""

    def write(self, data: object) -> int:
        try:
            return os.write(self._descriptor, bytes(data))  # type: ignore[call-overload]
        except BrokenPipeError:
            raise
        except OSError as error:
            why = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            raise StorageError(
                f"the result cannot be written to standard output: {why}; what was made is in its files, send the "
                "output elsewhere and run the same command again"
            ) from error


class _Messages(_Stream):
    """Standard error: there is nowhere to say that it cannot be written, and the work goes on."""

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        try:
            return os.write(self._descriptor, content)
        except OSError:
            return len(content)


def _text(raw: io.RawIOBase, errors: str) -> io.TextIOWrapper:
    # Line by line, as Python does for a terminal: a result and the messages around it then come in their order.
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors=errors, line_buffering=True)


def _open_what_is_closed() -> None:
    for number in (0, _OUT, _ERR):
        try:
            os.fstat(number)
        except OSError:
            # It gets the lowest number that is free, which is this one; a child is to have it too.
            os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            os.set_inheritable(number, True)
