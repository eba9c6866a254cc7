"""Files appear whole or not at all; JSON lines survive a torn tail; a full or read-only disk is told in one line."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bottega.runtime import files
from bottega.runtime.errors import MissingError, RequestError, StorageError

ROWS = [{"id": 1, "text": "grün\nzwei"}, {"id": 2, "text": '"'}, {"id": 3, "nested": {"a": [1, 2.5, None]}}]


def test_a_file_that_fails_halfway_leaves_the_old_one_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.txt"
    files.write_text(target, "old")
    with pytest.raises(KeyError), files.atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise KeyError("the writer broke")
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_writer_killed_at_random_moments_never_shows_half_a_file(tmp_path: Path) -> None:
    target = tmp_path / "value.json"
    program = (
        "import sys, itertools; from pathlib import Path; from bottega.runtime.files import write_json\n"
        "for n in itertools.count(): write_json(Path(sys.argv[1]), [n] * 20000)"
    )
    for pause in (0.02, 0.05, 0.09, 0.13):
        writer = subprocess.Popen([sys.executable, "-c", program, str(target)])
        while not target.exists():
            time.sleep(0.005)
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        value = files.read_json(target)
        assert len(value) == 20000
        assert len(set(value)) == 1
    files.write_json(target, "after")
    assert [path.name for path in tmp_path.iterdir()] == ["value.json"], "what the killed writers left is gone"


def test_rows_come_back_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    files.append_jsonl(path, ROWS[:1])
    files.append_jsonl(path, ROWS[1:])
    assert list(files.read_jsonl(path)) == ROWS


@given(cut=st.integers(min_value=0))
def test_a_tail_torn_at_any_byte_costs_at_most_its_own_row(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("torn") / "rows.jsonl"
    files.append_jsonl(path, ROWS)
    whole = path.read_bytes()
    kept = whole[: cut % (len(whole) + 1)]
    path.write_bytes(kept)
    complete = [row for row in ROWS if _line(row).rstrip(b"\n") in kept]
    assert list(files.read_jsonl(path)) == complete
    files.append_jsonl(path, [{"id": 4}])
    assert list(files.read_jsonl(path)) == [*complete, {"id": 4}]


def _line(row: object) -> bytes:
    return (json.dumps(row, ensure_ascii=False) + "\n").encode()


def test_a_broken_line_that_is_not_the_last_is_an_error_with_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": \n{"id": 3}\n')
    with pytest.raises(StorageError, match=r"rows\.jsonl, line 2 "):
        list(files.read_jsonl(path))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), Path("/somewhere")])
def test_what_is_not_json_is_refused_rather_than_written(tmp_path: Path, bad: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        files.write_json(tmp_path / "x.json", {"value": bad})
    assert list(tmp_path.iterdir()) == []


def test_numpy_scalars_are_written_as_numbers(tmp_path: Path) -> None:
    files.write_json(tmp_path / "x.json", {"a": np.float32(0.5), "b": np.int64(3)})
    assert files.read_json(tmp_path / "x.json") == {"a": 0.5, "b": 3}


def test_absent_and_torn_json_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        files.read_json(tmp_path / "absent.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(StorageError, match="not valid JSON"):
        files.read_json(tmp_path / "torn.json")


def test_hashes_agree_with_hashlib_and_do_not_depend_on_key_order(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "x").write_bytes(data)
    assert files.sha256_file(tmp_path / "x") == files.sha256_bytes(data) == hashlib.sha256(data).hexdigest()
    assert files.sha256_json({"b": [1, "é"], "a": 0.1}) == files.sha256_json({"a": 0.1, "b": [1, "é"]})
    assert files.sha256_json({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()


def test_a_png_is_lossless_and_its_hash_is_the_files(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    digest = files.write_png(tmp_path / "x.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), picture)
    assert digest == files.sha256_file(tmp_path / "x.png")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_device_is_told_as_a_full_disk() -> None:
    with pytest.raises(StorageError, match="the disk is full: free some space"):
        files.append_jsonl(Path("/dev/full"), ROWS)


def test_a_full_file_system_keeps_the_old_file(small_disk: Path) -> None:
    files.write_bytes(small_disk / "x", b"old")
    with pytest.raises(StorageError, match="the disk is full"):
        files.write_bytes(small_disk / "x", os.urandom(400_000))
    assert (small_disk / "x").read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["x"]


def test_a_read_only_file_system_is_told_as_such(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError, match="read-only"):
        files.write_text(small_disk / "new" / "x", "text")


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs Linux's /sys, where not even root may make files")
def test_a_folder_without_permission_is_told_as_such() -> None:
    with pytest.raises(StorageError, match="permission denied"):
        files.write_text(Path("/sys/kernel/bottega/x"), "text")


def test_a_path_through_a_file_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        files.write_text(tmp_path / "file" / "x", "text")


def test_a_missing_source_inside_the_body_is_not_called_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_path(tmp_path / "x"):
        (tmp_path / "absent" / "source.png").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of 256 kB, where this machine lets us mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(place)], capture_output=True)
    if made.returncode != 0:
        pytest.skip("mounting needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", 0),
        ("\n", 1),
        ("one", 1),
        ("one\n", 1),
        ("one\ntwo", 2),
        ("one\n\nthree\n", 3),
        ("x" * 3_000_000 + "\nend", 2),
    ],
)
def test_lines_are_counted_a_last_one_without_its_end_too(text: str, lines: int, tmp_path: Path) -> None:
    (tmp_path / "text").write_text(text)
    assert files.count_lines(tmp_path / "text") == lines


def test_the_lines_of_an_absent_file_are_not_counted_as_none(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        files.count_lines(tmp_path / "text")


def test_a_file_that_cannot_be_read_is_not_said_to_be_written(tmp_path: Path) -> None:
    (tmp_path / "stage.json").mkdir()
    for read in (files.read_json, lambda path: list(files.read_jsonl(path))):
        with pytest.raises(StorageError, match=r"cannot read .*stage\.json: it is a folder, not a file: move it away"):
            read(tmp_path / "stage.json")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(StorageError, match=r"cannot read .*loop: its links lead in a circle: delete or mend the link"):
        files.read_json(tmp_path / "loop")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read")
def test_a_file_of_somebody_else_is_said_to_be_unreadable_also_where_an_error_says_only_where() -> None:
    with tempfile.TemporaryDirectory() as name:  # not pytest's folder, which others can't enter
        path = Path(name) / "stage.json"
        path.write_text("{}")
        path.chmod(0o600)
        Path(name).chmod(0o755)
        os.setresuid(65534, 65534, 0)
        try:
            with pytest.raises(StorageError, match=r"cannot read .*stage\.json: permission denied: make it readable"):
                files.read_json(path)
            with pytest.raises(PermissionError) as caught:
                path.read_bytes()
            assert str(files.storage_error(caught.value)).startswith(f"cannot read {path}: permission denied")
        finally:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("target", ["absent", "link"])
def test_a_folder_that_is_a_broken_link_is_not_called_a_file(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    for path in (tmp_path / "link", tmp_path / "link" / "below"):
        with pytest.raises(RequestError, match=r"link is a link that leads nowhere or in a circle; mend or delete"):
            files.require_folder(path)
        with pytest.raises(StorageError, match=r"cannot write .*link is a link that leads nowhere or in a circle"):
            files.write_text(path / "file", "x")


def test_a_folder_whose_name_is_not_utf_8_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"a folder whose name is UTF-8, received '.*caf\\udce9'; name another"):
        files.require_folder(tmp_path / os.fsdecode(b"caf\xe9"))
