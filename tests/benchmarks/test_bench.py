"""What every benchmark shares: sizes, results, exit codes, and children that end with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("*.py"))
PARENT = """
import sys, time
from common.bench import start
print(start([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common import bench

    return bench


def test_the_default_form_is_short_and_full_asks_for_the_claims_sizes(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = bench.Arguments("a claim")
    arguments.add_size("--warm-up", short=2, full=10)
    for words, expected in (([], 2), (["--full"], 10), (["--full", "--warm-up", "3"], 3)):
        monkeypatch.setattr(sys, "argv", ["name", *words])
        assert arguments.parse().warm_up == expected
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(("held", "code", "word"), [(True, 0, "held"), (False, 1, "MISSED"), (None, 0, "too short")])
def test_the_exit_code_says_whether_the_claim_holds(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], held: bool | None, code: int, word: str
) -> None:
    asked = bench.argparse.Namespace(full=False, json=False, save=False)
    assert bench.conclude(asked, {"held": held}, ["a line"]) == code
    assert capsys.readouterr().out.splitlines()[0] == "a line"
    asked.json = True
    assert bench.conclude(asked, {"held": held}, []) == code
    kept = json.loads(capsys.readouterr().out)
    assert (kept["form"], kept["held"]) == ("short", held)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a process gets no signal when its parent ends")
def test_a_killed_benchmark_leaves_no_child_behind() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 10
    while alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(child)


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_benchmark_is_in_the_table_and_starts_no_child_that_could_outlive_it(script: Path) -> None:
    assert f"`{script.stem}`" in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    text = script.read_text(encoding="utf-8")
    assert re.search(r"\b(Arguments|run_experiment)\(__doc__", text), "its options are those of common.bench"
    assert "subprocess.run(" not in text
    assert "subprocess.Popen(" not in text
