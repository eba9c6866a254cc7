"""The run: down the work list in chunks, two of them in flight, pictures first, then their rows in one transaction.

    load ahead ─ encode a window ─┬─ denoise chunk k+1 ────────────────────┐
                                  └─ decode, judge, write chunk k (thread) ┴─ enter rows, in the order of the list

While the U-Net works on one chunk, a thread decodes, judges and writes the one before. What is C after that is planned
again by its cause and denoised next, together with nothing but what is C of the same chunk. Who goes next follows from
the plans and never from who was faster, and rows are entered in the order of the list.

A chunk is fixed by the pair list (file, seed, index // batch), never by what is done already, and an unfinished one
is made again whole: after a kill at any moment the same command gives the same bytes and the same rows. Order: the
first seed for all pairs, then the next.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.quality.config import Thresholds
from bottega.quality.grade import Grade, grade
from bottega.quality.measure import Judge, Scores
from bottega.runtime import memory
from bottega.runtime.errors import PictureError, StartAfresh
from bottega.runtime.files import write_bytes, write_png
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item, Made, Picture, Settings, Teacher, target_name
from bottega.teacher.ledger import Known, Ledger, Row
from bottega.teacher.pressure import Pressure
from bottega.teacher.retry import next_settings, rung_weight
from bottega.visual.pictures import to_uint8

LOGGER = logging.getLogger(__name__)
WINDOW = 32  # targets loaded and encoded together: 50 MB of pictures at 512 px
_SCAN = 512  # targets asked of the ledger at once
_SEEN = 65_536  # hashes kept while what is done is passed over
_IN_FLIGHT = 2
_LOADERS = 2  # threads that read pictures
Plan = tuple[str, Settings]  # a rung's name and what it does
Loading = tuple["Chunk", list[Future[None]]]


class Work(NamedTuple):
    """One target to make."""

    pair: Pair
    seed: int
    target: str


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
    facts: dict[str, Any]

    @property
    def rank(self) -> tuple[bool, str, int]:
        return (self.picture is None, self.grade.letter, len(self.grade.reasons))


@dataclass
class Target:
    """A target of a chunk in hand: its work, the hashes of its inputs, and what was tried."""

    work: Work
    content_sha256: str
    style_sha256: str
    stale: list[str] = field(default_factory=list)  # files of its rows so far, which become history
    known: bool = False
    item: Item | None = None
    broken: str = ""
    plan: Plan | None = None
    batch: int = 1  # that went through the U-Net at once in the last try
    tries: list[Try] = field(default_factory=list)

    @property
    def best(self) -> int:
        """Index of the best try: best grade, then fewest reasons, then the earliest."""
        return min(range(len(self.tries)), key=lambda i: (*self.tries[i].rank, i))


@dataclass
class Chunk:
    """Targets of one chunk that are not done, and how many of it are. `rows` are there when it is written."""

    targets: list[Target]
    done: int
    rows: list[Row] | None = None

    @property
    def planned(self) -> list[Target]:
        """The targets that are to be tried next."""
        return [target for target in self.targets if target.plan is not None]


def chunks(lists: Iterable[Callable[[], Iterator[Pair]]], seeds: Sequence[int], batch: int) -> Iterator[list[Work]]:
    """The work list in chunks: seed by seed, list by list, `batch` neighbouring pairs at a time.

    Args:
        lists: each opens a pair list anew.
    """
    for seed in seeds:
        for pairs in lists:
            opened = pairs()
            while part := list(islice(opened, batch)):
                chunk = [
                    Work(pair, seed, target_name(pair.content_id, pair.style_id, seed))
                    for pair in part
                    if pair.seeds is None or seed in pair.seeds
                ]
                if chunk:
                    yield chunk


class Runner:
    """Makes, judges, retries, writes and enters targets.

    Args:
        teacher: makes the teacher; called when the first target needs it, so that a finished run loads nothing.
        judge: likewise.
        known: all pair ids of the pair lists, beyond any limit: a row under another id whose files are the same was
            renamed. Called when such a row is met.
        retry_failed: make targets again of which no picture came out.
        pressure: what is given up when memory gets short; by default as the configuration says.
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
        known: Callable[[], frozenset[str]] = frozenset,
        retry_failed: bool = False,
        pressure: Pressure | None = None,
    ) -> None:
        self.config, self.directory, self.data_root = config, directory, data_root
        self._folder = str(directory)
        self._make_teacher, self._make_judge, self._list_known = teacher, judge, known
        self.thresholds, self.ledger = thresholds, ledger
        self.fingerprint, self.retry_failed = fingerprint, retry_failed
        self.base = Settings.of(config)
        automatic = config.batch_size == "auto"
        self.pressure = pressure or Pressure(config.memory_limit, config.chunk, grows=automatic)
        self._creep = memory.Creep()
        self._since_trim = 0
        self._seen: dict[str, str] = {}  # path -> hash, while what is done is passed over

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher, loaded at first use."""
        made = self._make_teacher()
        gc.collect()
        gc.freeze()  # the models' objects live to the end: no collection need look at them again
        return made

    @cached_property
    def judge(self) -> Judge:
        """The judge, loaded at first use."""
        return self._make_judge()

    @cached_property
    def known(self) -> frozenset[str]:
        """All pair ids of the lists."""
        return self._list_known()

    def run(self, work: Iterable[list[Work]]) -> Generator[tuple[int, list[Row]], None, None]:
        """Make what is not done of the work list: after each chunk its size and the rows entered for it.

        Closing the iterator gives up the chunks in flight; what was told is saved.

        Raises:
            MemoryPressureError, StartAfresh: memory is short, or this process has grown too large; all that was told is
                saved.
        """
        gc.freeze()  # modules live to the end: passing over a long list would look at them again and again
        with ThreadPoolExecutor(_LOADERS) as loaders, ThreadPoolExecutor(1) as finisher:
            yield from self._flow(self._loaded(work, loaders), finisher)

    def _loaded(self, work: Iterable[list[Work]], loaders: ThreadPoolExecutor) -> Iterator[list[Loading]]:
        """Windows of what is not done, whose pictures are being read; the next one too, while memory allows."""
        ahead: list[Loading] | None = None
        for window in self._windows(self._unfinished(work)):
            early = self._start_loading(window, loaders) if self.pressure.ahead else None
            if ahead is not None:
                yield ahead
            ahead = early if early is not None else self._start_loading(window, loaders)
        if ahead is not None:
            yield ahead

    # --- what is left to do -----------------------------------------------------------------------------------------

    def _windows(self, found: Iterable[Chunk]) -> Iterator[list[Chunk]]:
        """Neighbouring chunks that are loaded and encoded together; the first window is small, to see pictures soon."""
        window: list[Chunk] = []
        size, room = 0, _IN_FLIGHT * self.config.chunk
        for chunk in found:
            window.append(chunk)
            size += len(chunk.targets)
            if size >= room or not chunk.targets:  # what is done is told at once
                yield window
                room = max(WINDOW, room) if size else room
                window, size = [], 0
        if window:
            yield window

    def _unfinished(self, work: Iterable[list[Work]]) -> Iterator[Chunk]:
        """Every chunk with what is not done of it; the ledger is asked for many at once."""
        stream = iter(work)
        while block := list(islice(stream, max(1, _SCAN // self.config.chunk))):
            flat = [one for chunk in block for one in chunk]
            known = self.ledger.known([one.target for one in flat])
            seen = self._look_at(flat)
            done = 0  # of whole chunks: counted together
            for chunk in block:
                targets = [
                    target
                    for one in chunk
                    if not self._is_done(one, found := known.get(one.target), seen)
                    and (target := self._target(one, found, seen)) is not None
                ]
                if targets:
                    yield Chunk(targets, len(chunk) - len(targets))
                else:
                    done += len(chunk)
            if done:
                yield Chunk([], done)

    def _look_at(self, works: Sequence[Work]) -> Mapping[str, str]:
        """Hashes by path, those of these contents and styles among them; looked at once for all that is done in a row,
        and anew after work was done, for then time has passed.
        """
        if len(self._seen) > _SEEN:
            self._seen = {}
        paths = {path for one in works for path in (one.pair.content_path, one.pair.style_path)}
        new = [path for path in paths if path not in self._seen]
        self._seen |= self.ledger.file_hashes({path: f"{self.data_root}/{path}" for path in new})
        return self._seen

    def _is_done(self, work: Work, known: Known | None, seen: Mapping[str, str]) -> bool:
        """Whether the ledger has this target, made of the same inputs, and every file of it is there."""
        pair = work.pair
        return (
            known is not None
            and (known.made or not self.retry_failed)
            and known.content_sha256 == seen[pair.content_path]
            and known.style_sha256 == seen[pair.style_path]
            and known.prompt == pair.prompt
            and self._there(known.paths)
        )

    def _there(self, paths: Sequence[str]) -> bool:
        return all(os.access(f"{self._folder}/{path}", os.F_OK) for path in paths)

    def _target(self, work: Work, known: Known | None, seen: Mapping[str, str]) -> Target | None:
        """What is to be made; None for what was only renamed."""
        shas = seen[work.pair.content_path], seen[work.pair.style_path]
        if known is None:
            return None if self._adopt(work, shas) else Target(work, *shas)
        return Target(work, *shas, stale=known.paths, known=True)

    def _adopt(self, work: Work, shas: tuple[str, str]) -> bool:
        """Whether the same bytes stand in the ledger under names that no pair list knows any more: then they were
        renamed.
        """
        for rows in self.ledger.same_inputs(*shas, work.seed, work.pair.prompt) if "missing" not in shas else []:
            if rows[0].pair_id in self.known or rows[0].pair_id == work.pair.pair_id:
                continue
            moved = [self._renamed(row, work) for row in rows]
            for old, new in zip(rows, moved, strict=True):
                if old.output_path is None or new.output_path is None:
                    continue
                before = self.ledger.picture_file(old.target, old.output_path)
                if not before.is_file():
                    return False
                write_bytes(self.ledger.picture_file(new.target, new.output_path), before.read_bytes())
            self.ledger.rename(rows[0].target, moved)
            for old in rows:  # after the rows: a kill in between leaves a spare copy, never a row without its picture
                if old.output_path is not None:
                    self.ledger.picture_file(old.target, old.output_path).unlink(missing_ok=True)
            return True
        return False

    def _renamed(self, row: Row, work: Work) -> Row:
        names = {
            key: getattr(work.pair, key)
            for key in ("pair_id", "content_id", "style_id", "content_path", "style_path", "style", "split")
        }
        path = row.output_path.replace(row.target, work.target) if row.output_path is not None else None
        return replace(row, target=work.target, output_path=path, **names)

    def _load(self, target: Target) -> None:
        """Read a target's pictures, in a thread of its own; one that can't be read makes it broken."""
        pair, size = target.work.pair, self.config.size
        try:
            content, style = (load_square(self.data_root / path, size) for path in (pair.content_path, pair.style_path))
        except PictureError as error:
            target.broken = str(error)
            LOGGER.warning("%s: %s", target.work.target, error)
            return
        target.item = Item(
            pair_id=pair.pair_id,
            content_id=pair.content_id,
            style_id=pair.style_id,
            prompt=pair.prompt,
            seed=target.work.seed,
            content=content,
            style=style,
            content_key=target.content_sha256,
            style_key=target.style_sha256,
        )
        target.plan = ("first", self.base)

    # --- the flow ---------------------------------------------------------------------------------------------------

    def _start_loading(self, window: Sequence[Chunk], loaders: ThreadPoolExecutor) -> list[Loading]:
        return [(chunk, [loaders.submit(self._load, target) for target in chunk.targets]) for chunk in window]

    def _flow(
        self, windows: Iterator[list[Loading]], finisher: ThreadPoolExecutor
    ) -> Generator[tuple[int, list[Row]], None, None]:
        """Two chunks in flight: the next to be denoised is the oldest that is planned again, else a new one."""
        waiting: deque[Chunk] = deque()
        flying: deque[Chunk] = deque()
        finishing: Future[None] | None = None
        busy: Chunk | None = None  # the chunk that the thread has in hand
        while True:
            chunk = next((one for one in flying if one is not busy and one.planned), None)
            if chunk is None and len(flying) < _IN_FLIGHT:
                while not waiting and (window := next(windows, None)) is not None:
                    if done := sum(one.done for one, _ in window if not one.targets):
                        yield done, []
                    waiting.extend(self._encoded(window))
                if waiting:
                    chunk = waiting.popleft()
                    flying.append(chunk)
            if chunk is None and not flying:
                return
            job = self._denoise(chunk) if chunk is not None else None
            if finishing is not None:
                finishing.result()
            busy, finishing = chunk, finisher.submit(self._finish, chunk, *job) if chunk is not None and job else None
            while flying and flying[0].rows is not None:
                yield self._enter(flying.popleft())

    def _encoded(self, window: Sequence[Loading]) -> list[Chunk]:
        """A window's chunks that have something to do, once their pictures are read and encoded."""
        for _, loads in window:
            for loaded in loads:
                loaded.result()
        found = [chunk for chunk, _ in window if chunk.targets]
        items = [target.item for chunk in found for target in chunk.planned if target.item is not None]
        if found:
            self._seen = {}  # a new one: a block of the list may still be read with the old
        if items:
            self.pressure.relieve()
            self._sparing(lambda: self.teacher.encode(items))
        return found

    def _denoise(self, chunk: Chunk) -> tuple[list[Item], list[Any], float]:
        """The chunk's planned tries up to their latents, with the seconds that each took."""
        start = time.monotonic()
        plans = [(target.item, target.plan) for target in chunk.planned]
        items = [replace(item, settings=plan[1]) for item, plan in plans if item is not None and plan is not None]
        latents = self._sparing(lambda: self.teacher.denoise(items, self.pressure.batch)) if items else []
        for target in chunk.planned:
            target.batch = min(self.pressure.batch, len(items))
        return items, latents, (time.monotonic() - start) / max(1, len(items))

    def _sparing(self, work: Callable[[], Any]) -> Any:
        """Do some work, with a smaller batch each time that memory runs out."""
        while True:
            try:
                return work()
            except (MemoryError, RuntimeError) as error:  # torch's OutOfMemoryError is a RuntimeError
                if not memory.is_out_of_memory(error):
                    raise
                reason = error.with_traceback(None)  # its frames hold the tensors that did not fit
            self.pressure.out_of_memory(reason)

    def _finish(self, chunk: Chunk, items: list[Item], latents: list[Any], seconds: float) -> None:
        """Decode and judge what was denoised, plan what is C again, and write the chunk when nothing is planned."""
        start = time.monotonic()
        targets = chunk.planned
        made = self._sparing(lambda: self.teacher.finish(items, latents)) if items else []
        scores = self._judged(items, made)
        seconds += (time.monotonic() - start) / max(1, len(items))
        for target, item, one, score in zip(targets, items, made, scores, strict=True):
            assert target.plan is not None and item.settings is not None  # by `planned`
            rung = target.plan[0]
            whole = to_uint8(one.picture) if score["finite"] == 1 else None
            judged = grade(score, self.thresholds)
            facts = {**one.facts, "batch": target.batch}
            target.tries.append(Try(item.settings, rung, whole, score, judged, item.noise_seed, seconds, facts))
            target.plan = self._next_plan(target)
        if not chunk.planned:
            chunk.rows = [row for target in chunk.targets for row in self._write(target)]

    def _judged(self, items: Sequence[Item], made: Sequence[Made]) -> list[Scores]:
        if not items:
            return []
        scores = self.judge.measure(
            [one.picture for one in made],
            [item.content for item in items],
            [item.style for item in items],
            round_trips=[self.teacher.round_trip(item) for item in items],
            keys=[("content " + item.keys[0], "style " + item.keys[1]) for item in items],
        )
        for score, one in zip(scores, made, strict=True):
            if "latents_finite" in one.facts:
                score["latents_finite"] = one.facts["latents_finite"]
        return scores

    def _next_plan(self, target: Target) -> Plan | None:
        """What to try next: nothing once a try is no C, after the last retry, and where no other try is worth one."""
        retries = self.config.max_retries if self.config.quality_filter else 0
        if target.tries[target.best].grade.letter != "C" or len(target.tries) > retries:
            return None
        causes, tried = target.tries[-1].grade.causes, [one.settings for one in target.tries]
        return next_settings(causes, self.base, tried, self.config.ladder)

    def _enter(self, chunk: Chunk) -> tuple[int, list[Row]]:
        """Enter a written chunk's rows, and look after the memory."""
        rows = chunk.rows or []
        new = {row.output_path for row in rows}
        for target in chunk.targets:
            for path in target.stale:
                if path not in new:
                    self.ledger.picture_file(target.work.target, path).unlink(missing_ok=True)
        if rows:
            self.ledger.commit(rows, superseded=[t.work.target for t in chunk.targets if t.known])
            self._look_after_memory(len(chunk.targets))
        return len(chunk.targets) + chunk.done, rows

    def _look_after_memory(self, made: int) -> None:
        self._since_trim += made
        if self.config.gc_interval and self._since_trim >= self.config.gc_interval:
            memory.trim()
            self._since_trim = 0
        self.pressure.relieve()
        rise = self._creep.add(memory.rss_mb())
        if rise is not None:
            raise StartAfresh(
                f"this process's memory rose steadily by {rise:.0f} MB; all is saved, a fresh process goes on"
            )

    # --- writing ----------------------------------------------------------------------------------------------------

    def _write(self, target: Target) -> list[Row]:
        """Write a target's pictures: the best in `images/`, or in `rejected/` where even that is C, others in `tries/`;
        its rows, not entered yet.
        """
        if target.item is None:
            return [
                self._row(
                    target, 0, "first", "broken", Grade("C", self.thresholds.weight_c, [f"broken: {target.broken}"])
                )
            ]
        rows, name, best = [], target.work.target, target.best
        for index, one in enumerate(target.tries):
            folder = "rejected" if one.grade.letter == "C" else "images"
            path = f"{folder}/{name}.png" if index == best else f"tries/{name}_try{index}.png"
            kept = one.picture if index == best or self.config.keep_tries == "all" else None
            sha256 = write_png(self.ledger.picture_file(name, path), kept) if kept is not None else None
            row = self._row(target, index, one.rung, "ok" if one.picture is not None else "failed", one.grade)
            parameters = {
                **self.teacher.parameters(one.settings),
                **{key: value for key, value in one.facts.items() if key != "latents_finite"},
            }
            rows.append(
                replace(
                    row,
                    weight=round(row.weight * rung_weight(one.rung, self.config.ladder), 6),
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
            pair_id=pair.pair_id,
            content_id=pair.content_id,
            style_id=pair.style_id,
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
            fingerprint=self.fingerprint,
        )
