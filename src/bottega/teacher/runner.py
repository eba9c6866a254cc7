"""The run: down the work list in chunks, two of them in flight, pictures first, then their rows in one transaction.

    load ahead ─ encode a window ─┬─ denoise chunk k+1 ────────────────────┐
                                  └─ decode, judge, write chunk k (thread) ┴─ enter rows, in the order of the list

While the U-Net works on one chunk, a thread decodes, judges and writes the one before. What is C after that is planned
again by its cause and denoised next, together with nothing but what is C of the same chunk. Who goes next follows from
the plans and never from who was faster, and rows are entered in the order of the list.

A chunk is fixed by the pair list (file, seed, index // batch), never by what is done already, and an unfinished one
is made again whole: after a kill at any moment the same command gives the same bytes and the same rows. Order: the
first seed for all pairs, then the next.

| part | job |
|---|---|
| `backlog.Backlog` | finds what is not done of the work list |
| `tries.TryGrader` | grades a try and plans the next |
| `writer.TargetWriter` | writes pictures, makes rows |
| `pressure.TeacherMemory` | gives up what it can when memory is short |
| `Runner` | loads, encodes, denoises and enters, in this order and in three threads |
"""

from __future__ import annotations

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bottega.data.pictures import load_square
from bottega.data.roots import picture_file
from bottega.quality.config import Thresholds
from bottega.runtime.errors import PictureError
from bottega.teacher.backlog import Backlog
from bottega.teacher.config import TeacherConfig
from bottega.teacher.items import Item
from bottega.teacher.ledger import Ledger, TryRow
from bottega.teacher.models import TeacherModels
from bottega.teacher.pressure import TeacherMemory
from bottega.teacher.tries import TryGrader
from bottega.teacher.work import Chunk, NextTry, PendingTarget, WorkItem
from bottega.teacher.writer import TargetWriter

LOGGER = logging.getLogger(__name__)
_IN_FLIGHT = 2  # chunks: one for the U-Net, one for the finishing thread
_LOADERS = 2  # threads that read pictures
Loading = tuple[Chunk, list[Future[None]]]
Report = tuple[int, list[TryRow]]  # targets that are done, and the rows that were entered for them


@dataclass(frozen=True, eq=False)
class Denoised:
    """A chunk's planned tries up to their latents, and the seconds that each took so far."""

    chunk: Chunk
    items: list[Item]
    latents: list[Any]
    seconds: float


class Runner:
    """Makes, judges, retries, writes and enters targets.

    Args:
        config: the protocol and the run's options.
        ledger: the run's rows; its folder holds the pictures.
        data_root: what the pairs' paths are relative to.
        models: the teacher and the judge; loaded when the first target needs them.
        thresholds: the limits of the grades.
        fingerprint: what every row depends on; recorded in each.
        list_pair_ids: see `backlog.Backlog`.
        retry_failed: make targets again of which no picture came out.
    """

    def __init__(
        self,
        config: TeacherConfig,
        ledger: Ledger,
        data_root: Path,
        models: TeacherModels,
        thresholds: Thresholds,
        fingerprint: str,
        *,
        list_pair_ids: Callable[[], frozenset[str]] = frozenset,
        retry_failed: bool = False,
    ) -> None:
        self.config, self.ledger, self.data_root, self.models = config, ledger, data_root, models
        self.backlog = Backlog(ledger, data_root, config.chunk, list_pair_ids=list_pair_ids, retry_failed=retry_failed)
        self.grader = TryGrader(config, models, thresholds)
        self.writer = TargetWriter(config, ledger, models, thresholds, fingerprint)
        self.memory = TeacherMemory(config)

    def run(self, work: Iterable[list[WorkItem]]) -> Generator[Report, None, None]:
        """Make what is not done of the work list: after each chunk its size and the rows entered for it.

        Closing the iterator gives up the chunks in flight; what was reported is saved.

        Raises:
            MemoryPressureError, StartAfresh: memory is short, or this process has grown too large; all that was
                reported is saved.
        """
        # Modules live to the end. Without this, the collector visits a million of their objects a thousand times while
        # a list of 200 000 pairs is passed over: 0.8 s (docs/log.md, eighth session).
        gc.freeze()
        with ThreadPoolExecutor(_LOADERS) as loaders, ThreadPoolExecutor(1) as finisher:
            yield from self._flow(self._loaded_windows(work, loaders), finisher)

    def _flow(self, windows: Iterator[list[Loading]], finisher: ThreadPoolExecutor) -> Iterator[Report]:
        """Two chunks in flight: the next to be denoised is the oldest that is planned again, else a new one."""
        waiting: deque[Chunk] = deque()
        in_flight: deque[Chunk] = deque()
        finishing: Future[None] | None = None
        busy: Chunk | None = None  # the chunk that the finishing thread has in hand
        while True:
            # Choose a chunk: one that has retries, else the next of the list.
            chunk = _to_retry(in_flight, busy)
            if chunk is None and len(in_flight) < _IN_FLIGHT:
                yield from self._encode_more(windows, waiting)
                if waiting:
                    chunk = waiting.popleft()
                    in_flight.append(chunk)
            if chunk is None and not in_flight:
                return

            # Denoise it while the thread finishes the one before. Waiting for the thread, whichever is faster, makes
            # the order of work follow from the plans alone.
            denoised = self._denoise(chunk) if chunk is not None else None
            if finishing is not None:
                finishing.result()
            finishing = finisher.submit(self._finish, denoised) if denoised is not None else None
            busy = chunk

            yield from self._enter_written(in_flight)

    # --- load -------------------------------------------------------------------------------------------------------

    def _loaded_windows(self, work: Iterable[list[WorkItem]], loaders: ThreadPoolExecutor) -> Iterator[list[Loading]]:
        """Windows of what is not done, whose pictures are being read; the next one too, while memory allows."""
        # One window ahead: 2.0 instead of 1.8 times the throughput of a plain loop (docs/log.md, seventh session).
        ahead: list[Loading] | None = None
        for window in self.backlog.windows(work, _IN_FLIGHT):
            early = self._start_loading(window, loaders) if self.memory.loads_ahead else None
            if ahead is not None:
                yield ahead
            ahead = early if early is not None else self._start_loading(window, loaders)
        if ahead is not None:
            yield ahead

    def _start_loading(self, window: Sequence[Chunk], loaders: ThreadPoolExecutor) -> list[Loading]:
        loading: list[Loading] = []
        for chunk in window:
            reads = [loaders.submit(self._load, target) for target in chunk.targets]
            loading.append((chunk, reads))
        return loading

    def _load(self, target: PendingTarget) -> None:
        """Read a target's pictures, in a thread of its own; one that can't be read makes it broken."""
        pair, size = target.work.pair, self.config.size
        try:
            where = f"pair {pair.pair_id}: a path"
            content = load_square(picture_file(self.data_root, pair.content_path, where), size)
            style = load_square(picture_file(self.data_root, pair.style_path, where), size)
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
        target.plan = NextTry("first", self.grader.base)

    # --- make -------------------------------------------------------------------------------------------------------

    def _encode_more(self, windows: Iterator[list[Loading]], waiting: deque[Chunk]) -> Iterator[Report]:
        """Encode windows until a chunk waits to be denoised; what was done before is reported and passed over."""
        while not waiting:
            window = next(windows, None)
            if window is None:
                return
            done = sum(chunk.done for chunk, _ in window if not chunk.targets)
            if done:
                yield done, []
            waiting.extend(self._encode(window))

    def _encode(self, window: Sequence[Loading]) -> list[Chunk]:
        """A window's chunks that have something to do, once their pictures are read and encoded."""
        for _, loads in window:
            for loaded in loads:
                loaded.result()
        found = [chunk for chunk, _ in window if chunk.targets]
        items: list[Item] = []
        for chunk in found:
            items += [target.item for target in chunk.planned if target.item is not None]
        if found:
            self.backlog.forget_hashes()  # making takes minutes: a content may be another by then
        if items:
            self.memory.relieve()
            self.memory.retry_on_oom(lambda: self.models.teacher.encode(items))
        return found

    def _denoise(self, chunk: Chunk) -> Denoised:
        """The chunk's planned tries up to their latents."""
        start = time.monotonic()
        targets = chunk.planned
        items: list[Item] = []
        for target in targets:
            if target.item is not None and target.plan is not None:
                items.append(replace(target.item, settings=target.plan.settings))
        latents: list[Any] = []
        if items:
            latents = self.memory.retry_on_oom(lambda: self.models.teacher.denoise(items, self.memory.batch))
        for target in targets:
            target.batch = min(self.memory.batch, len(items))
        seconds = (time.monotonic() - start) / max(1, len(items))
        return Denoised(chunk, items, latents, seconds)

    def _finish(self, denoised: Denoised) -> None:
        """Decode and judge what was denoised, plan what is C again, and write the chunk when nothing is planned."""
        start = time.monotonic()
        chunk, items, latents = denoised.chunk, denoised.items, denoised.latents
        if items:
            made = self.memory.retry_on_oom(lambda: self.models.teacher.finish(items, latents))
            tries = self.grader.add_tries(chunk.planned, items, made)
            seconds = denoised.seconds + (time.monotonic() - start) / len(items)
            for one in tries:
                one.seconds = seconds
        if not chunk.planned:
            rows: list[TryRow] = []
            for target in chunk.targets:
                rows += self.writer.write(target)
            chunk.rows = rows

    # --- enter ------------------------------------------------------------------------------------------------------

    def _enter_written(self, in_flight: deque[Chunk]) -> Iterator[Report]:
        """Enter what is written, in the order of the list, up to the first chunk that is not."""
        # In that order a killed run's ledger equals an uninterrupted one's, row numbers included.
        while in_flight and in_flight[0].rows is not None:
            yield self._enter(in_flight.popleft())

    def _enter(self, chunk: Chunk) -> Report:
        """Remove the pictures that the chunk replaces, enter its rows, and check the memory."""
        # Files first: a kill before the commit leaves rows whose file is absent, so the target is made again. In
        # the other order, a file that no row names would stay for good.
        rows = chunk.rows or []
        written = {row.output_path for row in rows}
        for target in chunk.targets:
            for path in target.stale:
                if path not in written:
                    self.ledger.picture_file(target.work.target, path).unlink(missing_ok=True)
        if rows:
            replaced = [target.work.target for target in chunk.targets if target.known]
            self.ledger.commit(rows, superseded=replaced)
            self.memory.check_memory(len(chunk.targets))
        return len(chunk.targets) + chunk.done, rows


def _to_retry(in_flight: Iterable[Chunk], busy: Chunk | None) -> Chunk | None:
    """The oldest chunk in flight that has planned tries and is not being finished right now."""
    for chunk in in_flight:
        if chunk is not busy and chunk.planned:
            return chunk
    return None
