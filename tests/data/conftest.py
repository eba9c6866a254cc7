"""Real files made on the fly: pictures that look like no other, WikiArt parquet, COCO folders."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from bottega.runtime.seeds import numpy_rng

# The same examples in every run, and no time limit on one: a busy machine is no bug.
settings.register_profile("bottega-data", deadline=None, derandomize=True)
settings.load_profile("bottega-data")

Photo = Callable[..., Image.Image]


def _photo(index: int, width: int = 96, height: int = 80) -> Image.Image:
    coarse = numpy_rng("test photo", index).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photo() -> Photo:
    """photo(index, width=96, height=80): smooth coloured clouds, another index another picture."""
    return _photo


@pytest.fixture(scope="session")
def encoded() -> Callable[..., bytes]:
    """encoded(picture, "JPEG", quality=90): the bytes of a file."""
    return _encoded


@pytest.fixture(scope="session")
def write_parquet() -> Callable[..., Path]:
    """write_parquet(path, cells, artists, styles, names=True): the layout of huggan/wikiart."""

    def write(
        path: Path,
        cells: Sequence[dict[str, Any]],
        artists: Sequence[int],
        styles: Sequence[int],
        style_names: Sequence[str] | None = ("Cubism", "Realism", "Ukiyo_e"),
    ) -> Path:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            [
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                ("artist", pa.int64()),
                ("genre", pa.int64()),
                ("style", pa.int64()),
            ]
        )
        if style_names is not None:
            names = {"artist": [f"artist_{k}" for k in range(20)], "genre": ["portrait"], "style": list(style_names)}
            features = {name: {"names": values, "_type": "ClassLabel"} for name, values in names.items()}
            schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        rows = [
            {"image": cell, "artist": artist, "genre": 0, "style": style}
            for cell, artist, style in zip(cells, artists, styles, strict=True)
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=7)
        return path

    return write


@pytest.fixture(scope="session")
def write_coco() -> Callable[..., Path]:
    """write_coco(folder, part, range(…)): pictures and captions of one part of COCO."""

    def write(folder: Path, part: str, indices: Sequence[int], captions: int = 5) -> Path:
        (folder / "images" / part).mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for index in indices:
            name = f"{index:012d}.jpg"
            (folder / "images" / part / name).write_bytes(_encoded(_photo(index), "JPEG", quality=90))
            images.append({"id": index, "file_name": name, "license": 1})
            annotations += [
                {"id": 100 * index + k, "image_id": index, "caption": f" caption {k}\n of  {index} "}
                for k in reversed(range(captions))
            ]
        document = {"info": {"year": 2017}, "licenses": [], "images": images, "annotations": annotations}
        (folder / "annotations" / f"captions_{part}.json").write_text(json.dumps(document), encoding="utf-8")
        return folder

    return write
