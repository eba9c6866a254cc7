"""Judging pictures on disk, in worker processes: one row a picture, even for one that cannot be read.

Each worker decodes pictures, contents and styles and computes every score but CLIP's, with one OpenCV thread; contents
and styles are decoded and measured once a worker and kept (bounded). CLIP runs in the main process, in batches: one
copy of its weights serves all workers, on the GPU where there is one, while they work on.

Rows are appended to `{output}.part` chunk by chunk; a stopped scan resumes there, and the output appears whole.
"""

from __future__ import annotations

import os
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from cachetools import LRUCache
from typing_extensions import TypedDict

from bottega.quality.config import Thresholds
from bottega.quality.eye.look import eye_identity
from bottega.quality.grading import Grade, grade
from bottega.quality.measuring import ImageEncoder, Scores, Vector, similarities
from bottega.quality.scorer import Job, Judged, Scorer, Size, begin_worker, fitted, judge_chunk
from bottega.runtime.children import worker_pool
from bottega.runtime.errors import MissingError, RequestError, StorageError, WorkError
from bottega.runtime.files import append_jsonl, read_jsonl, sha256_json, storage_error, write_jsonl
from bottega.runtime.interrupt import Interruption
from bottega.runtime.progress import Progress
from bottega.runtime.records import to_record
from bottega.visual.pictures import Picture

_CHUNK = 16  # pictures a task; with those that share the last one's content, up to four times as many
_SMALLEST = 4  # pictures a task towards the end
_AHEAD = 64  # chunks that are judged before their turn, or under way
_KEPT_VECTORS = 100_000  # of 2 to 4 KB each
_NAME = re.compile(r"(?P<pair>[A-Za-z0-9.-]+_[A-Za-z0-9.-]+)_seed\d+(_try\d+)?")


def scan(
    jobs: Sequence[Job],
    limits: Thresholds,
    output: Path,
    *,
    encoder: ImageEncoder | None = None,
    encoder_id: str | None = None,
    processes: int = 1,
) -> ScanSummary:
    """Judge every picture and write one JSON line each: `file_name`, `grade`, `weight`, `reasons`, `scores`.

    A picture, content or style that cannot be read gives a row with grade C, no scores and the reason
    `unreadable: …`. Rows stand in the order of `jobs`. After Ctrl-C the same call resumes.

    Args:
        jobs: the pictures.
        limits: by which they are graded.
        output: JSON lines.
        encoder: CLIP's picture encoder, called in this process; None leaves the similarities out.
        encoder_id: identifies that encoder; a part begun with another one is not continued.
        processes: how many judge; this one is among them, unless CLIP keeps it busy.

    Raises:
        RequestError: no pictures, or fewer than one process.
        Interrupted: asked to stop; what is judged is saved.
        WorkError: a worker was killed.
    """
    if not jobs:
        raise RequestError("there is no picture to judge; name a folder that holds some with --targets")
    if processes < 1:
        raise RequestError(f"pictures are judged by 1 process or more, received {processes}")
    part = output.with_name(output.name + ".part")
    # Other limits, another encoder or other pictures are another request: its rows must not stand in the same output.
    identities = [_identity(job) for job in jobs]
    request = sha256_json([limits.model_dump(mode="json"), encoder_id, eye_identity(), identities])
    done = _begin(part, request)
    counts: Counter[str] = Counter(dict.fromkeys("ABC", 0))
    clip = ClipScorer(encoder) if encoder is not None else None
    todo = list(_chunks(jobs[done:], processes))
    with Interruption() as stop, Progress(len(jobs), "score", "pictures", done=done) as progress:
        for chunk, judged in zip(todo, _judged(todo, processes, clip is not None), strict=True):
            if clip is not None:
                judged = clip.add_similarities(chunk, judged)
            rows = [_row(job, one, limits) for job, one in zip(chunk, judged, strict=True)]
            # On the disk before a stop is asked for: Ctrl-C loses no picture that was judged.
            append_jsonl(part, rows)
            counts.update(row["grade"] for row in rows)
            progress.update(len(rows), **{letter: counts[letter] for letter in "ABC"})
            stop.check()
    return _finish(part, output)


def jobs_of_pairs(lists: Sequence[Path], data_root: Path, folders: Sequence[Path]) -> list[Job]:
    """The pictures under `folders` whose names begin `{content_id}_{style_id}_seed{n}`, with their pairs' paths.

    Raises:
        MissingError: a folder is not there or holds no picture.
        RequestError: a picture's name is none of a pair in `lists`.
    """
    from bottega.data.records import read_pairs
    from bottega.data.roots import picture_file

    found = _find_pictures(folders)
    wanted = {pair_id for _, _, pair_id in found}
    sources: dict[str, tuple[str, str]] = {}  # pair id -> paths of content and style
    for file in lists:
        for pair in read_pairs(file):
            if pair.pair_id in wanted:
                where = f"{file}, pair {pair.pair_id}: a path"
                content = picture_file(data_root, pair.content_path, where)
                sources[pair.pair_id] = (str(content), str(picture_file(data_root, pair.style_path, where)))
    strange = [name for name, _, pair_id in found if pair_id not in sources]
    if strange:
        raise RequestError(
            f"a picture is judged against the pair in its name, CONTENT_STYLE_seedN; {len(strange)} of {len(found)} "
            f"match no pair of the lists, {strange[0]} for one; add their list with --pairs, or move them away"
        )
    found.sort()  # by content, then style: neighbours share what is decoded
    return [Job(name, str(path), *sources[pair_id]) for name, path, pair_id in found]


def _find_pictures(folders: Sequence[Path]) -> list[tuple[str, Path, str]]:
    """(name of its row, file, pair id) of every picture under some folders; MissingError where there is none."""
    from bottega.data.pictures import picture_files

    found: list[tuple[str, Path, str]] = []
    for folder in folders:
        if not folder.is_dir():
            raise MissingError(f"there is no folder {folder}; name with --targets where the pictures are")
        prefix = f"{folder.name}/" if len(folders) > 1 else ""
        for file in picture_files(folder):
            found.append((prefix + file.relative_to(folder).as_posix(), file, _pair_of(file)))
    if not found:
        raise MissingError(f"there is no picture under {', '.join(map(str, folders))}; name another folder")
    return found


# --- CLIP ------------------------------------------------------------------------------------------------------


class ClipScorer:
    """Adds CLIP's similarities to scores, in batches; vectors of contents and styles are kept.

    Args:
        encoder: pictures uint8 [N, H, W, 3] -> unit vectors [N, D].
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        self._encoder = encoder
        self._kept: LRUCache[tuple[str, Size], Vector] = LRUCache(_KEPT_VECTORS)

    def add_similarities(self, jobs: Sequence[Job], judged: Sequence[Judged]) -> list[Judged]:
        """The same with the scores of `measuring.similarities`; a picture without scores stays as it is."""
        pictures = [one.picture for one in judged if one.picture is not None]
        own = iter(self._encode(pictures))
        wanted: list[tuple[str, Size]] = []
        for job, one in zip(jobs, judged, strict=True):
            if one.picture is not None:
                size = _size(one.picture)
                # By size too: content and style are cropped to the shape of the picture that they are compared with.
                wanted += [(job.content, size), (job.style, size)]
        known = self._vectors(wanted)

        found: list[Judged] = []
        for job, one in zip(jobs, judged, strict=True):
            if one.picture is None:
                found.append(one)
                continue
            size = _size(one.picture)
            more = similarities(next(own), known[job.content, size], known[job.style, size])
            rounded = {name: round(value, 6) for name, value in more.items()}
            found.append(Judged(one.scores | rounded))
        return found

    def _vectors(self, wanted: Iterable[tuple[str, Size]]) -> dict[tuple[str, Size], Vector]:
        asked = list(dict.fromkeys(wanted))
        found = {key: self._kept[key] for key in asked if key in self._kept}
        missing = [key for key in asked if key not in found]
        pictures = [fitted(path, size) for path, size in missing]
        fresh = dict(zip(missing, self._encode(pictures), strict=True))
        self._kept.update(fresh)
        return found | fresh

    def _encode(self, pictures: Sequence[Picture]) -> list[Vector]:
        """One call for each size; the vectors in the order of the pictures."""
        by_size: dict[Size, list[int]] = {}
        for i, picture in enumerate(pictures):
            by_size.setdefault(_size(picture), []).append(i)
        vectors: dict[int, Vector] = {}
        for places in by_size.values():
            batch = np.stack([pictures[i] for i in places])  # [N, H, W, 3]
            encoded = np.asarray(self._encoder(batch), np.float32)  # [N, D]
            vectors.update(zip(places, encoded, strict=True))
        return [vectors[i] for i in range(len(pictures))]


def _size(picture: Picture) -> Size:
    return picture.shape[1], picture.shape[0]


# --- worker processes -------------------------------------------------------------------------------------------------


def _judged(chunks: Sequence[list[Job]], processes: int, with_picture: bool) -> Iterator[list[Judged]]:
    """The chunks' results in their order; at most two chunks a worker are under way."""
    # Without CLIP this process has nothing else to do: it is one of `processes`, and begins while the others start.
    # 402 pictures took 3 s with two processes, a third of it until the second had imported its libraries.
    helps = processes == 1 or not with_picture
    workers = processes - helps
    # Not forked from this process: it may hold threads of torch or OpenCV, which a fork does not survive.
    pool = worker_pool(max(1, min(workers, len(chunks))), begin_worker)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as the workers: together they use every processor
    try:
        yield from _in_order(iter(chunks), pool, workers, helps, with_picture)
    except BrokenProcessPool as error:
        raise WorkError(
            f"a worker process was killed, most likely because memory ran out; to resume, run the same command again "
            f"with fewer than --processes {processes}"
        ) from error
    finally:
        cv2.setNumThreads(threads)
        pool.shutdown(wait=True, cancel_futures=True)


def _in_order(
    waiting: Iterator[list[Job]], pool: ProcessPoolExecutor, workers: int, helps: bool, with_picture: bool
) -> Iterator[list[Judged]]:
    """The results of chunks in their order, judged by the workers and, where it `helps`, by this process."""
    under_way: deque[Future[list[Judged]]] = deque()
    scorer = Scorer()
    while True:
        # Hand out chunks until every worker has two: one at work and the next at hand.
        busy = sum(not one.done() for one in under_way)
        for chunk in islice(waiting, max(0, 2 * workers - busy)):
            under_way.append(pool.submit(judge_chunk, chunk, with_picture))
        # While the first of them is not done, judge a chunk here.
        own = None
        if helps and _may_judge(under_way):
            own = next(waiting, None)
        if own is not None:
            under_way.append(Future())
            under_way[-1].set_result([scorer.judge(job, with_picture=with_picture) for job in own])
        elif under_way:
            yield under_way.popleft().result()
        else:
            return


def _may_judge(under_way: Sequence[Future[list[Judged]]]) -> bool:
    """Whether this process may judge a chunk now: nothing is ready to be written, and not too much is held."""
    return not under_way or (len(under_way) < _AHEAD and not under_way[0].done())


# --- rows and files ---------------------------------------------------------------------------------------------------


class ScanSummary(TypedDict):
    """What a scan found: pictures, how many have each grade (A, B, C), and how many could not be read."""

    pictures: int
    grades: dict[str, int]
    unreadable: int


class ScoreRow(TypedDict):
    """A line of the output."""

    file_name: str
    grade: str
    weight: float
    reasons: list[str]
    scores: Scores


def _row(job: Job, judged: Judged, limits: Thresholds) -> ScoreRow:
    if judged.reason:
        given = Grade("C", limits.weight_c, [f"unreadable: {judged.reason}"])
    else:
        given = grade(judged.scores, limits)
    return {
        "file_name": job.name,
        "grade": given.letter,
        "weight": given.weight,
        "reasons": given.reasons,
        "scores": judged.scores,
    }


def _begin(part: Path, request: str) -> int:
    """How many rows of this very request are in `part`; a part of another request is started again."""
    try:
        if part.is_file():
            kept = read_jsonl(part)
            if next(kept, None) == {"request": request}:
                return sum(1 for _ in kept)
        part.unlink(missing_ok=True)
    except StorageError:
        part.unlink()
    except OSError as error:
        raise storage_error(error, part) from error
    append_jsonl(part, [{"request": request}])
    return 0


def _finish(part: Path, output: Path) -> ScanSummary:
    """Move the rows to `output`, without the head, and count them."""
    grades: Counter[str] = Counter()
    unreadable = 0

    def rows() -> Iterator[ScoreRow]:
        nonlocal unreadable
        for line in islice(read_jsonl(part), 1, None):
            row = to_record(ScoreRow, line, str(part), "delete it and run the same command again")
            grades[row["grade"]] += 1
            unreadable += any(reason.startswith("unreadable:") for reason in row["reasons"])
            yield row

    # Counted while they are copied: the rows of a long scan are never in memory at once.
    pictures = write_jsonl(output, rows())
    part.unlink()
    return {"pictures": pictures, "grades": {letter: grades[letter] for letter in "ABC"}, "unreadable": unreadable}


def _identity(job: Job) -> list[str | int]:
    """A job by its paths, and its picture's size and time: a part is not continued when a picture has changed."""
    try:
        state = os.stat(job.picture)
    except OSError:
        return [job.name, job.picture, job.content, job.style]  # its row will say what is wrong
    return [job.name, job.picture, job.content, job.style, state.st_size, state.st_mtime_ns]


def _pair_of(file: Path) -> str:
    """The pair in a picture's name; "" where the name has another form."""
    match = _NAME.fullmatch(file.stem)
    return match["pair"] if match else ""


def _chunks(jobs: Sequence[Job], processes: int) -> Iterator[list[Job]]:
    """Neighbours by name share their content: it is decoded by one worker only."""
    chunk: list[Job] = []
    left = len(jobs)
    for job in jobs:
        # Smaller towards the end, so that all processes end at about the same time.
        size = min(_CHUNK, max(_SMALLEST, left // (8 * processes)))
        is_full = len(chunk) >= size
        if is_full and (job.content != chunk[-1].content or len(chunk) >= 4 * size):
            yield chunk
            left -= len(chunk)
            chunk = []
        chunk.append(job)
    if chunk:
        yield chunk
