"""Claim: a teacher killed at a hundred random moments and continued by the same command ends as one never stopped.

python benchmarks/teacher_killed.py [--full] [--json] [--kills N] [--seed 0] [--pairs N]

Each kill (SIGKILL) is aimed at what the process is doing: starting, encoding, the U-Net, decoding, judging, writing a
file, or entering rows in the ledger, each as often; the moment is a random time after the work began. After each, every
row of the ledger must have its picture, to the byte, and every picture must open. Where a run gets done, another is
begun. In the end each is compared to the byte with one that was never stopped: pictures, rejects, other tries, lists
and tables, and the ledger's rows without their times. The limits are set so that pictures are retried and rejected.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from common.bench import Arguments, conclude, run, say, start
from common.traced import PHASES
from common.world import World, draw
from killed_anywhere import contents, differing
from PIL import Image

AIMS = ("starting", *PHASES)
LONGEST = 2.0  # seconds of work before a kill
SETTINGS = {"size": 128, "steps": 5, "batch_size": 4, "max_retries": 2}
STRICT = {"edge_64_c": 0.55, "edge_64_a": 0.65}
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
"""For every run: a fork has no threads but its own, and equality to the bit holds for equally many threads."""

TRACED = Path(__file__).parent / "common" / "traced.py"


class Nursery:
    """Where processes begin: one that has imported the libraries forks for each, see `traced`."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks
        marks.write_bytes(bytes(len(PHASES)))
        command = [sys.executable, str(TRACED), str(marks)]
        self._log = marks.with_name("lives.log").open("w+b")
        self._process = start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0, env=ONE_THREAD
        )
        self._answers = b""
        self.answer(wait=True)

    def begin(self, words: list[str]) -> int:
        """Begin a process; its id."""
        assert self._process.stdin is not None
        self.marks.write_bytes(bytes(len(PHASES)))
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        return int(self.answer(wait=True) or 0)

    def answer(self, *, wait: bool = False) -> str | None:
        """The next line that it says; None where there is none yet."""
        assert self._process.stdout is not None
        while b"\n" not in self._answers:
            if not select.select([self._process.stdout], [], [], None if wait else 0)[0]:
                return None
            said = os.read(self._process.stdout.fileno(), 4096)
            if not said:
                raise RuntimeError(f"it ended: {self.said()}")
            self._answers += said
        line, _, self._answers = self._answers.partition(b"\n")
        return line.decode()

    def said(self) -> str:
        """The end of what the processes said on stderr."""
        self._log.seek(0)
        return self._log.read().decode()[-2000:]

    def end(self) -> None:
        """No more of them."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


class Life:
    """One process of the run in `directory`, from its start to its end or kill."""

    def __init__(self, words: list[str], nursery: Nursery) -> None:
        self.nursery, self.marks = nursery, nursery.marks
        self.begun, self.startup = time.monotonic(), 0.0
        self.pid = nursery.begin(words[3:])
        self.code: int | None = None

    def doing(self) -> list[str]:
        """The phases in hand."""
        return [phase for phase, count in zip(PHASES, self.marks.read_bytes(), strict=True) if count]

    def done(self) -> bool:
        """Whether it ended of itself; RuntimeError where it failed."""
        if self.code is None:
            answer = self.nursery.answer()
            self.code = int(answer) if answer is not None else None
        if self.code not in (None, 0):
            raise RuntimeError(f"the run failed with exit code {self.code}: {self.nursery.said()}")
        return self.code == 0

    def killed(self, aim: str, after: float) -> bool:
        """Kill it in the phase `aim`, `after` seconds after its first work (or its start); False if done before."""
        if aim == "starting":
            time.sleep(after)
        else:
            self._wait(lambda: bool(set(self.doing()) & {"encoding", "U-Net"}))
            self.startup = time.monotonic() - self.begun
            time.sleep(0 if self.done() else after)
            self._wait(lambda: aim in self.doing())
        if self.done():
            return False
        os.kill(self.pid, signal.SIGKILL)
        return int(self.nursery.answer(wait=True) or 0) == -signal.SIGKILL

    def _wait(self, reached: Any) -> None:
        while not reached() and not self.done():
            time.sleep(0.0005)


def unsound(directory: Path, scratch: Path) -> list[str]:
    """What a kill must not leave: a row without its very picture, a picture that doesn't open.

    The ledger is read in a copy: opening it would mend what the next process has to mend.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in directory.glob("ledger.sqlite*"):
        shutil.copy(file, scratch / file.name)
    rows: dict[str, str] = {}
    with closing(sqlite3.connect(scratch / "ledger.sqlite")) as database:
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'tries'").fetchone():
            query = "SELECT output_path, output_sha256 FROM tries WHERE current AND output_path IS NOT NULL"
            rows = dict(database.execute(query))
    faults = [f"{path}: not the picture of its row" for path in rows if sha256(directory / path) != rows[path]]
    for path in (p for p in directory.rglob("*.png") if not p.name.startswith(".")):
        if str(path.relative_to(directory)) not in rows:
            try:
                Image.open(path).load()
            except OSError as error:
                faults.append(f"{path.relative_to(directory)}: {error}")
    return faults


def sha256(path: Path) -> str | None:
    """Of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def soak(world: World, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The uninterrupted run, then kills until there are enough, then the end of every run."""
    rng = random.Random(options.seed)
    begun = time.monotonic()
    say("a run that is never stopped")
    run(world.teach(folder / "whole", SETTINGS), check=True, capture_output=True, env=ONE_THREAD)
    seconds, startup = time.monotonic() - begun, 0.0
    runs, kills, faults = [folder / "killed_0"], [], []
    nursery = Nursery(folder / "marks")
    while len(kills) < options.kills:
        aim = "starting" if startup and rng.random() < 1 / len(AIMS) else rng.choice(PHASES)
        after = rng.uniform(0, startup if aim == "starting" else LONGEST)
        life = Life(world.teach(runs[-1], SETTINGS), nursery)
        if not life.killed(aim, after):
            runs.append(folder / f"killed_{len(runs)}")
            continue
        lived = time.monotonic() - life.begun
        startup = life.startup or startup
        kills.append({"run": len(runs), "aim": aim, "after_s": round(lived, 2), "doing": life.doing() or ["starting"]})
        faults += [f"after kill {len(kills)}: {fault}" for fault in unsound(runs[-1], folder / "scratch")]
        say(f"kill {len(kills)} of {options.kills}: run {len(runs)}, {', '.join(kills[-1]['doing'])}")
    nursery.end()
    for directory in runs:
        say(f"{directory.name}: to its end")
        run(world.teach(directory, SETTINGS), check=True, capture_output=True, env=ONE_THREAD)
    expected = contents(folder / "whole")
    different = sorted({f"{d.name}/{name}" for d in runs for name in differing(expected, contents(d))})
    return {
        "seconds": round(seconds, 1),
        "whole": counted(folder / "whole"),
        "files": len(expected),
        "runs": len(runs),
        "kills": kills,
        "fell_on": dict(Counter(kill["aim"] for kill in kills)),
        "faults": faults,
        "different": different,
    }


def counted(directory: Path) -> dict[str, int]:
    """Pictures a folder, and rows."""
    folders = {name: len(list((directory / name).glob("*.png"))) for name in ("images", "rejected", "tries")}
    with closing(sqlite3.connect(directory / "ledger.sqlite")) as database:
        return {**folders, "rows": database.execute("SELECT COUNT(*) FROM tries").fetchone()[0]}


def main() -> int:
    """Kill, continue, compare, and return 1 where something is lost, doubled, torn or different."""
    arguments = Arguments(__doc__)
    arguments.add_size("--kills", short=8, full=100)
    arguments.add_size("--pairs", short=24, full=96, help="of the run that is killed")
    arguments.add_argument("--seed", type=int, default=0)
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("drawing the world")
        world = draw(folder / "world", pairs=asked.pairs, contents=64, paintings=72, truths=48)
        result = soak(world.with_limits(**STRICT), folder, asked)
    lines = [
        f"one run: {result['seconds']} s, {result['whole']}",
        f"{len(result['kills'])} kills in {result['runs']} runs: {result['fell_on']}",
    ]
    wrong = result["faults"] + result["different"]
    lines += wrong or [f"all {result['files']} files of every run are the same"]
    return conclude(asked, {**result, "held": not wrong}, lines)


if __name__ == "__main__":
    sys.exit(main())
