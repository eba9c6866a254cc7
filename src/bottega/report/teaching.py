"""What became of the teacher's tries, read from the ledger without writing to it, and examples of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.report.reading import number
from bottega.runtime.errors import StorageError


@dataclass(frozen=True)
class Target:
    """The best try of one target.

    Paths are as the ledger holds them: content and style from the data root, the output from the teacher's folder.
    """

    target: str
    pair_id: str
    seed: int
    split: str
    status: str
    grade: str
    reasons: tuple[str, ...]
    scores: Mapping[str, float]
    prompt: str
    style: str
    content_path: str
    style_path: str
    output_path: str | None
    rung: str


@dataclass(frozen=True)
class Survival:
    """Counts over the current tries: made → passed → graded, and why tries were rejected."""

    targets: int
    tries: int
    made: int
    passed: int
    grades: Mapping[str, int]
    broken: int
    failed: int
    rescued: int
    causes: tuple[tuple[str, int], ...]

    @property
    def accepted(self) -> int:
        return self.grades.get("A", 0) + self.grades.get("B", 0)


_BEST = "SELECT * FROM best ORDER BY seed, id"


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write; where the folder is read-only too, SQLite must be told that nobody else writes."""
    for mode in ("mode=ro", "immutable=1"):
        db = sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True)
        db.row_factory = sqlite3.Row
        try:
            db.execute("SELECT 1 FROM tries LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            db.close()
            if mode == "immutable=1":
                raise StorageError(f"not a readable ledger ({error})") from error
            continue
        try:
            yield db
        finally:
            db.close()
        return


def survival(path: Path) -> Survival:
    """Count what the ledger at `path` holds.

    Raises:
        StorageError: the file is no ledger.
    """
    status: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    grades: Counter[str] = Counter()
    with _opened(path) as db:
        for name, letter, count in db.execute(
            "SELECT status, grade, COUNT(*) FROM tries WHERE current GROUP BY status, grade"
        ):
            status[name] += count
            status["passed"] += count if letter != "C" and name == "ok" else 0
        for letter, count in db.execute("SELECT grade, COUNT(*) FROM best WHERE status <> 'broken' GROUP BY grade"):
            grades[letter] += count
        for (reasons,) in db.execute("SELECT reasons FROM tries WHERE current AND grade = 'C' AND status <> 'broken'"):
            causes.update({reason.split(":", 1)[0] for reason in json.loads(reasons)})
        rescued = db.execute("SELECT COUNT(*) FROM best WHERE try_index > 0 AND grade <> 'C'").fetchone()[0]
        targets = db.execute("SELECT COUNT(DISTINCT target) FROM tries WHERE current").fetchone()[0]
    return Survival(
        targets=targets,
        tries=status["ok"] + status["failed"],
        made=status["ok"],
        passed=status["passed"],
        grades={letter: grades[letter] for letter in "ABC"},
        broken=status["broken"],
        failed=status["failed"],
        rescued=rescued,
        causes=tuple(causes.most_common()),
    )


def examples(path: Path, count: int) -> dict[str, list[Target]]:
    """`count` targets each of the best, the middle and the worst: by grade, within a grade by what the judge measured.

    No pair is shown twice while there are enough of them. Broken ones have no picture and are left out.
    """
    with _opened(path) as db:
        ranked = sorted(
            (*_rank(row), row["id"])
            for row in db.execute(f"SELECT id, grade, scores FROM ({_BEST}) WHERE output_path IS NOT NULL")
        )
        numbers = [key[-1] for key in ranked]
        count = min(count, len(numbers) // 3) or min(1, len(numbers))
        middle = (len(numbers) - count) // 2
        parts = {"best": numbers[:count], "median": numbers[middle : middle + count], "worst": numbers[::-1][:count]}
        if len(numbers) < 3:
            parts = {"best": numbers, "median": [], "worst": []}
        return {
            name: [_target(db.execute("SELECT * FROM tries WHERE id = ?", (n,)).fetchone()) for n in part]
            for name, part in parts.items()
        }


def _rank(row: sqlite3.Row) -> tuple[str, float]:
    """Better first: the letter, then style gain and kept edges, both cosines, added."""
    scores = json.loads(row["scores"])
    return row["grade"], -sum(number(scores.get(name)) or 0.0 for name in ("style_gain", "edge_64"))


def _target(row: sqlite3.Row) -> Target:
    scores: dict[str, Any] = json.loads(row["scores"])
    return Target(
        scores={name: value for name, v in scores.items() if (value := number(v)) is not None},
        reasons=tuple(json.loads(row["reasons"])),
        **{
            name: row[name]
            for name in (
                "target",
                "pair_id",
                "seed",
                "split",
                "status",
                "grade",
                "prompt",
                "style",
                "content_path",
                "style_path",
                "output_path",
                "rung",
            )
        },
    )
