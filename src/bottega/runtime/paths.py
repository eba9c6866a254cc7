"""What a path or an id that comes from a file may be, before anything is read, written or unlinked by it.

A ledger, a list or a table may come from another machine, or be edited by hand: one `../..` in it must not make a
command read, write or delete a file that belongs to somebody else.

| question | function |
|---|---|
| does this text stay below its folder? | `stays_inside`: text alone, no file is looked at |
| which file does it name? | `inside`: the same, and where its links lead |
| may this text be part of a file's name? | `ID`, the pattern of every id of a content, a style or an example |
| is there an ordinary file? | `open_file`, which never waits for a pipe or a device |
| may lines be appended here? | `no_link`: not through a link |
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path, PurePosixPath

from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown

ID = r"^[.-]{0,9}[A-Za-z0-9][A-Za-z0-9.-]{0,199}$"
"""The pattern of an id that names files: no `/`, no `_` (which joins two ids), neither `.` nor `..`, and a length that
a file's name has room for."""

LONGEST_NAME = 255
"""Bytes of one part of a path: more is refused by every file system that is in use."""

LONGEST_PATH = 4096
"""Bytes of a whole path, as Linux allows."""

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """A folder, a pipe, a socket or a device stands where an ordinary file is wanted.

    Args:
        kind: what it is, such as `a named pipe`.
        path: its name.
    """

    def __init__(self, kind: str, path: Path | str) -> None:
        number = errno.EISDIR if kind == _KINDS[stat.S_IFDIR] else errno.EINVAL
        super().__init__(number, f"an ordinary file is wanted, it is {kind}", str(path))
        self.kind = kind


def stays_inside(name: str) -> bool:
    """Whether a relative path stays below its folder by its text alone; links are not looked at, so it is cheap."""
    return not _why_not(name)


def could_be_file(name: str) -> bool:
    """Whether a text is a relative path that a file can have, be it inside of its folder or not."""
    return bool(name) and not name.startswith("/") and not _why_no_name(name)


def inside(root: Path, name: str, source: str, *, own_links: bool = False) -> Path:
    """The path of `name` below `root`.

    Args:
        root: the folder that the path must not leave.
        name: a relative path as it was read from a file.
        source: where it was read, for the message; such as `ledger.sqlite, target a_b_seed0, output_path`.
        own_links: the user named this folder and put its links there, so that they may lead out of it, as that of a
            data set whose pictures are on another disk; the text still may not.

    Raises:
        RequestError: the path is empty, absolute or none at all, or leads out of `root` by `..` or by a link.
    """
    why = _why_not(name)
    path = root / name if not why else root
    if not why and not own_links and not _resolved(path).is_relative_to(_resolved(root)):
        why = "which leads out of it"
    if why:
        raise RequestError(
            f"{source} must be a path inside {root}, received {shown(name)}, {why}; correct that entry, or "
            "restore the file it stands in"
        )
    return path


def open_file(path: Path | str) -> BufferedReader:
    """Open an ordinary file to read its bytes.

    Raises:
        NotAFileError: it is a folder, a pipe, a socket or a device.
        OSError: there is none, or it can't be read.
    """
    # Looked at before it is opened: a named pipe has no end to wait for, and opening a device may set it off.
    _require_ordinary(os.stat(path).st_mode, path)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_ordinary(os.fstat(descriptor).st_mode, path)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def no_link(path: str, flags: int) -> int:
    """An `opener` for `open`, to append to a file: a link in its place would lead the lines into another file.

    Raises:
        OSError: `ELOOP`, it is a link; or it can't be opened.
    """
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


def _require_ordinary(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        raise NotAFileError(_KINDS.get(stat.S_IFMT(mode), "something else"), path)


def _why_not(name: str) -> str:
    """Why a text is no path that stays below its folder; empty where it is one."""
    if not name:
        return "which is empty"
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        return "which leads out of it"
    return _why_no_name(name)


def _why_no_name(name: str) -> str:
    """Why no file can be called so; empty where one can."""
    try:
        parts = os.fsencode(name)
    except UnicodeEncodeError:
        return "which no file can be called"
    if b"\0" in parts:
        return "which no file can be called"
    if len(parts) > LONGEST_PATH or max(map(len, parts.split(b"/"))) > LONGEST_NAME:
        return f"which is longer than a file's name can be ({LONGEST_NAME} bytes a part, {LONGEST_PATH} in all)"
    return ""


def _resolved(path: Path) -> Path:
    """The path with its links followed; one whose links go round in a circle leads nowhere, hence not inside."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return Path(os.devnull)
