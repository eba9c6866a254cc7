"""Which checkpoint is best, and does training longer still pay? `bottega evaluate checkpoints`.

What a training keeps (`student.loop.keep_best`) draws the same held-out pairs from the same noise, is measured by the
evaluation's metrics, and is compared pair by pair. The pairs are of the split `val`: a choice made on the test pairs
would flatter the figure that is reported on them.

    checkpoints/{base,step_00000250}/{pair_id}.png   what each drew, with made.jsonl beside them
    checkpoints/scores.jsonl                         {pair_id, row, metric, value, sha256}; a row a checkpoint
    checkpoints.json, checkpoints.md                 what is compared here

Read `run` from top to bottom. Legend: C contents, S styles.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bottega.data.records import Pair, read_pairs
from bottega.evaluation.checkpoint_records import (
    BestCheckpoint,
    CheckpointCell,
    CheckpointRow,
    CheckpointsRecord,
    CheckpointTrend,
    Pays,
)
from bottega.evaluation.checkpoint_table import markdown
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.drawing import Request, draw_missing, drawn_by
from bottega.evaluation.factors import (
    METHOD,
    UNBOUNDED,
    Cube,
    FactorEstimate,
    crossed_seeds_difference,
    crossed_seeds_mean,
)
from bottega.evaluation.grid import Grid, by_turns
from bottega.evaluation.metrics import METRICS
from bottega.evaluation.networks import load_networks
from bottega.evaluation.plans import CannotDrawError, plan_student
from bottega.evaluation.records import MetricRecord, ScoreLine
from bottega.evaluation.scoring import measure_all
from bottega.evaluation.sources import Sources
from bottega.evaluation.summary import score_lines
from bottega.runtime.errors import MissingError, RequestError, WorkError
from bottega.runtime.files import sha256_file, write_json, write_jsonl, write_text
from bottega.runtime.trust import renew
from bottega.training.kept import FOLDER, read_kept, require_kept

if TYPE_CHECKING:
    from bottega.models.config import ModelsConfig

NAME = "checkpoints.json"
TABLE = "checkpoints.md"
BASE = "base"
"""The row of the frozen base: what there was before the first step."""

BALANCE = "balance"
BALANCED: Mapping[str, Sequence[str]] = {"style": ("kind_gain", "palette"), "content": ("objects_iou", "structure")}
"""The metrics of either half of `balance`, as far as they were measured. A copy of the style picture wins every metric
of the one half, a copy of the content every metric of the other."""

_BALANCE_RECORD: MetricRecord = {
    "title": "style and content",
    "unit": "spreads",
    "better": "higher",
    "meaning": "half of it style, half content; each metric in units of its spread over all of these pictures",
}

LAST_PART = 2 / 3
"""Where the last third of a training begins, as a share of its steps."""

NO_MORE = 0.1
"""Share of all that a training gained: where the last third surely added no more, training longer does not pay."""

MEASURED_SHARE = 0.5
"""Of the pairs that must have a score, or the metric is left out: a mean over few would be one of other pairs."""

Cell = tuple[str, str]
"""(content id, style id)."""

Values = Mapping[str, Mapping[str, Mapping[Cell, float]]]
"""metric -> row -> cell -> value."""


@dataclass(frozen=True)
class Compared:
    """An adapter that is compared: after which step, its file, its validation loss where that is known."""

    step: int
    path: Path
    val_loss: float | None = None

    @property
    def row(self) -> str:
        """What it is called."""
        return f"step_{self.step:08d}"


def run(
    config: EvaluationConfig,
    directory: Path,
    *,
    training: Path,
    pairs: Path,
    data_root: Path,
    models: ModelsConfig,
    by: str | None = None,
) -> CheckpointsRecord:
    """Compare what a training has kept. May be called again: pictures and scores that still hold are used again.

    Args:
        config: seed, size and intervals as of the evaluation; `checkpoint_pairs` of them are drawn.
        directory: of the evaluation, where everything is written.
        training: folder of the training, which may be under way.
        pairs: of the split `val`; all their contents are crossed with all their styles.
        data_root: what the pairs' paths are relative to.
        models: what draws and what judges.
        by: the metric that decides; None: `balance`, or the first that was measured.

    Raises:
        RequestError: fewer than two adapters, test pairs, no metric of that name.
        MissingError: the pairs or a model are not there.
        DamagedError: an adapter is not what was kept.
    """
    # What is compared, and on which pairs.
    adapters = kept_adapters(training)
    grid = crossed(read_pairs(pairs), config.checkpoint_pairs, pairs)

    # The frozen base and every checkpoint draw the same pairs from the same noise; then all are measured.
    drawings = _Drawings(config, directory / "checkpoints", grid, data_root, models)
    files = drawings.draw(adapters)
    lines, absent = drawings.measure(files)
    write_jsonl(drawings.home / "scores.jsonl", lines)

    # The numbers, from those lines alone.
    values, few = _by_metric(lines, grid)
    record = compare(values, adapters, grid, config.level, by)
    record["not_measured"] = {**absent, **few}
    write_json(directory / NAME, record)
    write_text(directory / TABLE, markdown(record))
    renew(directory / NAME, directory / TABLE)
    return record


def kept_adapters(training: Path) -> list[Compared]:
    """The adapters that a training has kept, and the one that it ended with, by step.

    Raises:
        RequestError: there are fewer than two; says what to set.
        DamagedError: one is not what was kept.
    """
    from bottega.student.export import read_header

    found: dict[int, Compared] = {}
    last = training / "adapter.safetensors"
    if last.is_file():
        step = read_header(last)["steps"]
        found[step] = Compared(step, last)
    for record in read_kept(training):
        found[record["step"]] = Compared(record["step"], require_kept(training, record), record["val_loss"])
    if len(found) < 2:
        raise RequestError(
            f"a comparison of checkpoints needs at least two adapters, {training} has {len(found)}; set "
            "student.loop.keep_best=8, and train, or train longer: the checkpoints to come are kept"
        )
    return [found[step] for step in sorted(found)]


def crossed(pairs: Iterable[Pair], limit: int, where: Path) -> Grid:
    """A crossed grid of the pairs' contents and styles: nearly a square of at most `limit` pairs, of many labels.

    Raises:
        RequestError: there is no pair, or they are test pairs.
    """
    contents: dict[str, Pair] = {}
    styles: dict[str, Pair] = {}
    for pair in pairs:
        if pair.split == "test":
            raise RequestError(
                f"{where} holds test pairs; a checkpoint chosen on them would flatter the figure that is reported on "
                "them: name validation pairs (--pairs RUN/pairs/val.jsonl)"
            )
        contents.setdefault(pair.content_id, pair)
        styles.setdefault(pair.style_id, pair)
    if not contents:
        raise RequestError(f"{where} holds no pair; make validation pairs: set pairs.val, or name others (--pairs)")
    labels = {style: pair.style for style, pair in styles.items()}
    columns = by_turns(list(styles), labels)[: max(1, math.isqrt(limit))]
    rows = list(contents)[: max(1, limit // len(columns))]
    return Grid.of(_meet(contents[row], styles[column]) for row in rows for column in columns)


def _meet(content: Pair, style: Pair) -> Pair:
    """The pair of one pair's content and another's style, named as a list of pairs names it."""
    return replace(
        content,
        pair_id=f"{content.content_id}_{style.style_id}",
        style_id=style.style_id,
        style_path=style.style_path,
        style=style.style,
    )


@dataclass(frozen=True)
class _Drawings:
    """What drawing and measuring need.

    Args:
        config: of the evaluation.
        home: where pictures and scores go.
        grid: the pairs.
        data_root: what their paths are relative to.
        models: what draws and what judges.
    """

    config: EvaluationConfig
    home: Path
    grid: Grid
    data_root: Path
    models: ModelsConfig

    def draw(self, adapters: Sequence[Compared]) -> dict[str, Mapping[str, Path]]:
        """The pictures of the base and of each adapter, by row and pair id; all in one process."""
        requests = {BASE: self._request(BASE, BASE, adapters[-1])}
        for adapter in adapters:
            requests[adapter.row] = self._request(adapter.row, "student", adapter)
        draw_missing(list(requests.values()))
        return {row: drawn_by(request) for row, request in requests.items()}

    def _request(self, name: str, row: str, adapter: Compared) -> Request:
        try:
            plan = plan_student(row, adapter.path, self.grid, self.data_root, self.models)
        except CannotDrawError as error:
            raise MissingError(f"{adapter.path} can't draw: {error}") from error
        return Request(
            row=row,
            directory=str(self.home / name),
            data_root=str(self.data_root),
            pairs=self.grid.pairs,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            fingerprint=plan.fingerprint,
            settings=plan.settings,
        )

    def measure(self, files: Mapping[str, Mapping[str, Path]]) -> tuple[list[ScoreLine], dict[str, str]]:
        """The scores of all pictures, under the name of their row, and what could not be measured at all.

        A pair of which any row has no picture, or one that can't be read, is left out of all rows.
        """
        config = self.config.model_copy(update={"rows": ("student",)})
        sources = Sources(self.data_root, self.config.size or _side(files), self.config.truths)
        networks = load_networks(self.models)
        labels = networks.style_classifier.labels if networks.style_classifier else []
        absent = dict(networks.absent)
        grid = Grid.of(pair for pair in self.grid.pairs if all(pair.pair_id in drawn for drawn in files.values()))
        if len(grid) < len(self.grid):
            absent["pairs"] = f"{len(self.grid) - len(grid)} of {len(self.grid)} pairs have no picture of some row"
        lines: list[ScoreLine] = []
        for row, drawn in files.items():
            kept = self.home / "measured.jsonl"
            measured = measure_all(grid, {"student": drawn}, config, sources, networks, kept)
            absent |= measured.broken
            for line in score_lines(grid, measured, labels):
                lines.append({**line, "row": row})
        return lines, absent


def _side(files: Mapping[str, Mapping[str, Path]]) -> int:
    """The side of what was drawn, in pixels.

    Raises:
        WorkError: nothing was.
    """
    from PIL import Image

    for drawn in files.values():
        for path in drawn.values():
            with Image.open(path) as image:
                return int(min(image.size))
    raise WorkError("no pair has a picture that could be drawn; the lines of made.jsonl beside them say why")


def _by_metric(lines: Iterable[ScoreLine], grid: Grid) -> tuple[Values, dict[str, str]]:
    """Scores by metric, row and cell, in the order of the metrics; and why some metrics are left out."""
    cells = {pair.pair_id: (pair.content_id, pair.style_id) for pair in grid.pairs}
    found: dict[str, dict[str, dict[Cell, float]]] = {}
    for line in lines:
        of_metric = found.setdefault(line["metric"], {})
        of_metric.setdefault(line["row"], {})[cells[line["pair_id"]]] = line["value"]
    values: dict[str, Mapping[str, Mapping[Cell, float]]] = {}
    left_out: dict[str, str] = {}
    for name, metric in METRICS.items():
        measured = min((len(of_row) for of_row in found.get(name, {}).values()), default=0)
        if measured >= MEASURED_SHARE * len(grid):
            values[name] = found[name]
        elif measured:
            left_out[metric.title] = f"only {measured} of {len(grid)} pairs have it"
    return values, left_out


# --- the numbers ------------------------------------------------------------------------------------------------------


def compare(
    values: Values, adapters: Sequence[Compared], grid: Grid, level: float, by: str | None = None
) -> CheckpointsRecord:
    """All that the scores say of the checkpoints; `not_measured` is left empty.

    Args:
        values: the scores of the base and of every adapter.
        adapters: at least two, by step.
        grid: the pairs.
        level: coverage of the intervals, a share.
        by: the metric that decides; None: `balance`, or the first that was measured.

    Raises:
        RequestError: no metric of that name was measured.
    """
    balance = _balance(values)
    if balance is not None:
        values = {BALANCE: balance, **values}
    if not values or (by is not None and by not in values):
        raise RequestError(f"--by {by}: checkpoints are compared by {', '.join(values) or 'nothing: no metric'} here")

    record = _without_numbers(list(values), adapters, grid, level)
    record["by"] = by or next(iter(values))
    for name, of_metric in values.items():
        cubes = {row: _cube(grid, cells) for row, cells in of_metric.items()}
        _compare_by(name, cubes, record)
    record["sentences"] = _sentences(record)
    return record


def _without_numbers(names: Sequence[str], adapters: Sequence[Compared], grid: Grid, level: float) -> CheckpointsRecord:
    """The record before the first comparison."""
    rows = [_row(BASE, 0, adapters[-1].path, None)]
    rows += [_row(adapter.row, adapter.step, adapter.path, adapter.val_loss) for adapter in adapters]
    return {
        "pairs": len(grid),
        "contents": len(grid.contents),
        "styles": len(grid.styles),
        "labels": len(set(grid.labels.values())),
        "split": " and ".join(sorted({pair.split or "unnamed" for pair in grid.pairs})),
        "interval": METHOD,
        "level": level,
        # Of several comparisons with the best, one in 20 would come out by chance: each at a level that holds for all.
        "corrected_level": 1 - (1 - level) / max(len(adapters) - 1, 1),
        "by": "",
        "metrics": {name: _metric(name) for name in names},
        "rows": rows,
        "best": {},
        "trend": {},
        "sentences": [],
        "not_measured": {},
    }


def _metric(name: str) -> MetricRecord:
    if name == BALANCE:
        return _BALANCE_RECORD
    metric = METRICS[name]
    return {"title": metric.title, "unit": metric.unit, "better": metric.better, "meaning": metric.meaning}


def _row(name: str, step: int, path: Path, val_loss: float | None) -> CheckpointRow:
    file = f"{path.parent.name}/{path.name}" if path.parent.name == FOLDER else path.name
    return {
        "name": name,
        "step": step,
        "file": "" if step == 0 else file,
        "sha256": "" if step == 0 else sha256_file(path),
        "val_loss": val_loss,
        "metrics": {},
        "behind": {},
    }


def _balance(values: Values) -> Mapping[str, Mapping[Cell, float]] | None:
    """The mean of style and content, each picture's; None where a half was not measured."""
    halves: list[Mapping[str, Mapping[Cell, float]]] = []
    for names in BALANCED.values():
        measured = [_in_spreads(values[name], METRICS[name].better) for name in names if name in values]
        if not measured:
            return None
        halves.append(_mean_of(measured))
    return _mean_of(halves)


def _in_spreads(of_metric: Mapping[str, Mapping[Cell, float]], better: str) -> Mapping[str, Mapping[Cell, float]]:
    """A metric in units of its spread over all pictures, 0 its mean, larger better."""
    pooled = np.array([value for cells in of_metric.values() for value in cells.values()])
    sign = -1.0 if better == "lower" else 1.0
    # Where all pictures have one value, the metric tells nothing apart: it then adds 0 to each.
    scale = sign / (float(pooled.std()) or 1.0)
    middle = float(pooled.mean())
    found: dict[str, dict[Cell, float]] = {}
    for row, cells in of_metric.items():
        found[row] = {cell: scale * (value - middle) for cell, value in cells.items()}
    return found


def _mean_of(parts: Sequence[Mapping[str, Mapping[Cell, float]]]) -> Mapping[str, Mapping[Cell, float]]:
    """The mean of several values of each cell, where all of them are there."""
    found: dict[str, dict[Cell, float]] = {}
    for row, cells in parts[0].items():
        found[row] = {}
        for cell in cells:
            several = [part[row][cell] for part in parts if cell in part[row]]
            if len(several) == len(parts):
                found[row][cell] = float(np.mean(several))
    return found


def _cube(grid: Grid, cells: Mapping[Cell, float]) -> Cube:
    """[C, S, 1]: of one training."""
    return grid.matrix(cells)[:, :, None]


def _compare_by(name: str, cubes: Mapping[str, Cube], record: CheckpointsRecord) -> None:
    """Put what one metric says into the record: every row's mean, how far it is behind the best, the trend."""
    sign = -1.0 if record["metrics"][name]["better"] == "lower" else 1.0
    for row in record["rows"]:
        within = METRICS[name].bounds if name in METRICS else UNBOUNDED  # the balance of several has none
        row["metrics"][name] = _cell(crossed_seeds_mean(cubes[row["name"]], level=record["level"], within=within))

    # Every other checkpoint against the best, as if each could be it.
    trained = record["rows"][1:]
    best = max(trained, key=lambda row: sign * row["metrics"][name]["value"])
    not_told_from: list[int] = []
    for row in trained:
        if row is best:
            continue
        gap = crossed_seeds_difference(cubes[best["name"]], cubes[row["name"]], level=record["corrected_level"])
        row["behind"][name] = _cell(gap)
        if not _is_above_zero(gap, sign):
            not_told_from.append(row["step"])
    record["best"][name] = {"step": best["step"], "surely": not not_told_from, "not_told_from": not_told_from}
    trend = _trend(name, cubes, record, sign)
    if trend is not None:
        record["trend"][name] = trend


def _is_above_zero(gap: FactorEstimate, sign: float) -> bool:
    """Whether the interval of a difference lies on its better side; a difference without an interval does not."""
    if gap.low is None or gap.high is None:
        return False
    return gap.low > 0 if sign > 0 else gap.high < 0


def _trend(name: str, cubes: Mapping[str, Cube], record: CheckpointsRecord, sign: float) -> CheckpointTrend | None:
    """What the last third changed; None where there is no checkpoint of the first two thirds."""
    trained = record["rows"][1:]
    last = trained[-1]
    earlier = [row for row in trained if row["step"] <= LAST_PART * last["step"]]
    if not earlier:
        return None
    first = earlier[-1]
    change = crossed_seeds_difference(cubes[last["name"]], cubes[first["name"]], level=record["level"])
    gained = last["metrics"][name]["value"] - record["rows"][0]["metrics"][name]["value"]
    pays = _pays(change, sign, sign * gained)
    return {
        "first": first["step"],
        "last": last["step"],
        "change": _cell(change),
        "gained": gained,
        "pays": pays,
        "sentence": _trend_sentence(change, gained, pays, f"from step {first['step']:,} to {last['step']:,}"),
    }


def _pays(change: FactorEstimate, sign: float, gained: float) -> Pays:
    """Whether the last third still gained something that can be seen, or surely next to nothing."""
    if change.low is None or change.high is None:
        return "can't be seen"
    least, most = sorted((sign * change.low, sign * change.high))
    if least > 0:
        return "yes"
    # A training that gained nothing at all has no share to compare with: then only a loss is a clear no.
    return "no" if most <= NO_MORE * max(gained, 0.0) else "can't be seen"


def _trend_sentence(change: FactorEstimate, gained: float, pays: Pays, where: str) -> str:
    whole = f"what the whole training gained, {_signed(gained)}"
    moved = f"{where} it changed by {_signed(change.value)}"
    if change.low is None or change.high is None:
        return f"{moved}, with no interval ({change.no_interval})"
    reasons = {
        "yes": f"the interval excludes 0, so the last third still gained; the whole training {_signed(gained)}",
        "no": f"at most a tenth of {whole}",
        "can't be seen": f"the interval holds 0 and more than a tenth of {whole}",
    }
    return f"{moved} [{_signed(change.low)}, {_signed(change.high)}]: {reasons[pays]}"


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _sentences(record: CheckpointsRecord) -> list[str]:
    """The findings by the metric that decides."""
    by = record["by"]
    title = record["metrics"][by]["title"]
    best = record["best"][by]
    found = [f"Best by {title}: step {best['step']:,}, {_how_sure(best, record['corrected_level'])}."]
    others = {record["metrics"][name]["title"]: other["step"] for name, other in record["best"].items() if name != by}
    differing = [f"{name} (step {step:,})" for name, step in others.items() if step != best["step"]]
    if differing:
        found.append(f"Others are best by {', '.join(differing)}.")
    trend = record["trend"].get(by)
    if trend is None:
        found.append(
            "Whether training longer pays can't be seen: no checkpoint of the first two thirds was kept; set "
            "student.loop.keep_best higher."
        )
    else:
        found.append(f"Does training longer pay? By {title}: {trend['pays']}; {trend['sentence']}.")
    return found


def _how_sure(best: BestCheckpoint, level: float) -> str:
    if best["surely"]:
        return f"surely better than each other one (each interval of {100 * level:.4g} % excludes 0)"
    steps = ", ".join(f"{step:,}" for step in best["not_told_from"])
    return f"not surely better than step {steps}"


def _cell(estimate: FactorEstimate) -> CheckpointCell:
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "n": estimate.n,
        "contents": estimate.contents,
        "styles": estimate.styles,
        "no_interval": estimate.no_interval,
    }
