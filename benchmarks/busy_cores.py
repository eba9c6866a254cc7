"""Claim: beside one busy process a core, a training's steps take at most 2.5 times as long as alone.

python benchmarks/busy_cores.py [--full] [--json] [--steps N] [--turns N]

The recipe `circles_text_to_image` on the CPU, with nothing said of threads. A process is started and trains so many
steps, by turns:

    alone    nothing else works.
    beside   a process that only counts was started on each core before: three work for two cores, or nine for eight.
    peer     the same, with one thread a core, which is torch's own choice.

Each is a command of its own in a new folder, as a person starts it: the number of threads is what `bottega train ldm`
chooses. Compared are medians over all turns of the seconds of a step, without the first ones. A fair share of the
machine alone makes it up to 2 times as long: one of two processes on each core.

It measures nothing on a machine that has other work: the share of the processors that was busy before is reported, and
above a tenth nothing is claimed.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from common.bench import Arguments, bottega, conclude, say, start

from bottega.runtime.threads import RECORD, VARIABLE, busy_processors, processors

RECIPE = Path(__file__).parents[1] / "recipes" / "circles_text_to_image.yaml"
BAR = 2.5
IDLE = 0.1  # share of the processors that may be busy before
WARM_UP = 5  # steps that load code and fill caches
SETS = (
    "training.num_epochs=null",
    "data.num_samples=600",
    "validation.pictures=4",
    "validation.samples=0",
    "training.batch_size=32",
    "training.device=cpu",
)


def seconds_of_steps(folder: Path, steps: int, environment: dict[str, str]) -> list[float]:
    """Train in a new folder; the seconds of each step after the first ones."""
    sets = [*SETS, f"training.steps={steps}"]
    words = ["train", "ldm", "--config", str(RECIPE), "--output-dir", str(folder)]
    for text in sets:
        words += ["--set", text]
    bottega(*words, env=environment)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["seconds"] for row in rows[WARM_UP:]]


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many processes count within this block."""
    working = [start([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in working:
            process.kill()
            process.wait()


def main() -> int:
    """Measure and print."""
    arguments = Arguments(__doc__)
    arguments.add_size("--steps", short=40, full=150, help="of each training")
    arguments.add_size("--turns", short=2, full=5, help="of the three")
    asked = arguments.parse()
    cores = processors()
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    torchs_own = {**plain, VARIABLE: str(cores)}
    seconds: dict[str, list[float]] = {"alone": [], "beside": [], "peer": []}
    threads: dict[str, list[int]] = {"alone": [], "beside": []}
    busy_before: list[float] = []

    with tempfile.TemporaryDirectory(prefix="bottega-") as name:
        for turn in range(asked.turns):
            busy_before.append(busy_processors(2.0) / cores)
            folder = Path(name) / str(turn)
            say(f"turn {turn + 1} of {asked.turns}, {busy_before[-1]:.0%} of the processors busy before")
            seconds["alone"] += seconds_of_steps(folder / "alone", asked.steps, plain)
            with busy_cores(cores):
                seconds["beside"] += seconds_of_steps(folder / "beside", asked.steps, plain)
                seconds["peer"] += seconds_of_steps(folder / "peer", asked.steps, torchs_own)
            for kind, counts in threads.items():
                counts.append(json.loads((folder / kind / RECORD).read_text(encoding="utf-8"))["threads"])

    times = {kind: median(values) for kind, values in seconds.items()}
    ratio = times["beside"] / times["alone"]
    held = None if max(busy_before) > IDLE else ratio <= BAR
    result = {
        "held": held,
        "cores": cores,
        "busy_before": [round(share, 3) for share in busy_before],
        "seconds_a_step": {kind: round(value, 4) for kind, value in times.items()},
        "threads": threads,
        "ratio": round(ratio, 3),
        "ratio_of_peer": round(times["peer"] / times["alone"], 3),
    }
    lines = [f"{kind:<7} {value:.4f} s a step" for kind, value in times.items()]
    lines += [f"threads {threads}, {cores} cores; busy before: {', '.join(f'{share:.0%}' for share in busy_before)}"]
    lines += [f"beside / alone {ratio:.2f} (bar {BAR}); with one thread a core {times['peer'] / times['alone']:.2f}"]
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
