"""Any two folders of pictures serve as contents and styles, through the same tables as the real data sets."""

from __future__ import annotations

import json

import pytest

from bottega.data import pairs, stage
from bottega.data.config import ContentFolderConfig, DataConfig, PairsConfig, StyleFolderConfig
from bottega.data.records import read_pairs
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import read_jsonl


@pytest.fixture
def mine(tmp_path, photo, encoded):
    """Seven photographs, nine styles in two sub-folders."""
    (tmp_path / "photos" / "holiday").mkdir(parents=True)
    for k in range(7):
        place = tmp_path / "photos" / ("holiday" if k > 4 else ".") / f"my photo_{k}.jpg"
        place.write_bytes(encoded(photo(k), "JPEG", quality=90))
    for k in range(9):
        place = tmp_path / "styles" / ("ink" if k % 3 else "chalk") / f"{k}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(photo(100 + k)))
    return tmp_path


def config(mine, **contents):
    return DataConfig(
        coco=None,
        wikiart=None,
        fill50k=None,
        content_folder=ContentFolderConfig(source=str(mine / "photos"), **contents),
        style_folder=StyleFolderConfig(source=str(mine / "styles")),
    )


def captions(mine):
    return {row["content_id"]: row["captions"] for row in read_jsonl(mine / "data" / "coco" / "contents.jsonl")}


def test_captions_come_from_the_list_then_from_beside_then_from_the_prompt(mine):
    (mine / "photos" / "metadata.jsonl").write_text(json.dumps({"file_name": "my photo_0.jpg", "text": "from  list"}))
    (mine / "photos" / "my photo_0.txt").write_text("from beside")
    (mine / "photos" / "holiday" / "my photo_5.txt").write_text("\ufeffone\n\n two \n", encoding="utf-8")
    stage.run(config(mine, prompt=" a\nphotograph "), mine / "data")
    found = captions(mine)
    assert found["my-photo-0"] == ["from list"]
    assert found["my-photo-5"] == ["one", "two"]
    assert found["my-photo-1"] == ["a photograph"]
    assert len(found) == 7


def test_all_rows_of_a_picture_count_however_they_write_its_name(mine):
    rows = [
        ("my photo_0.jpg", "one"),
        ("./my photo_0.jpg", "two"),
        ("my photo_0.jpg", "one"),
        ("holiday//my photo_5.jpg", "x"),
    ]
    text = "\n".join(json.dumps({"file_name": name, "text": caption}) for name, caption in rows)
    (mine / "photos" / "metadata.jsonl").write_text(text)
    stage.run(config(mine), mine / "data")
    assert captions(mine) == {"my-photo-0": ["one", "two"], "my-photo-5": ["x"]}


def test_pictures_of_kinds_that_are_not_read_are_told_of(mine, caplog):
    for name in ("a.HEIC", "holiday/b.heic", "c.avif"):
        (mine / "photos" / name).touch()
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    assert [m for m in caplog.messages if "kinds that are not read" in m] == [
        f"{mine}/photos: 1 .avif, 2 .heic are of kinds that are not read; convert them to JPEG or PNG"
    ]
    for photo in (mine / "photos").rglob("*.jpg"):
        photo.unlink()
    with pytest.raises(MissingError, match=r"but 1 \.avif, 2 \.heic: convert them to JPEG or PNG"):
        stage.run(config(mine), mine / "data")


def test_a_photograph_without_any_caption_is_recorded(mine):
    (mine / "photos" / "my photo_0.txt").write_text("the only one")
    summary = stage.run(config(mine), mine / "data")
    assert summary["contents"]["rejected"] == 6
    assert list(captions(mine)) == ["my-photo-0"]
    (mine / "photos" / "my photo_1.txt").write_text("another")
    stage.run(config(mine), mine / "data")
    assert list(captions(mine)) == ["my-photo-0", "my-photo-1"]


def test_pairs_of_ones_own_pictures_name_files_that_are_there(mine):
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    made = pairs.run(PairsConfig(train=10, val=1, crossed=(1, 1)), mine / "data" / "pairs", data_root=mine / "data")
    assert {split: counts["pairs"] for split, counts in made.items()} == {"train": 10, "val": 1, "test": 1}
    for row in read_pairs(mine / "data" / "pairs" / "train.jsonl"):
        assert (mine / "data" / row.content_path).is_file()
        assert (mine / "data" / row.style_path).is_file()
        assert row.style in ("ink", "chalk")


def test_an_absent_or_empty_folder_is_refused(tmp_path):
    with pytest.raises(MissingError, match="no picture in"):
        stage.run(config(tmp_path), tmp_path / "data")


def test_a_folder_of_rubbish_is_refused_with_the_place_of_the_reasons(mine):
    for path in (mine / "photos").rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(RequestError, match=r"see rejects\.csv in .*; most often \(7\): broken, 7 bytes of data"):
        stage.run(config(mine, prompt="x"), mine / "data")


def test_without_their_sources_what_was_prepared_stays(mine):
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    tables = ("coco/contents.jsonl", "wikiart/meta.csv", "wikiart/splits/train.txt")
    before = {name: (mine / "data" / name).read_bytes() for name in tables}
    for path in (mine / "photos").rglob("*.jpg"):
        path.unlink()
        path.symlink_to("/nowhere.jpg")
    with pytest.raises(MissingError, match=r"there is no picture in .*photos"):
        stage.run(config(mine, prompt="a photograph"), mine / "data")
    assert {name: (mine / "data" / name).read_bytes() for name in tables} == before


def test_photographs_that_moved_keep_their_ids_and_splits_and_those_that_left_are_told(mine, caplog):
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    known = {row["content_id"]: row["split"] for row in read_jsonl(mine / "data" / "coco" / "contents.jsonl")}
    (mine / "photos" / "holiday").rename(mine / "photos" / "summer")
    (mine / "photos" / "my photo_0.jpg").rename(mine / "photos" / "the first.jpg")
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    rows = list(read_jsonl(mine / "data" / "coco" / "contents.jsonl"))
    assert {row["content_id"]: row["split"] for row in rows} == known
    assert all((mine / "data" / row["content_path"]).is_file() for row in rows)
    assert caplog.messages == []
    (mine / "photos" / "the first.jpg").unlink()
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    assert caplog.messages == ["1 contents of an earlier run are not in the source any more: the first.jpg"]


def test_photographs_that_come_back_are_in_the_split_they_were_in(mine, photo, encoded):
    def where():
        return {row["content_id"]: row["split"] for row in read_jsonl(mine / "data" / "coco" / "contents.jsonl")}

    for k in range(20):
        (mine / "photos" / "holiday" / f"{k}.png").write_bytes(encoded(photo(300 + k)))
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    before = where()
    (mine / "photos" / "holiday").rename(mine / "unmounted")
    for k in range(20):
        (mine / "photos" / f"new {k}.png").write_bytes(encoded(photo(400 + k)))
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    (mine / "unmounted").rename(mine / "photos" / "holiday")
    stage.run(config(mine, prompt="a photograph"), mine / "data")
    assert {identity: split for identity, split in where().items() if identity in before} == before
