"""Claim: a training killed at 20 random moments and continued by the same command ends in the same bits.

python benchmarks/training_killed.py [--full] [--json] [--kills N] [--steps N] [--seed 0]

`bottega train style` on the miniature on the CPU, a checkpoint every 5 steps. Each kill (SIGKILL) comes a random time
after the work began and then waits for what it is aimed at: the start, a step, a checkpoint (up to 50 ms in), the
moment after one, a validation; the last one for the export of the adapter. Where a kill fell is told by marks that
outlive the process. After each, every checkpoint in sight must be whole to its hashes, the steps of metrics.jsonl must
follow each other, and an adapter, where there is one, must open. A run that gets done before it was killed often enough
is followed by another. In the end each is compared with one that was never killed: every tensor of the last checkpoint,
model and optimizer, and the adapter's file to the byte; the rows of metrics.jsonl but for their times and memory.

Processes are forked from one that has imported the libraries and computed nothing, and have one thread each.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import mmap
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from common.bench import Arguments, conclude, die_with_parent, say
from common.feature_cache import FeatureCache, make

TARGETS = 48
PHASES = ("starting", "a step", "a checkpoint", "a validation", "the export")
AIMS = ("starting", "a step", "a checkpoint", "after a checkpoint", "a validation")
LONGEST = 1.5  # seconds of work before a kill
WITHIN = 0.05  # seconds, at most, from the beginning of what a kill is aimed at
SETTINGS = {
    "batch_size": 4,
    "loop.checkpoint_every": 5,
    "loop.validate_every": 20,
    "loop.log_every": 5,
    "loop.warmup_steps": 20,
}
TOLD_APART = {"seconds", "rss_mb"}  # of the rows of metrics.jsonl: what no two runs have in common
LIBRARIES = (
    "bottega.cli.train",
    "bottega.models.encoders",
    "bottega.models.loading",
    "bottega.student.export",
    "bottega.student.stage",
    "bottega.student.validation",
    "bottega.training.loop",
    "diffusers.models.transformers.pixart_transformer_2d",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
)


# --- in the process that is killed ----------------------------------------------------------------------------------


class Marks:
    """What a process is doing: one byte of a file that is mapped into memory, so a mark costs nothing and stays."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as stream:
            self._byte = mmap.mmap(stream.fileno(), 1)

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """The phase is in hand; then what was before it."""
        before, self._byte[0] = self._byte[0], PHASES.index(phase)
        try:
            yield
        finally:
            self._byte[0] = before

    def set(self, phase: str) -> None:
        """From now on."""
        self._byte[0] = PHASES.index(phase)

    def wrapped(self, phase: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, marked."""

        def marked(*args: Any, **options: Any) -> Any:
            with self.during(phase):
                return call(*args, **options)

        return marked


def live(words: list[str], marks: Path, log: Path) -> None:
    """One command, in this process, to its end."""
    die_with_parent()  # the server of forks, which ends with the benchmark
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    mark(Marks(marks))
    from bottega.cli.main import entry

    sys.argv = ["bottega", *words]
    entry()


def mark(marks: Marks) -> None:
    """Wrap what the phases consist of; before anything takes these functions by name."""
    from bottega.student import export
    from bottega.student.objective import StyleWorkload
    from bottega.student.validation import Validation
    from bottega.training import checkpoint
    from bottega.training.workload import ALL_MICROBATCHES

    microbatches = StyleWorkload.microbatches

    def begun(work: StyleWorkload, step: int, share: slice = ALL_MICROBATCHES) -> Iterator[Any]:
        marks.set("a step")  # and all that follows, but for what has a mark of its own
        return microbatches(work, step, share)

    StyleWorkload.microbatches = begun  # type: ignore[assignment, method-assign]
    Validation.run = marks.wrapped("a validation", Validation.run)  # type: ignore[method-assign]
    checkpoint.save = marks.wrapped("a checkpoint", checkpoint.save)
    export.save_adapter = marks.wrapped("the export", export.save_adapter)


# --- in the process that kills --------------------------------------------------------------------------------------


class Nursery:
    """Where trainings begin: a server that has imported the libraries forks for each."""

    def __init__(self, cache: FeatureCache, folder: Path, steps: int) -> None:
        os.environ["OMP_NUM_THREADS"] = "1"  # a fork has no threads but its own
        self.context: ForkServerContext = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(LIBRARIES))
        self.cache, self.steps = cache, steps
        self.marks, self.log = folder / "marks", folder / "life.log"

    def begin(self, output: Path) -> Life:
        """A process of the training in `output`."""
        self.marks.write_bytes(bytes(1))
        words = self.cache.train(output, {**SETTINGS, "loop.steps": self.steps})[3:]
        process = self.context.Process(target=live, args=(words, self.marks, self.log))
        process.start()
        return Life(process, self)


class Life:
    """One process, from its start to its end or kill."""

    def __init__(self, process: ForkServerProcess, nursery: Nursery) -> None:
        self.process, self.nursery = process, nursery
        self.begun, self.startup = time.monotonic(), 0.0

    def doing(self) -> str:
        """The phase in hand; after the end, the last one."""
        return PHASES[self.nursery.marks.read_bytes()[0]]

    def done(self) -> bool:
        """Whether it ended of itself; RuntimeError where it failed."""
        if self.process.exitcode not in (None, 0):
            said = self.nursery.log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the training failed with exit code {self.process.exitcode}: {said}")
        return self.process.exitcode == 0

    def wait(self, reached: Callable[[], bool]) -> None:
        """Until something is so, or the end."""
        while not reached() and not self.done():
            time.sleep(0.0005)

    def killed(self, aim: str, after: float, within: float) -> bool:
        """Kill it `within` seconds into `aim`, which is waited for from `after` seconds of work (or of the start) on;
        False if it was done before."""
        if aim == "starting":
            time.sleep(after)
        else:
            self.wait(lambda: self.doing() != "starting")
            self.startup = time.monotonic() - self.begun
            time.sleep(0 if self.done() else after)
            if aim == "after a checkpoint":
                self.wait(lambda: self.doing() == "a checkpoint")
                self.wait(lambda: self.doing() != "a checkpoint")
            else:
                self.wait(lambda: self.doing() == aim)
            time.sleep(within)
        if self.done():
            self.process.join()
            return False
        self.process.kill()
        self.process.join()
        return self.process.exitcode != 0


def unsound(directory: Path) -> list[str]:
    """What a kill must not leave: a torn checkpoint or adapter under its name, a step left out of metrics.jsonl."""
    from safetensors import SafetensorError, safe_open

    faults = []
    for folder in sorted(directory.glob("checkpoints/step_*")):
        try:
            hashes = json.loads((folder / "state.json").read_text(encoding="utf-8"))["sha256"]
            faults += [f"{folder.name}/{name}" for name in hashes if sha256(folder / name) != hashes[name]]
        except (OSError, ValueError, KeyError) as error:
            faults.append(f"{folder.name}: {error}")
    adapter = directory / "adapter.safetensors"
    if adapter.exists():
        try:
            with safe_open(adapter, framework="numpy") as handle:
                handle.keys()
        except (OSError, SafetensorError) as error:
            faults.append(f"{adapter.name}: {error}")
    steps = [row["step"] for row in metrics(directory)]
    return faults if steps == list(range(1, len(steps) + 1)) else [*faults, "metrics.jsonl: its steps have a gap"]


def sha256(path: Path) -> str:
    """Of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl without what no two runs have in common; a line without its end is left out."""
    path = directory / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in row.items() if key not in TOLD_APART} for row in rows]


def results(directory: Path) -> dict[str, Any]:
    """Digest of each tensor of the last checkpoint, by name; of the adapter's file; and each step's row."""
    from safetensors.numpy import load_file

    last = max(directory.glob("checkpoints/step_*"))
    found: dict[str, Any] = {"adapter.safetensors": sha256(directory / "adapter.safetensors"), "last": last.name}
    for file in ("model.safetensors", "optimizer.safetensors"):
        for name, tensor in load_file(last / file).items():
            digest = hashlib.sha256(tensor.tobytes()).hexdigest()
            found[f"{file}: {name}"] = (str(tensor.dtype), tensor.shape, digest)
    return found | {f"metrics.jsonl: step {row['step']}": row for row in metrics(directory)}


def soak(cache: FeatureCache, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The uninterrupted run, then kills until there are enough, then the end of every run."""
    rng, nursery = random.Random(options.seed), Nursery(cache, folder, options.steps)
    startup, faults = 0.0, []
    kills: list[dict[str, Any]] = []
    seconds = to_the_end(nursery, folder / "whole")
    runs = [folder / "killed_1"]
    while len(kills) < options.kills:
        aim = "the export" if len(kills) + 1 == options.kills else rng.choice(AIMS if startup else AIMS[1:])
        after = rng.uniform(0, startup if aim == "starting" else LONGEST)
        life = nursery.begin(runs[-1])
        if not life.killed(aim, after, 0.0 if aim == "the export" else rng.uniform(0, WITHIN)):
            runs.append(folder / f"killed_{len(runs) + 1}")
            continue
        lived, startup = time.monotonic() - life.begun, life.startup or startup
        steps = len(metrics(runs[-1]))
        kills.append({"run": len(runs), "aim": aim, "fell_on": life.doing(), "step": steps, "after_s": round(lived, 2)})
        faults += [f"after kill {len(kills)}: {fault}" for fault in unsound(runs[-1])]
        say(f"kill {len(kills)} of {options.kills}: run {len(runs)}, {life.doing()} at step {steps} (aim: {aim})")
    for directory in runs:
        to_the_end(nursery, directory)
    expected = results(folder / "whole")
    different = [f"{d.name}, {name}" for d in runs for name in differing(expected, results(d))]
    return {
        "steps": options.steps,
        "seconds": round(seconds, 1),
        "tensors": sum(": " in name and not name.startswith("metrics") for name in expected),
        "runs": len(runs),
        "kills": kills,
        "fell_on": dict(Counter(kill["fell_on"] for kill in kills)),
        "faults": faults,
        "different": different,
    }


def to_the_end(nursery: Nursery, directory: Path) -> float:
    """Begin or continue a training and wait until it is done; its seconds."""
    life = nursery.begin(directory)
    life.wait(lambda: False)
    life.process.join()
    return time.monotonic() - life.begun


def differing(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Names of what is not equal."""
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def main() -> int:
    """Kill, continue, compare, and return 1 where something is torn or different."""
    arguments = Arguments(__doc__)
    arguments.add_size("--kills", short=6, full=20)
    arguments.add_size("--steps", short=60, full=240)
    arguments.add_argument("--seed", type=int, default=0)
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("targets and features to train on")
        result = soak(make(folder / "run", targets=TARGETS), folder, asked)
    lines = [
        f"one run: {result['steps']} steps in {result['seconds']} s",
        f"{len(result['kills'])} kills in {result['runs']} runs fell on {result['fell_on']}",
    ]
    for number, kill in enumerate(result["kills"], 1):
        lines.append(f"{number:3}: run {kill['run']}, {kill['fell_on']} at step {kill['step']} (aim: {kill['aim']})")
    wrong = result["faults"] + result["different"]
    lines += wrong or [
        f"all {result['tensors']} tensors, adapters and {result['steps']} rows of every run are the same"
    ]
    return conclude(asked, {**result, "held": not wrong}, lines)


if __name__ == "__main__":
    sys.exit(main())
