"""Claim: memory grows by less than 20 MB while the teacher makes 3,000 pictures, after a warm-up of 1,000.

python benchmarks/teacher_memory.py [--full] [--json] [--pictures N] [--warm-up N] [--batch-size 8]

`bottega teach` on the miniature, judging, retries and ledger included, with a single U-Net call a try, so that it takes
minutes. Resident memory of the process and its children is sampled from outside; growth is the median of the last tenth
of the 3,000 minus the median of their first. The warm-up fills the caches, which are bounded. A run that gives way to a
fresh process on the way fails, for that would hide a leak.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from common.bench import Arguments, conclude, say, start
from common.world import World, draw

BAR = 20.0
EVERY = 0.25  # seconds
RETRIED = 0.006  # a single U-Net call changes a picture by 0.009 in the middle; below this it is tried again
SETTINGS = {"size": 128, "steps": 5, "strength": 0.2, "max_retries": 1}
CONTENTS, PAINTINGS = 800, 900  # more than any cache holds
POINTS = 20
AFRESH = "a fresh process goes on"  # what the run says when its memory has risen too far


def resident_mb(process: psutil.Process) -> float:
    """Of a process and all that it started."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # ended between the two calls
    return float(total) / 2**20


def made(output: Path) -> int:
    """Targets that have their picture."""
    folders = (output / name for name in ("images", "rejected"))
    return sum(entry.name.endswith(".png") for f in folders if f.is_dir() for entry in os.scandir(f))


def sampled(world: World, output: Path, settings: dict[str, Any]) -> tuple[list[tuple[int, float]], float]:
    """(pictures, MB) while it runs, until its last picture; and its minutes.

    Raises:
        RuntimeError: the run failed.
    """
    log = output.with_suffix(".log")
    begun = time.monotonic()
    with log.open("w") as stream:
        running = start(world.teach(output, settings), stdout=stream, stderr=stream)
        process, curve = psutil.Process(running.pid), []
        told = 0
        while running.poll() is None:
            try:
                curve.append((made(output), resident_mb(process)))
                if curve[-1][0] >= told + 100:
                    told = curve[-1][0]
                    say(f"{told:,} pictures, {curve[-1][1]:.0f} MB")
            except psutil.NoSuchProcess:
                break
            time.sleep(EVERY)
    if running.wait() != 0:
        raise RuntimeError(f"the run failed with exit code {running.returncode}: {log.read_text()[-2000:]}")
    last = curve[-1][0]
    return [point for point in curve if point[0] < last], (time.monotonic() - begun) / 60


def restarts(log: Path) -> int:
    """How often the run gave way to a fresh process: each hides what the one before had gathered."""
    return log.read_text(encoding="utf-8").count(AFRESH)


def between(curve: list[tuple[int, float]], first: float, last: float) -> float:
    """Median of the samples taken at these numbers of pictures.

    Raises:
        RuntimeError: there is none.
    """
    values = [mb for count, mb in curve if first <= count < last]
    if not values:
        raise RuntimeError(f"no sample between {first:.0f} and {last:.0f} pictures; ask for more pictures")
    return median(values)


def main() -> int:
    """Measure, print the curve, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--pictures", short=240, full=3000)
    arguments.add_size("--warm-up", short=160, full=1000, help="pictures")
    arguments.add_argument("--batch-size", type=int, default=8)
    asked = arguments.parse()
    total = asked.warm_up + asked.pictures
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("drawing the world")
        world = draw(folder / "world", pairs=total, contents=min(CONTENTS, total), paintings=PAINTINGS, truths=32)
        world = world.with_limits(change_min=RETRIED)
        say(f"{total:,} pictures")
        curve, minutes = sampled(world, folder / "teacher", {**SETTINGS, "batch_size": asked.batch_size})
        afresh = restarts(folder / "teacher.log")
    tenth = max(asked.pictures / 10, 2 * asked.batch_size)
    first = between(curve, asked.warm_up, asked.warm_up + tenth)
    last = between(curve, total - tenth, total)
    edges = [total * i / POINTS for i in range(POINTS + 1)]
    counted = [(a, [mb for count, mb in curve if a <= count < b]) for a, b in pairwise(edges)]
    points = {round(a): round(median(values), 1) for a, values in counted if values}
    growth = last - first
    result = {
        "claim": {"pictures": asked.pictures, "megabytes": BAR},
        "run_minutes": round(minutes, 1),
        "batch_size": asked.batch_size,
        "curve_mb": points,
        "growth_mb": round(growth, 1),
        "restarts": afresh,
        "held": growth < BAR and afresh == 0,
    }
    lines = [f"claim: less than {BAR:g} MB over {asked.pictures:,} pictures; {minutes:.1f} minutes"]
    lines += [f"{count:6} pictures {megabytes:8.1f} MB" for count, megabytes in points.items()]
    lines.append(f"from {first:.1f} to {last:.1f}: {growth:+.1f} MB, {afresh} fresh processes")
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
