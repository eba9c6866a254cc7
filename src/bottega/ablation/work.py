"""What a process of an ablation does: `bottega ablate --work FILE`, a share of the trainings or of the evaluations.

Each process computes with one thread, so that its numbers do not depend on how many of them there are.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bottega.evaluation.config import EvaluationConfig
from bottega.models.config import ModelsConfig
from bottega.runtime import trust
from bottega.runtime.errors import NonFiniteError
from bottega.runtime.files import sha256_file, sha256_json, write_json, write_text
from bottega.runtime.records import read_record
from bottega.runtime.threads import use_threads
from bottega.student.config import StudentConfig

_TIMED_STEPS = 5

FAILED = "failed.json"
"""In a training's folder: why it could not go on."""

EVALUATED = "evaluated.json"
"""In an evaluation's folder, written last: what it was made of."""


@dataclass(frozen=True)
class TrainingTask:
    """A training: its folder, and its section `student`."""

    folder: str
    student: StudentConfig


@dataclass(frozen=True)
class EvaluationTask:
    """An evaluation: its folder, the adapter, and the section `evaluation`."""

    folder: str
    adapter: str
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class Share:
    """What one process is asked for.

    Args:
        models: of the recipe.
        features: folder of the feature cache.
        pairs: the test pairs.
        data_root: what their paths are relative to.
        groups: trainings; those of a group draw alike.
        evaluations: what to evaluate.
    """

    models: ModelsConfig
    features: str
    pairs: str
    data_root: str
    groups: list[list[TrainingTask]] = field(default_factory=list)
    evaluations: list[EvaluationTask] = field(default_factory=list)


def work_from(file: Path) -> None:
    """Do what a file asks for. The command line calls this in the child process."""
    use_threads(1)
    share = read_record(file, Share, "run bottega ablate, which writes this file")
    for group in share.groups:
        _train(group, share)
    todo = [task for task in share.evaluations if not is_evaluated(task)]
    if todo:
        _draw(todo, share)
        for task in todo:
            _evaluate(task, share)


def is_trained(folder: Path, config: StudentConfig) -> bool:
    """Whether a training is done, with these settings, and its files are what was written."""
    recorded = folder / "student.json"
    if not recorded.is_file() or not (folder / "adapter.safetensors").is_file():
        return False
    same = read_record(recorded, dict[str, object]) == config.model_dump(mode="json")
    return same and not any(trust.faults(folder, trust.Depth.QUICK))


def failure(folder: Path) -> str | None:
    """Why a training could not go on; None where nothing is known of that."""
    path = folder / FAILED
    return read_record(path, dict[str, str])["error"] if path.is_file() else None


def is_evaluated(task: EvaluationTask) -> bool:
    """Whether an evaluation is done, of this adapter with these settings."""
    path = Path(task.folder) / EVALUATED
    return path.is_file() and read_record(path, dict[str, str]).get("made_of") == _made_of(task)


def _made_of(task: EvaluationTask) -> str:
    return sha256_json([sha256_file(Path(task.adapter)), task.evaluation.model_dump(mode="json")])


def seconds_a_step(config: StudentConfig, features: Path, models: ModelsConfig) -> float:
    """How long a step of a training takes here, alone and with one thread."""
    from contextlib import closing

    from bottega.runtime.threads import torch_threads
    from bottega.student.stage import prepare

    job, _ = prepare(config, features, models)
    times: list[float] = []
    with closing(job), torch_threads(1):
        for step in range(_TIMED_STEPS):
            started = time.perf_counter()
            for batch in job.work.microbatches(step):
                batch.loss.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - started)
    return median(times)


def _train(group: Sequence[TrainingTask], share: Share) -> None:
    """Train what is not done of a group, together."""
    from bottega.runtime.config import as_yaml
    from bottega.student.together import train_adapters

    configs: dict[Path, StudentConfig] = {}
    for task in group:
        folder = Path(task.folder)
        if not is_trained(folder, task.student):
            configs[folder] = task.student
            (folder / FAILED).unlink(missing_ok=True)  # of an earlier try, which may do better now
            # Beside it as a recipe: `bottega train style --recipe` trains the same adapter alone.
            recipe = {"models": share.models.model_dump(mode="json"), "student": task.student.model_dump(mode="json")}
            write_text(folder / "recipe.yaml", as_yaml(recipe))
    if not configs:
        return
    done = train_adapters(configs, features_dir=Path(share.features), models=share.models)
    for folder, outcome in done.items():
        if isinstance(outcome, NonFiniteError):
            write_json(folder / FAILED, {"error": str(outcome)})
        else:
            write_json(folder / "student.json", configs[folder].model_dump(mode="json"))


def _draw(tasks: Sequence[EvaluationTask], share: Share) -> None:
    """Draw the test pairs with all adapters in one process, which loads the libraries once. Each evaluation then finds
    its pictures there; what it does not find as it would draw it, it draws itself."""
    from bottega.data.records import read_pairs
    from bottega.evaluation.drawing import Request, draw
    from bottega.evaluation.grid import Grid
    from bottega.evaluation.plans import CannotDrawError, plan_student

    grid = Grid.of(read_pairs(Path(share.pairs)))
    requests: list[Request] = []
    for task in tasks:
        config = task.evaluation
        smaller = grid.smaller(config.limit)
        try:
            plan = plan_student("student", Path(task.adapter), smaller, Path(share.data_root), share.models)
        except CannotDrawError:
            return  # the evaluation says why
        requests.append(
            Request(
                row="student",
                directory=str(Path(task.folder) / "pictures" / "student"),
                data_root=share.data_root,
                pairs=smaller.pairs,
                batch_size=config.batch_size,
                seed=config.seed,
                fingerprint=plan.fingerprint,
                settings=plan.settings,
            )
        )
    draw(requests)


def _evaluate(task: EvaluationTask, share: Share) -> None:
    """Measure the test pairs with one adapter."""
    from bottega.evaluation.stage import run

    folder = Path(task.folder)
    run(
        task.evaluation,
        folder,
        pairs=Path(share.pairs),
        data_root=Path(share.data_root),
        adapter=Path(task.adapter),
        models=share.models,
    )
    write_json(folder / EVALUATED, {"made_of": _made_of(task)})
