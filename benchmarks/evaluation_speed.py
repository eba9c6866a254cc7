"""Claim: an evaluation of the miniature takes at most half the time that it took before its work was shared and cut.

python benchmarks/evaluation_speed.py [--full] [--json] [--threads N] [--baseline COMMIT_OR_FOLDER]

The peer is bottega itself at the commit before: its sources are taken out of git, or are in a folder. Both evaluate the
same adapter on the same pairs with as many threads as the machine has processors, in turn, each from nothing: student,
base and oracle are drawn and eight rows are measured. Stated are the time on the clock, which the bar is held against,
the processors' seconds, which other work on the machine hardly moves, and the largest difference of any score.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from common import bench
from common.bench import Arguments, conclude, run, say

from bottega.runtime.threads import processors

ROOT = Path(__file__).parents[1]
BEFORE = "be544c7"
BAR = 0.5
LARGEST = 0.01
"""Of a mean, in the metric's unit: what pictures that differ by rounding here and there may move."""


@dataclass(frozen=True)
class Cost:
    """What an evaluation took: seconds on the clock and of all processors."""

    clock: float
    processors: float


def make_run(source: Path, folder: Path, contents: int, styles: int) -> None:
    """A run up to its adapter, which is trained for a few steps: how good it is does not matter here.

    Made by the sources of before, whose recipe both know.
    """
    settings = {
        "world.contents": 60,
        "world.contents_val": 3 * contents + 8,
        "world.painters": 16 + 4 * styles,
        "world.fill50k": 16,
        "pairs.train": 16,
        "pairs.val": 4,
        "pairs.crossed": f"[{contents}, {styles}]",
        "truth.calibration_pairs": 16,
        "quality.sample": 16,
        "features.fill50k": 16,
        "student.loop.steps": 10,
        "student.loop.warmup_steps": 2,
        "student.loop.checkpoint_every": 10,
        "student.loop.validate_every": 10,
    }
    recipe = source.parent / "recipes" / "miniature.yaml"
    words = ["-m", "bottega", "run", str(recipe), "--until", "student", "--directory", str(folder)]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    run([sys.executable, *words], env={**os.environ, "PYTHONPATH": str(source)}).check_returncode()


def sources_of(baseline: str, folder: Path) -> Path:
    """The `src` folder of a commit, or of a folder that holds one."""
    if Path(baseline).is_dir():
        return Path(baseline) / "src"
    archive = folder / "before.tar"
    bench.run(["git", "archive", "--output", str(archive), baseline, "src", "recipes"], cwd=ROOT).check_returncode()
    shutil.unpack_archive(archive, folder / "before", filter="data")
    return folder / "before" / "src"


def evaluate(source: Path, directory: Path, output: Path, threads: int) -> Cost:
    """Evaluate a run by the sources in a folder, from nothing."""
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, "-m", "bottega", "evaluate", str(directory), "--output", str(output)]
    used = _ProcessorSeconds()
    begun = time.monotonic()
    with used:
        done = run(words, env=environment, capture_output=True, text=True)
    clock = time.monotonic() - begun
    if done.returncode:
        raise SystemExit(f"the evaluation by {source} failed:\n{done.stderr[-2000:]}")
    return Cost(round(clock, 1), round(used.total, 1))


class _ProcessorSeconds:
    """What all processes below this one use within the block; looked at every fifth of a second, for those that a
    server forks are nobody's children who would count them."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    @property
    def total(self) -> float:
        """Seconds of all processors."""
        return sum(self._seen.values())

    def __enter__(self) -> None:
        self._watch.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(0.2):
            for process in psutil.Process().children(recursive=True):
                try:
                    times = process.cpu_times()
                    self._seen[process.pid, process.create_time()] = times.user + times.system
                except psutil.Error:
                    continue  # it has just ended


def largest_gap(first: Path, second: Path) -> tuple[float, str]:
    """The largest difference of two evaluations' means, and where it is; only of what both measured."""
    one = json.loads((first / "summary.json").read_text(encoding="utf-8"))["rows"]
    two = json.loads((second / "summary.json").read_text(encoding="utf-8"))["rows"]
    found = (0.0, "nowhere")
    for row, of_row in one.items():
        for metric, cell in of_row["metrics"].items():
            other = two.get(row, {}).get("metrics", {}).get(metric, {})
            if "value" in cell and "value" in other:
                found = max(found, (abs(cell["value"] - other["value"]), f"{row}, {metric}"))
    return found


def main() -> int:
    """Make a run, evaluate it by both, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--contents", short=8, full=20, help="of the test pairs")
    arguments.add_size("--styles", short=16, full=24, help="of the test pairs")
    arguments.add_argument("--threads", type=int, default=processors(), help="of either  [default: processors]")
    arguments.add_argument("--baseline", default=BEFORE, help=f"commit, or folder with src  [default: {BEFORE}]")
    arguments.add_argument("--run", type=Path, help="a run that has an adapter  [default: one is made]")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory(prefix="bottega-bench-") as made:
        folder = Path(made)
        directory = asked.run or folder / "run"
        before = sources_of(asked.baseline, folder)
        if asked.run is None:
            say("making a run with an adapter")
            make_run(before, directory, asked.contents, asked.styles)
        say(f"evaluating as before ({asked.baseline})")
        theirs = evaluate(before, directory, folder / "theirs", asked.threads)
        say(f"{theirs.clock} s, {theirs.processors} s of the processors; evaluating as now")
        ours = evaluate(ROOT / "src", directory, folder / "ours", asked.threads)
        gap, where = largest_gap(folder / "theirs", folder / "ours")
        pairs = json.loads((folder / "ours" / "summary.json").read_text(encoding="utf-8"))["pairs"]
    ratio = ours.clock / theirs.clock
    held = ratio <= BAR and gap <= LARGEST
    result = {
        "claim": {"ratio": BAR, "largest_difference_of_a_mean": LARGEST},
        "pairs": pairs,
        "threads": asked.threads,
        "own": asdict(ours),
        "peer": asdict(theirs),
        "ratio": round(ratio, 3),
        "ratio_of_processors": round(ours.processors / theirs.processors, 3),
        "largest_difference": {"value": gap, "where": where},
        "held": held,
    }
    lines = [
        f"claim: an evaluation takes at most {BAR} of the time that it took at {asked.baseline}, with the same scores",
        f"own   {ours.clock:7.1f} s on the clock, {ours.processors:7.1f} s of the processors; {pairs} pairs",
        f"peer  {theirs.clock:7.1f} s on the clock, {theirs.processors:7.1f} s of the processors",
        f"ratio {ratio:.2f} on the clock, {result['ratio_of_processors']:.2f} of the processors",
        f"largest difference of a mean: {gap:.2g} ({where}); at most {LARGEST}",
    ]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
