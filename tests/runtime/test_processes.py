"""Locks, interruption and child processes, with real processes and real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from bottega.runtime.children import run_child
from bottega.runtime.errors import Interrupted, LockedError, RequestError
from bottega.runtime.interrupt import Interruption
from bottega.runtime.locks import device_lock, lock

HOLD = """
import sys, time
from pathlib import Path
from bottega.runtime.locks import lock
with lock(Path(sys.argv[1]), "run demo"):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_is_refused_and_names_its_holder(tmp_path: Path) -> None:
    with _holder(tmp_path / "run" / ".lock") as process:
        try:
            told = rf"process {process.pid} on .* \(run demo: .*, since .*\) works on .*run"
            with pytest.raises(LockedError, match=told), lock(tmp_path / "run" / ".lock", "other", patience_s=0.2):
                pass
        finally:
            process.kill()


def test_a_lock_whose_holder_was_killed_is_free(tmp_path: Path) -> None:
    with _holder(tmp_path / ".lock") as process:
        process.kill()
        process.wait()
    with lock(tmp_path / ".lock", "next", patience_s=0.2):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


def test_a_waiting_lock_gets_in_when_the_holder_dies(tmp_path: Path) -> None:
    with _holder(tmp_path / ".lock") as process:
        threading.Timer(0.3, process.kill).start()
        with lock(tmp_path / ".lock", "patient", patience_s=20):
            pass


def test_a_lock_says_nothing_of_its_holder_once_it_is_given_up(tmp_path: Path) -> None:
    with lock(tmp_path / ".lock", "me"):
        pass
    assert (tmp_path / ".lock").read_text() == ""


def test_a_lock_that_is_a_link_is_refused_and_the_file_it_leads_to_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("not bottega's")
    (tmp_path / ".lock").symlink_to(mine)
    with pytest.raises(RequestError, match=r"\.lock, a symbolic link to .*mine\.txt; delete the link"):
        lock(tmp_path / ".lock", "me").__enter__()
    assert mine.read_text() == "not bottega's"
    assert (tmp_path / ".lock").is_symlink()


def test_a_lock_that_is_no_ordinary_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / ".lock")
    with pytest.raises(RequestError, match="a lock is an ordinary file"):
        lock(tmp_path / ".lock", "me").__enter__()


def test_a_lock_that_is_a_second_name_of_a_file_is_refused_and_the_file_stays(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("thesis")
    os.link(mine, tmp_path / ".lock")
    with pytest.raises(RequestError, match="an ordinary file with one name"):
        lock(tmp_path / ".lock", "me").__enter__()
    assert mine.read_text() == "thesis"


def test_a_file_that_another_process_locks_is_not_changed(tmp_path: Path) -> None:
    with _holder(tmp_path / ".lock"):
        record = (tmp_path / ".lock").read_text()
        with pytest.raises(LockedError):
            lock(tmp_path / ".lock", "me", patience_s=0.0).__enter__()
        assert (tmp_path / ".lock").read_text() == record


def test_the_cpu_needs_no_device_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with device_lock("cpu", "x"), device_lock("cpu", "y"):
        assert list(tmp_path.iterdir()) == []
    with device_lock("cuda:0", "x"):
        assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_item_in_hand_be_finished(signum: int, code: int) -> None:
    finished = []
    with pytest.raises(Interrupted) as caught, Interruption(quiet=True) as interruption:
        for item in range(3):
            os.kill(os.getpid(), signum)
            finished.append(item)
            interruption.check()
    assert finished == [0]
    assert caught.value.exit_code == code


def test_a_signal_nobody_checked_for_is_not_lost() -> None:
    with pytest.raises(Interrupted), Interruption(quiet=True):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_second_ctrl_c_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), Interruption(quiet=True):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(("quiet", "lines"), [(False, 1), (True, 0)])
def test_a_person_is_told_once_that_the_item_in_hand_is_being_finished(
    quiet: bool, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Interrupted), Interruption(quiet=quiet):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert capsys.readouterr().err.count("finishing the item in hand") == lines


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_interruption_does_nothing() -> None:
    result: list[bool] = []

    def work() -> None:
        with Interruption() as interruption:
            result.append(interruption.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [False]


CHILD = """
import os, signal, sys, threading, time
from bottega.runtime.children import attached
if sys.argv[1] == "sleep":
    helper = os.fork()
    if helper == 0:
        time.sleep(60)
    with attached(int(sys.argv[2]), lambda error: (str(error), 1)):
        print(os.getpid(), helper, flush=True)
        time.sleep(60)
"""
PARENT = """
import socket, subprocess, sys
ours, theirs = socket.socketpair()
command = [sys.executable, "-c", sys.argv[1], "sleep", str(theirs.fileno())]
subprocess.Popen(command, pass_fds=[theirs.fileno()], process_group=0).wait()
"""


def test_a_child_and_its_workers_die_with_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(word) for word in parent.stdout.readline().split()]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    _wait_until_gone(pids)


WORK = """
import os, sys, time
from bottega.runtime.children import die_with_parent, worker_pool

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)

if __name__ == "__main__":
    pool = worker_pool(2, forked=sys.argv[1] == "forked")
    jobs = [pool.submit(work, number) for number in range(2)]
    jobs[0].result()
"""
WATCH = """
import os, subprocess, sys, time
from bottega.runtime.children import die_with_parent
if len(sys.argv) > 1:
    die_with_parent()
    os.write(1, f"{os.getpid()}\\n".encode())
    time.sleep(60)
subprocess.run([sys.executable, sys.argv[0], "child"])
"""


@pytest.mark.parametrize(("code", "argument", "count"), [(WORK, "spawned", 2), (WORK, "forked", 2), (WATCH, None, 1)])
def test_no_worker_outlives_a_killed_parent_and_none_keeps_its_pipe_open(
    code: str, argument: str | None, count: int, tmp_path: Path
) -> None:
    script = tmp_path / "parent.py"
    script.write_text(code)
    command = [sys.executable, str(script)] + ([argument] if argument else [])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = [int(parent.stdout.readline()) for _ in range(count)]
        parent.kill()
        parent.wait()
        began = time.monotonic()
        assert parent.stdout.read() == ""  # returns when nobody holds the other end
        assert time.monotonic() - began < 20
    _wait_until_gone(pids)


def test_pools_of_processes_are_begun_in_one_place() -> None:
    sources = Path(__file__).resolve().parents[2] / "src" / "bottega"
    found = [path.name for path in sources.rglob("*.py") if "ProcessPoolExecutor(" in path.read_text()]
    assert found == ["children.py"]


def test_a_childs_error_comes_back_in_its_own_words_and_one_without_words_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"^the report: .*recipe\.yaml"):
        run_child(["stage", "report", str(tmp_path)], "the report")
    with pytest.raises(RequestError, match=r"^the report: it ended without saying why; run it again with --debug$"):
        run_child(["stage", "report", str(tmp_path), "--no-such-option"], "the report")


def _wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, pids))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
