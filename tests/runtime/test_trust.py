"""A file is held against what was recorded when it was written, and never believed by its size and time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from bottega.runtime import trust
from bottega.runtime.errors import DamagedError
from bottega.runtime.trust import Depth


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a table and a picture below it, sealed."""
    (tmp_path / "images").mkdir()
    (tmp_path / "table.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "images" / "x.png").write_bytes(b"picture")
    trust.seal(tmp_path, {tmp_path / "table.jsonl": "result", tmp_path / "images" / "x.png": "view"})
    return tmp_path


def flip(path: Path, at: int = 0, *, keep_time: bool = False) -> None:
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def names(folder: Path, depth: Depth) -> list[str]:
    return sorted(fault.path.name for fault in trust.faults(folder, depth))


def test_what_was_written_has_no_fault(folder: Path) -> None:
    assert names(folder, Depth.QUICK) == names(folder, Depth.WHOLE) == []
    trust.require(folder / "table.jsonl", "make it again")
    trust.require(folder / "images" / "x.png", "make it again")


@pytest.mark.parametrize("name", ["table.jsonl", "images/x.png"])
def test_one_flipped_bit_is_found_and_named_with_its_cure(folder: Path, name: str) -> None:
    flip(folder / name)
    assert names(folder, Depth.QUICK) == names(folder, Depth.WHOLE) == [Path(name).name]
    with pytest.raises(DamagedError, match=rf"{name} has another content.*; make it again") as raised:
        trust.require(folder / name, "make it again")
    assert raised.value.exit_code == 2
    assert not trust.is_intact(folder / name)


def test_size_and_time_say_whether_it_is_done_and_never_whether_it_is_right(folder: Path) -> None:
    old = (folder / "table.jsonl").stat().st_mtime_ns - 10**10
    os.utime(folder / "table.jsonl", ns=(old, old))
    flip(folder / "table.jsonl", keep_time=True)
    assert names(folder, Depth.QUICK) == []
    assert names(folder, Depth.WHOLE) == ["table.jsonl"]
    with pytest.raises(DamagedError):
        trust.require(folder / "table.jsonl", "make it again")


def test_a_copy_with_other_times_is_the_same_file(folder: Path) -> None:
    os.utime(folder / "table.jsonl", (4e9, 4e9))
    assert names(folder, Depth.QUICK) == []


@pytest.mark.parametrize("cut", [0, 3])
def test_a_file_that_was_cut_says_how_much_is_left(folder: Path, cut: int) -> None:
    (folder / "table.jsonl").write_bytes(b"x" * cut)
    with pytest.raises(DamagedError, match=f"has {cut} bytes, 9 were written"):
        trust.require(folder / "table.jsonl", "make it again")


def test_a_result_that_is_gone_is_a_fault_and_a_source_that_is_gone_is_not(folder: Path) -> None:
    source = folder / "source.png"
    source.write_bytes(b"mine")
    trust.seal(folder, {folder / "table.jsonl": "result", source: "source"})
    source.unlink()
    assert names(folder, Depth.WHOLE) == []
    (folder / "table.jsonl").unlink()
    assert names(folder, Depth.QUICK) == ["table.jsonl"]


def test_a_file_of_which_nothing_is_recorded_is_accepted(folder: Path, tmp_path: Path) -> None:
    (folder / "mine.jsonl").write_text("{}")
    trust.require(folder / "mine.jsonl", "make it again")
    assert trust.is_intact(folder / "mine.jsonl")
    assert list(trust.faults(tmp_path / "absent", Depth.WHOLE)) == []


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b"[1]\n", b'{"file": 3}\n', b'{"file": "a", "bytes": "b"}\n'])
def test_a_damaged_line_of_the_list_counts_as_not_there_and_is_named(
    folder: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with (folder / trust.LIST).open("ab") as stream:
        stream.write(damage)
    assert sorted(trust.read_list(folder)) == ["images/x.png", "table.jsonl"]
    assert f"{folder / trust.LIST}, line 3 can't be read" in caplog.text


def test_a_list_that_grows_keeps_the_last_line_of_a_file(folder: Path) -> None:
    (folder / "table.jsonl").write_text("another\n")
    trust.renew(folder / "table.jsonl", folder / "not-listed.json")
    assert names(folder, Depth.WHOLE) == []
    trust.add(folder, {folder / "images" / "x.png": trust.blake2b(b"others")})
    assert names(folder, Depth.WHOLE) == ["x.png"]


def test_equal_results_have_equal_lists_whatever_their_times(folder: Path) -> None:
    files = {folder / "table.jsonl": "result", folder / "images" / "x.png": "view"}
    before = (folder / trust.LIST).read_bytes()
    os.utime(folder / "table.jsonl", (4e9, 4e9))
    trust.seal(folder, files)  # type: ignore[arg-type]
    assert (folder / trust.LIST).read_bytes() == before


def test_views_are_no_part_of_what_others_depend_on(folder: Path) -> None:
    before = trust.contents_hash(folder)
    (folder / "images" / "x.png").write_bytes(b"drawn at another time")
    trust.renew(folder / "images" / "x.png")
    trust.add(folder, {folder / "images" / "x.png": None}, "view")
    assert trust.contents_hash(folder) == before
    (folder / "table.jsonl").write_text("another\n")
    trust.renew(folder / "table.jsonl")
    assert trust.contents_hash(folder) != before


def test_an_object_tells_any_change_of_itself() -> None:
    written = json.loads(json.dumps(trust.with_check({"step": 8, "absmax": 0.1, "name": "é"})))
    assert trust.holds(written)
    assert not trust.holds({**written, "step": 5})
    assert not trust.holds({**written, "more": 1})
    assert not trust.holds({key: value for key, value in written.items() if key != "absmax"})
    assert trust.holds({"step": 5})  # written before objects had a check


def test_tensors_are_told_apart_by_bits_names_and_shapes() -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(6.0).reshape(2, 3) + 1}
    whole = trust.hash_tensors(tensors, {"x": 1})
    assert trust.hash_tensors(dict(reversed(tensors.items())), {"x": 1}) == whole
    others = [
        ({**tensors, "a": tensors["a"].reshape(3, 2)}, {"x": 1}),
        ({"a": tensors["b"], "b": tensors["a"]}, {"x": 1}),
        ({**tensors, "a": tensors["a"].to(torch.bfloat16)}, {"x": 1}),
        (tensors, {"x": 2}),
    ]
    assert whole not in {trust.hash_tensors(*other) for other in others}


def test_a_picture_under_a_data_root_is_the_one_that_was_prepared(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "c.png").write_bytes(b"content")
    (tmp_path / "coco").mkdir()
    sha = trust.hash_file(tmp_path / "raw" / "c.png", "sha256")
    trust.seal(tmp_path / "coco", {tmp_path / "raw" / "c.png": "source"}, {tmp_path / "raw" / "c.png": sha})
    trust.PreparedPictures(tmp_path).require("raw/c.png")
    trust.PreparedPictures(tmp_path).require("raw/unknown.png")
    flip(tmp_path / "raw" / "c.png")
    with pytest.raises(DamagedError, match="than when it was prepared"):
        trust.PreparedPictures(tmp_path).require("raw/c.png")


def test_what_is_set_aside_is_kept_under_another_name(folder: Path) -> None:
    trust.set_aside(folder / "table.jsonl")
    assert not (folder / "table.jsonl").exists()
    assert (folder / "table.jsonl.damaged").read_text() == '{"a": 1}\n'
