"""One row a try, whole chunks or nothing, the best try and not the last, and fingerprints that name what changed."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from bottega.quality.config import Thresholds
from bottega.runtime.errors import FingerprintError, MissingError, StorageError
from bottega.teacher.ledger import Ledger, Row
from bottega.teacher.regrade import regrade

ROW = Row(
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
        ledger.hold_to("a", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.2}})
        ledger.hold_to("a", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.2}})
        with pytest.raises(FingerprintError, match=r"teacher\.strength was 0\.4, now 0\.5"):
            ledger.hold_to("b", {"teacher": {"strength": 0.5}, "thresholds": {"edge_64_c": 0.2}})
        with pytest.raises(FingerprintError, match="qc grade --write"):
            ledger.hold_to("b", {"teacher": {"strength": 0.4}, "thresholds": {"edge_64_c": 0.3}})


def test_what_is_no_ledger_or_too_new_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="bottega teach"):
        Ledger(tmp_path / "none.sqlite", must_exist=True)
    (tmp_path / "bad.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StorageError, match="can't be opened"):
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
        ledger.hold_to("a", {"thresholds": Thresholds().model_dump(mode="json")})
        ledger.commit([ROW, better])
        softer = Thresholds(edge_64_c=0.05, edge_64_a=0.08)
        told = regrade(ledger, softer)
        assert (told["changes"], told["after"], told["another_try_wins"]) == ({"B->A": 1, "C->A": 1}, {"A": 1}, 1)
        assert [row.grade for row in ledger.current()] == ["C", "B"]
        regrade(ledger, softer, write=True)
        assert [(row.try_index, row.grade, row.weight) for row in ledger.best()] == [(0, "A", 1.0)]
        ledger.hold_to("b", {"thresholds": softer.model_dump(mode="json")})
