"""The drawn world on disk in the formats of the real data sets: COCO with pixel maps, WikiArt parquet, Fill50K.

`run_world` writes `raw/{coco,wikiart,fill50k}` under a data root, `run_truth` the drawn truths of pairs. Files appear
whole and are skipped when there, so that a killed run goes on and a larger one redoes nothing.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from bottega.data.records import read_pairs
from bottega.miniature.config import TruthConfig, WorldConfig
from bottega.miniature.fill50k import fill50k_example
from bottega.miniature.painters import KINDS, painter, render
from bottega.miniature.ranges import WORLD_PAINTERS, WORLD_SCENES
from bottega.miniature.scenes import SHAPES, Scene, label_map, scene
from bottega.runtime.files import atomic_path, write_bytes, write_json, write_text
from bottega.runtime.progress import Progress

_VAL_OFFSET = 500_000  # val scenes are numbered apart, so that either part can grow
_SHARD = 16  # painters a parquet file


def run_world(config: WorldConfig, directory: Path) -> dict[str, Any]:
    """Write the drawn world under `directory/raw`; returns what there is of each kind."""
    raw = directory / "raw"
    _write_coco(raw / "coco", config)
    _write_wikiart(raw / "wikiart", config)
    _write_fill50k(raw / "fill50k", config)
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


def _each(function: Callable[[Any], None], jobs: Sequence[Any], workers: int, what: str) -> None:
    with Progress(len(jobs), what, "picture") as progress:
        if workers == 1 or len(jobs) < 32:
            for job in jobs:
                function(job)
                progress.update()
            return
        with ProcessPoolExecutor(workers) as pool:
            try:
                for _ in pool.map(function, jobs, chunksize=8):
                    progress.update()
            except BaseException:  # Ctrl-C too: what is queued is not drawn
                pool.shutdown(wait=False, cancel_futures=True)
                raise


# --- COCO ---------------------------------------------------------------------------------------------------------


def _write_coco(folder: Path, config: WorldConfig) -> None:
    write_text(
        folder / "labels.txt", "0: unlabeled\n" + "".join(f"{k + 1}: {shape}\n" for k, shape in enumerate(SHAPES))
    )
    for part, first, count in (
        ("train2017", WORLD_SCENES, config.contents),
        ("val2017", WORLD_SCENES + _VAL_OFFSET, config.contents_val),
    ):
        indices = range(first, first + count)
        (folder / "images" / part).mkdir(parents=True, exist_ok=True)
        (folder / "annotations" / part).mkdir(parents=True, exist_ok=True)
        jobs = [(folder, part, i) for i in indices if not _pixel_map(folder, part, i).exists()]
        _each(_draw_content, jobs, config.workers, f"drawing contents ({part})")
        write_json(folder / "annotations" / f"captions_{part}.json", _captions(indices))


def _file_name(index: int) -> str:
    return f"{index:012d}.png"


def _pixel_map(folder: Path, part: str, index: int) -> Path:
    return folder / "annotations" / part / _file_name(index)


def _draw_content(job: tuple[Path, str, int]) -> None:
    folder, part, index = job
    write_bytes(folder / "images" / part / _file_name(index), png(render(scene(index), None)))
    write_bytes(_pixel_map(folder, part, index), png(label_map(scene(index))))


def _captions(indices: Iterable[int]) -> dict[str, Any]:
    images, annotations = [], []
    for index in indices:
        images.append({"id": index, "file_name": _file_name(index), "height": 128, "width": 128, "license": 1})
        for k in range(5):
            annotations.append({"id": index * 10 + k, "image_id": index, "caption": scene(index).caption(k)})
    info = {"description": "bottega's drawn world", "version": "1"}
    return {"info": info, "licenses": [{"id": 1, "name": "Apache-2.0"}], "images": images, "annotations": annotations}


# --- WikiArt ------------------------------------------------------------------------------------------------------


def _write_wikiart(folder: Path, config: WorldConfig) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "data").mkdir(parents=True, exist_ok=True)
    artists = [painter(WORLD_PAINTERS + p).name for p in range(config.painters)]
    features = {
        "image": {"_type": "Image"},
        "artist": {"_type": "ClassLabel", "names": artists},
        "genre": {"_type": "ClassLabel", "names": ["drawn_scene"]},
        "style": {"_type": "ClassLabel", "names": list(KINDS)},
    }
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    numbers = [(name, pa.int64()) for name in ("artist", "genre", "style")]
    schema = pa.schema([("image", picture), *numbers, ("caption", pa.string())])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for shard, start in enumerate(range(0, config.painters, _SHARD)):
        path = folder / "data" / f"train-{shard:05d}-{config.paintings}x{config.painters}.parquet"
        if path.exists():
            continue
        jobs = [(p, n) for p in range(start, min(start + _SHARD, config.painters)) for n in range(config.paintings)]
        with ProcessPoolExecutor(config.workers) as pool:
            pictures = list(pool.map(_draw_painting, jobs, chunksize=8))
        rows = [
            {
                "image": {"bytes": data, "path": f"{artists[p]}-{n}.png"},
                "artist": p,
                "genre": 0,
                "style": (WORLD_PAINTERS + p) % len(KINDS),
                "caption": painting_scene(p, n).colourless(),
            }
            for (p, n), data in zip(jobs, pictures, strict=True)
        ]
        with atomic_path(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)


def _draw_painting(job: tuple[int, int]) -> bytes:
    by, number = job
    return png(render(painting_scene(by, number), painter(WORLD_PAINTERS + by)))


def painting_scene(by: int, number: int) -> Scene:
    """What painting `number` of the world's painter `by`, both from 0, shows: a scene that is nobody's content."""
    return scene(WORLD_SCENES + 900_000 + 1000 * by + number)


# --- Fill50K ------------------------------------------------------------------------------------------------------


def _write_fill50k(folder: Path, config: WorldConfig) -> None:
    for side in ("source", "target"):
        (folder / side).mkdir(parents=True, exist_ok=True)
    jobs = [(folder, i) for i in range(config.fill50k) if not (folder / "target" / f"{i}.png").exists()]
    _each(_draw_circle, jobs, config.workers, "drawing Fill50K")
    rows = [
        {"source": f"source/{i}.png", "target": f"target/{i}.png", "prompt": fill50k_example(i, 8)[2]}
        for i in range(config.fill50k)
    ]
    write_text(folder / "prompt.json", "".join(json.dumps(row) + "\n" for row in rows))


def _draw_circle(job: tuple[Path, int]) -> None:
    folder, index = job
    source, target, _ = fill50k_example(index)
    write_bytes(folder / "source" / f"{index}.png", png(source))
    write_bytes(folder / "target" / f"{index}.png", png(target))


# --- drawn truth --------------------------------------------------------------------------------------------------


def run_truth(config: TruthConfig, directory: Path, *, pairs: Sequence[Path], data_root: Path) -> dict[str, Any]:
    """Draw the truths of the pair lists into `directory` as `{pair_id}_seed{k}.png`.

    Test pairs get `config.seeds` truths each, the first `config.calibration_pairs` pairs of the other lists (None: all)
    one for each of their seeds, or of those that `config.train_seeds` names.

    Args:
        pairs: pair lists (JSON lines); a list named `test.jsonl` holds the test pairs.
        data_root: where `wikiart/meta.csv` names the painter of each style picture.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (data_root / "wikiart" / "meta.csv").open(encoding="utf-8", newline="") as file:
        artists = {row["id"]: row["artist"] for row in csv.DictReader(file)}
    jobs = []
    for path in pairs:
        test = path.name == "test.jsonl"
        for number, pair in enumerate(read_pairs(path)):
            if not test and config.calibration_pairs is not None and number >= config.calibration_pairs:
                break
            seeds = pair.seeds or ()
            wanted = seeds if config.train_seeds is None else sorted({*seeds} & {*config.train_seeds})
            for k in range(config.seeds) if test else wanted:
                place = directory / f"{pair.pair_id}_seed{k}.png"
                if not place.exists():
                    jobs.append((place, int(pair.content_id), int(artists[pair.style_id].removeprefix("painter-")), k))
    _each(_draw_truth, jobs, config.workers, "drawing truths")
    return {"drawn": len(jobs), "truths": sum(1 for _ in directory.glob("*_seed*.png"))}


def _draw_truth(job: tuple[Path, int, int, int]) -> None:
    place, content, by, k = job
    write_bytes(place, png(render(scene(content), painter(by), 1 + k)))
