"""The page of an evaluation's folder, without the run that it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.evaluation.checkpoint_records import CheckpointsRecord
from bottega.report import checkpoints, evaluation_table, judges, methods, sheets
from bottega.report.absent import absent_examples, broken_pairs, missing_outputs, not_compared, order_of
from bottega.report.evaluation import EvaluationSummary
from bottega.report.format import as_text
from bottega.report.headline import judged
from bottega.report.run_directory import RunDirectory
from bottega.report.sheets import Thumbnails
from bottega.report.tables import write_tables
from bottega.runtime.files import read_json, write_text
from bottega.runtime.records import to_record
from bottega.runtime.trust import read_list
from bottega.visual.page import render

NAME = "report.html"


def is_evaluation(content: Mapping[str, Any]) -> bool:
    """Whether a `summary.json` is an evaluation's."""
    return "rows" in content and "discrimination" in content


def run(directory: Path) -> Path:
    """Write `report.html` and the tables into an evaluation's folder; returns the page.

    Raises:
        RequestError: its summary is not one.
        StorageError: the page can't be written.
    """
    summary = to_record(EvaluationSummary, read_json(directory / "summary.json"), str(directory / "summary.json"))
    # Read as a run that holds nothing but this: what can't be read is named, and stops nothing.
    found = RunDirectory(directory)
    compared = found.record("checkpoints.json", CheckpointsRecord)
    table = evaluation_table.lay_out(summary)
    checkpoint_table = checkpoints.lay_out(compared)
    lines = sheets.of_folder(found, summary)
    thumbs = Thumbnails.of(cell.path for line in lines for cell in line.cells)
    files = evaluation_table.table_files(table)
    if checkpoint_table is not None:
        files.append(checkpoints.table_file(checkpoint_table))
    page = render(
        Path(__file__).with_name("evaluation.html"),
        name=directory.resolve().name,
        verdict=judged(summary),
        table=table,
        beside=judges.lay_out(summary),
        checkpoints=checkpoint_table,
        evaluated=lines,
        evaluated_columns=sheets.columns_of(lines),
        order=order_of(summary),
        titles=sheets.headings(oracle=summary.is_oracle(False)),
        thumbs=thumbs.uris,
        side=thumbs.side,
        absent=[
            *table.absent,
            *missing_outputs(summary),
            *absent_examples(summary),
            *not_compared(summary),
            *broken_pairs(summary.broken),
            *found.problems,
        ],
        methods=methods.of_evaluation(summary, compared),
        provenance=_provenance(directory, summary),
    )
    write_text(directory / NAME, page)
    write_tables(directory, files)
    return directory / NAME


def _provenance(directory: Path, summary: EvaluationSummary) -> list[tuple[str, str]]:
    """The networks that judged, and the recorded hash of each file of this folder."""
    facts = [(f"network {name}", value) for name, value in summary.networks.items()]
    facts += [(f"pairs: {name}", as_text(value)) for name, value in summary.pair_list.items()]
    rows = read_list(directory)
    return facts + [(row.file, row.hash) for row in rows.values() if "/" not in row.file]
