"""A small drawn data set in the layout of a data root, with pair list, truths and limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bottega.miniature.world import painter, render, scene
from bottega.models.config import ModelsConfig
from bottega.quality.config import Thresholds
from bottega.runtime.files import write_json, write_png
from bottega.teacher.config import TeacherConfig

SIZE = 64
# Without CLIP and at 64 px: wide enough that truths pass, and that a copy of the content is C.
LIMITS = Thresholds(
    edge_64_c=-0.2,
    edge_64_a=0.3,
    edge_128_c=-0.2,
    edge_128_a=0.2,
    hf_ratio_min=0.0,
    hf_ratio_max=20,
    structure_min=-1,
    vigour_min=0,
    sharpness_min=0,
    mesh_max=20,
    noise_max=200,
    blocking_max=4,
    blocking_share_max=8,
    ghosting_max=2,
)


@dataclass(frozen=True)
class DataSet:
    """Where the data set lies, and its pairs as they stand in the list."""

    root: Path
    pairs: Path
    thresholds: Path
    rows: list[dict]

    def rewrite(self, rows: list[dict]) -> None:
        """Put other rows into the pair list."""
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw(root: Path, count: int = 6, limits: Thresholds = LIMITS) -> DataSet:
    """Content i with style i, and its truth for seeds 0 to 7."""
    rows = []
    for i in range(count):
        view, by = scene(70_000 + i), painter(40 + i)
        pair_id = f"{100 + i:012d}_p{i}"
        rows.append(
            {
                "pair_id": pair_id,
                "content_id": f"{100 + i:012d}",
                "content_path": f"coco/images/{100 + i:012d}.png",
                "style_id": f"p{i}",
                "style_path": f"wikiart/images/p{i}.png",
                "style": by.kind,
                "prompt": view.caption(0),
                "caption_index": 0,
                "seeds": [0, 1, 2],
                "split": "train",
            }
        )
        write_png(root / rows[-1]["content_path"], render(view, None, size=SIZE))
        write_png(root / rows[-1]["style_path"], render(scene(80_000 + i), by, 1, size=SIZE))
        for k in range(8):
            write_png(root / "truth" / f"{pair_id}_seed{k}.png", render(view, by, k, size=SIZE))
    data = DataSet(root, root / "train.jsonl", root / "thresholds.json", rows)
    data.rewrite(rows)
    write_json(data.thresholds, limits.model_dump())
    return data


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return draw(tmp_path / "data")


@pytest.fixture
def teach(data: DataSet, tmp_path: Path) -> Callable[..., dict]:
    """Run the stage on the data set with the oracle; `config` overrides options, the rest goes to `run`."""
    from bottega.teacher.stage import run

    def call(directory: Path | None = None, *, config: dict | None = None, **options: object) -> dict:
        options_ = {"source": "oracle", "size": SIZE, "batch_size": 2, "sheet_after": 0, **(config or {})}
        made = TeacherConfig(**options_)
        arguments = {
            "pairs": data.pairs,
            "data_root": data.root,
            "models": ModelsConfig(),
            "thresholds": data.thresholds,
        }
        return run(made, directory or tmp_path / "teacher", **{**arguments, **options})

    return call
