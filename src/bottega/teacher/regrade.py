"""Grade a finished run again from its raw scores: no picture is read, no GPU is needed, and memory stays flat."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

from bottega.quality.config import Thresholds
from bottega.quality.eye.look import eye_identity
from bottega.quality.grading import Grader
from bottega.quality.measuring import SCORES_VERSION
from bottega.quality.stage import scores_identity
from bottega.runtime.config import parse
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_json
from bottega.runtime.records import to_record
from bottega.teacher.config import Ladder
from bottega.teacher.ledger import RESTORE, Ledger, Scored, reasons_text
from bottega.teacher.retry import rung_weight

Update = tuple[str, float, str, int]  # grade, weight, reasons as the ledger has them, id


class Regraded(TypedDict):
    """What grading again changes.

    `changes` counts tries by `A->B` and so on, `before` and `after` are the grades of the best tries. For
    `another_try_wins` targets another try is now the best, and exports then name that one; for `unkept_try_wins` it
    would be a try whose picture was not kept, and exports name the best that was. `without_eye` tries have no score of
    the learned eye, though the limits ask for it: they are graded by the detectors alone.
    """

    tries: int
    changes: dict[str, int]
    before: dict[str, int]
    after: dict[str, int]
    another_try_wins: int
    unkept_try_wins: int
    without_eye: int
    written: bool


def regrade(ledger: Ledger, thresholds: Thresholds, *, write: bool = False) -> Regraded:
    """Derive every grade again; the weight is the grade's times the rung's, by the ladder that the run was made with.

    Args:
        write: enter the new grades, and make the new limits those that the run continues with; all or nothing.
            Without it the changes are only counted.

    Raises:
        RequestError: the ledger's scores were measured by an older definition.
    """
    counts = _Counts()
    parts = ledger.fingerprint_parts()
    measured_by = parts.get("scores", {}).get("version", 1)
    if "models" in parts and measured_by != SCORES_VERSION:
        raise RequestError(
            f"limits and scores must be of one definition, this ledger's scores are of version {measured_by}, this "
            f"program's of {SCORES_VERSION}; measure its pictures again: bottega qc score --teacher-dir"
        )
    eye = parts.get("scores", {}).get("eye")
    if thresholds.uses_eye and eye not in (None, eye_identity()):
        raise RequestError(
            f"limits and scores must be of one eye, this ledger's scores are of eye {eye}, this program's is "
            f"{eye_identity()}; measure its pictures again: bottega qc score --teacher-dir … --write"
        )
    ladder = _ladder(parts.get("teacher", {}).get("ladder", {}), ledger)
    updates = _updates(ledger, thresholds, ladder, counts)
    if write:
        # As the stage compares them when it resumes.
        parts["thresholds"] = thresholds.settings()
        if "scores" in parts:
            parts["scores"] = scores_identity(thresholds)
        meta = {"fingerprint_parts": json.dumps(parts, sort_keys=True), "fingerprint": sha256_json(parts)}
        ledger.regrade(updates, meta)
    else:
        for _ in updates:
            pass
    return {
        "tries": counts.tries,
        "changes": dict(sorted(counts.changes.items())),
        "before": dict(sorted(counts.before.items())),
        "after": dict(sorted(counts.after.items())),
        "another_try_wins": counts.another_try_wins,
        "unkept_try_wins": counts.unkept_try_wins,
        "without_eye": counts.without_eye if thresholds.uses_eye else 0,
        "written": write,
    }


@dataclass
class _Counts:
    """What is counted while the rows are read."""

    tries: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    another_try_wins: int = 0
    unkept_try_wins: int = 0
    without_eye: int = 0


class _Judged(NamedTuple):
    """A try with a grade and its number of reasons."""

    one: Scored
    letter: str
    reasons: int


def _updates(ledger: Ledger, thresholds: Thresholds, ladder: Ladder, counts: _Counts) -> Iterator[Update]:
    """What differs from the ledger, row by row; `counts` is complete when the last is taken."""
    grade = Grader(thresholds)
    weight_of = functools.cache(lambda rung: rung_weight(rung, ladder))
    old: list[_Judged] = []
    new: list[_Judged] = []
    for one in ledger.scored():
        if old and old[0].one.target != one.target:
            _count(old, new, counts)
            old = []
            new = []
        old.append(_Judged(one, one.grade, one.reason_count))
        if one.status == "broken":
            new.append(old[-1])
            continue
        judged = grade(one.scores)
        counts.without_eye += one.status == "ok" and "damage" not in one.scores
        new.append(_Judged(one, judged.letter, len(judged.reasons)))
        weight = round(judged.weight * weight_of(one.rung), 6)
        reasons = reasons_text(judged.reasons)
        if (judged.letter, weight, reasons) != (one.grade, one.weight, one.reasons):
            yield judged.letter, weight, reasons, one.id
    if old:
        _count(old, new, counts)


def _count(old: list[_Judged], new: list[_Judged], counts: _Counts) -> None:
    """Count one target's tries, its best before and after."""
    counts.tries += len(new)
    before = old[0]
    after = new[0]
    if len(new) > 1:
        before = min(old, key=_rank)
        after = min(new, key=_rank)
        made = [judged for judged in new if judged.one.status == "ok"]
        counts.another_try_wins += before.one.id != after.one.id
        counts.unkept_try_wins += len(made) > 1 and not min(made, key=_worth).one.kept
    counts.before[before.letter] += 1
    counts.after[after.letter] += 1
    for a, b in zip(old, new, strict=True):
        if a.letter != b.letter:
            counts.changes[f"{a.letter}->{b.letter}"] += 1


def _rank(judged: _Judged) -> tuple[bool, bool, str, int, int]:
    """The order of the ledger's view `best`."""
    return (judged.one.status != "ok", not judged.one.kept, *_worth(judged))


def _worth(judged: _Judged) -> tuple[str, int, int]:
    """The order if every picture had been kept."""
    return judged.letter, judged.reasons, judged.one.try_index


def _ladder(recorded: object, ledger: Ledger) -> Ladder:
    """The run's own ladder, as its fingerprint recorded it."""
    where = f"{ledger.path}, meta: teacher.ladder"
    settings = to_record(dict[str, object], recorded, where, RESTORE)
    known = {name: value for name, value in settings.items() if name in Ladder.model_fields}
    # A run from before weights shrank with the rung recorded none: its weights stay as they were.
    return parse(Ladder, {"rung_weight": 1.0, **known}, str(ledger.path), "teacher.ladder")
