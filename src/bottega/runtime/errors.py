"""Every error that bottega raises on purpose.

The tree, and the exit code that the command line gives to each::

    BottegaError                 1
      RequestError               2    the request was wrong; nothing was done
        RecipeError                   a recipe, a --set or an option that cannot be accepted
        MissingError                  weights, data or a file that must be there and is not
        LockedError                   another process works on this folder or device
        FingerprintError              a value was changed that an existing run depends on
      WorkError                  1    the request was right, the work failed
        NonFiniteError                NaN or infinity where a finite number must be
        StorageError                  full disk, read-only folder, torn file
        PictureError                  one picture cannot be read or used
        MemoryPressureError           memory is short and everything that could be given up was
      StartAfresh               75    all is saved; a fresh process of the same command must continue
      Interrupted          130|143    Ctrl-C or SIGTERM: the item in hand is finished and saved

A message is one line: the rule, what was received, what to do. The command line prints it and returns the exit code;
a traceback is shown with `--debug` only.
"""

from __future__ import annotations

import signal


class BottegaError(Exception):
    """Base of all errors that reach a user as one line; `exit_code` is what the process then returns."""

    exit_code: int = 1


class RequestError(BottegaError):
    """The request was wrong: the user must change it."""

    exit_code = 2


class RecipeError(RequestError):
    """A recipe, an override or an option has a key or a value that is not allowed."""


class MissingError(RequestError):
    """Something that the request needs is absent; the message says how to get it."""


class LockedError(RequestError):
    """Another living process holds the lock of a folder or a device; the message names it."""


class FingerprintError(RequestError):
    """A value that finished work depends on was changed; the message names it."""


class WorkError(BottegaError):
    """The request was right, but the work could not be done."""


class NonFiniteError(WorkError):
    """A NaN or an infinity turned up where only finite numbers are meaningful."""


class StorageError(WorkError):
    """A file could not be written or read as a whole: full disk, read-only folder, torn content."""


class PictureError(WorkError):
    """One picture cannot be read or used; a run records it and continues."""


class MemoryPressureError(WorkError):
    """Memory is short, and all that the work could give up was given up."""


class StartAfresh(BottegaError):  # noqa: N818 (it is a request, not a fault)
    """This process has grown too large; everything is saved, and a fresh one of the same command continues.

    Whoever started the work catches this and starts it again; a person sees it only where nobody does.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: try again


class Interrupted(BottegaError):  # noqa: N818 (it is a request, not a fault)
    """The user asked to stop; what was finished is saved and the same command continues.

    Args:
        signum: the signal received: SIGINT gives exit code 130, SIGTERM 143.
    """

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}; run the same command again to continue")
        self.signum = signum
        self.exit_code = 128 + signum
