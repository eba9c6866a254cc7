"""What is known of every source picture, on disk, so that a stopped run continues and a second one has nothing to do.

One SQLite file beside each data set's outputs. It is a cache of inspections (fingerprints, verdicts) and the memory of
two decisions that must outlive a run: a picture's id and its split. Outputs are written from it, in source order.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from bottega.data import similar
from bottega.data.pictures import Kind, UnusablePictureError, read_bytes, read_kind, reduced
from bottega.runtime.databases import storage_error_of
from bottega.runtime.errors import PictureError, StorageError
from bottega.runtime.locks import LOCK, lock

SCHEMA_VERSION = 1
_CURE = (
    "delete it (with its -wal and -shm, if there are any) and run the same command again: every picture is then "
    "inspected again"
)
_SIGNED = 1 << 63  # subtracted from hashes: SQLite's integers are signed, the hashes have 64 bits without a sign
_LAST = "\U0010ffff"  # sorts behind every other character
_COLUMNS = "source, stamp, id, sha256, reason, detail, difference, frequency, thumb, extra"
_SCHEMA = """
CREATE TABLE pictures (
    source TEXT PRIMARY KEY, stamp TEXT NOT NULL, id TEXT UNIQUE, sha256 TEXT NOT NULL,
    reason TEXT NOT NULL, detail TEXT NOT NULL, difference INTEGER, frequency INTEGER, thumb BLOB, extra TEXT NOT NULL);
CREATE INDEX pictures_sha256 ON pictures (sha256);
CREATE TABLE splits (id TEXT PRIMARY KEY, split TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Inspection:
    """What reading one picture found; `reason` is empty for a usable one. It needs no neighbours and no order."""

    sha256: str = ""
    reason: str = ""
    detail: str = ""
    kind: Kind | None = None
    difference: int = 0
    frequency: int = 0
    thumb: bytes = b""
    statistics: Mapping[str, float] = field(default_factory=dict)


Measure = Callable[[Image.Image], dict[str, float]]
"""Takes further statistics of a decoded picture."""


@dataclass(frozen=True)
class PictureRow:
    """One source picture in the index; rows are ordered by `source`. `extra` is the data set's own."""

    source: str
    stamp: str
    id: str | None
    inspection: Inspection
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether nothing speaks against the picture."""
        return not self.inspection.reason

    def rejected(self, reason: str, detail: str) -> PictureRow:
        """The same row with a verdict against it, and no id."""
        return replace(self, id=None, inspection=replace(self.inspection, reason=reason, detail=detail))


def inspect_picture(
    source: Path | bytes, *, min_side: int, max_pixels: int, measure: Measure | None = None
) -> Inspection:
    """Read, hash, decode and fingerprint one picture. A bad one gives its reason, never an exception.

    Args:
        source: a file, or a file's bytes.
        min_side: pixels that the short side must have.
        max_pixels: pixels beyond which a picture (but a JPEG, see `pictures.reduced`) is not decoded.
        measure: further statistics to take of the decoded picture.
    """
    sha256 = ""
    try:
        data = source if isinstance(source, bytes) else _read(source)
        sha256 = hashlib.sha256(data).hexdigest()
        kind = read_kind(data)
        if min(kind.width, kind.height) < min_side:
            size = f"{kind.width}x{kind.height}"
            raise UnusablePictureError("too-small", f"{size} pixels, the short side needs {min_side}")
        picture = reduced(data, similar.HASH_SIDE, max_pixels=max_pixels)
    except UnusablePictureError as error:
        return Inspection(sha256, error.reason, str(error))
    except PictureError as error:
        return Inspection(sha256, "broken", str(error))
    return Inspection(
        sha256=sha256,
        kind=kind,
        difference=similar.difference_hash(picture),
        frequency=similar.frequency_hash(picture),
        thumb=similar.thumbnail(picture),
        statistics=measure(picture) if measure is not None else {},
    )


def file_stamp(path: Path) -> str:
    """Changes when the file does: its size and modification time; "-" where there is none."""
    try:
        status = path.stat()
    except OSError:
        return "-"
    return f"{status.st_size}-{status.st_mtime_ns}"


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except FileNotFoundError as error:
        raise UnusablePictureError("missing", f"there is no file {path.name}") from error
    except OSError as error:
        raise UnusablePictureError("broken", f"{path.name} can't be read ({error.strerror})") from error


class Index:
    """The index file, opened for one writer, which has its folder's lock. Rows become durable with `commit`, in the
    order they were put.

    Raises:
        LockedError: another process prepares this folder.
        StorageError: the file can't be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = ExitStack()
        self._lock.enter_context(lock(path.parent / LOCK, "preparing data"))
        try:
            self._base = sqlite3.connect(path, isolation_level=None)
            # With these two a power cut may take the last commits, but never damages the file: what is lost is
            # inspected again.
            self._base.execute("PRAGMA journal_mode=WAL")
            self._base.execute("PRAGMA synchronous=NORMAL")
            self._check_schema(path)
            self._base.execute("CREATE TEMP TABLE present (source TEXT PRIMARY KEY)")
            self._base.execute("BEGIN")
        except sqlite3.Error as error:
            self._lock.close()
            raise storage_error_of(error, path, _CURE) from error

    def _check_schema(self, path: Path) -> None:
        version = self._base.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._base.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise StorageError(f"{path} has schema {version}, {SCHEMA_VERSION} is known; delete it to begin again")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if not isinstance(error, sqlite3.Error):  # on any other error what was inspected so far is kept
                self._base.execute("COMMIT")
            self._base.close()
        if isinstance(error, sqlite3.Error):
            raise storage_error_of(error, self._path, _CURE) from error

    def commit(self) -> None:
        """Make everything put so far durable."""
        self._base.execute("COMMIT")
        self._base.execute("BEGIN")

    def get(self, source: str) -> PictureRow | None:
        """The row of a source, or None."""
        query = f"SELECT {_COLUMNS} FROM pictures WHERE source = ?"
        found = self._base.execute(query, (_as_text(source),)).fetchone()
        return None if found is None else _to_row(found)

    def put(self, row: PictureRow) -> None:
        """Insert or replace the row of a source."""
        inspection = row.inspection
        extra = dict(row.extra)
        if inspection.kind is not None:
            extra["kind"] = list(astuple(inspection.kind))
        if inspection.statistics:
            extra["statistics"] = dict(inspection.statistics)
        values = (
            _as_text(row.source),
            row.stamp,
            row.id,
            inspection.sha256,
            inspection.reason,
            inspection.detail,
            inspection.difference - _SIGNED,
            inspection.frequency - _SIGNED,
            inspection.thumb,
            json.dumps(extra),
        )
        marks = ",".join("?" * len(values))
        self._base.execute(f"INSERT OR REPLACE INTO pictures ({_COLUMNS}) VALUES ({marks})", values)

    def ids(self) -> list[str]:
        """All ids given so far."""
        return [found[0] for found in self._base.execute("SELECT id FROM pictures WHERE id IS NOT NULL")]

    def has_usable(self) -> bool:
        """Whether any picture can be used."""
        return self._base.execute("SELECT 1 FROM pictures WHERE reason = '' LIMIT 1").fetchone() is not None

    def rows(self, prefix: str = "") -> Iterator[PictureRow]:
        """The rows whose source begins with `prefix`, in source order, without their thumbnails."""
        columns = _COLUMNS.replace("thumb", "NULL")
        query = f"SELECT {columns} FROM pictures WHERE source >= ? AND source < ? ORDER BY source"
        for found in self._base.execute(query, (prefix, prefix + _LAST)):
            yield _to_row(found)

    def same_bytes(self, sha256: str) -> list[PictureRow]:
        """The usable rows whose files have these bytes, in source order."""
        query = f"SELECT {_COLUMNS} FROM pictures WHERE sha256 = ? AND id IS NOT NULL ORDER BY source"
        return [_to_row(found) for found in self._base.execute(query, (sha256,))]

    def mark_present(self, source: str) -> None:
        """Remember that a source still exists; see `is_present` and `absent`."""
        self._base.execute("INSERT OR IGNORE INTO present VALUES (?)", (_as_text(source),))

    def mark_all_present(self, sources: Iterable[str]) -> int:
        """Remember all sources that exist, before any is read; returns their number.

        A picture that was rejected as the copy of one that is gone is forgotten, so that it is judged again.
        """
        count = 0
        for source in sources:
            self.mark_present(source)
            count += 1
        original = (
            "SELECT 1 FROM pictures o WHERE o.sha256 = pictures.sha256 AND o.id IS NOT NULL "
            "AND o.source IN (SELECT source FROM present)"
        )
        self._base.execute(f"DELETE FROM pictures WHERE reason = 'duplicate' AND NOT EXISTS ({original})")
        return count

    def is_present(self, source: str) -> bool:
        """Whether a source was marked present since the index was opened."""
        return self._base.execute("SELECT 1 FROM present WHERE source = ?", (_as_text(source),)).fetchone() is not None

    def absent(self) -> list[PictureRow]:
        """The rows of sources that were not marked present since the index was opened, without their thumbnails."""
        columns = _COLUMNS.replace("thumb", "NULL")
        query = f"SELECT {columns} FROM pictures WHERE source NOT IN (SELECT source FROM present) ORDER BY source"
        return [_to_row(found) for found in self._base.execute(query)]

    def drop_absent(self) -> list[PictureRow]:
        """Drop and return what `absent` returns."""
        gone = self.absent()
        for row in gone:
            self.drop(row.source)
        return gone

    def drop(self, source: str) -> None:
        """Forget a source, so that its id is free."""
        self._base.execute("DELETE FROM pictures WHERE source = ?", (source,))

    def groups(self) -> dict[str, int]:
        """For each id of a usable picture the number of its group of identical or near-identical pictures."""
        # By id: a group is named after its first member, which must not depend on when a picture came.
        query = "SELECT id, difference, frequency, thumb FROM pictures WHERE id IS NOT NULL ORDER BY id"
        ids: list[str] = []
        thumbs = bytearray()
        hashes: list[int] = []
        for identity, difference, frequency, thumb in self._base.execute(query):
            ids.append(identity)
            hashes += [difference + _SIGNED, frequency + _SIGNED]
            thumbs += thumb
        by_picture = np.array(hashes, dtype=np.uint64).reshape(-1, 2)  # [N, 2]
        pixels = np.frombuffer(bytes(thumbs), dtype=np.uint8).reshape(-1, similar.THUMB_BYTES)  # [N, 192]
        numbers = similar.groups(by_picture[:, 0], by_picture[:, 1], pixels)
        return dict(zip(ids, numbers.tolist(), strict=True))

    def splits(self) -> dict[str, str]:
        """The split of each id, as earlier runs decided."""
        return dict(self._base.execute("SELECT id, split FROM splits"))

    def put_splits(self, splits: Mapping[str, str]) -> None:
        """Remember decisions on splits; those of pictures that are not there stay, for a picture may come back."""
        # Forgotten, a picture trained on could become a test picture when its disk is mounted again.
        self._base.executemany("INSERT OR REPLACE INTO splits VALUES (?, ?)", splits.items())


def _as_text(source: str) -> str:
    """A source's name as the index has it; one that is not UTF-8, which is rejected, with its bytes written out."""
    return source.encode("utf-8", "backslashreplace").decode()


def _to_row(found: tuple[Any, ...]) -> PictureRow:
    source, stamp, identity, sha256, reason, detail, difference, frequency, thumb, text = found
    extra = json.loads(text)
    kind = Kind(*extra.pop("kind")) if "kind" in extra else None
    inspection = Inspection(
        sha256=sha256,
        reason=reason,
        detail=detail,
        kind=kind,
        difference=difference + _SIGNED,
        frequency=frequency + _SIGNED,
        thumb=thumb or b"",
        statistics=extra.pop("statistics", {}),
    )
    return PictureRow(source, stamp, identity, inspection, extra)
