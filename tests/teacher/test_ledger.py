"""One row a try, whole chunks or nothing, the best try and not the last, and fingerprints that name what changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bottega.quality.config import Thresholds
from bottega.runtime.errors import BottegaError, FingerprintError, MissingError, StorageError
from bottega.teacher.ledger import SCHEMA_VERSION, Ledger, TryRow
from bottega.teacher.regrade import regrade

ROW = TryRow(
    target="c_s_seed0", pair_id="c_s", content_id="c", style_id="s", seed=0, try_index=0, rung="first", status="ok",
    grade="C", weight=0.0, reasons=["edge_64: lost"], scores={"finite": 1.0, "bright": 0.9, "spread": 0.2, "edge_64":
    0.1, "edge_128": 0.5, "content_sim": 0.9, "hf_ratio": 1.0, "change": 0.2, "style_gain": 0.1},
    parameters={"strength": 0.4}, noise_seed=2**63 - 1, prompt="a", style="x", split="train", content_path="c.png",
    style_path="s.png", content_sha256="1", style_sha256="2", output_path="images/c_s_seed0.png", output_sha256="3",
    seconds=1.0, created_at="2026-01-01T00:00:00+00:00", fingerprint="f",
)  # fmt: skip


def test_a_row_comes_back_as_it_was_entered(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])
        assert ledger.tries([ROW.target, "none"]) == {ROW.target: [ROW]}
        assert ledger.count() == 1
    with Ledger(tmp_path / "l.sqlite", must_exist=True) as ledger:
        assert list(ledger.current()) == [ROW]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("scores", "{", r"scores is not valid JSON .*received '{'"),
        ("scores", '{"edge_64": "high"}', r"scores\.edge_64: .* received 'high'"),
        ("grade", "D", "grade: .* received 'D'"),
        ("status", "lost", "status: .* received 'lost'"),
        ("output_path", "../x.png", "output_path must be a path inside"),
    ],
)
def test_a_damaged_row_is_refused_by_target_and_column(tmp_path: Path, column: str, value: str, message: str) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])
    with closing(sqlite3.connect(tmp_path / "l.sqlite")) as db, db:
        db.execute(f"UPDATE tries SET {column} = ?", (value,))
    with Ledger(tmp_path / "l.sqlite") as ledger, pytest.raises(BottegaError, match=rf"target {ROW.target}.*{message}"):
        list(ledger.current())


def test_the_best_try_is_the_best_and_not_the_last(tmp_path: Path) -> None:
    tries = [ROW, replace(ROW, try_index=1, grade="B"), replace(ROW, try_index=2, grade="C", reasons=[])]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit(tries)
        assert [row.try_index for row in ledger.best()] == [1]
        other = [replace(row, target="d", grade="C", reasons=["a", "b", "c"][: 3 - row.try_index]) for row in tries]
        other.append(replace(other[-1], try_index=3, status="failed", grade="A", reasons=[]))
        ledger.commit(other)
        assert {row.target: row.try_index for row in ledger.best()} == {ROW.target: 1, "d": 2}


def test_a_chunk_with_one_impossible_row_enters_nothing(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        with pytest.raises(sqlite3.IntegrityError):
            ledger.commit([ROW, replace(ROW, target="d"), ROW])
        assert ledger.count() == 0


def test_superseded_tries_stay_as_history(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])
        ledger.commit([replace(ROW, content_sha256="9")], superseded=[ROW.target])
        assert [row.content_sha256 for row in ledger.current()] == ["9"]
    assert sqlite3.connect(tmp_path / "l.sqlite").execute("SELECT COUNT(*) FROM tries").fetchone() == (2,)


def test_it_is_written_through_a_log_that_survives_a_power_cut(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert ledger._db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert ledger._db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_a_changed_setting_is_refused_by_its_name(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.require_fingerprint("a", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.2}})
        ledger.require_fingerprint("a", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.2}})
        with pytest.raises(FingerprintError, match=r"teacher\.strength was 0\.4, now 0\.5"):
            ledger.require_fingerprint("b", {"teacher": {"strength": 0.5}, "thresholds": {"edge_64_c": 0.2}})
        with pytest.raises(FingerprintError, match="qc grade --write"):
            ledger.require_fingerprint("b", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.3}})
        ledger.require_fingerprint("c", {"teacher": {}, "thresholds": {"edge_64_c": 0.2}}, {"teacher.strength"})


def test_what_is_no_ledger_or_too_new_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="bottega teach"):
        Ledger(tmp_path / "none.sqlite", must_exist=True)
    (tmp_path / "bad.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="is damaged"):
        Ledger(tmp_path / "bad.sqlite")
    with Ledger(tmp_path / "new.sqlite") as ledger:
        ledger.set_meta("schema_version", "99")
    with pytest.raises(StorageError, match="newer"):
        Ledger(tmp_path / "new.sqlite")


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path) -> None:
    file = tmp_path / "c.png"
    file.write_bytes(b"one")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        first = ledger.file_hash("c.png", file)
        ledger.commit([])
        assert ledger.file_hash("c.png", file) == first
        file.write_bytes(b"other bytes")
        assert ledger.file_hash("c.png", file) != first
        assert ledger.file_hash("d.png", tmp_path / "d.png") == "missing"


def test_regrading_needs_scores_alone_and_says_what_changes(tmp_path: Path) -> None:
    better = replace(ROW, try_index=1, grade="B", scores={**ROW.scores, "edge_64": 0.22}, output_path="tries/x.png")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.require_fingerprint("a", {"thresholds": Thresholds().settings()})
        ledger.commit([ROW, better])
        softer = Thresholds(edge_64_c=0.05, edge_64_a=0.08)
        told = regrade(ledger, softer)
        assert (told["changes"], told["after"], told["another_try_wins"]) == ({"B->A": 1, "C->A": 1}, {"A": 1}, 1)
        assert [row.grade for row in ledger.current()] == ["C", "B"]
        regrade(ledger, softer, write=True)
        assert [(row.try_index, row.grade, row.weight) for row in ledger.best()] == [(0, "A", 1.0)]
        ledger.require_fingerprint("b", {"thresholds": softer.settings()})


_VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE files (name TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT NOT NULL);
CREATE TABLE tries (
    id INTEGER PRIMARY KEY, target TEXT NOT NULL, pair_id TEXT NOT NULL, content_id TEXT NOT NULL,
    style_id TEXT NOT NULL, seed INTEGER NOT NULL, try_index INTEGER NOT NULL, rung TEXT NOT NULL, status TEXT NOT NULL,
    grade TEXT NOT NULL, weight REAL NOT NULL, reasons TEXT NOT NULL, scores TEXT NOT NULL, parameters TEXT NOT NULL,
    noise_seed INTEGER NOT NULL, prompt TEXT NOT NULL, style TEXT NOT NULL, split TEXT NOT NULL,
    content_path TEXT NOT NULL, style_path TEXT NOT NULL, content_sha256 TEXT NOT NULL, style_sha256 TEXT NOT NULL,
    output_path TEXT, output_sha256 TEXT, seconds REAL NOT NULL, created_at TEXT NOT NULL, fingerprint TEXT NOT NULL,
    current INTEGER NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX one_row_a_try ON tries (target, try_index) WHERE current;
CREATE INDEX by_inputs ON tries (content_sha256, style_sha256, seed) WHERE current;
CREATE VIEW best AS SELECT * FROM (
    SELECT *, ROW_NUMBER() OVER (
        PARTITION BY target ORDER BY status <> 'ok', grade, json_array_length(reasons), try_index
    ) AS place FROM tries WHERE current
) WHERE place = 1;
INSERT INTO meta VALUES ('schema_version', '1');
INSERT INTO tries VALUES (1, 'c_s_seed0', 'c_s', 'c', 's', 0, 0, 'stronger 1', 'ok', 'A', 1.0, '[]',
    '{"finite": 1.0, "edge_64": 0.5}', '{"strength": 0.4}', 7, 'a', 'x', 'train', 'c.png', 's.png', '1', '2',
    NULL, NULL, 1.0, '2026-01-01T00:00:00+00:00', 'f', 1);
INSERT INTO tries SELECT 2, target, pair_id, content_id, style_id, seed, 1, 'noise 2', status, 'B', 0.5, reasons,
    scores, parameters, noise_seed, prompt, style, split, content_path, style_path, content_sha256, style_sha256,
    'images/c_s_seed0.png', '3', seconds, created_at, fingerprint, 1 FROM tries;
"""


def test_a_ledger_of_an_older_version_opens_with_all_its_rows_and_the_view_of_this_one(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "l.sqlite") as db:
        db.executescript(_VERSION_1)
    with Ledger(tmp_path / "l.sqlite") as ledger:
        assert [(row.rung, row.grade, row.scores["edge_64"]) for row in ledger.current()] == [
            ("stronger 1", "A", 0.5),
            ("noise 2", "B", 0.5),
        ]
        assert [row.try_index for row in ledger.best()] == [1]  # the better one has no picture
        assert ledger.meta("schema_version") == str(SCHEMA_VERSION)
        ledger.commit([replace(ROW, target="d")])
        assert ledger.count() == 2


def test_what_is_known_of_many_targets_is_asked_at_once(tmp_path: Path) -> None:
    names = [f"t{i}" for i in range(1200)]
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([replace(ROW, target=name, output_path=f"images/{name}.png") for name in names])
        ledger.commit([replace(ROW, target="t5", try_index=1, output_path="tries/t5_try1.png")])
        ledger.commit([replace(ROW, target="x", status="failed", output_path=None)])
        found = ledger.known([*names, "x", "absent"])
    assert len(found) == 1201
    assert found["t5"] == ("1", "2", "a", True, ["images/t5.png", "tries/t5_try1.png"])
    assert found["x"] == ("1", "2", "a", False, [])


@pytest.mark.parametrize("left", ["images/a_b_seed0.png", "metadata.jsonl", "summary.json"])
def test_a_ledger_that_lost_its_rows_is_not_begun_again_beside_what_they_described(tmp_path: Path, left: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / left).write_text("{}")
    for content in (b"", None):
        if content is not None:
            (tmp_path / "l.sqlite").write_bytes(content)
        with pytest.raises(StorageError, match=r"l\.sqlite has no rows, but the run has made targets.*restore it"):
            Ledger(tmp_path / "l.sqlite")
        (tmp_path / "l.sqlite").unlink(missing_ok=True)
    with pytest.raises(MissingError):
        Ledger(tmp_path / "l.sqlite", read_only=True)


def test_a_ledger_whose_rows_were_deleted_is_not_begun_again(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])
    (tmp_path / "metadata.jsonl").write_text("{}")
    with closing(sqlite3.connect(tmp_path / "l.sqlite")) as db, db:
        db.execute("DELETE FROM tries")
    with pytest.raises(StorageError, match="has no rows, but the run has made targets"):
        Ledger(tmp_path / "l.sqlite")


def test_a_run_that_was_killed_before_its_first_row_goes_on(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite"):
        pass
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "c_s_seed0.png").write_bytes(b"a picture comes before its row")
    (tmp_path / "metadata.jsonl").write_text("")
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_page_is_named_with_what_helps(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "l.sqlite"
    with Ledger(path) as ledger:
        ledger.commit([replace(ROW, target=f"t{number}", prompt="long " * 500) for number in range(40)])
    with path.open("r+b") as file:
        for page in range(8, 40):  # the schema's pages stay whole
            file.seek(4096 * page)
            file.write(b"\xff" * 4096)
    with (
        pytest.raises(StorageError, match=r"l\.sqlite is damaged \(.*malformed.*\); restore it from a copy"),
        Ledger(path, read_only=read_only) as ledger,
    ):
        list(ledger.current())


def test_a_file_that_is_no_database_is_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "l.sqlite").write_bytes(b"no database" * 100)
    for read_only in (False, True):
        with pytest.raises(StorageError, match=r"l\.sqlite is damaged \(file is not a database\); restore it"):
            Ledger(tmp_path / "l.sqlite", read_only=read_only)


def test_a_reader_changes_nothing_and_knows_an_older_schema(tmp_path: Path) -> None:
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.commit([ROW])
    with closing(sqlite3.connect(tmp_path / "l.sqlite")) as db, db:
        db.execute("DROP VIEW best")
        db.execute("CREATE VIEW best AS SELECT * FROM tries WHERE 0")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    before = (tmp_path / "l.sqlite").read_bytes()
    with Ledger(tmp_path / "l.sqlite", read_only=True) as ledger:
        assert list(ledger.best()) == [ROW]
        with pytest.raises(StorageError, match="read-only"):
            ledger.commit([replace(ROW, target="d")])
    assert (tmp_path / "l.sqlite").read_bytes() == before


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
@pytest.mark.parametrize("killed", [False, True])
def test_a_ledger_in_a_read_only_folder_is_read(killed: bool) -> None:
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, which others can't enter
        folder = Path(name)
        ledger = Ledger(folder / "l.sqlite")
        ledger.commit([ROW])
        if killed:  # what a killed writer leaves: the row is in the log alone
            for file in ("l.sqlite", "l.sqlite-wal"):
                shutil.copy(folder / file, folder / f"left-{file}")
        ledger.close()
        for file in folder.glob("left-*"):
            file.rename(folder / file.name.removeprefix("left-"))
        for path in (*folder.iterdir(), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
        with nobody(), Ledger(folder / "l.sqlite", read_only=True) as ledger:
            assert list(ledger.best()) == [ROW]
        assert not any(path.name.endswith("-shm") for path in folder.iterdir())


@contextmanager
def nobody() -> Iterator[None]:
    """This process may not write what root may."""
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
