"""Claim: a student that is trained on targets weighted by their grades comes nearer to the drawn truth than one trained
on the same targets without weights (paired, 3 seeds, the interval of the difference excludes 0).

python benchmarks/weights_by_the_eye.py [--full] [--json] [--seeds N] [--folder DIR]

The teachers are the miniature's SDXL and two worse ones, the same with noise on its weights, at strengths, style scales
and guidances from too little to too much, one try a pair: about as many good targets as bad ones, as a first run of a
real teacher has them before its settings are right. Both arms are given the same tries. `by_the_eye` weighs them as a
recipe does (A 1, B 0.5, C 0), with limits calibrated on drawn truths as a run does it; `all_alike` gives each one 1.
Everything else is recipes/miniature.yaml with fewer steps. Differences are paired by content, style and training seed,
all three as random factors.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common.arms import METRICS, RECIPE, SHORT, Arm, loop, measured, over_seeds, told
from common.bench import Arguments, bottega, conclude, say, verdict

from bottega.cli.common import read_recipe
from bottega.miniature.builder.tries import SPOILED, TOGETHER, SpoiledUNet, try_settings
from bottega.runtime.files import read_json
from bottega.runtime.seeds import derive
from bottega.teacher.items import Item, Made, Settings
from bottega.teacher.models import TeacherModels
from bottega.teacher.stage import run as run_teacher
from bottega.teacher.summary import SUMMARY
from bottega.visual.pictures import Picture

TEACHER = {"teacher.source": "sdxl", "teacher.max_retries": 0}
ALL_ALIKE = {f"quality.thresholds.weight_{letter}": 1.0 for letter in "abc"}
ARMS = {"by_the_eye": TEACHER, "all_alike": TEACHER | ALL_ALIKE}
FULL = {"student.loop.steps": 600, "evaluation.teacher_pairs": 0, "pairs.crossed": [12, 16]}
MOST_REJECTED = 0.9  # share of tries graded C above which there is nothing left to train on


class VariedTeacher:
    """The miniature's teacher, at settings that change from one item to the next, and sometimes spoiled.

    Both follow an item's noise seed, so both arms are given the same pictures. They are kept: the second arm's stage
    takes them from here.
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
            # Of equal levels each has its own pass: they differ in nothing but their place here.
            part = [item for item in varied if _group(item) % len(SPOILED) == number]
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
        """See `bottega.teacher.items.Teacher`; what is recorded are the recipe's, not those that were drawn."""
        recorded: Mapping[str, object] = self._teacher.parameters(settings)
        return recorded

    @staticmethod
    def _varied(items: Sequence[Item]) -> list[Item]:
        return [replace(item, settings=try_settings(TOGETHER * _group(item))) for item in items]


def _group(item: Item) -> int:
    """Number of the settings and of the damage that an item gets."""
    return derive("weights by the eye", item.content_id, item.style_id) % 100_000


class VariedModels(TeacherModels):
    """The run's models, with a teacher that all runs of this process share."""

    shared: VariedTeacher | None = None

    @property
    def teacher(self) -> Any:
        """The varied teacher."""
        if VariedModels.shared is None:
            VariedModels.shared = VariedTeacher(self._load_teacher())
        return VariedModels.shared


def run_of(arm: str, folder: Path, sets: Mapping[str, Any]) -> Path:
    """The arm's run up to its features, its targets made by the varied teacher."""
    directory = folder / f"run-{arm}"
    chosen = {**sets, **ARMS[arm]}
    if not (directory / "features" / "manifest.json").is_file():
        words = [f"{name}={_yaml(value)}" for name, value in chosen.items()]
        flags = [word for value in words for word in ("--set", value)]
        bottega("run", str(RECIPE), "--directory", str(directory), "--until", "quality", *flags)
        recipe = read_recipe(RECIPE, words)
        data_root = directory / "data"
        run_teacher(
            recipe.teacher,
            directory / "teacher",
            pairs=[directory / "pairs" / "train.jsonl", directory / "pairs" / "val.jsonl"],
            data_root=data_root,
            models=recipe.models,
            thresholds=directory / "quality" / "thresholds.json",
            loaded=VariedModels(recipe.teacher, data_root, recipe.models),
        )
    return loop(directory, chosen)


def _yaml(value: object) -> str:
    return str(value).replace("'", '"')


def grades(run: Path) -> dict[str, int]:
    """Targets by their grade."""
    return dict(read_json(run / "teacher" / SUMMARY)["grades"])


def results(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make both runs, train both arms with every seed, compare."""
    sets = FULL if asked.full else SHORT
    runs = {arm: run_of(arm, folder, sets) for arm in ARMS}
    say("both runs up to their features")
    counts = grades(runs["by_the_eye"])
    if counts.get("C", 0) > MOST_REJECTED * sum(counts.values()):
        raise SystemExit(f"of the varied teacher's tries nearly all are C ({counts}): there is nothing to train on")
    scores: dict[str, list[Any]] = {arm: [] for arm in ARMS}
    for seed in range(asked.seeds):
        for arm, run in runs.items():
            scores[arm].append(measured(Arm(arm), seed, run, folder, sets))
            say(f"{arm}, seed {seed}: distance {np.mean(list(scores[arm][-1]['student', 'truth'].values())):.2f}")
    run = runs["by_the_eye"]
    rows = {arm: {name: over_seeds(run, of_arm, name) for name in METRICS} for arm, of_arm in scores.items()}
    minus = {name: over_seeds(run, scores["by_the_eye"], name, scores["all_alike"]) for name in METRICS}
    return {"seeds": asked.seeds, "grades": counts, "rows": rows, "by the eye minus all alike": minus}


def main() -> int:
    """Print the table; 1 where the claim does not hold."""
    arguments = Arguments(__doc__)
    arguments.add_size("--seeds", short=1, full=3)
    arguments.add_argument("--folder", type=Path, help="keep what is made there, and use what is there")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        found = results(asked, asked.folder or Path(temporary))
    difference = found["by the eye minus all alike"]["truth"]
    held = difference["high"] < 0 if asked.full else None
    lines = [f"targets by grade: {found['grades']}"]
    for title, row in {**found["rows"], "by the eye minus all alike": found["by the eye minus all alike"]}.items():
        lines.append("  ".join([f"{title:27}", *(f"{metric} {told(row[metric], 2)}" for metric in METRICS)]))
    lines.append(f"{verdict(held)}: distance to the truth, by the eye minus all alike, below 0")
    return conclude(asked, {**found, "held": held}, lines)


if __name__ == "__main__":
    sys.exit(main())
