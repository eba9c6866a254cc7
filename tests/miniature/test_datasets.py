"""The drawn world on disk is read by the ordinary readers of COCO, WikiArt and Fill50K, and grows without redoing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bottega.miniature.config import TruthConfig, WorldConfig
from bottega.miniature.datasets import painting_scene, run_truth, run_world
from bottega.miniature.ranges import WORLD_PAINTERS
from bottega.miniature.world import KINDS, label_map, painter, render, scene

SMALL = WorldConfig(contents=6, contents_val=3, painters=8, paintings=2, fill50k=4, workers=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    run_world(SMALL, folder)
    return folder


def test_coco_holds_pictures_captions_and_pixel_maps(root: Path) -> None:
    captions = json.loads((root / "raw/coco/annotations/captions_train2017.json").read_text())
    assert len(captions["images"]) == 6
    assert len(captions["annotations"]) == 30
    for image in captions["images"]:
        view = scene(image["id"])
        picture = np.asarray(Image.open(root / "raw/coco/images/train2017" / image["file_name"]))
        assert np.array_equal(picture, render(view, None))
        labels = np.asarray(Image.open(root / "raw/coco/annotations/train2017" / image["file_name"]))
        assert np.array_equal(labels, label_map(view))
    assert {a["caption"] for a in captions["annotations"] if a["image_id"] == captions["images"][0]["id"]} == {
        scene(captions["images"][0]["id"]).caption(k) for k in range(5)
    }


def test_wikiart_is_parquet_with_label_names_in_its_schema(root: Path) -> None:
    (path,) = (root / "raw/wikiart/data").glob("*.parquet")
    table = pq.read_table(path)
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["style"]["names"] == list(KINDS)
    row = table.to_pylist()[2]
    by = painter(int(features["artist"]["names"][row["artist"]].removeprefix("painter-")))
    assert features["style"]["names"][row["style"]] == by.kind
    assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (128, 128)
    number = int(row["image"]["path"].removesuffix(".png").rpartition("-")[2])
    shown = painting_scene(by.index - WORLD_PAINTERS, number)
    assert row["caption"] == shown.colourless()
    drawn = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])))
    np.testing.assert_array_equal(drawn, render(shown, by))


def test_fill50k_is_json_lines_with_two_sides(root: Path) -> None:
    rows = [json.loads(line) for line in (root / "raw/fill50k/prompt.json").read_text().splitlines()]
    assert len(rows) == 4
    assert all((root / "raw/fill50k" / r[side]).exists() for r in rows for side in ("source", "target"))


def test_a_larger_world_leaves_what_is_there_untouched(root: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*.png")}
    run_world(SMALL.model_copy(update={"contents": 8, "fill50k": 5}), root)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in before.items())
    assert len(list((root / "raw/coco/images/train2017").iterdir())) == 8


def test_truths_are_drawn_for_each_pair_and_seed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "wikiart").mkdir()
    (tmp_path / "wikiart/meta.csv").write_text(
        "id,path,artist,style,genre,sha256\ns1,x.png,painter-2003,waves,drawn,0\n"
    )
    pair = {"pair_id": "000002000001_s1", "content_id": "000002000001", "content_path": "x.png", "style_id": "s1"}
    pair |= {"style_path": "x.png", "prompt": "a circle", "seeds": [0, 1]}
    for name in ("train.jsonl", "test.jsonl"):
        (tmp_path / name).write_text(json.dumps(pair) + "\n")
    config = TruthConfig(seeds=3, calibration_pairs=1, workers=1)
    summary = run_truth(
        config, tmp_path / "truth", pairs=[tmp_path / "train.jsonl", tmp_path / "test.jsonl"], data_root=tmp_path
    )
    assert summary["truths"] == 3
    fewer = config.model_copy(update={"train_seeds": (1, 2)})
    run_truth(fewer, tmp_path / "fewer", pairs=[tmp_path / "train.jsonl"], data_root=tmp_path)
    assert [path.name for path in (tmp_path / "fewer").glob("*.png")] == ["000002000001_s1_seed1.png"]
    drawn = np.asarray(Image.open(tmp_path / "truth/000002000001_s1_seed1.png"))
    assert np.array_equal(drawn, render(scene(2_000_001), painter(2003), 2))


def test_a_world_of_another_size_has_pictures_and_maps_of_that_size(tmp_path: Path) -> None:
    run_world(SMALL.model_copy(update={"contents": 4, "contents_val": 2, "fill50k": 1, "size": 192}), tmp_path)
    captions = json.loads((tmp_path / "raw/coco/annotations/captions_val2017.json").read_text())
    image = captions["images"][0]
    assert (image["height"], image["width"]) == (192, 192)
    picture = np.asarray(Image.open(tmp_path / "raw/coco/images/val2017" / image["file_name"]))
    assert np.array_equal(picture, render(scene(image["id"]), None, size=192))
    labels = np.asarray(Image.open(tmp_path / "raw/coco/annotations/val2017" / image["file_name"]))
    assert labels.shape == (192, 192)
    assert np.asarray(Image.open(tmp_path / "raw/fill50k/target/0.png")).shape == (192, 192, 3)
    (path,) = (tmp_path / "raw/wikiart/data").glob("*.parquet")
    assert Image.open(io.BytesIO(pq.read_table(path).to_pylist()[0]["image"]["bytes"])).size == (192, 192)
