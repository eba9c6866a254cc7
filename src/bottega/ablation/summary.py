"""From the scores of all variants and seeds to the rows of the table, each paired with the baseline.

Legend: C contents, S styles, T training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bottega.ablation.plan import AblationPlan, baseline_of, cost
from bottega.ablation.records import AblationRow, AblationSummary, ExamplePicture, FactorDifference, Verdict
from bottega.ablation.variants import BASELINE, RecipeVariant
from bottega.data.records import Pair
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.factors import FactorEstimate, crossed_seeds_difference, crossed_seeds_mean
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.records import FactorRecord, MetricCell, ScoreLine, SummaryRecord
from bottega.evaluation.verdicts import Corrected, corrected
from bottega.runtime.files import read_json
from bottega.runtime.provenance import describe
from bottega.runtime.records import read_records
from bottega.training.log import METRICS as LOG
from bottega.training.log import read_metrics

SHOWN = ("kind_gain", "truth", "objects_iou", "structure", "palette", "text")
"""Metrics of the table for people, whose differences are one family of tests."""

EXAMPLES = 3
"""Pictures named of each row: the same pairs in all, evenly over the test pairs."""

INTERVAL = "crossed contents × styles × training seeds, Student's t on the variance of each factor"
_NOTE = (
    "differences of a row are corrected for the metrics shown (Holm): their intervals have the level at which each was "
    "tested. They are not corrected for the number of rows: of 20 variants without any effect, one is expected to show "
    "one"
)
_VERDICTS: Mapping[str, Verdict] = {
    "better": "better",
    "worse": "worse",
    "differs": "different",
    "inconclusive": "inconclusive",
    "not known": "inconclusive",
}

Cube = npt.NDArray[np.float64]  # [C, S, T]
Cubes = Mapping[str, Cube]
"""By metric."""


def summarise(
    plan: AblationPlan,
    evaluation: EvaluationConfig,
    directory: Path,
    *,
    pairs: Sequence[Pair],
    name: str,
    failed: Mapping[str, str | None],
    seconds: dict[str, float],
) -> AblationSummary:
    """The numbers of an ablation, from the `scores.jsonl` of its evaluations.

    Args:
        plan: what was trained.
        evaluation: how it was measured.
        directory: of the ablation.
        pairs: the test pairs that were drawn.
        name: of the recipe.
        failed: why a training could not go on, by its place; None for all others.
        seconds: of the parts.
    """
    first = _summary_of(directory, baseline_of(plan), plan.seeds[0])
    cubes = {variant.name: _cubes(plan, variant, directory, pairs, failed) for variant in plan.variants.chosen}
    own = cubes[BASELINE]
    rows: list[AblationRow] = []
    for variant in plan.variants.chosen:
        row = _row(plan, variant, directory, pairs, failed)
        row["metrics"] = {metric: _mean(metric, cube, evaluation.level) for metric, cube in cubes[variant.name].items()}
        if variant.name != BASELINE:
            row["differences"] = _differences(cubes[variant.name], own, evaluation.level)
        rows.append(row)
    not_measured = {f"variant {left}": f"left out: {why}" for left, why in plan.variants.left_out.items()}
    for metric in METRICS:
        if metric not in own:
            not_measured[metric] = first["rows"]["student"]["metrics"][metric]["status"]
    return {
        "name": name,
        "design": plan.design,
        "baseline": BASELINE,
        "steps": plan.base.loop.steps,
        "samples": plan.base.loop.steps * plan.base.global_batch,
        "seeds": list(plan.seeds),
        "pairs": len(pairs),
        "contents": len({pair.content_id for pair in pairs}),
        "styles": len({pair.style_id for pair in pairs}),
        "metrics": first["metrics"],
        "rows": rows,
        "controls": _controls(first),
        "interval": INTERVAL,
        "level": evaluation.level,
        "interval_note": _NOTE,
        "not_measured": not_measured,
        "seconds": seconds,
        "provenance": {**describe(), "networks": first.get("networks", {})},
    }


def _summary_of(directory: Path, variant: RecipeVariant, seed: int) -> SummaryRecord:
    """The evaluation of one training: that of the baseline's first seed has the controls."""
    found: SummaryRecord = read_json(_evaluated(directory, variant, seed) / "summary.json")
    return found


def _evaluated(directory: Path, variant: RecipeVariant, seed: int) -> Path:
    return directory / "evaluated" / variant.name / f"seed{seed}"


def _controls(summary: SummaryRecord) -> dict[str, dict[str, MetricCell]]:
    """What no variant drew, of the same pairs."""
    found: dict[str, dict[str, MetricCell]] = {}
    for row, record in summary["rows"].items():
        if row != "student" and record["status"] == "measured":
            found[row] = record["metrics"]
    return found


def _cubes(
    plan: AblationPlan, variant: RecipeVariant, directory: Path, pairs: Sequence[Pair], failed: Mapping[str, str | None]
) -> Cubes:
    """A variant's scores by metric, [C, S, T]; NaN where there is none."""
    cells = _cells(pairs)
    contents, styles = map(max, zip(*cells.values(), strict=True))
    shape = (contents + 1, styles + 1, len(plan.seeds))
    found: dict[str, Cube] = {}
    for number, seed in enumerate(plan.seeds):
        if failed.get(f"{variant.name}/seed{seed}") is not None:
            continue
        for line in read_records(_evaluated(directory, variant, seed) / "scores.jsonl", ScoreLine):
            if line["row"] == "student" and line["pair_id"] in cells:
                cube = found.setdefault(line["metric"], np.full(shape, np.nan))
                cube[(*cells[line["pair_id"]], number)] = line["value"]
    return {metric: found[metric] for metric in METRICS if metric in found}


def _cells(pairs: Sequence[Pair]) -> dict[str, tuple[int, int]]:
    """The content's and the style's number of each pair, by its id."""
    contents: dict[str, int] = {}
    styles: dict[str, int] = {}
    cells: dict[str, tuple[int, int]] = {}
    for pair in pairs:
        content = contents.setdefault(pair.content_id, len(contents))
        style = styles.setdefault(pair.style_id, len(styles))
        cells[pair.pair_id] = (content, style)
    return cells


def _row(
    plan: AblationPlan, variant: RecipeVariant, directory: Path, pairs: Sequence[Pair], failed: Mapping[str, str | None]
) -> AblationRow:
    """A row without its numbers from pictures."""
    whole: list[int] = []
    reasons: list[str] = []
    for seed in plan.seeds:
        reason = failed.get(f"{variant.name}/seed{seed}")
        if reason is None:
            whole.append(seed)
        else:
            reasons.append(f"seed {seed}: {reason}")
    status = "measured"
    if reasons:
        status = f"{len(reasons)} of {len(plan.seeds)} trainings could not go on: {'; '.join(reasons)}"
    return {
        "name": variant.name,
        "factor": variant.factor,
        "level": variant.level,
        "settings": {f"student.{name}": value for name, value in variant.changes.items()},
        "learning_rate": variant.config.loop.learning_rate,
        "seeds": whole,
        "status": status,
        "metrics": {},
        "differences": {},
        "parameters": _parameters(directory, variant, whole),
        "seconds": _seconds(directory, variant, whole),
        "cost": round(cost(variant.config, plan.blocks) / cost(plan.base, plan.blocks), 3),
        "adapters": [f"trained/{variant.name}/seed{seed}/adapter.safetensors" for seed in whole],
        "examples": _examples(directory, variant, pairs, whole),
    }


def _parameters(directory: Path, variant: RecipeVariant, seeds: Sequence[int]) -> int:
    for seed in seeds:
        report = read_json(directory / "trained" / variant.name / f"seed{seed}" / "training.json")
        return int(report["parameters"])
    return 0


def _seconds(directory: Path, variant: RecipeVariant, seeds: Sequence[int]) -> float:
    """Of a training's steps, the mean over seeds; from the log, which a stopped training goes on with."""
    sums: list[float] = []
    for seed in seeds:
        rows = read_metrics(directory / "trained" / variant.name / f"seed{seed}" / LOG)
        sums.append(math.fsum(float(row.get("seconds", 0.0)) for row in rows))
    return round(math.fsum(sums) / len(sums), 1) if sums else 0.0


def _examples(
    directory: Path, variant: RecipeVariant, pairs: Sequence[Pair], seeds: Sequence[int]
) -> list[ExamplePicture]:
    """Pictures of the same pairs in every row, of its first seed."""
    if not seeds:
        return []
    places = np.linspace(0, len(pairs) - 1, min(EXAMPLES, len(pairs))).round().astype(int).tolist()
    found: list[ExamplePicture] = []
    for place in places:
        pair = pairs[place]
        picture = _evaluated(directory, variant, seeds[0]) / "pictures" / "student" / f"{pair.pair_id}.png"
        if picture.is_file():
            found.append(
                {
                    "pair_id": pair.pair_id,
                    "picture": picture.relative_to(directory).as_posix(),
                    "content": pair.content_path,
                    "style": pair.style_path,
                }
            )
    return found


def _mean(metric: str, cube: Cube, level: float) -> FactorRecord:
    return crossed_seeds_mean(cube, level=level, within=METRICS[metric].bounds).record()


def _differences(cubes: Cubes, own: Cubes, level: float) -> dict[str, FactorDifference]:
    """A variant minus the baseline, paired, in each metric that both have."""
    estimates: dict[str, FactorEstimate] = {}
    for metric, cube in cubes.items():
        if metric in own and not np.isnan(cube - own[metric]).all():
            estimates[metric] = crossed_seeds_difference(cube, own[metric], level=level)
    # Two families: what the table shows, and all else. One of all would test the first at the price of the others.
    first = {metric: estimate for metric, estimate in estimates.items() if metric in SHOWN}
    others = {metric: estimate for metric, estimate in estimates.items() if metric not in SHOWN}
    sides = {metric: METRICS[metric].better for metric in estimates}
    judged = corrected(first, sides, level=level) | corrected(others, sides, level=level)
    return {metric: _difference(judged[metric]) for metric in estimates}


def _difference(found: Corrected) -> FactorDifference:
    """A difference with the interval at which it was tested, so that it leaves out 0 where there is a verdict alone."""
    record = found.estimate.record()
    record["level"] = found.level
    record["low"] = found.low
    record["high"] = found.high
    record["p_value"] = found.p_value
    return {**record, "verdict": _VERDICTS[found.outcome], "seen_from": found.detectable, "family": found.family}
