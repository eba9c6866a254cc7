"""A finished target becomes files and rows: pictures first, then their rows, which the runner enters."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from bottega.models.rehearsal.marker import picture_text
from bottega.quality.config import Thresholds
from bottega.quality.grading import Grade
from bottega.runtime.files import write_png
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import FINITE
from bottega.teacher.ledger import Status, TryRow, picture_file
from bottega.teacher.models import TeacherModels
from bottega.teacher.retry import rung_weight
from bottega.teacher.work import PendingTarget, Try


class TargetWriter:
    """Writes the pictures of targets beside the ledger, and makes their rows.

    Args:
        config: which tries' pictures are kept, and what a retry costs in weight.
        ledger_file: of the run.
        models: the teacher says what is recorded of a try.
        thresholds: the weight of a target whose inputs can't be read.
        fingerprint: of the run; recorded in every row.
    """

    def __init__(
        self, config: TeacherConfig, ledger_file: Path, models: TeacherModels, thresholds: Thresholds, fingerprint: str
    ) -> None:
        self._config, self._ledger_file, self._models = config, ledger_file, models
        self._thresholds, self._fingerprint = thresholds, fingerprint

    def write(self, target: PendingTarget) -> list[TryRow]:
        """Write a target's pictures; returns its rows, not entered yet.

        The best goes to `images/`, or to `rejected/` where even that is C; the others to `tries/`.
        """
        # A broken target gets a row too: the reason is then in the ledger, and the same command does not try it again.
        if target.item is None:
            grade = Grade("C", self._thresholds.weight_c, [f"broken: {target.broken}"])
            return [self._row(target, 0, "first", "broken", grade)]
        return [self._write_try(target, index, one) for index, one in enumerate(target.tries)]

    def _write_try(self, target: PendingTarget, index: int, one: Try) -> TryRow:
        name = target.work.target
        is_best = index == target.best
        path = f"tries/{name}_try{index}.png"
        if is_best:
            path = f"rejected/{name}.png" if one.grade.letter == "C" else f"images/{name}.png"
        sha256 = None
        if one.picture is not None and (is_best or self._config.keep_tries == "all"):
            text = picture_text(self._models.random_roles)
            sha256 = write_png(picture_file(self._ledger_file, name, path), one.picture, text)
        facts = {name: value for name, value in one.facts.items() if name not in FINITE}  # those are among the scores
        status: Status = "failed" if one.picture is None else "ok"
        row = self._row(target, index, one.rung, status, one.grade)
        return replace(
            row,
            weight=round(row.weight * rung_weight(one.rung, self._config.ladder), 6),
            scores=one.scores,
            parameters={**self._models.teacher.parameters(one.settings), **facts, **self._note()},
            noise_seed=one.noise_seed,
            seconds=round(one.seconds, 4),
            output_path=path if sha256 is not None else None,
            output_sha256=sha256,
        )

    def _note(self) -> dict[str, list[str]]:
        """What a row says of a rehearsal's models."""
        roles = self._models.random_roles
        return {"random_weights": roles} if roles else {}

    def _row(self, target: PendingTarget, index: int, rung: str, status: Status, grade: Grade) -> TryRow:
        pair = target.work.pair
        return TryRow(
            target=target.work.target,
            pair_id=pair.pair_id,
            content_id=pair.content_id,
            style_id=pair.style_id,
            seed=target.work.seed,
            try_index=index,
            rung=rung,
            status=status,
            grade=grade.letter,
            weight=grade.weight,
            reasons=grade.reasons,
            scores={},
            parameters={},
            noise_seed=0,
            prompt=pair.prompt,
            style=pair.style,
            split=pair.split,
            content_path=pair.content_path,
            style_path=pair.style_path,
            content_sha256=target.content_sha256,
            style_sha256=target.style_sha256,
            output_path=None,
            output_sha256=None,
            seconds=0.0,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=self._fingerprint,
        )
