"""Fill50K's held-out examples as an evaluation of the adapter: outline and prompt in, a filled circle expected.

The student learns Fill50K as its structure task, with the null style in the style's place, and draws it so here. The
frozen base draws the same outlines from the same noise: what it does not lose is not the adapter's. The examples are of
the test split, whose right answers are files, so that the metrics are exact and need no network (`circles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bottega.data.pictures import load_square
from bottega.data.records import Fill50kRow, Pair, read_fill50k
from bottega.data.roots import picture_file
from bottega.evaluation.circles import CircleScore, circle_score
from bottega.evaluation.records import CircleCell, CircleLine, CircleMethod, Fill50kRecord
from bottega.evaluation.t_distribution import quantile
from bottega.runtime.errors import PictureError
from bottega.runtime.files import sha256_file

ROWS: Mapping[str, str] = {"fill50k": "student", "fill50k_base": "base"}
"""Rows of drawn pictures, and the method that draws each."""

METRICS = ("iou", "inside", "outside")
NULL_STYLE = "none"


def circle_rows(data_root: Path, count: int) -> list[Fill50kRow]:
    """The first `count` examples of the test split; none where the data set has no Fill50K."""
    file = data_root / "fill50k" / "fill50k.jsonl"
    if count == 0 or not file.is_file():
        return []
    return [row for row in read_fill50k(file) if row.split == "test"][:count]


def circle_pair(row: Fill50kRow) -> Pair:
    """An example as a pair to draw: the outline is its content, and it has no style."""
    content = f"fill50k-{row.key}"
    return Pair(
        pair_id=f"{content}_{NULL_STYLE}",
        content_id=content,
        content_path=row.source_path,
        style_id=NULL_STYLE,
        style_path=row.source_path,  # not read by the null tokens; an encoder has to be given something
        prompt=row.prompt,
        split="test",
    )


def score_circles(
    rows: Sequence[Fill50kRow], files: Mapping[str, Mapping[str, Path]], data_root: Path, level: float
) -> tuple[Fill50kRecord, list[CircleLine]]:
    """The table of the drawn rows, and a line for each picture.

    Args:
        rows: the examples.
        files: for each row of `ROWS` the picture of each pair id.
        data_root: what the examples' paths are relative to.
        level: coverage of the intervals, a share.
    """
    lines: list[CircleLine] = []
    broken: dict[str, str] = {}
    for row in rows:
        pair_id = circle_pair(row).pair_id
        # Every method's picture of an example or none, so that all have the same denominator.
        try:
            lines += [_line(name, row, of_row[pair_id], data_root) for name, of_row in files.items()]
        except KeyError:
            broken[row.key] = "a method has no picture of it; made.jsonl of its folder says why"
        except (PictureError, ValueError) as error:
            broken[row.key] = str(error)
    methods: dict[str, CircleMethod] = {}
    for name in files:
        found = [line for line in lines if line["row"] == name]
        if found:
            methods[ROWS[name]] = _method(found, level)
    status = "measured" if methods else "unavailable: no example could be measured"
    return {"status": status, "examples": len(rows), "broken": broken, "methods": methods}, lines


def _line(name: str, row: Fill50kRow, file: Path, data_root: Path) -> CircleLine:
    target = picture_file(data_root, row.target_path, f"Fill50K, {row.key}: target_path")
    picture = load_square(file, _side(file))
    score: CircleScore = circle_score(picture, load_square(target, len(picture)))
    values = {metric: round(float(value), 4) for metric, value in asdict(score).items()}
    return {"key": row.key, "row": name, "sha256": sha256_file(file), "scores": values}


def _side(file: Path) -> int:
    from bottega.data.pictures import read_kind

    kind = read_kind(file)
    return min(kind.width, kind.height)


def _method(lines: Sequence[CircleLine], level: float) -> CircleMethod:
    cells: dict[str, CircleCell] = {}
    for metric in METRICS:
        values = np.array([line["scores"][metric] for line in lines])
        cells[metric] = _mean(values, level)
    return {"pictures": len(lines), "metrics": cells}


def _mean(values: np.ndarray, level: float) -> CircleCell:
    """The mean with Student's t interval: examples share neither a content nor a style."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"value": round(mean, 4), "low": None, "high": None}
    half = float(quantile((1 + level) / 2, count - 1)) * float(values.std(ddof=1)) / float(np.sqrt(count))
    return {"value": round(mean, 4), "low": round(mean - half, 4), "high": round(mean + half, 4)}
