"""`bottega qc`: limits, grades and contact sheets of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Judge pictures: limits, grades, contact sheets.", no_args_is_help=True, add_completion=False)


@app.command()
def calibrate(
    pairs: Annotated[list[Path], typer.Option(help="pair list (JSON lines); give it again for a second list")],
    data_root: Annotated[Path, typer.Option(help="folder of contents and styles, with drawn truths in truth/")],
    output_dir: Annotated[Path, typer.Option(help="folder of thresholds.json and calibration.json")],
    recipe: Annotated[Path | None, typer.Option(help="recipe whose sections quality and models hold")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as quality.sample=200")] = None,
) -> None:
    """Set the limits on drawn truths, and say which share of every known kind passes each check."""
    from bottega.cli.train import read_section
    from bottega.models.config import ModelsConfig
    from bottega.quality.config import QualityConfig
    from bottega.quality.stage import run, table

    config = read_section(QualityConfig, "quality", recipe, set_ or [])
    models = read_section(ModelsConfig, "models", recipe, set_ or [])
    summary = run(config, output_dir, pairs=pairs, data_root=data_root, models=models)
    typer.echo(table(output_dir))
    typer.echo(f"{output_dir / 'thresholds.json'}: {summary['source']}, from {summary['truths']} drawn truths")
    for words in summary["warnings"]:
        typer.echo(f"warning: {words}")


@app.command()
def grade(
    teacher_dir: Annotated[Path, typer.Option(help="folder with ledger.sqlite")],
    thresholds: Annotated[Path, typer.Option(help="the limits to grade by, as `calibrate` writes them")],
    write: Annotated[
        bool, typer.Option("--write", help="enter the grades; the run then goes on by these limits")
    ] = False,
) -> None:
    """Grade a finished run again from its raw scores: reads no picture, needs no GPU."""
    from bottega.quality.stage import load_thresholds
    from bottega.runtime.locks import lock
    from bottega.teacher.export import write_lists
    from bottega.teacher.ledger import Ledger
    from bottega.teacher.regrade import regrade
    from bottega.teacher.stage import LEDGER

    limits = load_thresholds(thresholds)
    with lock(teacher_dir / ".lock", "bottega qc grade"), Ledger(teacher_dir / LEDGER, must_exist=True) as ledger:
        told = regrade(ledger, limits, write=write)
        if write:
            write_lists(ledger, teacher_dir)
    changes = ", ".join(f"{kind} {count}" for kind, count in told["changes"].items()) or "none"
    typer.echo(f"{told['tries']} tries; grades that change: {changes}; targets {told['before']} -> {told['after']}")
    typer.echo(
        f"another try is now the best for {told['another_try_wins']} targets; "
        f"{'entered' if write else 'nothing written'}"
    )


@app.command()
def sheet(
    teacher_dir: Annotated[Path, typer.Option(help="folder with ledger.sqlite and images/")],
    data_root: Annotated[Path, typer.Option(help="folder of contents and styles")],
    output: Annotated[Path, typer.Option(help="the PNG to write")],
    letter: Annotated[str | None, typer.Option("--grade", help="only this grade: A, B or C")] = None,
    reason: Annotated[
        str | None, typer.Option(help="only targets with this check among their reasons: edge_64, …")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=240, help="how many targets")] = 24,
) -> None:
    """Draw content | style | target with the grade under each."""
    from bottega.teacher.ledger import Ledger
    from bottega.teacher.stage import LEDGER, draw_sheet

    with Ledger(teacher_dir / LEDGER, must_exist=True) as ledger:
        drawn = draw_sheet(ledger, teacher_dir, data_root, output, letter=letter, reason=reason, count=count)
    typer.echo(f"{output}: {drawn} targets")
