"""From scores to the numbers of the report: every mean with its interval and n, differences to the student, claims,
examples.

Everything here derives from `scores.jsonl`, whose lines are `{pair_id, row, metric, value, sha256}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bottega.data.records import Pair
from bottega.evaluation.bootstrap import Estimate, Matrix, crossed_difference, crossed_mean
from bottega.evaluation.config import EvaluationConfig
from bottega.evaluation.controls import ORDER, ROWS
from bottega.evaluation.grid import Grid, swapped_styles
from bottega.evaluation.metrics import METRICS, plain_name
from bottega.evaluation.scoring import Measured, Record

Score = dict[str, Any]
Scores = Mapping[tuple[str, str], Mapping[str, float]]
"""(row, metric) -> pair id -> value."""


def score_lines(grid: Grid, measured: Measured, labels: Sequence[str]) -> Iterator[Score]:
    """The lines of `scores.jsonl`: raw scores as they were measured, style labels judged as own and as swapped.

    Args:
        labels: what the style classifier's numbers mean; empty without one.
    """
    for (row, pair_id), record in measured.records.items():
        for metric, value in record.scores.items():
            if metric != "kind":
                yield _line(pair_id, row, metric, value, record)
    for row in dict.fromkeys(row for row, _ in measured.records):
        records = {pair_id: record for (there, pair_id), record in measured.records.items() if there == row}
        yield from _kind_lines(row, Grid.of(p for p in grid.pairs if p.pair_id in records), records, labels)


def _kind_lines(row: str, grid: Grid, records: Mapping[str, Record], labels: Sequence[str]) -> Iterator[Score]:
    """Is the style label of a pair recognised in its own picture, and in the same content's picture of another label?

    The swap is made within the styles that this row has pictures of, so that it stays a derangement of them.
    """
    numbers = {plain_name(label): number for number, label in enumerate(labels)}
    known = {style: numbers[plain_name(label)] for style, label in grid.labels.items() if plain_name(label) in numbers}
    swap = swapped_styles({style: grid.labels[style] for style in known})
    at = {(p.content_id, p.style_id): p.pair_id for p in grid.pairs}
    for (content, style), pair_id in at.items():
        if style not in known or "kind" not in records[pair_id].scores:
            continue
        own = 100.0 * (records[pair_id].scores["kind"] == known[style])
        yield _line(pair_id, row, "kind_own", own, records[pair_id])
        other = records.get(at.get((content, swap.get(style, "")), ""))
        if other is not None:
            swapped = 100.0 * (other.scores["kind"] == known[style])
            yield _line(pair_id, row, "kind_swapped", swapped, other)
            yield _line(pair_id, row, "kind_gain", own - swapped, records[pair_id])


def _line(pair_id: str, row: str, metric: str, value: float, record: Record) -> Score:
    return {"pair_id": pair_id, "row": row, "metric": metric, "value": round(float(value), 6), "sha256": record.sha256}


def by_row(lines: Iterable[Score]) -> Scores:
    """Score lines as (row, metric) -> pair id -> value."""
    scores: dict[tuple[str, str], dict[str, float]] = {}
    for line in lines:
        scores.setdefault((line["row"], line["metric"]), {})[line["pair_id"]] = line["value"]
    return scores


def table(grid: Grid, scores: Scores, config: EvaluationConfig, absent: Mapping[str, str]) -> dict[str, Any]:
    """Every row's every metric: an estimate, or a status that says what is missing.

    Args:
        absent: why a row (by its name) or a need of metrics (by its name in `metrics.NEEDS`) is missing.
    """
    rows: dict[str, Any] = {}
    for row in config.rows:
        pairs = len({pair for (there, _), values in scores.items() if there == row for pair in values})
        reason = absent.get(row) or (absent.get("truth") if ROWS[row].truth else None) or "no picture could be measured"
        status = "measured" if pairs else f"unavailable: {reason}"
        cells = {name: _cell(grid, scores.get((row, name)), config, _why(name, status, absent)) for name in METRICS}
        info = ROWS[row]
        rows[row] = {"title": info.title, "meaning": info.meaning, "status": status, "pairs": pairs, "metrics": cells}
    return rows


def _why(metric: str, row_status: str, absent: Mapping[str, str]) -> str:
    if row_status != "measured":
        return row_status
    missing = [absent[need] for need in METRICS[metric].needs if need in absent]
    if missing:
        return f"unavailable: {'; '.join(missing)}"
    if metric in ("kind_swapped", "kind_gain") and "swap" in absent:
        return f"unavailable: {absent['swap']}"
    return "unavailable: no picture of this row could be scored"


def _cell(grid: Grid, values: Mapping[str, float] | None, config: EvaluationConfig, why: str) -> dict[str, Any]:
    if not values:
        return {"status": why}
    return {"status": "measured", **crossed_mean(_matrix(grid, values), **_draws(config)).record()}


def differences(grid: Grid, scores: Scores, config: EvaluationConfig) -> dict[str, Any]:
    """The student minus every other row, metric by metric, paired; only where both were measured."""
    found: dict[str, Any] = {}
    for row in config.rows:
        if row == "student":
            continue
        estimates = {name: _difference(grid, scores, config, name, "student", row) for name in METRICS}
        if any(estimates.values()):
            found[row] = {name: estimate.record() for name, estimate in estimates.items() if estimate}
    return found


def _difference(
    grid: Grid, scores: Scores, config: EvaluationConfig, metric: str, first: str, second: str
) -> Estimate | None:
    one, two = scores.get((first, metric)), scores.get((second, metric))
    if not one or not two or not one.keys() & two.keys():
        return None
    return crossed_difference(_matrix(grid, one), _matrix(grid, two), **_draws(config))


def discrimination(grid: Grid, scores: Scores, config: EvaluationConfig) -> dict[str, dict[str, Any]]:
    """Does each metric order the two controls that it must order (`controls.ORDER`)? Its interval must exclude 0."""
    found = {}
    for metric, (better, worse) in ORDER.items():
        estimate = _difference(grid, scores, config, metric, better, worse)
        if estimate is None or estimate.low is None or estimate.high is None:
            continue
        ordered = estimate.low > 0 if METRICS[metric].better == "higher" else estimate.high < 0
        found[metric] = {"better": better, "worse": worse, "discriminates": bool(ordered), **estimate.record()}
    return found


def claims(rows: Mapping[str, Any], gaps: Mapping[str, Any], config: EvaluationConfig) -> list[dict[str, Any]]:
    """What the student must have shown: a style gain, objects that stay, nearer to the truth than every control.

    `met` is None where a number that the claim needs could not be measured.
    """
    gain = rows.get("student", {}).get("metrics", {}).get("kind_gain", {})
    kept = gaps.get("base", {}).get("objects_found", {})
    found = [
        _claim("style gain, lower bound", config.style_bar, gain.get("low"), "at least"),
        _claim("objects in place against the frozen base", -config.content_bar, kept.get("value"), "at least"),
    ]
    for row in ("base", "content", "style", "colours", "blurred"):
        if row in rows:
            gap = gaps.get(row, {}).get("truth", {})
            found.append(_claim(f"distance to truth minus that of: {ROWS[row].title}", 0.0, gap.get("high"), "below"))
    return found


def _claim(what: str, bar: float, value: float | None, side: str) -> dict[str, Any]:
    met = None if value is None else (value >= bar if side == "at least" else value < bar)
    return {"claim": what, "side": side, "bar": bar, "value": value, "met": met}


def examples(grid: Grid, scores: Scores, count: int, row: str = "student") -> dict[str, Any]:
    """The best, the median and the worst pairs of a row, for the report's contact sheets.

    By distance to the truth; without truths by CLIPScore and palette, each as a rank. The style label is no use alone:
    it is right or wrong, and would leave the order to chance.
    Only pairs that every method has: the teacher may have drawn fewer, and a sheet with empty places compares nothing.

    Returns:
        `by`, what they were ordered by, and `best`, `median`, `worst`: lists of {pair_id, value}, no pair twice.
    """
    by, order = _order(scores, row)
    drawn = [set(known) for (_, metric), known in scores.items() if metric == "palette"]
    everywhere = set(order).intersection(*drawn)
    ranked = sorted((order[pair], pair) for p in grid.pairs if (pair := p.pair_id) in everywhere)
    count = min(count, len(ranked) // 3)
    start = (len(ranked) - count) // 2
    parts = {
        "best": ranked[:count],
        "median": ranked[start : start + count],
        "worst": ranked[len(ranked) - count :][::-1],
    }
    chosen = {
        name: [{"pair_id": pair, "value": round(value, 4)} for value, pair in part] for name, part in parts.items()
    }
    return {"row": row, "by": by, **chosen}


def _order(scores: Scores, row: str) -> tuple[str, Mapping[str, float]]:
    """What the pairs of a row are ordered by, and its values, lower is better."""
    if truth := scores.get((row, "truth")):
        return "truth", truth
    palette, text = scores.get((row, "palette"), {}), scores.get((row, "text"), {})
    if not text:
        return "palette", palette
    shared = sorted(palette.keys() & text.keys())
    ranks = [np.argsort(np.argsort([sign * source[p] for p in shared])) for sign, source in ((1, palette), (-1, text))]
    return "palette and text", {pair: float(a + b) for pair, a, b in zip(shared, *ranks, strict=True)}


def per_label(grid: Grid, scores: Scores, row: str = "student") -> dict[str, dict[str, float]]:
    """Means of a row by style label, for the report's table by kind; the macro view beside the micro one."""
    labels = {p.pair_id: p.style for p in grid.pairs}
    found: dict[str, dict[str, float]] = {}
    for metric in METRICS:
        values = scores.get((row, metric), {})
        for label in sorted(set(labels.values())):
            there = [value for pair, value in values.items() if labels.get(pair) == label]
            if there:
                found.setdefault(label, {})[metric] = round(float(np.mean(there)), 4)
    return found


def _matrix(grid: Grid, values: Mapping[str, float]) -> Matrix:
    return grid.matrix({_cell_of(p): values[p.pair_id] for p in grid.pairs if p.pair_id in values})


def _cell_of(pair: Pair) -> tuple[str, str]:
    return pair.content_id, pair.style_id


def _draws(config: EvaluationConfig) -> dict[str, Any]:
    return {"draws": config.draws, "level": config.level, "seed": config.bootstrap_seed}
