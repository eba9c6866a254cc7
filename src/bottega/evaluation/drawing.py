"""Pictures of the methods that draw, in a process for each family of models: `bottega evaluate --draw requests.json`.

SDXL and PixArt are never in one process, and the memory of either is given back when its process ends. Pictures are
drawn in the order of the grid, in batches fixed by it; a batch's pictures are written, then its lines in `made.jsonl`.
A batch of which a picture is missing is drawn again as a whole, so that a stopped and repeated evaluation has the
pictures of an uninterrupted one.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NotRequired, cast

from typing_extensions import TypedDict

from bottega.data.pictures import load_square
from bottega.data.records import Pair
from bottega.data.roots import picture_file
from bottega.evaluation.efficiency import WARM_UP, EfficiencyRecord, TimedPainter, measure_efficiency
from bottega.evaluation.painter_imports import import_painters
from bottega.evaluation.painters import PairPainter, load_painter
from bottega.models.config import ModelsConfig
from bottega.models.rehearsal.marker import picture_text, rehearsed_roles
from bottega.models.workers import Workers, open_pool
from bottega.runtime.children import run_child
from bottega.runtime.errors import NonFiniteError, PictureError
from bottega.runtime.files import (
    append_jsonl,
    read_jsonl_leniently,
    sha256_file,
    sha256_json,
    write_json,
    write_jsonl,
    write_png,
)
from bottega.runtime.interrupt import Interruption
from bottega.runtime.locks import lock
from bottega.runtime.progress import Progress
from bottega.runtime.records import read_record, to_record
from bottega.runtime.trust import hash_json, holds, with_check
from bottega.visual.pictures import Picture, to_uint8


class MadeLine(TypedDict):
    """A line of `made.jsonl`: the hash of a pair's picture, or the error for which it has none; and the line's own."""

    pair_id: str
    key: str
    sha256: NotRequired[str]
    error: NotRequired[str]
    check: NotRequired[str]


class CostLine(TypedDict):
    """`efficiency.json` of a row: what its pictures cost, by the request's fingerprint, and the hash of that.

    The hash differs between two equal runs, as seconds do, and has their name, by which comparisons leave it out.
    """

    fingerprint: str
    cost: EfficiencyRecord
    seconds_hash: str


@dataclass(frozen=True)
class Request:
    """What a drawing process is asked for.

    Attributes:
        row: the method.
        directory: where its pictures go.
        data_root: what the pairs' paths are relative to.
        pairs: what to draw.
        batch_size: pictures drawn together.
        seed: of the pictures' noise.
        fingerprint: of the weights and the settings; a picture made with another one is drawn again.
        settings: JSON that `painters.load_painter` needs for this row.
        workers: processes that share its batches, see `workers.share_work`; 1: one draws all.
        threads: of each of several workers.
        timed: pictures whose cost is measured once the others are drawn, see `efficiency`; 0: none.
    """

    row: str
    directory: str
    data_root: str
    pairs: tuple[Pair, ...]
    batch_size: int
    seed: int
    fingerprint: str
    settings: Mapping[str, Any]
    workers: int = 1
    threads: int = 1
    timed: int = 0

    @property
    def made(self) -> Path:
        """The file of what was drawn, `MadeLine`s."""
        return Path(self.directory) / "made.jsonl"

    @property
    def efficiency(self) -> Path:
        """The file of what a picture costs, a `CostLine`."""
        return Path(self.directory) / "efficiency.json"

    def picture(self, pair: Pair) -> Path:
        """The file of a pair's picture."""
        return Path(self.directory) / f"{pair.pair_id}.png"

    def key(self, pair: Pair) -> str:
        """Identifies everything a picture depends on, but for what it is batched with."""
        data_root = Path(self.data_root)
        sources = [_sha(path) for path in _sources_of(pair, data_root)]
        ids = [pair.content_id, pair.style_id, pair.prompt]
        return sha256_json([self.fingerprint, self.row, self.seed, ids, sources])[:20]


def draw(requests: Sequence[Request]) -> dict[str, dict[str, Path]]:
    """Have the pictures of some requests drawn by one process, unless all of them are there.

    Returns:
        By row the picture of each pair id that has one; a pair with a broken source, or whose picture was not finite,
        has none.

    Raises:
        BottegaError: as it was raised in the process; `Interrupted` once that has stopped in good order.
    """
    draw_missing(requests)
    return {request.row: drawn_by(request) for request in requests}


def draw_missing(requests: Sequence[Request]) -> None:
    """Have one process draw what is missing of some requests; raises as `draw`."""
    todo = [request for request in requests if _missing_batches(request) or _is_untimed(request)]
    if todo:
        _run_child(todo)


def drawn_by(request: Request) -> dict[str, Path]:
    """The picture of each pair id of a request that has one."""
    made = _read_made(request)
    files: dict[str, Path] = {}
    for pair in request.pairs:
        line = made.get(pair.pair_id)
        if line is not None and "sha256" in line:
            files[pair.pair_id] = request.picture(pair)
    return files


def draw_here(request: Request, painter: PairPainter) -> None:
    """Draw what is missing of a request in this process."""
    todo = _missing_batches(request)
    done = len(request.pairs) - sum(len(batch) for batch in todo)
    with (
        Progress(len(request.pairs), f"drawing: {request.row}", "pictures", done=done) as progress,
        Interruption() as stop,
    ):
        for batch in todo:
            append_jsonl(request.made, _draw_batch(request, painter, batch))
            progress.update(len(batch))
            stop.check()


def _draw_shared(requests: Sequence[Request]) -> None:
    """Draw what is missing of some requests in several processes, a batch of pairs at a time."""
    batches: list[tuple[int, Sequence[Pair]]] = []
    for number, request in enumerate(requests):
        batches += [(number, batch) for batch in _missing_batches(request)]
    total = sum(len(request.pairs) for request in requests)
    missing = sum(len(batch) for _, batch in batches)
    rows = " and ".join(request.row for request in requests)
    # This process was started to draw and has computed nothing yet: so it may be forked.
    import_painters()
    workers = Workers(requests[0].workers, requests[0].threads, partial(_begin_worker, list(requests)), forked=True)
    with (
        Progress(total, f"drawing: {rows}", "pictures", done=total - missing) as progress,
        Interruption() as stop,
        open_pool(workers) as pool,
    ):
        for number, lines in pool.in_order(_draw_in_worker, batches):
            append_jsonl(requests[number].made, lines)
            progress.update(len(lines))
            stop.check()


_asked: list[Request] = []  # of a worker process
_loaded: dict[int, PairPainter] = {}  # the painter of the request that a worker process draws


def _begin_worker(requests: list[Request]) -> None:
    _asked[:] = requests


def _draw_in_worker(item: tuple[int, Sequence[Pair]]) -> tuple[int, list[MadeLine]]:
    """Draw a batch of the request of this number."""
    number, batch = item
    request = _asked[number]
    if number not in _loaded:
        _loaded.clear()  # first, so that the models of two rows are never in memory together
        _loaded[number] = _load_painter(request)
    return number, _draw_batch(request, _loaded[number], batch)


def read_efficiency(request: Request) -> EfficiencyRecord | None:
    """What a row's pictures cost, as it was measured for this very request; None where it was not."""
    if not request.efficiency.is_file():
        return None
    for value in read_jsonl_leniently(request.efficiency, []):
        line = to_record(CostLine, value, str(request.efficiency), "delete that file: it is measured again")
        # A damaged line says nothing: the cost is measured again.
        if line["fingerprint"] == request.fingerprint and line["seconds_hash"] == hash_json(line["cost"]):
            return line["cost"]
    return None


def _is_untimed(request: Request) -> bool:
    return request.timed > 0 and read_efficiency(request) is None


def _time_pictures(request: Request, painter: PairPainter) -> None:
    """Measure what a picture of the row costs, and write it down."""
    pairs: list[Pair] = []
    sources: list[tuple[Picture, Picture]] = []
    for pair in request.pairs[: request.timed + WARM_UP]:
        try:
            content, style = (load_square(path, painter.size) for path in _sources_of(pair, Path(request.data_root)))
        except PictureError:
            continue  # its own line in made.jsonl says so
        pairs.append(pair)
        sources.append((content, style))
    if not pairs:
        return
    cost = measure_efficiency(cast(TimedPainter, painter), pairs, sources, request.seed)
    line: CostLine = {"fingerprint": request.fingerprint, "cost": cost, "seconds_hash": hash_json(cost)}
    write_jsonl(request.efficiency, [line])


def _load_painter(request: Request) -> PairPainter:
    captions = sorted({pair.prompt for pair in request.pairs})
    return load_painter(request.row, request.settings, captions)


@lru_cache(maxsize=8)  # asked for each batch, and the headers are those of gigabytes of files
def _random_roles(models: str) -> list[str]:
    """The models of a rehearsal among those that pictures are drawn with, by the JSON of a section `models`."""
    return rehearsed_roles(ModelsConfig.model_validate_json(models), ("sdxl", "ip_adapter", "pixart", "clip"))


def _draw_batch(request: Request, painter: PairPainter, batch: Sequence[Pair]) -> list[MadeLine]:
    """Draw and write a batch; its lines for `made.jsonl`. A broken source costs its own pair only."""
    text = picture_text(_random_roles(json.dumps(request.settings.get("models") or {}, sort_keys=True)))
    lines: dict[str, MadeLine] = {}
    pairs: list[Pair] = []
    sources: list[tuple[Picture, Picture]] = []
    data_root = Path(request.data_root)
    for pair in batch:
        lines[pair.pair_id] = {"pair_id": pair.pair_id, "key": request.key(pair)}
        try:
            content, style = (load_square(path, painter.size) for path in _sources_of(pair, data_root))
        except PictureError as error:
            lines[pair.pair_id]["error"] = str(error)
            continue
        pairs.append(pair)
        sources.append((content, style))
    # The pictures are written before the lines that name them: a kill between the two draws the batch again.
    pictures = painter.draw(pairs, sources, request.seed) if pairs else []
    for pair, picture in zip(pairs, pictures, strict=True):
        try:
            lines[pair.pair_id]["sha256"] = write_png(request.picture(pair), to_uint8(picture), text)
        except NonFiniteError as error:
            lines[pair.pair_id]["error"] = str(error)
    return [cast(MadeLine, with_check(lines[pair.pair_id])) for pair in batch]


def _missing_batches(request: Request) -> list[Sequence[Pair]]:
    """The batches of which any picture is not there as its line in `made.jsonl` says."""
    made = _read_made(request)
    missing: list[Sequence[Pair]] = []
    for start in range(0, len(request.pairs), request.batch_size):
        batch = request.pairs[start : start + request.batch_size]
        # As a whole: a picture's last bits depend on what it is batched with, and a repeated evaluation is to have the
        # pictures of an uninterrupted one.
        if not all(_is_made(request, made.get(pair.pair_id), pair) for pair in batch):
            missing.append(batch)
    return missing


def _read_made(request: Request) -> dict[str, MadeLine]:
    """The lines of `made.jsonl` by pair id; the last of a pair counts."""
    if not request.made.is_file():
        return {}
    cure = "delete that line: the pictures of its batch are drawn again"
    made: dict[str, MadeLine] = {}
    for value in read_jsonl_leniently(request.made, []):
        # A damaged line says nothing: its pair is drawn again.
        if holds(value):
            line = to_record(MadeLine, value, str(request.made), cure)
            made[line["pair_id"]] = line
    return made


def _is_made(request: Request, line: MadeLine | None, pair: Pair) -> bool:
    """Whether the pair was drawn for this very request, and its picture, if any came out, is still the same."""
    if line is None or line.get("key") != request.key(pair):
        return False
    return "sha256" not in line or _sha(request.picture(pair)) == line["sha256"]


def _sources_of(pair: Pair, data_root: Path) -> tuple[Path, Path]:
    """The files of a pair's content and style."""
    content = picture_file(data_root, pair.content_path, f"pair {pair.pair_id}: content_path")
    return content, picture_file(data_root, pair.style_path, f"pair {pair.pair_id}: style_path")


def _sha(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError:
        return "unreadable"


def _run_child(requests: Sequence[Request]) -> None:
    """Call `draw_from` on some requests in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bottega-") as folder:
        file = Path(folder) / "requests.json"
        write_json(file, [asdict(request) for request in requests])
        rows = " and ".join(request.row for request in requests)
        run_child(["evaluate", "--draw", str(file)], f"drawing of {rows}")


def draw_from(file: Path) -> None:
    """Draw what a file asks for, one request after the other. The command line calls this in the child process."""
    requests = read_record(file, list[Request], "run bottega evaluate, which writes this file")
    with ExitStack() as held:
        for request in requests:
            place = Path(request.directory) / ".lock"
            held.enter_context(lock(place, f"drawing {request.row} for an evaluation"))
        if requests[0].workers > 1:
            _draw_shared(requests)
        for request in requests:
            # Alone, after the pictures: beside another process, its own seconds would not be known.
            if _missing_batches(request) or _is_untimed(request):
                painter = _load_painter(request)
                draw_here(request, painter)
                if _is_untimed(request):
                    _time_pictures(request, painter)
