"""A run watched while it is made: what all its pictures share is said early, not after 10 000 targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from bottega.quality.run_eye import RunEye, RunFinding, RunRow
from bottega.teacher.ledger import Ledger, TryRow, reasons_of, scores_of

LOGGER = logging.getLogger(__name__)

FIRST_LOOK = 50
"""Targets at which a run is looked at for the first time."""

GROWTH = 1.5
"""It is looked at again when there are so many times as many: all looks together read three times the ledger."""


class RunWatch:
    """Looks at a run while it is made, and warns of each kind of finding once.

    Args:
        ledger: of the run; what it shows already was said when it was made.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._count = ledger.count()
        self._next = FIRST_LOOK
        self._said: set[str] = set()
        if self._count >= FIRST_LOOK:
            self._next = int(GROWTH * self._count)
            self._said = {finding.key for finding in findings_of_run(ledger)}

    def add(self, rows: Iterable[TryRow]) -> None:
        """The tries of a chunk that was entered into the ledger."""
        self._count += sum(row.try_index == 0 for row in rows)
        if self._count < self._next:
            return
        # From the ledger: a target that was made again counts once there.
        self._next = int(GROWTH * self._count)
        for finding in findings_of_run(self._ledger):
            if finding.key not in self._said:
                self._said.add(finding.key)
                LOGGER.warning("after %d targets: %s", self._count, finding.text)


def findings_of_run(ledger: Ledger) -> list[RunFinding]:
    """What a whole run shows, from its ledger, as a stream."""
    eye = RunEye()
    for row in first_tries(ledger):
        eye.add(row)
    return eye.findings()


def first_tries(ledger: Ledger) -> Iterable[RunRow]:
    """The first try of every target whose inputs could be read, in the order of the work."""
    columns = ("style", "style_id", "grade", "reasons", "scores", "output_sha256")
    for style, style_id, letter, reasons, scores, output in ledger.first_values(columns):
        checks = _checks(reasons_of(reasons, ledger.path))
        yield RunRow(style or style_id, letter, checks, scores_of(scores, ledger.path), output)


def _checks(reasons: Iterable[str]) -> tuple[str, ...]:
    """The checks that reasons begin with."""
    return tuple(reason.split(":", 1)[0] for reason in reasons)
