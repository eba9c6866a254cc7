"""Giving style pictures their ids and their files in `images/`: a link, a copy, or a converted PNG."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bottega.data.ids import Ids
from bottega.data.index import Index, Inspection, PictureRow
from bottega.data.ingest import SourcePicture, find_twins
from bottega.data.pictures import open_picture, read_kind
from bottega.runtime.errors import PictureError, StorageError
from bottega.runtime.files import atomic_path, storage_error, write_bytes, write_png
from bottega.runtime.paths import stays_inside
from bottega.runtime.trust import Depth, is_intact

LOGGER = logging.getLogger(__name__)
LARGEST_CONVERTED_SIDE = 4096
"""Pixels that the long side of an enormous picture keeps when it is converted."""

_LABELS = ("artist", "style", "genre")


class Placed(TypedDict, total=False):
    """Where a picture's file is, and what became of it; kept with its row in the index.

    Attributes:
        path: relative to the data set's folder.
        converted: form and size of the PNG that it was converted to.
        written: that PNG's hash.
        file: whether the source is a file, which is linked or copied.
    """

    path: str
    converted: str
    written: str
    file: bool


class Placement:
    """Gives an inspected picture its id and its file in `images/`; called in source order."""

    def __init__(self, directory: Path, index: Index, *, copy: bool, max_pixels: int) -> None:
        self._directory = directory
        self._index = index
        self._copy = copy
        self._max_pixels = max_pixels
        self._ids = Ids(index.ids())
        (directory / "images").mkdir(parents=True, exist_ok=True)

    def is_in_place(self, row: PictureRow) -> bool:
        """Whether the row's file is still as this run would make it."""
        if not row.usable:
            return True
        path = self._directory / str(row.extra["path"])
        should_be_link = bool(row.extra.get("file")) and not self._copy
        if not path.exists() or path.is_symlink() != should_be_link:
            return False
        # By size and time alone where these are the recorded ones: WikiArt has 40 GB.
        return is_intact(path, Depth.QUICK)

    def __call__(self, picture: SourcePicture, inspection: Inspection) -> PictureRow:
        labels = {name: value for name, value in picture.extra.items() if name != "wanted"}
        row = PictureRow(picture.source, picture.stamp, None, inspection, labels)
        if inspection.reason:
            return row
        twins = find_twins(self._index, picture.source, inspection.sha256)
        twin = _with_labels(twins.there, labels)
        if twin is not None:
            return row.rejected("duplicate", f"the same bytes and labels as {twin.id}")
        former = _with_labels(twins.moved, labels) or next(iter(twins.moved), None)
        identity = self._identity(picture, inspection, former)
        try:
            placed = self._shared_file(twins.there) or self._place(picture, inspection, identity)
        except PictureError as error:
            return row.rejected("broken", str(error))
        return PictureRow(picture.source, picture.stamp, identity, inspection, {**labels, **placed})

    def _identity(self, picture: SourcePicture, inspection: Inspection, former: PictureRow | None) -> str:
        """The id of an earlier run, for targets are named after it; else a new one from the file's name."""
        known = self._index.get(picture.source)
        if known is not None and known.id:
            return known.id
        if former is not None and former.id:
            self._index.drop(former.source)  # an id stands once in the index
            return former.id
        wanted = str(picture.extra["wanted"])
        return self._ids.give(wanted or f"{picture.extra['artist']}-{inspection.sha256[:10]}")

    def _shared_file(self, same: list[PictureRow]) -> Mapping[str, object]:
        """Identical bytes under another label share one file; nothing where there is none in place."""
        # 1 349 paintings of WikiArt stand under two labels (docs/data.md).
        for row in same:
            if self.is_in_place(row):
                return {name: row.extra[name] for name in Placed.__annotations__ if name in row.extra}
        return {}

    def _place(self, picture: SourcePicture, inspection: Inspection, identity: str) -> Placed:
        kind = inspection.kind
        assert kind is not None  # a usable picture has one
        if not kind.plain or kind.pixels > self._max_pixels:
            path = f"images/{identity}.png"
            converted, written = _convert(picture.content, self._directory / path, self._max_pixels)
            return {"path": path, "converted": converted, "written": written}
        # Unchanged: decoding and encoding again would cost quality. The ending says what the bytes are.
        path = f"images/{identity}{kind.extension}"
        if isinstance(picture.content, bytes):
            write_bytes(self._directory / path, picture.content)
            return {"path": path}
        if self._copy:
            with atomic_path(self._directory / path) as draft:
                shutil.copyfile(picture.content, draft)
        else:
            _link(self._directory / path, picture.content)
        return {"path": path, "file": True}

    def unlink(self, rows: Sequence[PictureRow]) -> None:
        """Take away the links of pictures whose source is gone, unless another row shares them; a file stays.

        Its picture is not in the tables any more, but a file may be the last copy: the source is not there.
        """
        kept = 0
        for row in rows:
            name = str(row.extra.get("path", ""))
            if not row.usable or not stays_inside(name) or self._index.same_bytes(row.inspection.sha256):
                continue
            path = self._directory / name
            if path.is_symlink():
                path.unlink()
            if path.is_file():
                kept += 1
        if kept:
            LOGGER.warning(
                "%s: %d pictures left meta.csv, for their source is gone; their files are kept in images/",
                self._directory,
                kept,
            )


def _with_labels(rows: Sequence[PictureRow], labels: Mapping[str, Any]) -> PictureRow | None:
    """The first row of these artist, style and genre."""
    for row in rows:
        if all(row.extra[name] == labels[name] for name in _LABELS):
            return row
    return None


def _convert(content: Path | bytes, path: Path, max_pixels: int) -> tuple[str, str]:
    """Write a lossless upright 8-bit RGB PNG, an enormous picture scaled down; returns what it is and its hash."""
    picture = open_picture(content, max_pixels=max_pixels)
    if max(picture.size) > LARGEST_CONVERTED_SIDE and read_kind(content).pixels > max_pixels:
        picture.thumbnail((LARGEST_CONVERTED_SIDE, LARGEST_CONVERTED_SIDE))
    written = write_png(path, np.asarray(picture, dtype=np.uint8))
    return f"PNG RGB 8-bit {picture.width}x{picture.height}", written


def _link(path: Path, target: Path) -> None:
    """A relative link, put in place at once: a data root keeps its pictures when both are moved together."""
    draft = path.with_name(f".{path.name}.tmp")
    try:
        draft.unlink(missing_ok=True)
        draft.symlink_to(os.path.relpath(target.resolve(), path.parent.resolve()))
        os.replace(draft, path)
    except NotImplementedError as error:
        raise StorageError(f"{path.parent} can hold no links; use --mode copy") from error
    except OSError as error:
        reason = storage_error(error, path)
        raise StorageError(f"{reason}; if this file system knows no links, use --mode copy") from error
