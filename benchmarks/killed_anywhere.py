"""Claim: runs killed at ten random moments and continued by the same command end as one that was never stopped.

python benchmarks/killed_anywhere.py [--full] [--json] [--kills 10] [--seed 0] [--recipe recipes/miniature_quick.yaml]

Compared to the byte: every picture, adapter, list and table; of the databases their rows. Times are left out. A kill
(SIGKILL) takes the process that was started and nothing else: what it started has to notice. Between two kills the run
goes on for a random time; once it is done, a new one is begun.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from common import bench
from common.bench import Arguments, conclude, say
from pyarrow import csv, parquet

TIMES = {"mtime", "seconds", "started", "finished", "time", "when", "created", "updated", "at", "rss", "machine", "pid"}
LEFT_OUT = {"index.sqlite", "provenance.json", "report.html", "stage.json", "run.lock", "hashes.jsonl"}  # times in all
STAGES = ("data/raw", "data", "pairs", "data/truth", "quality", "teacher", "features", "training", "evaluation")
EVENTS = "events.out.tfevents."  # TensorBoard's files have the time and the process in name and content
LONGEST = 0.45  # of a whole run's time, until the next kill


def main() -> int:
    """Kill, continue, compare, and return 1 where something is different."""
    arguments = Arguments(__doc__)
    arguments.add_size("--kills", short=2, full=10)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--recipe", type=Path, default=Path("recipes/miniature_quick.yaml"))
    asked = arguments.parse()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole"
        say("a run that is never stopped")
        began = time.monotonic()
        run(asked.recipe, whole).check_returncode()
        seconds = time.monotonic() - began
        kills: list[dict[str, Any]] = []
        stopped = [Path(folder) / "killed_0"]
        while len(kills) < asked.kills:
            after = rng.uniform(0.02, LONGEST) * seconds
            if not survives(asked.recipe, stopped[-1], after):
                kills.append({"run": len(stopped), "after_s": round(after, 1), "during": stage(stopped[-1])})
                say(f"kill {len(kills)} of {asked.kills}: run {len(stopped)}, during {kills[-1]['during']}")
            else:
                stopped.append(Path(folder) / f"killed_{len(stopped)}")
        stopped = [directory for directory in stopped if directory.is_dir()]
        for directory in stopped:
            say(f"{directory.name}: to its end")
            run(asked.recipe, directory).check_returncode()
        expected = contents(whole)
        different = sorted({name for directory in stopped for name in differing(expected, contents(directory))})
    result = {"seconds": round(seconds, 1), "files": len(expected), "kills": kills, "different": different}
    lines = different or [f"all {len(expected)} files of {len(stopped)} runs are the same"]
    return conclude(asked, {**result, "held": not different}, lines)


def command(recipe: Path, directory: Path) -> list[str]:
    return [sys.executable, "-m", "bottega", "run", str(recipe), "--directory", str(directory)]


def run(recipe: Path, directory: Path) -> subprocess.CompletedProcess[bytes]:
    return bench.run(command(recipe, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def survives(recipe: Path, directory: Path, seconds: float) -> bool:
    """Run or continue, and kill after `seconds`. Whether it was done before; RuntimeError if it failed of itself."""
    process = bench.start(command(recipe, directory), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if process.wait(seconds) != 0:
            raise RuntimeError(f"the run in {directory} failed with exit code {process.returncode}")
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return False
    return True


def stage(directory: Path) -> str:
    """The first stage that is not done."""
    return next((name for name in STAGES if not (directory / name / "stage.json").is_file()), "the report")


def differing(first: dict[str, str], second: dict[str, str]) -> set[str]:
    return {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}


def contents(directory: Path) -> dict[str, str]:
    """Digest of every result, by path."""
    digests: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        if path.is_file() and is_result(path.name):
            digests[str(path.relative_to(directory))] = hashlib.sha256(content(path)).hexdigest()
    return digests


def is_result(name: str) -> bool:
    """Whether a file is compared: none that tells times only, and none that a program writes beside its data."""
    if name in LEFT_OUT or name.startswith(EVENTS) or ".log" in name:
        return False
    return not name.endswith(("-wal", "-shm", ".lock"))


def content(path: Path) -> bytes:
    """A file's bytes without its times; of a database its rows."""
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as database:
            database.row_factory = sqlite3.Row
            tables = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            rows = {t: [timeless(dict(r)) for r in database.execute(f"SELECT * FROM {t}")] for t in sorted(tables)}
        return json.dumps({t: sorted(map(repr, r)) for t, r in rows.items()}).encode()
    if path.suffix in (".csv", ".parquet"):
        rows = csv.read_csv(path) if path.suffix == ".csv" else parquet.read_table(path)
        return json.dumps(timeless(rows.to_pylist()), default=repr).encode()
    if path.suffix == ".jsonl" or path.name == "prompt.json":  # Fill50K's is one of lines, too
        return "\n".join(json.dumps(timeless(json.loads(line)), sort_keys=True) for line in path.open()).encode()
    if path.suffix == ".json":
        return json.dumps(timeless(json.loads(path.read_text())), sort_keys=True).encode()
    return path.read_bytes()


def timeless(value: Any) -> Any:
    """Without what states when something was done, how long it took and how much memory."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if not TIMES & set(k.split("_"))}
    return [timeless(v) for v in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(main())
