"""A small drawn data set with label maps and truths, and networks that know its pictures by heart."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from bottega.data.records import Pair, read_pairs
from bottega.evaluation.networks import Networks
from bottega.miniature.world import KINDS, SHAPES, label_map, painter, render, scene
from bottega.runtime.files import write_jsonl, write_png, write_text

Picture = npt.NDArray[np.uint8]
CONTENTS, STYLES, TRUTHS = 3, 4, 3


@dataclass(frozen=True)
class World:
    """Where the data set lies; `kinds` and `scenes` say what a picture is, by its bytes."""

    root: Path
    pairs: Path
    kinds: dict[bytes, int]
    scenes: dict[bytes, Picture]

    def read(self) -> list[Pair]:
        return list(read_pairs(self.pairs))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Every content with every style; a style is a painter, its picture one of his of another scene."""
    root = tmp_path_factory.mktemp("world")
    kinds: dict[bytes, int] = {}
    scenes: dict[bytes, Picture] = {}

    def put(path: str, picture: Picture, labels: Picture, kind: int) -> None:
        write_png(root / path, picture)
        kinds[picture.tobytes()], scenes[picture.tobytes()] = kind, labels

    views = [scene(70_000 + c) for c in range(CONTENTS)]
    painters = [painter(900 + s) for s in range(STYLES)]
    rows, pairs = [], []
    for c, view in enumerate(views):
        put(f"coco/c{c}.png", render(view, None), label_map(view), KINDS.index(painters[0].kind))
        (root / "coco" / "maps").mkdir(parents=True, exist_ok=True)
        from PIL import Image

        Image.fromarray(label_map(view)).save(root / "coco" / "maps" / f"c{c}.png")
        rows.append({"content_id": f"c{c}", "content_path": f"coco/c{c}.png", "layout_path": f"coco/maps/c{c}.png"})
    write_jsonl(root / "coco" / "contents.jsonl", rows)
    write_text(
        root / "coco" / "labels.txt", "0: unlabeled\n" + "".join(f"{k + 1}: {s}\n" for k, s in enumerate(SHAPES))
    )
    for s, by in enumerate(painters):
        other = scene(71_000 + s)
        put(f"wikiart/s{s}.png", render(other, by), label_map(other), KINDS.index(by.kind))
    for c, view in enumerate(views):
        for s, by in enumerate(painters):
            pair = {"pair_id": f"c{c}_s{s}", "content_id": f"c{c}", "style_id": f"s{s}", "style": by.kind}
            pair |= {"content_path": f"coco/c{c}.png", "style_path": f"wikiart/s{s}.png", "split": "test"}
            pairs.append({**pair, "prompt": view.caption(0), "caption_index": 0, "seeds": [0]})
            for k in range(TRUTHS):
                put(f"truth/c{c}_s{s}_seed{k}.png", render(view, by, 1 + k), label_map(view), KINDS.index(by.kind))
    write_jsonl(root / "test.jsonl", pairs)
    return World(root, root / "test.jsonl", kinds, scenes)


@dataclass
class KnowsKinds:
    """In place of a trained classifier: it looks the drawn picture up, so that its answers are the truth.

    Pictures that nobody painted count as the first painter's kind.
    """

    kinds: dict[bytes, int]

    @property
    def labels(self) -> list[str]:
        return list(KINDS)

    def probabilities(self, pictures: Picture) -> npt.NDArray[np.float32]:
        found = [self.kinds.get(picture.tobytes(), 0) for picture in pictures]
        return np.eye(len(KINDS), dtype=np.float32)[found]


@dataclass
class KnowsScenes:
    """In place of a trained reader: it looks the drawn picture's label map up; of any other picture it sees nothing."""

    scenes: dict[bytes, Picture]

    @property
    def labels(self) -> list[str]:
        return ["background", *SHAPES]

    def segment(self, pictures: Picture) -> Picture:
        return np.stack(
            [self.scenes.get(picture.tobytes(), np.zeros(picture.shape[:2], np.uint8)) for picture in pictures]
        )


@pytest.fixture(scope="session")
def oracles(world: World) -> Networks:
    """A classifier and a reader that are never wrong about drawn pictures; no CLIP and no structure encoder."""
    absent = {"clip": "no clip here", "structure_encoder": "no structure encoder here"}
    absent["style_encoder"] = "no style encoder here"
    return Networks(style_classifier=KnowsKinds(world.kinds), scene_reader=KnowsScenes(world.scenes), absent=absent)


def save_style_encoder(clip: Path, folder: Path, width: int = 24) -> Path:
    """CLIP's picture tower and a random matrix behind it, as a style encoder's folder."""
    import torch
    from safetensors.torch import save_file
    from transformers import CLIPVisionModel

    tower = CLIPVisionModel.from_pretrained(clip)
    tower.save_pretrained(folder)
    matrix = torch.randn(tower.config.hidden_size, width, generator=torch.Generator().manual_seed(5))
    save_file({"style": matrix}, folder / "style_projection.safetensors")
    (folder / "preprocessor_config.json").write_bytes((clip / "preprocessor_config.json").read_bytes())
    return folder
