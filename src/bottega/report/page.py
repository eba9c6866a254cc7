"""The page of a run: read what the directory holds, judge it, lay it out. Read `run` from top to bottom.

Everything is inside the one file: style sheet, curves as SVG, thumbnails as data URIs. It may be made at any moment of
a run; what is not there yet is shown as pending.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bottega.report import learning, sheets, tables, teaching
from bottega.report.reading import Run
from bottega.report.sheets import COLUMNS, Example, Thumbnails
from bottega.report.verdict import judge
from bottega.runtime.errors import MissingError
from bottega.runtime.files import write_text
from bottega.visual.page import render

NAME = "report.html"
SHEET = "contact_sheet.png"
_TARGETS = 4  # examples of the teacher's targets in each of best, median, worst


def run(run_directory: Path) -> Path:
    """Write `report.html`, and `contact_sheet.png` where there are pictures, into a run directory; returns the page.

    Raises:
        MissingError: there is no such directory.
        StorageError: it can't be written.
    """
    directory = Path(run_directory)
    if not directory.is_dir():
        raise MissingError(f"no run directory at {directory}; a run makes one: bottega run recipes/miniature.yaml")
    found = Run(directory)
    oracle = _oracle(found)
    ledger = directory / "teacher" / "ledger.sqlite"
    tries = found.attempt("teacher/ledger.sqlite", lambda: teaching.survival(ledger)) if ledger.is_file() else None
    training = found.attempt("training/metrics.jsonl", lambda: learning.read(found.jsonl("training/metrics.jsonl")))
    evaluation = found.json("evaluation/summary.json")
    table = (
        found.attempt("evaluation/summary.json", lambda: tables.evaluation(evaluation, oracle=oracle))
        if evaluation
        else None
    )
    calibration = found.attempt(
        "quality/calibration.json", lambda: tables.calibration(found.json("quality/calibration.json"))
    )
    verdict = judge(found, tries, training, evaluation if table else None, oracle=oracle)

    taught, evaluated = _examples(found, ledger if tries else None, evaluation if table else None)
    titles = sheets.headings(oracle=oracle)
    sheets.write_sheet(evaluated or taught, directory / SHEET, heads=titles)
    thumbs = Thumbnails.of(cell.path for example in (*evaluated, *taught) for cell in example.cells)

    recipe = directory / "recipe.yaml"
    page = render(
        Path(__file__).with_name("report.html"),
        run=found,
        verdict=verdict,
        oracle=oracle,
        table=table,
        learning=training,
        samples=found.attempt("training/samples", lambda: sheets.of_training(directory / "training" / "samples")) or [],
        tries=tries,
        funnel=_funnel(tries),
        causes=_CAUSES,
        judge=calibration,
        costs=tables.costs(found),
        provenance=tables.provenance(found),
        recipe_text=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else "",
        absent=_absent(found, table, evaluation),
        taught=taught,
        taught_columns=_columns(taught),
        evaluated=evaluated,
        evaluated_columns=_columns(evaluated),
        order=_order(evaluation),
        titles=titles,
        thumbs=thumbs.uris,
        side=thumbs.side,
        duration=tables.duration,
    )
    write_text(directory / NAME, page)
    return directory / NAME


_CAUSES = {
    "finite": "not finite",
    "black": "all black",
    "constant": "nearly one colour",
    "clipped": "burnt out",
    "vivid": "over-saturated",
    "edge_64": "coarse structure lost",
    "edge_128": "fine structure lost",
    "blur": "blurred",
    "frequency": "mesh or noise",
    "content": "content lost",
    "unchanged": "untouched copy",
    "style": "no style gained",
}


def _examples(
    found: Run, ledger: Path | None, evaluation: dict[str, Any] | None
) -> tuple[list[Example], list[Example]]:
    """Lines of the teacher's sheet and of the evaluation's; empty where a stage has no picture."""
    taught: list[Example] = []
    evaluated: list[Example] = []
    if ledger is not None:
        chosen = found.attempt("teacher/ledger.sqlite", lambda: teaching.examples(ledger, _TARGETS)) or {}
        taught = sheets.of_targets(found, chosen)
    if evaluation is not None:
        evaluated = found.attempt("evaluation examples", lambda: sheets.of_evaluation(found, evaluation)) or []
    return taught, evaluated


def _oracle(found: Run) -> bool:
    """Whether the teacher was the oracle, which returns drawn truths: its numbers are then a ceiling."""
    teacher = found.recipe.get("teacher")
    return isinstance(teacher, Mapping) and teacher.get("source") == "oracle"


def _funnel(tries: teaching.Survival | None) -> list[tuple[str, int, int]]:
    """(words, count, of): the tries on their way, each bar relative to the first."""
    if tries is None:
        return []
    first = max(tries.tries, tries.targets, 1)
    return [
        ("tries begun", tries.tries, first),
        ("pictures made", tries.made, first),
        ("tries passed (A or B)", tries.passed, first),
    ]


def _absent(found: Run, table: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> list[str]:
    """Everything that a reader could expect and that has no number, and why."""
    lines = [
        f"stage {stage.name}: {stage.state}" + (f" ({stage.error})" if stage.error else "")
        for stage in found.stages
        if stage.state != "done"
    ]
    lines += table["absent"] if table else []
    broken = (evaluation or {}).get("broken")
    if isinstance(broken, dict):
        lines += [f"pair {pair}: left out of every row, {reason}" for pair, reason in list(broken.items())[:20]]
        lines += (
            [f"{len(broken) - 20} more pairs were left out (evaluation/summary.json names them)"]
            if len(broken) > 20
            else []
        )
    return lines + [f"can't be read: {problem}" for problem in dict.fromkeys(found.problems)]


def _order(evaluation: dict[str, Any] | None) -> str:
    """What the evaluation's examples are ordered by, in words."""
    by = str(((evaluation or {}).get("examples") or {}).get("by", ""))
    return {"truth": "distance to the drawn truth"}.get(by, by or "score")


def _columns(examples: Sequence[Example]) -> list[str]:
    return [name for name in COLUMNS if any(cell.column == name for example in examples for cell in example.cells)]
