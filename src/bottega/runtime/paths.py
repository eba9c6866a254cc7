"""The one check that keeps a path from a file inside the folder it belongs to, before it is read, written or unlinked.

A ledger or a list may come from another machine, or be edited by hand: one `../..` in it must not make a command
write or delete a file that belongs to somebody else.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from bottega.runtime.errors import RequestError


def stays_inside(name: str) -> bool:
    """Whether a relative path stays below its folder by its text alone; links are not looked at, so it is cheap."""
    return bool(name) and not name.startswith("/") and ".." not in PurePosixPath(name).parts


def inside(root: Path, name: str, source: str) -> Path:
    """The path of `name` below `root`.

    Args:
        root: the folder that the path must not leave.
        name: a relative path as it was read from a file.
        source: where it was read, for the message; such as `ledger.sqlite, target a_b_seed0, output_path`.

    Raises:
        RequestError: the path is empty or absolute, or leads out of `root` by `..` or by a link.
    """
    path = root / name
    if not stays_inside(name) or not path.resolve().is_relative_to(root.resolve()):
        raise RequestError(
            f"{source} must be a path inside {root}, received {name!r}, which leads out of it; correct that entry, or "
            "restore the file it stands in"
        )
    return path
