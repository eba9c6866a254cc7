"""Evaluations of several runs read side by side: which of them are trainings of one recipe, and which pairs they share.

Two runs whose recipes differ in seeds alone are one method trained twice: the training seed is then a factor beside
content and style. Pairs are shared where both lists name them with equal hashes of content and style; an evaluation
without a list, of an earlier version, is paired by the ids alone, and a note says so.

Legend: C contents, S styles, T training seeds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bottega.evaluation.factors import Cube
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.pair_list import PAIRS
from bottega.evaluation.records import MeasuredWith, PairLine, ScoreLine
from bottega.evaluation.summary import Scores, by_row
from bottega.runtime.config import load_yaml
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import sha256_json
from bottega.runtime.records import read_record, read_records
from bottega.runtime.trust import require

SECTIONS = ("world", "data", "pairs", "truth", "models", "quality", "teacher", "features", "student")
"""Of a recipe, what its adapter depends on."""

_CURE = "run bottega evaluate again, which writes it"

Cell = tuple[str, str]
"""A content and a style, each with its hash where that is known."""


@dataclass(frozen=True)
class EvaluatedRun:
    """A run's evaluation.

    Attributes:
        name: of the run directory, or of the evaluation's folder where that lies in none; of an ablation's variant and
            seed.
        folder: of the evaluation.
        recipe: a hash of what its adapter depends on but for seeds; None without a recipe.
        seed: of the training; None without a recipe.
        scores: by row and metric, then by pair id.
        cells: the content and the style of each pair id.
        hashed: whether `cells` knows the files' hashes.
        measured: size and networks.
    """

    name: str
    folder: Path
    recipe: str | None
    seed: int | None
    scores: Scores
    cells: Mapping[str, Cell]
    hashed: bool
    measured: MeasuredWith

    def by_cell(self, row: str, metric: str) -> dict[Cell, float]:
        """The scores of a row; empty where it has none."""
        return {self.cells[pair_id]: value for pair_id, value in self.scores.get((row, metric), {}).items()}


@dataclass(frozen=True)
class TrainedMethod:
    """Trainings of one recipe."""

    name: str
    runs: tuple[EvaluatedRun, ...]

    @property
    def seeds(self) -> list[int]:
        """Of the trainings; their numbers in the list where no recipe says them."""
        known = [run.seed for run in self.runs if run.seed is not None]
        return known if len(set(known)) == len(self.runs) else list(range(len(self.runs)))


def read_run(path: Path) -> EvaluatedRun:
    """A run directory, or the folder of an evaluation.

    Raises:
        MissingError: it has no `scores.jsonl`.
        DamagedError: that is not what was written.
    """
    folder = path if (path / "scores.jsonl").is_file() else path / "evaluation"
    file = folder / "scores.jsonl"
    if not file.is_file():
        raise MissingError(f"no evaluation in {path}: it has no scores.jsonl; run bottega evaluate {path} first")
    require(file, _CURE)
    scores = by_row(read_records(file, ScoreLine, _CURE))
    name, recipe_file = _origin(folder)
    recipe, seed = _recipe(recipe_file)
    listed = folder / PAIRS
    cells = _listed_cells(listed) if listed.is_file() else _cells_by_id(scores)
    summary = folder / "summary.json"
    measured: MeasuredWith = read_record(summary, MeasuredWith, _CURE) if summary.is_file() else {}
    return EvaluatedRun(name, folder, recipe, seed, scores, cells, listed.is_file(), measured)


def _origin(folder: Path) -> tuple[str, Path]:
    """What an evaluation's training is called, and where its recipe is; of an ablation's, where that keeps it."""
    place = folder.resolve()
    ablation = place.parents[2] if len(place.parents) > 2 else place
    trained = ablation / "trained" / place.parent.name / place.name / "recipe.yaml"
    if place.parent.parent.name == "evaluated" and trained.is_file():
        return f"{place.parent.name}-{place.name}", trained
    directory = place.parent if place.name == "evaluation" else place
    return directory.name, directory / "recipe.yaml"


def _recipe(file: Path) -> tuple[str | None, int | None]:
    """A hash of what the adapter depends on but for seeds, and the training's seed."""
    if not file.is_file():
        return None, None
    recipe = load_yaml(file)
    student = recipe.get("student")
    seed = student.get("seed") if isinstance(student, dict) else None
    kept = {name: _without_seeds(recipe.get(name)) for name in SECTIONS}
    return sha256_json(kept), seed if isinstance(seed, int) else None


def _without_seeds(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_seeds(of_key) for key, of_key in value.items() if key != "seed"}
    return value


def _listed_cells(file: Path) -> dict[str, Cell]:
    require(file, _CURE)
    cells: dict[str, Cell] = {}
    for line in read_records(file, PairLine, _CURE):
        content = f"{line['content_id']} {line['content_sha256']}"
        cells[line["pair_id"]] = content, f"{line['style_id']} {line['style_sha256']}"
    return cells


def _cells_by_id(scores: Scores) -> dict[str, Cell]:
    cells: dict[str, Cell] = {}
    for of_row in scores.values():
        for pair_id in of_row:
            content, _, style = pair_id.partition("_")  # an id holds no `_`
            cells[pair_id] = content, style
    return cells


def by_ids(run: EvaluatedRun) -> EvaluatedRun:
    """The run with pairs known by their ids alone, as they must be beside a run that has no list."""
    return replace(run, cells=_cells_by_id(run.scores), hashed=False)


def methods(
    runs: Sequence[EvaluatedRun], named: Mapping[str, Sequence[EvaluatedRun]] | None = None
) -> list[TrainedMethod]:
    """The runs by method: those whose recipes differ in seeds alone are trainings of one.

    Args:
        runs: to be grouped by their recipes.
        named: methods that the user has named, with their trainings.

    Raises:
        RequestError: two runs are of one recipe and one seed: the same training counted twice.
    """
    groups: dict[str, list[EvaluatedRun]] = {}
    for number, run in enumerate(runs):
        groups.setdefault(run.recipe or f"without a recipe: {number}", []).append(run)
    found: list[TrainedMethod] = []
    for group in groups.values():
        _require_own_seeds(group)
        found.append(TrainedMethod(_name(group, {method.name for method in found}), tuple(group)))
    for name, trainings in (named or {}).items():
        found.append(TrainedMethod(name, tuple(trainings)))
    return found


def _require_own_seeds(group: Sequence[EvaluatedRun]) -> None:
    if len({run.seed for run in group}) < len(group):
        names = ", ".join(f"{run.name} (student.seed {run.seed})" for run in group)
        raise RequestError(
            f"trainings of one recipe must differ in student.seed, received {names}; leave out what is the same "
            "training, or name the methods: --method NAME=RUN,RUN"
        )


def _name(group: Sequence[EvaluatedRun], taken: set[str]) -> str:
    """What the names of its runs begin with, without what tells the seeds apart; never another method's."""
    shared = os.path.commonprefix([run.name for run in group])  # noqa: RUF071 - letters are meant, these are no paths
    if len(group) > 1:
        shared = shared.rstrip("0123456789").removesuffix("seed").rstrip("-_. ")
    name, number = shared or group[0].name, 2
    while name in taken:
        name = f"{shared or group[0].name} {number}"
        number += 1
    return name


def require_comparable(runs: Sequence[EvaluatedRun]) -> dict[str, str]:
    """Which metrics can't be compared, with the reason: another network judged them.

    Raises:
        RequestError: pictures were measured at different sizes, which changes every score.
    """
    sizes = {run.name: run.measured["size"] for run in runs if "size" in run.measured}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} at {size}" for name, size in sizes.items())
        raise RequestError(
            f"runs are compared at one size in pixels, received {listed}; evaluate again with --set evaluation.size=N"
        )
    differing = _differing_networks(runs)
    measured = {metric for run in runs for _, metric in run.scores}
    reasons: dict[str, str] = {}
    for metric, info in METRICS.items():
        other = sorted(differing.intersection(info.needs))
        if other and metric in measured:
            reasons[metric] = f"judged by different networks: {', '.join(other)}"
    return reasons


def _differing_networks(runs: Sequence[EvaluatedRun]) -> set[str]:
    identities: dict[str, set[str]] = {}
    for run in runs:
        for name, identity in run.measured.get("networks", {}).items():
            identities.setdefault(name, set()).add(identity)
    return {name for name, found in identities.items() if len(found) > 1}


@dataclass(frozen=True)
class Shared:
    """The contents and styles of the pairs that all runs have."""

    cells: frozenset[Cell]
    contents: tuple[str, ...]
    styles: tuple[str, ...]

    def cube(self, runs: Sequence[EvaluatedRun], row: str, metric: str) -> Cube:
        """Scores of a row, [C, S, T]; NaN where there is none, or not of all runs."""
        place_of = {content: k for k, content in enumerate(self.contents)}
        column_of = {style: k for k, style in enumerate(self.styles)}
        cube = np.full((len(self.contents), len(self.styles), len(runs)), np.nan)
        for number, run in enumerate(runs):
            for cell, value in run.by_cell(row, metric).items():
                if cell in self.cells:
                    cube[place_of[cell[0]], column_of[cell[1]], number] = value
        return cube


def shared_pairs(runs: Sequence[EvaluatedRun], rows: Sequence[str]) -> Shared:
    """The pairs of which every run has every one of these rows.

    Raises:
        RequestError: a run has no such row, or there is no pair that all have.
    """
    common = set(runs[0].cells.values())
    for run in runs:
        for row in rows:
            common &= _scored_cells(run, row)
    if not common:
        names = ", ".join(run.name for run in runs)
        raise RequestError(
            f"a comparison needs pairs that all runs have, with the same pictures; {names} share none; evaluate them "
            "on one list: bottega evaluate RUN --pairs LIST"
        )
    contents = sorted({cell[0] for cell in common})
    styles = sorted({cell[1] for cell in common})
    return Shared(frozenset(common), tuple(contents), tuple(styles))


def _scored_cells(run: EvaluatedRun, row: str) -> set[Cell]:
    """The contents × styles of which a row has a score; RequestError where there is no such row."""
    cells: set[Cell] = set()
    for (of_row, _), scores in run.scores.items():
        if of_row == row:
            cells.update(run.cells[pair_id] for pair_id in scores)
    if not cells:
        there = ", ".join(sorted({of_row for of_row, _ in run.scores}))
        raise RequestError(f"{run.folder} has no scores of the row {row!r}; it has {there}")
    return cells


def matched_seeds(first: Sequence[int], second: Sequence[int]) -> list[tuple[int, int]]:
    """Places of the trainings that are paired: those of equal seeds, then what is left over in the order of seeds.

    Trainings of different seeds are independent of each other, so any pairing of them is as good as another; what the
    larger of the two has beyond the smaller is left out.
    """
    pairs = [(first.index(seed), second.index(seed)) for seed in sorted(set(first) & set(second))]
    left = [k for k, seed in sorted(enumerate(first), key=lambda item: item[1]) if seed not in second]
    right = [k for k, seed in sorted(enumerate(second), key=lambda item: item[1]) if seed not in first]
    return pairs + list(zip(left, right, strict=False))
