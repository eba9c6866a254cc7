"""One writer at a time, or several readers, on a folder or a device.

The lock is the kernel's (a POSIX record lock), so it ends with its holder however that dies: a lock that is a file's
existence would outlive a `kill -9` and block every later run. The file's content only says who holds it. Forked
children do not inherit a record lock (they would an flock), so no forgotten worker of a killed process can keep it.

Every resource has one lock, `.lock` in its folder: a run, a data root's part, a stage's folder. Who writes into a
folder of a run takes the run's lock too, see `writing`, so that no command works beside `bottega run`.

Order, where several are held: the run's folder, its stage, then a stage's own folder, then the folders that are read,
then the device, then a repository of the model cache. Each is waited for only a few seconds, so that a wrong order ends
in a message and not in a deadlock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import socket
import stat
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bottega.runtime.errors import LockedError, RequestError
from bottega.runtime.files import require_folder, storage_error

LOCK = ".lock"
"""The lock's name in the folder that it is for."""

STAGE_LOCK = ".stage.lock"
"""In a run's folder: the lock of the stage at work, whose process may outlive the run's own for a moment."""

PATIENCE_S = 5.0
"""How long to wait for a holder that may just be dying: an orphaned stage needs a moment to notice that its parent is
gone, and the same command is often started again at once."""

_LONGEST_COMMAND = 160  # characters in a message
_RUN_FILES = ("recipe.yaml", "provenance.json")  # a folder with both is a run


@dataclass
class _Held:
    """A lock of this process: the kernel's lock is the process's, and ends when any descriptor of the file closes."""

    pid: int
    descriptor: int
    shared: bool
    count: int = 1


_HELD: dict[tuple[int, int], _Held] = {}
"""By the file's device and inode. A second descriptor of a file would, when closed, give up the lock of the first."""

_GUARD = threading.RLock()


@contextmanager
def lock(path: Path, holder: str, *, shared: bool = False, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of a file while the body runs.

    Args:
        path: the lock file; its parent folders are made. It stays behind, empty, when the lock is given up.
        holder: what to call this process in the message to others, for instance `run recipes/miniature.yaml`.
        shared: for a reader: other readers may hold it too, a writer may not.
        patience_s: seconds to wait before giving up.

    Raises:
        LockedError: if another living process holds it; names its process id, its command and when it began. (The
            process that holds it already gets it again.)
        RequestError: if the lock file is a symbolic or a hard link, or no ordinary file.
        StorageError: if the lock file cannot be made.
    """
    key = _enter(path, holder, shared, patience_s)
    try:
        yield
    finally:
        _leave(key)


@contextmanager
def writing(folder: Path, holder: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold a folder for this process's writing while the body runs, and the run that the folder is part of.

    Args:
        folder: what is written into; it need not be there yet.
        holder: see `lock`.
        patience_s: see `lock`.

    Raises:
        LockedError, RequestError, StorageError: as `lock` does.
    """
    with run_of(folder, holder, patience_s=patience_s), lock(folder / LOCK, holder, patience_s=patience_s):
        yield


@contextmanager
def run_of(folder: Path, holder: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the run that a folder lies in, where it lies in one, while the body runs; the folder itself stays free.

    Args:
        folder: what is written into; it need not be there yet.
        holder: see `lock`.
        patience_s: see `lock`.

    Raises:
        LockedError, RequestError, StorageError: as `lock` does.
    """
    with ExitStack() as held:
        for run in runs_above(folder):
            held.enter_context(lock(run / LOCK, holder, patience_s=patience_s))
            # A stage of a run that was killed may live on for a moment.
            held.enter_context(lock(run / STAGE_LOCK, holder, patience_s=patience_s))
        yield


@contextmanager
def reading(folder: Path, holder: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Keep writers out of a folder while the body runs; other readers may come in.

    A folder that is not there, or that this process may not write into, has no lock to take: nothing is done then.

    Args:
        folder: what is read.
        holder: see `lock`.
        patience_s: see `lock`.

    Raises:
        LockedError: another process writes into the folder.
    """
    place = folder / LOCK
    may_write = os.access(place, os.W_OK) if place.exists() else os.access(folder, os.W_OK)
    if not folder.is_dir() or not may_write:
        yield
        return
    with lock(place, holder, shared=True, patience_s=patience_s):
        yield


@contextmanager
def device_lock(device: str, holder: str) -> Iterator[None]:
    """Hold a GPU for this process, so that no two stages fill its memory at once; a CPU needs no lock.

    Args:
        device: torch's name, for instance `cuda:0` or `cpu`.
        holder: what to call this process in the message to others.
    """
    if device.split(":")[0] == "cpu":
        yield
        return
    name = f"bottega-{os.getuid()}-{device.replace(':', '-')}.lock"
    with lock(Path(tempfile.gettempdir()) / name, holder):
        yield


def command_line(arguments: list[str] | None = None) -> str:
    """A process's command as a person would give it, on one line, cut to a readable length.

    Args:
        arguments: as the kernel has them; None: of this process.
    """
    words = list(sys.orig_argv if arguments is None else arguments)
    for place, word in enumerate(words):
        is_program = os.path.basename(word) == "bottega" or word.endswith("bottega/__main__.py")
        if is_program or words[max(0, place - 1) : place + 1] == ["-m", "bottega"]:
            words = ["bottega", *words[place + 1 :]]
            break
    text = _printable(shlex.join(words))
    return text if len(text) <= _LONGEST_COMMAND else text[: _LONGEST_COMMAND - 1] + "…"


# --- taking and giving up ---------------------------------------------------------------------------------------------


def _enter(path: Path, holder: str, shared: bool, patience_s: float) -> tuple[int, int]:
    """Take the lock, or count one more use of it; returns its key in `_HELD`."""
    with _GUARD:  # while it is waited for, too: two threads that open the file at once would close each other's lock
        key = _key_of(path)
        held = None if key is None else _HELD.get(key)
        if held is None or held.pid != os.getpid():
            return _take(path, holder, shared, patience_s)
        if held.shared and not shared:
            # The kernel turns the one into the other; it stays a writer's until its last use ends.
            _acquire(held.descriptor, path, shared=False, patience_s=patience_s)
            held.shared = False
            _write_holder(held.descriptor, path, holder)
        held.count += 1
        return _id(held.descriptor)


def _take(path: Path, holder: str, shared: bool, patience_s: float) -> tuple[int, int]:
    """Take a lock that this process does not hold; returns its key in `_HELD`."""
    descriptor = _open_and_acquire(path, shared, patience_s)
    try:
        if shared:
            os.ftruncate(descriptor, 0)  # what a killed writer left: no writer holds it now
        else:
            _write_holder(descriptor, path, holder)
    except BaseException:
        os.close(descriptor)
        raise
    key = _id(descriptor)
    _HELD[key] = _Held(os.getpid(), descriptor, shared)
    return key


def _leave(key: tuple[int, int]) -> None:
    with _GUARD:
        held = _HELD[key]
        held.count -= 1
        if held.count:
            return
        del _HELD[key]
        try:
            if not held.shared:
                os.ftruncate(held.descriptor, 0)  # while the lock is held: later it would erase the next holder's name
        finally:
            os.close(held.descriptor)  # releases the lock


def _key_of(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _id(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _open_and_acquire(path: Path, shared: bool, patience_s: float) -> int:
    while True:
        descriptor = _open(path)
        try:
            _acquire(descriptor, path, shared=shared, patience_s=patience_s)
            if _key_of(path) == _id(descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Somebody deleted the file in between: the lock of a file without a name keeps nobody out.
        os.close(descriptor)


def _open(path: Path) -> int:
    """The lock file's descriptor; nothing in the file is changed before the lock is held."""
    require_folder(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A link is not followed: the holder's record would replace the content of whatever file it leads to. And
        # without O_NONBLOCK, opening a named pipe would wait for its other end.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise RequestError(
                f"a lock is a file of its own, received {path}, a symbolic link to {os.readlink(path)}; delete the "
                "link and run the same command again"
            ) from error
        raise storage_error(error, path) from error
    found = os.fstat(descriptor)
    # A second name (a hard link) leads to another file's content as a symbolic link does, and no flag refuses it.
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise RequestError(
            f"a lock is an ordinary file with one name, received {path}, which is none; delete it and run the same "
            "command again"
        )
    return descriptor


def _acquire(descriptor: int, path: Path, *, shared: bool, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            fcntl.lockf(descriptor, kind | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                raise LockedError(_refusal(descriptor, path)) from None
            time.sleep(0.05)
        except OSError as error:
            raise storage_error(error, path) from error


def runs_above(folder: Path) -> list[Path]:
    """The runs that a folder lies in, the outermost first; a run is a folder with a recipe and its provenance."""
    parents = Path(os.path.realpath(folder)).parents
    return [place for place in reversed(parents) if all((place / name).is_file() for name in _RUN_FILES)]


# --- who holds it -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Blocker:
    """What the kernel says of a lock that stands in the way: whose it is, 0 where that is not known."""

    pid: int
    shared: bool


def _write_holder(descriptor: int, path: Path, holder: str) -> None:
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "holder": _printable(holder),
        "command": command_line(),
        "since": _clock(time.time()),
    }
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
    except OSError as error:
        raise storage_error(error, path) from error


def _refusal(descriptor: int, path: Path) -> str:
    blocker = _blocker(descriptor)
    does = "reads" if blocker.shared else "works on"
    # Readers leave no record: several may come and go at once.
    who = _from_kernel(blocker.pid) if blocker.shared else _recorded(descriptor)
    return f"{who or 'another process'} {does} {path.parent}; wait for it or stop it"


def _recorded(descriptor: int) -> str:
    """Who holds the lock, as its file says; empty for a moment between taking the lock and writing the name."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0))
        who = f"process {record['pid']} on {record['host']} ({record['holder']}"
        command = record.get("command")
        if command:
            who += f": {command}, since {record['since']}"
        return _printable(f"{who})")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _from_kernel(pid: int) -> str:
    """A process of this machine by its number; empty where it is not visible from here."""
    import psutil

    try:
        process = psutil.Process(pid)
        command = command_line(process.cmdline())
        return f"process {pid} on {socket.gethostname()} ({command}, since {_clock(process.create_time())})"
    except (psutil.Error, ValueError):
        return ""


def _blocker(descriptor: int) -> _Blocker:
    """The lock that keeps a writer out (fcntl's F_GETLK, for which Python has no function of its own)."""
    size = struct.calcsize("@hhqqi0q")
    if sys.platform == "linux":
        request = struct.pack("@hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack("@hhqqi0q", fcntl.fcntl(descriptor, fcntl.F_GETLK, request)[:size])
        return _Blocker(pid, kind == fcntl.F_RDLCK)
    if sys.platform == "darwin":
        request = struct.pack("@qqihh", 0, 0, 0, fcntl.F_WRLCK, os.SEEK_SET)
        _, _, pid, kind, _ = struct.unpack("@qqihh", fcntl.fcntl(descriptor, fcntl.F_GETLK, request))
        return _Blocker(pid, kind == fcntl.F_RDLCK)
    return _Blocker(0, shared=False)


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(sep=" ", timespec="seconds")


def _printable(text: str) -> str:
    """The text without what could steer a terminal or end the line."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
