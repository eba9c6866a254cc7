"""Several runs side by side: their means on the pairs that all have, and what each differs by from the first.

    compare.json    everything, as `records.ComparisonRecord`
    compare.md      the tables for people
    compare.csv     a line a method and metric

Trainings of one recipe with several seeds are one method, see `runs`. All methods are averaged over the same pairs.
Differences are paired by content, style and seed, and corrected for the number of metrics, see `verdicts`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bottega.evaluation.factors import FactorEstimate, crossed_seeds_difference, crossed_seeds_mean
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.records import (
    ComparedDifference,
    ComparedMethod,
    ComparisonRecord,
    FactorRecord,
    MetricRecord,
)
from bottega.evaluation.runs import (
    EvaluatedRun,
    Shared,
    TrainedMethod,
    by_ids,
    matched_seeds,
    methods,
    require_comparable,
    shared_pairs,
)
from bottega.evaluation.verdicts import corrected, figures
from bottega.runtime.errors import RequestError
from bottega.runtime.files import write_json, write_text

ONE_TRAINING = (
    "Some method has one training only: its differences are for that training, and another seed may change them. Train "
    "with three values of student.seed or more."
)
_ARROWS = {"higher": "↑", "lower": "↓", "neither": ""}


def compare(
    runs: Sequence[EvaluatedRun],
    named: Mapping[str, Sequence[EvaluatedRun]] | None = None,
    *,
    row: str = "student",
    level: float = 0.95,
) -> ComparisonRecord:
    """Compare methods, each with one training or several.

    Args:
        runs: grouped into methods by their recipes.
        named: methods that the user has named, with their trainings.
        row: of the evaluations' tables.
        level: 1 minus the chance that any winner in a method's line of differences is false.

    Raises:
        RequestError: fewer than two methods, no pair in common, or scores that can't be compared.
    """
    named = named or {}
    given = [*runs]
    for trainings in named.values():
        given += trainings
    hashed = all(run.hashed for run in given)
    found = _methods(runs, named, given, hashed)
    every: list[EvaluatedRun] = []
    for method in found:
        every += method.runs
    unavailable = require_comparable(every)
    shared = shared_pairs(every, [row])
    means: dict[str, ComparedMethod] = {}
    differences: dict[str, dict[str, ComparedDifference]] = {}
    for method in found:
        means[method.name] = _means(method, shared, row, unavailable, level)
    for method in found[1:]:
        differences[method.name] = _differences(method, found[0], shared, row, unavailable, level)
    return {
        "row": row,
        "level": level,
        "first": found[0].name,
        "metrics": _metric_records(),
        "methods": means,
        "differences": differences,
        "pairs": len(shared.cells),
        "contents": len(shared.contents),
        "styles": len(shared.styles),
        "of_runs": {str(run.folder): len(run.cells) for run in every},
        "unavailable": unavailable,
        "notes": _notes(found, shared, every, hashed),
    }


def _methods(
    runs: Sequence[EvaluatedRun],
    named: Mapping[str, Sequence[EvaluatedRun]],
    given: Sequence[EvaluatedRun],
    hashed: bool,
) -> list[TrainedMethod]:
    """The methods, two or more; without hashes of all pictures, pairs are matched by their ids alone."""
    if not hashed:
        runs = [by_ids(run) for run in runs]
        renamed: dict[str, Sequence[EvaluatedRun]] = {}
        for name, trainings in named.items():
            renamed[name] = [by_ids(run) for run in trainings]
        named = renamed
    found = methods(runs, named)
    if len(found) < 2:
        names = ", ".join(run.name for run in given)
        raise RequestError(
            f"a comparison needs two methods, received one: {names} are trainings of one recipe; add a run of another "
            "recipe, or tell them apart: --method NAME=RUN"
        )
    return found


def write(comparison: ComparisonRecord, directory: Path) -> None:
    """Write `compare.json`, `compare.md` and `compare.csv`."""
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "compare.json", comparison)
    write_text(directory / "compare.md", markdown(comparison))
    write_text(directory / "compare.csv", as_csv(comparison))


def markdown(comparison: ComparisonRecord) -> str:
    """The tables for people: a line a metric, a column a method."""
    names = list(comparison["methods"])
    lines = [
        f"# {' and '.join(names)}" if len(names) == 2 else f"# {len(names)} methods",
        "",
        f"{comparison['pairs']} pairs that all have: {comparison['contents']} contents × {comparison['styles']} "
        f"styles. Row *{comparison['row']}*; in brackets the {comparison['level']:.0%} interval over contents, styles "
        "and trainings.",
        "",
        *_means_table(comparison),
        "",
        f"Differences from *{comparison['first']}*, paired by content, style and seed; intervals corrected for the "
        "metrics of a column (Holm):",
        "",
        *_differences_table(comparison),
        "",
    ]
    lines += [f"- {METRICS[metric].title}: not compared, {why}" for metric, why in comparison["unavailable"].items()]
    lines += [f"- {note}" for note in comparison["notes"]]
    return "\n".join(lines).rstrip() + "\n"


def _means_table(comparison: ComparisonRecord) -> list[str]:
    """A line a metric, a column a method."""
    compared = comparison["methods"].values()
    lines = _head([f"{name} ({_trainings(method)})" for name, method in comparison["methods"].items()])
    for metric in _measured(comparison):
        lines.append(_line([_title(metric), *(_mean_cell(method["metrics"].get(metric)) for method in compared)]))
    return lines


def _differences_table(comparison: ComparisonRecord) -> list[str]:
    """A line a metric, a column a method but the first."""
    gaps = comparison["differences"].values()
    lines = _head([f"{name} − {comparison['first']}" for name in comparison["differences"]])
    for metric in _measured(comparison):
        lines.append(_line([_title(metric), *(_difference_cell(of_method.get(metric)) for of_method in gaps)]))
    return lines


def _measured(comparison: ComparisonRecord) -> list[str]:
    """The metrics that any method has, in the order of all tables."""
    found: set[str] = set()
    for method in comparison["methods"].values():
        found.update(method["metrics"])
    return [name for name in METRICS if name in found]


def _head(titles: Sequence[str]) -> list[str]:
    return [_line(["metric", *titles]), "|---" * (len(titles) + 1) + "|"]


COLUMNS = (
    *("method", "metric", "unit", "better", "value", "low", "high", "n", "contents", "styles", "seeds"),
    *("difference", "difference_low", "difference_high", "p_holm", "outcome", "detectable"),
)
"""Of `compare.csv`; the differences are from the first method, whose own lines have none."""


def as_csv(comparison: ComparisonRecord) -> str:
    """A line a method and metric, with its difference from the first method."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for name, method in comparison["methods"].items():
        for metric, mean in method["metrics"].items():
            info = METRICS[metric]
            line: dict[str, object] = {"method": name, "metric": metric, "unit": info.unit, "better": info.better}
            for key in ("value", "low", "high", "n", "contents", "styles", "seeds"):
                line[key] = mean[key]
            gap = comparison["differences"].get(name, {}).get(metric)
            if gap is not None:
                judged = gap["corrected"]
                line["difference"] = gap["difference"]["value"]
                line["difference_low"], line["difference_high"] = judged["low"], judged["high"]
                line["p_holm"], line["outcome"] = judged["p_value"], judged["outcome"]
                line["detectable"] = judged["detectable"]
            table.writerow(line)  # None is written as nothing
    return text.getvalue()


def _means(
    method: TrainedMethod, shared: Shared, row: str, unavailable: dict[str, str], level: float
) -> ComparedMethod:
    metrics: dict[str, FactorRecord] = {}
    for metric in METRICS:
        cube = shared.cube(method.runs, row, metric)
        if metric not in unavailable and not np.isnan(cube).all():
            metrics[metric] = crossed_seeds_mean(cube, level=level, within=METRICS[metric].bounds).record()
    return {"runs": [str(run.folder) for run in method.runs], "seeds": method.seeds, "metrics": metrics}


def _differences(
    method: TrainedMethod, first: TrainedMethod, shared: Shared, row: str, unavailable: dict[str, str], level: float
) -> dict[str, ComparedDifference]:
    estimates: dict[str, FactorEstimate] = {}
    for metric in METRICS:
        if metric in unavailable:
            continue
        estimate = difference(method, first, shared, (row, row), metric, level)
        if estimate is not None:
            estimates[metric] = estimate
    verdicts = corrected(estimates, {metric: METRICS[metric].better for metric in estimates}, level=level)
    return {
        metric: {"difference": estimate.record(), "corrected": verdicts[metric].record()}
        for metric, estimate in estimates.items()
    }


def difference(
    method: TrainedMethod, first: TrainedMethod, shared: Shared, rows: tuple[str, str], metric: str, level: float
) -> FactorEstimate | None:
    """A method minus another, over the pairs and the trainings that both have; None where no score is in both.

    Args:
        rows: of the method, and of the other.
    """
    matched = matched_seeds(method.seeds, first.seeds)
    one = shared.cube([method.runs[k] for k, _ in matched], rows[0], metric)
    other = shared.cube([first.runs[k] for _, k in matched], rows[1], metric)
    if np.isnan(one - other).all():
        return None
    return crossed_seeds_difference(one, other, level=level)


def _metric_records() -> dict[str, MetricRecord]:
    found: dict[str, MetricRecord] = {}
    for name, info in METRICS.items():
        found[name] = {"title": info.title, "unit": info.unit, "better": info.better, "meaning": info.meaning}
    return found


def _notes(found: Sequence[TrainedMethod], shared: Shared, every: Sequence[EvaluatedRun], hashed: bool) -> list[str]:
    notes: list[str] = []
    if any(len(method.runs) == 1 for method in found):
        notes.append(ONE_TRAINING)
    for method in found[1:]:
        notes += _seed_notes(method, found[0])
    short = [run.name for run in every if len(run.cells) > len(shared.cells)]
    if short:
        notes.append(f"Pairs that not all have are left out of all; {', '.join(short)} have more.")
    if not hashed:
        notes.append("Some evaluation has no pairs.jsonl: pairs are matched by their ids, not by the pictures' hashes.")
    return notes


def _seed_notes(method: TrainedMethod, first: TrainedMethod) -> list[str]:
    """How the trainings of two methods were paired, where that is not seed by seed."""
    notes: list[str] = []
    if len(method.runs) > 1 and set(method.seeds) != set(first.seeds):
        notes.append(f"{method.name} and {first.name} have other seeds: trainings are paired in their order.")
    if len(method.runs) != len(first.runs):
        fewer = min(len(method.runs), len(first.runs))
        notes.append(f"{method.name} and {first.name} are compared over {fewer} trainings each.")
    return notes


def _trainings(method: ComparedMethod) -> str:
    count = len(method["runs"])
    return "1 training" if count == 1 else f"{count} trainings"


def _title(metric: str) -> str:
    info = METRICS[metric]
    return f"{info.title} {_ARROWS[info.better]} ({info.unit})"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean_cell(mean: FactorRecord | None) -> str:
    if mean is None:
        return "—"
    if mean["low"] is None or mean["high"] is None:
        return f"{_number(mean['value'])} [no interval: {mean['no_interval']}]"
    return f"{_number(mean['value'])} [{_number(mean['low'])}, {_number(mean['high'])}]"


def _difference_cell(gap: ComparedDifference | None) -> str:
    if gap is None:
        return "—"
    value, judged = _number(gap["difference"]["value"]), gap["corrected"]
    if judged["low"] is None or judged["high"] is None:
        return f"{value} {judged['verdict']}"
    text = f"{value} [{_number(judged['low'])}, {_number(judged['high'])}]"
    if judged["outcome"] == "inconclusive":
        return f"{text} {judged['verdict']}"
    return f"**{text}** {judged['outcome']}"


def _number(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else figures(value) if 0 < abs(value) < 0.1 else f"{value:.2f}"
