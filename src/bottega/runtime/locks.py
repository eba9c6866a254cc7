"""One process at a time on a folder or a device.

The lock is the kernel's (a POSIX record lock), so it ends with its holder however that dies: a lock that is a file's
existence would outlive a `kill -9` and block every later run. The file's content only says who holds it. Forked
children do not inherit a record lock (they would an flock), so no forgotten worker of a killed process can keep it.

Order, where several are held: the run's folder, then a stage's own folder, then the device, then a repository of the
model cache. Each is waited for only a few seconds, so that a wrong order ends in a message and not in a deadlock.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bottega.runtime.errors import LockedError, RequestError
from bottega.runtime.files import storage_error

PATIENCE_S = 5.0
"""How long to wait for a holder that may just be dying: an orphaned stage needs a moment to notice that its parent is
gone, and the same command is often started again at once."""


@contextmanager
def lock(path: Path, holder: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Hold the lock of a file while the body runs.

    Args:
        path: the lock file; its parent folders are made. It stays behind, empty, when the lock is given up.
        holder: what to call this process in the message to others, for instance `run recipes/miniature.yaml`.
        patience_s: seconds to wait before giving up.

    Raises:
        LockedError: if another living process holds it; names its process id and what it does. (The process that holds
            it already gets it again.)
        RequestError: if the lock file is a symbolic or a hard link, or no ordinary file.
        StorageError: if the lock file cannot be made.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, patience_s)
        _write_holder(descriptor, path, holder)
        try:
            yield
        finally:
            os.ftruncate(descriptor, 0)  # while the lock is held: afterwards it would erase the next holder's name
    finally:
        os.close(descriptor)  # releases the lock


def _write_holder(descriptor: int, path: Path, holder: str) -> None:
    record = {"pid": os.getpid(), "host": socket.gethostname(), "holder": holder}
    os.ftruncate(descriptor, 0)
    try:
        os.pwrite(descriptor, json.dumps(record).encode(), 0)
    except OSError as error:
        raise storage_error(error, path) from error


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


def _open(path: Path) -> int:
    """The lock file's descriptor; nothing in the file is changed before the lock is held."""
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


def _acquire(descriptor: int, path: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                raise LockedError(f"{_holder(descriptor)} works on {path.parent}; wait for it or stop it") from None
            time.sleep(0.05)
        except OSError as error:
            raise storage_error(error, path) from error


def _holder(descriptor: int) -> str:
    """Who holds the lock, as its file says."""
    try:
        # Empty for a moment between taking the lock and writing the name.
        record = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {record['pid']} on {record['host']} ({record['holder']})"
    except (ValueError, KeyError, TypeError):
        return "another process"
