"""Several processes that make chunks: the same pictures and rows as one, whatever stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bottega.models.config import ModelsConfig
from bottega.models.workers import Workers
from bottega.runtime.errors import StartAfresh, WorkError
from bottega.teacher.config import TeacherConfig
from bottega.teacher.ledger import Ledger
from bottega.teacher.making import ChunkMaker
from bottega.teacher.models import TeacherModels
from bottega.teacher.sharing import make_shared, share_chunks
from bottega.teacher.work import Chunk, PairLists, PendingTarget, chunks

from .conftest import LIMITS, SIZE, DataSet, draw
from .test_runner import pictures, rows

_PROGRAM = """
import logging, sys
from pathlib import Path
from bottega.models.config import ModelsConfig
from bottega.runtime.logs import set_up_logging
from bottega.teacher.config import TeacherConfig
from bottega.teacher.stage import run

if __name__ == "__main__":
    set_up_logging(logging.WARNING)
    root, directory, weights = map(Path, sys.argv[1:])
    config = TeacherConfig(size=64, steps=4, strength=0.5, batch_size=2, seeds=(0, 1), sheet_after=2, max_retries=1)
    models = ModelsConfig(sdxl=str(weights / "sdxl"), ip_adapter=str(weights / "ip_adapter"), device="cpu")
    where = {"pairs": root / "train.jsonl", "data_root": root, "thresholds": root / "thresholds.json"}
    print("ready", flush=True)
    run(config, directory, models=models, **where)
"""


@pytest.fixture(scope="module")
def broken_data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    """The data set, with one content that is no picture."""
    data = draw(tmp_path_factory.mktemp("broken"))
    (data.root / data.rows[3]["content_path"]).write_bytes(b"no picture")
    return data


@dataclass(frozen=True)
class Command:
    """A run of SDXL in a process of its own."""

    program: Path
    data: DataSet
    weights: Path

    def start(self, folder: Path, threads: int) -> subprocess.Popen[str]:
        words = [sys.executable, self.program, self.data.root, folder, self.weights]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def finish(self, folder: Path, threads: int) -> str:
        """What a run wrote to standard error; it must succeed."""
        process = self.start(folder, threads)
        _, text = process.communicate()
        assert process.returncode == 0, text
        return text

    def stop(self, folder: Path, signum: int) -> tuple[int, str]:
        """Begin a run of two processes, and stop it as soon as a picture is there: its exit code and what it wrote.

        None of its processes may be left.
        """
        process = self.start(folder, 2)
        while process.poll() is None and not list(folder.glob("*/*.png")):
            time.sleep(0.005)
        workers = _workers(process.pid)
        process.send_signal(signum)
        _, text = process.communicate()
        assert len(workers) == 2, text
        _wait_for_the_end(workers)
        return process.returncode, text


@pytest.fixture(scope="module")
def command(broken_data: DataSet, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    program = tmp_path_factory.mktemp("program") / "program.py"  # a file: worker processes import their main module
    program.write_text(_PROGRAM)
    return Command(program, broken_data, tiny_models)


@pytest.fixture(scope="module")
def alone(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    command.finish(folder, 1)
    return folder


def test_two_processes_make_what_one_makes_and_resume_after_a_kill(
    command: Command, alone: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    command.stop(killed, signal.SIGKILL)
    text = command.finish(killed, 2)
    assert pictures(killed) == pictures(alone)
    assert rows(killed) == rows(alone)
    # What a worker warns of looks as what the command warns of.
    broken = command.data.rows[3]
    with Ledger(killed / "ledger.sqlite") as ledger:
        assert {row.status for row in ledger.best() if row.pair_id == broken["pair_id"]} == {"broken"}
    warned = [line for line in text.splitlines() if broken["content_id"] in line]
    assert warned and all(line.startswith("bottega: warning: ") for line in warned)
    # A third call has nothing to do, and begins no process.
    process = command.start(killed, 2)
    seen: set[int] = set()
    while process.poll() is None:
        seen.update(_workers(process.pid))
        time.sleep(0.005)
    process.communicate()
    assert process.returncode == 0 and not seen


def test_ctrl_c_leaves_no_process_and_the_same_command_resumes(command: Command, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, text = command.stop(folder, signal.SIGINT)
    assert code != 0 and "Interrupted" in text
    assert 0 < len(rows(folder)) < len(rows(alone))
    command.finish(folder, 2)
    assert rows(folder) == rows(alone) and pictures(folder) == pictures(alone)


def test_drawn_truths_are_read_by_one_process(data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    config = TeacherConfig(source="oracle", size=SIZE)
    assert share_chunks(_maker(config, data, tmp_path)) is None


class _Growing(ChunkMaker):
    """Makes nothing, and is too large from the second chunk on."""

    def make(self, chunk: Chunk) -> list:
        self.memory.check_memory = _too_large  # type: ignore[method-assign]
        return []


def _too_large(made: int) -> None:
    raise StartAfresh("rose")


class _Killed(ChunkMaker):
    def make(self, chunk: Chunk) -> list:
        os.kill(os.getpid(), signal.SIGKILL)
        return []


def test_a_worker_that_grows_asks_for_a_fresh_process_once_its_rows_are_handed_over(
    data: DataSet, tmp_path: Path
) -> None:
    made = 0
    with pytest.raises(StartAfresh, match="rose"):
        for _ in make_shared(_maker(_config(), data, tmp_path, _Growing), Workers(1, 1), _chunks(data)):
            made += 1
    assert made == 1


def test_a_killed_worker_is_told_with_its_cure(data: DataSet, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="OMP_NUM_THREADS=1"):
        list(make_shared(_maker(_config(), data, tmp_path, _Killed), Workers(2, 1), _chunks(data)))


def _config() -> TeacherConfig:
    return TeacherConfig(source="oracle", size=SIZE, batch_size=2)


def _maker(config: TeacherConfig, data: DataSet, folder: Path, kind: type[ChunkMaker] = ChunkMaker) -> ChunkMaker:
    models = TeacherModels(config, data.root, ModelsConfig())
    return kind(config, folder / "ledger.sqlite", data.root, models, LIMITS, "f")


def _chunks(data: DataSet) -> list[Chunk]:
    found: list[Chunk] = []
    for work in chunks(PairLists([data.pairs]).openers(), [0], 2):
        found.append(Chunk([PendingTarget(one, "c", "s") for one in work], 0))
    return found


def _workers(parent: int) -> list[int]:
    """The processes that make chunks; Python's resource tracker is none."""
    found: list[int] = []
    try:
        for child in psutil.Process(parent).children(recursive=True):
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child.pid)
    except psutil.NoSuchProcess:
        pass
    return found


def _wait_for_the_end(processes: list[int]) -> None:
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(one) for one in processes):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.05)
