"""Claim: a teacher killed at a hundred random moments and continued by the same command ends as one never stopped.

python benchmarks/teacher_killed.py [--json] [--kills 100] [--seed 0] [--pairs 96]

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
import random
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

from common.traced import PHASES
from common.world import World, draw
from killed_anywhere import contents, differing
from PIL import Image

AIMS = ("starting", *PHASES)
LONGEST = 2.0  # seconds of work before a kill
SETTINGS = {"size": 128, "steps": 5, "batch_size": 4, "max_retries": 2}
STRICT = {"edge_64_c": 0.55, "edge_64_a": 0.65}
TRACED = Path(__file__).parent / "common" / "traced.py"


class Life:
    """One process of the run in `directory`, from its start to its end or kill."""

    def __init__(self, words: list[str], marks: Path) -> None:
        marks.write_bytes(bytes(len(PHASES)))
        self.marks = marks
        traced = [sys.executable, str(TRACED), str(marks), *words[3:]]
        self.process = subprocess.Popen(traced, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.begun, self.startup = time.monotonic(), 0.0

    def doing(self) -> list[str]:
        """The phases in hand."""
        return [phase for phase, count in zip(PHASES, self.marks.read_bytes(), strict=True) if count]

    def done(self) -> bool:
        """Whether it ended of itself; RuntimeError where it failed."""
        if self.process.poll() is None:
            return False
        if self.process.returncode != 0:
            said = self.process.stderr.read().decode() if self.process.stderr else ""
            raise RuntimeError(f"the run failed with exit code {self.process.returncode}: {said[-2000:]}")
        return True

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
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        return True

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
    subprocess.run(world.teach(folder / "whole", SETTINGS), check=True, capture_output=True)
    seconds, startup = time.monotonic() - begun, 0.0
    runs, kills, faults = [folder / "killed_0"], [], []
    while len(kills) < options.kills:
        aim = "starting" if startup and rng.random() < 1 / len(AIMS) else rng.choice(PHASES)
        after = rng.uniform(0, startup if aim == "starting" else LONGEST)
        life = Life(world.teach(runs[-1], SETTINGS), folder / "marks")
        if not life.killed(aim, after):
            runs.append(folder / f"killed_{len(runs)}")
            continue
        lived = time.monotonic() - life.begun
        startup = life.startup or startup
        kills.append({"run": len(runs), "aim": aim, "after_s": round(lived, 2), "doing": life.doing() or ["starting"]})
        faults += [f"after kill {len(kills)}: {fault}" for fault in unsound(runs[-1], folder / "scratch")]
        print(f"kill {len(kills)}: run {len(runs)}, {', '.join(kills[-1]['doing'])}", file=sys.stderr)
    for directory in runs:
        subprocess.run(world.teach(directory, SETTINGS), check=True, capture_output=True)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=96)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        world = draw(folder / "world", pairs=options.pairs, contents=64, paintings=72, truths=48)
        result = soak(world.with_limits(**STRICT), folder, options)
    held = not result["faults"] and not result["different"]
    if options.json:
        print(json.dumps({**result, "held": held}, indent=2))
        return 0 if held else 1
    print(f"one run: {result['seconds']} s, {result['whole']}")
    print(f"{len(result['kills'])} kills in {result['runs']} runs: {result['fell_on']}")
    print("\n".join(result["faults"] + result["different"]) or f"all {result['files']} files of every run are the same")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
