"""Grade a finished run again from its raw scores: no picture is read, no GPU is needed."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from bottega.quality.config import Thresholds
from bottega.quality.grade import grade
from bottega.runtime.files import sha256_json
from bottega.teacher.ledger import Ledger


def regrade(ledger: Ledger, thresholds: Thresholds, *, write: bool = False) -> dict[str, Any]:
    """Derive every grade anew.

    Args:
        write: enter the new grades, and make the new limits those that the run goes on with. Without it only the
            counts are told.

    Returns:
        Number of tries, how many change (`A->B` and so on), grades of the best tries before and after, and for how
        many targets another try is now the best: exports then name that one.
    """
    changes: Counter[str] = Counter()
    updates: list[tuple[str, float, list[str], int]] = []
    before: dict[str, tuple[Any, ...]] = {}
    after: dict[str, tuple[Any, ...]] = {}
    tries = 0
    for number, status, target, index, letter, scores in ledger.scored():
        tries += 1
        if status == "broken":
            judged_letter, reasons = letter, 1
        else:
            judged = grade(scores, thresholds)
            judged_letter, reasons = judged.letter, len(judged.reasons)
            updates.append((judged.letter, judged.weight, judged.reasons, number))
        if judged_letter != letter:
            changes[f"{letter}->{judged_letter}"] += 1
        old, new = (status != "ok", letter, index), (status != "ok", judged_letter, reasons, index)
        before[target] = min(before.get(target, old), old)
        after[target] = min(after.get(target, new), new)
    if write:
        ledger.regrade(updates)
        parts = json.loads(ledger.meta("fingerprint_parts") or "{}")
        parts["thresholds"] = thresholds.model_dump(mode="json")
        ledger.set_meta("fingerprint_parts", json.dumps(parts, sort_keys=True))
        ledger.set_meta("fingerprint", sha256_json(parts))
    return {
        "tries": tries,
        "changes": dict(sorted(changes.items())),
        "before": dict(sorted(Counter(key[1] for key in before.values()).items())),
        "after": dict(sorted(Counter(key[1] for key in after.values()).items())),
        "another_try_wins": sum(before[target][-1] != after[target][-1] for target in after),
        "written": write,
    }
