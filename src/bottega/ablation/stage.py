"""An ablation from its plan to its table. Read `run` from top to bottom.

It can be stopped at any time, and the same command goes on: each training from its checkpoint, to the same bits.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bottega.ablation.plan import AblationPlan, Training, divided, groups_of
from bottega.ablation.records import AblationSummary
from bottega.ablation.summary import summarise
from bottega.ablation.table import as_csv, as_markdown
from bottega.ablation.variants import BASELINE
from bottega.ablation.work import EvaluationTask, Share, TrainingTask, failure
from bottega.data.records import read_pairs
from bottega.evaluation.config import EvaluationConfig, Row
from bottega.evaluation.grid import Grid
from bottega.models.config import ModelsConfig
from bottega.runtime import trust
from bottega.runtime.children import run_children
from bottega.runtime.errors import FingerprintError, StartAfresh, WorkError
from bottega.runtime.files import write_json, write_text
from bottega.runtime.fingerprint import changes
from bottega.runtime.records import read_record
from bottega.runtime.trust import with_check

PLAN = "plan.json"
SUMMARY = "summary.json"
CONTROLS: tuple[Row, ...] = ("base", "content", "style", "colours", "truth")
"""Rows beside the variants: evaluated once, with the baseline of the first seed."""


@dataclass(frozen=True)
class Ground:
    """What all variants stand on: built once, by the run that they belong to.

    Args:
        name: of the recipe.
        models: of the recipe.
        features: folder of the feature cache.
        pairs: the test pairs.
        data_root: what their paths are relative to.
    """

    name: str
    models: ModelsConfig
    features: Path
    pairs: Path
    data_root: Path


def run(
    plan: AblationPlan, evaluation: EvaluationConfig, directory: Path, *, ground: Ground, processes: int
) -> AblationSummary:
    """Train every variant with every seed, evaluate all on the same pairs with the same noise, and write the table.

    Args:
        plan: what is trained.
        evaluation: how the pictures are drawn and measured; its `limit` is the number of pairs.
        directory: of the ablation.
        ground: the features, the pairs and the models.
        processes: side by side, each with one thread.

    Returns:
        The content of `summary.json`.

    Raises:
        FingerprintError: the folder holds an ablation with another budget or recipe.
        Interrupted: somebody asked to stop; every training has a checkpoint.
    """
    # Before any work: whatever a kill leaves behind, it is known with which settings it was begun.
    directory.mkdir(parents=True, exist_ok=True)
    _require_same(directory / PLAN, plan, evaluation)
    seconds: dict[str, float] = {}

    # Train. Those of a group share one pass through the frozen blocks; groups are divided among processes.
    started = time.monotonic()
    shares: list[Share] = []
    for groups in divided(groups_of(plan.trainings), plan.blocks, processes):
        shares.append(_share(ground, groups=[_training_tasks(group, directory) for group in groups]))
    _work(shares, "training")
    seconds["training"] = round(time.monotonic() - started, 1)

    # Evaluate those that came to their end.
    started = time.monotonic()
    failed = {training.place: failure(_trained(directory, training)) for training in plan.trainings}
    _require_baseline(plan, failed)
    tasks_of = [
        _evaluation_task(training, evaluation, directory, with_controls=number == 0)
        for number, training in enumerate(plan.trainings)
        if failed[training.place] is None
    ]
    _work([_share(ground, evaluations=tasks_of[first::processes]) for first in range(processes)], "evaluation")
    seconds["evaluation"] = round(time.monotonic() - started, 1)

    # Derive the numbers.
    pairs = Grid.of(read_pairs(ground.pairs)).smaller(evaluation.limit).pairs
    summary = summarise(plan, evaluation, directory, pairs=pairs, name=ground.name, failed=failed, seconds=seconds)
    write_json(directory / SUMMARY, with_check(summary))
    write_text(directory / "table.md", as_markdown(summary))
    write_text(directory / "table.csv", as_csv(summary))
    trust.seal(directory, dict.fromkeys((directory / name for name in (SUMMARY, "table.md", "table.csv")), "view"))
    return summary


def _require_same(path: Path, plan: AblationPlan, evaluation: EvaluationConfig) -> None:
    """Record what all trainings and evaluations have in common; FingerprintError where it was something else."""
    now: dict[str, object] = {**plan.common(), "evaluation": evaluation.settings()}
    if path.is_file():
        before = read_record(path, dict[str, object], "delete the folder, and the ablation begins again")
        differing = changes(before, now)
        if differing:
            raise FingerprintError(
                f"{path.parent} holds an ablation with other values: {differing[0]}. Set it back, or give another "
                "--output (more seeds and more factors can be added to the same one)"
            )
    write_json(path, now)


def _require_baseline(plan: AblationPlan, failed: Mapping[str, str | None]) -> None:
    """WorkError where the recipe itself could not be trained: there is nothing to compare with."""
    for training in plan.trainings:
        reason = failed[training.place]
        if training.variant.name == BASELINE and reason is not None:
            raise WorkError(
                f"every variant is compared with the recipe itself, whose training with seed {training.seed} could not "
                f"go on: {reason}; mend the recipe first (bottega train style), and give another --output"
            )


def _trained(directory: Path, training: Training) -> Path:
    return directory / "trained" / training.place


def _training_tasks(group: Sequence[Training], directory: Path) -> list[TrainingTask]:
    return [TrainingTask(str(_trained(directory, training)), training.config) for training in group]


def _evaluation_task(
    training: Training, evaluation: EvaluationConfig, directory: Path, *, with_controls: bool
) -> EvaluationTask:
    rows: tuple[Row, ...] = ("student", *CONTROLS) if with_controls else ("student",)
    adapter = _trained(directory, training) / "adapter.safetensors"
    folder = directory / "evaluated" / training.place
    return EvaluationTask(str(folder), str(adapter), evaluation.model_copy(update={"rows": rows}))


def _share(
    ground: Ground,
    *,
    groups: Sequence[list[TrainingTask]] = (),
    evaluations: Sequence[EvaluationTask] = (),
) -> Share:
    return Share(
        models=ground.models,
        features=str(ground.features),
        pairs=str(ground.pairs),
        data_root=str(ground.data_root),
        groups=list(groups),
        evaluations=list(evaluations),
    )


def _work(shares: Sequence[Share], what: str) -> None:
    """Have each share done by a process, side by side."""
    with tempfile.TemporaryDirectory(prefix="bottega-") as folder:
        commands: list[list[str]] = []
        for number, share in enumerate(shares):
            file = Path(folder) / f"{number}.json"
            write_json(file, _as_json(share))
            commands.append(["ablate", "--work", str(file)])
        while True:
            try:
                run_children(commands, f"{what} of variants")
            except StartAfresh:
                continue  # a fresh process goes on after what is saved
            return


def _as_json(share: Share) -> Mapping[str, object]:
    """A share as a file holds it."""
    plain = asdict(share)
    plain["models"] = share.models.model_dump(mode="json")
    plain["groups"] = [
        [{"folder": task.folder, "student": task.student.model_dump(mode="json")} for task in group]
        for group in share.groups
    ]
    plain["evaluations"] = [
        {"folder": task.folder, "adapter": task.adapter, "evaluation": task.evaluation.model_dump(mode="json")}
        for task in share.evaluations
    ]
    return plain
