"""SQLite files that lie in read-only folders, are damaged, or are in use: opening them, and what their errors mean."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

from bottega.runtime.errors import StorageError

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_CURES = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space and run the same command again",
    sqlite3.SQLITE_READONLY: "it or its folder is read-only: make both writable",
    sqlite3.SQLITE_PERM: "it may not be opened: make it and its folder readable and writable",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: make it and its folder readable and writable",
    sqlite3.SQLITE_IOERR: "the disk failed to read or write it: check the disk, its space and its cables",
    sqlite3.SQLITE_BUSY: "another process uses it: wait for that, or stop it",
    sqlite3.SQLITE_LOCKED: "another process uses it: wait for that, or stop it",
}
"""By SQLite's primary code; what has none of these is named by SQLite's own words."""


def storage_error_of(
    error: sqlite3.Error, path: Path, restore: str = "restore it from a copy, or move its folder away to begin again"
) -> StorageError:
    """What an error of SQLite means for the user of a file.

    Args:
        error: as it was raised.
        path: the file.
        restore: what helps where the file is damaged, or its rows are not what was written.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the extended codes have the primary one in their low byte
    if code in _CURES:
        return StorageError(f"{path}: {_CURES[code]} ({error})")
    what = "is damaged" if code in _DAMAGED else "is not as it was written"
    return StorageError(f"{path} {what} ({error}); {restore}")


def connect_read_only(path: Path, opened: ExitStack) -> sqlite3.Connection:
    """A connection that can't write, also to a file in a read-only folder.

    Args:
        path: the file, which is there.
        opened: keeps what the connection needs until it is closed.

    Raises:
        sqlite3.DatabaseError: it is none.
    """
    # SQLite makes files of its own beside the file even for a reader. Where it can't, and no log is there, nobody
    # writes either, and it may be named.
    if os.access(path.parent, os.W_OK):
        return _connect(path, "mode=ro")
    log = path.with_name(f"{path.name}-wal")
    if not log.is_file() or log.stat().st_size == 0:
        return _connect(path, "immutable=1")
    # What a killed writer left in the log can be read only where SQLite can write beside it.
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="bottega-")))
    for file in (path, log):
        shutil.copy(file, folder / file.name)
    return _connect(folder / path.name, "mode=ro")


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{quote(os.fsencode(path.absolute()))}?{mode}"
    return sqlite3.connect(address, uri=True, isolation_level=None)
