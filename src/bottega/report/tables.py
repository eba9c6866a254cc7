"""A page's tables beside it, for papers and spreadsheets: Markdown, LaTeX (booktabs) and CSV.

tables/evaluation.md    value [interval], a row a method
tables/evaluation.tex   the same, for \\usepackage{booktabs}
tables/evaluation.csv   a line a value, with all digits
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bottega.runtime.escape import csv_cell, escaped
from bottega.runtime.files import write_text

FOLDER = "tables"


@dataclass(frozen=True)
class TableFile:
    """A table as text.

    Args:
        name: of its files.
        caption: one sentence.
        head: titles of the columns.
        rows: cells as people read them, as many as titles.
        fields: names of the columns of the CSV file, where a line is a value.
        values: those lines; numbers have all their digits, and what is not known is None.
    """

    name: str
    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    fields: Sequence[str] = ()
    values: Sequence[Sequence[str | float | int | None]] = field(default_factory=list)


def write_tables(folder: Path, tables: Sequence[TableFile]) -> list[Path]:
    """Write every table in each form; returns the files."""
    written: list[Path] = []
    for table in tables:
        forms = {".md": as_markdown(table), ".tex": as_latex(table), ".csv": as_csv(table)}
        for suffix, text in forms.items():
            path = folder / FOLDER / f"{table.name}{suffix}"
            write_text(path, text)
            written.append(path)
    return written


def as_markdown(table: TableFile) -> str:
    """The table in Markdown; what would end a cell or begin markup is escaped."""
    lines = [_markdown_row(table.head), "|---" * len(table.head) + "|"]
    lines += [_markdown_row(row) for row in table.rows]
    return f"{_markdown_text(table.caption)}\n\n" + "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_markdown_text, cells))} |"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\|`*_<>])", r"\\\1", escaped(text))


def as_latex(table: TableFile) -> str:
    """The table for LaTeX with booktabs: the first column to the left, the others to the right."""
    columns = "l" + "r" * (len(table.head) - 1)
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{{latex_text(table.caption)}}}",
        f"  \\begin{{tabular}}{{{columns}}}",
        "    \\toprule",
        f"    {_latex_row(table.head)}",
        "    \\midrule",
        *(f"    {_latex_row(row)}" for row in table.rows),
        "    \\bottomrule",
        "  \\end{tabular}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "−": "$-$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "…": r"\dots{}",
    "—": "--",
    "⁻": r"\textsuperscript{$-$}",
    "³": r"\textsuperscript{3}",
    "[": "{[}",  # after a line break, a bracket would be taken for its argument
}


def latex_text(text: str) -> str:
    """A text as LaTeX shows it, whatever its characters mean there."""
    return "".join(_LATEX.get(character, character) for character in escaped(text))


def as_csv(table: TableFile) -> str:
    """A line a value; what a spreadsheet would take for a formula is escaped."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.fields)
    for row in table.values:
        writer.writerow([csv_cell(cell) if isinstance(cell, str) else cell for cell in row])
    return stream.getvalue()
