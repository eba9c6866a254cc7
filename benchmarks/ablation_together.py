"""Claim: the variants of a one-factor ablation, trained together as `bottega ablate` does, take at most 1/1.6 of the
time of training them one after another on the same processors, and every one of them ends in the same bits.

python benchmarks/ablation_together.py [--full] [--json] [--steps N] [--seeds N] [--run DIR]

The miniature on the CPU, the 12 variants of its recipe: the recipe itself; 2, 8 and all 12 blocks and the middle 4;
purification none and projection; a piecewise and a cosine step schedule; no Fill50K; content modes sdedit and paired.

    together   ours: one process a processor, each with one thread; the variants of a seed that draw alike share one
               pass through the frozen blocks
    alone      the peer: one after another in one process, with one thread or with all, whichever is faster (how much
               all threads are worth is measured on the recipe itself)

Compared are the seconds of the steps: loading and preparing, which together is done once and alone each time, are in
neither. Also printed: the processor time of both, whose ratio is what the shared pass alone is worth, without the
processes; and the work by block passes, from which the same ratio follows for a PixArt of 28 blocks. Bits: every tensor
of each last checkpoint, model and optimizer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.bench import Arguments, conclude, in_own_process, say, verdict
from common.feature_cache import RECIPE, make

if TYPE_CHECKING:
    from bottega.ablation.plan import AblationPlan, Training
    from bottega.models.config import ModelsConfig
    from bottega.training.job import TrainingJob

BAR = 1.6
TARGETS = 64
FULL_DEPTH = 28


def settings(steps: int, seeds: int) -> tuple[AblationPlan, ModelsConfig]:
    """The one-factor ablation of the miniature's recipe, without validations."""
    from bottega.ablation.plan import AblationPlan, blocks_of, budgeted
    from bottega.ablation.variants import FACTORS, one_factor, with_changes
    from bottega.models.config import ModelsConfig
    from bottega.models.layout import locate
    from bottega.runtime.config import load_yaml
    from bottega.student.config import StudentConfig

    recipe = load_yaml(RECIPE)
    models = ModelsConfig.model_validate({**recipe["models"], "device": "cpu", "dtype": "float32"})
    blocks = blocks_of(locate(models, "pixart"))
    base = budgeted(StudentConfig.model_validate(recipe["student"]), steps)
    base = with_changes(base, {"loop.checkpoint_every": steps})
    variants = one_factor(base, list(FACTORS), blocks)
    return AblationPlan("one factor", variants, tuple(range(seeds)), base, blocks), models


def plainly(job: TrainingJob[Any]) -> TrainingJob[Any]:
    """The job without validation: only steps are compared."""
    return replace(job, validate=None, write_samples=None)


def alone(folder: Path, features: Path, trainings: list[Training], models: ModelsConfig) -> dict[str, float]:
    """Train one after another; seconds and processor time of the steps."""
    from bottega.student.stage import load_frozen, prepare
    from bottega.training.loop import train

    spent = {"seconds": 0.0, "cpu": 0.0}
    frozen = load_frozen(trainings[0].config, features, models)
    for training in trainings:
        job, _ = prepare(training.config, features, models, frozen)
        with closing(job):
            begun = time.perf_counter(), time.process_time()
            train(job.work, job.config, folder / training.place)
            spent["seconds"] += time.perf_counter() - begun[0]
            spent["cpu"] += time.process_time() - begun[1]
    return spent


def together(folder: Path, features: Path, groups: list[list[Training]], models: ModelsConfig) -> dict[str, float]:
    """Train the groups of one process, each together; seconds and processor time of the steps."""
    from bottega.student.stage import load_frozen, prepare
    from bottega.student.together import share
    from bottega.training.together import train_together

    spent = {"seconds": 0.0, "cpu": 0.0}
    frozen = load_frozen(groups[0][0].config, features, models)
    for group in groups:
        jobs = {}
        for training in group:
            jobs[folder / training.place] = plainly(prepare(training.config, features, models, frozen)[0])
        share([job.work for job in jobs.values()])
        begun = time.perf_counter(), time.process_time()
        train_together(jobs)
        spent["seconds"] += time.perf_counter() - begun[0]
        spent["cpu"] += time.process_time() - begun[1]
    return spent


def child(options: argparse.Namespace) -> dict[str, float]:
    """One arm, or the share of one process, in a process that does nothing else."""
    import torch

    from bottega.ablation.plan import divided, groups_of
    from bottega.ablation.variants import with_changes

    torch.set_num_threads(1)
    plan, models = settings(options.steps, options.seeds)
    if options.arm == "together":
        mine = divided(groups_of(plan.trainings), plan.blocks, options.processes)[options.number]
        return together(options.folder / "together", options.features, mine, models)
    if options.arm == "alone":
        return alone(options.folder / "alone", options.features, plan.trainings, models)
    recipe = plan.trainings[0]
    threads = replace(recipe, config=with_changes(recipe.config, {"loop.threads": options.processes}))
    return alone(options.folder / "threads", options.features, [threads], models)


def asked(options: argparse.Namespace, folder: Path, features: Path, arm: str, number: int = 0) -> dict[str, float]:
    """What a process of its own answers."""
    words = ["--arm", arm, "--folder", str(folder), "--features", str(features), "--number", str(number)]
    words += ["--steps", str(options.steps), "--seeds", str(options.seeds), "--processes", str(options.processes)]
    found: dict[str, float] = in_own_process(__file__, *words)
    return found


def unequal(plan: AblationPlan, folder: Path) -> list[str]:
    """The trainings whose last checkpoints differ in any tensor, or are not there."""
    import torch

    from bottega.training import checkpoint as checkpoints

    found: list[str] = []
    for training in plan.trainings:
        tensors = []
        for arm in ("alone", "together"):
            last = checkpoints.latest(folder / arm / training.place / "checkpoints")
            tensors.append({} if last is None else checkpoints.read_tensors(last))
        one, other = tensors
        same = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        if not one or not same:
            found.append(training.place)
    return found


def by_blocks(plan: AblationPlan, blocks: int) -> float:
    """Work alone over work together, in block passes, for a transformer of so many blocks."""
    from bottega.ablation.plan import AblationPlan, budget_of
    from bottega.ablation.variants import FACTORS, one_factor

    deep = AblationPlan(plan.design, one_factor(plan.base, list(FACTORS), blocks), plan.seeds, plan.base, blocks)
    budget = budget_of(deep, 1, None)
    return budget.alone / budget.together


def measured(options: argparse.Namespace, folder: Path, features: Path) -> dict[str, Any]:
    """Both ways, and their ratios."""
    plan, _ = settings(options.steps, options.seeds)
    say(f"{len(plan.trainings)} trainings together, in {options.processes} processes")
    with ThreadPoolExecutor(options.processes) as pool:
        shares = list(pool.map(lambda n: asked(options, folder, features, "together", n), range(options.processes)))
    ours = {"seconds": max(share["seconds"] for share in shares), "cpu": sum(share["cpu"] for share in shares)}
    say(f"{len(plan.trainings)} trainings one after another, one thread")
    peer = asked(options, folder, features, "alone")
    say("the recipe with all threads, and again with one")
    many = asked(options, folder, features, "threads")["seconds"]
    one = asked(replace_processes(options, 1), folder / "again", features, "threads")["seconds"]
    gain = max(1.0, one / many)
    return {
        "together": ours,
        "alone": peer,
        "threads_gain": round(gain, 2),
        "ratio": round(peer["seconds"] / gain / ours["seconds"], 2),
        "cpu_ratio": round(peer["cpu"] / ours["cpu"], 2),
        "work_ratio": {str(blocks): round(by_blocks(plan, blocks), 2) for blocks in (plan.blocks, FULL_DEPTH)},
        "unequal": unequal(plan, folder),
        "trainings": len(plan.trainings),
    }


def replace_processes(options: argparse.Namespace, processes: int) -> argparse.Namespace:
    """The same command line with another number of processes."""
    return argparse.Namespace(**{**vars(options), "processes": processes})


def arguments() -> argparse.Namespace:
    """The command line."""
    from bottega.runtime.threads import processors

    parser = Arguments(__doc__)
    parser.add_size("--steps", short=6, full=60, help="of each training")
    parser.add_size("--seeds", short=2, full=3, help="training seeds")
    parser.add_argument("--run", type=Path, help="a run with features  [default: a small one is made]")
    parser.add_argument("--processes", type=int, default=processors(), help="side by side  [default: one a processor]")
    parser.add_argument("--arm", choices=("together", "alone", "threads"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--features", type=Path, help=argparse.SUPPRESS)
    return parser.parse()


def main() -> int:
    """Measure, print, and return 1 where the claim does not hold."""
    options = arguments()
    if options.arm:
        print(json.dumps(child(options)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.run is None:
            say("targets and features to train on")
            features = make(folder / "run", targets=TARGETS).features
        else:
            features = options.run / "features"
        found = measured(options, folder, features)
    faster = found["ratio"] >= BAR
    equal = not found["unequal"]
    depths = ", ".join(f"{ratio:.2f} at {blocks} blocks" for blocks, ratio in found["work_ratio"].items())
    lines = [
        f"claim: {BAR} x faster than one after another, to the same bits; {found['trainings']} trainings of "
        f"{options.steps} steps, {options.processes} processors",
        f"together {found['together']['seconds']:.1f} s, alone {found['alone']['seconds']:.1f} s with one thread; all "
        f"threads would be {found['threads_gain']:.2f} x as fast",
        f"faster: {found['ratio']:.2f} x: {verdict(faster)}",
        f"processor time alone over together: {found['cpu_ratio']:.2f}, what the shared pass is worth; by block passes "
        f"{depths}",
        f"trainings that differ in a bit: {len(found['unequal'])} of {found['trainings']}: {verdict(equal)}",
    ]
    setting = {"steps": options.steps, "seeds": options.seeds, "processes": options.processes}
    return conclude(options, {"claim": {"faster": BAR}, **setting, **found, "held": faster and equal}, lines)


if __name__ == "__main__":
    sys.exit(main())
