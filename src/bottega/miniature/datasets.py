"""The drawn world on disk in the formats of the real data sets: COCO with pixel maps, WikiArt parquet, Fill50K.

`run_world` writes `raw/{coco,wikiart,fill50k}` under a data root, `run_truth` the drawn truths of pairs. Files appear
whole and are skipped when there, so that a killed run resumes and a larger one redoes nothing.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from bottega.data.records import Pair, read_pairs
from bottega.miniature.config import TruthConfig, WorldConfig
from bottega.miniature.fill50k import fill50k_example
from bottega.miniature.painters import KINDS, painter, render
from bottega.miniature.ranges import WORLD_PAINTERS, WORLD_SCENES
from bottega.miniature.scenes import SHAPES, Scene, label_map, scene
from bottega.runtime.children import worker_pool
from bottega.runtime.escape import from_csv_cell
from bottega.runtime.files import atomic_path, write_bytes, write_json, write_text
from bottega.runtime.progress import Progress
from bottega.runtime.trust import add, blake2b, is_intact, seal

if TYPE_CHECKING:
    import pyarrow as pa

_VAL_OFFSET = 500_000  # val scenes are numbered apart, so that either part can grow
_SHARD = 16  # painters a parquet file
_RECORDED_AT_ONCE = 64  # pictures whose hashes are written together: a second of work is done again after a kill
Hashes = dict[Path, str]
"""Pictures that were drawn, with their hashes."""


class WorldSummary(TypedDict):
    """How many there are of each kind."""

    contents: int
    paintings: int
    painters: int
    fill50k: int


def run_world(config: WorldConfig, directory: Path) -> WorldSummary:
    """Write the drawn world under `directory/raw`; returns what there is of each kind."""
    raw = directory / "raw"
    _write_coco(raw / "coco", config)
    _write_wikiart(raw / "wikiart", config)
    _write_fill50k(raw / "fill50k", config)
    files = [file for part in ("coco", "wikiart", "fill50k") for file in (raw / part).rglob("*") if file.is_file()]
    seal(raw, dict.fromkeys(files, "result"))
    return {
        "contents": config.contents + config.contents_val,
        "paintings": config.painters * config.paintings,
        "painters": config.painters,
        "fill50k": config.fill50k,
    }


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture as PNG bytes, the same on every machine with this Pillow and zlib."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", compress_level=1)  # a tenth larger than with 4, much faster
    return buffer.getvalue()


def _each(function: Callable[[Any], Hashes], jobs: Sequence[Any], workers: int, what: str, folder: Path) -> None:
    """Draw every job's pictures, and record their hashes in the list of `folder` as they come."""
    waiting: dict[Path, str | None] = {}
    with Progress(len(jobs), what, "picture") as progress, ExitStack() as stack:
        # However it ends, what was drawn is recorded: else it could not be distinguished from what is damaged later.
        stack.callback(lambda: add(folder, waiting))
        for drawn in _drawn(function, jobs, workers):
            waiting |= drawn
            progress.update()
            if len(waiting) >= _RECORDED_AT_ONCE:
                add(folder, waiting)
                waiting.clear()


def _drawn(function: Callable[[Any], Hashes], jobs: Sequence[Any], workers: int) -> Iterator[Hashes]:
    if workers == 1 or len(jobs) < 32:
        yield from map(function, jobs)
        return
    with worker_pool(workers, forked=True) as pool:
        try:
            yield from pool.map(function, jobs, chunksize=8)
        except BaseException:  # Ctrl-C too: what is queued is not drawn
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_picture(path: Path, data: bytes) -> Hashes:
    """Write a picture; its hash."""
    write_bytes(path, data)
    return {path: blake2b(data)}


# --- COCO ---------------------------------------------------------------------------------------------------------


def _write_coco(folder: Path, config: WorldConfig) -> None:
    labels = ["0: unlabeled"]
    for k, shape in enumerate(SHAPES):
        labels.append(f"{k + 1}: {shape}")
    write_text(folder / "labels.txt", "\n".join(labels) + "\n")
    _write_coco_part(folder, "train2017", range(WORLD_SCENES, WORLD_SCENES + config.contents), config)
    first_of_val = WORLD_SCENES + _VAL_OFFSET
    _write_coco_part(folder, "val2017", range(first_of_val, first_of_val + config.contents_val), config)


def _write_coco_part(folder: Path, part: str, indices: Sequence[int], config: WorldConfig) -> None:
    (folder / "images" / part).mkdir(parents=True, exist_ok=True)
    (folder / "annotations" / part).mkdir(parents=True, exist_ok=True)
    jobs = []
    for index in indices:
        if not is_intact(_picture(folder, part, index)) or not is_intact(_pixel_map(folder, part, index)):
            jobs.append((folder, part, index, config.size))
    _each(_draw_content, jobs, config.workers, f"drawing contents ({part})", folder.parent)
    write_json(folder / "annotations" / f"captions_{part}.json", _captions(indices, config.size))


def _file_name(index: int) -> str:
    return f"{index:012d}.png"


def _picture(folder: Path, part: str, index: int) -> Path:
    return folder / "images" / part / _file_name(index)


def _pixel_map(folder: Path, part: str, index: int) -> Path:
    return folder / "annotations" / part / _file_name(index)


def _draw_content(job: tuple[Path, str, int, int]) -> Hashes:
    folder, part, index, size = job
    view = scene(index)
    drawn = _write_picture(_picture(folder, part, index), png(render(view, None, size=size)))
    return drawn | _write_picture(_pixel_map(folder, part, index), png(label_map(view, size)))


def _captions(indices: Iterable[int], size: int) -> dict[str, object]:
    """COCO's file of captions, five a picture as there."""
    images = []
    annotations = []
    for index in indices:
        images.append({"id": index, "file_name": _file_name(index), "height": size, "width": size, "license": 1})
        view = scene(index)
        for k in range(5):
            annotations.append({"id": index * 10 + k, "image_id": index, "caption": view.caption(k)})
    return {
        "info": {"description": "bottega's drawn world", "version": "1"},
        "licenses": [{"id": 1, "name": "Apache-2.0"}],
        "images": images,
        "annotations": annotations,
    }


# --- WikiArt ------------------------------------------------------------------------------------------------------


def _write_wikiart(folder: Path, config: WorldConfig) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True, exist_ok=True)
    artists = [painter(WORLD_PAINTERS + number).name for number in range(config.painters)]
    schema = _wikiart_schema(artists)
    with worker_pool(config.workers, forked=True) as pool:  # one for all shards: to begin one takes 0.1 s
        for shard, start in enumerate(range(0, config.painters, _SHARD)):
            # the name says what is in it: a larger world has other shards
            path = folder / "data" / f"train-{shard:05d}-{config.paintings}x{config.painters}.parquet"
            if is_intact(path):
                continue
            end = min(start + _SHARD, config.painters)
            jobs = list(itertools.product(range(start, end), range(config.paintings), [config.size]))
            pictures = list(pool.map(_draw_painting, jobs, chunksize=8))
            rows = []
            for (by, number, _), data in zip(jobs, pictures, strict=True):
                row = {
                    "image": {"bytes": data, "path": f"{artists[by]}-{number}.png"},
                    "artist": by,
                    "genre": 0,
                    "style": (WORLD_PAINTERS + by) % len(KINDS),
                    "caption": painting_scene(by, number).colourless(),
                }
                rows.append(row)
            with atomic_path(path) as temporary:
                pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def _wikiart_schema(artists: list[str]) -> pa.Schema:
    """The columns of huggan/wikiart, with its names of artists, genres and styles where `datasets` looks for them."""
    import pyarrow as pa

    features = {
        "image": {"_type": "Image"},
        "artist": {"_type": "ClassLabel", "names": artists},
        "genre": {"_type": "ClassLabel", "names": ["drawn_scene"]},
        "style": {"_type": "ClassLabel", "names": list(KINDS)},
    }
    columns = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("artist", pa.int64()),
        ("genre", pa.int64()),
        ("style", pa.int64()),
        ("caption", pa.string()),
    ]
    schema = pa.schema(columns)
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _draw_painting(job: tuple[int, int, int]) -> bytes:
    by, number, size = job
    return png(render(painting_scene(by, number), painter(WORLD_PAINTERS + by), size=size))


def painting_scene(by: int, number: int) -> Scene:
    """What painting `number` of the world's painter `by`, both from 0, shows: a scene that is nobody's content."""
    return scene(WORLD_SCENES + 900_000 + 1000 * by + number)


# --- Fill50K ------------------------------------------------------------------------------------------------------


def _write_fill50k(folder: Path, config: WorldConfig) -> None:
    for side in ("source", "target"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    jobs = []
    lines = []
    for i in range(config.fill50k):
        name = f"{i}.png"
        if not is_intact(folder / "source" / name) or not is_intact(folder / "target" / name):
            jobs.append((folder, i, config.size))
        _, _, prompt = fill50k_example(i, 8)  # small: the prompt alone is wanted
        row = {"source": f"source/{name}", "target": f"target/{name}", "prompt": prompt}
        lines.append(json.dumps(row) + "\n")
    _each(_draw_circle, jobs, config.workers, "drawing Fill50K", folder.parent)
    write_text(folder / "prompt.json", "".join(lines))


def _draw_circle(job: tuple[Path, int, int]) -> Hashes:
    folder, index, size = job
    source, target, _ = fill50k_example(index, size)
    drawn = _write_picture(folder / "source" / f"{index}.png", png(source))
    return drawn | _write_picture(folder / "target" / f"{index}.png", png(target))


# --- drawn truth --------------------------------------------------------------------------------------------------


class _TruthJob(NamedTuple):
    path: Path
    scene: int
    painter: int
    seed: int


class TruthSummary(TypedDict):
    """drawn: by this call. truths: that are there."""

    drawn: int
    truths: int


def run_truth(config: TruthConfig, directory: Path, *, pairs: Sequence[Path], data_root: Path) -> TruthSummary:
    """Draw the truths of the pair lists into `directory` as `{pair_id}_seed{k}.png`.

    Test pairs get `config.seeds` truths each, the first `config.calibration_pairs` pairs of the other lists (None: all)
    one for each of their seeds, or of those that `config.train_seeds` names.

    Args:
        pairs: pair lists (JSON lines); a list named `test.jsonl` holds the test pairs.
        data_root: where `wikiart/meta.csv` names the painter of each style picture.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (data_root / "wikiart" / "meta.csv").open(encoding="utf-8", newline="") as file:
        artists = {row["id"]: from_csv_cell(row["artist"]) for row in csv.DictReader(file)}
    jobs = []
    for path in pairs:
        is_test = path.name == "test.jsonl"
        for pair in read_pairs(path, None if is_test else config.calibration_pairs):
            by = int(artists[pair.style_id].removeprefix("painter-"))
            seeds = range(config.seeds) if is_test else _train_seeds(pair, config)
            for seed in seeds:
                place = directory / f"{pair.pair_id}_seed{seed}.png"
                if not is_intact(place):
                    jobs.append(_TruthJob(place, int(pair.content_id), by, seed))
    _each(_draw_truth, jobs, config.workers, "drawing truths", directory)
    drawn = sorted(directory.glob("*_seed*.png"))
    seal(directory, dict.fromkeys(drawn, "result"))
    return {"drawn": len(jobs), "truths": len(drawn)}


def _train_seeds(pair: Pair, config: TruthConfig) -> Sequence[int]:
    seeds = pair.seeds or ()
    if config.train_seeds is None:
        return seeds
    return sorted({*seeds} & {*config.train_seeds})


def _draw_truth(job: _TruthJob) -> Hashes:
    picture = render(scene(job.scene), painter(job.painter), 1 + job.seed)  # seed 0 is the painter's own painting
    return _write_picture(job.path, png(picture))
