"""Grade a finished run again from its raw scores: no picture is read, no GPU is needed, and memory stays flat."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bottega.quality.config import Thresholds
from bottega.quality.grade import Grader
from bottega.quality.measure import SCORES_VERSION
from bottega.runtime.errors import RequestError
from bottega.runtime.files import sha256_json
from bottega.teacher.config import Ladder
from bottega.teacher.ledger import Ledger, Scored, reasons_text
from bottega.teacher.retry import rung_weight

Update = tuple[str, float, str, int]  # grade, weight, reasons as the ledger has them, id


def regrade(ledger: Ledger, thresholds: Thresholds, *, write: bool = False) -> dict[str, Any]:
    """Derive every grade anew; the weight is the grade's times the rung's, by the ladder that the run was made with.

    Args:
        write: enter the new grades, and make the new limits those that the run goes on with; all or nothing. Without
            it only the counts are told.

    Returns:
        Number of tries, how many change (`A->B` and so on), grades of the best tries before and after, for how many
        targets another try is now the best (exports then name that one), and for how many the best would be a try
        whose picture was not kept (exports then name the best that was).
    """
    told = _Told()
    parts = json.loads(ledger.meta("fingerprint_parts") or "{}")
    measured_by = parts.get("scores", {}).get("version", 1)
    if "models" in parts and measured_by != SCORES_VERSION:
        raise RequestError(
            f"limits and scores must be of one definition, this ledger's scores are of version {measured_by}, this "
            f"program's of {SCORES_VERSION}; measure its pictures again: bottega qc score --teacher-dir"
        )
    updates = _updates(ledger, thresholds, _ladder(parts), told)
    if write:
        parts["thresholds"] = thresholds.model_dump(mode="json")
        meta = {"fingerprint_parts": json.dumps(parts, sort_keys=True), "fingerprint": sha256_json(parts)}
        ledger.regrade(updates, meta)
    else:
        for _ in updates:
            pass
    return {
        "tries": told.tries,
        "changes": dict(sorted(told.changes.items())),
        "before": dict(sorted(told.before.items())),
        "after": dict(sorted(told.after.items())),
        "another_try_wins": told.another_try_wins,
        "unkept_try_wins": told.unkept_try_wins,
        "written": write,
    }


@dataclass
class _Told:
    """What is counted on the way."""

    tries: int = 0
    changes: Counter[str] = field(default_factory=Counter)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    another_try_wins: int = 0
    unkept_try_wins: int = 0


class _Judged(NamedTuple):
    """A try with a grade and its number of reasons."""

    one: Scored
    letter: str
    reasons: int


def _updates(ledger: Ledger, thresholds: Thresholds, ladder: Ladder, told: _Told) -> Iterator[Update]:
    """What differs from the ledger, row by row; `told` is complete when the last is taken."""
    grade = Grader(thresholds)
    weight_of = functools.cache(lambda rung: rung_weight(rung, ladder))
    old: list[_Judged] = []
    new: list[_Judged] = []
    for one in ledger.scored():
        if old and old[0].one.target != one.target:
            _count(old, new, told)
            old, new = [], []
        old.append(_Judged(one, one.grade, one.reason_count))
        if one.status == "broken":
            new.append(old[-1])
            continue
        judged = grade(one.scores)
        new.append(_Judged(one, judged.letter, len(judged.reasons)))
        found = judged.letter, round(judged.weight * weight_of(one.rung), 6), reasons_text(judged.reasons)
        if found != (one.grade, one.weight, one.reasons):
            yield *found, one.id
    if old:
        _count(old, new, told)


def _count(old: list[_Judged], new: list[_Judged], told: _Told) -> None:
    """Count one target's tries, its best before and after."""
    told.tries += len(new)
    before, after = old[0], new[0]
    if len(new) > 1:
        before, after = min(old, key=_rank), min(new, key=_rank)
        made = [judged for judged in new if judged.one.status == "ok"]
        told.another_try_wins += before.one.id != after.one.id
        told.unkept_try_wins += len(made) > 1 and not min(made, key=_worth).one.kept
    told.before[before.letter] += 1
    told.after[after.letter] += 1
    for a, b in zip(old, new, strict=True):
        if a.letter != b.letter:
            told.changes[f"{a.letter}->{b.letter}"] += 1


def _rank(judged: _Judged) -> tuple[bool, bool, str, int, int]:
    """The order of the ledger's view `best`."""
    return (judged.one.status != "ok", not judged.one.kept, *_worth(judged))


def _worth(judged: _Judged) -> tuple[str, int, int]:
    """The order if every picture had been kept."""
    return judged.letter, judged.reasons, judged.one.try_index


def _ladder(parts: dict[str, Any]) -> Ladder:
    """The run's own ladder; one from before weights shrank with the rung leaves them as they were."""
    kept = parts.get("teacher", {}).get("ladder", {})
    return Ladder(**{"rung_weight": 1.0, **{key: value for key, value in kept.items() if key in Ladder.model_fields}})
