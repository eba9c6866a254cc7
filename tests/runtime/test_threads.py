"""With how many threads a run computes: what is free, what was recorded, what the environment says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bottega.runtime import threads
from bottega.runtime.errors import StorageError
from bottega.runtime.threads import RECORD, VARIABLE, busy_processors, processors, settle_threads


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment does not say how many threads to use, and gets back what it said."""
    monkeypatch.setenv(VARIABLE, "unset by the test")  # so that it is put back whatever the code sets
    monkeypatch.delenv(VARIABLE)
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)


def machine(monkeypatch: pytest.MonkeyPatch, own: int, busy: float) -> None:
    monkeypatch.setattr(threads, "processors", lambda: own)
    monkeypatch.setattr(threads, "busy_processors", lambda: busy)


@pytest.mark.parametrize(
    ("own", "busy", "count"),
    [(2, 0.0, 2), (2, 0.2, 2), (2, 1.0, 1), (2, 2.0, 1), (8, 4.1, 4), (8, 8.0, 1), (1, 0.0, 1), (64, 0.5, 63)],
)
def test_the_number_follows_what_is_free(
    own: int, busy: float, count: int, nothing_said: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, own, busy)
    chosen = settle_threads(tmp_path)
    assert chosen.count == count
    assert chosen.worth_saying
    assert f"{busy:.1f} of them busy with other work" in str(chosen) and f"{VARIABLE}=N" in str(chosen)
    assert os.environ[VARIABLE] == str(count)  # what child processes inherit
    assert json.loads((tmp_path / RECORD).read_text())["threads"] == count


def test_a_resumed_run_takes_the_recorded_number_whatever_is_free(
    nothing_said: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 8, 0.0)
    settle_threads(tmp_path)
    monkeypatch.delenv(VARIABLE)
    machine(monkeypatch, 8, 7.0)
    again = settle_threads(tmp_path)
    assert (again.count, again.worth_saying) == (8, False)


def test_a_run_of_an_earlier_version_goes_on_with_the_number_of_its_stages(
    nothing_said: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 8, 0.0)
    assert settle_threads(tmp_path, before=3).count == 3
    assert json.loads((tmp_path / RECORD).read_text())["threads"] == 3


def test_the_environment_goes_first_and_a_change_within_a_run_is_told(
    nothing_said: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "4")
    first = settle_threads(tmp_path)
    assert (first.count, first.worth_saying) == (4, False)
    monkeypatch.setenv(VARIABLE, "2")
    changed = settle_threads(tmp_path)
    assert changed.worth_saying
    assert str(changed).startswith("computing with 2 threads (OMP_NUM_THREADS says so), begun with 4: sums are rounded")
    assert "OMP_NUM_THREADS=4 goes on as before" in str(changed)
    assert settle_threads(tmp_path).worth_saying is False


@pytest.mark.parametrize("content", ["{}", '{"threads": 0}', '{"threads": "2"}', "[]", '{"threads": tr'])
def test_a_damaged_record_is_refused(content: str, nothing_said: None, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(StorageError, match=r"threads\.json"):
        settle_threads(tmp_path)


def test_a_process_that_works_is_seen_as_a_busy_processor() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as working:
        try:
            assert busy_processors(1.0) > 0.5
        finally:
            working.kill()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_processors_are_those_that_the_process_may_use() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from bottega.runtime.threads import processors; print(processors())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(("limit", "count"), [("150000 100000", 1), ("200000 100000", 2), ("20000 100000", 1)])
def test_a_quota_of_the_control_group_counts(
    limit: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    monkeypatch.setattr(threads, "_QUOTA_V2", tmp_path / "cpu.max")
    monkeypatch.setattr(threads, "_allowed", lambda: list(range(16)))
    assert processors() == count
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert processors() == 16
