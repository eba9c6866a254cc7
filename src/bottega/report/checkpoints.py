"""The comparison of checkpoints as a table that a template only has to lay out."""

from __future__ import annotations

from dataclasses import dataclass

from bottega.evaluation.checkpoint_records import CheckpointCell, CheckpointRow, CheckpointsRecord
from bottega.report.evaluation_table import TableCell
from bottega.report.format import UNKNOWN, between, figure
from bottega.report.tables import TableFile
from bottega.visual.curves import Interval, draw_intervals

_ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class CheckpointLine:
    """A checkpoint's row. best: it is the best by the metric that decides. behind: the best minus it."""

    title: str
    file: str
    sha256: str
    val_loss: str
    cells: list[TableCell]
    best: bool
    behind: TableCell


@dataclass(frozen=True)
class CheckpointTable:
    """What the page shows. head: (title with arrow, unit, meaning). plot: `<svg>` of the metric that decides."""

    record: CheckpointsRecord
    head: list[tuple[str, str, str]]
    by: str
    rows: list[CheckpointLine]
    plot: str


def lay_out(record: CheckpointsRecord | None) -> CheckpointTable | None:
    """Everything that the page shows of a comparison; None where there is none."""
    if record is None:
        return None
    head: list[tuple[str, str, str]] = []
    for metric in record["metrics"].values():
        arrow = _ARROWS.get(metric["better"], "")
        head.append((f"{metric['title']} {arrow}".strip(), metric["unit"], metric["meaning"]))
    decides = record["metrics"][record["by"]]
    rows = [_line(row, record) for row in record["rows"]]
    title = f"{decides['title']} of every checkpoint with its interval"
    unit = f"{decides['unit']}   {_ARROWS.get(decides['better'], '')} {decides['better']} is better"
    return CheckpointTable(record, head, decides["title"], rows, draw_intervals(_intervals(record), title, unit))


def _line(row: CheckpointRow, record: CheckpointsRecord) -> CheckpointLine:
    by = record["by"]
    best = row["step"] == record["best"][by]["step"]
    behind = row["behind"].get(by)
    return CheckpointLine(
        title=_title(row),
        file=row["file"],
        sha256=row["sha256"],
        val_loss=UNKNOWN if row["val_loss"] is None else f"{row['val_loss']:.4g}",
        cells=[_cell(row["metrics"].get(name)) for name in record["metrics"]],
        best=best,
        behind=TableCell("the best") if best else _cell(behind),
    )


def _title(row: CheckpointRow) -> str:
    return f"step {row['step']:,}" if row["step"] else "frozen base"


def _cell(cell: CheckpointCell | None) -> TableCell:
    if cell is None:
        return TableCell(UNKNOWN)
    why = cell["no_interval"]
    title = f"n = {cell['n']}: {cell['contents']} contents × {cell['styles']} styles" + (f"; {why}" if why else "")
    return TableCell(figure(cell["value"]), between(cell["low"], cell["high"]) or "no interval", title=title)


def _intervals(record: CheckpointsRecord) -> list[Interval]:
    by = record["by"]
    found: list[Interval] = []
    for row in record["rows"]:
        cell = row["metrics"][by]
        is_best = row["step"] == record["best"][by]["step"]
        found.append(Interval(_title(row), cell["value"], cell["low"], cell["high"], is_best))
    return found


def table_file(table: CheckpointTable) -> TableFile:
    """The table for papers and spreadsheets."""
    record = table.record
    rows: list[list[str]] = []
    for line in table.rows:
        cells = [f"{cell.value} {cell.range}".strip() for cell in (*line.cells, line.behind)]
        rows.append([line.title, *cells, line.val_loss])
    values: list[list[str | float | int | None]] = []
    for row in record["rows"]:
        for kind, cells_of in (("value", row["metrics"]), ("the best minus it", row["behind"])):
            for name, cell in cells_of.items():
                numbers = [cell["value"], cell["low"], cell["high"], cell["n"], cell["contents"], cell["styles"]]
                values.append([row["step"], kind, name, *numbers, row["sha256"]])
    return TableFile(
        "checkpoints",
        f"Checkpoints on {record['pairs']} pairs of the split {record['split']}. {' '.join(record['sentences'])}",
        [
            "checkpoint",
            *(f"{title} ({unit})" for title, unit, _ in table.head),
            f"behind, {table.by}",
            "validation loss",
        ],
        rows,
        ("step", "kind", "metric", "value", "low", "high", "n", "contents", "styles", "adapter_sha256"),
        values,
    )
