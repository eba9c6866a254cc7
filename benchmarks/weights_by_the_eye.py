"""Claim: a student that is trained on targets weighted by their grades comes nearer to the drawn truth than one trained
on the same tries without weights (paired, 3 seeds, the interval of the difference excludes 0).

python benchmarks/weights_by_the_eye.py [--full] [--json] [--seeds N] [--folder DIR]

The teachers are the miniature's SDXL and two worse ones, the same with noise on its weights, at strengths, style scales
and guidances from too little to too much, one try a pair. All arms are given the same tries, held against each other by
their hashes. `weighted` is what a recipe does (A 1, B 0.5, C 0), with limits calibrated on drawn truths as a run does
it; `without_c` leaves out what is C and weighs the rest alike; `all_alike` weighs all tries alike. The claim is
`weighted` against `all_alike`; the arm between them shows what each step is worth. Everything else is
recipes/miniature.yaml with fewer steps and test pairs. Differences are paired by content, style and training seed, all
three as random factors.

Grades come from the detectors, CLIP and the eye, and the eye has learned distances to drawn truths from such tries of
other scenes and painters, at other settings.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from common.arms import METRICS, RECIPE, SHORT, Arm, loop, measured, over_seeds, set_options, told
from common.bench import Arguments, bottega, conclude, say, verdict

from bottega.cli.common import read_recipe
from bottega.evaluation.records import FactorRecord
from bottega.miniature.builder.tries import SpoiledUNet
from bottega.runtime.files import read_json, write_json
from bottega.runtime.seeds import derive, numpy_rng
from bottega.teacher.items import Item, Made, Settings
from bottega.teacher.ledger import LEDGER
from bottega.teacher.models import TeacherModels
from bottega.teacher.stage import run as run_teacher
from bottega.teacher.summary import SUMMARY
from bottega.visual.pictures import Picture

TEACHER = {"teacher.source": "sdxl", "teacher.max_retries": 0}
WEIGHTS = {"weighted": (1.0, 0.5, 0.0), "without_c": (1.0, 1.0, 0.0), "all_alike": (1.0, 1.0, 1.0)}
FULL = {"student.loop.steps": 400, "evaluation.teacher_pairs": 1, "pairs.crossed": [10, 36]}
"""Many styles: most of the difference's variance lies between them. With 12 of them and three seeds the interval was
-0.42 ± 0.55, to which contents added nothing."""
STRENGTHS = (0.24, 0.4, 0.56, 0.72)
STYLE_SCALES = (0.15, 0.5, 0.9, 1.2)
GUIDANCES = (1.0, 2.0)
SPOILED = (0.0, 0.0, 0.08, 0.15)
"""By turns, deviation of the noise on each weight of the U-Net, in that weight's own deviations."""
STEPS = 25
MOST_REJECTED = 0.9  # share of tries graded C above which there is nothing left to train on


class VariedTeacher:
    """The miniature's teacher, at settings that change from one pair to the next, and sometimes spoiled.

    Both follow the ids of content and style, so all arms are given the same pictures. They are kept: the stages of the
    other arms take them from here. What the ledger records are the recipe's settings.
    """

    def __init__(self, teacher: Any) -> None:
        self._teacher = teacher
        self._unet = SpoiledUNet(teacher.pipeline.unet)
        self._kept: dict[int, Any] = {}

    def encode(self, items: Sequence[Item]) -> None:
        """See `bottega.teacher.items.Teacher`."""
        self._teacher.encode(self._varied(items))

    def denoise(self, items: Sequence[Item], batch: int) -> list[Any]:
        """See `bottega.teacher.items.Teacher`; one pass for each degree of damage."""
        varied = self._varied(items)
        for number, level in enumerate(SPOILED):
            part = [item for item in varied if _number(item) % len(SPOILED) == number]
            missing = [item for item in part if item.noise_seed not in self._kept]
            if missing:
                self._unet.spoil(level, derive("weights by the eye", number))
                for item, latent in zip(missing, self._teacher.denoise(missing, batch), strict=True):
                    self._kept[item.noise_seed] = latent
        self._unet.spoil(0.0, 0)
        return [self._kept[item.noise_seed] for item in varied]

    def finish(self, items: Sequence[Item], latents: Sequence[Any]) -> list[Made]:
        """See `bottega.teacher.items.Teacher`."""
        made: list[Made] = self._teacher.finish(self._varied(items), latents)
        return made

    def round_trip(self, item: Item) -> Picture | None:
        """See `bottega.teacher.items.Teacher`."""
        picture: Picture | None = self._teacher.round_trip(item)
        return picture

    def parameters(self, settings: Settings) -> Mapping[str, object]:
        """See `bottega.teacher.items.Teacher`."""
        recorded: Mapping[str, object] = self._teacher.parameters(settings)
        return recorded

    @staticmethod
    def _varied(items: Sequence[Item]) -> list[Item]:
        return [replace(item, settings=_settings(item)) for item in items]


def _number(item: Item) -> int:
    """Stands for an item's content and style."""
    return derive("weights by the eye", item.content_id, item.style_id)


def _settings(item: Item) -> Settings:
    rng = numpy_rng("weights by the eye", item.content_id, item.style_id)
    strength = float(rng.choice(STRENGTHS))
    scale = float(rng.choice(STYLE_SCALES))
    return Settings(STEPS, strength, float(rng.choice(GUIDANCES)), scale)


class VariedModels(TeacherModels):
    """A run's models, with the varied teacher that all runs share."""

    def __init__(self, *arguments: Any, shared: list[VariedTeacher]) -> None:
        super().__init__(*arguments)
        self._shared = shared

    @property
    def teacher(self) -> Any:
        """The varied teacher, loaded by the first run that asks for it."""
        if not self._shared:
            self._shared.append(VariedTeacher(self._load_teacher()))
        return self._shared[0]


def run_of(arm: str, folder: Path, sets: Mapping[str, Any], shared: list[VariedTeacher]) -> Path:
    """The arm's run up to its features, its targets made by the varied teacher."""
    directory = folder / f"run-{arm}"
    weights = dict(zip("abc", WEIGHTS[arm], strict=True))
    chosen = {**sets, **TEACHER, **{f"quality.thresholds.weight_{letter}": value for letter, value in weights.items()}}
    kept = folder / f"run-{arm}.json"
    if kept.is_file() and read_json(kept) != chosen:
        raise SystemExit(f"{folder} holds runs with other settings; give another --folder")
    write_json(kept, chosen)
    bottega("run", str(RECIPE), "--directory", str(directory), "--until", "quality", *set_options(chosen))
    recipe = read_recipe(RECIPE, [option for option in set_options(chosen) if option != "--set"])
    data_root = directory / "data"
    run_teacher(
        recipe.teacher,
        directory / "teacher",
        pairs=[directory / "pairs" / "train.jsonl", directory / "pairs" / "val.jsonl"],
        data_root=data_root,
        models=recipe.models,
        thresholds=directory / "quality" / "thresholds.json",
        loaded=VariedModels(recipe.teacher, data_root, recipe.models, shared=shared),
    )
    return loop(directory, chosen)


def tries(run: Path) -> dict[str, str]:
    """The hash of each target's picture."""
    with closing(sqlite3.connect(f"file:{run / 'teacher' / LEDGER}?mode=ro", uri=True)) as ledger:
        return dict(ledger.execute("SELECT target, output_sha256 FROM best").fetchall())


def grades(run: Path) -> dict[str, int]:
    """Targets by their grade."""
    return dict(read_json(run / "teacher" / SUMMARY)["grades"])


Figures = dict[str, FactorRecord]
"""By metric."""


class Outcome(TypedDict):
    """What the experiment found: targets by grade, the figures of each arm, and those of differences of two."""

    seeds: int
    grades: dict[str, int]
    rows: dict[str, Figures]
    minus: dict[str, Figures]


def results(asked: argparse.Namespace, folder: Path) -> Outcome:
    """Make the runs, train every arm with every seed, compare."""
    sets = FULL if asked.full else SHORT
    shared: list[VariedTeacher] = []
    runs = {arm: run_of(arm, folder, sets, shared) for arm in WEIGHTS}
    say("all runs up to their features")
    first = tries(runs["weighted"])
    for arm, run in runs.items():
        if tries(run) != first:
            raise SystemExit(f"the tries of {arm} are not those of the other arms; delete {folder} and begin again")
    counts = grades(runs["weighted"])
    if counts.get("C", 0) > MOST_REJECTED * sum(counts.values()):
        raise SystemExit(f"of the varied teacher's tries nearly all are C ({counts}): there is nothing to train on")
    scores: dict[str, list[Any]] = {arm: [] for arm in WEIGHTS}
    for seed in range(asked.seeds):
        for arm, run in runs.items():
            scores[arm].append(measured(Arm(arm), seed, run, folder, sets, rows=("student",)))
            distances = list(scores[arm][-1]["student", "truth"].values())
            say(f"{arm}, seed {seed}: distance {np.mean(distances):.2f}")
    run = runs["weighted"]
    rows: dict[str, Figures] = {}
    for arm, of_arm in scores.items():
        rows[arm] = {metric: over_seeds(run, of_arm, metric) for metric in METRICS}
    minus: dict[str, Figures] = {}
    for arm, other in (("weighted", "all_alike"), ("weighted", "without_c"), ("without_c", "all_alike")):
        differences = {metric: over_seeds(run, scores[arm], metric, scores[other]) for metric in METRICS}
        minus[f"{arm} minus {other}"] = differences
    return {"seeds": asked.seeds, "grades": counts, "rows": rows, "minus": minus}


def main() -> int:
    """Print the table; 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--seeds", short=1, full=3)
    arguments.add_argument("--folder", type=Path, help="keep what is made there, and use what is there")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        found = results(asked, asked.folder or Path(temporary))
    difference = found["minus"]["weighted minus all_alike"]["truth"]
    held = None
    if asked.full and asked.seeds > 1 and difference["high"] is not None:
        held = difference["high"] < 0
    lines = [f"targets by grade: {found['grades']}"]
    for title, row in {**found["rows"], **found["minus"]}.items():
        figures = [f"{metric} {told(row[metric], 2)}" for metric in METRICS]
        lines.append("  ".join([f"{title:26}", *figures]))
    lines.append(f"{verdict(held)}: distance to the truth, weighted minus all alike, below 0")
    return conclude(asked, {**found, "held": held}, lines)


if __name__ == "__main__":
    sys.exit(main())
