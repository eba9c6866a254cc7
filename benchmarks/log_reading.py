"""Claim: ten million plain lines are read and judged in 10 s on one core, in memory that does not grow with the log.

python benchmarks/log_reading.py [--json] [--lines 10000000]

Three logs: every line has a loss, in the words of bottega's own train.log; the same as a bar with carriage returns; one
line in a hundred has one. The claim is on CPU seconds, each in a process of its own; the bar, whose lines are twice as
long, is measured without a limit on them. The peer is what scripts do: a
regular expression on each line, and a list of all losses.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LINES, SECONDS, GROWTH_MB = 10_000_000, 10.0, 8.0
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
    words = [sys.executable, __file__, "--method", method, "--log", str(path)]
    answer: dict[str, float] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
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


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--lines", type=int, default=LINES, help="lines of each log")
    parser.add_argument("--method", choices=("own", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--log", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.method:
        print(json.dumps(once(options.method, options.log)))
        return 0
    result: dict[str, Any] = {"claim": {"lines": options.lines, "seconds": SECONDS, "growth_mb": GROWTH_MB}}
    for form in FORMS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "train.log"
            write_log(path, form, options.lines // 10)
            tenth = measured("own", path)
            write_log(path, form, options.lines)
            found = {"own": measured("own", path), "peer": measured("peer", path)}
        growth = found["own"]["megabytes"] - tenth["megabytes"]
        held = growth <= GROWTH_MB
        held = held and (form == "a bar" or found["own"]["seconds"] <= SECONDS * options.lines / LINES)
        held = held and found["own"]["last_step"] == found["peer"]["last_step"]
        ratio = found["own"]["seconds"] / found["peer"]["seconds"]
        result[form] = {**found, "growth_mb": growth, "ratio": ratio, "held": held}
    result["held"] = all(result[form]["held"] for form in FORMS)
    if options.json:
        print(json.dumps(result, indent=2))
        return 0 if result["held"] else 1
    print(
        f"claim: {options.lines:,} lines in {SECONDS:g} s of CPU; memory grows by {GROWTH_MB:g} MB at most from a tenth"
    )
    for form in FORMS:
        row = result[form]
        print(
            f"{form:17} {row['own']['seconds']:6.1f} s, {row['own']['megabytes']:.0f} MB ({row['growth_mb']:+.1f}); "
            f"each line by itself {row['peer']['seconds']:6.1f} s, {row['peer']['megabytes']:.0f} MB; "
            f"{'held' if row['held'] else 'MISSED'}"
        )
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
