"""Claim: training makes 4 x the samples per second of a script that encodes in each step, and 1.2 x of one that reads
cached features, both with gradient checkpointing of the whole model; its memory is at most 60 % of either's.

python benchmarks/training_speed.py [--full] [--json] [--steps N] [--repeats N] [--threads N]

The miniature on the CPU in float32, with the recipe's student: an adapter in 4 of 12 blocks, mode `latent`, batch 8,
two of them Fill50K's; 96 targets and their features, made by `bottega run` and `bottega features`. Five ways:

    own       bottega's `train` with `StyleWorkload`: a prefix without a graph, no checkpointing, features from the
              cache. Its guards, log, a validation and a checkpoint at the end are in its time.
    encoding  a plain script: pictures from disk, T5, autoencoder and CLIP in each step (without gradients), then the
              whole transformer after `enable_gradient_checkpointing()`, its input requiring grad, captions padded to
              120 tokens, as diffusers' PixArt script pads them. AdamW, clipping; no log, validation or checkpoint.
    cached    the same script on the features of the cache, which it holds in memory.
    careful   as `cached`, but captions are padded to the longest of the batch only, and the input requires no grad:
              autograd itself then spares the blocks before the adapter. For comparison; nothing is claimed.
    frugal    as `own` with `student.gradient_checkpointing=on`. For comparison; nothing is claimed.

See common/plain_training.py for the script. First, in a process of its own, all but the last compute loss and gradient
of the same samples, timesteps and noise, and must agree. Then each is measured in a process of its own, by turns;
compared are medians. A process imports the same modules whichever it measures, notes its resident memory, and resets
the kernel's high-water mark; memory is that mark at the end minus what was noted: models, features, optimizer,
activations, and the libraries' code that is first used then.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from common.bench import Arguments, conclude, in_own_process, say, verdict
from common.feature_cache import RECIPE, FeatureCache, make

if TYPE_CHECKING:
    from common.plain_training import PlainTrainer

    from bottega.models.config import ModelsConfig
    from bottega.student.config import StudentConfig

SPEED = {"encoding": 4.0, "cached": 1.2}
MEMORY = 0.60
TARGETS = 96
WARM_UP = 6  # steps before the clock runs
AGREE = 1e-3  # relative: the cache was encoded in batches of another size
PEERS = ("encoding", "cached", "careful")
METHODS = ("own", *PEERS, "frugal")
LAZY = {
    "diffusers": ("AutoencoderTiny", "DPMSolverMultistepScheduler", "PixArtTransformer2DModel"),
    "transformers": ("AutoTokenizer", "CLIPModel", "T5EncoderModel"),
}


class Bench:
    """Measurements in this process."""

    def __init__(self, folder: Path) -> None:
        from bottega.models.loading import locate

        self.folder, self.cache = folder, FeatureCache(folder / "run", folder / "run" / "features")
        self.config, self.models = settings()
        self.pixart, self.clip = locate(self.models, "pixart"), locate(self.models, "clip")

    def own(self, checkpointing: str) -> Callable[[int], None]:
        """A function that trains so many steps more; checkpointing: auto, which is off at this size, or on."""
        from bottega.student.stage import prepare
        from bottega.training.loop import train

        config = self.config.model_copy(update={"gradient_checkpointing": checkpointing})
        job, _ = prepare(config, self.cache.features, self.models)
        directory = Path(tempfile.mkdtemp(dir=self.folder))
        done = 0

        def run(steps: int) -> None:
            nonlocal done
            done += steps
            longer = job.config.model_copy(update={"steps": done})
            train(job.work, longer, directory, validate=job.validate, write_samples=job.write_samples)

        return run

    def script(self, method: str) -> PlainTrainer:
        """The plain script."""
        from common.plain_training import CachedReader, EncodingReader, PlainTrainer

        reader: CachedReader | EncodingReader
        if method == "encoding":
            rows = json.loads((self.folder / "samples.json").read_text(encoding="utf-8"))
            reader = EncodingReader(self.pixart, self.clip, rows, 128, self.config)
        else:
            reader = CachedReader(self.cache.features, self.config, careful=method == "careful")
        return PlainTrainer(self.pixart, reader, self.config, careful=method == "careful")

    def peer(self, method: str) -> Callable[[int], None]:
        """A function that trains so many steps more."""
        import torch

        torch.manual_seed(0)
        script = self.script(method)
        batches = self.batches(script.reader.rows)

        def run(steps: int) -> None:
            for _ in range(steps):
                script.step(next(batches))

        return run

    def batches(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
        """Batches with the recipe's share of Fill50K, drawn at random."""
        import numpy as np

        rng = np.random.default_rng(0)
        tasks = {task: [row for row in rows if row["task"] == task] for task in ("main", "fill50k")}
        counts = {"main": self.config.global_batch - self.config.fill50k_slots, "fill50k": self.config.fill50k_slots}
        while True:
            yield [tasks[task][i] for task, count in counts.items() for i in rng.integers(0, len(tasks[task]), count)]

    def measured(self, method: str, steps: int) -> dict[str, float]:
        """Samples per second after a warm-up, and the most memory beyond what the imports take."""
        from bottega.runtime.memory import peak_rss_mb, rss_mb

        imported = rss_mb()
        forget_peak()
        run = self.peer(method) if method in PEERS else self.own("on" if method == "frugal" else "auto")
        run(WARM_UP)
        begun = time.perf_counter(), time.process_time()
        run(steps)
        seconds, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
        return {
            "samples_per_second": steps * self.config.global_batch / seconds,
            "cpu_ms_per_sample": cpu / steps / self.config.global_batch * 1000,
            "peak_mb": peak_rss_mb() - imported,
            "imports_mb": imported,
        }

    def agreement(self) -> dict[str, dict[str, float]]:
        """Loss and norm of the gradient of one window, each way."""
        import torch

        from bottega.student.stage import prepare

        work = prepare(self.config, self.cache.features, self.models)[0].work
        draw = work.draw(0)
        part = work.microbatch(draw, slice(0, self.config.global_batch))
        part.loss.backward()  # type: ignore[no-untyped-call]
        found = {"own": {"loss": float(part.loss.detach()), "gradient": gradient_norm(work.adapter)}}
        pictures = json.loads((self.folder / "samples.json").read_text(encoding="utf-8"))
        by_id = {row["sample_id"]: row for row in pictures}
        for method in PEERS:
            script = self.script(method)
            script.adapter.load_state_dict(work.adapter.state_dict())
            rows = [by_id[row["sample_id"]] for row in draw.rows] if method == "encoding" else draw.rows
            batch = script.reader.read(rows, draw.drop_text.tolist())
            loss = script.loss(batch, draw.noise, draw.timesteps, torch.from_numpy(draw.drop_style))
            loss.backward()  # type: ignore[no-untyped-call]
            found[method] = {"loss": float(loss.detach()), "gradient": gradient_norm(script.adapter)}
        return found


def settings() -> tuple[StudentConfig, ModelsConfig]:
    """The sections `student` and `models` of the miniature's recipe, in float32 on the CPU."""
    from bottega.models.config import ModelsConfig
    from bottega.runtime.config import load_yaml
    from bottega.student.config import StudentConfig

    recipe = load_yaml(RECIPE)
    models = {**recipe["models"], "device": "cpu", "dtype": "float32"}
    return StudentConfig.model_validate(recipe["student"]), ModelsConfig.model_validate(models)


def import_all() -> None:
    """Import what any of the ways imports."""
    for name in ("common.plain_training", "bottega.student.stage", "bottega.student.validation"):
        importlib.import_module(name)
    for library, kinds in LAZY.items():  # these two import a class when it is first asked for
        for kind in kinds:
            getattr(importlib.import_module(library), kind)


def forget_peak() -> None:
    """Reset the high-water mark of this process; where that can't be done it holds the imports' own, which is low."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        print(f"the high-water mark stays: {error}", file=sys.stderr)


def gradient_norm(adapter: Any) -> float:
    """L2 norm over all of an adapter's gradients."""
    return float(sum(p.grad.square().sum() for p in adapter.parameters() if p.grad is not None) ** 0.5)


def differing(found: dict[str, dict[str, float]]) -> list[str]:
    """Where a way's loss or gradient is not ours."""
    return [
        f"{method}: {name} {value:.6g}, ours {found['own'][name]:.6g}"
        for method, numbers in found.items()
        for name, value in numbers.items()
        if abs(value - found["own"][name]) > AGREE * abs(found["own"][name])
    ]


def asked(folder: Path, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """What a process of its own answers."""
    words = ["--method", method, "--folder", str(folder), "--steps", str(options.steps)]
    words += ["--threads", str(options.threads)] if options.threads else []
    found: dict[str, Any] = in_own_process(__file__, *words)
    return found


def in_turn(folder: Path, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Every way measured `--repeats` times."""
    runs: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for number in range(options.repeats):
        for method, made in runs.items():
            made.append(asked(folder, method, options))
            say(f"turn {number + 1} of {options.repeats}, {method}: {made[-1]}")
    return runs


def judged(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians, ratios, and whether they hold."""
    middle = {name: {key: round(median(run[key] for run in made), 2) for key in made[0]} for name, made in runs.items()}
    own = middle["own"]
    speed = {name: own["samples_per_second"] / middle[name]["samples_per_second"] for name in METHODS[1:]}
    memory = {name: own["peak_mb"] / middle[name]["peak_mb"] for name in METHODS[1:]}
    held = {f"speed over {name}": speed[name] >= bar for name, bar in SPEED.items()}
    held |= {f"memory under {name}": memory[name] <= MEMORY for name in SPEED}
    rates = {name: [round(run["samples_per_second"], 2) for run in made] for name, made in runs.items()}
    ratios = {"speed_ratio": speed, "memory_ratio": memory}
    return {**middle, "rates": rates, **ratios, "held_each": held, "held": all(held.values())}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = Arguments(__doc__)
    parser.add_size("--steps", short=20, full=60, help="of a measurement, after a warm-up")
    parser.add_size("--repeats", short=2, full=5)
    parser.add_argument("--threads", type=int, help="of torch, on all sides; without it torch's own choice")
    parser.add_argument("--method", choices=(*METHODS, "agreement"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse()


def child(options: argparse.Namespace) -> dict[str, Any]:
    """One measurement, in a process that does nothing else."""
    import logging

    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    logging.disable(logging.WARNING)
    import_all()
    bench = Bench(options.folder)
    if options.method == "agreement":
        return {"numbers": bench.agreement(), "threads": torch.get_num_threads()}
    return bench.measured(options.method, options.steps)


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    options = arguments()
    if options.method:
        print(json.dumps(child(options)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        say("targets and features to train on")
        cache = make(folder / "run", targets=TARGETS)
        (folder / "samples.json").write_text(json.dumps(cache.sample_pictures()), encoding="utf-8")
        same = asked(folder, "agreement", options)
        if different := differing(same["numbers"]):
            raise RuntimeError(f"the ways do different work: {'; '.join(different)}")
        found = judged(in_turn(folder, options))
    setting = {"steps": options.steps, "repeats": options.repeats, "threads": same["threads"]}
    lines = [f"claim: samples per second at least {SPEED} times the peers', memory at most {MEMORY:.0%}; {setting}"]
    for method in METHODS:
        took = found[method]
        beside = f", ours {found['speed_ratio'][method]:.2f} x the speed" if method != "own" else ""
        beside += f" and {found['memory_ratio'][method]:.0%} of the memory" if method != "own" else ""
        lines.append(f"{method:9} {took['samples_per_second']:7.2f} samples/s, {took['peak_mb']:6.1f} MB{beside}")
    lines += [f"{what}: {verdict(held)}" for what, held in found["held_each"].items()]
    claim = {"speed": SPEED, "memory": MEMORY}
    return conclude(options, {"claim": claim, **setting, "same_work": same["numbers"], **found}, lines)


if __name__ == "__main__":
    sys.exit(main())
