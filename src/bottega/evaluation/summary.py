"""From scores to the numbers of the report: every mean with its interval and n, differences to the student, claims,
examples.

Everything here derives from `scores.jsonl`, whose lines are `{pair_id, row, metric, value, sha256}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bottega.data.records import Pair
from bottega.evaluation.bootstrap import BootstrapEstimate, Matrix, crossed_difference, crossed_mean
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import ORDER, ROWS
from bottega.evaluation.factors import FactorEstimate, crossed_seeds_difference
from bottega.evaluation.grid import Grid, swapped_styles
from bottega.evaluation.metrics import METRICS, plain_name
from bottega.evaluation.records import (
    ClaimRecord,
    DifferenceRecord,
    DiscriminationRecord,
    ExamplePair,
    ExamplePairs,
    MethodRecord,
    MetricCell,
    RowDifferenceRecord,
    ScoreLine,
)
from bottega.evaluation.scoring import Measured, Record
from bottega.evaluation.verdicts import corrected

Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""(row, metric) -> pair id -> value."""


def score_lines(grid: Grid, measured: Measured, labels: Sequence[str]) -> Iterator[ScoreLine]:
    """The lines of `scores.jsonl`: raw scores as they were measured, style labels judged as own and as swapped.

    Args:
        labels: what the style classifier's numbers mean; empty without one.
    """
    for (row, pair_id), record in measured.records.items():
        for metric, value in record.scores.items():
            # The number of a label is no score by itself: `_kind_lines` judges it.
            if metric != "kind":
                yield _line(pair_id, row, metric, value, record)
    by_method: dict[str, dict[str, Record]] = {}
    for (row, pair_id), record in measured.records.items():
        by_method.setdefault(row, {})[pair_id] = record
    for row, records in by_method.items():
        measured_pairs = Grid.of(pair for pair in grid.pairs if pair.pair_id in records)
        yield from _kind_lines(row, measured_pairs, records, labels)


def _kind_lines(row: str, grid: Grid, records: Mapping[str, Record], labels: Sequence[str]) -> Iterator[ScoreLine]:
    """Whether a pair's style label is recognised in its picture, and in the same content's picture of another label."""
    known = _label_numbers(grid, labels)
    # Within the styles that this row has pictures of, so that the swap stays a derangement of them.
    swap = swapped_styles({style: grid.labels[style] for style in known})
    by_cell = {_cell_of(pair): records[pair.pair_id] for pair in grid.pairs}
    for (content, style), record in by_cell.items():
        if style not in known or "kind" not in record.scores:
            continue
        own = 100.0 * (record.scores["kind"] == known[style])
        yield _line(record.pair_id, row, "kind_own", own, record)
        other = by_cell.get((content, swap[style])) if style in swap else None
        if other is not None:
            swapped = 100.0 * (other.scores["kind"] == known[style])
            yield _line(record.pair_id, row, "kind_swapped", swapped, other)
            yield _line(record.pair_id, row, "kind_gain", own - swapped, record)


def _label_numbers(grid: Grid, labels: Sequence[str]) -> dict[str, int]:
    """Style id -> the classifier's number of its label, for the styles whose label the classifier knows."""
    numbers = {plain_name(label): number for number, label in enumerate(labels)}
    known: dict[str, int] = {}
    for style, label in grid.labels.items():
        if plain_name(label) in numbers:
            known[style] = numbers[plain_name(label)]
    return known


def _line(pair_id: str, row: str, metric: str, value: float, record: Record) -> ScoreLine:
    return {
        "pair_id": pair_id,
        "row": row,
        "metric": metric,
        "value": round(float(value), 6),
        "sha256": record.sha256,
    }


def by_row(lines: Iterable[ScoreLine]) -> Scores:
    """Score lines as (row, metric) -> pair id -> value."""
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        of_row = scores.setdefault((line["row"], line["metric"]), {})
        of_row[line["pair_id"]] = line["value"]
    return scores


def table(grid: Grid, scores: Scores, config: EvaluationConfig, absent: Mapping[str, str]) -> dict[str, MethodRecord]:
    """Every row's every metric: an estimate, or a status that says what is missing.

    Args:
        absent: why a row (by its name) or a need of metrics (by its name in `metrics.NEEDS`) is missing.
    """
    pairs_of: dict[str, set[str]] = {}
    for (row, _), values in scores.items():
        pairs_of.setdefault(row, set()).update(values)
    rows: dict[str, MethodRecord] = {}
    for row in config.rows:
        pairs = len(pairs_of.get(row, ()))
        status = "measured" if pairs else f"unavailable: {_why_no_pair(row, absent)}"
        cells: dict[str, MetricCell] = {}
        for name in METRICS:
            values_of_row = scores.get((row, name))
            if values_of_row:
                cells[name] = {"status": "measured", **_mean(name, grid, values_of_row, config).record()}
            else:
                cells[name] = {"status": _why_no_score(name, status, absent)}
        info = ROWS[row]
        rows[row] = {
            "title": info.title,
            "meaning": info.meaning,
            "status": status,
            "pairs": pairs,
            "metrics": cells,
        }
    return rows


def _why_no_pair(row: str, absent: Mapping[str, str]) -> str:
    if row in absent:
        return absent[row]
    if ROWS[row].truth and "truth" in absent:
        return absent["truth"]
    return "no picture could be measured"


def _why_no_score(metric: str, row_status: str, absent: Mapping[str, str]) -> str:
    if row_status != "measured":
        return row_status
    missing = [absent[need] for need in METRICS[metric].needs if need in absent]
    if missing:
        return f"unavailable: {'; '.join(missing)}"
    if metric in ("kind_swapped", "kind_gain") and "swap" in absent:
        return f"unavailable: {absent['swap']}"
    return "unavailable: no picture of this row could be scored"


def _mean(metric: str, grid: Grid, values: Mapping[str, float], config: EvaluationConfig) -> BootstrapEstimate:
    return crossed_mean(
        _matrix(grid, values),
        draws=config.draws,
        level=config.level,
        seed=config.bootstrap_seed,
        within=METRICS[metric].bounds,
    )


def differences(grid: Grid, scores: Scores, config: EvaluationConfig) -> dict[str, dict[str, RowDifferenceRecord]]:
    """The student minus every other row, metric by metric, paired; only where both were measured.

    Each comes with a verdict, corrected for the number of metrics in which the student is compared with that row.
    """
    found: dict[str, dict[str, RowDifferenceRecord]] = {}
    for row in config.rows:
        if row == "student":
            continue
        bootstrapped: dict[str, BootstrapEstimate] = {}
        crossed: dict[str, FactorEstimate] = {}
        for name in METRICS:
            estimate = _difference(grid, scores, config, name, "student", row)
            if estimate is not None:
                bootstrapped[name] = estimate
                first, second = (_matrix(grid, scores[of, name])[..., None] for of in ("student", row))
                crossed[name] = crossed_seeds_difference(first, second, level=config.level)
        verdicts = corrected(crossed, {name: METRICS[name].better for name in crossed}, level=config.level)
        if verdicts:
            found[row] = {
                name: {**estimate.difference_record(), "corrected": verdicts[name].record()}
                for name, estimate in bootstrapped.items()
            }
    return found


def _difference(
    grid: Grid, scores: Scores, config: EvaluationConfig, metric: str, first: str, second: str
) -> BootstrapEstimate | None:
    one = scores.get((first, metric), {})
    two = scores.get((second, metric), {})
    if not one.keys() & two.keys():
        return None
    return crossed_difference(
        _matrix(grid, one),
        _matrix(grid, two),
        draws=config.draws,
        level=config.level,
        seed=config.bootstrap_seed,
    )


def discrimination(grid: Grid, scores: Scores, config: EvaluationConfig) -> dict[str, DiscriminationRecord]:
    """Does each metric order the two controls that it must order (`controls.ORDER`)? Its interval must exclude 0."""
    found: dict[str, DiscriminationRecord] = {}
    for metric, (better, worse) in ORDER.items():
        estimate = _difference(grid, scores, config, metric, better, worse)
        if estimate is None or estimate.low is None or estimate.high is None:
            continue
        ordered = estimate.low > 0 if METRICS[metric].better == "higher" else estimate.high < 0
        found[metric] = {
            "better": better,
            "worse": worse,
            "discriminates": bool(ordered),
            **estimate.difference_record(),
        }
    return found


def claims(
    rows: Mapping[str, MethodRecord], gaps: Mapping[str, Mapping[str, DifferenceRecord]], config: EvaluationConfig
) -> list[ClaimRecord]:
    """What the student must have shown: a style gain, objects that stay, nearer to the truth than every control.

    `met` is None where a number that the claim needs could not be measured.
    """
    gain = rows["student"]["metrics"]["kind_gain"].get("low") if "student" in rows else None
    gap = gaps.get("base", {}).get("objects_found")
    preserved = None if gap is None else gap["value"]
    found = [
        _at_least("style gain, lower bound", config.style_bar, gain),
        _at_least("objects preserved against the frozen base", -config.content_bar, preserved),
    ]
    for row in ("base", "content", "style", "colours", "blurred"):
        if row not in rows:
            continue
        gap = gaps.get(row, {}).get("truth")
        what = f"distance to truth minus that of: {ROWS[row].title}"
        found.append(_below(what, 0.0, None if gap is None else gap["high"]))
    return found


def _at_least(what: str, bar: float, value: float | None) -> ClaimRecord:
    met = None if value is None else value >= bar
    return {"claim": what, "side": "at least", "bar": bar, "value": value, "met": met}


def _below(what: str, bar: float, value: float | None) -> ClaimRecord:
    met = None if value is None else value < bar
    return {"claim": what, "side": "below", "bar": bar, "value": value, "met": met}


def examples(grid: Grid, scores: Scores, count: int, row: str = "student") -> ExamplePairs:
    """The best, the median and the worst pairs of a row, for the report's contact sheets.

    By distance to the truth; without truths by CLIPScore and palette, each as a rank. The style label alone would not
    do: it is right or wrong, and would leave the order to chance. Only pairs that every method has: the teacher may
    have drawn fewer, and a sheet with empty places compares nothing.

    Returns:
        `by`, what they were ordered by, and `best`, `median`, `worst`: lists of {pair_id, value}, no pair twice.
    """
    by, order = _order(scores, row)
    everywhere = set(order)
    for (_, metric), values in scores.items():
        if metric == "palette":  # which every measured picture has
            everywhere &= values.keys()
    shown = [pair.pair_id for pair in grid.pairs if pair.pair_id in everywhere]
    ranked = sorted((order[pair_id], pair_id) for pair_id in shown)
    count = min(count, len(ranked) // 3)
    start = (len(ranked) - count) // 2
    worst_first = ranked[::-1]
    return {
        "row": row,
        "by": by,
        "best": _example_pairs(ranked[:count]),
        "median": _example_pairs(ranked[start : start + count]),
        "worst": _example_pairs(worst_first[:count]),
    }


def _example_pairs(ranked: Iterable[tuple[float, str]]) -> list[ExamplePair]:
    return [{"pair_id": pair_id, "value": round(value, 4)} for value, pair_id in ranked]


def _order(scores: Scores, row: str) -> tuple[str, Mapping[str, float]]:
    """What the pairs of a row are ordered by, and its values, lower is better."""
    truth = scores.get((row, "truth"))
    if truth:
        return "truth", truth
    palette = scores.get((row, "palette"), {})
    text = scores.get((row, "text"), {})
    if not text:
        return "palette", palette
    shared = sorted(palette.keys() & text.keys())
    distances = [palette[pair_id] for pair_id in shared]
    misfits = [-text[pair_id] for pair_id in shared]  # a larger CLIPScore is better
    ranks = _ranks(distances) + _ranks(misfits)
    return "palette and text", dict(zip(shared, ranks.astype(float).tolist(), strict=True))


def _ranks(values: Sequence[float]) -> npt.NDArray[np.intp]:
    """The place of each value in ascending order."""
    return np.argsort(np.argsort(values))


def per_label(grid: Grid, scores: Scores, row: str = "student") -> dict[str, dict[str, float]]:
    """Means of a row by style label, for the report's table by kind; the macro view beside the micro one."""
    labels = {pair.pair_id: pair.style for pair in grid.pairs}
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        by_label: dict[str, list[float]] = {}
        for pair_id, value in scores.get((row, metric), {}).items():
            if pair_id in labels:
                by_label.setdefault(labels[pair_id], []).append(value)
        for label, of_label in sorted(by_label.items()):
            mean = float(np.mean(of_label))
            found.setdefault(label, {})[metric] = round(mean, 4)
    return found


def _matrix(grid: Grid, values: Mapping[str, float]) -> Matrix:
    by_cell: dict[tuple[str, str], float] = {}
    for pair in grid.pairs:
        if pair.pair_id in values:
            by_cell[_cell_of(pair)] = values[pair.pair_id]
    return grid.matrix(by_cell)


def _cell_of(pair: Pair) -> tuple[str, str]:
    return pair.content_id, pair.style_id
