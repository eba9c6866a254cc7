"""What others read of a run: metadata for `datasets.load_dataset("imagefolder")`, the retries' parameters, CSV and
Parquet.

All of it derives from the ledger and can be written again at any time.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from bottega.runtime.escape import csv_cell
from bottega.runtime.files import atomic_path, write_jsonl
from bottega.teacher.ledger import COLUMNS, Ledger, changes_of_many, reasons_of, scores_of_many

SCORE_NAMES = (
    "edge_64", "edge_128", "hf_ratio", "content_sim", "style_sim", "style_gain", "change",
    "bright", "spread", "clipped_excess", "vivid_excess", "damage", "estimated_distance",
)  # fmt: skip

_PAGE = 1000  # rows read at once
_GROUP = 4096  # rows of a Parquet row group

# Keys of a line of `metadata.jsonl` that are columns of the ledger.
_NAMES = (
    "target", "pair_id", "content_id", "style_id", "content_path", "style_path", "style", "prompt", "seed", "split",
    "grade", "weight", "try_index", "rung",
)  # fmt: skip
_KEYS = ("file_name", *_NAMES, "sha256", "reasons", *SCORE_NAMES)


def metadata(ledger: Ledger) -> Iterator[Mapping[str, object]]:
    """One object a target that has a picture, every key in each: `file_name` is relative to the teacher's folder.

    Where drawn truths replace the teacher's pictures, each says `"source": "oracle"`.
    """
    rows = ledger.best_values(["output_path", *_NAMES, "output_sha256", "reasons", "scores"])
    source = {"source": "oracle"} if ledger.oracle else {}
    while page := list(islice(rows, _PAGE)):
        parsed = scores_of_many([row[-1] for row in page], ledger.path)
        for (*values, reasons, _), scores in zip(page, parsed, strict=True):
            # Most rows have no reason: nothing is parsed for those.
            text = "; ".join(reasons_of(reasons, ledger.path)) if reasons != "[]" else ""
            known = [scores.get(name) for name in SCORE_NAMES]
            line = dict(zip(_KEYS, (*values, text, *known), strict=True))
            yield line | source


class Override(TypedDict):
    """A line of `qc_overrides.jsonl`: what a retry changed, why, and what came of it."""

    target: str
    try_index: int
    rung: str
    causes: list[str]
    changed: Mapping[str, object]
    parameters: Mapping[str, object]
    noise_seed: int
    grade_before: str
    grade: str


class _Retried(NamedTuple):
    """The columns of a target's tries that an override is made of."""

    target: str
    try_index: int
    rung: str
    noise_seed: int
    grade: str
    reasons: list[str]
    parameters: Mapping[str, object]


def overrides(ledger: Ledger) -> Iterator[Override]:
    """One object a retry."""
    rows = ledger.retried_values(_Retried._fields)
    before: _Retried | None = None  # the try before, of the same target or of another
    while page := list(islice(rows, _PAGE)):
        parsed = changes_of_many([(row[-2], row[-1]) for row in page], ledger.path)
        for values, (reasons, parameters) in zip(page, parsed, strict=True):
            row = _Retried._make((*values[:-2], reasons, parameters))
            if before is not None and row.try_index > 0 and before.target == row.target:
                yield _override(before, row)
            before = row


def _override(before: _Retried, row: _Retried) -> Override:
    changed = {}
    for name, value in row.parameters.items():
        if before.parameters.get(name) != value:
            changed[name] = value
    return {
        "target": row.target,
        "try_index": row.try_index,
        "rung": row.rung,
        "causes": before.reasons,
        "changed": changed,
        "parameters": row.parameters,
        "noise_seed": row.noise_seed,
        "grade_before": before.grade,
        "grade": row.grade,
    }


def write_lists(ledger: Ledger, directory: Path) -> None:
    """`metadata.jsonl` and `qc_overrides.jsonl`, each whole or not at all."""
    write_jsonl(directory / "metadata.jsonl", metadata(ledger))
    write_jsonl(directory / "qc_overrides.jsonl", overrides(ledger))


def write_csv(ledger: Ledger, path: Path) -> int:
    """Every try as CSV; nested values as JSON text. Returns the number of rows."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for row in ledger.current():
            values = [getattr(row, column) for column in COLUMNS]
            writer.writerow(csv_cell(_text(value)) for value in values)
            count += 1
    return count


def write_parquet(ledger: Ledger, path: Path) -> int:
    """Every try as Parquet; nested values as JSON text, scores as columns `score_*` too. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {
        "seed": pa.int64(),
        "try_index": pa.int64(),
        "noise_seed": pa.int64(),
        "weight": pa.float64(),
        "seconds": pa.float64(),
    }
    columns = [(name, kinds.get(name, pa.string())) for name in COLUMNS]
    columns += [(f"score_{name}", pa.float64()) for name in SCORE_NAMES]
    schema = pa.schema(columns)
    count = 0
    rows = ledger.current()
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        while batch := list(islice(rows, _GROUP)):
            table: dict[str, list[Any]] = {}
            for name in COLUMNS:
                table[name] = [_cell(getattr(row, name)) for row in batch]
            for name in SCORE_NAMES:
                table[f"score_{name}"] = [row.scores.get(name) for row in batch]
            writer.write_table(pa.table(table, schema=schema))
            count += len(batch)
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value


def _text(value: Any) -> Any:
    return "" if value is None else _cell(value)
