"""Folders as people link them together: every picture is found once for each of its names, and no loop is endless."""

from __future__ import annotations

import csv

import pytest

from bottega.data import stage, wikiart
from bottega.data.config import ContentFolderConfig, DataConfig, StyleFolderConfig, WikiArtConfig
from bottega.data.folders import MOST_VISITS, list_files
from bottega.data.pictures import picture_files


@pytest.fixture
def disks(tmp_path, photo, encoded):
    """Two folders of four paintings each, on what could be two disks."""
    for place, first in (("here/ink", 0), ("there/oil", 10)):
        (tmp_path / place).mkdir(parents=True)
        for k in range(4):
            (tmp_path / place / f"{first + k}.png").write_bytes(encoded(photo(first + k)))
    return tmp_path


def names(folder):
    return [path.relative_to(folder).as_posix() for path in picture_files(folder)]


def test_a_linked_folder_a_linked_file_and_a_link_to_a_link_are_read(disks):
    (disks / "here" / "linked").symlink_to("../there/oil")
    (disks / "here" / "ink" / "again").symlink_to("../linked")
    (disks / "here" / "one.png").symlink_to("../there/oil/10.png")
    found = names(disks / "here")
    assert len(found) == 4 + 4 + 4 + 1
    assert {"linked/10.png", "ink/again/10.png", "one.png"} <= set(found)
    assert found == sorted(found)


def test_loops_end_and_are_told(disks):
    (disks / "here" / "up").symlink_to("..")
    (disks / "here" / "self").symlink_to("self")
    (disks / "here" / "ink" / "here").symlink_to("../../here")
    listing = list_files(disks / "here")
    assert len([name for name in listing.files if name.endswith(".png")]) == 8  # those of `there` through `up`
    assert {"ink/here", "self", "up/here"} <= set(listing.astray)


def test_folders_that_all_link_to_each_other_are_listed_a_bounded_number_of_times(tmp_path):
    for k in range(9):
        (tmp_path / f"f{k}").mkdir()
        (tmp_path / f"f{k}" / "a.png").touch()
        for other in range(9):
            if other != k:
                (tmp_path / f"f{k}" / f"to{other}").symlink_to(f"../f{other}")
    listing = list_files(tmp_path)
    pictures = [name for name in listing.files if name.endswith("a.png")]
    assert len(pictures) <= 9 * MOST_VISITS
    assert {f"f{k}/a.png" for k in range(9)} <= set(pictures)


def test_hidden_files_and_folders_are_left_out_whatever_they_are(disks):
    (disks / "here" / ".cache").symlink_to("../there")
    (disks / "here" / ".x.png").touch()
    assert len(names(disks / "here")) == 4


def labels(directory):
    with (directory / "meta.csv").open(encoding="utf-8", newline="") as stream:
        return [row["style"] for row in csv.DictReader(stream)]


@pytest.mark.parametrize("mode", ["symlink", "copy"])
def test_paintings_behind_a_link_are_taken_with_their_label(disks, mode):
    (disks / "here" / "oil").symlink_to("../there/oil")
    config = StyleFolderConfig(source="here", mode=mode)
    wikiart.run(config, disks / "wikiart", data_root=disks)
    assert sorted(labels(disks / "wikiart")) == ["ink"] * 4 + ["oil"] * 4


def test_tables_behind_a_link_are_found(disks, photo, encoded, write_parquet):
    cells = [{"bytes": encoded(photo(50 + k)), "path": None} for k in range(4)]
    write_parquet(disks / "disk" / "data" / "a.parquet", cells, [0] * 4, [0] * 4)
    (disks / "raw").mkdir()
    (disks / "raw" / "data").symlink_to("../disk/data")
    config = WikiArtConfig(source="raw", offline=True)
    assert wikiart.run(config, disks / "wikiart", data_root=disks)["pictures"] == 4


def test_photographs_behind_links_are_taken_and_a_link_to_nowhere_is_told(disks, caplog):
    (disks / "here" / "holiday").symlink_to("../there")
    (disks / "here" / "lost").symlink_to("/no such disk/photos")
    source = ContentFolderConfig(source=str(disks / "here"), prompt="a photograph")
    config = DataConfig(coco=None, wikiart=None, fill50k=None, content_folder=source)
    assert stage.run(config, disks / "data")["contents"]["pictures"] == 8
    assert [message for message in caplog.messages if "lead nowhere" in message] == [
        f"{disks}/here: 1 links lead nowhere or back to a folder above them: lost"
    ]
