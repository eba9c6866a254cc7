"""WikiArt from parquet and from folders: whole tables, sound splits, bad pictures recorded, runs that go on."""

from __future__ import annotations

import csv
import os
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bottega.data import placement, wikiart
from bottega.data.config import LimitsConfig, StyleFolderConfig, WikiArtConfig
from bottega.data.labels import STYLES
from bottega.data.pictures import open_picture, read_kind
from bottega.data.records import read_styles
from bottega.data.style_sources import StyleFolder, painting_caption
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import sha256_file
from bottega.runtime.trust import LIST

OFFLINE = WikiArtConfig(source="raw", offline=True)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def splits(directory: Path) -> dict[str, str]:
    return {
        identity: split
        for split in ("train", "val", "test")
        for identity in (directory / "splits" / f"{split}.txt").read_text().split()
    }


def outputs(directory: Path) -> dict[str, bytes]:
    """Every output by its name but for the index, whose bytes depend on the history."""
    files = (p for p in directory.rglob("*") if p.is_file() and not p.name.startswith("index.sqlite"))
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def parquet(tmp_path, photo, encoded, write_parquet):
    """Forty paintings by five artists in two shards."""
    for shard in range(2):
        numbers = range(20 * shard, 20 * shard + 20)
        cells = [{"bytes": encoded(photo(k)), "path": f"painting_{k}.png"} for k in numbers]
        name = f"train-{shard:05d}-of-00002-abc.parquet"
        write_parquet(tmp_path / "raw" / "data" / name, cells, [k % 5 for k in numbers], [k % 3 for k in numbers])
    return tmp_path


def test_parquet_becomes_images_meta_and_splits(parquet, photo, encoded):
    summary = wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    rows = table(parquet / "out" / "meta.csv")
    assert list(rows[0]) == ["id", "path", "artist", "style", "genre", "sha256", "caption"]
    by_id = {row["id"]: row for row in rows}
    assert len(by_id) == 40
    for k in range(40):
        row = by_id[f"painting-{k}"]
        assert (row["artist"], row["style"]) == (f"artist_{k % 5}", ["Cubism", "Realism", "Ukiyo_e"][k % 3])
        assert (parquet / "out" / row["path"]).read_bytes() == encoded(photo(k))
        assert sha256_file(parquet / "out" / row["path"]) == row["sha256"]
    where = splits(parquet / "out")
    assert set(where) == set(by_id)
    assert (summary["train"], summary["val"], summary["test"]) == (32, 4, 4)
    assert {by_id[i]["artist"] for i, split in where.items() if split == "train"} == {f"artist_{k}" for k in range(5)}
    styles = list(read_styles(parquet / "out"))
    assert [style.id for style in styles] == sorted(by_id)
    assert {style.id: style.split for style in styles} == where


def test_running_again_changes_nothing_and_looks_at_nothing(parquet, monkeypatch):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    before = outputs(parquet / "out")
    monkeypatch.setattr("bottega.data.ingest.inspect_picture", lambda *_, **__: pytest.fail("looked again"))
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    assert outputs(parquet / "out") == before


def test_a_lost_picture_is_written_again(parquet):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    before = outputs(parquet / "out")
    (parquet / "out" / "images" / "painting-7.png").unlink()
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    assert outputs(parquet / "out") == before


def test_a_run_stopped_after_any_picture_ends_as_an_uninterrupted_one(parquet, monkeypatch):
    wikiart.run(OFFLINE, parquet / "whole", data_root=parquet)
    monkeypatch.setattr("bottega.data.ingest.COMMIT_EVERY", 4)
    placed = placement.Placement.__call__
    for stop in (1, 11, 20):
        calls = iter(range(stop))

        def stopping(self, item, look, calls=calls):
            if next(calls, None) is None:
                os.close(-1)  # an error from below, as a pulled disk gives
            return placed(self, item, look)

        monkeypatch.setattr(placement.Placement, "__call__", stopping)
        with pytest.raises(OSError, match="Bad file"):
            wikiart.run(OFFLINE, parquet / "stopped", data_root=parquet)
    monkeypatch.setattr(placement.Placement, "__call__", placed)
    wikiart.run(OFFLINE, parquet / "stopped", data_root=parquet)
    assert outputs(parquet / "stopped") == outputs(parquet / "whole")


def test_new_shards_are_taken_in_and_move_no_picture_between_splits(parquet, photo, encoded, write_parquet):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    before = splits(parquet / "out")
    cells = [{"bytes": encoded(photo(k)), "path": None} for k in range(100, 130)]
    write_parquet(parquet / "raw" / "data" / "more.parquet", cells, [k % 7 for k in range(30)], [0] * 30)
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    after = splits(parquet / "out")
    assert len(after) == 70
    assert {identity: after[identity] for identity in before} == before


def test_pictures_without_a_name_are_called_after_artist_and_content(tmp_path, photo, encoded, write_parquet):
    cells = [{"bytes": encoded(photo(k)), "path": None} for k in range(3)]
    write_parquet(tmp_path / "raw" / "a.parquet", cells, [3, 3, 4], [0, 0, 0])
    wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
    rows = table(tmp_path / "out" / "meta.csv")
    assert {row["id"] for row in rows} == {f"{row['artist'].replace('_', '-')}-{row['sha256'][:10]}" for row in rows}


def test_a_cell_without_bytes_names_a_file_beside_its_table_and_an_empty_one_is_recorded(
    tmp_path, photo, encoded, write_parquet
):
    cells = [
        {"bytes": None, "path": "a.png"},
        {"bytes": None, "path": None},
        {"bytes": encoded(photo(1)), "path": "b.png"},
    ]
    write_parquet(tmp_path / "raw" / "list.parquet", cells, [0, 1, 2], [0, 1, 2])
    (tmp_path / "raw" / "a.png").write_bytes(encoded(photo(0)))
    wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
    rows = {row["id"]: row for row in table(tmp_path / "out" / "meta.csv")}
    assert set(rows) == {"a", "b"}
    assert (tmp_path / "out" / rows["a"]["path"]).read_bytes() == encoded(photo(0))
    (rejected,) = table(tmp_path / "out" / "rejects.csv")
    assert rejected["reason"] == "broken"


def test_without_metadata_the_published_names_stand_in(tmp_path, photo, encoded, write_parquet):
    assert len(STYLES) == 27
    cells = [{"bytes": encoded(photo(k)), "path": None} for k in range(3)]
    write_parquet(tmp_path / "raw" / "a.parquet", cells, [0, 22, 5], [0, 26, 12], style_names=None)
    wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
    found = {(row["artist"], row["style"], row["genre"]) for row in table(tmp_path / "out" / "meta.csv")}
    assert found == {
        ("Unknown Artist", "Abstract_Expressionism", "abstract_painting"),
        ("artist-022", "Ukiyo_e", "abstract_painting"),
        ("artist-005", "Impressionism", "abstract_painting"),
    }
    write_parquet(tmp_path / "raw" / "a.parquet", cells, [0, 0, 0], [0, 27, 0], style_names=None)
    with pytest.raises(RequestError, match="style 27 has no name, 27 are known"):
        wikiart.run(OFFLINE, tmp_path / "out2", data_root=tmp_path)


def test_bad_pictures_are_recorded_with_their_reason_and_odd_ones_converted(tmp_path, photo, encoded, write_parquet):
    exif = Image.Exif()
    exif[0x0112] = 3
    jpeg = encoded(photo(1, 300, 200), "JPEG", quality=95)
    pictures = {
        "good": jpeg,
        "truncated": jpeg[: len(jpeg) // 2],
        "broken": b"not a picture",
        "tiny": encoded(photo(2, 20, 300)),
        "cmyk": encoded(photo(3).convert("CMYK"), "JPEG", quality=95),
        "sixteen": encoded(Image.fromarray(np.asarray(photo(4).convert("L")).astype(np.uint16) * 257)),
        "turned": encoded(photo(5), "JPEG", quality=95, exif=exif),
        "clear": encoded(photo(6).convert("RGBA")),
        "bomb": encoded(Image.new("1", (3_000, 2_000))),
        "large": encoded(photo(7, 4600, 600), "JPEG", quality=80),
        "tiff": encoded(photo(8), "TIFF"),
    }
    cells = [{"bytes": data, "path": f"{name}.jpg"} for name, data in pictures.items()] + [
        {"bytes": None, "path": None}
    ]
    write_parquet(tmp_path / "raw" / "a.parquet", cells, [0] * 12, [0] * 12)
    limits = LimitsConfig(min_side=64, max_pixels=2_000_000)
    config = WikiArtConfig(source="raw", offline=True, limits=limits)
    summary = wikiart.run(config, tmp_path / "out", data_root=tmp_path)
    rejects = {row["source"]: row["reason"] for row in table(tmp_path / "out" / "rejects.csv")}
    names = [*pictures, "empty"]
    assert {names[int(source.split("#")[1])]: reason for source, reason in rejects.items()} == {
        "truncated": "truncated",
        "broken": "broken",
        "tiny": "too-small",
        "bomb": "enormous",
        "empty": "broken",
    }
    converted = {row["id"] for row in table(tmp_path / "out" / "converted.csv")}
    assert converted == {"cmyk", "sixteen", "turned", "clear", "large", "tiff"}
    assert (summary["pictures"], summary["rejected"], summary["converted"]) == (7, 5, 6)
    for row in table(tmp_path / "out" / "meta.csv"):
        path = tmp_path / "out" / row["path"]
        assert read_kind(path).plain
        assert sha256_file(path) == row["sha256"]
        if row["id"] in ("cmyk", "sixteen", "turned", "clear", "tiff"):
            assert np.array_equal(np.asarray(Image.open(path)), np.asarray(open_picture(pictures[row["id"]])))
    with Image.open(tmp_path / "out" / "images" / "large.png") as large:
        assert max(large.size) <= 4096


def test_copies_and_near_copies_never_straddle_a_split(tmp_path, photo, encoded, write_parquet):
    cells, artists, styles = [], [], []
    for k in range(30):
        variants = [
            encoded(photo(k, 160, 120)),
            encoded(photo(k, 160, 120), "JPEG", quality=70),
            encoded(photo(k, 160, 120).resize((120, 90))),
            encoded(photo(k, 160, 120)),  # identical bytes under another label: a doubly labelled painting
        ]
        cells += [{"bytes": data, "path": f"{k}-{n}.x"} for n, data in enumerate(variants)]
        artists += [k % 4] * 4
        styles += [0, 0, 1, 2]
    write_parquet(tmp_path / "raw" / "a.parquet", cells, artists, styles)
    summary = wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
    assert (summary["pictures"], summary["rejected"]) == (120, 0)
    where = splits(tmp_path / "out")
    for k in range(30):
        assert len({where[f"{k}-{n}"] for n in range(4)}) == 1
    assert set(where.values()) == {"train", "val", "test"}
    rows = {row["id"]: row for row in table(tmp_path / "out" / "meta.csv")}
    assert rows["3-0"]["path"] == rows["3-3"]["path"]  # written once
    assert rows["3-0"]["style"] != rows["3-3"]["style"]


def test_the_same_bytes_with_the_same_labels_are_one_picture(tmp_path, photo, encoded, write_parquet):
    cells = [{"bytes": encoded(photo(0)), "path": name} for name in ("a.png", "b.png")]
    write_parquet(tmp_path / "raw" / "a.parquet", cells, [1, 1], [0, 0])
    wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
    assert [row["id"] for row in table(tmp_path / "out" / "meta.csv")] == ["a"]
    assert [row["detail"] for row in table(tmp_path / "out" / "rejects.csv")] == ["the same bytes and labels as a"]


@pytest.fixture
def folder(tmp_path, photo, encoded):
    """ArtGAN's layout: style/artist_title.jpg, the third painting doubly labelled."""
    for k in range(24):
        path = tmp_path / "root" / "raw" / ("Cubism" if k % 2 else "Realism") / f"artist-{k % 3}_title-{k}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(photo(k), "JPEG", quality=90))
    shutil.copy(tmp_path / "root/raw/Realism/artist-2_title-2.jpg", tmp_path / "root/raw/Cubism/artist-2_title-2.jpg")
    (tmp_path / "root" / "raw" / ".hidden.jpg").write_bytes(b"rubbish")
    return tmp_path / "root"


@pytest.mark.parametrize("mode", ["symlink", "copy"])
def test_a_folder_of_files_is_linked_relatively_or_copied(folder, mode):
    config = OFFLINE.model_copy(update={"mode": mode})
    wikiart.run(config, folder / "wikiart", data_root=folder)
    rows = {row["id"]: row for row in table(folder / "wikiart" / "meta.csv")}
    assert len(rows) == 25
    assert rows["artist-1-title-1"]["artist"] == "artist-1"
    assert rows["artist-1-title-1"]["style"] == "Cubism"
    assert {rows["artist-2-title-2"]["style"], rows["artist-2-title-2-2"]["style"]} == {"Cubism", "Realism"}
    moved = folder.rename(folder.with_name("elsewhere"))
    for row in rows.values():
        path = moved / "wikiart" / row["path"]
        assert path.is_symlink() == (mode == "symlink")
        assert not path.is_symlink() or not os.path.isabs(os.readlink(path))
        assert sha256_file(path) == row["sha256"]


def test_changing_the_mode_replaces_links_by_copies(folder):
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    wikiart.run(OFFLINE.model_copy(update={"mode": "copy"}), folder / "wikiart", data_root=folder)
    assert not any(path.is_symlink() for path in (folder / "wikiart" / "images").iterdir())


@pytest.mark.parametrize(
    ("stem", "artist", "genre", "caption"),
    [
        ("claude-monet_water-lilies-1919", "claude-monet", "landscape", "water lilies, a landscape"),
        ("claude-monet_water-lilies-1919", "claude-monet", "", "water lilies"),
        (
            "vincent-van-gogh_l-arlesienne-1888-2",
            "vincent-van-gogh",
            "portrait",
            "l arlesienne, a portrait of a person",
        ),
        ("0017", "claude-monet", "cityscape", "a view of a city"),
        ("piet-mondrian_1921", "piet-mondrian", "abstract_painting", ""),
        ("0017", "Unknown Artist", "Unknown Genre", ""),
    ],
)
def test_file_name_and_genre_say_what_a_painting_shows(stem, artist, genre, caption):
    assert painting_caption(stem, artist, genre) == caption


def test_captions_come_from_the_table_or_the_text_beside_a_picture(folder, photo, encoded):
    (folder / "raw/Cubism/artist-1_title-1.txt").write_text("two  boats on a lake\nmore\n")
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    captions = {row["id"]: row["caption"] for row in table(folder / "wikiart" / "meta.csv")}
    assert captions["artist-1-title-1"] == "two boats on a lake"
    assert captions["artist-1-title-7"] == "title"
    assert {style.id: style.caption for style in read_styles(folder / "wikiart")} == captions
    (folder / "raw/Cubism/artist-1_title-1.txt").write_text("one boat\n")
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    assert {row["id"]: row["caption"] for row in table(folder / "wikiart" / "meta.csv")} == captions | {
        "artist-1-title-1": "one boat"
    }


def test_a_table_without_captions_is_read_as_before(folder):
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    meta = folder / "wikiart" / "meta.csv"
    meta.write_text("".join(line.rpartition(",")[0] + "\n" for line in meta.read_text().splitlines()))
    (folder / "wikiart" / LIST).unlink()  # as an earlier version left it
    assert {style.caption for style in read_styles(folder / "wikiart")} == {""}


def test_a_changed_and_a_vanished_source_are_noticed(folder, photo, encoded):
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    (folder / "raw/Cubism/artist-1_title-1.jpg").unlink()
    (folder / "raw/Realism/artist-0_title-0.jpg").write_bytes(encoded(photo(900), "JPEG", quality=90))
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    rows = {row["id"]: row for row in table(folder / "wikiart" / "meta.csv")}
    assert "artist-1-title-1" not in rows
    assert not (folder / "wikiart/images/artist-1-title-1.jpg").is_symlink()
    assert rows["artist-0-title-0"]["sha256"] == sha256_file(folder / "raw/Realism/artist-0_title-0.jpg")


def test_the_users_own_folder_is_labelled_by_its_top_sub_folders(folder, photo, encoded):
    (folder / "raw" / "loose.png").write_bytes(encoded(photo(50)))
    config = StyleFolderConfig(source="raw")
    wikiart.run(config, folder / "wikiart", data_root=folder)
    counts: dict[str, int] = defaultdict(int)
    for row in table(folder / "wikiart" / "meta.csv"):
        counts[row["style"]] += 1
        assert row["artist"] == "Unknown Artist"
    assert counts == {"Cubism": 13, "Realism": 12, "unlabelled": 1}


def test_a_damaged_parquet_file_is_named(parquet):
    path = parquet / "raw" / "data" / "train-00001-of-00002-abc.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        RequestError, match=r"train-00001-of-00002-abc\.parquet is no complete parquet file .* put a whole copy"
    ):
        wikiart.run(OFFLINE, parquet / "out", data_root=parquet)


def test_a_missing_shard_is_told_where_it_cannot_be_fetched(parquet):
    (parquet / "raw" / "data" / "train-00000-of-00002-abc.parquet").unlink()
    assert wikiart.run(OFFLINE, parquet / "out", data_root=parquet)["missing_shards"] == ["00000"]


def test_without_any_source_the_message_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingError, match="huggan/wikiart"):
        wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)


def test_the_cache_of_the_hub_library_is_found(parquet, monkeypatch):
    snapshot = parquet / "cache" / "datasets--huggan--wikiart" / "snapshots" / "abc"
    snapshot.parent.mkdir(parents=True)
    shutil.move(parquet / "raw" / "data", snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(parquet / "cache"))
    assert wikiart.run(OFFLINE, parquet / "out", data_root=parquet)["pictures"] == 40


def test_a_table_that_is_not_wikiart_is_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"image": [1], "label": [2]}), tmp_path / "raw" / "a.parquet")
    with pytest.raises(RequestError, match="needs the columns image and style, it has image, label"):
        wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)


def prepared(directory: Path) -> dict[str, bytes]:
    """Every file below a prepared folder, the index too but for its log; a link by where it leads."""
    found = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path).encode()
        elif path.is_file() and not name.startswith("index.sqlite-"):
            found[name] = path.read_bytes()
    return found


def without_network(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """As the hub's library behaves without a network: it warns, and returns the folder as it is."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "cache"))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, local_dir, **__: local_dir)


@pytest.mark.parametrize("mode", ["symlink", "copy"])
@pytest.mark.parametrize("gone", ["moved away", "emptied", "links to nowhere"])
def test_without_its_source_nothing_prepared_is_touched(folder, monkeypatch, mode, gone):
    without_network(monkeypatch, folder)
    config = WikiArtConfig(source="raw", mode=mode)
    wikiart.run(config, folder / "wikiart", data_root=folder)
    before = prepared(folder / "wikiart")
    assert sum(name.startswith("images/") for name in before) == 24  # the doubly labelled one has one file
    shutil.move(folder / "raw", folder / "elsewhere")
    if gone == "emptied":
        (folder / "raw").mkdir()
        (folder / "raw" / "notes.txt").write_text("here were pictures")
    if gone == "links to nowhere":
        (folder / "raw").mkdir()
        (folder / "raw" / "a_b.jpg").symlink_to("../nowhere.jpg")
    with pytest.raises(RequestError):
        wikiart.run(config, folder / "wikiart", data_root=folder)
    assert prepared(folder / "wikiart") == before


def test_pictures_from_parquet_stay_when_their_files_are_gone(parquet, monkeypatch):
    without_network(monkeypatch, parquet)
    wikiart.run(WikiArtConfig(source="raw"), parquet / "out", data_root=parquet)
    before = prepared(parquet / "out")
    shutil.rmtree(parquet / "raw" / "data")
    with pytest.raises(MissingError, match=r"holds no parquet file of huggan/wikiart and none could be fetched"):
        wikiart.run(WikiArtConfig(source="raw", fetch=True), parquet / "out", data_root=parquet)
    with pytest.raises(MissingError, match=r"there is no parquet or Arrow file and no picture in .*raw; put the files"):
        wikiart.run(WikiArtConfig(source="raw"), parquet / "out", data_root=parquet)
    assert prepared(parquet / "out") == before


def test_pictures_of_a_table_that_was_deleted_stay_and_the_message_says_how_to_leave_them_out(parquet, caplog):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    before = outputs(parquet / "out")
    (parquet / "raw" / "data" / "train-00000-of-00002-abc.parquet").unlink()
    summary = wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    assert (summary["pictures"], summary["kept_without_source"]) == (40, 20)
    assert outputs(parquet / "out") == before
    assert "20 pictures are kept though train-00000-of-00002-abc.parquet, from which they came, is gone" in caplog.text
    # The advice of the message.
    shutil.rmtree(parquet / "out" / "images")
    (parquet / "out" / "index.sqlite").unlink()
    assert wikiart.run(OFFLINE, parquet / "out", data_root=parquet)["pictures"] == 20


def test_a_row_that_its_table_lost_leaves_meta_and_its_file_stays(parquet, photo, encoded, write_parquet, caplog):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    images = {path.name for path in (parquet / "out" / "images").iterdir()}
    cells = [{"bytes": encoded(photo(k)), "path": f"painting_{k}.png"} for k in range(15)]
    shard = parquet / "raw" / "data" / "train-00000-of-00002-abc.parquet"
    write_parquet(shard, cells, [k % 5 for k in range(15)], [k % 3 for k in range(15)])
    assert wikiart.run(OFFLINE, parquet / "out", data_root=parquet)["pictures"] == 35
    assert {path.name for path in (parquet / "out" / "images").iterdir()} == images
    assert "5 pictures left meta.csv, for their source is gone; their files are kept" in caplog.text


def ids_and_splits(directory: Path) -> dict[str, tuple[str, str]]:
    where = splits(directory)
    return {row["sha256"]: (row["id"], where[row["id"]]) for row in table(directory / "meta.csv")}


def test_renamed_tables_are_the_same_pictures_with_their_ids_and_splits(parquet):
    wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    before = ids_and_splits(parquet / "out")
    for number, path in enumerate(sorted((parquet / "raw" / "data").iterdir())):
        path.rename(path.with_name(f"part{number}.parquet"))
    summary = wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    assert (summary["pictures"], summary["rejected"]) == (40, 0)
    assert ids_and_splits(parquet / "out") == before


@pytest.mark.parametrize("mode", ["symlink", "copy"])
def test_a_renamed_label_keeps_the_ids_and_files_of_its_pictures(folder, mode):
    config = OFFLINE.model_copy(update={"mode": mode})
    wikiart.run(config, folder / "wikiart", data_root=folder)
    before = ids_and_splits(folder / "wikiart")
    (folder / "raw" / "Realism").rename(folder / "raw" / "Realism of 1850")
    assert wikiart.run(config, folder / "wikiart", data_root=folder)["pictures"] == 25
    after = ids_and_splits(folder / "wikiart")
    assert {sha: identity for sha, (identity, _) in after.items()} == {sha: i for sha, (i, _) in before.items()}
    for row in table(folder / "wikiart" / "meta.csv"):
        assert sha256_file(folder / "wikiart" / row["path"]) == row["sha256"]


def test_tables_of_one_name_in_two_folders_do_not_replace_each_other(tmp_path, photo, encoded, write_parquet):
    for part in range(2):
        cells = [{"bytes": encoded(photo(10 * part + k)), "path": None} for k in range(6)]
        write_parquet(tmp_path / "raw" / f"split{part}" / "0000.parquet", cells, [0] * 6, [k % 3 for k in range(6)])
    assert wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)["pictures"] == 12


def test_a_copy_stands_in_when_the_picture_it_was_rejected_for_is_gone(folder):
    shutil.copy(folder / "raw/Cubism/artist-1_title-1.jpg", folder / "raw/Cubism/artist-1_zz.jpg")
    assert wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)["pictures"] == 25
    (folder / "raw/Cubism/artist-1_title-1.jpg").unlink()
    assert wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)["pictures"] == 25
    rows = {row["id"]: row["sha256"] for row in table(folder / "wikiart" / "meta.csv")}
    assert rows["artist-1-title-1"] == sha256_file(folder / "raw/Cubism/artist-1_zz.jpg")


def test_when_every_picture_is_damaged_the_tables_stay(folder):
    config = WikiArtConfig(source="raw", mode="copy", offline=True)
    wikiart.run(config, folder / "wikiart", data_root=folder)
    before = prepared(folder / "wikiart")
    for path in (folder / "raw").rglob("*.jpg"):
        path.write_bytes(b"rubbish")
    with pytest.raises(RequestError, match="no usable picture among the styles"):
        wikiart.run(config, folder / "wikiart", data_root=folder)
    changed = {name for name, data in prepared(folder / "wikiart").items() if before.get(name) != data}
    assert changed <= {"rejects.csv", "index.sqlite"}


def test_a_folder_of_styles_counts_its_pictures_and_one_without_any_is_missing(folder):
    assert StyleFolder(folder / "raw").count() == 25
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.md").write_text("no picture")
    with pytest.raises(MissingError, match="holds no picture"):
        StyleFolder(folder / "empty").count()


@pytest.mark.parametrize("inside", ["", "images"])
def test_a_source_that_is_the_stages_own_output_is_refused(folder, inside):
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    if inside:  # a folder below the output counts where a table of its own makes it look like one
        shutil.copy(folder / "wikiart" / "meta.csv", folder / "wikiart" / inside)
    before = outputs(folder / "wikiart")
    own = OFFLINE.model_copy(update={"source": f"wikiart/{inside}"})
    with pytest.raises(RequestError, match="own output"):
        wikiart.run(own, folder / "wikiart", data_root=folder)
    assert outputs(folder / "wikiart") == before


def test_a_table_of_the_same_name_elsewhere_does_not_make_a_source_the_stages_own(folder):
    (folder / "raw" / "meta.csv").write_text("id,caption\n")
    wikiart.run(OFFLINE, folder / "wikiart", data_root=folder)
    assert len(table(folder / "wikiart" / "meta.csv")) == 25


def save_to_disk(path: Path, table, *, as_file: bool = False) -> None:
    import pyarrow as pa

    path.parent.mkdir(parents=True, exist_ok=True)
    make = pa.ipc.new_file if as_file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)


@pytest.mark.parametrize("layout", ["data set", "several splits", "file format", "names beside"])
def test_what_datasets_saved_to_disk_reads_as_the_parquet_files_it_came_from(parquet, layout):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = wikiart.run(OFFLINE, parquet / "out", data_root=parquet)
    saved = parquet / "saved"
    for number, path in enumerate(sorted((parquet / "raw" / "data").iterdir())):
        table = pq.read_table(path)
        folder = saved / f"split{number}" if layout == "several splits" else saved
        name = "data-00000-of-00001.arrow" if layout == "several splits" else f"data-{number:05d}-of-00002.arrow"
        (folder).mkdir(parents=True, exist_ok=True)
        files = [name] if layout == "several splits" else [f"data-{k:05d}-of-00002.arrow" for k in range(2)]
        (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": file} for file in files]}))
        if layout == "names beside":
            info = json.loads(table.schema.metadata[b"huggingface"])["info"]
            (folder / "dataset_info.json").write_text(json.dumps(info))
            table = table.replace_schema_metadata(None)
        save_to_disk(folder / name, table, as_file=layout == "file format")
        save_to_disk(folder / "cache-0123abcd.arrow", pa.table({"other": [1]}))
    got = wikiart.run(WikiArtConfig(source="saved", offline=True), parquet / "other", data_root=parquet)
    assert got == expected
    assert table_of(parquet / "other") == table_of(parquet / "out")


def table_of(directory: Path) -> list[dict[str, str]]:
    return table(directory / "meta.csv")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.arrow", b"", "is no complete Arrow file"),
        ("a.arrow", b"\xff\xff\xff\xff\x10\0\0\0torn", "is no complete Arrow file"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.arrow", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_what_helps(tmp_path, name, data, message):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / name).write_bytes(data)
    with pytest.raises(RequestError, match=message):
        wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_that_was_not_unpacked_is_named_with_the_command_that_unpacks_it(folder, kind):
    import shlex
    import subprocess

    shutil.make_archive(str(folder / "it's fetched" / "wiki art"), "zip" if kind == "zip" else "gztar", folder / "raw")
    config = WikiArtConfig(source="it's fetched", offline=True)
    with pytest.raises(MissingError, match=rf"but wiki art\.{kind}: unpack them first, by ") as told:
        wikiart.run(config, folder / "wikiart", data_root=folder)
    command = str(told.value).partition(" first, by ")[2].partition(", and the network")[0]
    subprocess.run(shlex.split(command), check=True)
    assert wikiart.run(config, folder / "wikiart", data_root=folder)["pictures"] == 25


def write_floats(path, encoded, photo, artist, genre, style, caption="a hill"):
    """As pandas writes a table in which something is missing: without names, numbers as floats."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 4
    cells = [{"bytes": encoded(photo(k)), "path": None} for k in range(count)]
    columns = {"artist": artist, "genre": genre, "style": style, "caption": caption}
    table = pa.table({"image": cells, **{name: [1.0] * (count - 1) + [value] for name, value in columns.items()}})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.mark.parametrize("empty", [float("nan"), None])
def test_an_empty_label_or_caption_is_unknown_however_it_is_written(tmp_path, encoded, photo, empty):
    write_floats(tmp_path / "raw" / "a.parquet", encoded, photo, empty, empty, empty, empty)
    assert wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)["pictures"] == 4
    rows = table(tmp_path / "out" / "meta.csv")
    (odd,) = [row for row in rows if row["artist"] == "Unknown Artist"]
    assert (odd["style"], odd["genre"], odd["caption"]) == ("unlabelled", "", "")


@pytest.mark.parametrize("label", [float("inf"), -float("inf"), 2.5])
def test_a_label_that_is_no_number_of_a_name_is_refused(tmp_path, encoded, photo, label):
    write_floats(tmp_path / "raw" / "a.parquet", encoded, photo, 1.0, 1.0, label, None)
    with pytest.raises(RequestError, match="style must be a label's number or name, received"):
        wikiart.run(OFFLINE, tmp_path / "out", data_root=tmp_path)
