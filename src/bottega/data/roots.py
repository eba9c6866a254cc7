"""Which picture files the paths in pair lists, ledgers and tables may name.

Those below the data root, links resolved; and those outside of it that `bottega data` took when their folder was named
to it. It recorded each in the `index.sqlite` beside its tables: COCO mostly lies beside the data root, and styles are
links to where they were. A path that leads anywhere else came from no command of ours.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path, PurePosixPath

from bottega.runtime.databases import connect_read_only, storage_error_of
from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown
from bottega.runtime.paths import could_be_file

INDEX = "index.sqlite"
_PATHS = "SELECT json_extract(extra, '$.path') FROM pictures WHERE reason = ''"


class PictureRoot:
    """Resolves paths that are relative to a data root.

    Args:
        data_root: what the paths are relative to.
        prepared: folders with an index beside those of the data root, such as that of a run that prepared its own.
    """

    def __init__(self, data_root: Path, prepared: Sequence[Path] = ()) -> None:
        self._root = data_root
        self._prepared = tuple(prepared)
        self._real_root = Path(os.path.realpath(data_root))
        self._folders: set[str] = set()  # that lie in the root: resolving the folder of every picture takes seconds
        self._recorded: frozenset[str] = frozenset()
        self._stamp: tuple[tuple[str, int], ...] = ()

    def file(self, name: str, source: str) -> Path:
        """The file of a path.

        Args:
            name: relative to the data root.
            source: where it was read, for the message; such as `pair a_b: content_path`.

        Raises:
            RequestError: it leads out of the data root, and `bottega data` took no such picture.
        """
        if could_be_file(name):
            path = self._root / name
            if self._is_inside(path) or self._is_recorded(name):
                return path
        raise RequestError(
            f"{source} must be a picture below {self._root}, or one that bottega data took for it, received "
            f"{shown(name)}; correct that entry, or prepare the folder of the picture by bottega data with this data "
            "root"
        )

    def _is_inside(self, path: Path) -> bool:
        folder = str(path.parent)
        if folder not in self._folders:
            if not Path(os.path.realpath(folder)).is_relative_to(self._real_root):
                return False
            self._folders.add(folder)
        return not path.is_symlink() or Path(os.path.realpath(path)).is_relative_to(self._real_root)

    def _is_recorded(self, name: str) -> bool:
        if name in self._recorded:
            return True
        indexes = self._indexes()
        stamp = tuple((str(index), index.stat().st_mtime_ns) for index in indexes)
        if stamp == self._stamp:
            return False
        # Read late and once: a list whose pictures all lie in the root never needs it.
        found: set[str] = set()
        for index in indexes:
            found.update(_recorded_in(index, self._root))
        self._recorded, self._stamp = frozenset(found), stamp
        return name in self._recorded

    def _indexes(self) -> list[Path]:
        folders = sorted(self._root.iterdir()) if self._root.is_dir() else []
        candidates = [folder / INDEX for folder in (*folders, *self._prepared)]
        return [index for index in candidates if index.is_file()]


def _recorded_in(index: Path, data_root: Path) -> set[str]:
    """Paths relative to the data root of the pictures that an index records."""
    with ExitStack() as opened:
        try:
            base = connect_read_only(index, opened)
            opened.callback(base.close)
            paths = [str(path) for (path,) in base.execute(_PATHS) if path]
        except sqlite3.Error as error:
            raise storage_error_of(error, index, "delete it and run bottega data again") from error
    found = set(paths)
    # Those of styles are relative to their own folder.
    if index.parent.parent == data_root:
        found.update(f"{index.parent.name}/{path}" for path in paths)
    return found


@lru_cache(maxsize=8)
def _root_of(data_root: Path) -> PictureRoot:
    return PictureRoot(data_root)


def picture_file(data_root: Path | str, name: str, source: str) -> Path:
    """The file that a path in a list names; see `PictureRoot.file`."""
    return _root_of(Path(data_root)).file(name, source)


def label_map_file(data_root: Path, name: str, content_path: str, source: str) -> Path:
    """The file of a content's label map: below the data root, or in the data set that the content itself lies in.

    Raises:
        RequestError: it is in neither.
    """
    root = _root_of(data_root)
    if ".." not in PurePosixPath(content_path).parts:
        return root.file(name, source)
    # `images/PART/NAME` or `PART/images/NAME` in a data set, or `PART/NAME` where there is no folder `images`.
    folder = root.file(content_path, source).parent
    levels = 1 if "images" in (folder.name, folder.parent.name) else 0
    data_set = os.path.realpath(folder.parents[levels])
    path = data_root / name
    if could_be_file(name) and Path(os.path.realpath(path)).is_relative_to(data_set):
        return path
    return root.file(name, source)
