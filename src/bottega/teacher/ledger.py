"""The ledger: one row a try, with everything needed to judge it again, to make it again, and to continue after a kill.

SQLite in WAL mode with `synchronous=FULL`: a committed chunk survives a power cut, an unfinished one leaves nothing.
One writer. A row is `current` until its inputs change; then it stays as history and the target is made again.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import Field

from bottega.runtime.databases import connect_read_only, storage_error_of
from bottega.runtime.errors import FingerprintError, MissingError, RequestError, StorageError
from bottega.runtime.files import parse_json
from bottega.runtime.fingerprint import changes, recorded_then, without_resumable
from bottega.runtime.paths import inside, stays_inside
from bottega.runtime.records import record_of_text, to_record
from bottega.runtime.trust import Depth, add, is_intact, require

LEDGER = "ledger.sqlite"
"""The file's name in a run's folder."""

CONFIGURATIONS = "configurations"
"""The part of a run's fingerprint with the hashes of its models' configurations; earlier versions did not record it."""

SCHEMA_VERSION = 2  # 2: `best` prefers tries whose picture was kept
_RESTORE = "or move the whole folder away, and its targets are made again"
RESTORE = f"put back a copy of the ledger, {_RESTORE}"
_JSON = ("reasons", "scores", "parameters")
# Made once: `json.dumps` makes an encoder for every call. Not orjson, which would halve the time of reading but writes
# NaN as null (docs/log.md, eighth session).
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_SORTED = json.JSONEncoder(ensure_ascii=False, sort_keys=True)

Status = Literal["ok", "failed", "broken"]
"""A picture was made; none came out; content or style can't be read."""

Letter = Annotated[str, Field(pattern="^[ABC]$")]


@dataclass(frozen=True)
class TryRow:
    """One try. Paths of content and style are relative to the data root, `output_path` to the ledger's folder."""

    target: str
    pair_id: str
    content_id: str
    style_id: str
    seed: int
    try_index: int
    rung: str
    status: Status
    grade: Letter
    weight: float
    reasons: list[str]
    scores: dict[str, float]
    parameters: dict[str, object]
    noise_seed: int
    prompt: str
    style: str
    split: str
    content_path: str
    style_path: str
    content_sha256: str
    style_sha256: str
    output_path: str | None
    output_sha256: str | None
    seconds: float
    created_at: str
    fingerprint: str


def picture_file(ledger_file: Path, target: str, output_path: str) -> Path:
    """A target's picture by the path in its row.

    Raises:
        RequestError: the path leads out of the run: to read, overwrite or delete that file is refused.
    """
    return inside(ledger_file.parent, output_path, f"{ledger_file}, target {target}: output_path")


COLUMNS = tuple(field.name for field in fields(TryRow))
_KINDS = {"seed": "INTEGER", "try_index": "INTEGER", "noise_seed": "INTEGER", "weight": "REAL", "seconds": "REAL"}
_OPTIONAL = {"output_path", "output_sha256"}


def _declared(column: str) -> str:
    """A column as the table declares it."""
    declared = f"{column} {_KINDS.get(column, 'TEXT')}"
    return declared if column in _OPTIONAL else f"{declared} NOT NULL"


_BEST = """
SELECT * FROM tries WHERE id IN (
    SELECT id FROM (
        SELECT id, ROW_NUMBER() OVER (
            PARTITION BY target
            ORDER BY status <> 'ok', output_path IS NULL, grade, json_array_length(reasons), try_index
        ) AS place FROM tries WHERE current
    ) WHERE place = 1
);
"""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (name TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT
NOT NULL); CREATE TABLE IF NOT EXISTS tries (
    id INTEGER PRIMARY KEY,
    {", ".join(map(_declared, COLUMNS))},
    current INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX IF NOT EXISTS one_row_a_try ON tries (target, try_index) WHERE current;
CREATE INDEX IF NOT EXISTS by_inputs ON tries (content_sha256, style_sha256, seed) WHERE current;
DROP VIEW IF EXISTS best;
CREATE VIEW best AS {_BEST}
"""
_NAMED = 4  # changed settings that an error names
_AT_ONCE = 500  # names in one query; SQLite before 3.32 allows 999
_PAGE = 2000  # rows read at once


class Scored(NamedTuple):
    """What regrading needs of a try: `reasons` are a `reasons_text`, `kept` is whether its picture is there."""

    id: int
    status: str
    target: str
    try_index: int
    rung: str
    grade: str
    weight: float
    reasons: str
    reason_count: int
    kept: bool
    scores: dict[str, float]


# A tuple and not a frozen dataclass: one is made for each target of a long list that is passed over.
class Known(NamedTuple):
    """What decides whether a target is done: the inputs of its first try, and every file of its tries."""

    content_sha256: str
    style_sha256: str
    prompt: str
    made: bool
    paths: list[str]


class Ledger:
    """The ledger of one run. Use as a context manager, or `close` it.

    Args:
        path: the SQLite file; made where it is not there.
        must_exist: refuse to make a new one.
        read_only: change nothing, not even the older schema of an earlier version; for a folder that may be read-only,
            or that a run works on at this moment. There must be a ledger then.

    Raises:
        MissingError: `must_exist` or `read_only`, and there is none.
        StorageError: not a ledger, an empty one beside targets, or of a newer version than this program knows.
    """

    def __init__(self, path: Path, *, must_exist: bool = False, read_only: bool = False) -> None:
        if (must_exist or read_only) and not path.is_file():
            raise MissingError(f"there is no ledger at {path}; make targets first: bottega teach")
        self.path = path
        self._read_only = read_only
        # Entered with the next commit: each alone costs an fsync.
        self._hashes: dict[str, tuple[str, int, int, str]] = {}
        self._was_intact = not path.exists() or is_intact(path, Depth.QUICK)
        with ExitStack() as opened:
            opened.enter_context(_explained(path))
            if read_only:
                self._db = connect_read_only(path, opened)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._db = sqlite3.connect(path, isolation_level=None)
            opened.callback(self._db.close)
            self._db.row_factory = sqlite3.Row
            if read_only:
                self._read_schema()
            else:
                # With `synchronous=NORMAL`, a power cut could lose a chunk whose pictures the run has already replaced.
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._open()
            self._opened = opened.pop_all()

    def _read_schema(self) -> None:
        """Check the schema; the view of this version is made for this connection alone."""
        version = self._version()
        if version == 0:
            raise StorageError(f"{self.path} is empty, it is no ledger; restore it from a copy: {_RESTORE}")
        if version < SCHEMA_VERSION:
            self._db.executescript(f"CREATE TEMP VIEW best AS {_BEST}")

    def _version(self) -> int:
        """The schema's version; 0 for a file that has none.

        Raises:
            StorageError: it is newer than this program knows.
        """
        known = self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()
        version = int(self.meta("schema_version") or 0) if known else 0
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self.path} has schema version {version}, this program knows {SCHEMA_VERSION}; use a newer bottega"
            )
        return version

    def _open(self) -> None:
        version = self._version()
        if version == 0 or self._is_without_rows():
            self._refuse_to_begin_anew()
        # Rows have the same columns in every version so far: an older ledger only gets the newer view and indexes.
        if version < SCHEMA_VERSION:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} INSERT OR REPLACE INTO meta VALUES ('schema_version', "
                f"'{SCHEMA_VERSION}'); COMMIT;"
            )

    def _is_without_rows(self) -> bool:
        return self._db.execute("SELECT 1 FROM tries LIMIT 1").fetchone() is None

    def _refuse_to_begin_anew(self) -> None:
        """Raise StorageError where what the rows of a lost ledger described is still there."""
        # The lists are written from rows alone; pictures come before their rows, so they show it only where there is
        # no schema, which comes before every picture.
        folder = self.path.parent
        lists = [folder / name for name in ("summary.json", "metadata.jsonl")]
        shown = [path for path in lists if path.is_file() and path.stat().st_size > 0]
        if self._version() == 0:
            shown += islice((folder / "images").glob("*.png"), 1)
        if shown:
            raise StorageError(
                f"{self.path} has no rows, but the run has made targets, such as {shown[0]}: its ledger was emptied or "
                f"lost; restore it from a copy: {_RESTORE}"
            )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, sqlite3.DatabaseError):
            self._opened.close()
            raise storage_error_of(error, self.path) from error
        with _explained(self.path):
            self.close()

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that it can be copied alone, and close."""
        with self._opened:
            if self._hashes and not self._read_only:
                self.commit([])
            if self._read_only:
                return
            # Without this, whoever copies ledger.sqlite alone would miss what is still in ledger.sqlite-wal.
            try:
                busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            except sqlite3.OperationalError:
                # A row is still being read by the error that closes us: that error is reported, and the log is folded
                # in when the file is closed the next time.
                return
            # Before the log goes: whoever finds no log finds the hash of the file. After a kill there is a log, and the
            # file is not held against its hash. A ledger that was damaged before must not become the right one.
            if self._was_intact and not busy and self._db.total_changes:
                add(self.path.parent, {self.path: None}, "kept")

    # --- what belongs to the whole run ------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        """A value that belongs to the whole ledger."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Set such a value."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    @property
    def oracle(self) -> bool:
        """Whether the targets are drawn truths, which no network painted."""
        return self.fingerprint_parts().get("teacher", {}).get("source") == "oracle"

    def fingerprint_parts(self) -> dict[str, dict[str, object]]:
        """The settings that every row depends on, by section; empty where none were recorded.

        Raises:
            StorageError, RequestError: what the ledger has there is no JSON, or of another form.
        """
        text = self.meta("fingerprint_parts")
        if text is None:
            return {}
        return record_of_text(dict[str, dict[str, object]], text, f"{self.path}, meta: fingerprint_parts", RESTORE)

    def require_fingerprint(self, fingerprint: str, parts: Mapping[str, Any], resumable: Collection[str] = ()) -> None:
        """Record what every row depends on, or compare it with what earlier rows were made with.

        Args:
            fingerprint: hash of `parts`.
            parts: the settings by section.
            resumable: names that may differ, such as `teacher.batch_size`.

        Raises:
            FingerprintError: names each value that differs: two settings are never mixed in one run.
        """
        if self.meta("fingerprint_parts") is None:
            self.set_meta("fingerprint_parts", json.dumps(parts, sort_keys=True))
            self.set_meta("fingerprint", fingerprint)
            return
        recorded = self.fingerprint_parts()
        if CONFIGURATIONS not in recorded:  # begun before they were recorded: what they were then, nobody knows
            self.set_meta("fingerprint_parts", json.dumps({**recorded, **_only(parts, CONFIGURATIONS)}, sort_keys=True))
        changed = without_resumable(changes(recorded, recorded_then(parts, recorded, [CONFIGURATIONS])), resumable)
        if not changed:
            return
        named = [f"{change.name} was {change.before!r}, now {change.after!r}" for change in changed[:_NAMED]]
        if len(changed) > _NAMED:
            named.append("…")
        cure = "put it back, or begin another run directory"
        if all(change.name.startswith("thresholds.") for change in changed):
            cure = "grade the run again by the new limits (bottega qc grade --write), or put the old ones back"
        raise FingerprintError(
            f"what a run's targets depend on can't change during the run: {'; '.join(named)}; {cure}"
        )

    def file_hash(self, name: str, path: Path) -> str:
        """SHA-256 of a file's content; computed again only where its size or time changed. "missing" where there is
        none.

        `name` is how the file is called in the ledger: its path relative to the data root, never an absolute one.
        """
        return self.file_hashes({name: path})[name]

    def file_hashes(self, files: Mapping[str, Path | str]) -> dict[str, str]:
        """The same of many files, by their names in the ledger."""
        recorded = self._select("SELECT * FROM files WHERE name IN ({})", list(files))
        known = {row[0]: row for row in recorded}
        hashes: dict[str, str] = {}
        for name, path in files.items():
            hashes[name] = self._hash(name, path, self._hashes.get(name) or known.get(name))
        return hashes

    def _hash(self, name: str, path: Path | str, known: tuple[Any, ...] | None) -> str:
        from bottega.runtime.files import sha256_file

        # Size and time first: reading every picture again would make the start on a long list take minutes.
        try:
            stat = os.stat(path)
            if known and known[1:3] == (stat.st_size, stat.st_mtime_ns):
                return str(known[3])
            digest = sha256_file(Path(path))
        except OSError:
            return "missing"
        self._hashes[name] = (name, stat.st_size, stat.st_mtime_ns, digest)
        return digest

    def _select(self, query: str, names: Sequence[str], *, named: bool = False) -> Iterator[Any]:
        """Rows of a query with `IN ({})` for any number of names, as tuples or by the names of their columns."""
        execute = self._db.execute if named else self._tuples
        for start in range(0, len(names), _AT_ONCE):
            part = list(names[start : start + _AT_ONCE])
            marks = ", ".join("?" * len(part))
            yield from execute(query.format(marks), part).fetchall()

    def _tuples(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """A query whose rows come as plain tuples, which are made in half the time."""
        cursor = self._db.cursor()
        cursor.row_factory = None
        return cursor.execute(query, values)

    # --- rows -------------------------------------------------------------------------------------------------------

    def commit(self, rows: Sequence[TryRow], superseded: Iterable[str] = ()) -> None:
        """Enter all tries of a chunk in one transaction; the current rows of `superseded` targets become history.

        Raises:
            StorageError: the disk is full or the file read-only; nothing of the chunk was entered.
        """
        marks = ", ".join("?" * len(COLUMNS))
        insert = f"INSERT INTO tries ({', '.join(COLUMNS)}) VALUES ({marks})"
        try:
            with _Transaction(self._db):
                # Old rows first: the unique index on (target, try_index) admits one current row of each.
                for target in superseded:
                    self._db.execute("UPDATE tries SET current = 0 WHERE target = ? AND current", (target,))
                self._db.executemany(insert, map(_values, rows))
                self._db.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", self._hashes.values())
            self._hashes.clear()
        except sqlite3.OperationalError as error:
            raise storage_error_of(error, self.path) from error

    def tries(self, targets: Sequence[str]) -> dict[str, list[TryRow]]:
        """The current tries of these targets, in order; targets without a row are absent."""
        query = "SELECT * FROM tries WHERE current AND target IN ({}) ORDER BY target, try_index"
        found: dict[str, list[TryRow]] = {}
        for row in self._select(query, targets, named=True):
            found.setdefault(row["target"], []).append(self._row(row))
        return found

    def known(self, targets: Sequence[str]) -> dict[str, Known]:
        """What decides whether these targets are done; those without a row are absent."""
        query = (
            "SELECT target, content_sha256, style_sha256, prompt, status, output_path FROM tries "
            "WHERE current AND target IN ({}) ORDER BY target, try_index"
        )
        found: dict[str, Known] = {}
        for target, content, style, prompt, status, path in self._select(query, targets):
            self._require_inside(target, path)
            if target not in found:  # its first try: the inputs of all
                found[target] = Known(content, style, prompt, False, [])
            if path is not None:
                found[target].paths.append(path)
            if status == "ok" and not found[target].made:
                found[target] = found[target]._replace(made=True)
        return found

    def same_inputs(self, content_sha256: str, style_sha256: str, seed: int, prompt: str) -> list[list[TryRow]]:
        """Targets made from the same bytes with the same seed and prompt, each as its list of tries."""
        where = "current AND content_sha256 = ? AND style_sha256 = ? AND seed = ? AND prompt = ?"
        query = f"SELECT DISTINCT target FROM tries WHERE {where} ORDER BY target"
        found = self._tuples(query, (content_sha256, style_sha256, seed, prompt))
        targets = [target for (target,) in found]
        return list(self.tries(targets).values())

    def rename(self, old: str, new: Sequence[TryRow]) -> None:
        """Give a target's current rows new names and paths (`new`, one for each try) in one transaction."""
        keys = (
            "target", "pair_id", "content_id", "style_id", "style", "split",
            "content_path", "style_path", "output_path",
        )  # fmt: skip
        marks = ", ".join(f"{key} = ?" for key in keys)
        change = f"UPDATE tries SET {marks} WHERE target = ? AND try_index = ? AND current"
        with _Transaction(self._db):
            for row in new:
                values = [getattr(row, key) for key in keys]
                self._db.execute(change, [*values, old, row.try_index])

    def best(self) -> Iterator[TryRow]:
        """The best try of each target (grade, then fewest reasons, then the earliest), in the order of the work."""
        return map(self._row, self._db.execute("SELECT * FROM best ORDER BY seed, id"))

    def best_values(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Some columns, unparsed, of the best try of each target that has a picture, in the order of the work."""
        query = f"SELECT {', '.join(columns)} FROM best WHERE output_path IS NOT NULL ORDER BY seed, id"
        return iter(self._tuples(query))

    def pictures(self) -> Iterator[tuple[str, str, str]]:
        """(output_path, content_path, style_path) of every current try whose picture was kept, by content and style."""
        columns = "target, output_path, content_path, style_path"
        query = f"SELECT {columns} FROM tries WHERE current AND output_path IS NOT NULL ORDER BY target, try_index"
        for target, output_path, content_path, style_path in self._tuples(query):
            self._require_inside(target, output_path)
            yield output_path, content_path, style_path

    def picture_hashes(self) -> Iterator[tuple[str, str]]:
        """(output_path, output_sha256) of every current try whose picture was kept."""
        query = "SELECT target, output_path, output_sha256 FROM tries WHERE current AND output_path IS NOT NULL"
        for target, path, sha256 in self._tuples(query):
            self._require_inside(target, path)
            if sha256 is not None:
                yield path, sha256

    def current(self) -> Iterator[TryRow]:
        """All current tries in the order they were entered."""
        return map(self._row, self._db.execute("SELECT * FROM tries WHERE current ORDER BY id"))

    def retried_values(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Some columns, unparsed, of the current tries of all targets that have more than one, target by target,
        in order.
        """
        many = "SELECT target FROM tries WHERE current AND try_index > 0"
        where = f"WHERE current AND target IN ({many}) ORDER BY seed, target, try_index"
        return iter(self._tuples(f"SELECT {', '.join(columns)} FROM tries {where}"))

    def first_values(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Some columns, unparsed, of every target's first try, unless its inputs were broken, in the order of entry."""
        where = "WHERE current AND try_index = 0 AND status <> 'broken' ORDER BY id"
        return iter(self._tuples(f"SELECT {', '.join(columns)} FROM tries {where}"))

    def first_scores(self) -> Iterator[dict[str, float]]:
        """The raw scores of every target's first try, unless its inputs were broken."""
        query = "SELECT scores FROM tries WHERE current AND try_index = 0 AND status <> 'broken'"
        return (scores_of(row[0], self.path) for row in self._db.execute(query))

    def count(self) -> int:
        """Number of targets that have a row."""
        first = "SELECT COUNT(*) FROM tries INDEXED BY one_row_a_try WHERE current AND try_index = 0"
        return int(self._db.execute(first).fetchone()[0])  # the index alone: 40 times as fast as the rows

    def seconds(self) -> float:
        """Time that all current tries took together."""
        total = "SELECT COALESCE(SUM(seconds), 0) FROM tries WHERE current"
        return float(self._db.execute(total).fetchone()[0])

    def regrade(self, graded: Iterable[tuple[str, float, str, int]], meta: Mapping[str, str]) -> None:
        """Set (grade, weight, `reasons_text`) of rows by id, and values of the whole ledger, in one transaction."""
        with _Transaction(self._db):
            self._db.executemany("UPDATE tries SET grade = ?, weight = ?, reasons = ? WHERE id = ?", graded)
            for key, value in meta.items():
                self.set_meta(key, value)

    def add_scores(self, found: Mapping[str, Mapping[str, float]], replaced: Collection[str] = ()) -> int:
        """Add scores that current rows do not have yet, by the path of their picture; returns how many rows changed.

        Scores that a row has stay: the teacher measured them with what is not on the disk any more.

        Args:
            found: by path.
            replaced: scores that are taken out of the row first.
        """
        # Else each picture would be looked for in the whole table.
        self._db.execute("CREATE INDEX IF NOT EXISTS by_output ON tries (output_path) WHERE current")
        changed = 0
        with _Transaction(self._db):
            for path, scores in found.items():
                select = "SELECT id, scores FROM tries WHERE current AND output_path = ?"
                for number, kept in self._db.execute(select, [path]).fetchall():
                    known = {name: value for name, value in scores_of(kept, self.path).items() if name not in replaced}
                    added = {name: value for name, value in scores.items() if name not in known}
                    if added:
                        text = _SORTED.encode({**known, **added})
                        self._db.execute("UPDATE tries SET scores = ? WHERE id = ?", [text, number])
                        changed += 1
        return changed

    def scored(self) -> Iterator[Scored]:
        """All that regrading needs of every current row, target by target, its tries in order.

        Read a page at a time, so that rows may be changed in between and memory stays flat.
        """
        query = (
            "SELECT id, status, target, try_index, rung, grade, weight, reasons, json_array_length(reasons), "
            "output_path IS NOT NULL, scores FROM tries WHERE current AND (target, try_index) > (?, ?) "
            "ORDER BY target, try_index LIMIT ?"
        )
        # By key, not by OFFSET, which reads all rows before the page again; no cursor is open between two pages, so the
        # caller may write.
        last = ("", -1)
        while page := self._tuples(query, (*last, _PAGE)).fetchall():
            parsed = scores_of_many([row[-1] for row in page], self.path)
            for row, scores in zip(page, parsed, strict=True):
                yield Scored._make((*row[:-1], scores))
            last = page[-1][2:4]

    def _row(self, row: sqlite3.Row) -> TryRow:
        """A row as it was read, checked: a ledger may be damaged, or edited by hand.

        Raises:
            RequestError: a value is not what its column holds, or the picture is outside of the run.
        """
        target = row["target"]
        where = f"{self.path}, target {target}"
        values: dict[str, object] = {name: row[name] for name in COLUMNS}
        for name in _JSON:
            values[name] = parse_json(str(row[name]), f"{where}: {name}", RESTORE)
        self._require_inside(target, row["output_path"])
        return to_record(TryRow, values, where, RESTORE)

    def picture_file(self, target: str, output_path: str) -> Path:
        """See `picture_file`."""
        return picture_file(self.path, target, output_path)

    def _require_inside(self, target: str, output_path: str | None) -> None:
        """The same refusal for every row that is read, by the path's text alone: a long ledger is read in seconds."""
        if output_path is not None and not stays_inside(output_path):
            self.picture_file(target, output_path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An error of SQLite within this block, which is about the ledger at `path`, says what is wrong and what helps."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise storage_error_of(error, path) from error


def require_intact(path: Path) -> None:
    """Refuse a ledger that is not what was written; one whose log is open, after a kill, is not compared.

    Raises:
        DamagedError: says what to do.
    """
    require(path, f"restore it from a copy, {_RESTORE}")


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, or ROLLBACK on any error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def _only(parts: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {name: parts[name]} if name in parts else {}


def reasons_text(reasons: Sequence[str]) -> str:
    """Reasons as the ledger has them: a JSON list."""
    return _ENCODER.encode(list(reasons)) if reasons else "[]"


Cell = TypeVar("Cell")
Measures = dict[str, int | float]
"""Scores as a row has them: a whole number stays one, so that what is written again has the same text."""


def scores_of(text: object, ledger: Path) -> Measures:
    """The scores of a row, from its cell; raises as `bottega.runtime.records.record_of_text`."""
    return record_of_text(Measures, str(text), f"{ledger}: scores", RESTORE)


def reasons_of(text: object, ledger: Path) -> list[str]:
    """The reasons of a row, likewise."""
    return record_of_text(list[str], str(text), f"{ledger}: reasons", RESTORE)


def scores_of_many(texts: Sequence[object], ledger: Path) -> list[Measures]:
    """The scores of several rows, read in one call, which takes half the time of one call each."""
    many = f"[{','.join(map(str, texts))}]"
    found = record_of_text(list[Measures], many, f"{ledger}: scores", RESTORE)
    return _one_each(found, texts, ledger)


def changes_of_many(texts: Sequence[tuple[object, object]], ledger: Path) -> list[tuple[list[str], dict[str, object]]]:
    """(reasons, parameters) of several rows, from their two cells."""
    many = ",".join(f"[{reasons}, {parameters}]" for reasons, parameters in texts)
    kind = list[tuple[list[str], dict[str, object]]]
    found = record_of_text(kind, f"[{many}]", f"{ledger}: reasons and parameters", RESTORE)
    return _one_each(found, texts, ledger)


def _one_each(found: list[Cell], texts: Sequence[object], ledger: Path) -> list[Cell]:
    """The values, refused where a cell with a comma outside of its object was two of them."""
    if len(found) != len(texts):
        raise RequestError(f"{ledger}: each row should have one JSON value in a cell; {RESTORE}")
    return found


def _values(row: TryRow) -> list[Any]:
    """A row as the table has it, in the order of its columns."""
    encoded = {
        "reasons": reasons_text(row.reasons),
        "scores": _SORTED.encode(row.scores),
        "parameters": _SORTED.encode(row.parameters),
    }
    return [encoded[name] if name in encoded else getattr(row, name) for name in COLUMNS]
