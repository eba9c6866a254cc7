"""Arms of an experiment with the student: the miniature's recipe with something else in it, trained with several seeds
and measured on the same held-out pairs.

Everything is kept in a folder and used again, so that a stopped experiment goes on and a finished one is only counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bottega.data.records import Pair, read_pairs
from bottega.evaluation.records import FactorRecord
from bottega.runtime.files import read_json, read_jsonl, sha256_file, sha256_json, write_json
from common.bench import Arguments, bottega, say
from common.leaks import leaks

RECIPE = Path(__file__).parents[2] / "recipes" / "miniature.yaml"
LEAKS = Path(__file__).parent / "leaks.py"
METRICS = ("kind_gain", "objects_iou", "objects_found", "truth", "scene_leak", "copied")
"""Points; percent; percent; the truth's own unit; percent of the area; share. See `bottega.evaluation.metrics`,
`common.leaks`."""

SHORT = {
    "world.contents": 48,
    "world.contents_val": 8,
    "world.painters": 24,
    "world.fill50k": 16,
    "pairs.train": 16,
    "pairs.val": 2,
    "pairs.crossed": [3, 4],
    "truth.seeds": 2,
    "truth.calibration_pairs": 16,
    "quality.sample": 8,
    "features.fill50k": 8,
    "student.loop.steps": 20,
    "student.loop.warmup_steps": 2,
    "student.loop.validate_every": 20,
    "student.validation.pictures": 2,
    "evaluation.teacher_pairs": 4,
    "evaluation.draws": 200,
}
"""A recipe so short that the experiment takes minutes, and says nothing but that its parts work."""

Scores = dict[tuple[str, str], dict[str, float]]
"""(row, metric) -> pair id -> value."""


@dataclass(frozen=True)
class Arm:
    """A name, and what it sets in the recipe (`student.adapter.tokens` -> 8).

    used_as: nothing is trained, that arm's adapter is used in another way: what of its configuration and sampling to
    change, `strength` and `steps`.
    """

    name: str
    sets: Mapping[str, Any] = field(default_factory=dict)
    used_as: tuple[str, float, int] | None = None


def loop(directory: Path, sets: Mapping[str, Any] | None = None) -> Path:
    """The run directory of the miniature's recipe, run up to its features; another one's may be given."""
    bottega("run", str(RECIPE), "--directory", str(directory), "--until", "features", *set_options(sets or {}))
    return directory


def measured(
    arm: Arm,
    seed: int,
    run: Path,
    folder: Path,
    sets: Mapping[str, Any] | None = None,
    rows: Sequence[str] = ("student", "base"),
) -> Scores:
    """Train and evaluate an arm with a seed; what was made of the same recipe and features is not made again.

    sets: of the section `student`, for every arm.
    rows: to evaluate; the base costs as much again as the student, and is the same for every arm.
    """
    given = {key: value for key, value in (sets or {}).items() if key.startswith("student.")}
    place, key = folder / arm.name / f"seed{seed}", _key(arm, seed, run, given, rows)
    kept = place / "scores.json"
    if kept.is_file() and (scores := _read(kept, key)) is not None:
        return scores
    adapter, output = place / "adapter.safetensors", place / "evaluation"
    if arm.used_as is not None:
        name, strength, steps = arm.used_as
        _used_otherwise(folder / name / f"seed{seed}" / adapter.name, adapter, strength, steps)
    else:
        words = list(set_options({**given, **arm.sets, "student.seed": seed}))
        told = ["--recipe", str(RECIPE), "--features-dir", str(run / "features"), "--output-dir", str(place)]
        bottega("train", "style", *told, *words)
    evaluated = list(set_options({"evaluation.rows": list(rows)}))
    bottega("evaluate", str(run), "--adapter", str(adapter), "--output", str(output), *evaluated)
    scores = _scores(run, output, rows)
    write_json(kept, {"key": key, "scores": [[*names, values] for names, values in scores.items()]})
    return scores


def pairs(run: Path) -> list[Pair]:
    """The run's test pairs."""
    return list(read_pairs(run / "pairs" / "test.jsonl"))


def estimate(run: Path, arm: Sequence[Scores], metric: str, row: str = "student") -> dict[str, Any]:
    """The mean over seeds of a metric with its interval, and each seed's own mean."""
    from bottega.evaluation.bootstrap import crossed_mean

    return crossed_mean(_mean_matrix(run, arm, metric, row)).record() | {"seeds": _by_seed(arm, metric, row)}


def difference(
    run: Path, arm: Sequence[Scores], other: Sequence[Scores], metric: str, rows: tuple[str, str] = ("student",) * 2
) -> dict[str, Any]:
    """Arm minus other, paired cell by cell after the mean over seeds."""
    from bottega.evaluation.bootstrap import crossed_difference

    one, two = (_mean_matrix(run, a, metric, row) for a, row in zip((arm, other), rows, strict=True))
    return crossed_difference(one, two).record()


def over_seeds(
    run: Path, arm: Sequence[Scores], metric: str, other: Sequence[Scores] | None = None, row: str = "student"
) -> FactorRecord:
    """A metric of an arm, or its difference to another arm's, with the training seeds as a random factor too."""
    import numpy as np

    from bottega.evaluation.factors import UNBOUNDED, crossed_seeds_difference, crossed_seeds_mean
    from bottega.evaluation.metrics import METRICS as EVALUATED

    values = np.stack(_matrices(run, arm, metric, row), -1)  # [C, S, T]
    if other is None:
        bounds = EVALUATED[metric].bounds if metric in EVALUATED else UNBOUNDED
        return crossed_seeds_mean(values, within=bounds).record()
    return crossed_seeds_difference(values, np.stack(_matrices(run, other, metric, row), -1)).record()


def told(found: Mapping[str, Any], digits: int = 1) -> str:
    """`96.5 [92.1, 99.6]`; without the interval where there is none."""
    if found["low"] is None:
        return f"{found['value']:.{digits}f}"
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _used_otherwise(trained: Path, adapter: Path, strength: float, steps: int) -> None:
    """The same adapter under another strength, in more steps; only an adapter of the mode `sdedit` can."""
    from bottega.student.adapter import StyleAdapter
    from bottega.student.export import load_adapter, save_adapter

    old, header = load_adapter(trained)
    new = StyleAdapter(old.config.model_copy(update={"strength": strength}), old.geometry)
    new.load_state_dict(old.state_dict())
    more = {name: value for name, value in header.items() if name not in ("adapter", "geometry")}
    more["sampling"] = {**header["sampling"], "steps": steps}
    save_adapter(adapter, new, more)


def _mean_matrix(run: Path, arm: Sequence[Scores], metric: str, row: str) -> Any:
    """[C, S]; a cell that one seed lacks is left out."""
    import numpy as np

    return np.mean(_matrices(run, arm, metric, row), axis=0)


def _matrices(run: Path, arm: Sequence[Scores], metric: str, row: str) -> list[Any]:
    """A metric by content and style, [C, S], of each seed."""
    from bottega.evaluation.grid import Grid

    listed = pairs(run)
    grid = Grid.of(listed)
    cells = {pair.pair_id: (pair.content_id, pair.style_id) for pair in listed}
    matrices: list[Any] = []
    for scores in arm:
        by_cell = {cells[pair_id]: value for pair_id, value in scores[row, metric].items()}
        matrices.append(grid.matrix(by_cell))
    return matrices


def _by_seed(arm: Sequence[Scores], metric: str, row: str) -> list[float]:
    from statistics import mean

    return [round(mean(scores[row, metric].values()), 4) for scores in arm]


def _scores(run: Path, output: Path, rows: Sequence[str]) -> Scores:
    """Of `scores.jsonl` and of the leaks."""
    from bottega.evaluation.summary import by_row

    found = {k: dict(v) for k, v in by_row(read_jsonl(output / "scores.jsonl")).items() if k[1] in METRICS}
    reader, size = _reader(), int(read_json(output / "summary.json")["size"])
    for row in rows:
        for metric, values in leaks(pairs(run), output / "pictures" / row, run / "data", reader, size).items():
            found[row, metric] = values
    return found


def _reader() -> Any:
    from bottega.cli.common import read_recipe
    from bottega.evaluation.networks import load_networks

    return load_networks(read_recipe(RECIPE, []).models).scene_reader


def _key(arm: Arm, seed: int, run: Path, given: Mapping[str, Any], rows: Sequence[str]) -> str:
    """Stands for what the scores of an arm depend on, but for bottega's own code."""
    files = (RECIPE, LEAKS, *(run / "features" / name for name in ("manifest.json", "samples.jsonl")))
    files += (run / "pairs" / "test.jsonl",)
    return sha256_json([arm.sets, dict(given), list(rows), arm.used_as, seed, [sha256_file(file) for file in files]])


def _read(file: Path, key: str) -> Scores | None:
    """The scores that were kept under this key; None where they were made of something else."""
    kept = read_json(file)
    if kept["key"] != key:
        return None
    return {(row, metric): values for row, metric, values in kept["scores"]}


def set_options(values: Mapping[str, Any]) -> Iterator[str]:
    """`--set key=value` for each of them."""
    for key, value in values.items():
        yield from ("--set", f"{key}={json.dumps(value)}")


def run_experiment(
    description: str | None, results: Callable[[Path, Path, int, Mapping[str, Any]], dict[str, Any]]
) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Read the command line of an experiment, make its run up to the features, and call `results`.

    With --full the run and the arms are kept below the working directory, otherwise in a folder that is removed.

    Args:
        description: what --help says.
        results: from the run, the folder of the arms, the number of seeds and what to set in the recipe.
    """
    arguments = Arguments(description)
    arguments.add_size("--seeds", short=1, full=3)
    arguments.add_argument("--run", type=Path, help="run directory  [default: runs/miniature, or one of its own]")
    arguments.add_argument("--folder", type=Path, help="of the arms  [default: build/arms, or one of its own]")
    asked = arguments.parse()
    with tempfile.TemporaryDirectory() as temporary:
        at = Path() if asked.full else Path(temporary)
        run = asked.run or at / "runs/miniature"
        folder = asked.folder or at / "build/arms"
        sets = {} if asked.full else SHORT
        say("the run up to its features")
        return asked, results(loop(run, sets), folder, asked.seeds, sets)


def table_line(title: str, row: Mapping[str, Any]) -> str:
    """A row of the table: its title, and each metric with its interval."""
    return "  ".join([title, *(f"{metric} {told(row[metric], 2)}" for metric in METRICS)])
