"""Claim: over 5,000 steps after a warm-up resident memory stays within 20 MB of its median, and the most that a
training holds does not depend on the number of targets: with four times as many it is the same within 10 %.

python benchmarks/training_memory.py [--full] [--json] [--steps N] [--warm-up N] [--targets N]

`bottega train style` on the miniature on the CPU, in processes of their own. First the recipe's student with its
checkpoints and validations, in batches of 4 so that it takes minutes; resident memory is what the process itself writes
into metrics.jsonl at each step.

Then two caches, with --full of 5,000 and of 20,000 targets (random numbers, written by the cache's own writer), are
trained on with `student.preload_mb=0`, so that features are read as needed: both for the same number of steps, in which
every target of the smaller one is read. Resident memory is sampled from outside, ten times a second, from start to end.
The larger one has 300 MB more: held in memory, or kept mapped after it was read, it would not pass. A single adapted
block keeps the rest of the memory small. Beside it: the part that is no file's pages, which the system could not take
back.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from common.bench import Arguments, conclude, say, start, verdict
from common.feature_cache import FeatureCache, enlarged, make

STEADY = 20.0  # MB around the median
GROWTH = 0.10
TIMES = 4
REAL = 96  # targets of the drawn world
READS = 1.25  # of each target of the smaller cache, on average
EVERY = 0.1  # seconds
POINTS = 20
BATCH = 16
READ_AS_NEEDED = {"preload_mb": 0, "adapter.layers": 1, "batch_size": BATCH, "fill50k_fraction": 0.0}


def sampled(words: list[str], log: Path) -> dict[str, float]:
    """The most MB that a process holds while it runs: all of it, and without the pages of files.

    Raises:
        RuntimeError: it failed.
    """
    peak = {"rss_mb": 0.0, "anonymous_mb": 0.0}
    with log.open("w") as stream:
        running = start(words, stdout=stream, stderr=stream)
        process = psutil.Process(running.pid)
        while running.poll() is None:
            try:
                memory = process.memory_info()
            except psutil.NoSuchProcess:
                break
            anonymous = memory.rss - getattr(memory, "shared", 0)
            peak = {
                "rss_mb": max(peak["rss_mb"], memory.rss / 2**20),
                "anonymous_mb": max(peak["anonymous_mb"], anonymous / 2**20),
            }
            time.sleep(EVERY)
    if running.wait() != 0:
        raise RuntimeError(f"the training failed with exit code {running.returncode}: {log.read_text()[-2000:]}")
    return peak


def trained(cache: FeatureCache, output: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """{peaks, minutes, curve: resident MB at each step} of a training."""
    begun = time.monotonic()
    peak = sampled(cache.train(output, settings), output.with_suffix(".log"))
    with (output / "metrics.jsonl").open(encoding="utf-8") as stream:
        curve = [float(json.loads(line)["rss_mb"]) for line in stream]
    return {**peak, "minutes": (time.monotonic() - begun) / 60, "curve": curve}


def steady(cache: FeatureCache, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The recipe's training over a warm-up and the steps that count."""
    found = trained(cache, folder / "steady", {"batch_size": 4, "loop.steps": options.warm_up + options.steps})
    counted = found["curve"][options.warm_up :]
    middle, tenth = median(counted), max(1, len(counted) // 10)
    farthest = max(abs(value - middle) for value in counted)
    edges = [round(len(found["curve"]) * i / POINTS) for i in range(POINTS + 1)]
    say(f"steady: {middle:.1f} MB, at most {farthest:.1f} away")
    return {
        "minutes": round(found["minutes"], 1),
        "median_mb": round(middle, 1),
        "farthest_mb": round(farthest, 1),
        "growth_mb": round(median(counted[-tenth:]) - median(counted[:tenth]), 1),
        "curve_mb": {a: round(median(found["curve"][a:b]), 1) for a, b in pairwise(edges) if b > a},
        "held": farthest <= STEADY,
    }


def read_as_needed(cache: FeatureCache, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Peaks with few and with many targets, over the same number of steps."""
    counts = {"few": options.targets, "many": TIMES * options.targets}
    steps = round(READS * counts["few"] / BATCH)
    found: dict[str, Any] = {"targets": counts, "steps": steps}
    for name, count in counts.items():
        larger = enlarged(cache, folder / f"{name}_features", targets=count)
        size = sum(file.stat().st_size for file in larger.features.rglob("*.safetensors"))
        run = trained(larger, folder / name, {**READ_AS_NEEDED, "loop.steps": steps})
        found[name] = {"cache_mb": size / 2**20, **{key: run[key] for key in ("rss_mb", "anonymous_mb", "minutes")}}
        found[name] = {key: round(value, 1) for key, value in found[name].items()}
        say(f"{name}: {found[name]}")
    ratios = {key: found["many"][key] / found["few"][key] for key in ("rss_mb", "anonymous_mb")}
    return {**found, "ratio": ratios["rss_mb"], "anonymous_ratio": ratios["anonymous_mb"]} | {
        "held": ratios["rss_mb"] <= 1 + GROWTH
    }


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--steps", short=300, full=5000, help="after the warm-up")
    arguments.add_size("--warm-up", short=100, full=500, help="steps")
    arguments.add_size("--targets", short=1500, full=5000, help="of the smaller cache; the larger has four times")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("targets and features to train on")
        cache = make(folder / "run", targets=REAL)
        even = steady(cache, folder, asked)
        peaks = read_as_needed(cache, folder, asked)
    claim = {"steps": asked.steps, "megabytes": STEADY, "growth": GROWTH}
    held = even["held"] and peaks["held"]
    lines = [f"claim: within {STEADY:g} MB of the median over {asked.steps:,} steps; {even['minutes']:.1f} minutes"]
    lines += [f"{step:6} steps {megabytes:8.1f} MB" for step, megabytes in even["curve_mb"].items()]
    lines.append(
        f"median {even['median_mb']:.1f} MB, at most {even['farthest_mb']:.1f} MB away, from the first to the last "
        f"tenth {even['growth_mb']:+.1f} MB: {verdict(even['held'])}"
    )
    lines.append(f"claim: at most {GROWTH:.0%} more memory with {TIMES} x the targets, {peaks['steps']} steps each")
    for name, count in peaks["targets"].items():
        took = peaks[name]
        lines.append(
            f"{count:6} targets {took['rss_mb']:8.1f} MB at most, {took['anonymous_mb']:.1f} MB of them no file's "
            f"pages; the cache has {took['cache_mb']:.1f} MB"
        )
    ratios = f"ratio {peaks['ratio']:.3f} (no file's pages: {peaks['anonymous_ratio']:.3f})"
    lines.append(f"{ratios}: {verdict(peaks['held'])}")
    return conclude(asked, {"claim": claim, "steady": even, "read_as_needed": peaks, "held": held}, lines)


if __name__ == "__main__":
    sys.exit(main())
