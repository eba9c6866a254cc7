"""COCO: captions as they were written, layouts recognised, splits by content."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from bottega.data import coco
from bottega.data.config import CocoConfig
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl

CONFIG = CocoConfig(source="raw")


def contents(root, source="raw", **options):
    summary = coco.run(CONFIG.model_copy(update={"source": source, **options}), root / "coco", data_root=root)
    return summary, {row["content_id"]: row for row in read_jsonl(root / "coco" / "contents.jsonl")}


def rejects(root):
    lines = (root / "coco" / "rejects.csv").read_text().splitlines()[1:]
    return {line.split(",")[0]: line.split(",")[1] for line in lines}


def test_pictures_come_with_all_their_captions_tidied_and_in_order(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    summary, rows = contents(tmp_path)
    assert list(rows["000000000003"]) == ["content_id", "content_path", "captions", "split", "layout_path"]
    assert rows["000000000003"]["captions"] == [f"caption {k} of 3" for k in range(5)]
    assert rows["000000000003"]["content_path"] == "raw/images/train2017/000000000003.jpg"
    assert (summary["pictures"], summary["train"], summary["val"], summary["test"]) == (10, 8, 1, 1)
    assert summary["layout"] == "images-only"


def test_the_official_parts_become_train_and_val_with_test(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    write_coco(tmp_path / "raw", "val2017", range(100, 110))
    shutil.copy(tmp_path / "raw/images/train2017/000000000004.jpg", tmp_path / "raw/images/val2017/000000000104.jpg")
    near = Image.open(tmp_path / "raw/images/train2017/000000000005.jpg")
    near.save(tmp_path / "raw/images/val2017/000000000105.jpg", quality=70)
    _, rows = contents(tmp_path)
    assert rejects(tmp_path) == {"val2017/000000000104.jpg": "duplicate"}
    where = {identity: row["split"] for identity, row in rows.items()}
    assert {where[f"{k:012d}"] for k in range(10)} == {"train"}
    assert where["000000000105"] == "train"  # nearly a training picture
    held = [where[f"{k:012d}"] for k in range(100, 110) if k not in (104, 105)]
    assert sorted(held) == ["test"] * 4 + ["val"] * 4


def test_missing_broken_and_silent_pictures_are_recorded(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(6))
    images = tmp_path / "raw" / "images" / "train2017"
    (images / "000000000001.jpg").unlink()
    (images / "000000000002.jpg").write_bytes((images / "000000000002.jpg").read_bytes()[:600])
    listed = tmp_path / "raw" / "annotations" / "captions_train2017.json"
    document = json.loads(listed.read_text())
    document["annotations"] = [{**a, "caption": " \n"} if a["image_id"] == 3 else a for a in document["annotations"]]
    listed.write_text(json.dumps(document))
    summary, rows = contents(tmp_path)
    assert set(rows) == {"000000000000", "000000000004", "000000000005"}
    assert summary["rejected"] == 3
    assert list(rejects(tmp_path).values()) == ["missing", "truncated", "no-caption"]
    (images / "000000000001.jpg").write_bytes((images / "000000000000.jpg").read_bytes() + b"\0")
    assert contents(tmp_path)[0]["rejected"] == 2  # restored, and so taken in


@pytest.mark.parametrize("layout", ["flat", "by part", "metadata", "karpathy"])
def test_other_trees_in_circulation_read_alike(tmp_path, write_coco, layout):
    write_coco(tmp_path / "raw", "train2017", range(5))
    expected = {identity: row["captions"] for identity, row in contents(tmp_path)[1].items()}
    other = tmp_path / "other"
    other.mkdir()
    listed = tmp_path / "raw" / "annotations" / "captions_train2017.json"
    pictures = tmp_path / "raw" / "images" / "train2017"
    names = sorted(path.name for path in pictures.iterdir())
    captions = {name: expected[name.removesuffix(".jpg")] for name in names}
    if layout == "metadata":
        shutil.copytree(pictures, other, dirs_exist_ok=True)
        lines = [json.dumps({"file_name": name, "captions": captions[name]}) for name in names]
        (other / "metadata.jsonl").write_text("\n".join(lines))
    elif layout == "karpathy":
        shutil.copytree(pictures, other / "val2014")
        images = [
            {"filepath": "val2014", "filename": n, "split": "test", "sentences": [{"raw": c} for c in captions[n]]}
            for n in names
        ]
        (other / "dataset_coco.json").write_text(json.dumps({"images": images, "dataset": "coco"}))
    else:
        shutil.copytree(pictures, other / ("images" if layout == "flat" else "train2017"))
        shutil.copy(listed, other)
    shutil.rmtree(tmp_path / "coco")
    found = contents(tmp_path, "other")[1]
    assert {identity: row["captions"] for identity, row in found.items()} == expected


def maps(root, place, values, indices):
    (root / "raw" / place).mkdir(parents=True, exist_ok=True)
    for index in indices:
        picture = np.asarray(values, dtype=np.uint8).reshape(1, -1).repeat(8, axis=0)
        Image.fromarray(picture).save(root / "raw" / place / f"{index:012d}.png")


def test_pixel_maps_are_named_and_left_where_they_are(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    maps(tmp_path, "annotations/train2017", [0, 1, 92, 182], range(10))
    summary, rows = contents(tmp_path)
    assert (summary["layout"], summary["label_maps"]) == ("pixelmaps", 10)
    assert rows["000000000001"]["layout_path"] == "raw/annotations/train2017/000000000001.png"


def test_stuffthingmaps_are_shifted_by_one_for_held_out_contents(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    maps(tmp_path, "stuffthingmaps/train2017", [255, 0, 91, 181], range(10))
    (tmp_path / "raw" / "labels.txt").write_text("0: unlabeled\n1: person\n")
    summary, rows = contents(tmp_path)
    assert (summary["layout"], summary["label_maps"]) == ("stuffthingmaps", 2)
    for row in rows.values():
        assert (row["layout_path"] is None) == (row["split"] == "train")
        if row["layout_path"]:
            values = np.asarray(Image.open(tmp_path / row["layout_path"]))
            assert values[0].tolist() == [0, 1, 92, 182]
    assert (tmp_path / "coco" / "labels.txt").read_text().startswith("0: unlabeled")


def test_the_ten_thousand_of_the_first_release_are_recognised(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2014", range(3))
    (tmp_path / "raw" / "annotations" / "000000000000.mat").write_bytes(b"")
    assert contents(tmp_path)[0]["layout"] == "10k"


def test_running_again_changes_nothing_and_growing_keeps_the_splits(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    before = contents(tmp_path)[1]
    written = (tmp_path / "coco" / "contents.jsonl").read_bytes()
    contents(tmp_path)
    assert (tmp_path / "coco" / "contents.jsonl").read_bytes() == written
    write_coco(tmp_path / "raw", "extra", range(50, 70))
    after = contents(tmp_path)[1]
    assert len(after) == 30
    assert {identity: after[identity] for identity in before} == before


def test_parts_can_be_chosen(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(3))
    write_coco(tmp_path / "raw", "val2017", range(10, 13))
    assert set(contents(tmp_path, parts=("val2017",))[1]) == {f"{k:012d}" for k in range(10, 13)}
    with pytest.raises(MissingError, match=r"captions_test2017\.json"):
        contents(tmp_path, parts=("test2017",))


def test_a_missing_or_hostile_data_set_is_refused(tmp_path, write_coco):
    with pytest.raises(MissingError, match="there is no folder"):
        contents(tmp_path)
    (tmp_path / "raw" / "images").mkdir(parents=True)
    with pytest.raises(MissingError, match=r"captions_\*\.json"):
        contents(tmp_path)
    (tmp_path / "raw" / "metadata.jsonl").write_text(json.dumps({"file_name": "../../secret.png", "text": "x"}))
    with pytest.raises(RequestError, match="leads out of it"):
        contents(tmp_path)


def test_without_its_pictures_the_contents_of_an_earlier_run_stay(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    contents(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "coco").iterdir()}
    shutil.rmtree(tmp_path / "raw" / "images")
    with pytest.raises(MissingError, match=r"there is no picture in .*raw; put them back"):
        contents(tmp_path)
    assert {path.name: path.read_bytes() for path in (tmp_path / "coco").iterdir()} == before


def test_when_every_picture_is_damaged_the_contents_of_an_earlier_run_stay(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(10))
    contents(tmp_path)
    before = (tmp_path / "coco" / "contents.jsonl").read_bytes()
    for path in (tmp_path / "raw").rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(RequestError, match="no usable picture among the contents"):
        contents(tmp_path)
    assert (tmp_path / "coco" / "contents.jsonl").read_bytes() == before
    assert len(rejects(tmp_path)) == 10


@pytest.mark.parametrize("part", ["images/val2014", "coco/images/val2014", "coco\\images\\val2014", "./val2014/"])
def test_karpathys_list_may_name_folders_in_folders(tmp_path, photo, encoded, part):
    folder = tmp_path / "raw" / part.replace("\\", "/")
    folder.mkdir(parents=True)
    for k in range(6):
        (folder / f"{k}.jpg").write_bytes(encoded(photo(k), "JPEG"))
    part = part.replace("\\", "\\")
    images = [
        {"filepath": part, "filename": f"{k}.jpg", "sentences": [{"raw": f"scene {k}"}, {"raw": f"again {k}"}]}
        for k in range(6)
    ]
    (tmp_path / "raw" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    summary, rows = contents(tmp_path)
    assert (summary["pictures"], summary["rejected"]) == (6, 0)
    assert {identity: row["captions"] for identity, row in rows.items()} == {
        str(k): [f"scene {k}", f"again {k}"] for k in range(6)
    }


def test_captions_one_folder_further_down_are_found(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(6))
    (tmp_path / "raw" / "annotations").rename(tmp_path / "raw" / "moved")
    (tmp_path / "raw" / "annotations_trainval2017").mkdir()
    (tmp_path / "raw" / "moved").rename(tmp_path / "raw" / "annotations_trainval2017" / "annotations")
    assert contents(tmp_path)[0]["pictures"] == 6


def test_boxes_instead_of_captions_are_called_so(tmp_path, write_coco):
    write_coco(tmp_path / "raw", "train2017", range(3))
    annotations = tmp_path / "raw" / "annotations"
    (annotations / "captions_train2017.json").rename(annotations / "instances_train2017.json")
    with pytest.raises(MissingError, match=r"but instances_train2017\.json, which hold boxes and no captions"):
        contents(tmp_path)
