"""The page of a run: read what the directory holds, judge it, lay it out. Read `run` from top to bottom.

Everything is inside the one file: style sheet, curves as SVG, thumbnails as data URIs. It may be made at any moment of
a run; what is not there yet is shown as pending.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bottega.evaluation.checkpoint_records import CheckpointsRecord
from bottega.report import (
    ablation,
    calibration,
    checkpoints,
    comparison,
    costs,
    evaluation_page,
    evaluation_table,
    judges,
    learning,
    methods,
    sheets,
    teaching,
)
from bottega.report.absent import absent_examples, broken_pairs, missing_outputs, not_compared, order_of
from bottega.report.checkpoints import CheckpointTable
from bottega.report.evaluation import EvaluationSummary
from bottega.report.evaluation_table import EvaluationTable
from bottega.report.format import duration
from bottega.report.headline import headline
from bottega.report.run_directory import RunDirectory
from bottega.report.sheets import SheetLine, Thumbnails
from bottega.report.tables import TableFile, write_tables
from bottega.runtime.errors import MissingError
from bottega.runtime.files import read_jsonl, write_text
from bottega.runtime.locks import lock
from bottega.visual.page import render

NAME = "report.html"
SHEET = "contact_sheet.png"

NUM_TARGETS = 4
"""Examples of the teacher's targets in each of best, median, worst."""


def run(run_directory: Path) -> Path:
    """Write `report.html` into a run directory, or into the folder of an evaluation, of an ablation or of a comparison;
    returns the page.

    Which one it is follows from what is there. A run gets `contact_sheet.png` too, where there are pictures, and all
    get the tables of the page as files in `tables/`.

    Raises:
        MissingError: there is no such directory.
        LockedError: another process writes the page.
        StorageError: it can't be written.
    """
    directory = Path(run_directory)
    if not directory.is_dir():
        raise MissingError(f"no run directory at {directory}; a run makes one: bottega run recipes/miniature.yaml")
    # A lock of its own, for a page may be asked for while the run works, which writes it after each stage.
    with lock(directory / ".report.lock", "report"):
        content = _summary_alone(directory)
        if ablation.is_ablation(content):
            return ablation.run(directory)
        if not content and comparison.is_comparison(directory):
            return comparison.run(directory)
        if evaluation_page.is_evaluation(content):
            return evaluation_page.run(directory)
        return _write_page(directory)


def _summary_alone(directory: Path) -> Mapping[str, Any]:
    """The `summary.json` of a folder that is no run directory; empty for a run's, and where there is none."""
    path = directory / "summary.json"
    if (directory / "recipe.yaml").is_file() or not path.is_file():
        return {}
    content = RunDirectory(directory).json(path.name)
    return {} if content is None else content


def _write_page(directory: Path) -> Path:
    found = RunDirectory(directory)

    # Read what each stage left; what is not there, or can't be read, is None.
    tries = _count_tries(found)
    metrics = "training/metrics.jsonl"
    training = found.attempt(metrics, lambda: learning.read(read_jsonl(directory / metrics)))
    evaluation = found.record("evaluation/summary.json", EvaluationSummary)
    evaluation, drawn_truths = _named(evaluation, found)
    calibrated = found.record("quality/calibration.json", calibration.CalibrationFile)
    compared = found.record("evaluation/checkpoints.json", CheckpointsRecord)

    # Judge it, and choose the pictures.
    verdict = headline(found, tries, training, evaluation)
    table: EvaluationTable | None = None
    evaluated: list[SheetLine] = []
    if evaluation is not None:
        table = evaluation_table.lay_out(evaluation)
        evaluated = sheets.of_evaluation(found, evaluation)
    taught = [] if tries is None else _targets(found)
    # An evaluation may have had another teacher than the targets; its sheet is shown where there is one.
    titles = sheets.headings(oracle=drawn_truths if evaluated else found.is_oracle)
    sheets.write_sheet(evaluated or taught, directory / SHEET, heads=titles)
    paths: list[Path] = []
    for line in (*evaluated, *taught):
        paths += [cell.path for cell in line.cells]
    thumbs = Thumbnails.of(paths)
    checkpoints_table = checkpoints.lay_out(compared)
    _write_tables(directory, table, checkpoints_table)
    samples = found.attempt("training/samples", lambda: sheets.of_training(directory / "training" / "samples"))

    # Lay it out.
    page = render(
        Path(__file__).with_name("report.html"),
        run=found,
        verdict=verdict,
        oracle=found.is_oracle,
        table=table,
        beside=judges.lay_out(evaluation),
        learning=training,
        checkpoints=checkpoints_table,
        methods=methods.paragraphs(found, evaluation, compared),
        samples=samples or [],
        tries=tries,
        funnel=_funnel(tries),
        causes=_CAUSES,
        judge=calibration.lay_out(calibrated),
        costs=costs.costs(found),
        provenance=costs.provenance(found),
        recipe_text=_recipe_text(directory / "recipe.yaml"),
        absent=_absent(found, table),
        taught=taught,
        taught_columns=sheets.columns_of(taught),
        evaluated=evaluated,
        evaluated_columns=sheets.columns_of(evaluated),
        order=order_of(evaluation),
        titles=titles,
        thumbs=thumbs.uris,
        side=thumbs.side,
        duration=duration,
    )
    write_text(directory / NAME, page)
    return directory / NAME


def _write_tables(directory: Path, table: EvaluationTable | None, compared: CheckpointTable | None) -> None:
    """The page's tables as files beside it, where there are any."""
    files: list[TableFile] = []
    if table is not None:
        files += evaluation_table.table_files(table)
    if compared is not None:
        files.append(checkpoints.table_file(compared))
    write_tables(directory, files)


def _named(evaluation: EvaluationSummary | None, found: RunDirectory) -> tuple[EvaluationSummary | None, bool]:
    """The evaluation with its teacher called what it was, and whether drawn truths stood in for it."""
    if evaluation is None:
        return None, found.is_oracle
    if evaluation.is_oracle(found.is_oracle):
        return evaluation.with_oracle(), True
    return evaluation, False


_CAUSES = {
    "finite": "not finite",
    "black": "all black",
    "constant": "nearly one colour",
    "clipped": "burnt out",
    "vivid": "over-saturated",
    "washed": "washed out",
    "structure": "light and dark elsewhere",
    "edge_64": "coarse structure lost",
    "edge_128": "fine structure lost",
    "blur": "blurred",
    "frequency": "mesh or noise",
    "mesh": "a regular mesh",
    "noise": "colour noise",
    "blocking": "blocks of 8 px",
    "ghosting": "a second copy",
    "content": "content lost",
    "unchanged": "untouched copy",
    "damage": "looks damaged",
    "distance": "far from what the style would give",
    "estimated_distance": "far from what the painter would have made",
    "style": "no style gained",
}


_LEDGER = "teacher/ledger.sqlite"


def _count_tries(found: RunDirectory) -> teaching.TryCounts | None:
    ledger = found.directory / _LEDGER
    if not ledger.is_file():  # a run without a teacher has none, which is no problem to report
        return None
    return found.attempt(_LEDGER, lambda: teaching.count_tries(ledger))


def _targets(found: RunDirectory) -> list[SheetLine]:
    """Lines of the teacher's sheet."""
    chosen = found.attempt(_LEDGER, lambda: teaching.examples(found.directory / _LEDGER, NUM_TARGETS))
    return sheets.of_targets(found, chosen or {})


def _recipe_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _funnel(tries: teaching.TryCounts | None) -> list[tuple[str, int, int]]:
    """(words, count, of): the tries on their way, each bar relative to the first."""
    if tries is None:
        return []
    first = max(tries.tries, tries.targets, 1)
    return [
        ("tries begun", tries.tries, first),
        ("pictures made", tries.made, first),
        ("tries passed (A or B)", tries.passed, first),
    ]


def _absent(found: RunDirectory, table: EvaluationTable | None) -> list[str]:
    """Everything that a reader could expect and that has no number, and why."""
    lines = []
    for stage in found.stages:
        if stage.state != "done":
            why = f" ({stage.error})" if stage.error else ""
            lines.append(f"stage {stage.name}: {stage.state}{why}")
    if table is not None:
        lines += table.absent
        lines += missing_outputs(table.summary)
        lines += absent_examples(table.summary)
        lines += not_compared(table.summary)
        lines += broken_pairs(table.summary.broken)
    lines += [f"can't be read: {problem}" for problem in dict.fromkeys(found.problems)]
    return lines
