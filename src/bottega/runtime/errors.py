"""Every error that bottega raises on purpose.

The tree, and the exit code that the command line gives to each::

    BottegaError                 1
      RequestError               2    the request was wrong; nothing was done
        RecipeError                   a recipe, a --set or an option that cannot be accepted
        MissingError                  weights, data or a file that must be there and is not
        LockedError                   another process works on this folder or device
        FingerprintError              a value was changed that an existing run depends on
        DamagedError                  a file is not what was written, by the hash that was recorded of it
      WorkError                  1    the request was right, the work failed
        NonFiniteError                NaN or infinity where a finite number must be
        StorageError                  full disk, read-only folder, torn file
        PictureError                  one picture cannot be read or used
        MemoryPressureError           memory is short and everything that could be given up was
      StartAfresh               75    all is saved; a fresh process of the same command must continue
      Interrupted          130|143    Ctrl-C or SIGTERM: the item in hand is finished and saved

A message is one line: the rule, what was received, what to do. The command line prints it and returns the exit code;
a traceback is shown with `--debug` only.

What people meet most often stands with its class as an `ErrorCause`. The tables of docs/troubleshooting.md are made
from them (`python tests/runtime/test_troubleshooting_page.py`), and a test follows the advice of each.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ErrorCause:
    """Why an error is met, and what helps: one row of docs/troubleshooting.md.

    Args:
        says: what the message contains; `…` stands for anything.
        why: the cause.
        cure: what to do.
    """

    says: tuple[str, ...]
    why: str
    cure: str


class BottegaError(Exception):
    """Base of all errors that reach a user as one line; `exit_code` is what the process then returns."""

    exit_code: int = 1
    causes: ClassVar[tuple[ErrorCause, ...]] = ()
    """What people meet most often."""


class RequestError(BottegaError):
    """The request was wrong: the user must change it."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            (
                "the key … is required, received …",
                "… should be a JSON …, received …",
                "…: input should be …, received …",
            ),
            "a file that was edited, or written by hand or by another program, has another form than it must have",
            "mend the key that the message names, or do what the message says of that file",
        ),
        ErrorCause(
            ("mend or delete that line",),
            "one line of a list is wrong",
            "mend that line or delete it: the other lines don't need it",
        ),
    )

    exit_code = 2


class RecipeError(RequestError):
    """A recipe, an override or an option has a key or a value that is not allowed."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("… is not valid YAML",),
            "the recipe, or the value of a `--set`, is no YAML",
            "correct the line and column that the message names; put quotes around a text that looks like a date "
            "or a number",
        ),
        ErrorCause(
            ("unknown key … did you mean …",),
            "a key is misspelt, or stands in the wrong section",
            "take the key that the message names",
        ),
        ErrorCause(
            ("… is not allowed", "… is required"),
            "a value has another kind, or lies outside of its range",
            "give a value as the message describes it",
        ),
        ErrorCause(
            ("no such recipe",),
            "a wrong path",
            "take the recipe that the message names, or give the whole path",
        ),
    )


class MissingError(RequestError):
    """Something that the request needs is absent; the message says how to get it."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("models.…: …",),
            "a model is absent or incomplete",
            "run the command that the message holds, or name a folder that has the model; `bottega models verify "
            "RECIPE --hash` then reads each file whole",
        ),
        ErrorCause(
            ("data.….source: no folder …",),
            "a data set is not where the recipe says",
            "unpack it there, or `--set data.root=/disk/data`",
        ),
        ErrorCause(
            ("there is no …; prepare the …",),
            "an earlier step has not been done",
            "run the command that the message names",
        ),
        ErrorCause(
            ("--resume wants a whole checkpoint",),
            "the checkpoint does not exist, or is incomplete",
            "name one of those that the message lists",
        ),
    )


class LockedError(RequestError):
    """Another living process holds the lock of a folder or a device; the message names it."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("process … works on …",),
            "another process holds this run directory, data root or GPU",
            "wait for it, or stop it; a dead process holds no lock",
        ),
    )


class FingerprintError(RequestError):
    """A value that finished work depends on was changed; the message names it."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("… was started with other values",),
            "a value that finished work depends on was changed",
            "set it back, give another `--directory`, or delete the folders that the message names; [Growing a "
            "run](growing-a-run.md#what-may-change-on-the-way) says what may change",
        ),
    )


class DamagedError(RequestError):
    """A file is not what was written: its content has another hash than was recorded of it; nothing was done."""


class WorkError(BottegaError):
    """The request was right, but the work could not be done."""


class NonFiniteError(WorkError):
    """A NaN or an infinity turned up where only finite numbers are meaningful."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("step …: the loss … is not finite", "step …: the gradient … is not finite"),
            "training stopped before the optimizer could damage the weights",
            "look at the pictures of the samples that the message names, or lower `student.loop.learning_rate`",
        ),
    )


class StorageError(WorkError):
    """A file could not be written or read as a whole: full disk, read-only folder, torn content."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("the disk is full",),
            "the disk, or this user's share of it",
            "free space or choose another disk, and run the same command again; no partial file was left",
        ),
        ErrorCause(
            ("the file would be larger than the limit allows",),
            "the shell's limit on the size of a file",
            "raise it (`ulimit -f unlimited`) and run the same command again",
        ),
        ErrorCause(
            ("cannot write …: permission denied", "the file system is read-only"),
            "the folder may not be written into",
            "make it writable, or choose another one",
        ),
        ErrorCause(
            ("cannot write …: a part of this path is a file",),
            "a file stands where a folder is wanted",
            "choose another path",
        ),
        ErrorCause(
            ("cannot read …: it is a folder, not a file",),
            "a folder is where a file is wanted",
            "name a file in it, or move the folder away",
        ),
        ErrorCause(
            ("… is not valid JSON",),
            "a file was cut off, as by a copy that stopped, or edited",
            "do what the message says of that file: some are made again, others must be mended or copied again",
        ),
        ErrorCause(
            ("… is not a JSON object",),
            "one line of a list was damaged",
            "do what the message says of that line",
        ),
        ErrorCause(
            ("not a whole safetensors file",),
            "a download or a copy stopped",
            "put a whole copy in its place",
        ),
        ErrorCause(
            ("… is damaged (…)",),
            "a ledger or an index was damaged, as by a disk",
            "put back a copy; where there is none, do what the message says",
        ),
    )


class PictureError(WorkError):
    """One picture cannot be read or used; a run records it and continues."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("… can't be decoded", "… is not a picture in a known format"),
            "one picture is broken; a run lists it and goes on without it",
            "put a whole picture in its place, or take it out, and run the same command again",
        ),
    )


class MemoryPressureError(WorkError):
    """Memory is short, and all that the work could give up was given up."""

    causes: ClassVar[tuple[ErrorCause, ...]] = (
        ErrorCause(
            ("out of memory",),
            "batch or pictures are too large for this machine",
            "`--set teacher.batch_size=1`, `--set student.batch_size=1`, then `models.dtype`",
        ),
        ErrorCause(
            ("… was ended by SIGKILL, most likely for want of memory",),
            "the system ended a stage",
            "free memory and run the same command again: it continues",
        ),
    )


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
