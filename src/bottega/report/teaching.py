"""What became of the teacher's tries, read from the ledger without writing to it, and examples of them."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bottega.report.format import Number, number
from bottega.runtime.databases import connect_read_only
from bottega.runtime.errors import StorageError
from bottega.runtime.records import to_record
from bottega.teacher.ledger import reasons_of, scores_of


@dataclass(frozen=True)
class GradedTarget:
    """The best try of one target.

    Paths are as the ledger holds them: content and style from the data root, the output from the teacher's folder.
    """

    target: str
    pair_id: str
    seed: int
    grade: str
    reasons: tuple[str, ...]
    scores: Mapping[str, Number]
    prompt: str
    style: str
    content_path: str
    style_path: str
    output_path: str
    rung: str


@dataclass(frozen=True)
class Survival:
    """Of `begun` targets, or tries, how many `survived`: can be learned from. name: the style label, or the try."""

    name: str
    begun: int
    survived: int

    @property
    def percent(self) -> float:
        return 100 * self.survived / max(self.begun, 1)


@dataclass(frozen=True)
class TryCounts:
    """Counts over the current tries: made → passed → graded, and why tries were rejected.

    grades: of the best try of each target. broken: could not be begun. rescued: targets saved by a retry. causes: how
    many tries each check rejected, the most frequent first. by_style: of the targets of each style label. by_try: of
    the first, the second, … try of a target.
    """

    targets: int
    tries: int
    made: int
    passed: int
    grades: Mapping[str, int]
    broken: int
    failed: int
    rescued: int
    causes: tuple[tuple[str, int], ...]
    by_style: tuple[Survival, ...] = ()
    by_try: tuple[Survival, ...] = ()

    @property
    def accepted(self) -> int:
        return self.grades.get("A", 0) + self.grades.get("B", 0)


@contextmanager
def _open_read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write."""
    with ExitStack() as opened:
        try:
            db = opened.enter_context(closing(connect_read_only(path, opened)))
            db.row_factory = sqlite3.Row
            db.execute("SELECT 1 FROM tries LIMIT 1").fetchone()
        except sqlite3.DatabaseError as error:
            raise StorageError(f"not a readable ledger ({error})") from error
        yield db


def count_tries(path: Path) -> TryCounts:
    """Count what the ledger at `path` holds.

    Raises:
        StorageError: the file is no ledger.
    """
    status: Counter[str] = Counter()
    grades: Counter[str] = Counter()
    causes: Counter[str] = Counter()
    passed = 0
    with _open_read_only(path) as db:
        by_status = "SELECT status, grade, COUNT(*) FROM tries WHERE current GROUP BY status, grade"
        for name, letter, count in db.execute(by_status):
            status[name] += count
            if name == "ok" and letter != "C":
                passed += count
        by_grade = "SELECT grade, COUNT(*) FROM best WHERE status <> 'broken' GROUP BY grade"
        for letter, count in db.execute(by_grade):
            grades[letter] += count
        rejected = "SELECT reasons FROM tries WHERE current AND grade = 'C' AND status <> 'broken'"
        for (reasons,) in db.execute(rejected):
            # a set: a check that gives two reasons rejected one try
            checks = {reason.split(":", 1)[0] for reason in reasons_of(reasons, path)}
            causes.update(checks)
        rescued = _count(db, "SELECT COUNT(*) FROM best WHERE try_index > 0 AND grade <> 'C'")
        targets = _count(db, "SELECT COUNT(DISTINCT target) FROM tries WHERE current")
        by_style = _survival(
            db, "SELECT style, COUNT(*), SUM(grade <> 'C') FROM best {whole} GROUP BY style ORDER BY style"
        )
        by_try = _survival(
            db,
            "SELECT try_index, COUNT(*), SUM(grade <> 'C') FROM tries {whole} AND current GROUP BY 1 ORDER BY 1",
        )
    return TryCounts(
        targets=targets,
        tries=status["ok"] + status["failed"],
        made=status["ok"],
        passed=passed,
        grades={letter: grades[letter] for letter in "ABC"},
        broken=status["broken"],
        failed=status["failed"],
        rescued=rescued,
        causes=tuple(sorted(causes.items(), key=_most_frequent_first)),
        by_style=by_style,
        by_try=tuple(replace(row, name=_ordinal(int(row.name) + 1)) for row in by_try),
    )


def _survival(db: sqlite3.Connection, query: str) -> tuple[Survival, ...]:
    """`{whole}` in the query leaves out what could not be begun: it says nothing about the teacher."""
    rows = db.execute(query.format(whole="WHERE status <> 'broken'"))
    return tuple(Survival(str(name), begun, survived) for name, begun, survived in rows)


def _ordinal(number_of: int) -> str:
    words = {1: "1st", 2: "2nd", 3: "3rd"}
    return f"{words.get(number_of, f'{number_of}th')} try"


def _most_frequent_first(cause: tuple[str, int]) -> tuple[int, str]:
    name, count = cause
    return -count, name  # by name where two are as frequent, whatever the order of the rows


def examples(path: Path, count: int) -> dict[str, list[GradedTarget]]:
    """`count` targets each of the best, the middle and the worst: by grade, within a grade by what the judge measured.

    No pair is shown twice while there are enough of them. Broken ones have no picture and are left out.
    """
    with _open_read_only(path) as db:
        # Ranked without the rest of each row: a ledger has thousands, and a dozen are shown.
        drawn = "SELECT id, grade, scores FROM best WHERE output_path IS NOT NULL ORDER BY seed, id"
        ranked = sorted((*_rank(row, path), row["id"]) for row in db.execute(drawn))
        ids = [row_id for *_, row_id in ranked]
        found = {}
        for part, chosen in _parts(ids, count).items():
            targets = []
            for row_id in chosen:
                row = db.execute("SELECT * FROM tries WHERE id = ?", (row_id,)).fetchone()
                targets.append(_target(row, path))
            found[part] = targets
        return found


def _parts(ranked: list[int], count: int) -> dict[str, list[int]]:
    """The best, the middle and the worst ids; all are among the best where they are too few to tell."""
    if len(ranked) < 3:
        return {"best": ranked, "median": [], "worst": []}
    count = min(count, len(ranked) // 3)
    middle = (len(ranked) - count) // 2
    return {
        "best": ranked[:count],
        "median": ranked[middle : middle + count],
        "worst": ranked[::-1][:count],
    }


def _rank(row: sqlite3.Row, path: Path) -> tuple[str, float]:
    """Better first: the letter, then style gain and kept edges, both cosines, added."""
    scores = scores_of(row["scores"], path)
    style_gain = number(scores.get("style_gain")) or 0.0
    kept_edges = number(scores.get("edge_64")) or 0.0
    return row["grade"], -(style_gain + kept_edges)


def _target(row: sqlite3.Row, path: Path) -> GradedTarget:
    decoded = {"scores": scores_of(row["scores"], path), "reasons": reasons_of(row["reasons"], path)}
    return to_record(GradedTarget, {**dict(row), **decoded}, f"{path}, target {row['target']}")


def _count(db: sqlite3.Connection, query: str) -> int:
    number_of: int = db.execute(query).fetchone()[0]
    return number_of
