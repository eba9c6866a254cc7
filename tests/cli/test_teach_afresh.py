"""A process that has grown too large ends in order, and a fresh one of the same command resumes by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bottega.cli.main import main
from bottega.pipeline import STAGES, Pipeline
from bottega.runtime.errors import StartAfresh
from bottega.teacher.ledger import Ledger

from ..teacher.conftest import SIZE, draw

_PROGRAM = """
import os, sys
from pathlib import Path
from bottega.cli.main import main
from bottega.runtime.memory import Creep
starts = Path(os.environ["STARTS"])
starts.write_text(starts.read_text() + f"{os.getpid()}\\n" if starts.exists() else f"{os.getpid()}\\n")
if len(starts.read_text().splitlines()) < 3:  # the first two processes have grown after their first chunk
    Creep.add = lambda self, rss: 2000.0
sys.exit(main(sys.argv[1:]))
"""


def test_teach_goes_on_in_a_fresh_process_until_all_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(tmp_path / "data")
    (tmp_path / "program.py").write_text(_PROGRAM)
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    words = ["teach", "--oracle", "--pairs", str(data.pairs), "--data-root", str(data.root), "--seeds", "0"]
    words += ["--output-dir", str(tmp_path / "out"), "--thresholds", str(data.thresholds)]
    words += ["--set", f"teacher.size={SIZE}", "--set", "models.device=cpu", "--batch-size", "2"]
    done = subprocess.run([sys.executable, str(tmp_path / "program.py"), *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("a fresh process resumes") == 2
    pids = (tmp_path / "starts").read_text().split()
    assert len(pids) == 3
    assert len(set(pids)) == 1  # the same process, with a new program in it: whoever waits for it still does
    with Ledger(tmp_path / "out/ledger.sqlite") as ledger:
        assert ledger.count() == 6
    assert main(words) == 0


def test_the_loop_starts_a_stage_again_that_has_grown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bottega.recipe import Recipe

    calls: list[list[str]] = []

    def child(words: list[str], what: str) -> None:
        calls.append(words)
        if len(calls) < 3:
            raise StartAfresh("memory rose")

    monkeypatch.setattr("bottega.pipeline.run_child", child)
    said: list[str] = []
    pipeline = Pipeline(Recipe(name="x"), tmp_path, say=said.append)
    teacher = next(stage for stage in STAGES if stage.name == "teacher")
    while not pipeline._ran_to_its_end(teacher):
        pass
    assert len(calls) == 3
    assert said == ["teacher: memory rose"] * 2
