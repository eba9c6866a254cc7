"""The run: chunk by chunk down the work list, pictures first, then their rows in one transaction.

A chunk is fixed by the pair list (file, seed, index // batch), never by what is done already, and an unfinished one
is made again whole: after a kill at any moment the same command gives the same bytes and the same rows. Order: the
first seed for all pairs, then the next.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from bottega.data.pictures import load_square
from bottega.quality.config import Thresholds
from bottega.quality.grade import Grade, grade
from bottega.quality.measure import Judge, Scores, to_uint8
from bottega.runtime.errors import PictureError
from bottega.runtime.files import write_bytes, write_png
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item, Picture, Settings, Teacher, target_name
from bottega.teacher.ledger import Ledger, Row
from bottega.teacher.retry import next_settings

LOGGER = logging.getLogger(__name__)
Pair = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """One target to make."""

    pair: Pair
    seed: int

    @property
    def target(self) -> str:
        return target_name(self.pair["content_id"], self.pair["style_id"], self.seed)


@dataclass
class Try:
    """One try of a target, judged."""

    settings: Settings
    rung: str
    picture: Picture | None
    scores: Scores
    grade: Grade
    noise_seed: int
    seconds: float

    @property
    def rank(self) -> tuple[bool, str, int]:
        return (self.picture is None, self.grade.letter, len(self.grade.reasons))


@dataclass
class Target:
    """A target of the chunk in hand: its work, the hashes of its inputs, and what was tried."""

    work: Work
    content_sha256: str
    style_sha256: str
    item: Item | None = None
    broken: str = ""
    tries: list[Try] = field(default_factory=list)

    @property
    def best(self) -> int:
        """Index of the best try: best grade, then fewest reasons, then the earliest."""
        return min(range(len(self.tries)), key=lambda i: (*self.tries[i].rank, i))


def chunks(lists: Sequence[Sequence[Pair]], seeds: Sequence[int], batch: int) -> Iterator[list[Work]]:
    """The work list in chunks: seed by seed, list by list, `batch` neighbouring pairs at a time."""
    for seed in seeds:
        for pairs in lists:
            for start in range(0, len(pairs), batch):
                chunk = [Work(pair, seed) for pair in pairs[start : start + batch] if seed in pair.get("seeds", seeds)]
                if chunk:
                    yield chunk


class Runner:
    """Makes, judges, retries, writes and enters targets.

    Args:
        teacher: makes the teacher; called when the first target needs it, so that a finished run loads nothing.
        judge: likewise.
        known: all pair ids of the pair lists, beyond any limit: a row under another id whose files are the same was
            renamed.
    """

    def __init__(
        self,
        config: TeacherConfig,
        directory: Path,
        data_root: Path,
        *,
        teacher: Callable[[], Teacher],
        judge: Callable[[], Judge],
        thresholds: Thresholds,
        ledger: Ledger,
        fingerprint: str,
        known: frozenset[str] = frozenset(),
    ) -> None:
        self.config, self.directory, self.data_root = config, directory, data_root
        self._make_teacher, self._make_judge = teacher, judge
        self.thresholds, self.ledger = thresholds, ledger
        self.fingerprint, self.known = fingerprint, known
        self.base = Settings.of(config)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, loaded at first use."""
        return self._make_teacher()

    @cached_property
    def judge(self) -> Judge:
        """The judge, loaded at first use."""
        return self._make_judge()

    def do(self, chunk: Sequence[Work]) -> list[Row]:
        """Make what is not done of a chunk; the rows entered for it (none if all was done)."""
        rows = self.ledger.tries([work.target for work in chunk])
        todo = [target for work in chunk if (target := self._unless_done(work, rows.get(work.target))) is not None]
        if not todo:
            return []
        for target in todo:
            self._load(target)
        self._make([target for target in todo if target.item is not None])
        entered = [row for target in todo for row in self._write(target)]
        self.ledger.commit(entered, superseded=[t.work.target for t in todo if t.work.target in rows])
        return entered

    # --- what is left to do -----------------------------------------------------------------------------------------

    def _unless_done(self, work: Work, rows: list[Row] | None) -> Target | None:
        pair = work.pair
        shas = self._hash(str(pair["content_path"])), self._hash(str(pair["style_path"]))
        target = Target(work, *shas)
        if rows is None:
            return None if self._adopt(work, shas) else target
        first = rows[0]
        same = (first.content_sha256, first.style_sha256, first.prompt) == (*shas, pair["prompt"])
        there = all(row.output_path is None or (self.directory / row.output_path).is_file() for row in rows)
        return None if same and there else target

    def _hash(self, path: str) -> str:
        return self.ledger.file_hash(path, self.data_root / path)

    def _adopt(self, work: Work, shas: tuple[str, str]) -> bool:
        """Whether the same bytes stand in the ledger under names that no pair list knows any more: then they were
        renamed.
        """
        for rows in self.ledger.same_inputs(*shas, work.seed, work.pair["prompt"]) if "missing" not in shas else []:
            if rows[0].pair_id in self.known or rows[0].pair_id == work.pair["pair_id"]:
                continue
            moved = [self._renamed(row, work) for row in rows]
            for old, new in zip(rows, moved, strict=True):
                if old.output_path is None or new.output_path is None:
                    continue
                if not (self.directory / old.output_path).is_file():
                    return False
                write_bytes(self.directory / new.output_path, (self.directory / old.output_path).read_bytes())
            self.ledger.rename(rows[0].target, moved)
            for old in rows:  # after the rows: a kill in between leaves a spare copy, never a row without its picture
                if old.output_path is not None:
                    (self.directory / old.output_path).unlink(missing_ok=True)
            return True
        return False

    def _renamed(self, row: Row, work: Work) -> Row:
        names = {
            key: str(work.pair[key])
            for key in ("pair_id", "content_id", "style_id", "content_path", "style_path", "style", "split")
        }
        path = row.output_path.replace(row.target, work.target) if row.output_path is not None else None
        return replace(row, target=work.target, output_path=path, **names)  # type: ignore[arg-type]

    def _load(self, target: Target) -> None:
        pair, size = target.work.pair, self.config.size
        try:
            content, style = (load_square(self.data_root / pair[key], size) for key in ("content_path", "style_path"))
        except PictureError as error:
            target.broken = str(error)
            LOGGER.warning("%s: %s", target.work.target, error)
            return
        keys = (target.content_sha256, target.style_sha256)
        names = {key: str(pair[key]) for key in ("pair_id", "content_id", "style_id", "prompt")}
        target.item = Item(
            **names,
            seed=target.work.seed,
            content=content,
            style=style,
            content_key=keys[0],
            style_key=keys[1],
            settings=self.base,
        )

    # --- making and judging -----------------------------------------------------------------------------------------

    def _make(self, targets: list[Target]) -> None:
        """First tries of all, then up to `max_retries` rounds for those that are still C."""
        self._round(targets, [("first", self.base)] * len(targets))
        for _ in range(self.config.max_retries if self.config.quality_filter else 0):
            again = [t for t in targets if t.tries[t.best].grade.letter == "C"]
            if not again:
                return
            self._round(
                again,
                [
                    next_settings(
                        t.tries[-1].grade.causes, self.base, [x.settings for x in t.tries], self.config.ladder
                    )
                    for t in again
                ],
            )

    def _round(self, targets: list[Target], plans: Sequence[tuple[str, Settings]]) -> None:
        if not targets:
            return
        items = [
            replace(t.item, settings=settings)
            for t, (_, settings) in zip(targets, plans, strict=True)
            if t.item is not None
        ]
        start = time.monotonic()
        made = self.teacher.generate(items)
        seconds = (time.monotonic() - start) / len(items)
        scores = self.judge.measure(
            made,
            [item.content for item in items],
            [item.style for item in items],
            round_trips=[self.teacher.round_trip(item) for item in items],
            keys=[("content " + item.keys[0], "style " + item.keys[1]) for item in items],
        )
        for target, (rung, settings), item, picture, score in zip(targets, plans, items, made, scores, strict=True):
            whole = to_uint8(picture) if score["finite"] == 1 else None
            target.tries.append(
                Try(settings, rung, whole, score, grade(score, self.thresholds), item.noise_seed, seconds)
            )

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(self, target: Target) -> list[Row]:
        """Write a target's pictures, best in `images/`, others in `tries/`; its rows, not entered yet."""
        if target.item is None:
            return [
                self._row(
                    target, 0, "first", "broken", Grade("C", self.thresholds.weight_c, [f"broken: {target.broken}"])
                )
            ]
        rows, name, best = [], target.work.target, target.best
        for index, one in enumerate(target.tries):
            path = f"images/{name}.png" if index == best else f"tries/{name}_try{index}.png"
            sha256 = write_png(self.directory / path, one.picture) if one.picture is not None else None
            row = self._row(target, index, one.rung, "ok" if one.picture is not None else "failed", one.grade)
            parameters = {
                **one.settings.as_json(),
                **self.teacher.effective(one.settings),
                "batch": self.config.batch_size,
                "sampler": self.config.sampler,
                "protocol": self.config.name,
            }
            rows.append(
                replace(
                    row,
                    scores=one.scores,
                    parameters=parameters,
                    noise_seed=one.noise_seed,
                    seconds=round(one.seconds, 4),
                    output_path=path if sha256 is not None else None,
                    output_sha256=sha256,
                )
            )
        return rows

    def _row(self, target: Target, index: int, rung: str, status: str, judged: Grade) -> Row:
        pair = target.work.pair
        return Row(
            target=target.work.target,
            pair_id=str(pair["pair_id"]),
            content_id=str(pair["content_id"]),
            style_id=str(pair["style_id"]),
            seed=target.work.seed,
            try_index=index,
            rung=rung,
            status=status,
            grade=judged.letter,
            weight=judged.weight,
            reasons=judged.reasons,
            scores={},
            parameters={},
            noise_seed=0,
            prompt=str(pair["prompt"]),
            style=str(pair.get("style", "")),
            split=str(pair.get("split", "")),
            content_path=str(pair["content_path"]),
            style_path=str(pair["style_path"]),
            content_sha256=target.content_sha256,
            style_sha256=target.style_sha256,
            output_path=None,
            output_sha256=None,
            seconds=0.0,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            fingerprint=self.fingerprint,
        )
