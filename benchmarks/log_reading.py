"""Claim: a log of ten million plain lines is read and judged in 65 % of the processor's time that a script with a
regular expression takes, in memory that does not grow with the log.

python benchmarks/log_reading.py [--full] [--json] [--lines N]

Three logs: every line has a loss, in the words of bottega's own train.log; the same as a progress bar with carriage
returns; one line in a hundred has one. The claim is on CPU seconds, each in a process of its own, as the median of
turns; the bar, whose lines are twice as long, is measured without a limit. The peer is what scripts do: a regular
expression on each line, and a list of all losses. In the hour of the first measurement 65 % stood for 10 s.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from common.bench import Arguments, conclude, in_own_process, say, verdict

RATIO, GROWTH_MB = 0.65, 8.0
FORMS = {
    "every line": "step {i}/{n} Loss: {v:.4f} lr 1.00e-03 grad 0.52 0.09 s 900 MB\n",
    "a bar": "\rSteps:  12%|█▏        | {i}/{n} [02:12<16:30,  1.12it/s, lr=1e-5, step_loss={v:.4f}]",
    "one in a hundred": "",
}


def write_log(path: Path, form: str, lines: int) -> None:
    """A log whose loss falls, noisily, to its end."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for i in range(1, lines + 1):
            if form != "one in a hundred" or i % 100 == 0:
                value = (0.05 + 50_000 / (i + 100_000)) * rng.lognormvariate(0, 0.5)
                stream.write((FORMS[form] or FORMS["every line"]).format(i=i, n=lines, v=value))
            else:
                stream.write(f"INFO data loader: worker {i % 8} fetched batch {i}\n")


def own(path: Path) -> int:
    """bottega's reader and its verdict."""
    from bottega.doctor import examine

    verdict = examine(path)
    assert verdict.state in ("falling", "falling slowly", "plateaued"), verdict.state
    return round(verdict.progress.step)


def peer(path: Path) -> int:
    """A regular expression on each line."""
    import re

    pattern = re.compile(r"step (\d+)/|\| (\d+)/|[Ll]oss[:=] ?([\d.]+)")
    steps: list[int] = []
    losses: list[float] = []
    with path.open(encoding="utf-8", newline=None) as stream:
        for line in stream:
            for step, bar, loss in pattern.findall(line):
                if loss:
                    losses.append(float(loss))
                else:
                    steps.append(int(step or bar))
    return steps[-1]


def measured(method: str, path: Path) -> dict[str, float]:
    """CPU seconds and peak memory of one method, in a process of its own, imports left out of the seconds."""
    answer: dict[str, float] = in_own_process(__file__, "--method", method, "--log", str(path))
    say(f"{method}: {answer['seconds']:.1f} s of CPU")
    return answer


def once(method: str, path: Path) -> dict[str, float]:
    """What `measured` starts."""
    import bottega.doctor.verdict

    assert bottega.doctor.verdict
    begun, wall = time.process_time(), time.perf_counter()
    last = {"own": own, "peer": peer}[method](path)
    took = {"seconds": time.process_time() - begun, "wall_seconds": time.perf_counter() - wall, "last_step": last}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024**2 if sys.platform == "darwin" else 1024)
    return {**took, "megabytes": peak}


def compared(folder: Path, form: str, asked: argparse.Namespace) -> dict[str, Any]:
    """Both on a log of one form, by turns, and ours on a tenth of it."""
    path = folder / "train.log"
    write_log(path, form, asked.lines // 10)
    tenth = measured("own", path)
    write_log(path, form, asked.lines)
    runs: dict[str, list[dict[str, float]]] = {"own": [], "peer": []}
    for _ in range(asked.repeats):
        for method, made in runs.items():
            made.append(measured(method, path))
    found: dict[str, Any] = {
        name: {key: median(run[key] for run in made) for key in made[0]} for name, made in runs.items()
    }
    growth = found["own"]["megabytes"] - tenth["megabytes"]
    ratio = found["own"]["seconds"] / found["peer"]["seconds"]
    held = growth <= GROWTH_MB and found["own"]["last_step"] == found["peer"]["last_step"]
    held = held and (form == "a bar" or ratio <= RATIO)
    return {**found, "growth_mb": growth, "ratio": ratio, "held": held}


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--lines", short=1_000_000, full=10_000_000, help="lines of each log")
    arguments.add_size("--repeats", short=3, full=1)
    arguments.add_argument("--method", choices=("own", "peer"), help=argparse.SUPPRESS)
    arguments.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    asked = arguments.parse()
    if asked.method:
        print(json.dumps(once(asked.method, asked.log)))
        return 0
    result: dict[str, Any] = {"claim": {"lines": asked.lines, "ratio": RATIO, "growth_mb": GROWTH_MB}}
    for form in FORMS:
        say(f"{form}: {asked.lines:,} lines")
        with tempfile.TemporaryDirectory() as folder:
            result[form] = compared(Path(folder), form, asked)
    result["held"] = all(result[form]["held"] for form in FORMS)
    lines = [
        f"claim: {asked.lines:,} lines in {RATIO:.0%} of the peer's CPU time; memory grows by {GROWTH_MB:g} MB at most"
    ]
    for form in FORMS:
        row = result[form]
        lines.append(
            f"{form:17} {row['own']['seconds']:6.1f} s, {row['own']['megabytes']:.0f} MB ({row['growth_mb']:+.1f}); "
            f"each line by itself {row['peer']['seconds']:6.1f} s, {row['peer']['megabytes']:.0f} MB; "
            f"ratio {row['ratio']:.2f}; {verdict(row['held'])}"
        )
    return conclude(asked, result, lines)


if __name__ == "__main__":
    sys.exit(main())
