"""Standard streams that are closed, full or gone, in real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bottega.runtime.children import as_argument

COMMAND = f"{sys.executable} -m bottega"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(line, shell=True, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", ">&- 2>&-", "<&- >&- 2>&-"])
def test_work_is_done_and_right_where_messages_cannot_be_written(redirect: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    done = shell(f"{COMMAND} run r.yaml --dry-run --json {redirect}", tmp_path)
    assert done.returncode == 0
    if ">&- 2" not in redirect:
        assert json.loads(done.stdout)["recipe"]["name"] == "x"
    assert done.stderr == ""


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full"])
def test_a_refusal_keeps_its_exit_code_where_it_cannot_be_told(redirect: str, tmp_path: Path) -> None:
    done = shell(f"{COMMAND} run absent.yaml {redirect}", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_a_stream_that_is_closed_lends_its_number_to_no_file(tmp_path: Path) -> None:
    """Without care the lock would be opened as number 2, and the error be written into it."""
    code = (
        "from bottega.runtime.streams import prepare_streams\n"
        "import os, sys\n"
        "prepare_streams()\n"
        "with open('file', 'w') as file:\n"
        "    os.write(2, b'a warning of a library')\n"
        "    assert file.fileno() > 2\n"
    )
    (tmp_path / "code.py").write_text(code)
    done = shell(f"{sys.executable} code.py 0<&- 1>&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("words", ["run r.yaml --dry-run --json", "--help", "doctor --help"])
def test_a_result_that_cannot_be_written_is_a_failure_told_in_one_line(words: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    done = shell(f"{COMMAND} {words} >/dev/full", tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "cannot be written to standard output: the disk is full" in done.stderr


def test_a_reader_who_has_had_enough_hears_no_complaint(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("name: x\n")
    done = shell(f"{COMMAND} run r.yaml --dry-run | head -c 1", tmp_path)
    assert done.stderr == ""


def test_a_name_that_is_not_utf_8_can_be_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND.encode().split(), b"run", b"\xff.yaml"], cwd=tmp_path, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 2
    assert b"\\udcff.yaml" in done.stderr


def test_a_directory_that_begins_with_a_dash_is_no_option_of_the_child(tmp_path: Path) -> None:
    assert as_argument(Path("-dash")) == "./-dash"
    assert as_argument(Path("runs/-dash")) == "runs/-dash"
    (tmp_path / "r.yaml").write_text("name: x\n")
    done = shell(f"{COMMAND} run r.yaml --directory=-dash --until data", tmp_path)
    # The stage's own process was started in the folder, and found that there is no data: its words come back.
    assert done.returncode == 2
    assert "stage data: " in done.stderr and "No such option" not in done.stderr
    assert (tmp_path / "-dash" / "data" / "error.json").is_file()
