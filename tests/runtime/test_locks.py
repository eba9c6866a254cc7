"""Who may work beside whom: one lock a resource, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from bottega.runtime.errors import LockedError
from bottega.runtime.locks import LOCK, command_line, lock, reading, run_of, writing

HOLD = """
import sys, time
from pathlib import Path
from bottega.runtime.locks import lock, reading, writing
kind, path = sys.argv[1:]
take = {"lock": lock, "reading": reading, "writing": writing}[kind]
with take(Path(path), "demo"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(kind: str, path: Path) -> Iterator[int]:
    """Another process holds a lock within this block; its number."""
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process.pid
        finally:
            process.kill()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that looks like a run's, with a teacher's folder in it."""
    run = tmp_path / "runs" / "demo"
    (run / "teacher").mkdir(parents=True)
    (run / "features").mkdir()
    (run / "features" / "manifest.json").write_text("{}\n")
    (run / "recipe.yaml").write_text("name: demo\n")
    (run / "provenance.json").write_text("{}\n")
    return run


def test_a_refusal_names_the_holders_command_its_process_and_when_it_began(tmp_path: Path) -> None:
    with held("lock", tmp_path / LOCK) as pid:
        told = rf"process {pid} on \S+ \(demo: .*python.* -c .*, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\) works on "
        with pytest.raises(LockedError, match=told):
            lock(tmp_path / LOCK, "me", patience_s=0).__enter__()


def test_readers_share_a_folder_and_keep_a_writer_out_who_is_told_which_command_reads(tmp_path: Path) -> None:
    with held("reading", tmp_path) as pid, reading(tmp_path, "me", patience_s=0):
        pass
    with held("reading", tmp_path) as pid:
        told = rf"process {pid} on \S+ \(.*python.* -c .*, since \d{{4}}-.*\) reads "
        with pytest.raises(LockedError, match=told):
            writing(tmp_path, "me", patience_s=0).__enter__()


def test_a_writer_keeps_readers_out(tmp_path: Path) -> None:
    with held("writing", tmp_path), pytest.raises(LockedError, match=r"\(demo: .*works on"):
        reading(tmp_path, "me", patience_s=0).__enter__()


def test_a_lock_that_is_taken_twice_by_a_process_stays_until_it_is_given_up_twice(tmp_path: Path) -> None:
    with lock(tmp_path / LOCK, "outer"):
        with lock(tmp_path / LOCK, "inner"):
            pass
        assert not _is_free(tmp_path / LOCK)
    assert _is_free(tmp_path / LOCK)


def test_a_reader_that_also_writes_keeps_other_readers_out(tmp_path: Path) -> None:
    with reading(tmp_path, "me"), writing(tmp_path, "me"):
        assert not _is_free(tmp_path / LOCK, shared=True)
    assert _is_free(tmp_path / LOCK)


def test_a_lock_file_that_was_deleted_meanwhile_does_not_let_two_in(tmp_path: Path) -> None:
    with held("lock", tmp_path / LOCK):
        (tmp_path / LOCK).unlink()
        with lock(tmp_path / LOCK, "me", patience_s=0):
            assert not _is_free(tmp_path / LOCK)


def test_who_writes_into_a_folder_of_a_run_has_the_run(run: Path) -> None:
    with writing(run / "teacher", "me"):
        assert [path for path in (run, run / "teacher") if _is_free(path / LOCK)] == []
        assert not _is_free(run / ".stage.lock")
    with held("lock", run / LOCK), pytest.raises(LockedError, match=r"works on .*demo;"):
        run_of(run / "data" / "coco", "me", patience_s=0).__enter__()


def test_a_link_to_a_folder_of_a_run_leads_to_the_runs_lock(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run / "teacher")
    with held("lock", run / LOCK), pytest.raises(LockedError, match="works on"):
        writing(tmp_path / "link", "me", patience_s=0).__enter__()


def test_a_record_with_signs_that_steer_a_terminal_is_shown_without_them(tmp_path: Path) -> None:
    with held("lock", tmp_path / LOCK):
        (tmp_path / LOCK).write_text(json.dumps({"pid": 1, "host": "h", "holder": "a\x1b[2Jb\nc"}))
        with pytest.raises(LockedError) as caught:
            lock(tmp_path / LOCK, "me", patience_s=0).__enter__()
    # Writing the record from here has not given up the other's lock, and what it says is one line.
    assert str(caught.value).startswith("process 1 on h (a?[2Jb?c) works on")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["/v/bin/python", "/v/bin/bottega", "teach", "--output-dir", "a b"], "bottega teach --output-dir 'a b'"),
        (["python", "-m", "bottega", "run", "r.yaml"], "bottega run r.yaml"),
        (["python", "mine.py"], "python mine.py"),
        (["bottega", "x" * 400], "bottega " + "x" * 151 + "…"),
    ],
)
def test_a_command_is_shown_as_a_person_gives_it(arguments: list[str], text: str) -> None:
    assert command_line(arguments) == text


def _writers(run: Path) -> dict[str, Sequence[str | Path]]:
    teacher = run / "teacher"
    limits = run / "limits.json"
    limits.write_text("{}")
    (run / "p.jsonl").touch()  # what is named must be there before anybody looks at a lock
    return {
        "qc grade": ["qc", "grade", "--teacher-dir", teacher, "--thresholds", limits, "--write"],
        "qc calibrate": ["qc", "calibrate", "--output-dir", run / "quality", "--teacher-dir", teacher],
        "teach": ["teach", "--pairs", run / "p.jsonl", "--data-root", run, "--output-dir", teacher],
        "features": ["features", "--teacher-dir", teacher, "--data-root", run, "--output-dir", run / "features"],
        "train style": ["train", "style", "--features-dir", run / "features", "--output-dir", run / "training"],
        "data folder": ["data", "folder", "--contents", run, "--data-root", run / "data"],
        "data coco": ["data", "coco", "--source", run, "--output-dir", run / "data" / "coco"],
        "data pairs": ["data", "pairs", "--output", run / "pairs" / "train.jsonl"],
    }


def test_no_verb_writes_into_a_run_that_another_process_works_on(run: Path) -> None:
    running: dict[str, subprocess.Popen[str]] = {}
    with held("lock", run / LOCK) as pid:
        for verb, arguments in _writers(run).items():  # all at once, for each waits a few seconds
            command = [sys.executable, "-m", "bottega", *map(str, arguments)]
            running[verb] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = {verb: process.communicate(timeout=300)[1] for verb, process in running.items()}
    assert {process.returncode for process in running.values()} == {2}, said
    expected = f"works on {run}; wait for it or stop it"
    assert [verb for verb in said if f"process {pid} on" not in said[verb] or expected not in said[verb]] == []


def test_two_commands_that_prepare_one_data_root_never_meet_in_its_index(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    (tmp_path / "mine").mkdir()
    random = np.random.default_rng(0)
    for number in range(150):
        noise = random.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "mine" / f"{number}.png")
    command = [sys.executable, "-m", "bottega", "data", "folder", "--contents", "mine", "--prompt", "a"]
    several = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in several:
        _, said = process.communicate(timeout=120)
        assert "database is locked" not in said
        assert process.returncode == 0 or "works on" in said
    assert len((tmp_path / "data" / "coco" / "contents.jsonl").read_text().splitlines()) == 150


def test_a_killed_writers_name_is_not_given_for_a_reader(tmp_path: Path) -> None:
    with held("writing", tmp_path) as killed:
        os.kill(killed, signal.SIGKILL)
        time.sleep(0.2)
    with held("reading", tmp_path):
        assert (tmp_path / LOCK).read_text() == ""


def _is_free(path: Path, *, shared: bool = False) -> bool:
    """Whether another process could take the lock now."""
    code = (
        "import fcntl, sys\n"
        "with open(sys.argv[1], 'r+') as stream:\n"
        "    try:\n"
        "        fcntl.lockf(stream, fcntl.LOCK_NB | (fcntl.LOCK_SH if sys.argv[2] else fcntl.LOCK_EX))\n"
        "    except OSError:\n"
        "        sys.exit(1)\n"
    )
    command = [sys.executable, "-c", code, str(path), "shared" if shared else ""]
    return subprocess.run(command, check=False).returncode == 0
