"""Tables beside a page: the same numbers in Markdown, LaTeX and CSV, and nothing of the data is markup in them."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bottega.report.page import run
from bottega.report.tables import TableFile, as_csv, as_latex, as_markdown, latex_text

from .conftest import Believable, load

NASTY = "50 % & $x_1$ #2 {a}~b^c\\d [0, 1] | *bold* <b>"


@pytest.fixture(scope="module")
def complete(believable: Believable) -> Path:
    directory = believable()
    run(directory)
    return directory


def test_every_number_of_the_summary_is_in_the_csv_with_all_its_digits(complete: Path) -> None:
    summary = load(complete / "evaluation/summary.json")
    with open(complete / "tables/evaluation.csv", encoding="utf-8", newline="") as file:
        lines = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    assert len(lines) == len(summary["rows"]) * len(summary["metrics"])
    for row, method in summary["rows"].items():
        for metric, cell in method["metrics"].items():
            line = lines[row, metric]
            if cell["status"] == "measured":
                assert (float(line["value"]), float(line["low"])) == (cell["value"], cell["low"])
                assert int(line["n"]) == cell["n"]
            else:
                assert line["value"] == "" and line["status"] == cell["status"], "what is missing is not 0"


def test_differences_and_style_labels_have_files_of_their_own(complete: Path) -> None:
    summary = load(complete / "evaluation/summary.json")
    text = (complete / "tables/differences.csv").read_text(encoding="utf-8")
    gap = summary["differences"]["content"]["palette"]
    assert f"student minus content,palette,ΔE,lower,{gap['value']},{gap['low']},{gap['high']}" in text
    styles = (complete / "tables/styles.csv").read_text(encoding="utf-8")
    for label, means in summary["per_label"].items():
        assert f"{label},palette,{means['palette']}" in styles
    assert {path.suffix for path in (complete / "tables").iterdir()} == {".md", ".tex", ".csv"}


def test_latex_has_the_shape_of_booktabs_and_no_open_character(complete: Path) -> None:
    text = (complete / "tables/evaluation.tex").read_text(encoding="utf-8")
    for command in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}", r"\end{tabular}"):
        assert text.count(command) == 1
    columns = re.search(r"\\begin\{tabular\}\{(l(r+))\}", text)
    assert columns is not None
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert rows and all(len(re.findall(r"(?<!\\)&", row)) == len(columns[2]) for row in rows)
    assert text.isascii() or not re.search(r"[↑↓×−Δ]", text), "pdflatex knows none of these"


def test_text_of_the_data_is_text_in_every_form() -> None:
    table = TableFile("x", NASTY, [NASTY, "n"], [[NASTY, "1"]], ("a", "b"), [[NASTY, 1.25], ["=HYPERLINK(1)", None]])
    markdown = as_markdown(table)
    assert len(re.findall(r"(?<!\\)\|", markdown.splitlines()[2])) == 3 and "<b>" not in markdown
    read = list(csv.reader(io.StringIO(as_csv(table))))
    assert read[1] == [NASTY, "1.25"] and read[2] == ["'=HYPERLINK(1)", ""]
    assert latex_text(NASTY) == (
        r"50 \% \& \$x\_1\$ \#2 \{a\}\textasciitilde{}b\textasciicircum{}c\textbackslash{}d {[}0, 1] | *bold* <b>"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_compiles(tmp_path: Path, complete: Path) -> None:
    table = as_latex(TableFile("x", NASTY, [NASTY, "n ↑"], [[NASTY, "−1 × 10⁻³ ΔE …"]]))
    both = table + (complete / "tables/evaluation.tex").read_text(encoding="utf-8")
    document = f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}{both}\\end{{document}}"
    (tmp_path / "x.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
