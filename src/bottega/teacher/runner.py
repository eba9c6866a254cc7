"""The run: down the work list in chunks, two of them in flight, pictures first, then their rows in one transaction.

    load ahead ─ encode a window ─┬─ denoise chunk k+1 ────────────────────┐
                                  └─ decode, judge, write chunk k (thread) ┴─ enter rows, in the order of the list

While the U-Net works on one chunk, a thread decodes, judges and writes the one before. What is C after that is planned
again by its cause and denoised next, together with nothing but what is C of the same chunk. Who goes next follows from
the plans and never from who was faster, and rows are entered in the order of the list.

A chunk is fixed by the pair list (file, seed, index // batch), never by what is done already, and an unfinished one
is made again whole: after a kill at any moment the same command gives the same bytes and the same rows. Order: the
first seed for all pairs, then the next.

On a CPU with several cores, several processes make a chunk each, all by themselves, and this one enters the rows.

| part | job |
|---|---|
| `backlog.Backlog` | finds what is not done of the work list |
| `making.ChunkMaker` | makes a chunk |
| `tries.TryGrader` | grades a try and plans the next |
| `writer.TargetWriter` | writes pictures, makes rows |
| `pressure.TeacherMemory` | gives up what it can when memory is short |
| `sharing` | has chunks made by several processes |
| `Runner` | has chunks made, two at once in three threads, and enters their rows |
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

from bottega.models.workers import Workers
from bottega.teacher.backlog import Backlog
from bottega.teacher.ledger import Ledger, TryRow
from bottega.teacher.making import ChunkMaker
from bottega.teacher.sharing import make_shared, share_chunks
from bottega.teacher.work import Chunk, WorkItem

_IN_FLIGHT = 2  # chunks: one for the U-Net, one for the finishing thread
_LOADERS = 2  # threads that read pictures
Loading = tuple[Chunk, list[Future[None]]]
Report = tuple[int, list[TryRow]]  # targets that are done, and the rows that were entered for them


class Runner:
    """Has targets made, judged, retried and written, and enters them.

    Args:
        maker: makes the chunks.
        ledger: the run's rows; its folder holds the pictures.
        list_pair_ids: see `backlog.Backlog`.
        retry_failed: make targets again of which no picture came out.
        shared: several processes make the chunks where the machine allows; the maker has loaded no model yet.
    """

    def __init__(
        self,
        maker: ChunkMaker,
        ledger: Ledger,
        *,
        list_pair_ids: Callable[[], frozenset[str]] = frozenset,
        retry_failed: bool = False,
        shared: bool = False,
    ) -> None:
        self.maker, self.ledger, self.shared = maker, ledger, shared
        self.backlog = Backlog(
            ledger, maker.data_root, maker.config.chunk, list_pair_ids=list_pair_ids, retry_failed=retry_failed
        )

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
        windows = self.backlog.windows(work, _IN_FLIGHT)
        first: list[list[Chunk]] = []
        for window in windows:
            if any(chunk.targets for chunk in window):
                first.append(window)
                break
            yield sum(chunk.done for chunk in window), []
        if not first:
            return  # nothing to make: neither torch nor a model was loaded
        windows = chain(first, windows)
        workers = share_chunks(self.maker) if self.shared else None
        if workers is not None:
            yield from self._shared_flow(windows, workers)
            return
        with ThreadPoolExecutor(_LOADERS) as loaders, ThreadPoolExecutor(1) as finisher:
            yield from self._flow(self._loaded_windows(windows, loaders), finisher)

    def _shared_flow(self, windows: Iterable[list[Chunk]], workers: Workers) -> Iterator[Report]:
        """Chunks made by several processes; what is done already is reported with the chunk after it."""
        passed = [0]  # targets

        def unfinished() -> Iterator[Chunk]:
            for window in windows:
                self.backlog.forget_hashes()  # making takes minutes: a content may be another by then
                for chunk in window:
                    if chunk.targets:
                        yield chunk
                    else:
                        passed[0] += chunk.done

        for chunk, rows in make_shared(self.maker, workers, unfinished()):
            chunk.rows = rows
            yield self._enter(chunk)
            if passed[0]:
                yield passed[0], []
                passed[0] = 0
        if passed[0]:
            yield passed[0], []

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
            denoised = self.maker.denoise(chunk) if chunk is not None else None
            if finishing is not None:
                finishing.result()
            finishing = finisher.submit(self.maker.finish, denoised) if denoised is not None else None
            busy = chunk

            yield from self._enter_written(in_flight)

    # --- load -------------------------------------------------------------------------------------------------------

    def _loaded_windows(self, windows: Iterable[list[Chunk]], loaders: ThreadPoolExecutor) -> Iterator[list[Loading]]:
        """Windows of what is not done, whose pictures are being read; the next one too, while memory allows."""
        # One window ahead: 2.0 instead of 1.8 times the throughput of a plain loop (docs/log.md, seventh session).
        ahead: list[Loading] | None = None
        for window in windows:
            early = self._start_loading(window, loaders) if self.maker.memory.loads_ahead else None
            if ahead is not None:
                yield ahead
            ahead = early if early is not None else self._start_loading(window, loaders)
        if ahead is not None:
            yield ahead

    def _start_loading(self, window: Sequence[Chunk], loaders: ThreadPoolExecutor) -> list[Loading]:
        loading: list[Loading] = []
        for chunk in window:
            reads = [loaders.submit(self.maker.load, target) for target in chunk.targets]
            loading.append((chunk, reads))
        return loading

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
        if found:
            self.backlog.forget_hashes()  # making takes minutes: a content may be another by then
            self.maker.encode(found)
        return found

    # --- enter ------------------------------------------------------------------------------------------------------

    def _enter_written(self, in_flight: deque[Chunk]) -> Iterator[Report]:
        """Enter what is written, in the order of the list, up to the first chunk that is not."""
        # In that order a killed run's ledger equals an uninterrupted one's, row numbers included.
        while in_flight and in_flight[0].rows is not None:
            chunk = in_flight.popleft()
            yield self._enter(chunk)
            if chunk.rows:
                self.maker.memory.check_memory(len(chunk.targets))

    def _enter(self, chunk: Chunk) -> Report:
        """Remove the pictures that the chunk replaces, and enter its rows."""
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
        return len(chunk.targets) + chunk.done, rows


def _to_retry(in_flight: Iterable[Chunk], busy: Chunk | None) -> Chunk | None:
    """The oldest chunk in flight that has planned tries and is not being finished right now."""
    for chunk in in_flight:
        if chunk is not busy and chunk.planned:
            return chunk
    return None
