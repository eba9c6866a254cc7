"""The files of a folder as people have it: links are followed, hidden files left out, what leads nowhere is named."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MOST_VISITS = 16
"""How often one real folder is listed under different names: more is folders that link to each other, whose number of
ways grows without end."""

_Identity = tuple[int, int]
"""Device and inode: what a folder is, whatever it is called."""


@dataclass
class FolderListing:
    """What is below a folder, by the path from it with `/`.

    Attributes:
        files: in the order of their names.
        astray: links that lead nowhere or back to a folder above them, and folders that can't be read.
    """

    files: dict[str, Path] = field(default_factory=dict)
    astray: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """A folder to list: what it is called in the listing, and the real folders above it on this way."""

    folder: Path
    name: str
    above: frozenset[_Identity]


def list_files(folder: Path) -> FolderListing:
    """List a folder with its sub-folders, those that are links too; one that is absent has no files."""
    listing = FolderListing()
    visits: Counter[_Identity] = Counter()
    waiting = [_Place(folder, "", frozenset())]
    while waiting:
        linked: list[_Place] = []
        while waiting:
            _list_one(waiting.pop(), waiting, linked, visits, listing)
        # Links after everything that is reached without them: a folder's own name must not be one visit too many.
        waiting = linked[::-1]
    listing.files = dict(sorted(listing.files.items()))
    listing.astray.sort()
    return listing


def _list_one(
    place: _Place, waiting: list[_Place], linked: list[_Place], visits: Counter[_Identity], listing: FolderListing
) -> None:
    """List one folder's files, and put its sub-folders to those that wait."""
    identity = _identity(place.folder)
    if identity is not None:
        visits[identity] += 1
    if identity is None or identity in place.above or visits[identity] > MOST_VISITS:
        listing.astray.append(place.name or ".")
        return
    for entry in _entries(place.folder):
        path = place.folder / entry
        name = f"{place.name}/{entry}".removeprefix("/")
        if path.is_dir():
            below = _Place(path, name, place.above | {identity})
            (linked if path.is_symlink() else waiting).append(below)
        else:
            listing.files[name] = path
            if not path.exists():
                listing.astray.append(name)


def _identity(folder: Path) -> _Identity | None:
    """None for a folder that is not there or can't be read."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if os.access(folder, os.R_OK | os.X_OK) else None


def _entries(folder: Path) -> list[str]:
    return [entry for entry in sorted(os.listdir(folder)) if not entry.startswith(".")]
